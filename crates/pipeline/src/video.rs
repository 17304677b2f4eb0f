//! Text to video: a loaded `WanPipeline`.

use std::{cell::RefCell, ops::ControlFlow, path::Path, sync::OnceLock, time::Instant};

use candle_core::{DType, Device, Tensor};
use refrain_cache::{Branch, Context, Plan, Report, RunHeader, Step};
use refrain_models::{
    ConfigFile,
    autoencoder_wan::{AutoencoderWanConfig, Decoder, Encoder, FeatureCache},
    taehv::{TaehvDecoder, TaehvState},
    wan::{WanConfig, WanText, WanTransformer},
};
use refrain_ops::{Precision, health, linear_combination};
use refrain_samplers::{NoiseKind, NoiseStream, Sampler, Schedule, ScheduleRequest, SchedulerConfig, sample};

use crate::{
    checkpoint::open_weights,
    error::{PipelineError, Result},
    fingerprint::{fingerprint, with_file},
    generate::{Observe, unwrapped},
    index::{ModelIndex, PipelineClass},
    pipeline::{LARGEST_SIDE, LoadOptions, load_scheduler},
    request::{Noise, Progress, Seconds},
    source::ModelSource,
    text::{TextEncoder, TextFamily},
    torch_archive::{open_tensor_file, wan_from_file},
};

/// Longest clip in frames; beyond it a stream is the right tool.
const LONGEST_CLIP: usize = 4097;

/// A clip that is asked for.
#[derive(Debug, Clone)]
pub struct VideoRequest {
    /// The text.
    pub prompt: String,
    /// What guidance leads away from.
    pub negative_prompt: String,
    /// Where the first latents come from; given ones are `[1, c, f, h, w]`.
    pub noise: Noise,
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Frames: one more than a multiple of the autoencoder's time factor.
    pub frames: usize,
    /// Steps of the sampler.
    pub steps: usize,
    /// Scale of classifier-free guidance (arXiv 2207.12598); at most 1 is without.
    pub guidance_scale: f32,
    /// Sampler; the one in the model's scheduler configuration if absent.
    pub sampler: Option<Sampler>,
}

impl Default for VideoRequest {
    /// Wan 2.1's own defaults.
    fn default() -> Self {
        Self {
            prompt: String::new(),
            negative_prompt: String::new(),
            noise: Noise::default(),
            width: 832,
            height: 480,
            frames: 81,
            steps: 50,
            guidance_scale: 5.0,
            sampler: None,
        }
    }
}

/// A finished clip.
#[derive(Debug, Clone)]
pub struct GeneratedVideo {
    /// Final latents `[1, c, f, h, w]`, as the denoiser sees them.
    pub latents: Tensor,
    /// The frames `[frames, 3, height, width]` in 0..1.
    pub frames: Tensor,
    /// The sampler that ran.
    pub sampler: Sampler,
    /// What the cache did.
    pub report: Report,
    /// The actions that were taken, to replay.
    pub plan: Plan,
    /// Seconds by part.
    pub seconds: Seconds,
}

/// Wan's autoencoder, both directions.
pub struct VideoAutoencoder {
    /// Its dimensions.
    pub config: AutoencoderWanConfig,
    /// Clips to latents.
    pub encoder: Encoder,
    /// Latents to clips.
    pub decoder: Decoder,
}

impl VideoAutoencoder {
    fn load(source: &ModelSource, options: LoadOptions) -> Result<Self> {
        const CONFIG: &str = "vae/config.json";
        let text = source.text(CONFIG, "it holds the autoencoder's dimensions")?;
        let config = AutoencoderWanConfig::from_json(&ConfigFile::parse(&source.label(CONFIG), &text)?)?;
        let weights = open_weights(source, "vae")?;
        let encoder = Encoder::load(&weights, &config, options.precision)?;
        let decoder = Decoder::load(&weights, &config, options.precision)?;
        Ok(Self { config, encoder, decoder })
    }
}

/// A running video pipeline: all weights packed, ready to generate.
pub struct VideoPipeline {
    transformer: WanTransformer,
    text: TextEncoder,
    autoencoder: VideoAutoencoder,
    scheduler: SchedulerConfig,
    /// Decodes in place of the autoencoder's own decoder.
    fast_decoder: Option<TaehvDecoder>,
    source: ModelSource,
    precision: Precision,
    /// Of the folder, and of the transformer from elsewhere.
    fingerprint: OnceLock<String>,
    other_transformer: Option<std::path::PathBuf>,
}

