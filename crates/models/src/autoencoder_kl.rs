//! The autoencoder of latent diffusion (arXiv 2112.10752), in diffusers' AutoencoderKL layout.
//!
//! Encoder and decoder load apart: generation never needs the first.

mod blocks;
mod config;

use candle_core::{Result, Tensor};
use refrain_ops::{Activation, Conv2d, GroupNorm, Precision};

use blocks::{Direction, Level, LevelShape, Middle, Style};
pub use config::AutoencoderKlConfig;

use crate::{error::ModelError, transformer::edge_precision, weights::Weights};

/// Latents to pictures.
#[derive(Debug)]
pub struct Decoder {
    post_quant_conv: Option<Conv2d>,
    conv_in: Conv2d,
    middle: Middle,
    levels: Vec<Level>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    /// Loads the decoder from the root of the autoencoder's checkpoint.
    ///
    /// # Errors
    /// Names a tensor that is missing or does not fit the configuration.
    pub fn load(
        weights: &Weights,
        config: &AutoencoderKlConfig,
        precision: Precision,
    ) -> std::result::Result<Self, ModelError> {
        // Convolutions know no 8-bit form; pictures would show it.
        let style = Style::new(config, edge_precision(precision));
        let decoder = weights.at("decoder");
        let (latent, channels) = (config.latent_channels, &config.block_out_channels);
        let finest = channels.first().copied().unwrap_or_default();
        let coarsest = channels.last().copied().unwrap_or_default();
        let mut inputs = coarsest;
        let mut levels = Vec::with_capacity(channels.len());
        for (index, (outputs, attention)) in channels.iter().rev().zip(&config.up_attention).enumerate() {
            let shape = LevelShape {
                inputs,
                outputs: *outputs,
                layers: config.layers_per_block + 1,
                attention: *attention,
                direction: Direction::Up { last: index + 1 == channels.len() },
            };
            levels.push(Level::load(&decoder.at("up_blocks").at(index), shape, style)?);
            inputs = *outputs;
        }
        Ok(Self {
            post_quant_conv: config
                .post_quant_conv
                .then(|| style.convolution(&weights.at("post_quant_conv"), (latent, latent), 1))
                .transpose()?,
            conv_in: style.convolution(&decoder.at("conv_in"), (latent, coarsest), 3)?,
            middle: Middle::load(&decoder.at("mid_block"), coarsest, config.mid_attention, style)?,
            levels,
            norm_out: style.norm(&decoder.at("conv_norm_out"), finest)?,
            conv_out: style.convolution(&decoder.at("conv_out"), (finest, config.out_channels), 3)?,
        })
    }

    /// Unscaled latents `[b, latent channels, h, w]` to pictures `[b, channels, h * factor, w * factor]`, about −1..1.
    ///
    /// # Errors
    /// If the latents have another number of channels.
    pub fn forward(&self, latents: &Tensor) -> Result<Tensor> {
        let latents = match &self.post_quant_conv {
            Some(convolution) => convolution.forward(latents)?,
            None => latents.clone(),
        };
        let mut hidden = self.middle.forward(&self.conv_in.forward(&latents)?)?;
        for level in &self.levels {
            hidden = level.forward(hidden)?;
        }
        self.conv_out.forward(&self.norm_out.forward(&hidden, Activation::Silu)?)
    }
}

/// Pictures to latents.
#[derive(Debug)]
pub struct Encoder {
    conv_in: Conv2d,
    levels: Vec<Level>,
    middle: Middle,
    norm_out: GroupNorm,
    conv_out: Conv2d,
    quant_conv: Option<Conv2d>,
    latent_channels: usize,
}

impl Encoder {
    /// Loads the encoder from the root of the autoencoder's checkpoint.
    ///
    /// # Errors
    /// Names a tensor that is missing or does not fit the configuration.
    pub fn load(
        weights: &Weights,
        config: &AutoencoderKlConfig,
        precision: Precision,
    ) -> std::result::Result<Self, ModelError> {
        let style = Style::new(config, edge_precision(precision));
        let encoder = weights.at("encoder");
        let channels = &config.block_out_channels;
        let finest = channels.first().copied().unwrap_or_default();
        let coarsest = channels.last().copied().unwrap_or_default();
        // Mean and log-variance side by side.
        let moments = 2 * config.latent_channels;
        let mut inputs = finest;
        let mut levels = Vec::with_capacity(channels.len());
        for (index, (outputs, attention)) in channels.iter().zip(&config.down_attention).enumerate() {
            let shape = LevelShape {
                inputs,
                outputs: *outputs,
                layers: config.layers_per_block,
                attention: *attention,
                direction: Direction::Down { last: index + 1 == channels.len() },
            };
            levels.push(Level::load(&encoder.at("down_blocks").at(index), shape, style)?);
            inputs = *outputs;
        }
        Ok(Self {
            conv_in: style.convolution(&encoder.at("conv_in"), (config.in_channels, finest), 3)?,
            levels,
            middle: Middle::load(&encoder.at("mid_block"), coarsest, config.mid_attention, style)?,
            norm_out: style.norm(&encoder.at("conv_norm_out"), coarsest)?,
            conv_out: style.convolution(&encoder.at("conv_out"), (coarsest, moments), 3)?,
            quant_conv: config
                .quant_conv
                .then(|| style.convolution(&weights.at("quant_conv"), (moments, moments), 1))
                .transpose()?,
            latent_channels: config.latent_channels,
        })
    }

    /// Pictures `[b, channels, height, width]` in −1..1 to the mean of their unscaled latents
    /// `[b, latent channels, height / factor, width / factor]`.
    ///
    /// # Errors
    /// If the pictures have another number of channels, or a side that halves to nothing.
    pub fn forward(&self, pictures: &Tensor) -> Result<Tensor> {
        let mut hidden = self.conv_in.forward(pictures)?;
        for level in &self.levels {
            hidden = level.forward(hidden)?;
        }
        let hidden = self.norm_out.forward(&self.middle.forward(&hidden)?, Activation::Silu)?;
        let mut moments = self.conv_out.forward(&hidden)?;
        if let Some(convolution) = &self.quant_conv {
            moments = convolution.forward(&moments)?;
        }
        moments.narrow(1, 0, self.latent_channels)?.contiguous()
    }
}
