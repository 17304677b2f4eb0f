//! Texts inside a picture file: PNG text chunks, or EXIF fields in JPEG and WebP.

use crate::decode::{MAX_FILE_BYTES, read_limited};
use crate::{MediaError, exif};
use std::io::Cursor;
use std::path::Path;

/// Key of the text in AUTOMATIC1111's format, see [`Parameters`](crate::Parameters).
pub const PARAMETERS_KEY: &str = "parameters";
/// Key of our own JSON text, which holds everything needed to make the picture again.
pub const REFRAIN_KEY: &str = "refrain";

/// A compressed text of a few kB may unpack to gigabytes; prompts are far below this.
const MAX_TEXT_BYTES: usize = 1 << 20;
/// Texts beyond this number are ignored.
const MAX_TEXTS: usize = 64;
/// What the PNG decoder may allocate while it looks for texts: a row of pixels and the chunks.
const MAX_DECODER_BYTES: usize = 64 << 20;

/// Keyed texts of a picture file, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    entries: Vec<(String, String)>,
}

impl Metadata {
    /// No texts.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a text. JPEG and WebP keep only [`PARAMETERS_KEY`] and [`REFRAIN_KEY`]; a PNG keeps all whose key has 1 to 79 Latin-1 letters.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, text: impl Into<String>) -> Self {
        self.entries.push((key.into(), text.into()));
        self
    }

    /// The first text under a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.entries.iter().find(|(name, _)| name == key).map(|(_, text)| text.as_str())
    }

    /// All texts as (key, text).
    pub fn entries(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.iter().map(|(key, text)| (key.as_str(), text.as_str()))
    }

    /// Whether there is no text.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Reads the texts of a PNG, JPEG or WebP file; the pixels are not decoded.
    ///
    /// # Errors
    /// [`MediaError::Read`], or as [`Metadata::decode`].
    pub fn load(path: &Path) -> Result<Self, MediaError> {
        Self::decode(&path.display().to_string(), &read_limited(path, MAX_FILE_BYTES)?)
    }

    /// Reads the texts of a PNG, JPEG or WebP file in memory. `name` is for messages.
    ///
    /// # Errors
    /// [`MediaError::Decode`] when the bytes are no such file, or a text unpacks to more than 1 MiB.
    pub fn decode(name: &str, bytes: &[u8]) -> Result<Self, MediaError> {
        if bytes.starts_with(b"\x89PNG\r\n\x1a\n") { decode_png(name, bytes) } else { decode_exif(name, bytes) }
    }
}

/// Latin-1 without control characters goes into `tEXt`, which even the simplest reader knows.
pub(crate) fn fits_latin1(text: &str) -> bool {
    text.chars().all(|letter| matches!(letter, '\n' | ' '..='~' | '\u{a0}'..='\u{ff}'))
}

fn decode_png(name: &str, bytes: &[u8]) -> Result<Metadata, MediaError> {
    let fail = |error: png::DecodingError| MediaError::decode(name, error);
    let limits = png::Limits { bytes: MAX_DECODER_BYTES };
    let mut reader = png::Decoder::new_with_limits(Cursor::new(bytes), limits).read_info().map_err(fail)?;
    // Texts may stand behind the pixels; a file cut off there still tells what it told before.
    let _ = reader.finish();
    let info = reader.info();
    let mut metadata = Metadata::new();
    for chunk in info.uncompressed_latin1_text.iter().take(MAX_TEXTS) {
        metadata = metadata.with(&chunk.keyword, &chunk.text);
    }
    for mut chunk in info.compressed_latin1_text.iter().take(MAX_TEXTS).cloned() {
        chunk.decompress_text_with_limit(MAX_TEXT_BYTES).map_err(fail)?;
        metadata = metadata.with(&chunk.keyword, chunk.get_text().map_err(fail)?);
    }
    for mut chunk in info.utf8_text.iter().take(MAX_TEXTS).cloned() {
        chunk.decompress_text_with_limit(MAX_TEXT_BYTES).map_err(fail)?;
        metadata = metadata.with(&chunk.keyword, chunk.get_text().map_err(fail)?);
    }
    Ok(metadata)
}

