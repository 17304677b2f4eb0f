//! Dimensions of Wan's autoencoder.

use crate::{config::ConfigFile, error::ModelError};

/// Dimensions of an AutoencoderKLWan, as in diffusers' `config.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct AutoencoderWanConfig {
    /// Channels of the encoder's first level.
    pub base_width: usize,
    /// Channels of the decoder's last level.
    pub decoder_base_width: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Each level's channels, as multiples of the base width.
    pub multiples: Vec<usize>,
    /// Residual blocks of an encoder's level; a decoder's has one more.
    pub residual_blocks: usize,
    /// Whether a level halves the number of frames on its way down, for all but the last.
    pub halve_time: Vec<bool>,
    /// Mean of each latent channel, taken off.
    pub latents_mean: Vec<f64>,
    /// Standard deviation of each latent channel, divided by.
    pub latents_std: Vec<f64>,
    /// Channels of the pictures.
    pub picture_channels: usize,
}

/// Mean and standard deviation of the published autoencoder's latents.
const MEAN: [f64; 16] = [
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508, 0.4134, -0.0715, 0.5517, -0.3632, -0.1922,
    -0.9497, 0.2503, -0.2921,
];
const STD: [f64; 16] = [
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743, 3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253,
    2.8251, 1.9160,
];

impl AutoencoderWanConfig {
    /// Reads and checks a `config.json`.
    ///
    /// # Errors
    /// Names the field that no such autoencoder can have, or that this build does not know.
    pub fn from_json(config: &ConfigFile) -> Result<Self, ModelError> {
        if config.flag("is_residual", false)? || config.value("patch_size").is_some() {
            let problem = "is that of Wan 2.2's autoencoder, which this build does not read";
            let field = if config.value("patch_size").is_some() { "patch_size" } else { "is_residual" };
            return Err(config.error(field, problem));
        }
        if config.value("attn_scales").and_then(|list| list.as_array()).is_some_and(|list| !list.is_empty()) {
            return Err(config.error("attn_scales", "is not empty, attention inside levels is not read by this build"));
        }
        let base_width = config.count("base_dim", Some(96), 1..=8192)?;
        let multiples = match config.value("dim_mult") {
            None => vec![1, 2, 4, 4],
            Some(_) => config.counts("dim_mult", 1..=64)?,
        };
        let halve_time = flags(config, "temperal_downsample", &[false, true, true], multiples.len() - 1)?;
        let latent_channels = config.count("z_dim", Some(16), 1..=4096)?;
        let this = Self {
            decoder_base_width: config.optional_count("decoder_base_dim", 1..=8192)?.unwrap_or(base_width),
            base_width,
            latent_channels,
            residual_blocks: config.count("num_res_blocks", Some(2), 1..=64)?,
            halve_time,
            latents_mean: numbers(config, "latents_mean", &MEAN, latent_channels)?,
            latents_std: numbers(config, "latents_std", &STD, latent_channels)?,
            picture_channels: config.count("in_channels", Some(3), 1..=64)?,
            multiples,
        };
        if config.count("out_channels", Some(this.picture_channels), 1..=64)? != this.picture_channels {
            return Err(config.error("out_channels", "differs from in_channels"));
        }
        if this.latents_std.iter().any(|&std| std <= 0.0) {
            return Err(config.error("latents_std", "holds a number that is not above 0"));
        }
        // A level on its way up gives half its channels to the next.
        let odd = this.multiples.iter().skip(1).any(|multiple| !(multiple * this.decoder_base_width).is_multiple_of(2));
        if odd {
            return Err(config.error("dim_mult", "makes a level with an odd number of channels"));
        }
        Ok(this)
    }

    /// Pixels that a latent pixel covers, along each side.
    pub fn factor(&self) -> usize {
        1 << (self.multiples.len() - 1)
    }

    /// Frames that a latent frame covers, but for the first, which covers one.
    pub fn time_factor(&self) -> usize {
        1 << self.halve_time.iter().filter(|halve| **halve).count()
    }

    /// Latent frames of a clip: 1 + (frames - 1) / time factor.
    pub fn latent_frames(&self, frames: usize) -> usize {
        if frames == 0 { 0 } else { 1 + (frames - 1) / self.time_factor() }
    }
}

fn flags(config: &ConfigFile, field: &str, default: &[bool], count: usize) -> Result<Vec<bool>, ModelError> {
    let wrong = || config.error(field, format!("is no list of {count} or more flags"));
    let list: Vec<bool> = match config.value(field) {
        None => default.to_vec(),
        Some(value) => {
            let list = value.as_array().ok_or_else(wrong)?;
            list.iter().map(|flag| flag.as_bool().ok_or_else(wrong)).collect::<Result<_, _>>()?
        }
    };
    list.get(..count).map(<[bool]>::to_vec).ok_or_else(wrong)
}

fn numbers(config: &ConfigFile, field: &str, default: &[f64], count: usize) -> Result<Vec<f64>, ModelError> {
    let wrong = || config.error(field, format!("is no list of {count} finite numbers, one per latent channel"));
    let list: Vec<f64> = match config.value(field) {
        None => default.to_vec(),
        Some(value) => {
            let list = value.as_array().ok_or_else(wrong)?;
            list.iter().map(|number| number.as_f64().ok_or_else(wrong)).collect::<Result<_, _>>()?
        }
    };
    if list.len() == count && list.iter().all(|number| number.is_finite()) { Ok(list) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<AutoencoderWanConfig, ModelError> {
        AutoencoderWanConfig::from_json(&ConfigFile::parse("vae/config.json", text)?)
    }

    #[test]
    fn defaults_are_those_of_the_class() -> Result<(), ModelError> {
        let config = read("{}")?;
        assert_eq!((config.factor(), config.time_factor(), config.latent_channels), (8, 4, 16));
        assert_eq!([1, 2, 5, 81].map(|frames| config.latent_frames(frames)), [1, 1, 2, 21]);
        Ok(())
    }

    #[test]
    fn absurd_dimensions_name_the_field() {
        for (text, field) in [
            (r#"{"z_dim": 4}"#, "latents_mean"),
            (r#"{"latents_std": [0,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]}"#, "latents_std"),
            (r#"{"dim_mult": []}"#, "dim_mult"),
            (r#"{"base_dim": 3, "dim_mult": [1, 1]}"#, "dim_mult"),
            (r#"{"temperal_downsample": [true]}"#, "temperal_downsample"),
            (r#"{"is_residual": true}"#, "is_residual"),
            (r#"{"patch_size": 2}"#, "patch_size"),
            (r#"{"attn_scales": [1.0]}"#, "attn_scales"),
        ] {
            let said = read(text).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(said.contains(&format!("`{field}`")), "{text}: {said}");
        }
    }
}
