//! A pipeline with the settings of a morph.

use std::ops::ControlFlow;

use candle_core::Tensor;
use refrain_cache::{RunHeader, Site};
use refrain_models::{Depth, SiteInfo};
use refrain_pipeline::{ImageRequest, Pipeline};
use refrain_samplers::{Sampler, Schedule, ScheduleRequest, SchedulerConfig, belm_evaluations};

use crate::error::{MorphError, Result};
use crate::memory::{Need, Rung};
use crate::schedule::{InjectionTable, Mode, Parts, TableRequest, Turns};

/// How a picture becomes noise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Inverter {
    /// DDIM backwards with fixed-point refinement (Euler backwards for flow matching).
    #[default]
    Ddim,
    /// O-BELM (arXiv 2410.07273): exact, with the same number of steps both ways.
    Belm,
}

/// What decides a morph, apart from pictures and texts.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Steps from picture to noise.
    pub inversion_steps: usize,
    /// Steps from noise to frame.
    pub denoising_steps: usize,
    /// How to invert.
    pub inverter: Inverter,
    /// Evaluations that each DDIM inversion step spends on top of the first.
    pub refinements: usize,
    /// Guidance while denoising; inversion is always without.
    pub guidance_scale: f32,
    /// Injection weight; 0 is none.
    pub weight: f32,
    /// How features are blended in.
    pub mode: Mode,
    /// When each depth has its turn.
    pub turns: Turns,
    /// What is injected.
    pub parts: Parts,
    /// Share of the denoising steps, from the noisy end, during which the anchor is attended to.
    pub anchor_share: f64,
    /// Frames that are denoised together.
    pub batch: usize,
    /// Most bytes for the endpoints' features; `None` for no limit.
    pub memory: Option<usize>,
    /// A rung of the memory ladder instead of the first that fits.
    pub rung: Option<Rung>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            inversion_steps: 25,
            denoising_steps: 25,
            inverter: Inverter::Ddim,
            refinements: 1,
            guidance_scale: 1.0,
            weight: 0.5,
            mode: Mode::default(),
            turns: Turns::THROUGHOUT,
            parts: Parts::default(),
            anchor_share: 0.2,
            batch: 8,
            memory: Some(DEFAULT_MEMORY),
            rung: None,
        }
    }
}

/// Most bytes for the endpoints' features unless said otherwise, the same on every machine: how features are held decides
/// the frames' last bits.
const DEFAULT_MEMORY: usize = 2 << 30;

/// What is being evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Keyframes to noise.
    Invert,
    /// Noise to frames.
    Denoise,
}

/// One evaluation of the network is done.
#[derive(Debug, Clone, Copy)]
pub struct Evaluation {
    /// In which phase.
    pub phase: Phase,
    /// Rows in it: keyframes or frames.
    pub rows: usize,
}

/// Called after every evaluation; `Break` stops with [`MorphError::Stopped`].
pub type Watch<'a> = dyn FnMut(Evaluation) -> ControlFlow<()> + 'a;

/// Makes morphs of one size with one model.
pub struct Morpher<'a> {
    pub(crate) pipeline: &'a Pipeline,
    pub(crate) settings: Settings,
    /// Height and width in pixels.
    pub(crate) size: (usize, usize),
    pub(crate) inversion: Schedule,
    pub(crate) denoising: Schedule,
    pub(crate) header: RunHeader,
    sites: Vec<(SiteInfo, Depth)>,
    latent_values: usize,
}

impl<'a> Morpher<'a> {
    /// Settles everything that does not depend on the pictures; `size` is (height, width) in pixels.
    ///
    /// # Errors
    /// Settings out of range, a size that the model cannot make, a schedule that cannot be made.
    pub fn new(pipeline: &'a Pipeline, settings: Settings, size: (usize, usize)) -> Result<Self> {
        check(&settings)?;
        let request = ImageRequest {
            steps: settings.denoising_steps,
            guidance_scale: settings.guidance_scale,
            height: Some(size.0),
            width: Some(size.1),
            sampler: Some(sampler(pipeline.scheduler())),
            ..ImageRequest::default()
        };
        let shape = pipeline.latent_shape(size.0, size.1, 0)?;
        let denoiser = pipeline.denoiser();
        let patch = denoiser.facts().patch_size;
        let schedule = |steps: usize| {
            // Clamping of the estimate cannot be inverted, and latents have no range to clamp to.
            let config = SchedulerConfig { clip_sample: Some(false), ..pipeline.scheduler().clone() };
            let tokens = Some((shape.height / patch) * (shape.width / patch));
            let request = ScheduleRequest { image_tokens: tokens, ..ScheduleRequest::new(sampler(&config), steps) };
            Schedule::new(&config, &request)
        };
        let (inversion, denoising) = (schedule(settings.inversion_steps)?, schedule(settings.denoising_steps)?);
        let mut header = pipeline.run_header(&request)?;
        if settings.inverter == Inverter::Belm {
            header.sampler = "belm".to_owned();
            header.steps = belm_evaluations(&denoising)?;
        }
        let mut sites = denoiser.sites(&shape);
        sites.extend(denoiser.enclosing_sites(&shape));
        Ok(Self {
            sites: sites.into_iter().map(|info| (info, denoiser.depth(info.site))).collect(),
            latent_values: denoiser.facts().latent_channels * shape.height * shape.width,
            pipeline,
            size,
            inversion,
            denoising,
            header,
            settings,
        })
    }