impl VideoPipeline {
    /// Loads a diffusers folder of class `WanPipeline`; components load in parallel.
    ///
    /// # Errors
    /// One line that names the file, the field or the tensor, and what was expected.
    pub fn load(source: &ModelSource, options: LoadOptions) -> Result<Self> {
        let _loading = refrain_ops::memory::Loading::begin();
        const CONFIG: &str = "transformer/config.json";
        let index = ModelIndex::read(source)?;
        if index.class != PipelineClass::Wan {
            return Err(index.problem("makes pictures, not videos; use it with `refrain gen image`"));
        }
        index.component("transformer", &["WanTransformer3DModel"])?;
        index.component("text_encoder", &["UMT5EncoderModel"])?;
        index.component("vae", &["AutoencoderKLWan"])?;
        if index.lists("transformer_2") {
            return Err(index.problem("has a second transformer (Wan 2.2), which this build does not read"));
        }
        let text = source.text(CONFIG, "it holds the transformer's dimensions")?;
        let config = WanConfig::from_json(&ConfigFile::parse(&source.label(CONFIG), &text)?)?;
        let precision = options.precision;
        let (transformer, others) = rayon::join(
            || {
                let weights = open_weights(source, "transformer")?;
                Ok::<_, PipelineError>(WanTransformer::load(&weights, &config, precision)?)
            },
            || {
                let text = TextEncoder::load(source, TextFamily::Umt5, index.text_limit, precision)?;
                let scheduler = load_scheduler(source, &index)?;
                Ok::<_, PipelineError>((text, VideoAutoencoder::load(source, options)?, scheduler))
            },
        );
        let (text, autoencoder, scheduler) = others?;
        let pipeline = Self {
            transformer: transformer?,
            text,
            autoencoder,
            scheduler,
            fast_decoder: None,
            source: source.clone(),
            precision,
            fingerprint: OnceLock::new(),
            other_transformer: None,
        };
        pipeline.check_fit()?;
        Ok(pipeline)
    }

    /// The denoiser.
    pub fn transformer(&self) -> &WanTransformer {
        &self.transformer
    }

    /// The same pipeline with another transformer of the same sizes, such as a distilled one from a single file.
    ///
    /// # Errors
    /// If it does not fit the other components.
    pub fn with_transformer(mut self, transformer: WanTransformer) -> Result<Self> {
        self.transformer = transformer;
        self.check_fit()?;
        Ok(self)
    }

    /// As [`VideoPipeline::with_transformer`], read from a checkpoint of one file (`.pt`, of which nothing is executed, or
    /// `.safetensors`), such as Self-Forcing's or StreamDiffusionV2's.
    ///
    /// # Errors
    /// If the file cannot be read, or does not fit the other components.
    pub fn with_transformer_file(mut self, path: &Path) -> Result<Self> {
        self.other_transformer = Some(path.to_owned());
        let transformer = wan_from_file(path, self.precision)?;
        self.with_transformer(transformer)
    }

    /// The same pipeline with a TAEHV decoder (`taew2_1`) instead of the autoencoder's own: much faster, a little softer.
    ///
    /// # Errors
    /// If the file cannot be read, or decodes latents of other channels or another rate.
    pub fn with_fast_decoder(mut self, path: &Path) -> Result<Self> {
        let config = &self.autoencoder.config;
        let decoder = TaehvDecoder::load(&open_tensor_file(path)?, config.latent_channels, self.precision)?;
        if decoder.frames_per_latent() != config.time_factor() {
            let (found, wanted) = (decoder.frames_per_latent(), config.time_factor());
            let problem = format!("it makes {found} frames of a latent one, the model's own decoder {wanted}");
            return Err(PipelineError::Mismatch { first: "fast decoder", second: "vae", problem });
        }
        self.fast_decoder = Some(decoder);
        Ok(self)
    }

    /// SHA-256 over everything that frames depend on; computed when first asked for.
    ///
    /// # Errors
    /// Files that can no longer be read.
    pub fn fingerprint(&self) -> Result<&str> {
        if let Some(known) = self.fingerprint.get() {
            return Ok(known);
        }
        let mut computed = fingerprint(&self.source)?;
        if let Some(path) = &self.other_transformer {
            computed = with_file(&computed, path)?;
        }
        Ok(self.fingerprint.get_or_init(|| computed))
    }

    /// What a cache plan for this request depends on.
    ///
    /// # Errors
    /// If no schedule can be made for the request.
    pub fn run_header(&self, request: &VideoRequest) -> Result<RunHeader> {
        let schedule = self.schedule(request)?;
        Ok(RunHeader {
            model: self.fingerprint()?.to_owned(),
            sampler: schedule.sampler().to_string(),
            steps: schedule.count(),
            guidance_scale: request.guidance_scale.max(1.0),
            dtype: self.precision.to_string(),
        })
    }

    /// The text encoder.
    pub fn text_encoder(&self) -> &TextEncoder {
        &self.text
    }

    /// The autoencoder.
    pub fn autoencoder(&self) -> &VideoAutoencoder {
        &self.autoencoder
    }

