//! Picture files out. The same picture and texts give the same bytes on every machine and any number of threads.

use crate::atomic::write_bytes_atomically;
use crate::metadata::fits_latin1;
use crate::{MediaError, Metadata, Picture, exif};
use image::ImageEncoder;
use std::io::{self, IsTerminal, Write};
use std::path::Path;

/// High enough that blocks do not show at 128 pixels.
const JPEG_QUALITY: u8 = 95;

/// A picture format that can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Lossless, texts in `tEXt`/`iTXt` chunks.
    Png,
    /// Quality 95, texts in EXIF.
    Jpeg,
    /// Lossless, texts in EXIF.
    WebP,
}

impl Format {
    /// The format that a file name's ending asks for, in any case of letters.
    ///
    /// # Errors
    /// [`MediaError::UnknownFormat`].
    pub fn from_path(path: &Path) -> Result<Self, MediaError> {
        let extension =
            path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
        match extension.as_str() {
            "png" => Ok(Self::Png),
            "jpg" | "jpeg" => Ok(Self::Jpeg),
            "webp" => Ok(Self::WebP),
            _ => Err(MediaError::UnknownFormat { path: path.to_owned(), extension }),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpeg",
            Self::WebP => "webp",
        }
    }
}

/// Encodes a picture with its texts.
///
/// # Errors
/// [`MediaError::Encode`], for example for a text key that the format cannot hold or a side over 65 535 (JPEG) or 16 384 (WebP).
pub fn encode_picture(picture: &Picture, format: Format, metadata: &Metadata) -> Result<Vec<u8>, MediaError> {
    let fail = |error: image::ImageError| MediaError::encode(format.name(), error);
    let mut bytes = Vec::new();
    match format {
        Format::Png => {
            encode_png(picture, metadata, &mut bytes).map_err(|error| MediaError::encode(format.name(), error))?;
        }
        Format::Jpeg => {
            let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY);
            encode_with(encoder, picture, metadata).map_err(fail)?;
        }
        Format::WebP => {
            let encoder = image::codecs::webp::WebPEncoder::new_lossless(&mut bytes);
            encode_with(encoder, picture, metadata).map_err(fail)?;
        }
    }
    Ok(bytes)
}

/// Writes a picture file, whole or not at all; the ending chooses the format.
///
/// # Errors
/// [`MediaError::UnknownFormat`], [`MediaError::Encode`], [`MediaError::Write`].
pub fn write_picture(path: &Path, picture: &Picture, metadata: &Metadata) -> Result<(), MediaError> {
    let bytes = encode_picture(picture, Format::from_path(path)?, metadata)?;
    write_bytes_atomically(path, &bytes)
}

/// [`write_picture`] without texts.
///
/// # Errors
/// As [`write_picture`].
pub fn save_picture(path: &Path, picture: &Picture) -> Result<(), MediaError> {
    write_picture(path, picture, &Metadata::new())
}

/// Writes bytes of a file to standard output, for `-o -`.
///
/// # Errors
/// [`MediaError::StdoutIsTerminal`], or [`MediaError::Stdout`]; see [`MediaError::is_broken_pipe`].
pub fn write_stdout(bytes: &[u8]) -> Result<(), MediaError> {
    let mut stdout = io::stdout().lock();
    if stdout.is_terminal() {
        return Err(MediaError::StdoutIsTerminal);
    }
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|source| MediaError::Stdout { source })
}

fn encode_png(picture: &Picture, metadata: &Metadata, bytes: &mut Vec<u8>) -> Result<(), png::EncodingError> {
    let mut encoder = png::Encoder::new(bytes, picture.width(), picture.height());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Balanced);
    for (key, text) in metadata.entries() {
        if fits_latin1(text) {
            encoder.add_text_chunk(key.to_owned(), text.to_owned())?;
        } else {
            encoder.add_itxt_chunk(key.to_owned(), text.to_owned())?;
        }
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(picture.pixels())?;
    writer.finish()
}

fn encode_with(
    mut encoder: impl ImageEncoder,
    picture: &Picture,
    metadata: &Metadata,
) -> Result<(), image::ImageError> {
    if let Some(block) = exif::write(metadata) {
        // A format without EXIF still gets its picture; ours all have it.
        let _ = encoder.set_exif_metadata(block);
    }
    encoder.write_image(picture.pixels(), picture.width(), picture.height(), image::ExtendedColorType::Rgb8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LoadOptions, decode_picture};

    fn gradient() -> Picture {
        let pixels = (0..32 * 24).flat_map(|i| [(i % 32 * 8) as u8, (i / 32 * 10) as u8, 90]).collect();
        Picture::from_rgb8(32, 24, pixels).unwrap()
    }

    #[test]
    fn lossless_formats_give_the_pixels_back_and_jpeg_nearly() {
        for format in [Format::Png, Format::WebP, Format::Jpeg] {
            let bytes = encode_picture(&gradient(), format, &Metadata::new()).unwrap();
            assert_eq!(bytes, encode_picture(&gradient(), format, &Metadata::new()).unwrap());
            let read = decode_picture("x", &bytes, &LoadOptions::default()).unwrap();
            let worst = read.pixels().iter().zip(gradient().pixels()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
            assert!(worst <= if format == Format::Jpeg { 12 } else { 0 }, "{format:?} {worst}");
        }
    }

    #[test]
    fn sides_beyond_a_format_are_errors() {
        for (format, side) in [(Format::WebP, 16_385), (Format::Jpeg, 65_536)] {
            let error = encode_picture(&Picture::filled(side, 1, [0; 3]), format, &Metadata::new()).unwrap_err();
            assert!(matches!(error, MediaError::Encode { .. }) && !error.to_string().contains('\n'), "{error}");
        }
    }

    #[test]
    fn the_ending_chooses() {
        assert_eq!(Format::from_path("a.JPG".as_ref()).unwrap(), Format::Jpeg);
        assert_eq!(Format::from_path("a.b.webp".as_ref()).unwrap(), Format::WebP);
        assert!(Format::from_path("a".as_ref()).unwrap_err().to_string().contains("(no ending)"));
    }

    #[test]
    fn an_impossible_key_is_an_error_and_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.png");
        for key in ["", "🦊", &"k".repeat(80)] {
            let error = write_picture(&path, &gradient(), &Metadata::new().with(key, "v")).unwrap_err();
            assert!(matches!(error, MediaError::Encode { format: "png", .. }), "{error}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
