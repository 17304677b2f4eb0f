//! Pictures of the user's: any common format, made upright, opaque and 8-bit, within limits.

use crate::{MediaError, Picture, Rgb};
use image::{DynamicImage, ImageDecoder, ImageReader, Limits};
use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

/// Larger files are refused before they are read.
pub(crate) const MAX_FILE_BYTES: u64 = 256 << 20;

/// How to load a picture.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// What shows through transparent places (blended in sRGB, as browsers do).
    pub background: Rgb,
    /// Longest side in pixels, before and after orientation.
    pub max_side: u32,
    /// What the decoder may allocate, in bytes.
    pub max_bytes: u64,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { background: [255; 3], max_side: 16_384, max_bytes: 1 << 30 }
    }
}

/// Loads a PNG, JPEG, WebP or GIF (its first frame); the bytes, not the ending, say which. The EXIF orientation is applied.
///
/// # Errors
/// [`MediaError::Read`], [`MediaError::TooLarge`], [`MediaError::Decode`].
pub fn load_picture(path: &Path, options: &LoadOptions) -> Result<Picture, MediaError> {
    let bytes = read_limited(path, MAX_FILE_BYTES)?;
    decode_picture(&path.display().to_string(), &bytes, options)
}

/// [`load_picture`] for bytes in memory (standard input, for instance). `name` is for messages.
///
/// # Errors
/// [`MediaError::TooLarge`], [`MediaError::Decode`].
pub fn decode_picture(name: &str, bytes: &[u8], options: &LoadOptions) -> Result<Picture, MediaError> {
    if bytes.is_empty() {
        return Err(MediaError::decode(name, "the file is empty"));
    }
    let fail = |error: image::ImageError| match error {
        image::ImageError::Limits(_) => MediaError::TooLarge {
            name: name.to_owned(),
            what: "the memory that the picture needs".to_owned(),
            limit: format!("{} MiB", options.max_bytes >> 20),
        },
        other => MediaError::decode(name, other),
    };
    let mut reader =
        ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|error| MediaError::decode(name, error))?;
    // The sides are checked below with a message of our own, before any pixel is decoded.
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(options.max_bytes);
    reader.limits(limits.clone());
    let mut decoder = reader.into_decoder().map_err(fail)?;
    let (width, height) = decoder.dimensions();
    if width.max(height) > options.max_side {
        let limit = format!("{} pixels a side", options.max_side);
        return Err(MediaError::TooLarge { name: name.to_owned(), what: format!("a size of {width}x{height}"), limit });
    }
    if decoder.total_bytes() > options.max_bytes {
        return Err(fail(image::ImageError::Limits(image::error::LimitError::from_kind(
            image::error::LimitErrorKind::InsufficientMemory,
        ))));
    }
    decoder.set_limits(limits).map_err(fail)?;
    let orientation = decoder.orientation().map_err(fail)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(fail)?;
    image.apply_orientation(orientation);
    flatten(&image, options.background)
}

/// Drops alpha over a background, and the second byte of 16-bit channels (rounded).
pub(crate) fn flatten(image: &DynamicImage, background: Rgb) -> Result<Picture, MediaError> {
    let (width, height) = (image.width(), image.height());
    if !image.color().has_alpha() {
        return Picture::from_rgb8(width, height, image.to_rgb8().into_raw());
    }
    let rgba = image.to_rgba8();
    let mut pixels = Vec::with_capacity(rgba.as_raw().len() / 4 * 3);
    for pixel in rgba.pixels() {
        let [red, green, blue, alpha] = pixel.0;
        let alpha = u32::from(alpha);
        for (value, behind) in [red, green, blue].into_iter().zip(background) {
            let mixed = u32::from(value) * alpha + u32::from(behind) * (255 - alpha);
            pixels.push(((mixed + 127) / 255) as u8);
        }
    }
    Picture::from_rgb8(width, height, pixels)
}

