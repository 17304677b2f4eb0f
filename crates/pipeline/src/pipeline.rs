//! A loaded pipeline.

use std::sync::OnceLock;

use candle_core::Tensor;
use refrain_cache::RunHeader;
use refrain_models::{
    Conditions, ConfigFile, Denoiser, LatentShape, SiteInfo,
    dit::{Dit, DitConfig},
    pixart::{PixArt, PixArtConfig},
    unet::{Unet, UnetConfig},
};
use refrain_ops::Precision;
use refrain_samplers::{Sampler, Schedule, SchedulerConfig};

use crate::{
    autoencoder::Autoencoder,
    checkpoint::{open_dit, open_weights},
    classes::ClassNames,
    error::{PipelineError, Result},
    fingerprint::fingerprint,
    index::{ModelIndex, PipelineClass},
    request::ImageRequest,
    source::ModelSource,
    text::{TextEncoder, TextFamily},
};

/// Largest side of a picture in pixels; beyond it a typing error is likelier than a wish.
pub(crate) const LARGEST_SIDE: usize = 16_384;

/// How a pipeline is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LoadOptions {
    /// Arithmetic of the packed weights.
    pub precision: Precision,
}

/// The denoiser with what conditions it.
pub(crate) enum Family {
    PixArt { model: PixArt, text: Box<TextEncoder> },
    Dit { model: Dit, classes: ClassNames },
    StableDiffusion { model: Box<Unet>, text: Box<TextEncoder> },
}

impl Family {
    /// Folder of the denoiser.
    fn part(&self) -> &'static str {
        match self {
            Self::PixArt { .. } | Self::Dit { .. } => "transformer",
            Self::StableDiffusion { .. } => "unet",
        }
    }
}

/// A running pipeline: all weights packed, ready to generate.
pub struct Pipeline {
    source: ModelSource,
    class_name: String,
    precision: Precision,
    pub(crate) family: Family,
    autoencoder: Autoencoder,
    scheduler: SchedulerConfig,
    fingerprint: OnceLock<String>,
}

/// A size in pixels and what follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PictureSize {
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) latent_height: usize,
    pub(crate) latent_width: usize,
}

impl Pipeline {
    /// Loads a diffusers folder; components load in parallel.
    ///
    /// # Errors
    /// One line that names the file, the field or the tensor, and what was expected.
    pub fn load(source: &ModelSource, options: LoadOptions) -> Result<Self> {
        let _loading = refrain_ops::memory::Loading::begin();
        let index = ModelIndex::read(source)?;
        if index.class == PipelineClass::Wan {
            return Err(
                index.problem("is a video model, which makes no single pictures; use it with `refrain gen video`")
            );
        }
        index.component("vae", &["AutoencoderKL"])?;
        let precision = options.precision;
        let (family, others) = rayon::join(
            || load_family(source, &index, precision),
            || Ok::<_, PipelineError>((load_scheduler(source, &index)?, Autoencoder::load(source, precision)?)),
        );
        let (family, (scheduler, autoencoder)) = (family?, others?);
        let pipeline = Self {
            source: source.clone(),
            class_name: index.class_name,
            precision,
            family,
            autoencoder,
            scheduler,
            fingerprint: OnceLock::new(),
        };
        pipeline.check_fit()?;
        Ok(pipeline)
    }

    /// The `_class_name` of the folder.
    pub fn class_name(&self) -> &str {
        &self.class_name
    }

    /// Where it was loaded from.
    pub fn source(&self) -> &ModelSource {
        &self.source
    }

    /// Arithmetic of its weights.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The denoiser.
    pub fn denoiser(&self) -> &dyn Denoiser {
        match &self.family {
            Family::PixArt { model, .. } => model,
            Family::Dit { model, .. } => model,
            Family::StableDiffusion { model, .. } => model.as_ref(),
        }
    }

