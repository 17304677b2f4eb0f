//! DDIM inversion: the noise from which the sampler would make given clean latents.

use std::time::Instant;

use candle_core::Tensor;

use crate::prediction::Mix;
use crate::schedule::Method;
use crate::step::{Stepped, evaluate, finish};
use crate::{Denoise, Error, Observe, Prediction, Result, Schedule, StepInfo};

/// How exactly to invert.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Inversion {
    /// Most evaluations a step spends on top of the first. 0 is plain DDIM inversion, as in diffusers'
    /// `DDIMInverseScheduler`.
    pub refinements: usize,
    /// A step is refined until its latents change by less than this, relative to their size.
    pub tolerance: f64,
}

impl Default for Inversion {
    fn default() -> Self {
        Self { refinements: 0, tolerance: 1e-6 }
    }
}

/// Inverts with the schedule's own method: [`ddim_invert`], or [`flow_invert`](crate::flow_invert()) for flow matching.
///
/// # Errors
/// As the two.
pub fn invert(
    denoise: &mut Denoise,
    clean: Tensor,
    schedule: &Schedule,
    inversion: Inversion,
    observe: &mut Observe,
) -> Result<Tensor> {
    match &schedule.method {
        Method::Flow => crate::flow_invert(denoise, clean, schedule, inversion, observe),
        _ => ddim_invert(denoise, clean, schedule, inversion, observe),
    }
}

/// Walks the DDIM schedule from its clean end to its noisy end.
///
/// A sampling step is `next = a * x + b * model(x, t)`. Its inverse needs the model at the noisier latents `x`, which
/// are what is sought. Plain inversion takes the model at the cleaner latents instead; every refinement puts the last
/// answer for `x` into the model and solves again (Pan et al., arXiv 2309.04907; ReNoise, arXiv 2403.14602). Where
/// this converges, sampling brings the clean latents back.
///
/// The denoiser gets the timestep of the noisier end. `index` counts from the clean end; refinements keep it, and the
/// observer is called once a step. Guidance should be off: with strong guidance the iteration diverges.
///
/// # Errors
/// A schedule that is not DDIM's, draws noise, clips, or predicts neither epsilon nor v; else as
/// [`sample`](crate::sample).
pub fn ddim_invert(
    denoise: &mut Denoise,
    clean: Tensor,
    schedule: &Schedule,
    inversion: Inversion,
    observe: &mut Observe,
) -> Result<Tensor> {
    let table = invertible(schedule)?;
    let count = schedule.count();
    let mut latents = crate::pass::standard(&clean)?;
    for index in 0..count {
        let started = Instant::now();
        let step = StepInfo { index, ..schedule.step(count - 1 - index) };
        let levels = Levels::of(schedule.prediction, table[count - 1 - index]);
        let output = evaluate(denoise, &latents, &step)?;
        let (first, denoised) = (levels.first.at(), levels.denoised.at());
        let [mut noisier, mut estimate] = crate::pass::pass([&latents, &output], |[latents, output]| {
            [first(latents, output), denoised(latents, output)]
        })?;
        for _ in 0..inversion.refinements {
            let output = evaluate(denoise, &noisier, &step)?;
            let (refined, denoised) = (levels.refined.at(), levels.refined_denoised.at());
            let [better, clean] = crate::pass::pass([&latents, &noisier, &output], |[latents, noisier, output]| {
                [refined(latents, output), denoised(noisier, output)]
            })?;
            let change = relative_change(&noisier, &better)?;
            (noisier, estimate) = (better, clean);
            if change < inversion.tolerance {
                break;
            }
        }
        latents = finish(Stepped { latents: noisier, denoised: estimate }, &step, started, observe)?;
    }
    Ok(latents)
}

/// The DDIM table of a schedule whose steps can be inverted.
fn invertible(schedule: &Schedule) -> Result<&[(f64, f64)]> {
    let Method::Ddim(table) = &schedule.method else { return Err(schedule.wrong_for("ddim_invert")) };
    let refuse = |what: &str, advice| Err(Error::Unsupported { what: format!("inversion with {what}"), advice });
    if !matches!(schedule.prediction, Prediction::Epsilon | Prediction::Velocity) {
        return refuse(schedule.prediction.name(), "only models that predict epsilon or v can be inverted");
    }
    if table.eta > 0.0 {
        return refuse("eta above 0", "set eta to 0");
    }
    if table.clip.is_some() {
        return refuse("clip_sample", "set clip_sample to false");
    }
    Ok(&table.alphas_cumprod)
}

/// One step's coefficients, on latents and model output.
struct Levels {
    /// The noisier latents, taking the output for that of the cleaner latents given.
    first: Mix,
    /// Their estimate of the clean latents.
    denoised: Mix,
    /// The noisier latents from the cleaner ones and the output at the noisier: the sampling step, solved.
    refined: Mix,
    /// Estimate of the clean latents from the noisier ones.
    refined_denoised: Mix,
}

impl Levels {
    fn of(prediction: Prediction, (noisy, cleaner): (f64, f64)) -> Self {
        let shares = |alpha_cumprod: f64| (alpha_cumprod.sqrt(), (1.0 - alpha_cumprod).sqrt());
        let ((noisy_alpha, noisy_sigma), (alpha, sigma)) = (shares(noisy), shares(cleaner));
        let compose = |denoised: Mix, noise: Mix, alpha: f64, sigma: f64| Mix {
            latents: alpha * denoised.latents + sigma * noise.latents,
            output: alpha * denoised.output + sigma * noise.output,
        };
        let (denoised, noise) = (prediction.denoised(alpha, sigma), prediction.noise(alpha, sigma));
        let refined_denoised = prediction.denoised(noisy_alpha, noisy_sigma);
        let step = compose(refined_denoised, prediction.noise(noisy_alpha, noisy_sigma), alpha, sigma);
        Self {
            first: compose(denoised, noise, noisy_alpha, noisy_sigma),
            denoised,
            refined: Mix { latents: 1.0 / step.latents, output: -step.output / step.latents },
            refined_denoised,
        }
    }
}

/// Norm of the difference over the norm of `after`.
pub(crate) fn relative_change(before: &Tensor, after: &Tensor) -> Result<f64> {
    let [difference, size] =
        crate::pass::pass([before, after], |[before, after]| [(after - before) * (after - before), after * after])?;
    let total = |tensor: &Tensor| Ok::<_, Error>(f64::from(tensor.sum_all()?.to_scalar::<f32>()?));
    Ok((total(&difference)? / total(&size)?.max(f64::MIN_POSITIVE)).sqrt())
}
