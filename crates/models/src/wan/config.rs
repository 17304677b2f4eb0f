//! Dimensions of a Wan transformer.

use crate::{config::ConfigFile, error::ModelError, weights::Weights};

/// Dimensions of a WanTransformer3DModel (arXiv 2503.20314), as in diffusers' or in Wan's own `config.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct WanConfig {
    /// Number of attention heads.
    pub heads: usize,
    /// Width of one head; heads times this is the width of the tokens.
    pub head_width: usize,
    /// Channels of the input: the latents', and those of a condition beside them.
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Inner width of the feed-forward.
    pub feed_forward_width: usize,
    /// Width of the text states.
    pub text_width: usize,
    /// Sinusoids of the timestep.
    pub frequencies: usize,
    /// Latent frames, rows and columns of a patch.
    pub patch: [usize; 3],
    /// Whether the input of the cross-attention is normed, with weight and bias.
    pub cross_attention_norm: bool,
    /// Added under the root of all norms.
    pub epsilon: f64,
}

impl WanConfig {
    /// Reads and checks a `config.json`.
    ///
    /// # Errors
    /// Names the field that no Wan model can have, or that this build does not know.
    pub fn from_json(config: &ConfigFile) -> Result<Self, ModelError> {
        // Wan's own files tell the whole width, diffusers' that of a head.
        let original = config.mentions("dim");
        let name = |diffusers: &'static str, wan: &'static str| if original { wan } else { diffusers };
        let heads = config.count(name("num_attention_heads", "num_heads"), Some(40), 1..=1024)?;
        let head_width = if original {
            let width = config.count("dim", None, 1..=65_536)?;
            if !width.is_multiple_of(heads) {
                return Err(config.error("dim", format!("is {width}, expected a multiple of the {heads} heads")));
            }
            width / heads
        } else {
            config.count("attention_head_dim", Some(128), 1..=4096)?
        };
        if !head_width.is_multiple_of(2) || head_width < 6 || heads * head_width > 65_536 {
            let problem =
                format!("makes heads of {head_width}, expected an even width from 6, all together up to 65536");
            return Err(config.error(name("attention_head_dim", "dim"), problem));
        }
        refuse_unknown(config)?;
        let in_channels = config.count(name("in_channels", "in_dim"), Some(16), 1..=4096)?;
        Ok(Self {
            heads,
            head_width,
            in_channels,
            out_channels: config.optional_count(name("out_channels", "out_dim"), 1..=4096)?.unwrap_or(in_channels),
            layers: config.count(name("num_layers", "num_layers"), Some(40), 1..=1024)?,
            feed_forward_width: config.count("ffn_dim", Some(13_824), 1..=262_144)?,
            text_width: config.count("text_dim", Some(4096), 1..=65_536)?,
            frequencies: frequencies(config)?,
            patch: patch(config)?,
            cross_attention_norm: config.flag("cross_attn_norm", true)?,
            epsilon: config.positive("eps", 1e-6)?,
        })
    }

    /// The dimensions that a checkpoint's tensors show, in any layout. None shows the number of heads: those of all
    /// published models are 128 wide.
    ///
    /// # Errors
    /// If there are no tensors of a Wan transformer, or its width does not divide into such heads.
    pub fn from_tensors(weights: &Weights) -> Result<Self, ModelError> {
        const HEAD_WIDTH: usize = 128;
        let weights = super::names::any_layout(weights);
        let shape = |name: &str| weights.shape(name).unwrap_or_default();
        let patch = shape("patch_embedding.weight");
        let Ok([width, in_channels, frames, rows, columns]) = <[usize; 5]>::try_from(patch) else {
            // Says which file it is.
            weights.tensor("patch_embedding.weight", &[HEAD_WIDTH, 16, 1, 2, 2])?;
            return Err(ModelError::config("checkpoint", "patch_embedding.weight", "is no patch embedding"));
        };
        if !width.is_multiple_of(HEAD_WIDTH) || width == 0 || frames * rows * columns == 0 {
            let problem =
                format!("is {width} wide, expected a multiple of {HEAD_WIDTH}; put a config.json beside the file");
            return Err(ModelError::config("checkpoint", "patch_embedding.weight", problem));
        }
        let count = |shape: Vec<usize>, place: usize| shape.get(place).copied().unwrap_or_default();
        let block = |index: usize| format!("blocks.{index}.attn1.to_q.weight");
        Ok(Self {
            heads: width / HEAD_WIDTH,
            head_width: HEAD_WIDTH,
            in_channels,
            out_channels: count(shape("proj_out.weight"), 0) / (frames * rows * columns),
            layers: (0..1024).take_while(|&index| weights.contains(block(index))).count(),
            feed_forward_width: count(shape("blocks.0.ffn.net.0.proj.weight"), 0),
            text_width: count(shape("condition_embedder.text_embedder.linear_1.weight"), 1),
            frequencies: count(shape("condition_embedder.time_embedder.linear_1.weight"), 1),
            patch: [frames, rows, columns],
            cross_attention_norm: weights.contains("blocks.0.norm2.weight"),
            epsilon: 1e-6,
        })
    }