fn decode_exif(name: &str, bytes: &[u8]) -> Result<Metadata, MediaError> {
    let fail = |error: image::ImageError| MediaError::decode(name, error);
    let reader = image::ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|error| MediaError::decode(name, error))?;
    let mut decoder = reader.into_decoder().map_err(fail)?;
    let found = image::ImageDecoder::exif_metadata(&mut decoder).map_err(fail)?;
    Ok(found.map(|block| exif::read(&block)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Format, Picture, encode_picture};
    use proptest::prelude::*;
    use std::io::Write as _;

    fn sample() -> Metadata {
        Metadata::new()
            .with(PARAMETERS_KEY, "a fox 🦊\nSteps: 20, Sampler: DDIM, Seed: 1")
            .with(REFRAIN_KEY, r#"{"prompt":"a fox 🦊","seed":1}"#)
    }

    fn png_with(chunks: &[(&[u8; 4], Vec<u8>)], after_pixels: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = png::Encoder::new(&mut bytes, 1, 1).write_header().unwrap();
        let write_all = |writer: &mut png::Writer<_>| {
            for (kind, data) in chunks {
                writer.write_chunk(png::chunk::ChunkType(**kind), data).unwrap();
            }
        };
        if !after_pixels {
            write_all(&mut writer);
        }
        writer.write_image_data(&[0]).unwrap();
        if after_pixels {
            write_all(&mut writer);
        }
        writer.finish().unwrap();
        bytes
    }

    #[test]
    fn every_format_keeps_both_texts() {
        let picture = Picture::filled(9, 7, [200, 30, 10]);
        for format in [Format::Png, Format::Jpeg, Format::WebP] {
            let bytes = encode_picture(&picture, format, &sample()).unwrap();
            assert_eq!(Metadata::decode("x", &bytes).unwrap(), sample(), "{format:?}");
        }
    }

    #[test]
    fn texts_behind_the_pixels_are_found() {
        let bytes = png_with(&[(b"tEXt", b"parameters\0caf\xe9".to_vec())], true);
        assert_eq!(Metadata::decode("x", &bytes).unwrap().get(PARAMETERS_KEY), Some("café"));
    }

    #[test]
    fn a_decompression_bomb_is_refused() {
        let mut packed = Vec::new();
        let mut encoder = flate2::write::ZlibEncoder::new(&mut packed, flate2::Compression::best());
        for _ in 0..64 {
            encoder.write_all(&vec![b'a'; 1 << 20]).unwrap();
        }
        encoder.finish().unwrap();
        let z_text = [b"parameters\0\0".to_vec(), packed.clone()].concat();
        let i_text = [b"parameters\0\x01\0\0\0".to_vec(), packed].concat();
        for chunk in [(b"zTXt", z_text), (b"iTXt", i_text)] {
            let error = Metadata::decode("bomb.png", &png_with(&[chunk], false)).unwrap_err().to_string();
            assert!(error.starts_with("bomb.png: ") && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn thousands_of_chunks_are_bounded() {
        let chunk = (b"tEXt", b"k\0v".to_vec());
        let metadata = Metadata::decode("x", &png_with(&vec![chunk; 10_000], false)).unwrap();
        assert_eq!(metadata.entries().count(), MAX_TEXTS);
    }

    #[test]
    fn a_giant_header_is_one_line() {
        let mut bytes = png_with(&[], false);
        bytes[16..24].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]);
        let crc = crc32(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&crc.to_be_bytes());
        let error = Metadata::decode("giant.png", &bytes).unwrap_err().to_string();
        assert!(error.starts_with("giant.png: ") && !error.contains('\n'), "{error}");
    }

    fn crc32(bytes: &[u8]) -> u32 {
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        crc.sum()
    }

    proptest! {
        #[test]
        fn any_text_survives_in_png(text in any::<String>()) {
            let picture = Picture::filled(1, 1, [0; 3]);
            let metadata = Metadata::new().with(PARAMETERS_KEY, text);
            let bytes = encode_picture(&picture, Format::Png, &metadata).unwrap();
            prop_assert_eq!(Metadata::decode("x", &bytes).unwrap(), metadata);
        }

        #[test]
        fn damaged_files_never_panic(at in any::<proptest::sample::Index>(), byte in any::<u8>(), cut in any::<proptest::sample::Index>()) {
            for format in [Format::Png, Format::Jpeg, Format::WebP] {
                let mut bytes = encode_picture(&Picture::filled(5, 4, [1, 2, 3]), format, &sample()).unwrap();
                let at = at.index(bytes.len());
                bytes[at] = byte;
                let _ = Metadata::decode("x", &bytes);
                bytes.truncate(cut.index(bytes.len()));
                let _ = Metadata::decode("x", &bytes);
            }
        }
    }
}
