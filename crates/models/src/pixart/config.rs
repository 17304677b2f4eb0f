//! Dimensions of a PixArt transformer.

use crate::{
    config::ConfigFile,
    error::ModelError,
    transformer::{AttentionSize, FeedForwardKind},
};

/// Dimensions of a PixArtTransformer2DModel, as in diffusers' `config.json`.
#[derive(Debug, Clone)]
pub struct PixArtConfig {
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
    /// Width of the text states that are projected to the tokens' width; `None` if they come as they are.
    pub caption_channels: Option<usize>,
    /// Width of the states that the blocks attend to.
    pub cross_attention_width: usize,
    /// Whether query, key and value have biases.
    pub attention_bias: bool,
    /// Side of the latents it was trained on.
    pub sample_size: usize,
    /// Side of a patch in latent pixels.
    pub patch_size: usize,
    /// Activation of the feed-forward.
    pub feed_forward: FeedForwardKind,
    /// Whether the norms of the blocks have weights of their own.
    pub norm_affine: bool,
    /// Added under the root of those norms.
    pub norm_epsilon: f64,
    /// Divisor of the patch coordinates.
    pub interpolation_scale: f64,
    /// Whether the timestep embedding also tells the picture's size and aspect ratio.
    pub size_conditions: bool,
}

impl PixArtConfig {
    /// Reads and checks a `config.json`.
    ///
    /// # Errors
    /// Names the field that no PixArt model can have, or that this build does not know.
    pub fn from_json(config: &ConfigFile) -> Result<Self, ModelError> {
        config.choice("norm_type", "ada_norm_single", &[("ada_norm_single", ())])?;
        config.choice("attention_type", "default", &[("default", ())])?;
        let heads = config.count("num_attention_heads", Some(16), 1..=1024)?;
        let head_width = config.count("attention_head_dim", Some(72), 1..=4096)?;
        let width = heads * head_width;
        check_width(config, width)?;
        let sample_size = config.count("sample_size", Some(128), 1..=8192)?;
        let patch_size = config.count("patch_size", Some(2), 1..=sample_size.min(64))?;
        let caption_channels = config.optional_count("caption_channels", 1..=65_536)?;
        let cross_attention_width = config.count("cross_attention_dim", Some(1152), 1..=65_536)?;
        if caption_channels.is_some() && cross_attention_width != width {
            let problem =
                format!("is {cross_attention_width}, but captions are projected to {heads}x{head_width} = {width}");
            return Err(config.error("cross_attention_dim", problem));
        }
        let size_conditions = config.flag("use_additional_conditions", sample_size == 128)?;
        if size_conditions && !width.is_multiple_of(3) {
            let problem = format!("is true, which needs a width divisible by 3, not {width}");
            return Err(config.error("use_additional_conditions", problem));
        }
        let (in_channels, out_channels) = channels(config, Some(8))?;
        Ok(Self {
            heads,
            head_width,
            in_channels,
            out_channels,
            layers: config.count("num_layers", Some(28), 1..=1024)?,
            caption_channels,
            cross_attention_width,
            attention_bias: config.flag("attention_bias", true)?,
            sample_size,
            patch_size,
            feed_forward: FeedForwardKind::from_config(config, "gelu-approximate")?,
            norm_affine: config.flag("norm_elementwise_affine", false)?,
            norm_epsilon: config.positive("norm_eps", 1e-6)?,
            interpolation_scale: config.positive("interpolation_scale", (sample_size / 64).max(1) as f64)?,
            size_conditions,
        })
    }

    /// Width of the tokens.
    pub fn width(&self) -> usize {
        self.heads * self.head_width
    }

    pub(crate) fn attention(&self) -> AttentionSize {
        AttentionSize { heads: self.heads, head_width: self.head_width, bias: self.attention_bias }
    }
}

/// The tokens' width must divide into sines and cosines of two coordinates.
pub(crate) fn check_width(config: &ConfigFile, width: usize) -> Result<(), ModelError> {
    if !width.is_multiple_of(4) || width > 65_536 {
        let problem = format!("makes a width of {width}, expected a multiple of 4 up to 65536");
        return Err(config.error("attention_head_dim", problem));
    }
    Ok(())
}

/// Channels in and out: alike, or twice as many out for a learned variance.
pub(crate) fn channels(config: &ConfigFile, default_out: Option<usize>) -> Result<(usize, usize), ModelError> {
    let inputs = config.count("in_channels", Some(4), 1..=4096)?;
    let outputs = match config.optional_count("out_channels", 1..=8192)? {
        Some(outputs) => outputs,
        // An explicit null means "as the input"; only an absent field takes the class's default.
        None if config.mentions("out_channels") => inputs,
        None => default_out.unwrap_or(inputs),
    };
    if outputs != inputs && outputs != 2 * inputs {
        let problem = format!("is {outputs}, expected in_channels ({inputs}) or twice that");
        return Err(config.error("out_channels", problem));
    }
    Ok((inputs, outputs))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> Result<String, ModelError> {
        let config = ConfigFile::parse("transformer/config.json", text)?;
        Ok(PixArtConfig::from_json(&config).err().map(|error| error.to_string()).unwrap_or_default())
    }

    #[test]
    fn defaults_are_those_of_the_class() -> Result<(), ModelError> {
        let config = PixArtConfig::from_json(&ConfigFile::parse("config.json", "{}")?)?;
        assert_eq!((config.width(), config.layers, config.out_channels), (1152, 28, 8));
        assert!(config.size_conditions);
        assert_eq!(config.interpolation_scale, 2.0);
        Ok(())
    }

    #[test]
    fn absurd_dimensions_name_the_field() -> Result<(), ModelError> {
        for (text, field) in [
            (r#"{"num_attention_heads": 0}"#, "num_attention_heads"),
            (r#"{"num_attention_heads": 3, "attention_head_dim": 5}"#, "attention_head_dim"),
            (r#"{"num_attention_heads": 1024, "attention_head_dim": 4096}"#, "attention_head_dim"),
            (r#"{"patch_size": 0}"#, "patch_size"),
            (r#"{"sample_size": 4, "patch_size": 8}"#, "patch_size"),
            (r#"{"caption_channels": 64, "cross_attention_dim": 64}"#, "cross_attention_dim"),
            (r#"{"out_channels": 5}"#, "out_channels"),
            (r#"{"num_attention_heads": 2, "attention_head_dim": 32}"#, "use_additional_conditions"),
            (r#"{"norm_type": "ada_norm_zero"}"#, "norm_type"),
            (r#"{"num_layers": -1}"#, "num_layers"),
            (r#"{"interpolation_scale": 0}"#, "interpolation_scale"),
        ] {
            let said = problem(text)?;
            assert!(said.contains(&format!("`{field}`")), "{text}: {said}");
        }
        Ok(())
    }
}
