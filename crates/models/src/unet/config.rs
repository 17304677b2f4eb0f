//! Dimensions of a U-Net, as in diffusers' `UNet2DConditionModel`.

use serde_json::Value;

use crate::{config::ConfigFile, error::ModelError};

/// Dimensions of a conditional U-Net.
#[derive(Debug, Clone)]
pub struct UnetConfig {
    /// Channels of the latents, in and out.
    pub channels: usize,
    /// Latent side it was trained for.
    pub sample_size: usize,
    /// From the finest level to the coarsest.
    pub levels: Vec<LevelConfig>,
    /// The middle's attention; `None` for a middle of residual blocks alone.
    pub middle: Option<TransformerConfig>,
    /// Width of the text states.
    pub text_width: usize,
    /// Groups of the group norms.
    pub norm_groups: usize,
    /// Added under the root of the residual blocks' norms.
    pub norm_epsilon: f64,
    /// Padding of the halving convolutions.
    pub downsample_padding: usize,
    /// Whether cosines precede sines in the timestep's embedding.
    pub cosines_first: bool,
    /// Subtracted from the number of frequencies.
    pub frequency_shift: f64,
    /// Whether a transformer's projections are stored as matrices, else as 1×1 convolutions.
    pub linear_projection: bool,
}

/// One resolution of a U-Net.
#[derive(Debug, Clone)]
pub struct LevelConfig {
    /// Channels of its hidden states.
    pub channels: usize,
    /// Residual blocks on the way down; one more on the way up.
    pub layers: usize,
    /// Attention behind each residual block on the way down.
    pub down: Option<TransformerConfig>,
    /// Attention behind each residual block on the way up.
    pub up: Option<TransformerConfig>,
}

/// A spatial transformer of a level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransformerConfig {
    /// Number of heads.
    pub heads: usize,
    /// Transformer blocks one behind another.
    pub blocks: usize,
}

/// Fields that ask for something this build does not have, with the one value that is fine.
const FIXED: [(&str, &str); 14] = [
    ("center_input_sample", "false"),
    ("mid_block_scale_factor", "1"),
    ("only_cross_attention", "false"),
    ("dual_cross_attention", "false"),
    ("class_embed_type", "null"),
    ("num_class_embeds", "null"),
    ("addition_embed_type", "null"),
    ("encoder_hid_dim_type", "null"),
    ("time_cond_proj_dim", "null"),
    ("time_embedding_dim", "null"),
    ("timestep_post_act", "null"),
    ("time_embedding_act_fn", "null"),
    ("resnet_skip_time_act", "false"),
    ("reverse_transformer_layers_per_block", "null"),
];

impl UnetConfig {
    /// Reads and checks a `config.json`.
    ///
    /// # Errors
    /// Names the field that is absurd, or that asks for a kind of U-Net that this build does not have.
    pub fn from_json(config: &ConfigFile) -> Result<Self, ModelError> {
        check_fixed(config)?;
        let widths = config.counts("block_out_channels", 1..=16_384)?;
        let count = widths.len();
        let norm_groups = config.count("norm_num_groups", Some(32), 1..=4096)?;
        if let Some(width) = widths.iter().find(|width| !width.is_multiple_of(norm_groups)) {
            let problem = format!("is {norm_groups}, which does not divide {width} channels");
            return Err(config.error("norm_num_groups", problem));
        }
        let layers = per_level(config, "layers_per_block", 2, count, 1..=64)?;
        let blocks = per_level(config, "transformer_layers_per_block", 1, count, 1..=64)?;
        // The historical name: what it holds is the number of heads.
        let heads = per_level(config, "attention_head_dim", 8, count, 1..=1024)?;
        let down = level_kinds(config, "down_block_types", ("DownBlock2D", "CrossAttnDownBlock2D"), count)?;
        let up = level_kinds(config, "up_block_types", ("UpBlock2D", "CrossAttnUpBlock2D"), count)?;
        let transformer = |level: usize| TransformerConfig { heads: heads[level], blocks: blocks[level] };
        let mut levels = Vec::with_capacity(count);
        for level in 0..count {
            let attends = down[level] || up[count - 1 - level];
            if attends && !widths[level].is_multiple_of(heads[level]) {
                let problem = format!("has {} heads for {} channels", heads[level], widths[level]);
                return Err(config.error("attention_head_dim", problem));
            }
            levels.push(LevelConfig {
                channels: widths[level],
                layers: layers[level],
                down: down[level].then(|| transformer(level)),
                up: up[count - 1 - level].then(|| transformer(level)),
            });
        }
        let middle = middle(config, transformer(count - 1), widths[count - 1])?;
        let channels = config.count("in_channels", Some(4), 1..=4096)?;
        let out_channels = config.count("out_channels", Some(4), 1..=4096)?;
        if out_channels != channels {
            let problem =
                format!("is {out_channels}, expected in_channels ({channels}): inpainting models are not read");
            return Err(config.error("out_channels", problem));
        }
        Ok(Self {
            channels,
            sample_size: config.count("sample_size", Some(64), 1..=4096)?,
            levels,
            middle,
            text_width: config.count("cross_attention_dim", Some(1280), 1..=65_536)?,
            norm_groups,
            norm_epsilon: config.positive("norm_eps", 1e-5)?,
            downsample_padding: config.count("downsample_padding", Some(1), 0..=1)?,
            cosines_first: config.flag("flip_sin_to_cos", true)?,
            frequency_shift: config.number("freq_shift")?.unwrap_or(0.0),
            linear_projection: config.flag("use_linear_projection", false)?,
        })
    }

