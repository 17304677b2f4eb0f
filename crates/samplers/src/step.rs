//! What a sampler says to the model and to those who watch.

use std::ops::ControlFlow;
use std::time::Instant;

use candle_core::Tensor;

use crate::{Error, Result, Schedule};

/// Any error of a denoiser closure; `?` makes it from the closure's own error type.
pub type DenoiseError = Box<dyn std::error::Error + Send + Sync>;

/// The model as a sampler sees it: the scaled latents `[b, c, ..]` and the step, to the raw model output of the same
/// shape (in the schedule's [`Prediction`](crate::Prediction), guidance already applied).
pub type Denoise<'a> = dyn FnMut(&Tensor, &StepInfo) -> std::result::Result<Tensor, DenoiseError> + 'a;

/// Called after every step; `Break` ends the run with [`Error::Stopped`].
pub type Observe<'a> = dyn FnMut(&StepReport) -> ControlFlow<()> + 'a;

/// An observer that sees nothing and never stops.
pub fn ignore(_: &StepReport) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Where a run stands when the model is called; an evaluation that is repeated (inversion) keeps its step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepInfo {
    /// Evaluation of the model, from 0.
    pub index: usize,
    /// Evaluations in the whole run.
    pub count: usize,
    /// The timestep to condition the model on, in training timesteps (`0..num_train_timesteps`).
    pub timestep: f32,
    /// Noise-to-signal ratio of the latents at this step (for flow matching, the noise share in 0..1). Finite: where
    /// the schedule reaches pure noise, 4096 stands for infinity, as in diffusers.
    pub sigma: f32,
}

/// What a step did.
#[derive(Debug)]
pub struct StepReport<'a> {
    /// Evaluation of the model, from 0.
    pub index: usize,
    /// Evaluations in the whole run.
    pub count: usize,
    /// Timestep that the model was conditioned on.
    pub timestep: f32,
    /// Noise level before the step.
    pub sigma: f32,
    /// Latents after the step.
    pub latents: &'a Tensor,
    /// The step's estimate of the clean latents, for previews.
    pub denoised: &'a Tensor,
    /// Seconds that the step took, model included.
    pub seconds: f64,
}

/// Latents after a step and its estimate of the clean ones.
pub(crate) struct Stepped {
    pub(crate) latents: Tensor,
    pub(crate) denoised: Tensor,
}

/// The loop that all samplers share: call the model, let `advance` move the latents, check, report.
///
/// `advance` gets the latents, the model's output and the index of the step.
pub(crate) fn run(
    denoise: &mut Denoise,
    latents: Tensor,
    schedule: &Schedule,
    observe: &mut Observe,
    mut advance: impl FnMut(&Tensor, &Tensor, usize) -> Result<Stepped>,
) -> Result<Tensor> {
    let mut latents = crate::pass::standard(&latents)?;
    for index in 0..schedule.count() {
        let started = Instant::now();
        let step = schedule.step(index);
        let output = match schedule.input_scale(index) {
            1.0 => evaluate(denoise, &latents, &step)?,
            scale => evaluate(denoise, &crate::pass::scaled(&latents, scale)?, &step)?,
        };
        latents = finish(advance(&latents, &output, index)?, &step, started, observe)?;
    }
    Ok(latents)
}

/// Calls the model and checks the shape of what it gives.
pub(crate) fn evaluate(denoise: &mut Denoise, input: &Tensor, step: &StepInfo) -> Result<Tensor> {
    let StepInfo { index, count, .. } = *step;
    let output = denoise(input, step).map_err(|source| Error::Denoise { step: index, count, source })?;
    if output.dims() != input.dims() {
        let (expected, got) = (input.dims().to_vec(), output.dims().to_vec());
        return Err(Error::Shape { step: index, expected, got });
    }
    Ok(output)
}

/// Checks and reports a step; gives its latents back.
pub(crate) fn finish(stepped: Stepped, step: &StepInfo, started: Instant, observe: &mut Observe) -> Result<Tensor> {
    let StepInfo { index, count, timestep, sigma } = *step;
    if !crate::pass::is_finite(&stepped.latents)? {
        return Err(Error::NonFinite { step: index, count, timestep });
    }
    let Stepped { latents, denoised } = stepped;
    let seconds = started.elapsed().as_secs_f64();
    let report = StepReport { index, count, timestep, sigma, latents: &latents, denoised: &denoised, seconds };
    // A wish to stop that comes with the last step is too late: the picture is finished.
    if observe(&report).is_break() && index + 1 < count {
        return Err(Error::Stopped { step: index, count });
    }
    Ok(latents)
}
