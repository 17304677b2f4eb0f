//! The keyframes of a morph: loaded, sized and fitted.

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use refrain_media::sequence::{SourceOptions, open_source};
use refrain_media::{LoadOptions, MediaError, Picture, Rgb, load_picture};

use super::options::Fit;
use crate::errors::{resources, usage};
use crate::events::Console;

/// Pictures with a shorter side hold nothing to morph.
const SMALLEST_SIDE: u32 = 8;

/// `ffffff`, with or without `#`.
pub(super) fn colour(text: &str) -> anyhow::Result<Rgb> {
    let digits = text.strip_prefix('#').unwrap_or(text);
    let number = u32::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 6);
    let number =
        number.ok_or_else(|| usage(format!("--background {text}: expected six hexadecimal digits, RRGGBB")))?;
    Ok([(number >> 16) as u8, (number >> 8) as u8, number as u8])
}

/// Loads all pictures; says what a user should know of them.
///
/// # Errors
/// A file that is no picture or too small (exit 2), one that is too large (exit 3).
pub(super) fn load(paths: &[PathBuf], background: Rgb, console: &Console) -> anyhow::Result<Vec<Picture>> {
    let options = LoadOptions { background, ..LoadOptions::default() };
    let mut pictures = Vec::with_capacity(paths.len());
    for path in paths {
        let picture = load_picture(path, &options).map_err(of_picture)?;
        let (width, height) = (picture.width(), picture.height());
        if width.min(height) < SMALLEST_SIDE {
            let shown = path.display();
            return Err(usage(format!("{shown}: {width}x{height} pixels are too few, expected at least 8 a side")));
        }
        if is_animated(path) {
            console.warn(&format!("{} is animated: its first frame is used", path.display()))?;
        }
        pictures.push(picture);
    }
    for (index, pair) in pictures.windows(2).enumerate() {
        if pair[0] == pair[1] {
            let (first, second) = (paths[index].display(), paths[index + 1].display());
            console.warn(&format!("{first} and {second} are the same picture: nothing moves between them"))?;
        }
    }
    Ok(pictures)
}

pub(crate) fn of_picture(error: MediaError) -> anyhow::Error {
    if error.is_resource() { resources(error.to_string()) } else { usage(error.to_string()) }
}

/// Whether a file holds more than one frame.
fn is_animated(path: &Path) -> bool {
    let Ok(mut source) = open_source(path, SourceOptions::default()) else { return false };
    matches!(source.next_frame(), Ok(Some(_))) && matches!(source.next_frame(), Ok(Some(_)))
}

/// Width and height of the frames: as asked for, or the model's own area in the shape of the first picture, in multiples
/// of what the model can make.
pub(super) fn size(
    first: &Picture,
    (width, height): (Option<usize>, Option<usize>),
    (model_height, model_width): (usize, usize),
    multiple: usize,
) -> (usize, usize) {
    let aspect = f64::from(first.width()) / f64::from(first.height());
    let area = (model_height * model_width) as f64;
    let round = |side: f64| ((side / multiple as f64).round() as usize).max(1) * multiple;
    match (width, height) {
        (Some(width), Some(height)) => (width, height),
        (Some(width), None) => (width, round(width as f64 / aspect)),
        (None, Some(height)) => (round(height as f64 * aspect), height),
        (None, None) => {
            let width = round((area * aspect).sqrt());
            (width, round((area / aspect).sqrt()))
        }
    }
}

/// A picture in exactly this size, cut or padded as asked; and whether that was necessary.
pub(super) fn fitted(picture: &Picture, (width, height): (u32, u32), fit: Fit, background: Rgb) -> (Picture, bool) {
    let scale_x = f64::from(width) / f64::from(picture.width());
    let scale_y = f64::from(height) / f64::from(picture.height());
    let scale = match fit {
        Fit::Crop => scale_x.max(scale_y),
        Fit::Pad => scale_x.min(scale_y),
    };
    let scaled = |side: u32| ((f64::from(side) * scale).round() as u32).max(1);
    let (inner_width, inner_height) = (scaled(picture.width()), scaled(picture.height()));
    let inner = picture.resized(inner_width, inner_height);
    // One pixel more or less is rounding, not another shape.
    let same = inner_width.abs_diff(width) <= 1 && inner_height.abs_diff(height) <= 1;
    if same {
        return (picture.resized(width, height), false);
    }
    let mut frame = Picture::filled(width, height, background);
    match fit {
        Fit::Pad => frame.paste(&inner, (width - inner_width) / 2, (height - inner_height) / 2),
        Fit::Crop => {
            let (left, top) = ((inner_width - width) / 2, (inner_height - height) / 2);
            for y in 0..height {
                for x in 0..width {
                    frame.set_pixel(x, y, inner.pixel(x + left, y + top));
                }
            }
        }
    }
    (frame, true)
}

/// Pictures of one size as `[n, 3, height, width]` in 0..1.
pub(crate) fn tensor(pictures: &[Picture]) -> anyhow::Result<Tensor> {
    let rows = pictures.iter().map(|picture| {
        let shape = (1, 3, picture.height() as usize, picture.width() as usize);
        Tensor::from_vec(picture.to_planar_unit(), shape, &Device::Cpu)
    });
    Ok(Tensor::cat(&rows.collect::<candle_core::Result<Vec<_>>>()?, 0)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_keep_the_first_pictures_shape() {
        let wide = Picture::filled(400, 200, [0; 3]);
        assert_eq!(size(&wide, (None, None), (128, 128), 16), (176, 96));
        assert_eq!(size(&wide, (Some(128), None), (128, 128), 16), (128, 64));
        assert_eq!(size(&wide, (Some(64), Some(64)), (128, 128), 16), (64, 64));
    }

    #[test]
    fn fitting_pads_or_crops_only_where_the_shape_differs() {
        let wide = Picture::filled(40, 20, [9; 3]);
        let (padded, changed) = fitted(&wide, (16, 16), Fit::Pad, [255; 3]);
        assert!(changed && padded.pixel(0, 0) == [255; 3] && padded.pixel(8, 8) == [9; 3]);
        let (cropped, changed) = fitted(&wide, (16, 16), Fit::Crop, [255; 3]);
        assert!(changed && cropped == Picture::filled(16, 16, [9; 3]));
        assert!(!fitted(&wide, (80, 40), Fit::Crop, [0; 3]).1);
    }

    #[test]
    fn colours_are_six_digits() {
        assert_eq!(colour("#0a00ff").unwrap(), [10, 0, 255]);
        assert!(colour("fff").is_err() && colour("gggggg").is_err());
    }
}
