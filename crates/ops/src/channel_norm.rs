//! RMS norm over the channels of pictures, pixel by pixel.

use candle_core::{D, Result, Tensor};

use crate::differentiable::{Values, is_plain, tied};
use crate::parallel::{WORTH_VALUES, written_chunks};
use crate::profile::{self, Kind};
use crate::types::OpsError;

/// Shortest length that is not divided by, as PyTorch's `normalize` has it.
const SHORTEST: f32 = 1e-12;

/// Each pixel's channels divided by their length, times √c and `weight` `[c]` (frozen): `[n, c, h, w]` to the same. The
/// norm of Wan's autoencoder.
///
/// # Errors
/// When the weight has another length than there are channels.
pub fn channel_rms_norm(input: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (_, channels, height, width) = input.dims4()?;
    if weight.dims() != [channels] {
        let (found, expected) = (weight.dims().to_vec(), format!("[{channels}]"));
        return Err(OpsError::Shape { operation: "channel norm", argument: "weight", found, expected }.into());
    }
    if !is_plain(input) || !is_plain(weight) || weight.track_op() {
        return channel_rms_norm_reference(input, weight);
    }
    let (plain, weight) = (input.contiguous()?, weight.contiguous()?);
    let output = {
        let (values, weight) = (Values::of(&plain)?, Values::of(&weight)?);
        let (pixels, picture) = ((height * width).max(1), channels * height * width);
        // SAFETY: `norm_picture` writes every value of its picture.
        #[allow(unsafe_code)]
        unsafe {
            let _timed = profile::timed(Kind::Norm);
            written_chunks(values.len(), picture, values.len() >= WORTH_VALUES, |index, output| {
                norm_picture(&values[index * picture..][..output.len()], output, &weight, pixels);
            })
        }
    };
    tied(output, input.shape(), &[input], move |inputs| channel_rms_norm_reference(&inputs[0], &weight))
}

fn norm_picture(input: &[f32], output: &mut [f32], weight: &[f32], pixels: usize) {
    let mut factors = vec![0.0f32; pixels];
    for plane in input.chunks_exact(pixels) {
        for (sum, value) in factors.iter_mut().zip(plane) {
            *sum += value * value;
        }
    }
    let scale = (weight.len() as f32).sqrt();
    for factor in &mut factors {
        *factor = scale / factor.sqrt().max(SHORTEST);
    }
    for ((input, output), weight) in input.chunks_exact(pixels).zip(output.chunks_exact_mut(pixels)).zip(weight) {
        for ((output, value), factor) in output.iter_mut().zip(input).zip(&factors) {
            *output = value * factor * weight;
        }
    }
}

/// The plain twin of [`channel_rms_norm`].
///
/// # Errors
/// As [`channel_rms_norm`].
pub fn channel_rms_norm_reference(input: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let channels = input.dim(D::Minus(3))?;
    let length = input.sqr()?.sum_keepdim(1)?.sqrt()?.maximum(f64::from(SHORTEST))?;
    let scaled = (input.broadcast_div(&length)? * (channels as f64).sqrt())?;
    scaled.broadcast_mul(&weight.reshape((1, channels, 1, 1))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn agrees_with_its_twin() {
        let random = |shape: &[usize]| Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap();
        for shape in [[2, 5, 3, 4], [1, 1, 1, 1], [3, 8, 1, 7]] {
            let (input, weight) = (random(&shape), random(&shape[1..2]));
            let fast = channel_rms_norm(&input, &weight).unwrap();
            let plain = channel_rms_norm_reference(&input, &weight).unwrap();
            assert!(crate::relative_l2(&plain, &fast).unwrap() < 1e-6);
        }
        let zeros = random(&[1, 3, 2, 2]).zeros_like().unwrap();
        let normed = channel_rms_norm(&zeros, &random(&[3])).unwrap();
        assert!(normed.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().all(|value| *value == 0.0));
    }
}
