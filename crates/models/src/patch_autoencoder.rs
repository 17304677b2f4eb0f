//! An autoencoder of one linear layer each way: patches of a picture to latents and back.
//!
//! A frame of a live picture has a few milliseconds for its autoencoder. An orthogonal transform of square patches that keeps
//! the directions of largest variance (principal components, as JPEG's cosines nearly are) takes a fraction of one, and
//! keeps camera pictures of 128 pixels at 37 dB and more; the transformer does the rest. The weights hold the transform and
//! the standardisation of the latents together, so that each latent channel has about unit variance.

use candle_core::{Result, Tensor};
use refrain_ops::{Linear, Precision};

use crate::{config::ConfigFile, error::ModelError, weights::Weights};

/// Dimensions of a patch autoencoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PatchAutoencoderConfig {
    /// Channels of the pictures.
    pub in_channels: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Side of a patch in pixels, which becomes one latent pixel.
    pub patch: usize,
}

impl PatchAutoencoderConfig {
    /// Reads and checks a `config.json`.
    ///
    /// # Errors
    /// Names the field that no patch autoencoder can have.
    pub fn from_json(config: &ConfigFile) -> std::result::Result<Self, ModelError> {
        Ok(Self {
            in_channels: config.count("in_channels", Some(3), 1..=64)?,
            latent_channels: config.count("latent_channels", None, 1..=4096)?,
            patch: config.count("patch_size", None, 1..=64)?,
        })
    }

    fn patch_values(self) -> usize {
        self.in_channels * self.patch * self.patch
    }
}

/// Both directions.
#[derive(Debug)]
pub struct PatchAutoencoder {
    config: PatchAutoencoderConfig,
    encoder: Linear,
    decoder: Linear,
    parameters: usize,
}

impl PatchAutoencoder {
    /// Loads `encoder.weight` `[latent, channels, patch, patch]`, `encoder.bias` `[latent]`, `decoder.weight`
    /// `[latent, channels, patch, patch]` and `decoder.bias` `[channels, patch, patch]`. It always computes in f32: an error
    /// here is an error of every pixel, and there is nothing to save.
    ///
    /// # Errors
    /// Names a tensor that is missing or does not fit the configuration.
    pub fn load(weights: &Weights, config: PatchAutoencoderConfig) -> std::result::Result<Self, ModelError> {
        let PatchAutoencoderConfig { in_channels, latent_channels, patch } = config;
        let shape = [latent_channels, in_channels, patch, patch];
        let values = config.patch_values();
        let flat = |name: &str| -> std::result::Result<Tensor, ModelError> {
            Ok(weights.tensor_f32(name, &shape)?.reshape((latent_channels, values))?)
        };
        let bias = weights.tensor_f32("encoder.bias", &[latent_channels])?;
        let mean = weights.tensor_f32("decoder.bias", &shape[1..])?.reshape(values)?;
        let synthesis = flat("decoder.weight")?.t()?.contiguous()?;
        Ok(Self {
            config,
            encoder: Linear::new(&flat("encoder.weight")?, Some(&bias), Precision::F32)?,
            decoder: Linear::new(&synthesis, Some(&mean), Precision::F32)?,
            parameters: weights.parameters(),
        })
    }

    /// Its dimensions.
    pub fn config(&self) -> PatchAutoencoderConfig {
        self.config
    }

    /// All its parameters, as counted in the checkpoint.
    pub fn parameters(&self) -> usize {
        self.parameters
    }

    /// Pictures `[b, channels, height, width]` in −1..1 to latents `[b, latent channels, height / patch, width / patch]`.
    ///
    /// # Errors
    /// If the pictures have another number of channels or do not divide into patches.
    pub fn encode(&self, pictures: &Tensor) -> Result<Tensor> {
        let side = self.config.patch;
        let (batch, channels, height, width) = pictures.dims4()?;
        if channels != self.config.in_channels || !height.is_multiple_of(side) || !width.is_multiple_of(side) {
            let expected = self.config.in_channels;
            candle_core::bail!(
                "pictures of {channels}x{height}x{width}, expected {expected} channels and sides that are multiples of {side}"
            );
        }
        let (rows, columns) = (height / side, width / side);
        let spread = [batch, channels, rows, side, columns, side];
        let patches = pictures.reshape(&spread[..])?.permute([0, 2, 4, 1, 3, 5])?;
        let latents = self.encoder.forward(&patches.reshape((batch, rows * columns, self.config.patch_values()))?)?;
        latents.transpose(1, 2)?.reshape((batch, self.config.latent_channels, rows, columns))
    }

    /// Latents `[b, latent channels, h, w]` to pictures `[b, channels, h * patch, w * patch]`, about −1..1.
    ///
    /// # Errors
    /// If the latents have another number of channels.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        let (side, channels) = (self.config.patch, self.config.in_channels);
        let (batch, _, rows, columns) = latents.dims4()?;
        let tokens = latents.flatten_from(2)?.transpose(1, 2)?.contiguous()?;
        let spread = [batch, rows, columns, channels, side, side];
        let patches = self.decoder.forward(&tokens)?.reshape(&spread[..])?.permute([0, 3, 1, 4, 2, 5])?;
        patches.reshape((batch, channels, rows * side, columns * side))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};
    use std::collections::HashMap;

    const CONFIG: PatchAutoencoderConfig = PatchAutoencoderConfig { in_channels: 3, latent_channels: 12, patch: 2 };

    /// A permutation of the patch's values: orthogonal, so decoding gives everything back.
    fn permutation() -> PatchAutoencoder {
        let mut weight = vec![0_f32; 12 * 12];
        (0..12).for_each(|row| weight[row * 12 + (row * 5 + 3) % 12] = 1.0);
        let weight = Tensor::from_vec(weight, (12, 3, 2, 2), &Device::Cpu).unwrap();
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        let tensors = HashMap::from([
            ("encoder.weight".to_owned(), weight.clone()),
            ("encoder.bias".to_owned(), zeros(&[12])),
            ("decoder.weight".to_owned(), weight),
            ("decoder.bias".to_owned(), zeros(&[3, 2, 2])),
        ]);
        PatchAutoencoder::load(&Weights::from_tensors(tensors), CONFIG).unwrap()
    }

    #[test]
    fn an_orthogonal_transform_gives_the_picture_back() -> Result<()> {
        let picture = Tensor::arange(0_f32, 2.0 * 3.0 * 4.0 * 6.0, &Device::Cpu)?.reshape((2, 3, 4, 6))?;
        let autoencoder = permutation();
        let latents = autoencoder.encode(&picture)?;
        assert_eq!(latents.dims(), [2, 12, 2, 3]);
        // The first latent is value (0 · 5 + 3) of each patch: red, second row, second column.
        assert_eq!(latents.get(0)?.get(0)?.get(0)?.to_vec1::<f32>()?, [7.0, 9.0, 11.0]);
        let back = autoencoder.decode(&latents)?;
        assert_eq!(back.flatten_all()?.to_vec1::<f32>()?, picture.flatten_all()?.to_vec1::<f32>()?);
        Ok(())
    }

    #[test]
    fn pictures_that_do_not_fit_are_refused() -> Result<()> {
        for shape in [[1, 3, 5, 4], [1, 4, 4, 4]] {
            assert!(permutation().encode(&Tensor::zeros(&shape, DType::F32, &Device::Cpu)?).is_err());
        }
        Ok(())
    }
}