    /// Width of the tokens.
    pub fn width(&self) -> usize {
        self.heads * self.head_width
    }
}

/// Fields whose other values need parts that are not here.
fn refuse_unknown(config: &ConfigFile) -> Result<(), ModelError> {
    config.choice("qk_norm", "rms_norm_across_heads", &[("rms_norm_across_heads", ()), ("true", ())]).or_else(
        // Wan's own files say true or false.
        |error| match config.flag("qk_norm", true) {
            Ok(true) => Ok(()),
            _ => Err(error),
        },
    )?;
    config.choice("model_type", "t2v", &[("t2v", ()), ("v2v", ())])?;
    for field in ["image_dim", "added_kv_proj_dim", "pos_embed_seq_len"] {
        if config.value(field).is_some() {
            return Err(config.error(field, "is set, models conditioned on a picture are not read by this build"));
        }
    }
    Ok(())
}

fn frequencies(config: &ConfigFile) -> Result<usize, ModelError> {
    let frequencies = config.count("freq_dim", Some(256), 2..=65_536)?;
    if frequencies.is_multiple_of(2) {
        return Ok(frequencies);
    }
    Err(config.error("freq_dim", format!("is {frequencies}, expected an even number")))
}

fn patch(config: &ConfigFile) -> Result<[usize; 3], ModelError> {
    if config.value("patch_size").is_none() {
        return Ok([1, 2, 2]);
    }
    let sides = config.counts("patch_size", 1..=64)?;
    <[usize; 3]>::try_from(sides).map_err(|sides| {
        config.error("patch_size", format!("has {} numbers, expected frames, rows and columns", sides.len()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<WanConfig, ModelError> {
        WanConfig::from_json(&ConfigFile::parse("transformer/config.json", text)?)
    }

    #[test]
    fn both_spellings_say_the_same() -> Result<(), ModelError> {
        let diffusers = r#"{"num_attention_heads": 12, "attention_head_dim": 128, "in_channels": 16, "out_channels": 16,
            "num_layers": 30, "ffn_dim": 8960, "qk_norm": "rms_norm_across_heads", "patch_size": [1, 2, 2]}"#;
        let wan = r#"{"_class_name": "WanModel", "dim": 1536, "eps": 1e-06, "ffn_dim": 8960, "freq_dim": 256,
            "in_dim": 16, "model_type": "t2v", "num_heads": 12, "num_layers": 30, "out_dim": 16, "text_len": 512}"#;
        assert_eq!(read(diffusers)?, read(wan)?);
        assert_eq!(read(wan)?.width(), 1536);
        Ok(())
    }

    #[test]
    fn absurd_dimensions_name_the_field() {
        for (text, field) in [
            (r#"{"num_attention_heads": 0}"#, "num_attention_heads"),
            (r#"{"attention_head_dim": 7}"#, "attention_head_dim"),
            (r#"{"dim": 100, "num_heads": 3}"#, "dim"),
            (r#"{"patch_size": [2, 2]}"#, "patch_size"),
            (r#"{"freq_dim": 9}"#, "freq_dim"),
            (r#"{"qk_norm": "layer_norm"}"#, "qk_norm"),
            (r#"{"image_dim": 1280}"#, "image_dim"),
            (r#"{"model_type": "i2v"}"#, "model_type"),
            (r#"{"num_layers": 1e30}"#, "num_layers"),
        ] {
            let said = read(text).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(said.contains(&format!("`{field}`")), "{text}: {said}");
        }
    }

    #[test]
    fn tensors_tell_their_dimensions() -> Result<(), ModelError> {
        use candle_core::{DType, Device, Tensor};
        let shapes: [(&str, &[usize]); 6] = [
            ("patch_embedding.weight", &[256, 5, 1, 2, 2]),
            ("time_projection.1.weight", &[1536, 256]),
            ("time_embedding.0.weight", &[256, 64]),
            ("text_embedding.0.weight", &[256, 40]),
            ("head.head.weight", &[12, 256]),
            ("blocks.0.ffn.0.weight", &[96, 256]),
        ];
        let block = ["blocks.0.self_attn.q.weight", "blocks.1.self_attn.q.weight"].map(|name| (name, &[256, 256][..]));
        let tensors = shapes
            .into_iter()
            .chain(block)
            .map(|(name, shape)| Ok((format!("model.{name}"), Tensor::zeros(shape, DType::BF16, &Device::Cpu)?)));
        let config = WanConfig::from_tensors(&Weights::from_tensors(tensors.collect::<candle_core::Result<_>>()?))?;
        assert_eq!((config.heads, config.head_width, config.layers, config.feed_forward_width), (2, 128, 2, 96));
        assert_eq!((config.in_channels, config.out_channels, config.text_width, config.frequencies), (5, 3, 40, 64));
        assert!(!config.cross_attention_norm);
        let none = WanConfig::from_tensors(&Weights::from_tensors(std::collections::HashMap::new()));
        assert!(none.err().is_some_and(|error| error.to_string().contains("patch_embedding.weight")));
        Ok(())
    }
}
