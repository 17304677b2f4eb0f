//! A folder that restyles pictures: a Wan transformer that reads the picture's latents beside the noisy ones.

use std::sync::OnceLock;

use rayon::join;
use refrain_models::{
    ConfigFile,
    patch_autoencoder::{PatchAutoencoder, PatchAutoencoderConfig},
    wan::{WanConfig, WanText, WanTransformer},
};

use crate::{
    checkpoint::open_weights,
    error::{PipelineError, Result},
    fingerprint::fingerprint,
    pipeline::LoadOptions,
    source::ModelSource,
    text::{TextEncoder, TextFamily},
};

/// The `_class_name` of such a folder.
const CLASS: &str = "WanVideoToVideoPipeline";

/// What the model was trained for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RestyleDefaults {
    /// Width and height of a picture in pixels.
    pub side: usize,
    /// Noise scale of the first step, 0 to 1.
    pub noise_scale: f64,
    /// Latent frames that a frame attends to, itself included.
    pub window: usize,
    /// Whether the prediction is the clean latents rather than the velocity.
    pub predicts_sample: bool,
}

/// A loaded restyling pipeline.
pub struct RestylePipeline {
    transformer: WanTransformer,
    autoencoder: PatchAutoencoder,
    text: TextEncoder,
    text_tokens: usize,
    defaults: RestyleDefaults,
    source: ModelSource,
    fingerprint: OnceLock<String>,
}

impl RestylePipeline {
    /// Loads `transformer/`, `vae/`, `text_encoder/`, `tokenizer/` and `scheduler/`; components load in parallel.
    ///
    /// # Errors
    /// One line that names the file, the field or the tensor, and what was expected.
    pub fn load(source: &ModelSource, options: LoadOptions) -> Result<Self> {
        let _loading = refrain_ops::memory::Loading::begin();
        let index = config(source, "model_index.json")?;
        if index.text("_class_name", "")? != CLASS {
            let problem = format!("`_class_name` is `{}`, expected {CLASS}", index.text("_class_name", "")?);
            return Err(PipelineError::Index { file: source.label("model_index.json"), problem });
        }
        let text_tokens = index.count("max_sequence_length", Some(512), 1..=4096)?;
        let scheduler = config(source, "scheduler/scheduler_config.json")?;
        let predictions = [("sample", true), ("flow_prediction", false)];
        let defaults = RestyleDefaults {
            side: index.count("sample_size", Some(128), 1..=16_384)?,
            noise_scale: scheduler.positive("noise_scale", 0.8)?.min(1.0),
            window: index.count("num_kv_cache", Some(6), 1..=4096)?,
            predicts_sample: scheduler.choice("prediction_type", "flow_prediction", &predictions)?,
        };
        let precision = options.precision;
        let transformer = || -> Result<WanTransformer> {
            let config = WanConfig::from_json(&config(source, "transformer/config.json")?)?;
            Ok(WanTransformer::load(&open_weights(source, "transformer")?, &config, precision)?)
        };
        let others = || -> Result<(PatchAutoencoder, TextEncoder)> {
            let config = PatchAutoencoderConfig::from_json(&config(source, "vae/config.json")?)?;
            let autoencoder = PatchAutoencoder::load(&open_weights(source, "vae")?, config)?;
            Ok((autoencoder, TextEncoder::load(source, TextFamily::T5, text_tokens, precision)?))
        };
        let (transformer, others) = join(transformer, others);
        let (transformer, (autoencoder, text)) = (transformer?, others?);
        let (source, fingerprint) = (source.clone(), OnceLock::new());
        let pipeline = Self { transformer, autoencoder, text, text_tokens, defaults, source, fingerprint };
        pipeline.check_fit()?;
        Ok(pipeline)
    }

    /// SHA-256 over everything that frames depend on; computed when first asked for.
    ///
    /// # Errors
    /// Files that can no longer be read.
    pub fn fingerprint(&self) -> Result<&str> {
        if let Some(known) = self.fingerprint.get() {
            return Ok(known);
        }
        let computed = fingerprint(&self.source)?;
        Ok(self.fingerprint.get_or_init(|| computed))
    }

    /// Tokens of a prepared prompt.
    pub fn text_tokens(&self) -> usize {
        self.text_tokens
    }

    /// The denoiser.
    pub fn transformer(&self) -> &WanTransformer {
        &self.transformer
    }

    /// Pictures to latents and back.
    pub fn autoencoder(&self) -> &PatchAutoencoder {
        &self.autoencoder
    }

    /// What the model was trained for.
    pub fn defaults(&self) -> RestyleDefaults {
        self.defaults
    }

    /// Sides of pictures must be multiples of this many pixels.
    pub fn size_multiple(&self) -> usize {
        let [_, rows, columns] = self.transformer.config().patch;
        self.autoencoder.config().patch * rows.max(columns)
    }

    /// Number of values in the tensors of each component folder, as counted in the checkpoint.
    pub fn parameters(&self) -> [(&'static str, usize); 3] {
        [
            ("text_encoder", self.text.parameters()),
            ("transformer", self.transformer.parameters()),
            ("vae", self.autoencoder.parameters()),
        ]
    }

    /// A prompt as the transformer's blocks read it, padded with zeros to the length it was trained on.
    ///
    /// # Errors
    /// If the text cannot be encoded.
    pub fn prepare_text(&self, prompt: &str) -> Result<WanText> {
        let states = self.text.encode(prompt)?;
        let missing = self.text_tokens.saturating_sub(states.dim(1)?);
        Ok(self.transformer.prepare_text(&states.pad_with_zeros(1, 0, missing)?)?)
    }

    fn check_fit(&self) -> Result<()> {
        let (model, latents) = (self.transformer.config(), self.autoencoder.config().latent_channels);
        if (model.in_channels, model.out_channels) != (2 * latents, latents) {
            let (inputs, outputs) = (model.in_channels, model.out_channels);
            let problem = format!("it has {inputs} input and {outputs} output channels for {latents} latent channels");
            return Err(PipelineError::Mismatch { first: "transformer", second: "vae", problem });
        }
        if model.text_width != self.text.width() {
            let problem =
                format!("it reads states of width {}, the encoder gives {}", model.text_width, self.text.width());
            return Err(PipelineError::Mismatch { first: "transformer", second: "text_encoder", problem });
        }
        Ok(())
    }
}

fn config(source: &ModelSource, path: &str) -> Result<ConfigFile> {
    Ok(ConfigFile::parse(&source.label(path), &source.text(path, "a restyling model needs it")?)?)
}
