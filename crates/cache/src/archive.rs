//! Features of whole runs, kept for other runs: what inversion captures and injection reads.
//!
//! The step cache forgets a value when its last reader has passed; an archive keeps what it is given until it is
//! dropped. Its keys are (step, site), the endpoint being the site's branch, and it accounts for every byte: the need
//! of a run follows from [`Storage::bytes`] before anything is computed.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use candle_core::{DType, Device, Tensor};

use crate::store::own;
use crate::{CacheError, Site};

/// Values that share one scale in [`Storage::Int8`].
const SCALED_TOGETHER: usize = 64;

/// How an archive keeps its features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Storage {
    /// Exactly, in memory.
    #[default]
    F32,
    /// Rounded to bf16, in memory: half.
    Bf16,
    /// 8 bits with one scale for each 64 values in memory order, symmetric: about a quarter.
    Int8,
    /// Exactly, in a file without a name that is gone with the archive.
    File,
}

impl Storage {
    /// Bytes of memory that a feature of `values` values takes; none when it lies in the file.
    pub fn bytes(self, values: usize) -> usize {
        match self {
            Self::F32 => 4 * values,
            Self::Bf16 => 2 * values,
            Self::Int8 => values + 4 * values.div_ceil(SCALED_TOGETHER),
            Self::File => 0,
        }
    }
}

enum Entry {
    Tensor(Tensor),
    Int8 { values: Vec<i8>, scales: Vec<f32>, shape: Vec<usize> },
    Filed { offset: u64, values: usize, shape: Vec<usize> },
}

impl Entry {
    fn bytes(&self) -> usize {
        match self {
            Self::Tensor(tensor) => tensor.elem_count() * tensor.dtype().size_in_bytes(),
            Self::Int8 { values, scales, .. } => values.len() + 4 * scales.len(),
            Self::Filed { .. } => 0,
        }
    }
}

/// Features by (step, site).
pub struct Archive {
    storage: Storage,
    entries: HashMap<(usize, Site), Entry>,
    bytes: usize,
    file: Option<File>,
    end: u64,
}

impl Archive {
    /// An empty archive. A file is made at once, so that its lack is known before any work.
    ///
    /// # Errors
    /// [`CacheError::Io`] when the folder for temporary files cannot be written.
    pub fn new(storage: Storage) -> Result<Self, CacheError> {
        let file = (storage == Storage::File).then(tempfile::tempfile).transpose().map_err(io)?;
        Ok(Self { storage, entries: HashMap::new(), bytes: 0, file, end: 0 })
    }

    /// Keeps a feature; one that was kept under the same key before is replaced.
    ///
    /// # Errors
    /// [`CacheError::Io`] when the file cannot be written, for example for want of space.
    pub fn put(&mut self, step: usize, site: Site, value: &Tensor) -> Result<(), CacheError> {
        let entry = match self.storage {
            Storage::F32 => Entry::Tensor(own(&value.to_dtype(DType::F32)?)?),
            Storage::Bf16 => Entry::Tensor(own(&value.to_dtype(DType::BF16)?)?),
            Storage::Int8 => quantised(value)?,
            Storage::File => self.filed(step, site, value)?,
        };
        self.bytes += entry.bytes();
        if let Some(before) = self.entries.insert((step, site), entry) {
            self.bytes -= before.bytes();
        }
        Ok(())
    }

