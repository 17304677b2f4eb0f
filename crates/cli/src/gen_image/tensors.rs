//! Noise in and results out as safetensors, for comparisons with other programs.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use sha2::{Digest as _, Sha256};

use crate::errors::usage;

/// Key of latents in files, in and out.
const LATENTS: &str = "latents";
/// Key of the pictures.
const IMAGE: &str = "image";
/// Text key of the recipes in a file of results.
const RECIPES: &str = "refrain";
/// Largest file of starting noise: latents are small.
const LARGEST_FILE: u64 = 4 << 30;

/// Reads `latents` `[n, c, h, w]` as n tensors `[1, c, h, w]`.
///
/// # Errors
/// A file that cannot be read, or that does not hold `count` latents (exit 2).
pub(crate) fn read_latents(path: &Path, count: usize) -> anyhow::Result<Vec<Tensor>> {
    let wrong = |why: String| usage(format!("--latents {}: {why}", path.display()));
    let all = read_tensor(path)?;
    let [found, _, _, _] = *all.dims() else {
        return Err(wrong(format!("tensor `{LATENTS}` has shape {:?}, expected [n, c, h, w]", all.dims())));
    };
    if found != count {
        return Err(wrong(format!("it holds {found} latents, but {count} pictures are asked for")));
    }
    (0..count).map(|index| Ok(all.narrow(0, index, 1)?.contiguous()?)).collect()
}

/// Reads the tensor `latents`, of whatever shape, as f32.
///
/// # Errors
/// A file that cannot be read, or that holds no such tensor of floating point (exit 2).
pub(crate) fn read_tensor(path: &Path) -> anyhow::Result<Tensor> {
    let shown = path.display();
    let wrong = |why: String| usage(format!("--latents {shown}: {why}"));
    let size = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?.len();
    if size > LARGEST_FILE {
        return Err(wrong(format!("{size} bytes are more than any starting noise")));
    }
    let bytes = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| wrong(format!("not a safetensors file: {error}")))?;
    let names = file.names().into_iter().take(5).collect::<Vec<_>>().join(", ");
    let view = file.tensor(LATENTS).map_err(|_| wrong(format!("no tensor `{LATENTS}` in it, only: {names}")))?;
    let dtype = match view.dtype() {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::F64 => DType::F64,
        other => return Err(wrong(format!("tensor `{LATENTS}` has type {other:?}, expected F32"))),
    };
    Ok(Tensor::from_raw_buffer(view.data(), dtype, view.shape(), &Device::Cpu)?.to_dtype(DType::F32)?)
}

/// SHA-256 of a tensor's f32 values.
///
/// # Errors
/// Never for a tensor on the CPU.
pub(crate) fn hash(tensor: &Tensor) -> anyhow::Result<String> {
    Ok(digest(&little_endian(tensor)?))
}

/// SHA-256 of some bytes, in hexadecimal digits.
pub(crate) fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Results as the bytes of a file: `latents` `[n, c, h, w]`, `image` `[n, 3, H, W]` in 0..1, and the recipes as text.
///
/// # Errors
/// Pictures of different sizes.
pub(crate) fn results(latents: &[Tensor], images: &[Tensor], recipes: &[serde_json::Value]) -> anyhow::Result<Vec<u8>> {
    let (latents, images) = (Tensor::cat(latents, 0)?, Tensor::cat(images, 0)?);
    let (latent_bytes, image_bytes) = (little_endian(&latents)?, little_endian(&images)?);
    let tensors = [
        (LATENTS, TensorView::new(Dtype::F32, latents.dims().to_vec(), &latent_bytes)?),
        (IMAGE, TensorView::new(Dtype::F32, images.dims().to_vec(), &image_bytes)?),
    ];
    let text = HashMap::from([(RECIPES.to_owned(), serde_json::to_string(recipes)?)]);
    Ok(safetensors::serialize(tensors, Some(text))?)
}

fn little_endian(tensor: &Tensor) -> anyhow::Result<Vec<u8>> {
    let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    Ok(values.into_iter().flat_map(f32::to_le_bytes).collect())
}
