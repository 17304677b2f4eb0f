//! Dimensions of a DiT.

use crate::{
    config::ConfigFile,
    error::ModelError,
    pixart::{channels, check_width},
    transformer::{AttentionSize, FeedForwardKind},
};

/// Dimensions of a DiTTransformer2DModel, as in diffusers' `config.json`.
#[derive(Debug, Clone)]
pub struct DitConfig {
    /// Number of attention heads.
    pub heads: usize,
    /// Width of one head; heads times this is the width of the tokens.
    pub head_width: usize,
    /// Channels of the latents.
    pub in_channels: usize,
    /// Channels of the output: as the latents, or twice as many with a learned variance, which sampling drops.
    pub out_channels: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Whether query, key and value have biases.
    pub attention_bias: bool,
    /// Side of the latents it was trained on.
    pub sample_size: usize,
    /// Side of a patch in latent pixels.
    pub patch_size: usize,
    /// Activation of the feed-forward.
    pub feed_forward: FeedForwardKind,
    /// Number of classes; the label behind the last stands for none.
    pub classes: usize,
    /// Whether the feed-forward's norm has weights of its own.
    pub norm_affine: bool,
    /// Added under the root of the feed-forward's norm.
    pub norm_epsilon: f64,
}

impl DitConfig {
    /// Reads and checks a `config.json`.
    ///
    /// # Errors
    /// Names the field that no DiT can have, or that this build does not know.
    pub fn from_json(config: &ConfigFile) -> Result<Self, ModelError> {
        config.choice("norm_type", "ada_norm_zero", &[("ada_norm_zero", ())])?;
        let heads = config.count("num_attention_heads", Some(16), 1..=1024)?;
        let head_width = config.count("attention_head_dim", Some(72), 1..=4096)?;
        check_width(config, heads * head_width)?;
        let sample_size = config.count("sample_size", Some(32), 1..=8192)?;
        let (in_channels, out_channels) = channels(config, None)?;
        Ok(Self {
            heads,
            head_width,
            in_channels,
            out_channels,
            layers: config.count("num_layers", Some(28), 1..=1024)?,
            attention_bias: config.flag("attention_bias", true)?,
            sample_size,
            patch_size: config.count("patch_size", Some(2), 1..=sample_size.min(64))?,
            feed_forward: FeedForwardKind::from_config(config, "gelu-approximate")?,
            classes: config.count("num_embeds_ada_norm", Some(1000), 1..=10_000_000)?,
            norm_affine: config.flag("norm_elementwise_affine", false)?,
            norm_epsilon: config.positive("norm_eps", 1e-5)?,
        })
    }

    /// Width of the tokens.
    pub fn width(&self) -> usize {
        self.heads * self.head_width
    }

    /// The label that stands for no class.
    pub fn null_class(&self) -> u32 {
        self.classes as u32
    }

    pub(crate) fn attention(&self) -> AttentionSize {
        AttentionSize { heads: self.heads, head_width: self.head_width, bias: self.attention_bias }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_those_of_the_class() -> Result<(), ModelError> {
        let config = DitConfig::from_json(&ConfigFile::parse("config.json", "{}")?)?;
        assert_eq!((config.width(), config.layers, config.null_class()), (1152, 28, 1000));
        assert_eq!((config.in_channels, config.out_channels), (4, 4));
        Ok(())
    }

    #[test]
    fn absurd_dimensions_are_refused() -> Result<(), ModelError> {
        for text in [
            r#"{"num_embeds_ada_norm": 0}"#,
            r#"{"norm_type": "ada_norm_single"}"#,
            r#"{"out_channels": 6}"#,
            r#"{"norm_eps": -1}"#,
        ] {
            let config = ConfigFile::parse("config.json", text)?;
            assert!(DitConfig::from_json(&config).is_err(), "{text}");
        }
        Ok(())
    }
}
