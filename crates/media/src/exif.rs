//! The two text fields of an EXIF block that we use in JPEG and WebP files.
//!
//! As in AUTOMATIC1111's web UI, the `parameters` text is the `UserComment` (UTF-16). Our JSON goes into
//! `ImageDescription`, which is ASCII by the letter and UTF-8 by habit. An EXIF block is a small TIFF file: a header, then
//! directories of 12-byte entries (tag, type, count, value or offset).

use crate::{Metadata, PARAMETERS_KEY, REFRAIN_KEY};

const IMAGE_DESCRIPTION: u16 = 0x010e;
const EXIF_DIRECTORY: u16 = 0x8769;
const USER_COMMENT: u16 = 0x9286;

const ASCII: u16 = 2;
const LONG: u16 = 4;
const UNDEFINED: u16 = 7;

const UNICODE_PREFIX: &[u8] = b"UNICODE\0";
const ASCII_PREFIX: &[u8] = b"ASCII\0\0\0";

/// Writes a big-endian block with the texts under [`PARAMETERS_KEY`] and [`REFRAIN_KEY`]; nothing when there is neither.
pub(crate) fn write(metadata: &Metadata) -> Option<Vec<u8>> {
    let comment = metadata.get(PARAMETERS_KEY).map(|text| {
        let units = text.encode_utf16().flat_map(u16::to_be_bytes);
        UNICODE_PREFIX.iter().copied().chain(units).collect::<Vec<u8>>()
    });
    let description = metadata.get(REFRAIN_KEY).map(|text| [text.as_bytes(), &[0]].concat());
    if comment.is_none() && description.is_none() {
        return None;
    }
    let mut block = Block { bytes: b"MM\0\x2a\0\0\0\x08".to_vec() };
    let mut entries = Vec::new();
    if let Some(description) = description {
        entries.push((IMAGE_DESCRIPTION, ASCII, description));
    }
    // The comment lives in a directory of its own, to which the first one points.
    let comment = comment.map(|comment| vec![(USER_COMMENT, UNDEFINED, comment)]);
    block.directory(&entries, comment.is_some());
    if let Some(comment) = comment {
        block.directory(&comment, false);
    }
    Some(block.bytes)
}

struct Block {
    bytes: Vec<u8>,
}

impl Block {
    /// Appends a directory and the data of its entries; with `pointer`, one more entry leads to what is appended next.
    fn directory(&mut self, entries: &[(u16, u16, Vec<u8>)], pointer: bool) {
        let count = entries.len() + usize::from(pointer);
        let mut data_at = self.bytes.len() + 2 + 12 * count + 4;
        let mut data = Vec::new();
        self.push16(count as u16);
        for (tag, kind, value) in entries {
            let length = value.len() as u32;
            // Up to four bytes stand in place of the offset.
            if value.len() <= 4 {
                let mut padded = [0; 4];
                padded[..value.len()].copy_from_slice(value);
                self.entry(*tag, *kind, length, u32::from_be_bytes(padded));
            } else {
                self.entry(*tag, *kind, length, data_at as u32);
                data_at += value.len();
                data.extend_from_slice(value);
            }
        }
        if pointer {
            self.entry(EXIF_DIRECTORY, LONG, 1, data_at as u32);
        }
        self.bytes.extend([0; 4]);
        self.bytes.append(&mut data);
    }

    fn entry(&mut self, tag: u16, kind: u16, count: u32, value: u32) {
        self.push16(tag);
        self.push16(kind);
        self.bytes.extend(count.to_be_bytes());
        self.bytes.extend(value.to_be_bytes());
    }

    fn push16(&mut self, value: u16) {
        self.bytes.extend(value.to_be_bytes());
    }
}

