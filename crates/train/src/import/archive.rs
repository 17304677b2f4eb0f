//! A `torch.save` archive: a zip file of `NAME/data.pkl` and the values in `NAME/data/KEY`, all stored as they are.
//!
//! Only small archives are read, only entries of the size that a tensor says, and only stored ones: neither a bomb nor a
//! tensor of 10¹² values costs memory.

use std::fs::File;
use std::io::{BufReader, Read as _};
use std::path::Path;

use zip::{CompressionMethod, ZipArchive};

use super::pickle::{Id, Node, Pickle};

/// Largest archive; the largest published router has 59 KB, with its optimiser's state.
const LARGEST_FILE: u64 = 64 << 20;
/// Largest pickle in it.
const LARGEST_PICKLE: u64 = 8 << 20;
/// Most values of a tensor.
const MOST_VALUES: usize = 1 << 16;

/// An open archive.
pub(super) struct Archive {
    zip: ZipArchive<BufReader<File>>,
    /// What stands before `/data.pkl`.
    folder: String,
    pub(super) pickle: Pickle,
}

impl Archive {
    /// Opens an archive and reads its pickle.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let file = File::open(path).map_err(|error| error.to_string())?;
        let size = file.metadata().map_err(|error| error.to_string())?.len();
        if size > LARGEST_FILE {
            return Err(format!("{size} bytes are too many for a router, at most {LARGEST_FILE} are read"));
        }
        let mut zip = ZipArchive::new(BufReader::new(file)).map_err(|error| format!("no zip archive: {error}"))?;
        let names: Vec<String> = (0..zip.len())
            .filter_map(|index| {
                zip.by_index_raw(index).ok().map(|entry| String::from_utf8_lossy(entry.name_raw()).into_owned())
            })
            .collect();
        let name = names.iter().find(|name| name.ends_with("/data.pkl") || *name == "data.pkl");
        let name = name.ok_or("it holds no data.pkl")?;
        let bytes = entry(&mut zip, name, LARGEST_PICKLE)?;
        let folder = name.trim_end_matches("data.pkl").to_owned();
        Ok(Self { zip, folder, pickle: Pickle::read(&bytes)? })
    }

    /// The values of a tensor of one dimension.
    ///
    /// # Errors
    /// If the node is no such tensor, or its data are not there.
    pub(super) fn vector(&mut self, id: Id) -> Result<Vec<f32>, String> {
        let Stored { key, kind, offset, count } = self.stored(id)?;
        let width = kind.width();
        let wanted = (offset + count) * width;
        let bytes = entry(&mut self.zip, &format!("{}data/{key}", self.folder), (MOST_VALUES * 2 * width) as u64)?;
        let bytes = bytes
            .get(offset * width..wanted)
            .ok_or_else(|| format!("storage {key} has {} bytes, the tensor needs {wanted}", bytes.len()))?;
        Ok(bytes.chunks_exact(width).map(|value| kind.value(value)).collect())
    }

    fn stored(&self, id: Id) -> Result<Stored, String> {
        let pickle = &self.pickle;
        // A parameter wraps a tensor.
        let id = pickle
            .call(id, "torch._utils._rebuild_parameter")
            .and_then(|arguments| arguments.first().copied())
            .unwrap_or(id);
        let arguments = pickle.call(id, "torch._utils._rebuild_tensor_v2").ok_or("it is no tensor")?;
        let &[storage, offset, size, stride, ..] = arguments else {
            return Err("its tensor has too few arguments".into());
        };
        let (count, stride) = (self.single(size)?, self.single(stride)?);
        if count > MOST_VALUES || (stride != 1 && count > 1) {
            return Err(format!("a vector of {count} values, {stride} apart, is none that a router has"));
        }
        let offset =
            self.integer(offset).filter(|&offset| offset <= MOST_VALUES).ok_or("its offset is out of range")?;
        let Node::Persistent(reference) = pickle.node(storage) else { return Err("its storage is missing".into()) };
        let Node::Tuple(reference) = pickle.node(*reference) else { return Err("its storage is no reference".into()) };
        let &[_, class, key, ..] = reference.as_slice() else {
            return Err("its storage's reference is too short".into());
        };
        let (Node::Global(class), Node::Text(key)) = (pickle.node(class), pickle.node(key)) else {
            return Err("its storage's reference is no class and key".into());
        };
        let kind = Kind::of(class)
            .ok_or_else(|| format!("storage class {:.60} is not read", class.escape_default().to_string()))?;
        if !key.chars().all(|letter| letter.is_ascii_alphanumeric()) {
            return Err("its storage's key is no name".into());
        }
        Ok(Stored { key: key.clone(), kind, offset, count })
    }

    fn integer(&self, id: Id) -> Option<usize> {
        match self.pickle.node(id) {
            Node::Integer(value) => usize::try_from(*value).ok(),
            _ => None,
        }
    }

    /// The one number of a tuple.
    fn single(&self, id: Id) -> Result<usize, String> {
        match self.pickle.node(id) {
            Node::Tuple(items) if items.len() == 1 => {
                items.first().and_then(|&item| self.integer(item)).ok_or_else(|| "its size is no number".to_owned())
            }
            Node::Tuple(items) => Err(format!("it has {} dimensions, expected 1", items.len())),
            _ => Err("its size is no tuple".to_owned()),
        }
    }
}

/// Where a vector's values are.
struct Stored {
    key: String,
    kind: Kind,
    offset: usize,
    count: usize,
}

/// Kinds of storage.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Float,
    Double,
}

impl Kind {
    fn of(class: &str) -> Option<Self> {
        match class {
            "torch.FloatStorage" => Some(Self::Float),
            "torch.DoubleStorage" => Some(Self::Double),
            _ => None,
        }
    }

    fn width(self) -> usize {
        match self {
            Self::Float => 4,
            Self::Double => 8,
        }
    }

    fn value(self, bytes: &[u8]) -> f32 {
        match self {
            Self::Float => bytes.try_into().map_or(f32::NAN, f32::from_le_bytes),
            Self::Double => bytes.try_into().map_or(f32::NAN, |bytes| f64::from_le_bytes(bytes) as f32),
        }
    }
}

fn entry(zip: &mut ZipArchive<BufReader<File>>, name: &str, limit: u64) -> Result<Vec<u8>, String> {
    let shown = name.escape_default();
    let entry = zip.by_name(name).map_err(|error| format!("{shown}: {error}"))?;
    if entry.compression() != CompressionMethod::Stored {
        return Err(format!("{shown} is compressed, which torch.save never does"));
    }
    let mut bytes = Vec::new();
    entry.take(limit + 1).read_to_end(&mut bytes).map_err(|error| format!("{shown}: {error}"))?;
    if bytes.len() as u64 > limit { Err(format!("{shown} is larger than {limit} bytes")) } else { Ok(bytes) }
}