    /// The pipeline.
    pub fn pipeline(&self) -> &Pipeline {
        self.pipeline
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What a cache plan for the denoising depends on.
    pub fn header(&self) -> &RunHeader {
        &self.header
    }

    /// The sites with their depth, in order of execution.
    pub fn sites(&self) -> &[(SiteInfo, Depth)] {
        &self.sites
    }

    /// Evaluations from noise to frame and, refinements included, from picture to noise.
    pub fn evaluations(&self) -> (usize, usize) {
        match self.settings.inverter {
            Inverter::Ddim => (self.header.steps, self.settings.inversion_steps * (1 + self.settings.refinements)),
            Inverter::Belm => (self.header.steps, self.header.steps + 1),
        }
    }

    /// Rows and columns of the tokens that a picture's latents become.
    pub(crate) fn token_grid(&self) -> Result<(usize, usize)> {
        let shape = self.pipeline.latent_shape(self.size.0, self.size.1, 0)?;
        let patch = self.pipeline.denoiser().facts().patch_size;
        Ok((shape.height / patch, shape.width / patch))
    }

    /// What is injected when.
    pub fn table(&self) -> InjectionTable {
        let belm = self.settings.inverter == Inverter::Belm;
        let steps = |own: usize| if belm { self.header.steps } else { own };
        InjectionTable::new(&TableRequest {
            sites: &self.sites,
            parts: self.settings.parts,
            turns: self.settings.turns,
            weight: self.settings.weight,
            mode: self.settings.mode,
            denoising_steps: steps(self.settings.denoising_steps),
            inversion_steps: steps(self.settings.inversion_steps),
        })
    }

    /// The rung of the memory ladder for this many keyframes, with the exact bytes that it will hold.
    ///
    /// # Errors
    /// [`MorphError::Memory`].
    pub fn memory(&self, keyframes: usize) -> Result<(Rung, usize)> {
        let table = self.table();
        let values = |site: Site| {
            self.sites.iter().find(|(info, _)| info.site == site).map_or(0, |(info, _)| info.output_values)
        };
        let need = Need {
            table: &table,
            values: &values,
            endpoints: keyframes,
            inversion_steps: self.settings.inversion_steps,
            latent_values: self.latent_values,
        };
        let rung = match self.settings.rung {
            Some(rung) => rung,
            None => need.choose(self.settings.memory)?,
        };
        Ok((rung, need.bytes(rung)))
    }

    /// Pictures `[n, 3, height, width]` in 0..1 of clean latents, a few at a time.
    ///
    /// # Errors
    /// As the autoencoder.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        let rows = latents.dim(0)?;
        let pictures = (0..rows).map(|row| Ok(self.pipeline.autoencoder().decode(&latents.narrow(0, row, 1)?)?));
        Ok(Tensor::cat(&pictures.collect::<Result<Vec<_>>>()?, 0)?)
    }
}

/// The deterministic sampler that can be walked back.
fn sampler(config: &SchedulerConfig) -> Sampler {
    if config.is_flow() { Sampler::EulerFlow } else { Sampler::Ddim }
}

fn check(settings: &Settings) -> Result<()> {
    let refuse =
        |what, expected: &str, value: String| Err(MorphError::Setting { what, expected: expected.into(), value });
    if !(0.0..=1.0).contains(&settings.weight) {
        return refuse("injection weight", "between 0 and 1", settings.weight.to_string());
    }
    if !(settings.guidance_scale.is_finite() && settings.guidance_scale >= 0.0) {
        return refuse("guidance scale", "a number of at least 0", settings.guidance_scale.to_string());
    }
    if settings.batch == 0 {
        return refuse("batch", "at least 1", "0".to_owned());
    }
    if settings.inverter == Inverter::Belm && settings.inversion_steps != settings.denoising_steps {
        let value = format!("{} and {}", settings.inversion_steps, settings.denoising_steps);
        return refuse("inversion and denoising steps of O-BELM", "the same", value);
    }
    Ok(())
}
