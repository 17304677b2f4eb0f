//! O-BELM (arXiv 2410.07273): a two-step DDIM whose steps can be solved backwards exactly, at one evaluation a step.
//!
//! With levels `0` (clean) to `n`, signal share `a`, noise share `s` and `h_i = s_i / a_i - s_{i-1} / a_{i-1}`, a step is
//!
//! ```text
//! x_{i-1} = h_i^2/h_{i+1}^2 * a_{i-1}/a_{i+1} * x_{i+1}
//!         + (h_{i+1}^2 - h_i^2)/h_{i+1}^2 * a_{i-1}/a_i * x_i - h_i (h_i + h_{i+1})/h_{i+1} * a_{i-1} * noise(x_i)
//! ```
//!
//! which is linear in `x_{i+1}`: the inverse evaluates the model at the very latents that sampling will. The price is a
//! state of two neighbouring latents. A level of pure noise has no finite `h` and is left out.

use std::time::Instant;

use candle_core::Tensor;

use crate::schedule::Method;
use crate::step::{Stepped, evaluate, finish};
use crate::{Denoise, Error, Observe, Result, Schedule, StepInfo};

/// Signal below which a level counts as pure noise.
const PURE_NOISE: f64 = 1e-4;

/// Two neighbouring latents, `[b, c, ..]` each.
#[derive(Debug, Clone)]
pub struct BelmState {
    /// At the noisier level.
    pub noisier: Tensor,
    /// At the level below it.
    pub cleaner: Tensor,
}

/// One level's (signal share, noise share).
type Level = (f64, f64);

/// The levels from clean to the noisiest that is no pure noise.
fn levels(schedule: &Schedule) -> Result<Vec<Level>> {
    let Method::Ddim(table) = &schedule.method else { return Err(schedule.wrong_for("belm")) };
    let shares = |alpha_cumprod: f64| (alpha_cumprod.sqrt(), (1.0 - alpha_cumprod).max(0.0).sqrt());
    let mut levels: Vec<Level> = table.alphas_cumprod.iter().rev().map(|&(now, _)| shares(now)).collect();
    let clean = table.alphas_cumprod.last().map_or(1.0, |&(_, next)| next);
    levels.insert(0, shares(clean));
    levels.retain(|level| level.0 > PURE_NOISE);
    if levels.len() < 3 {
        let advice = "O-BELM needs at least three steps";
        return Err(Error::Unsupported { what: format!("{} steps", schedule.count()), advice });
    }
    Ok(levels)
}

/// Factors of `x_{i+1}`, `x_i` and the noise in `x_{i-1}`.
fn factors(levels: &[Level], i: usize) -> [f64; 3] {
    let ratio = |level: Level| level.1 / level.0;
    let (below, here, above) = (levels[i - 1], levels[i], levels[i + 1]);
    let (h, next) = (ratio(here) - ratio(below), ratio(above) - ratio(here));
    [
        h * h / (next * next) * below.0 / above.0,
        (next * next - h * h) / (next * next) * below.0 / here.0,
        -h * (h + next) / next * below.0,
    ]
}

/// The step that evaluates the model at level `i`; `index` counts in the direction of the walk.
fn step_at(schedule: &Schedule, i: usize, index: usize) -> StepInfo {
    StepInfo { index, ..schedule.step(schedule.count() - i) }
}

/// Clean latents to the two noisiest of the schedule.
///
/// # Errors
/// A schedule that is not DDIM's or too short; else as [`sample`](crate::sample).
pub fn belm_invert(
    denoise: &mut Denoise,
    clean: Tensor,
    schedule: &Schedule,
    observe: &mut Observe,
) -> Result<BelmState> {
    let levels = levels(schedule)?;
    let mut cleaner = crate::pass::standard(&clean)?;
    // Any second latents make the rest exact; a DDIM step's are natural ones.
    let step = step_at(schedule, 1, 0);
    let output = evaluate(denoise, &cleaner, &step)?;
    let ((alpha, sigma), (next_alpha, next_sigma)) = (levels[0], levels[1]);
    let denoised = schedule.prediction.denoised(alpha, sigma).at();
    let noise = schedule.prediction.noise(alpha, sigma).at();
    let [mut noisier] = crate::pass::pass([&cleaner, &output], |[latents, output]| {
        [next_alpha as f32 * denoised(latents, output) + next_sigma as f32 * noise(latents, output)]
    })?;
    for i in 1..levels.len() - 1 {
        let started = Instant::now();
        let step = step_at(schedule, i, i - 1);
        let output = evaluate(denoise, &noisier, &step)?;
        let [far, near, share] = factors(&levels, i).map(|factor| factor as f32);
        let denoised = schedule.prediction.denoised(levels[i].0, levels[i].1).at();
        let noise = schedule.prediction.noise(levels[i].0, levels[i].1).at();
        let [next, estimate] = crate::pass::pass([&cleaner, &noisier, &output], |[cleaner, noisier, output]| {
            let next = (cleaner - near * noisier - share * noise(noisier, output)) / far;
            [next, denoised(noisier, output)]
        })?;
        cleaner = noisier;
        noisier = finish(Stepped { latents: next, denoised: estimate }, &step, started, observe)?;
    }
    Ok(BelmState { noisier, cleaner })
}

/// Two neighbouring noisy latents, as [`belm_invert`] gives them, to the clean latents.
///
/// # Errors
/// As [`belm_invert`].
pub fn belm(denoise: &mut Denoise, state: BelmState, schedule: &Schedule, observe: &mut Observe) -> Result<Tensor> {
    let levels = levels(schedule)?;
    let BelmState { mut noisier, cleaner: mut latents } = state;
    for (index, i) in (1..levels.len() - 1).rev().enumerate() {
        let started = Instant::now();
        let step = step_at(schedule, i, index);
        let output = evaluate(denoise, &latents, &step)?;
        let [far, near, share] = factors(&levels, i).map(|factor| factor as f32);
        let denoised = schedule.prediction.denoised(levels[i].0, levels[i].1).at();
        let noise = schedule.prediction.noise(levels[i].0, levels[i].1).at();
        let [next, estimate] = crate::pass::pass([&noisier, &latents, &output], |[noisier, latents, output]| {
            [far * noisier + near * latents + share * noise(latents, output), denoised(latents, output)]
        })?;
        noisier = latents;
        latents = finish(Stepped { latents: next, denoised: estimate }, &step, started, observe)?;
    }
    Ok(latents)
}

/// Evaluations of the model that [`belm`] makes.
///
/// # Errors
/// As [`belm_invert`].
pub fn belm_evaluations(schedule: &Schedule) -> Result<usize> {
    Ok(levels(schedule)?.len() - 2)
}