    /// Width of the timestep's sinusoids.
    pub(super) fn sinusoids(&self) -> usize {
        self.levels.first().map_or(0, |level| level.channels)
    }

    /// Width of the timestep's embedding.
    pub(super) fn embedding_width(&self) -> usize {
        4 * self.sinusoids()
    }
}

fn check_fixed(config: &ConfigFile) -> Result<(), ModelError> {
    for (field, fine) in FIXED {
        let expected: Value = serde_json::from_str(fine).unwrap_or_default();
        let is_fine = |value: &Value| {
            *value == expected || value.as_f64().is_some_and(|number| Some(number) == expected.as_f64())
        };
        if config.value(field).is_some_and(|value| !is_fine(value)) {
            let problem = format!("asks for a kind of U-Net this build lacks, expected {fine}");
            return Err(config.error(field, problem));
        }
    }
    if config.value("num_attention_heads").is_some() {
        return Err(config.error("num_attention_heads", "is set; U-Nets name their heads in attention_head_dim"));
    }
    config.choice("act_fn", "silu", &[("silu", ()), ("swish", ())])?;
    config.choice("resnet_time_scale_shift", "default", &[("default", ())])?;
    config.choice("time_embedding_type", "positional", &[("positional", ())])?;
    config.choice("attention_type", "default", &[("default", ())])?;
    for field in ["conv_in_kernel", "conv_out_kernel"] {
        config.count(field, Some(3), 3..=3)?;
    }
    Ok(())
}

/// A number for all levels, or a list with one for each.
fn per_level(
    config: &ConfigFile,
    field: &str,
    default: usize,
    levels: usize,
    range: std::ops::RangeInclusive<usize>,
) -> Result<Vec<usize>, ModelError> {
    let values = match config.value(field) {
        Some(Value::Array(_)) => config.counts(field, range)?,
        _ => vec![config.count(field, Some(default), range)?; levels],
    };
    if values.len() != levels {
        return Err(
            config.error(field, format!("has {} entries, expected one for each of {levels} levels", values.len()))
        );
    }
    Ok(values)
}

/// Whether each level attends.
fn level_kinds(
    config: &ConfigFile,
    field: &str,
    (plain, attending): (&str, &str),
    levels: usize,
) -> Result<Vec<bool>, ModelError> {
    let names = match config.value(field) {
        Some(Value::Array(names)) => names.as_slice(),
        Some(_) => return Err(config.error(field, "is not a list")),
        None => return Err(config.error(field, "is missing")),
    };
    if names.len() != levels {
        return Err(config.error(field, format!("has {} entries, expected {levels}", names.len())));
    }
    names
        .iter()
        .map(|name| match name.as_str() {
            Some(name) if name == plain => Ok(false),
            Some(name) if name == attending => Ok(true),
            _ => Err(config.error(field, format!("holds {name}, this build knows {plain} and {attending}"))),
        })
        .collect()
}

fn middle(
    config: &ConfigFile,
    transformer: TransformerConfig,
    channels: usize,
) -> Result<Option<TransformerConfig>, ModelError> {
    const KINDS: [(&str, bool); 2] = [("UNetMidBlock2DCrossAttn", true), ("UNetMidBlock2D", false)];
    let attends = config.choice("mid_block_type", "UNetMidBlock2DCrossAttn", &KINDS)?;
    if attends && !channels.is_multiple_of(transformer.heads) {
        let problem = format!("has {} heads for {channels} channels", transformer.heads);
        return Err(config.error("attention_head_dim", problem));
    }
    Ok(attends.then_some(transformer))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stable Diffusion 1.5.
    const SD15: &str = r#""block_out_channels": [320, 640, 1280, 1280], "cross_attention_dim": 768,
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]"#;

    fn read(more: &str) -> Result<UnetConfig, ModelError> {
        UnetConfig::from_json(&ConfigFile::parse("unet/config.json", &format!("{{{SD15}{more}}}"))?)
    }

    #[test]
    fn stable_diffusion_1_5_has_eight_heads_everywhere() -> Result<(), ModelError> {
        let config = read("")?;
        assert_eq!(config.levels.len(), 4);
        assert_eq!(config.levels[0].down, Some(TransformerConfig { heads: 8, blocks: 1 }));
        assert_eq!(config.levels[3].down, None);
        assert_eq!(config.levels[3].up, None);
        assert_eq!((config.levels[1].layers, config.embedding_width()), (2, 1280));
        Ok(())
    }

    #[test]
    fn what_this_build_lacks_is_named() {
        for (more, field) in [
            (r#", "class_embed_type": "timestep""#, "class_embed_type"),
            (r#", "addition_embed_type": "text_time""#, "addition_embed_type"),
            (r#", "attention_head_dim": [5, 10]"#, "attention_head_dim"),
            (r#", "attention_head_dim": 7"#, "attention_head_dim"),
            (r#", "norm_num_groups": 48"#, "norm_num_groups"),
            (r#", "in_channels": 9"#, "out_channels"),
            (r#", "resnet_time_scale_shift": "scale_shift""#, "resnet_time_scale_shift"),
            (r#", "mid_block_type": "UNetMidBlock2DSimpleCrossAttn""#, "mid_block_type"),
            (r#", "layers_per_block": 0"#, "layers_per_block"),
        ] {
            let said = read(more).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(said.contains(&format!("`{field}`")), "{more}: {said}");
        }
    }
}
