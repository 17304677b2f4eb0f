//! The autoencoder of a pipeline: its decoder at once, its encoder when first needed.

use std::sync::OnceLock;

use candle_core::Tensor;
use refrain_models::{
    ConfigFile, Weights,
    autoencoder_kl::{AutoencoderKlConfig, Decoder, Encoder},
};
use refrain_ops::{Precision, health};

use crate::{
    checkpoint::open_weights,
    error::{PipelineError, Result},
    source::ModelSource,
};

/// Pictures to latents and back.
pub struct Autoencoder {
    config: AutoencoderKlConfig,
    weights: Weights,
    precision: Precision,
    decoder: Decoder,
    encoder: OnceLock<Encoder>,
}

impl Autoencoder {
    pub(crate) fn load(source: &ModelSource, precision: Precision) -> Result<Self> {
        const CONFIG: &str = "vae/config.json";
        let text = source.text(CONFIG, "it holds the autoencoder's dimensions")?;
        let config = AutoencoderKlConfig::from_json(&ConfigFile::parse(&source.label(CONFIG), &text)?)?;
        let weights = open_weights(source, "vae")?;
        Ok(Self {
            decoder: Decoder::load(&weights, &config, precision)?,
            config,
            weights,
            precision,
            encoder: OnceLock::new(),
        })
    }

    /// Dimensions of the autoencoder.
    pub fn config(&self) -> &AutoencoderKlConfig {
        &self.config
    }

    /// Number of values in its tensors.
    pub fn parameters(&self) -> usize {
        self.weights.parameters()
    }

    /// Latents as the denoiser sees them, `[b, c, h, w]`, to pictures `[b, 3, h * factor, w * factor]` in 0..1.
    ///
    /// # Errors
    /// [`PipelineError::PictureNotFinite`], or latents of another number of channels.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        // PixArt and DiT scale only; a shift, where the configuration has one, is for other families.
        let latents = (latents / self.config.scaling_factor)?;
        let decoded = self.decoder.forward(&latents)?;
        if !health(&decoded)?.finite {
            return Err(PipelineError::PictureNotFinite);
        }
        Ok(decoded.affine(0.5, 0.5)?.clamp(0f32, 1f32)?)
    }

    /// Pictures `[b, 3, height, width]` in 0..1 to the latents that the denoiser sees (the mean of their distribution).
    ///
    /// # Errors
    /// If the encoder's tensors are missing or damaged, or the size does not divide by the factor.
    pub fn encode(&self, pictures: &Tensor) -> Result<Tensor> {
        let factor = self.config.factor();
        for (axis, dimension) in [("height", 2), ("width", 3)] {
            let value = pictures.dim(dimension)?;
            if value == 0 || !value.is_multiple_of(factor) {
                let (multiple, limit) = (factor, crate::pipeline::LARGEST_SIDE);
                return Err(PipelineError::Size { axis, value, multiple, limit });
            }
        }
        let encoder = match self.encoder.get() {
            Some(encoder) => encoder,
            None => {
                let loaded = Encoder::load(&self.weights, &self.config, self.precision)?;
                self.encoder.get_or_init(|| loaded)
            }
        };
        let latents = encoder.forward(&pictures.affine(2.0, -1.0)?)?;
        Ok((latents * self.config.scaling_factor)?)
    }
}