    /// The text encoder, of families that read a text.
    pub fn text_encoder(&self) -> Option<&TextEncoder> {
        match &self.family {
            Family::PixArt { text, .. } | Family::StableDiffusion { text, .. } => Some(text),
            Family::Dit { .. } => None,
        }
    }

    /// The classes, of families that are conditioned on one.
    pub fn classes(&self) -> Option<&ClassNames> {
        match &self.family {
            Family::Dit { classes, .. } => Some(classes),
            Family::PixArt { .. } | Family::StableDiffusion { .. } => None,
        }
    }

    /// The autoencoder.
    pub fn autoencoder(&self) -> &Autoencoder {
        &self.autoencoder
    }

    /// The model's scheduler configuration.
    pub fn scheduler(&self) -> &SchedulerConfig {
        &self.scheduler
    }

    /// The sampler that its scheduler configuration names.
    ///
    /// # Errors
    /// If there is no sampler of that kind here.
    pub fn default_sampler(&self) -> Result<Sampler> {
        Ok(self.scheduler.default_sampler()?)
    }

    /// Height and width in pixels of a picture when none are asked for.
    pub fn default_size(&self) -> (usize, usize) {
        let side = self.denoiser().facts().sample_size * self.autoencoder.config().factor();
        (side, side)
    }

    /// Sides of pictures must be multiples of this many pixels.
    pub fn size_multiple(&self) -> usize {
        self.denoiser().facts().patch_size * self.autoencoder.config().factor()
    }

    /// SHA-256 over the configurations and tensors of the components that a plan or a picture depends on. Computed when
    /// first asked for.
    ///
    /// # Errors
    /// If a file cannot be read any more.
    pub fn fingerprint(&self) -> Result<&str> {
        if let Some(known) = self.fingerprint.get() {
            return Ok(known);
        }
        let computed = fingerprint(&self.source)?;
        Ok(self.fingerprint.get_or_init(|| computed))
    }

    /// What a cache plan for this request depends on.
    ///
    /// # Errors
    /// If no schedule can be made for the request.
    pub fn run_header(&self, request: &ImageRequest) -> Result<RunHeader> {
        let schedule = self.schedule(request)?;
        let mut sampler = schedule.sampler().to_string();
        if let Some(spacing) = request.sigma_spacing {
            sampler += &format!("-{spacing:?}").to_lowercase();
        }
        if let Some(spacing) = request.timestep_spacing {
            sampler += &format!("-{spacing:?}").to_lowercase();
        }
        if let Some(initial) = &request.initial {
            sampler += &format!("-strength{}", initial.strength);
        }
        if request.eta != 0.0 {
            sampler += &format!("-eta{}", request.eta);
        }
        Ok(RunHeader {
            model: self.fingerprint()?.to_owned(),
            sampler,
            steps: schedule.count(),
            guidance_scale: if request.is_guided() { request.guidance_scale } else { 1.0 },
            dtype: self.precision.to_string(),
        })
    }

    /// The timesteps and noise levels of a request.
    ///
    /// # Errors
    /// If the sampler does not fit the model, or there are too few or too many steps.
    pub fn schedule(&self, request: &ImageRequest) -> Result<Schedule> {
        let size = self.picture_size(request)?;
        let patch = self.denoiser().facts().patch_size;
        let tokens = (size.latent_height / patch) * (size.latent_width / patch);
        let sampler = match request.sampler {
            Some(sampler) => sampler,
            None => self.default_sampler()?,
        };
        let schedule = Schedule::new(&self.scheduler, &request.schedule(sampler, tokens))?;
        match &request.initial {
            Some(initial) => Ok(schedule.last_part(initial.strength)?),
            None => Ok(schedule),
        }
    }

    /// Number of values in the tensors of each component folder, as counted in the checkpoint.
    pub fn parameters(&self) -> Vec<(&'static str, usize)> {
        let text = self.text_encoder().map(|text| ("text_encoder", text.parameters()));
        let others = [(self.family.part(), self.denoiser().facts().parameters), ("vae", self.autoencoder.parameters())];
        text.into_iter().chain(others).collect()
    }

