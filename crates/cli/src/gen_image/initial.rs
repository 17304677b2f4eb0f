//! The picture of `--init-img`: read, brought to the size that is to be made, and known by the hash of its file.

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use refrain_media::{LoadOptions, Picture, decode_picture};
use refrain_pipeline::{InitialPicture, Pipeline};

use super::tensors;
use crate::errors::{resources, usage, usage_because};
use crate::machine;

/// Largest file; beyond it no decoder is asked.
const LARGEST_FILE: u64 = 256 << 20;

/// What a pixel takes while the picture is scaled: as bytes twice, as f32 twice.
const BYTES_PER_PIXEL: usize = 30;

/// A picture to start from, at the size of the result.
#[derive(Debug, Clone)]
pub(crate) struct Initial {
    /// SHA-256 of the file.
    pub(crate) hash: String,
    /// Width and height of the result in pixels.
    pub(crate) size: (usize, usize),
    /// What the pipeline is given.
    pub(crate) picture: InitialPicture,
}

impl Initial {
    /// Reads the picture for a result of `asked` width and height. What is not asked for follows from the picture's shape
    /// and the model's own number of pixels. The picture is scaled to cover the result; what stands out is cut.
    ///
    /// # Errors
    /// A file that cannot be read or is no picture (exit 2), or is too large (exit 3).
    pub(crate) fn read(
        (path, strength): &(PathBuf, f64),
        pipeline: &Pipeline,
        asked: (Option<usize>, Option<usize>),
    ) -> anyhow::Result<Self> {
        let (hash, picture) = load(path)?;
        let size = result_size(&picture, pipeline, asked);
        // A size that the model refuses is refused before anything of that size is made.
        pipeline.latent_shape(size.1, size.0, 0).map_err(usage_because)?;
        let bytes = size.0.saturating_mul(size.1).saturating_mul(BYTES_PER_PIXEL) as u64;
        machine::require_memory(bytes, &format!("a picture of {}x{}", size.0, size.1))?;
        let fitted = picture.covering(clamped(size.0), clamped(size.1));
        let shape = (1, 3, fitted.height() as usize, fitted.width() as usize);
        let picture = Tensor::from_vec(fitted.to_planar_unit(), shape, &Device::Cpu)?;
        Ok(Self { hash, size, picture: InitialPicture { picture, strength: *strength } })
    }
}

fn load(path: &Path) -> anyhow::Result<(String, Picture)> {
    let shown = path.display();
    let unreadable = |error: std::io::Error| usage(format!("--init-img: cannot read {shown}: {error}"));
    let size = std::fs::metadata(path).map_err(unreadable)?.len();
    if size > LARGEST_FILE {
        return Err(resources(format!("--init-img: {shown}: {size} bytes are more than any picture")));
    }
    let bytes = std::fs::read(path).map_err(unreadable)?;
    let picture = decode_picture(&format!("--init-img: {shown}"), &bytes, &LoadOptions::default());
    let picture = picture.map_err(|error| match error.is_resource() {
        true => resources(error.to_string()),
        false => usage_because(error),
    })?;
    Ok((tensors::digest(&bytes), picture))
}

/// Width and height of the result. Without a wish: the multiples nearest to the picture's shape at the model's own number
/// of pixels; with one side given, the other follows the shape.
fn result_size(picture: &Picture, pipeline: &Pipeline, asked: (Option<usize>, Option<usize>)) -> (usize, usize) {
    let (own_height, own_width) = pipeline.default_size();
    let multiple = pipeline.size_multiple() as f64;
    let nearest = |side: f64| ((side / multiple).round().max(1.0) * multiple) as usize;
    let aspect = f64::from(picture.width()) / f64::from(picture.height());
    let pixels = own_height as f64 * own_width as f64;
    match asked {
        (Some(width), Some(height)) => (width, height),
        (Some(width), None) => (width, nearest(width as f64 / aspect)),
        (None, Some(height)) => (nearest(height as f64 * aspect), height),
        (None, None) => (nearest((pixels * aspect).sqrt()), nearest((pixels / aspect).sqrt())),
    }
}

/// A side for the scaler; a side beyond all measure is refused with the request.
fn clamped(side: usize) -> u32 {
    u32::try_from(side).unwrap_or(u32::MAX).min(LoadOptions::default().max_side)
}
