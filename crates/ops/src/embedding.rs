//! Sinusoidal embedding of timesteps.

use candle_core::{Device, Result, Tensor};

/// How the sinusoids are laid out; the defaults are those of DiT, PixArt and Stable Diffusion.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TimestepEmbeddingOptions {
    /// Cosines first, then sines (diffusers' `flip_sin_to_cos`).
    pub cosines_first: bool,
    /// Subtracted from the number of frequencies in the exponent's divisor (diffusers' `downscale_freq_shift`).
    pub frequency_shift: f32,
    /// Period of the slowest sinusoid.
    pub longest_period: f32,
}

impl Default for TimestepEmbeddingOptions {
    fn default() -> Self {
        Self { cosines_first: true, frequency_shift: 0.0, longest_period: 10_000.0 }
    }
}

/// Sinusoids of each timestep (arXiv 2006.11239, after arXiv 1706.03762): `[timesteps, width]`, f32 on the CPU. An odd
/// `width` ends with a column of zeros.
///
/// # Errors
/// Only when candle cannot make the tensor.
pub fn timestep_embedding(timesteps: &[f32], width: usize, options: &TimestepEmbeddingOptions) -> Result<Tensor> {
    let half = width / 2;
    let step = -options.longest_period.ln() / (half as f32 - options.frequency_shift);
    let frequencies: Vec<f32> = (0..half).map(|index| (step * index as f32).exp()).collect();
    let mut values = Vec::with_capacity(timesteps.len() * width);
    for &timestep in timesteps {
        let sines = frequencies.iter().map(|frequency| (timestep * frequency).sin());
        let cosines = frequencies.iter().map(|frequency| (timestep * frequency).cos());
        if options.cosines_first {
            values.extend(cosines.chain(sines));
        } else {
            values.extend(sines.chain(cosines));
        }
        values.extend(std::iter::repeat_n(0.0, width % 2));
    }
    Tensor::from_vec(values, (timesteps.len(), width), &Device::Cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestep_zero_gives_ones_then_zeros() {
        let options = TimestepEmbeddingOptions::default();
        let rows = timestep_embedding(&[0.0, 1.0], 5, &options).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(rows[0], [1.0, 1.0, 0.0, 0.0, 0.0]);
        assert_eq!(rows[1], [1f32.cos(), 0.01f32.cos(), 1f32.sin(), 0.01f32.sin(), 0.0]);
    }
}
