//! Wan's causal video autoencoder (arXiv 2503.20314): clips to latents and back, in pieces of any length.
//!
//! Every convolution over time looks back only, and a [`FeatureCache`] keeps the frames that it will look back to. So a
//! clip that comes in pieces gives the very bits of the whole: an encoder takes frames as they come and gives a latent
//! frame whenever one is complete; a decoder gives one frame for a clip's first latent and as many as the time factor
//! (four) for each later one.

mod config;
mod layers;
mod names;

use candle_core::{Device, Result, Tensor};
use refrain_ops::{Precision, channel_rms_norm, silu};

pub use config::AutoencoderWanConfig;
pub use layers::FeatureCache;
use layers::{AttentionBlock, CausalConv, Down, Loader, ResidualBlock, Up};

use crate::{error::ModelError, weights::Weights};

type Loaded<T> = std::result::Result<T, ModelError>;

/// Residual block, attention, residual block.
#[derive(Debug)]
struct Middle {
    before: ResidualBlock,
    attention: AttentionBlock,
    after: ResidualBlock,
}

impl Middle {
    fn load(loader: &mut Loader, weights: &Weights, channels: usize) -> Loaded<Self> {
        Ok(Self {
            before: loader.residual(&weights.at("resnets.0"), (channels, channels))?,
            attention: loader.attention(&weights.at("attentions.0"), channels)?,
            after: loader.residual(&weights.at("resnets.1"), (channels, channels))?,
        })
    }

    fn forward(&self, input: &Tensor, cache: &mut FeatureCache) -> Result<Tensor> {
        let hidden = self.before.forward(input, cache)?;
        self.after.forward(&self.attention.forward(&hidden)?, cache)
    }
}

/// Clips to latents.
#[derive(Debug)]
pub struct Encoder {
    input: CausalConv,
    levels: Vec<(Vec<ResidualBlock>, Option<Down>)>,
    middle: Middle,
    norm: Tensor,
    output: CausalConv,
    quantised: CausalConv,
    /// `[1, c, 1, 1]`: taken off, and multiplied by.
    scale: (Tensor, Tensor),
    slots: usize,
    config: AutoencoderWanConfig,
}

impl Encoder {
    /// Loads the encoder from the root of the autoencoder's checkpoint, in diffusers' or the original layout.
    ///
    /// # Errors
    /// Names a tensor that is missing or does not fit the configuration.
    pub fn load(weights: &Weights, config: &AutoencoderWanConfig, precision: Precision) -> Loaded<Self> {
        let weights = names::any_layout(weights, config.residual_blocks);
        let (loader, place) = (&mut Loader::new(precision), weights.at("encoder"));
        let blocks = place.at("down_blocks");
        let mut channels = config.base_width;
        let input = loader.causal(&place.at("conv_in"), (config.picture_channels, channels), (3, 3))?;
        let (mut levels, mut index) = (Vec::new(), 0);
        for (level, multiple) in config.multiples.iter().enumerate() {
            let outputs = multiple * config.base_width;
            let mut residuals = Vec::new();
            for _ in 0..config.residual_blocks {
                residuals.push(loader.residual(&blocks.at(index), (channels, outputs))?);
                (channels, index) = (outputs, index + 1);
            }
            let down = config.halve_time.get(level).map(|&halve| loader.down(&blocks.at(index), channels, halve));
            index += 1;
            levels.push((residuals, down.transpose()?));
        }
        let both = 2 * config.latent_channels;
        Ok(Self {
            input,
            levels,
            middle: Middle::load(loader, &place.at("mid_block"), channels)?,
            norm: loader.norm(&place.at("norm_out"), channels)?,
            output: loader.causal(&place.at("conv_out"), (channels, both), (3, 3))?,
            quantised: loader.causal(&weights.at("quant_conv"), (both, both), (1, 1))?,
            scale: (per_channel(&config.latents_mean)?, per_channel(&reciprocals(&config.latents_std))?),
            slots: loader.slots,
            config: config.clone(),
        })
    }

    /// The memory of a clip that begins.
    pub fn begin(&self) -> FeatureCache {
        FeatureCache::new(self.slots)
    }

    /// The next frames `[1, 3, t, h, w]`, in -1..1, to the latent frames `[1, c, t', h', w']` that they complete: the mean
    /// of their distribution, standardised. `None` if they complete none.
    ///
    /// # Errors
    /// When the sides do not divide by the factor, or frames of another size came before.
    pub fn forward(&self, frames: &Tensor, cache: &mut FeatureCache) -> Result<Option<Tensor>> {
        let (rows, _, count, height, width) = frames.dims5()?;
        let factor = self.config.factor();
        let sides = height > 0 && width > 0 && height.is_multiple_of(factor) && width.is_multiple_of(factor);
        if rows != 1 || count == 0 || !sides {
            candle_core::bail!("a clip of shape {:?}, expected sides that divide by {factor}", frames.dims());
        }
        let mut hidden = self.input.forward(&frames_first(frames)?, None, cache)?;
        for (residuals, down) in &self.levels {
            for residual in residuals {
                hidden = residual.forward(&hidden, cache)?;
            }
            if let Some(down) = down {
                match down.forward(&hidden, cache)? {
                    Some(halved) => hidden = halved,
                    None => return Ok(None),
                }
            }
        }
        let hidden = self.middle.forward(&hidden, cache)?;
        let hidden = self.output.forward(&silu(&channel_rms_norm(&hidden, &self.norm)?)?, None, cache)?;
        let both = self.quantised.forward(&hidden, None, cache)?;
        let mean = both.narrow(1, 0, self.config.latent_channels)?;
        let standard = mean.broadcast_sub(&self.scale.0)?.broadcast_mul(&self.scale.1)?;
        channels_first(&standard).map(Some)
    }
}