/// Reads the texts of any block, either byte order. What makes no sense is skipped.
pub(crate) fn read(block: &[u8]) -> Metadata {
    // Some writers keep the JPEG segment's prefix.
    let block = block.strip_prefix(b"Exif\0\0").unwrap_or(block);
    let mut metadata = Metadata::new();
    let Some(view) = View::new(block) else { return metadata };
    let Some(first) = view.get32(4) else { return metadata };
    let comment = view
        .entry(first, EXIF_DIRECTORY)
        .and_then(|entry| view.get32(entry + 8))
        .and_then(|directory| view.entry(directory, USER_COMMENT));
    if let Some(text) = comment.and_then(|entry| view.value(entry)).and_then(|value| view.comment(value)) {
        metadata = metadata.with(PARAMETERS_KEY, text);
    }
    if let Some(value) = view.entry(first, IMAGE_DESCRIPTION).and_then(|entry| view.value(entry)) {
        let value = value.strip_suffix(&[0]).unwrap_or(value);
        if let Ok(text) = std::str::from_utf8(value)
            && text.starts_with('{')
        {
            metadata = metadata.with(REFRAIN_KEY, text);
        }
    }
    metadata
}

struct View<'a> {
    bytes: &'a [u8],
    big_endian: bool,
}

impl<'a> View<'a> {
    fn new(bytes: &'a [u8]) -> Option<Self> {
        let big_endian = match bytes.get(..4)? {
            b"MM\0\x2a" => true,
            b"II\x2a\0" => false,
            _ => return None,
        };
        Some(Self { bytes, big_endian })
    }

    fn get16(&self, at: usize) -> Option<u16> {
        let bytes = self.bytes.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if self.big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    fn get32(&self, at: usize) -> Option<usize> {
        let bytes = self.bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
        let value = if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) };
        usize::try_from(value).ok()
    }

    /// Where the entry of a tag starts.
    fn entry(&self, directory: usize, tag: u16) -> Option<usize> {
        let count = usize::from(self.get16(directory)?);
        (0..count).map(|index| directory + 2 + 12 * index).find(|&at| self.get16(at) == Some(tag))
    }

    /// The bytes of an entry of one-byte elements; up to 4 of them are stored in place of the offset.
    fn value(&self, entry: usize) -> Option<&'a [u8]> {
        let length = self.get32(entry + 4)?;
        let at = if length <= 4 { entry + 8 } else { self.get32(entry + 8)? };
        self.bytes.get(at..at.checked_add(length)?)
    }

    fn comment(&self, value: &[u8]) -> Option<String> {
        if let Some(text) = value.strip_prefix(ASCII_PREFIX) {
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        let text = value.strip_prefix(UNICODE_PREFIX)?;
        let (pairs, _) = text.as_chunks::<2>();
        // The web UI writes big-endian whatever the block says.
        let units: Vec<u16> = pairs.iter().map(|&pair| u16::from_be_bytes(pair)).collect();
        Some(String::from_utf16_lossy(&units))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn little_endian_and_ascii_are_read() {
        let mut block = b"Exif\0\0II\x2a\0\x08\0\0\0".to_vec();
        block.extend([1, 0, 0x69, 0x87, 4, 0, 1, 0, 0, 0, 26, 0, 0, 0, 0, 0, 0, 0]);
        block.extend([1, 0, 0x86, 0x92, 7, 0, 11, 0, 0, 0, 44, 0, 0, 0, 0, 0, 0, 0]);
        block.extend(b"ASCII\0\0\0fox");
        assert_eq!(read(&block).get(PARAMETERS_KEY), Some("fox"));
    }

    proptest! {
        #[test]
        fn round_trip(parameters in any::<String>(), json in "\\{\\PC{0,40}\\}") {
            let metadata = Metadata::new().with(PARAMETERS_KEY, parameters).with(REFRAIN_KEY, json);
            prop_assert_eq!(read(&write(&metadata).unwrap()), metadata);
        }

        #[test]
        fn garbage_never_panics(mut block in proptest::collection::vec(any::<u8>(), 0..120), big in any::<bool>()) {
            let header: &[u8] = if big { b"MM\0\x2a" } else { b"II\x2a\0" };
            block.splice(0..block.len().min(4), header.iter().copied());
            let _ = read(&block);
        }
    }
}
