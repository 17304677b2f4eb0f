//! A linear look at latents: colour = matrix · channels + offset, per latent pixel.
//!
//! Tools carry such matrices for the autoencoders that they know. Here the matrix is fitted: one picture's latents are
//! decoded, the result is averaged down to the latent grid, and ridge-regularised least squares finds the matrix. So it
//! works for any autoencoder, and costs a few decodings instead of one per preview.

use candle_core::{DType, Tensor};
use refrain_media::Picture;

/// Keeps the fit stable when channels are correlated, as share of the mean squared channel.
const RIDGE: f64 = 1e-2;
/// Colours.
const COLOURS: usize = 3;

/// The fit, and the samples it rests on.
#[derive(Debug, Clone)]
pub(crate) struct LatentProjection {
    /// `[channel][colour]`, the offset last.
    weights: Vec<[f64; COLOURS]>,
    /// Sums of the least-squares problem, its right sides behind it.
    sums: Vec<Vec<f64>>,
}

impl LatentProjection {
    /// Fits to latents `[1, c, h, w]` and their decoded picture `[1, 3, f·h, f·w]` in 0..1.
    ///
    /// # Errors
    /// Shapes that do not belong together.
    pub(crate) fn fit(latents: &Tensor, image: &Tensor) -> anyhow::Result<Self> {
        let unknowns = latents.dim(1)? + 1;
        let mut fit = Self { weights: Vec::new(), sums: vec![vec![0.0; unknowns + COLOURS]; unknowns] };
        fit.learn(latents, image)?;
        Ok(fit)
    }

    /// Adds a picture to the fit: early estimates show hardly any detail, later ones do.
    ///
    /// # Errors
    /// Shapes that do not belong together.
    pub(crate) fn learn(&mut self, latents: &Tensor, image: &Tensor) -> anyhow::Result<()> {
        let (_, channels, height, width) = latents.dims4()?;
        let factor = image.dim(2)? / height.max(1);
        let fits = factor > 0 && image.dims() == [1, COLOURS, factor * height, factor * width];
        anyhow::ensure!(fits && channels + 1 == self.sums.len(), "latents and picture do not belong together");
        let small = image.contiguous()?.avg_pool2d(factor)?;
        for (sample, target) in columns(latents)?.iter().zip(columns(&small)?) {
            let known: Vec<f64> = sample.iter().copied().chain([1.0]).collect();
            for (row, &left) in self.sums.iter_mut().zip(&known) {
                for (cell, &value) in row.iter_mut().zip(known.iter().chain(&target)) {
                    *cell += left * value;
                }
            }
        }
        let mut system = self.sums.clone();
        let power =
            (0..channels).filter_map(|index| self.sums.get(index)?.get(index)).sum::<f64>() / channels.max(1) as f64;
        for (index, row) in system.iter_mut().enumerate().take(channels) {
            if let Some(cell) = row.get_mut(index) {
                *cell += RIDGE * power + f64::MIN_POSITIVE;
            }
        }
        self.weights = solve(system);
        Ok(())
    }

    /// Latents `[1, c, h, w]` as a picture of `w`×`h` pixels.
    ///
    /// # Errors
    /// Another number of channels than the fit had.
    pub(crate) fn picture(&self, latents: &Tensor) -> anyhow::Result<Picture> {
        let (_, channels, height, width) = latents.dims4()?;
        anyhow::ensure!(channels + 1 == self.weights.len(), "the projection is of other latents");
        let mut pixels = Vec::with_capacity(height * width * COLOURS);
        for sample in columns(latents)? {
            let mut colour = self.weights.last().copied().unwrap_or_default();
            for (value, weights) in sample.iter().zip(&self.weights) {
                for (sum, weight) in colour.iter_mut().zip(weights) {
                    *sum += value * weight;
                }
            }
            pixels.extend(colour.map(|value| (value.clamp(0.0, 1.0) * 255.0).round() as u8));
        }
        Ok(Picture::from_rgb8(u32::try_from(width)?, u32::try_from(height)?, pixels)?)
    }
}

/// `[1, c, h, w]` as one vector of channels per place.
fn columns(tensor: &Tensor) -> anyhow::Result<Vec<Vec<f64>>> {
    let flat = tensor.to_dtype(DType::F64)?.squeeze(0)?.flatten_from(1)?;
    Ok(flat.t()?.contiguous()?.to_vec2()?)
}

/// Gauss-Jordan elimination of an augmented system `[unknowns][unknowns + colours]` with pivoting.
fn solve(mut system: Vec<Vec<f64>>) -> Vec<[f64; COLOURS]> {
    let unknowns = system.len();
    let cell = |row: &[f64], column: usize| row.get(column).copied().unwrap_or(0.0);
    for column in 0..unknowns {
        let rows = column..unknowns;
        let strongest = rows.max_by(|&a, &b| {
            let size = |index: usize| system.get(index).map_or(0.0, |row| cell(row, column).abs());
            size(a).total_cmp(&size(b))
        });
        system.swap(column, strongest.unwrap_or(column));
        let Some(pivot) = system.get(column).cloned() else { continue };
        let lead = cell(&pivot, column);
        if lead.abs() < f64::MIN_POSITIVE {
            continue;
        }
        for (index, row) in system.iter_mut().enumerate() {
            let share = if index == column { 1.0 - 1.0 / lead } else { cell(row, column) / lead };
            for (value, &base) in row.iter_mut().zip(&pivot) {
                *value -= share * base;
            }
        }
    }
    system.iter().map(|row| std::array::from_fn(|colour| cell(row, unknowns + colour))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn a_linear_decoder_is_found_again() {
        let values: Vec<f32> = (0..2 * 16).map(|index| ((index * 37 % 17) as f32 / 17.0 - 0.5) * 0.4).collect();
        let latents = Tensor::from_vec(values, (1, 2, 4, 4), &Device::Cpu).unwrap();
        let (first, second) = (latents.narrow(1, 0, 1).unwrap(), latents.narrow(1, 1, 1).unwrap());
        let red = (&first + 0.5).unwrap();
        let green = second.affine(0.5, 0.5).unwrap();
        let blue = (&first - &second).unwrap().affine(0.5, 0.5).unwrap();
        let image = Tensor::cat(&[&red, &green, &blue], 1).unwrap().upsample_nearest2d(8, 8).unwrap();
        let picture = LatentProjection::fit(&latents, &image).unwrap().picture(&latents).unwrap();
        let expected = image.avg_pool2d(2).unwrap().flatten_from(2).unwrap().squeeze(0).unwrap();
        let expected: Vec<Vec<f32>> = expected.t().unwrap().to_vec2().unwrap();
        for (pixel, wanted) in picture.pixels().chunks(3).zip(expected) {
            for (&got, want) in pixel.iter().zip(wanted) {
                assert!((f32::from(got) / 255.0 - want).abs() < 0.02, "{got} {want}");
            }
        }
    }
}