/// Latents to clips.
#[derive(Debug)]
pub struct Decoder {
    unquantised: CausalConv,
    input: CausalConv,
    middle: Middle,
    levels: Vec<(Vec<ResidualBlock>, Option<Up>)>,
    norm: Tensor,
    output: CausalConv,
    /// `[1, c, 1, 1]`: multiplied by, and added.
    scale: (Tensor, Tensor),
    slots: usize,
}

impl Decoder {
    /// Loads the decoder from the root of the autoencoder's checkpoint, in diffusers' or the original layout.
    ///
    /// # Errors
    /// Names a tensor that is missing or does not fit the configuration.
    pub fn load(weights: &Weights, config: &AutoencoderWanConfig, precision: Precision) -> Loaded<Self> {
        let weights = names::any_layout(weights, config.residual_blocks);
        let (loader, place) = (&mut Loader::new(precision), weights.at("decoder"));
        let latent = config.latent_channels;
        let unquantised = loader.causal(&weights.at("post_quant_conv"), (latent, latent), (1, 1))?;
        let mut channels = config.multiples.last().copied().unwrap_or(1) * config.decoder_base_width;
        let input = loader.causal(&place.at("conv_in"), (latent, channels), (3, 3))?;
        let middle = Middle::load(loader, &place.at("mid_block"), channels)?;
        let mut levels = Vec::new();
        for (level, multiple) in config.multiples.iter().rev().enumerate() {
            let (block, outputs) = (place.at("up_blocks").at(level), multiple * config.decoder_base_width);
            let mut residuals = Vec::new();
            for index in 0..=config.residual_blocks {
                residuals.push(loader.residual(&block.at("resnets").at(index), (channels, outputs))?);
                channels = outputs;
            }
            let double = config.halve_time.iter().rev().nth(level);
            let up = double.map(|&double| loader.up(&block.at("upsamplers.0"), channels, double)).transpose()?;
            if up.is_some() {
                channels /= 2;
            }
            levels.push((residuals, up));
        }
        Ok(Self {
            unquantised,
            input,
            middle,
            levels,
            norm: loader.norm(&place.at("norm_out"), channels)?,
            output: loader.causal(&place.at("conv_out"), (channels, config.picture_channels), (3, 3))?,
            scale: (per_channel(&config.latents_std)?, per_channel(&config.latents_mean)?),
            slots: loader.slots,
        })
    }

    /// The memory of a clip that begins.
    pub fn begin(&self) -> FeatureCache {
        FeatureCache::new(self.slots)
    }

    /// The next latent frames `[1, c, t, h, w]`, standardised, to frames `[1, 3, t', h', w']` in -1..1.
    ///
    /// # Errors
    /// When the channels differ, or latents of another size came before.
    pub fn forward(&self, latents: &Tensor, cache: &mut FeatureCache) -> Result<Tensor> {
        let (rows, _, count, ..) = latents.dims5()?;
        if rows != 1 || count == 0 {
            candle_core::bail!("latents of shape {:?}, expected one clip", latents.dims());
        }
        let latents = frames_first(latents)?.broadcast_mul(&self.scale.0)?.broadcast_add(&self.scale.1)?;
        let hidden = self.unquantised.forward(&latents, None, cache)?;
        let hidden = self.input.forward(&hidden, None, cache)?;
        let mut hidden = self.middle.forward(&hidden, cache)?;
        for (residuals, up) in &self.levels {
            for residual in residuals {
                hidden = residual.forward(&hidden, cache)?;
            }
            if let Some(up) = up {
                hidden = up.forward(&hidden, cache)?;
            }
        }
        let hidden = self.output.forward(&silu(&channel_rms_norm(&hidden, &self.norm)?)?, None, cache)?;
        channels_first(&hidden.clamp(-1f32, 1f32)?)
    }
}

/// `[1, c, t, h, w]` to `[t, c, h, w]`.
fn frames_first(clip: &Tensor) -> Result<Tensor> {
    clip.squeeze(0)?.transpose(0, 1)?.contiguous()
}

/// `[t, c, h, w]` to `[1, c, t, h, w]`.
fn channels_first(frames: &Tensor) -> Result<Tensor> {
    frames.transpose(0, 1)?.contiguous()?.unsqueeze(0)
}

fn per_channel(values: &[f64]) -> Result<Tensor> {
    let values: Vec<f32> = values.iter().map(|&value| value as f32).collect();
    let count = values.len();
    Tensor::from_vec(values, (1, count, 1, 1), &Device::Cpu)
}

fn reciprocals(values: &[f64]) -> Vec<f64> {
    values.iter().map(|value| 1.0 / value).collect()
}
