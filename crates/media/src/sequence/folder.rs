//! A folder of pictures as a clip: `frame-000001.png`, `frame-000002.png`, … Each file is there whole or not at all.

use super::{FrameRate, FrameSink, FrameSource, SequenceInfo, check_size};
use crate::decode::{LoadOptions, load_picture};
use crate::{MediaError, Picture, save_picture};
use std::fs;
use std::path::{Path, PathBuf};

/// Reads the PNG, JPEG and WebP files of a folder in the natural order of their names (`2.png` before `10.png`).
pub(super) struct FolderSource {
    name: String,
    files: std::vec::IntoIter<PathBuf>,
    first: Option<Picture>,
    info: SequenceInfo,
    number: u64,
}

impl FolderSource {
    pub(super) fn new(folder: &Path, rate: FrameRate) -> Result<Self, MediaError> {
        let name = folder.display().to_string();
        let mut files = pictures(folder)?;
        files.sort_by_key(|path| natural(path));
        let count = files.len() as u64;
        let mut files = files.into_iter();
        let Some(first) = files.next() else {
            return Err(MediaError::sequence(&name, None, "the folder holds no .png, .jpg or .webp files"));
        };
        let first = load_picture(&first, &LoadOptions::default())?;
        let info = SequenceInfo { width: first.width(), height: first.height(), rate, frames: Some(count) };
        Ok(Self { name, files, first: Some(first), info, number: 0 })
    }
}

impl FrameSource for FolderSource {
    fn info(&self) -> SequenceInfo {
        self.info
    }

    fn next_frame(&mut self) -> Result<Option<Picture>, MediaError> {
        self.number += 1;
        let picture = match self.first.take() {
            Some(first) => first,
            None => match self.files.next() {
                Some(path) => load_picture(&path, &LoadOptions::default())?,
                None => return Ok(None),
            },
        };
        let wanted = (self.info.width, self.info.height);
        check_size(&self.name, self.number, wanted, (picture.width(), picture.height()))?;
        Ok(Some(picture))
    }
}

fn pictures(folder: &Path) -> Result<Vec<PathBuf>, MediaError> {
    let fail = |source| MediaError::Read { path: folder.to_owned(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let ending = path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
        if matches!(ending.as_deref(), Some("png" | "jpg" | "jpeg" | "webp")) && path.is_file() {
            found.push(path);
        }
    }
    Ok(found)
}

/// Splits a name into text and numbers, so that numbers compare by value.
fn natural(path: &Path) -> Vec<(String, u128)> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut parts = Vec::new();
    let mut rest = name.as_str();
    while !rest.is_empty() {
        let digits = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (text, tail) = rest.split_at(digits);
        let end = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
        let (number, tail) = tail.split_at(end);
        parts.push((text.to_owned(), number.parse().unwrap_or(u128::MAX)));
        rest = tail;
    }
    parts
}

/// Writes `frame-000001.png`, … into a folder, which is made if it is not there. Finished frames stay whatever happens.
pub struct FolderSink {
    folder: PathBuf,
    size: Option<(u32, u32)>,
    number: u64,
}

impl FolderSink {
    /// Makes the folder, or takes an empty one.
    ///
    /// # Errors
    /// [`MediaError::Write`]; [`MediaError::Sequence`] for a folder that already holds pictures, which would mix.
    pub fn create(folder: &Path) -> Result<Self, MediaError> {
        fs::create_dir_all(folder).map_err(|source| MediaError::Write { path: folder.to_owned(), source })?;
        if !pictures(folder)?.is_empty() {
            let reason = "the folder already holds pictures; name an empty or a new one";
            return Err(MediaError::sequence(&folder.display().to_string(), None, reason));
        }
        Ok(Self { folder: folder.to_owned(), size: None, number: 0 })
    }
}

impl FrameSink for FolderSink {
    fn write_frame(&mut self, frame: &Picture) -> Result<(), MediaError> {
        self.number += 1;
        let size = (frame.width(), frame.height());
        check_size(&self.folder.display().to_string(), self.number, *self.size.get_or_insert(size), size)?;
        save_picture(&self.folder.join(format!("frame-{:06}.png", self.number)), frame)
    }

    fn finish(self: Box<Self>) -> Result<(), MediaError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_natural_order() {
        let mut names: Vec<PathBuf> = ["f10.png", "f9.png", "a2b10.png", "a2b9.png"].map(PathBuf::from).into();
        names.sort_by_key(|path| natural(path));
        assert_eq!(names, ["a2b9.png", "a2b10.png", "f9.png", "f10.png"].map(PathBuf::from));
    }

    #[test]
    fn a_folder_comes_back_frame_by_frame() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out");
        let mut sink = FolderSink::create(&target).unwrap();
        for value in [1, 2, 3] {
            sink.write_frame(&Picture::filled(3, 2, [value; 3])).unwrap();
        }
        assert!(sink.write_frame(&Picture::filled(3, 3, [0; 3])).is_err());
        Box::new(sink).finish().unwrap();
        let mut source = FolderSource::new(&target, FrameRate::DEFAULT).unwrap();
        assert_eq!(source.info().frames, Some(3));
        for value in [1, 2, 3] {
            assert_eq!(source.next_frame().unwrap().unwrap().pixel(0, 0), [value; 3]);
        }
        assert!(source.next_frame().unwrap().is_none());
        assert!(FolderSink::create(&target).is_err());
    }
}
