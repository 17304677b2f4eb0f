//! APNG out: lossless, repeated for ever. Each frame is compressed by the `png` crate; this file writes the chunks around
//! it (PNG specification, third edition, 11.3.6), as the number of frames is known only in the end.

use super::output::Output;
use super::{FrameRate, FrameSink, check_size};
use crate::{Format, MediaError, Metadata, Picture, encode_picture};
use std::io::{self, Write};
use std::path::Path;

const SIGNATURE: [u8; 8] = [0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a];

/// Writes an animated PNG. Until finished, its count of frames is 0, so it needs a file and not a pipe.
pub(super) struct ApngSink {
    output: Output,
    rate: FrameRate,
    size: Option<(u32, u32)>,
    /// Numbers the `fcTL` and `fdAT` chunks together.
    sequence: u32,
    /// Where the `acTL` chunk begins.
    control_at: u64,
    number: u64,
}

impl ApngSink {
    pub(super) fn create(path: &Path, rate: FrameRate) -> Result<Self, MediaError> {
        let output = Output::create(path)?;
        Ok(Self { output, rate, size: None, sequence: 0, control_at: 0, number: 0 })
    }

    fn append(&mut self, chunks: &[Chunk]) -> io::Result<()> {
        if self.number == 1 {
            self.output.write_all(&SIGNATURE)?;
            for header in chunks.iter().filter(|chunk| &chunk.kind == b"IHDR") {
                write_chunk(&mut self.output, *b"IHDR", &header.data)?;
                self.control_at = (SIGNATURE.len() + 12 + header.data.len()) as u64;
            }
            write_chunk(&mut self.output, *b"acTL", &[0; 8])?;
        }
        let control = self.frame_control();
        write_chunk(&mut self.output, *b"fcTL", &control)?;
        for data in chunks.iter().filter(|chunk| &chunk.kind == b"IDAT") {
            if self.number == 1 {
                write_chunk(&mut self.output, *b"IDAT", &data.data)?;
                continue;
            }
            let mut numbered = self.next_sequence().to_be_bytes().to_vec();
            numbered.extend(&data.data);
            write_chunk(&mut self.output, *b"fdAT", &numbered)?;
        }
        Ok(())
    }

    /// The whole frame, replacing the one before, for the time that keeps the average rate.
    fn frame_control(&mut self) -> Vec<u8> {
        let (width, height) = self.size.unwrap_or_default();
        let index = self.number - 1;
        let milliseconds = self.rate.ticks(index + 1, 1000) - self.rate.ticks(index, 1000);
        let mut data = Vec::with_capacity(26);
        data.extend(self.next_sequence().to_be_bytes());
        data.extend(width.to_be_bytes());
        data.extend(height.to_be_bytes());
        data.extend([0; 8]);
        data.extend(u16::try_from(milliseconds).unwrap_or(u16::MAX).to_be_bytes());
        data.extend(1000u16.to_be_bytes());
        data.extend([0, 0]);
        data
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence += 1;
        self.sequence - 1
    }
}

impl FrameSink for ApngSink {
    fn write_frame(&mut self, frame: &Picture) -> Result<(), MediaError> {
        self.number += 1;
        let size = (frame.width(), frame.height());
        check_size(&self.output.name(), self.number, *self.size.get_or_insert(size), size)?;
        let bytes = encode_picture(frame, Format::Png, &Metadata::new())?;
        self.append(&chunks(&bytes)).map_err(|source| self.output.error(source))
    }

    fn finish(mut self: Box<Self>) -> Result<(), MediaError> {
        if self.number == 0 {
            return Err(MediaError::sequence(&self.output.name(), None, super::NO_FRAMES));
        }
        let mut control = Vec::new();
        let frames = u32::try_from(self.number).unwrap_or(u32::MAX);
        let data = [frames.to_be_bytes(), [0; 4]].concat();
        let written = write_chunk(&mut self.output, *b"IEND", &[])
            .and_then(|()| write_chunk(&mut control, *b"acTL", &data))
            .and_then(|()| self.output.overwrite(self.control_at, &control));
        written.map_err(|source| self.output.error(source))?;
        self.output.finish()
    }
}

struct Chunk {
    kind: [u8; 4],
    data: Vec<u8>,
}

/// The chunks of a PNG of our own making.
fn chunks(png: &[u8]) -> Vec<Chunk> {
    let mut rest = png.get(SIGNATURE.len()..).unwrap_or_default();
    let mut found = Vec::new();
    while let Some((head, tail)) = rest.split_first_chunk::<8>() {
        let [a, b, c, d, kind @ ..] = *head;
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        let Some(data) = tail.get(..length) else { break };
        found.push(Chunk { kind, data: data.to_vec() });
        rest = tail.get(length + 4..).unwrap_or_default();
    }
    found
}

fn write_chunk(output: &mut impl Write, kind: [u8; 4], data: &[u8]) -> io::Result<()> {
    let length = u32::try_from(data.len()).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    output.write_all(&length.to_be_bytes())?;
    output.write_all(&kind)?;
    output.write_all(data)?;
    output.write_all(&checksum(kind.iter().chain(data)).to_be_bytes())
}

/// CRC-32 of ISO 3309, as PNG asks for, a bit at a time: `png` keeps its own to itself.
fn checksum<'a>(bytes: impl Iterator<Item = &'a u8>) -> u32 {
    let shift = |crc: u32| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.fold(u32::MAX, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), |crc, _| shift(crc)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_specification() {
        // Every PNG ends with these four bytes.
        assert_eq!(checksum(b"IEND".iter()), 0xae42_6082);
    }
}
