//! What a caller asks for, and what comes back.

use candle_core::Tensor;
use refrain_cache::{Plan, Report};
use refrain_samplers::{NoiseKind, Sampler, ScheduleRequest, SigmaSpacing, StepReport, TimestepSpacing};

/// Where the first latents come from.
#[derive(Debug, Clone)]
pub enum Noise {
    /// A generator and its seed.
    Seed {
        /// Seed of this picture.
        seed: u64,
        /// Generator.
        kind: NoiseKind,
    },
    /// Unit-variance noise `[c, h, w]` or `[1, c, h, w]`; the sampler scales it. Fresh noise of a stochastic sampler comes
    /// from the counter generator with the seed 0.
    Latents(Tensor),
}

impl Default for Noise {
    fn default() -> Self {
        Self::Seed { seed: 0, kind: NoiseKind::default() }
    }
}

/// A picture to start from instead of pure noise (SDEdit, arXiv 2108.01073).
#[derive(Debug, Clone)]
pub struct InitialPicture {
    /// `[1, 3, height, width]` or `[3, height, width]` in 0..1, of the size of the picture that is to be made.
    pub picture: Tensor,
    /// Share of the steps that run, 0..1: 1 leaves nothing of the picture but a trace, small values leave most of it.
    pub strength: f64,
}

/// One picture. A batch is a loop over requests: so a picture never depends on its neighbours.
#[derive(Debug, Clone)]
pub struct ImageRequest {
    /// The text; for class-conditional models without a `class_label`, the name or number of a class.
    pub prompt: String,
    /// What guidance leads away from.
    pub negative_prompt: String,
    /// The class, for class-conditional models.
    pub class_label: Option<u32>,
    /// Where the first latents come from.
    pub noise: Noise,
    /// A picture to start from.
    pub initial: Option<InitialPicture>,
    /// Width in pixels; the model's own if absent.
    pub width: Option<usize>,
    /// Height in pixels; the model's own if absent.
    pub height: Option<usize>,
    /// Steps of the sampler.
    pub steps: usize,
    /// Scale of classifier-free guidance (arXiv 2207.12598); at most 1 is without, and evaluates one row instead of two.
    pub guidance_scale: f32,
    /// Sampler; the one in the model's scheduler configuration if absent.
    pub sampler: Option<Sampler>,
    /// Spacing of the noise levels instead of the configuration's.
    pub sigma_spacing: Option<SigmaSpacing>,
    /// Spacing of the timesteps instead of the configuration's.
    pub timestep_spacing: Option<TimestepSpacing>,
    /// DDIM's share of fresh noise.
    pub eta: f64,
}

impl Default for ImageRequest {
    fn default() -> Self {
        Self {
            prompt: String::new(),
            negative_prompt: String::new(),
            class_label: None,
            noise: Noise::default(),
            initial: None,
            width: None,
            height: None,
            steps: 20,
            guidance_scale: 4.0,
            sampler: None,
            sigma_spacing: None,
            timestep_spacing: None,
            eta: 0.0,
        }
    }
}

impl ImageRequest {
    /// Whether both halves of guidance are evaluated.
    pub fn is_guided(&self) -> bool {
        self.guidance_scale > 1.0
    }

    /// The schedule's part of the request, with the sampler that is used when none is named.
    pub(crate) fn schedule(&self, default: Sampler, image_tokens: usize) -> ScheduleRequest {
        ScheduleRequest {
            sigma_spacing: self.sigma_spacing,
            timestep_spacing: self.timestep_spacing,
            eta: self.eta,
            image_tokens: Some(image_tokens),
            ..ScheduleRequest::new(self.sampler.unwrap_or(default), self.steps)
        }
    }
}

/// What an observer sees after every step.
pub struct Progress<'a> {
    /// The sampler's step: latents, estimate of the clean latents, seconds.
    pub step: &'a StepReport<'a>,
    /// The cache, for its report so far.
    pub cache: &'a refrain_cache::Context,
}

/// A finished picture.
#[derive(Debug, Clone)]
pub struct GeneratedImage {
    /// Final latents `[1, c, h, w]`, f32, as the denoiser sees them.
    pub latents: Tensor,
    /// The picture `[1, 3, height, width]` in 0..1.
    pub image: Tensor,
    /// The sampler that ran.
    pub sampler: Sampler,
    /// Evaluations of the model.
    pub evaluations: usize,
    /// What the cache did.
    pub report: Report,
    /// The actions that were taken, to replay.
    pub plan: Plan,
    /// Seconds by part.
    pub seconds: Seconds,
}

/// Wall time of the parts of a generation.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Seconds {
    /// Text encoder and all that is prepared once.
    pub text: f64,
    /// The sampler's loop.
    pub denoise: f64,
    /// Latents to picture.
    pub decode: f64,
}

impl Seconds {
    /// All together.
    pub fn total(&self) -> f64 {
        self.text + self.denoise + self.decode
    }
}
