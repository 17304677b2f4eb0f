//! Read-only files mapped into memory.

use std::fs::File;
use std::ops::Deref;
use std::path::Path;

use crate::types::OpsError;

/// A file whose pages are read when they are touched.
#[derive(Debug)]
pub struct MappedFile {
    map: memmap2::Mmap,
}

impl MappedFile {
    /// Maps the file at `path`.
    ///
    /// # Errors
    /// When the file cannot be opened or mapped.
    #[allow(unsafe_code)]
    pub fn open(path: &Path) -> Result<Self, OpsError> {
        let failed = |source| OpsError::Map { path: path.display().to_string(), source };
        let file = File::open(path).map_err(failed)?;
        // SAFETY: the mapping is private and read only. Another program that shortens the file while it is mapped can
        // still fault this one; no system offers a mapping without that, and a checkpoint is not written while in use.
        let map = unsafe { memmap2::MmapOptions::new().map_copy_read_only(&file) }.map_err(failed)?;
        Ok(Self { map })
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_was_written_and_names_what_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        std::fs::write(&path, b"abc").unwrap();
        assert_eq!(&*MappedFile::open(&path).unwrap(), b"abc");
        let error = MappedFile::open(&folder.path().join("absent")).unwrap_err().to_string();
        assert!(error.contains("absent"), "{error}");
    }
}