    /// The feature of a step and a site as f32, if it was kept.
    ///
    /// # Errors
    /// [`CacheError::Io`] when the file cannot be read.
    pub fn get(&mut self, step: usize, site: Site) -> Result<Option<Tensor>, CacheError> {
        let Some(entry) = self.entries.get(&(step, site)) else { return Ok(None) };
        Ok(Some(match entry {
            Entry::Tensor(tensor) => tensor.to_dtype(DType::F32)?,
            Entry::Int8 { values, scales, shape } => {
                let scaled = values.chunks(SCALED_TOGETHER).zip(scales);
                let values = scaled.flat_map(|(part, scale)| part.iter().map(move |&value| f32::from(value) * scale));
                Tensor::from_vec(values.collect::<Vec<f32>>(), shape.as_slice(), &Device::Cpu)?
            }
            Entry::Filed { offset, values, shape } => {
                let mut bytes = vec![0; 4 * values];
                let file = self.file.as_mut().ok_or_else(|| io(std::io::ErrorKind::NotFound.into()))?;
                file.seek(SeekFrom::Start(*offset)).map_err(io)?;
                file.read_exact(&mut bytes).map_err(io)?;
                let (parts, _) = bytes.as_chunks::<4>();
                let values: Vec<f32> = parts.iter().map(|&part| f32::from_le_bytes(part)).collect();
                Tensor::from_vec(values, shape.as_slice(), &Device::Cpu)?
            }
        }))
    }

    /// Bytes of memory held now.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes written to the file.
    pub fn file_bytes(&self) -> u64 {
        self.end
    }

    /// Number of features kept.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.entries.clear();
        (self.bytes, self.end) = (0, 0);
    }

    /// Writes a feature where the one that it replaces lies, or at the end.
    fn filed(&mut self, step: usize, site: Site, value: &Tensor) -> Result<Entry, CacheError> {
        let numbers = value.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let offset = match self.entries.get(&(step, site)) {
            Some(Entry::Filed { offset, values, .. }) if *values == numbers.len() => *offset,
            _ => self.end,
        };
        let file = self.file.as_mut().ok_or_else(|| io(std::io::ErrorKind::NotFound.into()))?;
        file.seek(SeekFrom::Start(offset)).map_err(io)?;
        file.write_all(&bytes).map_err(io)?;
        self.end = self.end.max(offset + bytes.len() as u64);
        Ok(Entry::Filed { offset, values: numbers.len(), shape: value.dims().to_vec() })
    }
}

fn quantised(value: &Tensor) -> Result<Entry, CacheError> {
    let numbers = value.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    let mut values = Vec::with_capacity(numbers.len());
    let mut scales = Vec::with_capacity(numbers.len().div_ceil(SCALED_TOGETHER));
    for part in numbers.chunks(SCALED_TOGETHER) {
        let largest = part.iter().fold(0f32, |largest, number| largest.max(number.abs()));
        let scale = largest / 127.0;
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        values.extend(part.iter().map(|number| (number * inverse).round_ties_even() as i8));
        scales.push(scale);
    }
    Ok(Entry::Int8 { values, scales, shape: value.dims().to_vec() })
}

fn io(source: std::io::Error) -> CacheError {
    CacheError::Io { path: std::env::temp_dir(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Branch;

    #[test]
    fn every_storage_gives_back_what_it_promises_in_the_bytes_it_promises() {
        let value = Tensor::randn(0f32, 2.0, (1, 7, 33), &Device::Cpu).unwrap();
        let site = Site::attention(3).with_branch(Branch::endpoint(1));
        for (storage, tolerance) in
            [(Storage::F32, 0.0), (Storage::Bf16, 0.004), (Storage::Int8, 0.01), (Storage::File, 0.0)]
        {
            let mut archive = Archive::new(storage).unwrap();
            for _ in 0..2 {
                archive.put(4, site, &value).unwrap();
                archive.put(5, site, &value).unwrap();
            }
            assert_eq!((archive.len(), archive.bytes()), (2, 2 * storage.bytes(7 * 33)), "{storage:?}");
            assert_eq!(archive.file_bytes(), if storage == Storage::File { 2 * 4 * 7 * 33 } else { 0 });
            let found = archive.get(5, site).unwrap().unwrap();
            assert!(refrain_ops::relative_l2(&value, &found).unwrap() <= tolerance, "{storage:?}");
            assert!(archive.get(5, Site::attention(3)).unwrap().is_none(), "another branch");
        }
    }
}