    /// The model's scheduler configuration.
    pub fn scheduler(&self) -> &SchedulerConfig {
        &self.scheduler
    }

    /// A text prepared for all steps.
    ///
    /// # Errors
    /// If the tokenizer cannot encode it.
    pub fn prepare_text(&self, text: &str) -> Result<WanText> {
        Ok(self.transformer.prepare_text(&self.text.encode(text)?)?)
    }

    /// Makes one clip. Every cacheable part asks `cache` first; [`Context::off`] computes all. Both halves of guidance are
    /// branches of their own.
    ///
    /// # Errors
    /// A request that does not fit the model, latents that leave the numbers or collapse (the step is named), or the
    /// observer's wish to stop.
    pub fn generate(
        &self,
        request: &VideoRequest,
        cache: &mut Context,
        observe: &mut Observe<'_>,
    ) -> Result<GeneratedVideo> {
        let started = Instant::now();
        let schedule = self.schedule(request)?;
        let (noise, mut stream) = self.first_noise(request)?;
        let guided = request.guidance_scale > 1.0;
        let prompt = self.prepare_text(&request.prompt)?;
        let negative = guided.then(|| self.prepare_text(&request.negative_prompt)).transpose()?;
        let text = started.elapsed().as_secs_f64();

        let (cache, failure) = (RefCell::new(cache), RefCell::new(None));
        let sampled = sample(
            &mut |latents, info| {
                let mut cache = cache.borrow_mut();
                let (index, count) = (info.index, info.count);
                cache.begin_step(Step { index, count, timestep: info.timestep, sigma: info.sigma });
                let texts = (&prompt, negative.as_ref());
                Ok(self.predict(&mut cache, latents, info.timestep, (texts, request.guidance_scale))?)
            },
            schedule.initial_latents(&noise)?,
            &schedule,
            &mut stream,
            &mut |report| {
                // The cache knows what healthy latents are, and names the step if these are not.
                if let Err(error) = cache.borrow_mut().end_step(report.latents) {
                    failure.replace(Some(PipelineError::from(error)));
                    return ControlFlow::Break(());
                }
                observe(&Progress { step: report, cache: &cache.borrow() })
            },
        );
        let cache = cache.into_inner();
        if let Some(failure) = failure.into_inner() {
            return Err(failure);
        }
        let latents = sampled.map_err(unwrapped)?;
        let denoise = started.elapsed().as_secs_f64() - text;
        let frames = self.decode(&latents)?;
        Ok(GeneratedVideo {
            latents,
            frames,
            sampler: schedule.sampler(),
            report: cache.report(),
            plan: cache.executed_plan(),
            seconds: Seconds { text, denoise, decode: started.elapsed().as_secs_f64() - text - denoise },
        })
    }

    /// Guidance's prediction for latents `[1, c, f, h, w]` at one step.
    fn predict(
        &self,
        cache: &mut Context,
        latents: &Tensor,
        timestep: f32,
        ((prompt, negative), scale): ((&WanText, Option<&WanText>), f32),
    ) -> Result<Tensor> {
        let Some(negative) = negative else {
            return Ok(self.transformer.forward(cache, latents, &[timestep], prompt)?);
        };
        cache.set_branch(Branch::CONDITIONAL);
        let towards = self.transformer.forward(cache, latents, &[timestep], prompt)?;
        cache.set_branch(Branch::UNCONDITIONAL);
        let away = self.transformer.forward(cache, latents, &[timestep], negative)?;
        cache.set_branch(Branch::GUIDED);
        Ok(linear_combination(&[(1.0 - scale, &away), (scale, &towards)])?)
    }