/// Reads a whole file of at most `limit` bytes.
pub(crate) fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>, MediaError> {
    let fail = |source| MediaError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(fail)?;
    if file.metadata().map_err(fail)?.is_dir() {
        return Err(fail(std::io::ErrorKind::IsADirectory.into()));
    }
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file at the limit from one beyond it, even where the length is not known before.
    file.take(limit + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() as u64 > limit {
        return Err(MediaError::TooLarge {
            name: path.display().to_string(),
            what: "the file".to_owned(),
            limit: format!("{} MiB", limit >> 20),
        });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{ExtendedColorType, ImageBuffer, ImageEncoder, Luma, Rgba};
    use proptest::prelude::*;

    fn png(image: impl Into<DynamicImage>) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.into().write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    fn read(bytes: &[u8]) -> Picture {
        decode_picture("x", bytes, &LoadOptions::default()).unwrap()
    }

    #[test]
    fn alpha_shows_the_background() {
        let bytes = png(image::RgbaImage::from_fn(3, 1, |x, _| Rgba([200, 0, 100, [0, 128, 255][x as usize]])));
        let options = LoadOptions { background: [0, 255, 0], ..LoadOptions::default() };
        let picture = decode_picture("x", &bytes, &options).unwrap();
        assert_eq!(picture.pixels(), [0, 255, 0, 100, 127, 50, 200, 0, 100]);
    }

    #[test]
    fn sixteen_bits_and_grey_become_rgb8() {
        let deep = ImageBuffer::<Luma<u16>, _>::from_fn(2, 1, |x, _| Luma([[0x00ff, 0xffff][x as usize]]));
        assert_eq!(read(&png(deep)).pixels(), [1, 1, 1, 255, 255, 255]);
    }

    #[test]
    fn orientation_is_applied() {
        let mut bytes = Vec::new();
        let mut encoder = image::codecs::webp::WebPEncoder::new_lossless(&mut bytes);
        // Orientation (0x0112) = 6: the camera was turned, the first row is the right-hand column.
        let exif = b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0".to_vec();
        encoder.set_exif_metadata(exif).unwrap();
        encoder.write_image(&[1, 1, 1, 2, 2, 2], 2, 1, ExtendedColorType::Rgb8).unwrap();
        let picture = read(&bytes);
        assert_eq!((picture.width(), picture.height()), (1, 2));
        assert_eq!(picture.pixels(), [1, 1, 1, 2, 2, 2]);
    }

    #[test]
    fn the_first_frame_of_a_gif() {
        let mut bytes = Vec::new();
        let mut encoder = image::codecs::gif::GifEncoder::new(&mut bytes);
        for grey in [40, 200] {
            let frame = image::RgbaImage::from_pixel(4, 4, Rgba([grey, grey, grey, 255]));
            encoder.encode_frame(image::Frame::new(frame)).unwrap();
        }
        drop(encoder);
        assert_eq!(read(&bytes).pixel(0, 0), [40; 3]);
    }

    #[test]
    fn limits_hold_before_decoding() {
        let bytes = png(image::RgbImage::new(300, 2));
        let small = LoadOptions { max_side: 299, ..LoadOptions::default() };
        let error = decode_picture("wide.png", &bytes, &small).unwrap_err();
        assert_eq!(
            error.to_string(),
            "wide.png: a size of 300x2 is over the limit of 299 pixels a side; scale the picture down first"
        );
        assert!(error.is_resource());
        let poor = LoadOptions { max_bytes: 1000, ..LoadOptions::default() };
        assert!(matches!(decode_picture("wide.png", &bytes, &poor), Err(MediaError::TooLarge { .. })));
    }

    #[test]
    fn no_picture_is_one_line() {
        for bytes in
            [&b""[..], b"hello", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\xff\xff\xff\xffWEBPVP8L", b"\xff\xd8\xff\xe0"]
        {
            let error = decode_picture("x.png", bytes, &LoadOptions::default()).unwrap_err().to_string();
            assert!(error.starts_with("x.png: ") && !error.contains('\n'), "{error}");
        }
        let folder = tempfile::tempdir().unwrap();
        let error = load_picture(folder.path(), &LoadOptions::default()).unwrap_err().to_string();
        assert!(error.ends_with("it is a folder; name a file in it"), "{error}");
    }

    proptest! {
        #[test]
        fn damaged_files_never_panic(at in any::<proptest::sample::Index>(), byte in any::<u8>(), cut in any::<proptest::sample::Index>()) {
            for format in [image::ImageFormat::Png, image::ImageFormat::Jpeg, image::ImageFormat::WebP, image::ImageFormat::Gif] {
                let mut bytes = Cursor::new(Vec::new());
                image::RgbImage::from_fn(6, 5, |x, y| image::Rgb([x as u8 * 40, y as u8 * 50, 9])).write_to(&mut bytes, format).unwrap();
                let mut bytes = bytes.into_inner();
                let at = at.index(bytes.len());
                bytes[at] = byte;
                let options = LoadOptions { max_bytes: 64 << 20, ..LoadOptions::default() };
                let _ = decode_picture("x", &bytes, &options);
                bytes.truncate(cut.index(bytes.len()));
                let _ = decode_picture("x", &bytes, &options);
            }
        }
    }
}
