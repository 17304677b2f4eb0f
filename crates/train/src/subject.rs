//! What the trainers need of a pipeline: a schedule, and trials to run on it.
//!
//! Nothing here names a model family. A trial's predictor is a closure from latents to the guided prediction, so that
//! everything with sites can be trained on.

use candle_core::Tensor;
use refrain_cache::{Context, RunHeader, Site, Step};
use refrain_samplers::{NoiseKind, NoiseStream, Schedule, StepInfo, ignore, sample};

use crate::TrainError;

/// Guided prediction of a trial's model: latents `[n, c, h, w]` at a step, sites asking the context.
pub type Predict<'a> = dyn Fn(&mut Context, &Tensor, &StepInfo) -> Result<Tensor, TrainError> + 'a;

/// Some pictures that are sampled together: their first latents and their conditioned model. Image-free: nothing but
/// noise and prompts (HarmoniCa's step-wise denoising training, arXiv 2410.01723).
pub struct Trial<'a> {
    /// Latents at the first step, `[n, c, h, w]`.
    pub latents: Tensor,
    /// The model under the trial's prompts.
    pub predict: Box<Predict<'a>>,
}

/// A cacheable part and its share of the time of a full evaluation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SiteCost {
    /// The site.
    pub site: Site,
    /// Its share of an evaluation's cost, in 0..1.
    pub share: f64,
}

/// A model under one schedule, and trials without end.
pub struct Subject<'a> {
    /// What the trained plan will be valid for.
    pub run: RunHeader,
    /// The sampler's steps.
    pub schedule: Schedule,
    /// Sites that a router decides on.
    pub sites: Vec<SiteCost>,
    /// The trial of a number: the same number gives the same prompts and noise.
    pub draw: Box<dyn Fn(u64) -> Result<Trial<'a>, TrainError> + 'a>,
}

impl Subject<'_> {
    /// Evaluations of the model in a run.
    pub fn steps(&self) -> usize {
        self.schedule.count()
    }
}

/// Samples a trial to its final latents; `evaluate` stands for the model at each step.
///
/// # Errors
/// Those of `evaluate`, and latents that leave the numbers.
pub fn roll_out(
    schedule: &Schedule,
    latents: &Tensor,
    evaluate: &mut dyn FnMut(&Tensor, &StepInfo) -> Result<Tensor, TrainError>,
) -> Result<Tensor, TrainError> {
    // Only stochastic samplers draw from it, and a plan for these is judged on the same draws.
    let mut noise = NoiseStream::new(NoiseKind::Counter, 0);
    let mut denoise = |latents: &Tensor, step: &StepInfo| evaluate(latents, step).map_err(Into::into);
    sample(&mut denoise, latents.clone(), schedule, &mut noise, &mut ignore).map_err(unwrapped)
}

/// An error of this crate that travelled through the sampler comes back as itself.
fn unwrapped(error: refrain_samplers::Error) -> TrainError {
    match error {
        refrain_samplers::Error::Denoise { step, count, source } => match source.downcast::<TrainError>() {
            Ok(own) => *own,
            Err(source) => refrain_samplers::Error::Denoise { step, count, source }.into(),
        },
        other => other.into(),
    }
}

/// The model's output for the latents of each trial.
pub type EvaluateAll<'a> = dyn FnMut(&[Tensor], &StepInfo) -> Result<Vec<Tensor>, TrainError> + 'a;

/// As [`roll_out`], for several trials side by side: `evaluate` gets the latents of each and gives the model's output for
/// each. Returns the final latents of each.
///
/// # Errors
/// Those of `evaluate`, and latents that leave the numbers.
pub fn roll_out_together(
    schedule: &Schedule,
    trials: &[Trial<'_>],
    evaluate: &mut EvaluateAll<'_>,
) -> Result<Vec<Tensor>, TrainError> {
    let rows = trials.iter().map(|trial| trial.latents.dim(0)).collect::<Result<Vec<_>, _>>()?;
    let latents: Vec<&Tensor> = trials.iter().map(|trial| &trial.latents).collect();
    let last = roll_out(schedule, &Tensor::cat(&latents, 0)?, &mut |latents, step| {
        Ok(Tensor::cat(&evaluate(&parted(latents, &rows)?, step)?, 0)?)
    })?;
    parted(&last, &rows)
}

fn parted(latents: &Tensor, rows: &[usize]) -> Result<Vec<Tensor>, TrainError> {
    let mut start = 0;
    let part = |&count: &usize| {
        let part = latents.narrow(0, start, count)?.contiguous()?;
        start += count;
        Ok(part)
    };
    rows.iter().map(part).collect()
}

/// The step as the cache names it.
pub fn cache_step(step: &StepInfo) -> Step {
    Step { index: step.index, count: step.count, timestep: step.timestep, sigma: step.sigma }
}

/// Mean square of each row of a difference `[n, …]`: one harm per picture.
///
/// # Errors
/// If the shapes differ.
pub fn row_errors(reference: &Tensor, value: &Tensor) -> Result<Vec<f64>, TrainError> {
    let difference = (value - reference)?.flatten_from(1)?;
    let rows: Vec<f32> = difference.sqr()?.mean(1)?.to_vec1()?;
    Ok(rows.into_iter().map(f64::from).collect())
}