    /// The cacheable sites of one evaluation for a picture of `height` × `width` pixels, with their costs.
    ///
    /// # Errors
    /// [`PipelineError::Size`].
    pub fn sites(&self, height: usize, width: usize, text_tokens: usize) -> Result<Vec<SiteInfo>> {
        Ok(self.denoiser().sites(&self.latent_shape(height, width, text_tokens)?))
    }

    /// The shape of a denoiser's work for a picture of `height` × `width` pixels.
    ///
    /// # Errors
    /// [`PipelineError::Size`].
    pub fn latent_shape(&self, height: usize, width: usize, text_tokens: usize) -> Result<LatentShape> {
        let request = ImageRequest { height: Some(height), width: Some(width), ..ImageRequest::default() };
        let size = self.picture_size(&request)?;
        Ok(LatentShape { height: size.latent_height, width: size.latent_width, text_tokens })
    }

    /// What the denoiser is told about the picture, prepared once: rows [negative, prompt] (or
    /// [no class, class]) with guidance, else the second alone.
    ///
    /// # Errors
    /// If the text cannot be encoded or the size is not possible.
    pub fn conditions(&self, request: &ImageRequest) -> Result<Conditions> {
        let size = self.picture_size(request)?;
        match &self.family {
            Family::PixArt { model, text } => {
                let (states, mask) = guided_states(text, request)?;
                Ok(Conditions::Text(model.prepare_text(&states, Some(&mask), (size.height, size.width))?))
            }
            Family::StableDiffusion { model, text } => {
                let (states, _) = guided_states(text, request)?;
                Ok(Conditions::Text(model.prepare_text(&states)?))
            }
            Family::Dit { model, classes } => {
                let label = match request.class_label {
                    Some(label) => classes.check(label)?,
                    None if !request.prompt.trim().is_empty() => classes.find(&request.prompt)?,
                    None => {
                        let problem = format!("is missing, this model wants one of its {} classes", classes.count());
                        return Err(PipelineError::Request { what: "class", problem });
                    }
                };
                let labels = [model.config().null_class(), label];
                let labels = if request.is_guided() { &labels[..] } else { &labels[1..] };
                Ok(Conditions::Classes(labels.to_vec()))
            }
        }
    }

    /// Conditions from text states `[rows, tokens, text width]` without padding, for a picture of `height` × `width`
    /// pixels; for families without a text, as many rows of no class.
    ///
    /// # Errors
    /// States of another width than the model reads.
    pub fn state_conditions(&self, states: &Tensor, (height, width): (usize, usize)) -> Result<Conditions> {
        match &self.family {
            Family::PixArt { model, .. } => Ok(Conditions::Text(model.prepare_text(states, None, (height, width))?)),
            Family::StableDiffusion { model, .. } => Ok(Conditions::Text(model.prepare_text(states)?)),
            Family::Dit { model, .. } => Ok(Conditions::Classes(vec![model.config().null_class(); states.dim(0)?])),
        }
    }

    /// Checks the size asked for and fills in the model's own.
    pub(crate) fn picture_size(&self, request: &ImageRequest) -> Result<PictureSize> {
        let (height, width) = self.default_size();
        let (multiple, limit) = (self.size_multiple(), LARGEST_SIDE);
        let check = |axis: &'static str, asked: Option<usize>, default: usize| match asked.unwrap_or(default) {
            value if value > 0 && value <= limit && value.is_multiple_of(multiple) => Ok(value),
            value => Err(PipelineError::Size { axis, value, multiple, limit: limit / multiple * multiple }),
        };
        let height = check("height", request.height, height)?;
        let width = check("width", request.width, width)?;
        let factor = self.autoencoder.config().factor();
        Ok(PictureSize { height, width, latent_height: height / factor, latent_width: width / factor })
    }

    /// Components that each loaded must also fit each other.
    fn check_fit(&self) -> Result<()> {
        let (denoiser, autoencoder) =
            (self.denoiser().facts().latent_channels, self.autoencoder.config().latent_channels);
        if denoiser != autoencoder {
            let problem = format!("the denoiser has {denoiser} latent channels, the autoencoder {autoencoder}");
            return Err(PipelineError::Mismatch { first: self.family.part(), second: "vae", problem });
        }
        let widths = match &self.family {
            Family::PixArt { model, text } => Some((model.text_width(), text.width())),
            Family::StableDiffusion { model, text } => Some((model.text_width(), text.width())),
            Family::Dit { .. } => None,
        };
        match widths {
            Some((read, given)) if read != given => {
                let problem =
                    format!("the {} reads states of width {read}, the encoder gives {given}", self.family.part());
                Err(PipelineError::Mismatch { first: self.family.part(), second: "text_encoder", problem })
            }
            _ => Ok(()),
        }
    }
}