    /// Latents `[1, c, f, h, w]` to frames `[frames, 3, height, width]` in 0..1, one latent frame at a time, so that memory
    /// does not grow with the clip.
    ///
    /// # Errors
    /// [`PipelineError::PictureNotFinite`], or latents of another number of channels.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        self.begin_decoding().push(latents)
    }

    /// Decoding of a clip that comes in pieces: with the very bits of the whole.
    pub fn begin_decoding(&self) -> ClipDecoder<'_> {
        match &self.fast_decoder {
            Some(decoder) => ClipDecoder::Fast(decoder, decoder.begin()),
            None => ClipDecoder::Own(&self.autoencoder.decoder, self.autoencoder.decoder.begin()),
        }
    }

    /// The timesteps and noise levels of a request.
    ///
    /// # Errors
    /// If the sampler does not fit the model, or there are too few or too many steps.
    pub fn schedule(&self, request: &VideoRequest) -> Result<Schedule> {
        let [_, _, frames, height, width] = self.latent_shape(request)?;
        let [deep, high, wide] = self.transformer.config().patch;
        let sampler = match request.sampler {
            Some(sampler) => sampler,
            None => self.scheduler.default_sampler()?,
        };
        let image_tokens = Some((frames / deep) * (height / high) * (width / wide));
        let request = ScheduleRequest { image_tokens, ..ScheduleRequest::new(sampler, request.steps) };
        Ok(Schedule::new(&self.scheduler, &request)?)
    }

    /// `[1, c, f, h, w]` of a request's latents, if the model can make them.
    fn latent_shape(&self, request: &VideoRequest) -> Result<[usize; 5]> {
        let (config, patch) = (&self.autoencoder.config, self.transformer.config().patch);
        let factor = config.factor();
        let check = |axis: &'static str, value: usize, patch: usize| {
            let (multiple, limit) = (factor * patch, LARGEST_SIDE);
            if value > 0 && value <= limit && value.is_multiple_of(multiple) {
                return Ok(value / factor);
            }
            Err(PipelineError::Size { axis, value, multiple, limit: limit / multiple * multiple })
        };
        let (height, width) = (check("height", request.height, patch[1])?, check("width", request.width, patch[2])?);
        let (frames, every) = (request.frames, config.time_factor());
        if frames == 0 || frames > LONGEST_CLIP || frames % every != 1 % every {
            let problem = format!("is {frames}, expected one more than a multiple of {every}, up to {LONGEST_CLIP}");
            return Err(PipelineError::Request { what: "number of frames", problem });
        }
        if !request.guidance_scale.is_finite() {
            let problem = format!("is {}, expected a finite number", request.guidance_scale);
            return Err(PipelineError::Request { what: "guidance scale", problem });
        }
        Ok([1, config.latent_channels, config.latent_frames(frames), height, width])
    }

    /// Unit noise `[1, c, f, h, w]`, and the stream for what a stochastic sampler draws after it.
    ///
    /// # Errors
    /// A request that does not fit the model, or given latents of another shape.
    pub fn first_noise(&self, request: &VideoRequest) -> Result<(Tensor, NoiseStream)> {
        let shape = self.latent_shape(request)?;
        match &request.noise {
            Noise::Seed { seed, kind } => {
                let mut stream = NoiseStream::new(*kind, *seed);
                Ok((stream.normal(&shape)?, stream))
            }
            Noise::Latents(latents) => {
                if latents.dims() != shape || !latents.dtype().is_float() {
                    let (found, dtype) = (latents.dims(), latents.dtype().as_str());
                    let problem = format!("have shape {found:?} ({dtype}), expected {shape:?} (f32)");
                    return Err(PipelineError::Request { what: "latents", problem });
                }
                let latents = latents.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
                if !health(&latents)?.finite {
                    let problem = "have values that are not finite".to_owned();
                    return Err(PipelineError::Request { what: "latents", problem });
                }
                Ok((latents, NoiseStream::new(NoiseKind::Counter, 0)))
            }
        }
    }

    /// Components that each loaded must also fit each other.
    fn check_fit(&self) -> Result<()> {
        let (config, latent) = (self.transformer.config(), self.autoencoder.config.latent_channels);
        if (config.in_channels, config.out_channels) != (latent, latent) {
            let (inputs, outputs) = (config.in_channels, config.out_channels);
            let problem =
                format!("the transformer reads {inputs} channels and gives {outputs}, the latents have {latent}");
            return Err(PipelineError::Mismatch { first: "transformer", second: "vae", problem });
        }
        if config.text_width != self.text.width() {
            let (read, given) = (config.text_width, self.text.width());
            let problem = format!("the transformer reads states of width {read}, the encoder gives {given}");
            return Err(PipelineError::Mismatch { first: "transformer", second: "text_encoder", problem });
        }
        Ok(())
    }
}

/// The state of a decoder between the pieces of a clip.
pub enum ClipDecoder<'a> {
    /// The autoencoder's own.
    Own(&'a Decoder, FeatureCache),
    /// TAEHV.
    Fast(&'a TaehvDecoder, TaehvState),
}

impl ClipDecoder<'_> {
    /// The next latents `[1, c, f, h, w]` to frames `[frames, 3, height, width]` in 0..1.
    ///
    /// # Errors
    /// As [`VideoPipeline::decode`].
    pub fn push(&mut self, latents: &Tensor) -> Result<Tensor> {
        let mut pieces = Vec::new();
        for frame in 0..latents.dim(2)? {
            let piece = latents.narrow(2, frame, 1)?;
            let piece = match self {
                Self::Own(decoder, features) => decoder.forward(&piece, features)?.affine(0.5, 0.5)?,
                Self::Fast(decoder, state) => decoder.forward(&piece, state)?,
            };
            if !health(&piece)?.finite {
                return Err(PipelineError::PictureNotFinite);
            }
            pieces.push(piece.squeeze(0)?.transpose(0, 1)?.contiguous()?);
        }
        Ok(Tensor::cat(&pieces, 0)?.clamp(0f32, 1f32)?)
    }
}
