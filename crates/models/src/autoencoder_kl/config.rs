//! Dimensions of an AutoencoderKL.

use refrain_ops::Activation;

use crate::{config::ConfigFile, error::ModelError};

/// Dimensions of an autoencoder, as in diffusers' `config.json`.
#[derive(Debug, Clone)]
pub struct AutoencoderKlConfig {
    /// Channels of the pictures.
    pub in_channels: usize,
    /// Channels of the decoded pictures.
    pub out_channels: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Channels of each level, finest first.
    pub block_out_channels: Vec<usize>,
    /// Whether the encoder's level has attention after each residual block, finest first.
    pub down_attention: Vec<bool>,
    /// Whether the decoder's level has it, coarsest first.
    pub up_attention: Vec<bool>,
    /// Residual blocks per level of the encoder; the decoder has one more.
    pub layers_per_block: usize,
    /// Groups of every norm.
    pub norm_groups: usize,
    /// Activation of the residual blocks.
    pub activation: Activation,
    /// Whether the coarsest level attends between its two residual blocks.
    pub mid_attention: bool,
    /// Whether a 1×1 convolution follows the encoder.
    pub quant_conv: bool,
    /// Whether a 1×1 convolution precedes the decoder.
    pub post_quant_conv: bool,
    /// Denoisers see the latents multiplied by this.
    pub scaling_factor: f64,
    /// Families that use it subtract this from the latents before scaling.
    pub shift_factor: f64,
}

impl AutoencoderKlConfig {
    /// Reads and checks a `config.json`.
    ///
    /// # Errors
    /// Names the field that no autoencoder can have.
    pub fn from_json(config: &ConfigFile) -> Result<Self, ModelError> {
        const CHANNELS: std::ops::RangeInclusive<usize> = 1..=16_384;
        let block_out_channels = match config.value("block_out_channels") {
            Some(_) => config.counts("block_out_channels", CHANNELS)?,
            None => vec![64],
        };
        let levels = block_out_channels.len();
        if levels > 8 {
            return Err(config.error("block_out_channels", format!("has {levels} levels, expected at most 8")));
        }
        let norm_groups = config.count("norm_num_groups", Some(32), CHANNELS)?;
        if let Some(channels) = block_out_channels.iter().find(|channels| **channels % norm_groups != 0) {
            let problem = format!("is {norm_groups}, which does not divide a level's {channels} channels");
            return Err(config.error("norm_num_groups", problem));
        }
        let silu = Activation::Silu;
        let activations = [("silu", silu), ("swish", silu), ("gelu", Activation::Gelu)];
        Ok(Self {
            in_channels: config.count("in_channels", Some(3), 1..=64)?,
            out_channels: config.count("out_channels", Some(3), 1..=64)?,
            latent_channels: config.count("latent_channels", Some(4), 1..=4096)?,
            down_attention: levels_with_attention(config, "down_block_types", "DownEncoderBlock2D", levels)?,
            up_attention: levels_with_attention(config, "up_block_types", "UpDecoderBlock2D", levels)?,
            layers_per_block: config.count("layers_per_block", Some(1), 1..=64)?,
            activation: config.choice("act_fn", "silu", &activations)?,
            mid_attention: config.flag("mid_block_add_attention", true)?,
            quant_conv: config.flag("use_quant_conv", true)?,
            post_quant_conv: config.flag("use_post_quant_conv", true)?,
            scaling_factor: config.positive("scaling_factor", 0.18215)?,
            shift_factor: config.number("shift_factor")?.unwrap_or(0.0),
            block_out_channels,
            norm_groups,
        })
    }

    /// Side of a latent pixel in picture pixels.
    pub fn factor(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }
}

/// One flag per level: whether its block type is the attentive variant of `plain`.
fn levels_with_attention(
    config: &ConfigFile,
    field: &str,
    plain: &str,
    levels: usize,
) -> Result<Vec<bool>, ModelError> {
    let Some(value) = config.value(field) else {
        return Ok(vec![false; levels]);
    };
    let types = value.as_array().filter(|types| types.len() == levels).ok_or_else(|| {
        config.error(field, format!("is no list of {levels} block types, one for each of `block_out_channels`"))
    })?;
    types
        .iter()
        .map(|kind| match kind.as_str() {
            Some(name) if name == plain => Ok(false),
            Some(name) if name.strip_prefix("Attn") == Some(plain) => Ok(true),
            _ => Err(config.error(field, format!("has {kind}, this build knows {plain} and Attn{plain}"))),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absurd_dimensions_are_refused() -> Result<(), ModelError> {
        for text in [
            r#"{"block_out_channels": []}"#,
            r#"{"block_out_channels": [48], "norm_num_groups": 32}"#,
            r#"{"block_out_channels": [32, 64], "down_block_types": ["DownEncoderBlock2D"]}"#,
            r#"{"block_out_channels": [32], "up_block_types": ["UpSideDownBlock2D"]}"#,
            r#"{"scaling_factor": 0}"#,
            r#"{"latent_channels": 99999999999}"#,
        ] {
            assert!(AutoencoderKlConfig::from_json(&ConfigFile::parse("vae/config.json", text)?).is_err(), "{text}");
        }
        Ok(())
    }
}