/// States and mask of the negative prompt and the prompt; of the prompt alone without guidance.
fn guided_states(text: &TextEncoder, request: &ImageRequest) -> Result<(Tensor, Tensor)> {
    let texts = [request.negative_prompt.as_str(), request.prompt.as_str()];
    text.encode_batch(if request.is_guided() { &texts[..] } else { &texts[1..] })
}

fn load_family(source: &ModelSource, index: &ModelIndex, precision: Precision) -> Result<Family> {
    let config = |part: &str| -> Result<ConfigFile> {
        let path = format!("{part}/config.json");
        Ok(ConfigFile::parse(&source.label(&path), &source.text(&path, "it holds the denoiser's dimensions")?)?)
    };
    match index.class {
        PipelineClass::PixArt => {
            // Folders from before diffusers 0.28 name the generic class; the dimensions are the same.
            index.component("transformer", &["PixArtTransformer2DModel", "Transformer2DModel"])?;
            index.component("text_encoder", &["T5EncoderModel"])?;
            let config = PixArtConfig::from_json(&config("transformer")?)?;
            let (model, text) = rayon::join(
                || Ok::<_, PipelineError>(PixArt::load(&open_weights(source, "transformer")?, &config, precision)?),
                || TextEncoder::load(source, TextFamily::T5, index.text_limit, precision),
            );
            Ok(Family::PixArt { model: model?, text: Box::new(text?) })
        }
        PipelineClass::StableDiffusion => {
            index.component("unet", &["UNet2DConditionModel"])?;
            index.component("text_encoder", &["CLIPTextModel"])?;
            let config = UnetConfig::from_json(&config("unet")?)?;
            let (model, text) = rayon::join(
                || Ok::<_, PipelineError>(Unet::load(&open_weights(source, "unet")?, &config, precision)?),
                || TextEncoder::load(source, TextFamily::Clip, index.text_limit, precision),
            );
            Ok(Family::StableDiffusion { model: Box::new(model?), text: Box::new(text?) })
        }
        PipelineClass::Wan => Err(index.problem("is a video model")),
        PipelineClass::Dit => {
            index.component("transformer", &["DiTTransformer2DModel", "Transformer2DModel"])?;
            let config = DitConfig::from_json(&config("transformer")?)?;
            let model = Dit::load(&open_dit(source, "transformer")?, &config, precision)?;
            Ok(Family::Dit { classes: ClassNames::read(index, config.classes), model })
        }
    }
}

pub(crate) fn load_scheduler(source: &ModelSource, index: &ModelIndex) -> Result<SchedulerConfig> {
    const CONFIG: &str = "scheduler/scheduler_config.json";
    if !index.lists("scheduler") {
        return Err(PipelineError::Index {
            file: source.label("model_index.json"),
            problem: "lists no component `scheduler`".to_owned(),
        });
    }
    let text = source.text(CONFIG, "it holds the noise schedule")?;
    SchedulerConfig::from_json(&text)
        .map_err(|error| PipelineError::Scheduler { file: source.label(CONFIG), source: error })
}
