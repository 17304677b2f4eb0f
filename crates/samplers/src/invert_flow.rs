//! Inversion of Euler's method for flow matching.

use std::time::Instant;

use candle_core::Tensor;

use crate::schedule::Method;
use crate::step::{Stepped, evaluate, finish};
use crate::{Denoise, Inversion, Observe, Result, Schedule, StepInfo};

/// Walks the flow's schedule from its clean end to its noisy end.
///
/// A sampling step is `cleaner = noisier + (next - sigma) * model(noisier, sigma)`. As in
/// [`ddim_invert`](crate::ddim_invert()) the model is first taken at the cleaner latents, and every refinement puts the
/// last answer for the noisier ones in. Timesteps are those of the noisier end; `index` counts from the clean end.
///
/// # Errors
/// A schedule that is not the flow's; else as [`sample`](crate::sample).
pub fn flow_invert(
    denoise: &mut Denoise,
    clean: Tensor,
    schedule: &Schedule,
    inversion: Inversion,
    observe: &mut Observe,
) -> Result<Tensor> {
    let Method::Flow = schedule.method else { return Err(schedule.wrong_for("flow_invert")) };
    let count = schedule.count();
    let mut latents = crate::pass::standard(&clean)?;
    for index in 0..count {
        let started = Instant::now();
        let forward = count - 1 - index;
        let step = StepInfo { index, ..schedule.step(forward) };
        let sigma = schedule.sigmas[forward];
        let length = sigma - schedule.sigmas[forward + 1];
        let mut noisier = latents.clone();
        let mut estimate = latents.clone();
        for _ in 0..=inversion.refinements {
            let output = evaluate(denoise, &noisier, &step)?;
            let [better, clean] = crate::pass::pass([&latents, &output], |[latents, output]| {
                let noisier = latents + length * output;
                [noisier, noisier - sigma * output]
            })?;
            let change = crate::invert::relative_change(&noisier, &better)?;
            (noisier, estimate) = (better, clean);
            if change < inversion.tolerance {
                break;
            }
        }
        latents = finish(Stepped { latents: noisier, denoised: estimate }, &step, started, observe)?;
    }
    Ok(latents)
}
