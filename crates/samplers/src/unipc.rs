//! UniPC (Zhao et al., arXiv 2302.04867) for flow-matching models, as diffusers' `UniPCMultistepScheduler` with
//! `use_flow_sigmas`: the sampler of Wan.
//!
//! Every step first corrects the latents it came with, now that the model was evaluated on them, then predicts the next.
//! Both are one formula: the exponential integrator of the clean latents' estimates, whose differences to earlier
//! estimates are weighted so that polynomials in the log signal-to-noise ratio up to the order are integrated exactly.

use candle_core::Tensor;

use crate::schedule::Method;
use crate::step::{Stepped, run};
use crate::{Denoise, Error, Observe, Prediction, Result, Sampler, Schedule, ScheduleRequest, SchedulerConfig};

/// Highest order that stays stable with guidance.
const HIGHEST_ORDER: usize = 3;
/// Distance from pure noise, where the log signal-to-noise ratio is still finite.
const FROM_PURE_NOISE: f64 = 1e-6;

/// UniPC's options.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct UniPcOptions {
    order: usize,
    /// Steps whose result is not corrected.
    uncorrected: Vec<usize>,
}

/// What a run remembers: the latents that the last prediction started from, and the estimates behind it, newest first.
struct Memory {
    latents: Tensor,
    estimates: Vec<Tensor>,
    order: usize,
}

/// Samples a flow-matching model with UniPC. The latents are `(1 - sigma) * clean + sigma * noise`, the model gives their
/// slope `noise - clean`.
///
/// # Errors
/// As [`sample`](crate::sample).
pub fn unipc(denoise: &mut Denoise, latents: Tensor, schedule: &Schedule, observe: &mut Observe) -> Result<Tensor> {
    let Method::UniPc(options) = &schedule.method else { return Err(schedule.wrong_for("unipc")) };
    let sigmas = &schedule.sigmas;
    let mut memory: Option<Memory> = None;
    run(denoise, latents, schedule, observe, |latents, output, index| {
        let sigma = sigmas[index];
        let [estimate] = crate::pass::pass([latents, output], |[latents, output]| [latents - sigma * output])?;
        let denoised = estimate.clone();
        let mut start = latents.clone();
        let mut estimates = Vec::new();
        if let Some(memory) = memory.take() {
            if !options.uncorrected.contains(&(index - 1)) {
                let levels = Levels::new(sigmas, index - 1, memory.order);
                start = levels.corrected(&memory, &estimate)?;
            }
            estimates = memory.estimates;
        }
        estimates.insert(0, estimate);
        estimates.truncate(options.order);
        let order = options.order.min(schedule.count() - index).min(estimates.len());
        let now = Memory { latents: start, estimates, order };
        let next = Levels::new(sigmas, index, order).predicted(&now)?;
        memory = Some(now);
        Ok(Stepped { latents: next, denoised })
    })
}

/// The noise levels of one step from `index` to the next.
struct Levels {
    /// Factor of the latents, and of their newest estimate in first order.
    latents: f64,
    alpha: f64,
    /// Minus the step in the log signal-to-noise ratio.
    step: f64,
    /// Earlier levels relative to the step, nearest first.
    ratios: Vec<f64>,
}

impl Levels {
    fn new(sigmas: &[f32], index: usize, order: usize) -> Self {
        let (here, next) = (sigmas[index], sigmas[index + 1]);
        let length = log_ratio(next) - log_ratio(here);
        let earlier = (1..order).filter_map(|back| sigmas.get(index.checked_sub(back)?));
        let ratios = earlier.map(|&sigma| (log_ratio(sigma) - log_ratio(here)) / length).collect();
        Self { latents: f64::from(next) / f64::from(here), alpha: f64::from(1.0 - next), step: -length, ratios }
    }

    /// B(h) = e^h - 1 and the right-hand side b of the order conditions, `count` of them.
    fn conditions(&self, count: usize) -> (f64, Vec<f64>) {
        let step = self.step;
        let scale = step.exp_m1();
        let (mut phi, mut factorial, mut sides) = (step.exp_m1() / step - 1.0, 1.0, Vec::with_capacity(count));
        for order in 1..=count {
            sides.push(phi * factorial / scale);
            factorial *= (order + 1) as f64;
            phi = phi / step - 1.0 / factorial;
        }
        (scale, sides)
    }

    /// UniP: the next latents.
    fn predicted(&self, memory: &Memory) -> Result<Tensor> {
        let count = self.ratios.len();
        // At the clean end the step is infinite; only first order is left, whose exponential is exact.
        if count == 0 {
            return self.mixed(memory, 0.0, &[], None);
        }
        let (scale, sides) = self.conditions(count);
        let weights = if count == 1 { vec![0.5] } else { solve(&self.ratios, sides) };
        self.mixed(memory, scale, &weights, None)
    }

    /// UniC: the latents that the prediction should have been, given the `estimate` made from it.
    fn corrected(&self, memory: &Memory, estimate: &Tensor) -> Result<Tensor> {
        let mut points = self.ratios.clone();
        points.push(1.0);
        let (scale, sides) = self.conditions(points.len());
        let mut weights = if points.len() == 1 { vec![0.5] } else { solve(&points, sides) };
        let last = weights.pop().unwrap_or_default();
        self.mixed(memory, scale, &weights, Some((last, estimate)))
    }

    /// latents·x - alpha·(e^-h - 1)·m0 - alpha·B·(Σ weight·(m - m0) / ratio + last·(estimate - m0)).
    fn mixed(&self, memory: &Memory, scale: f64, weights: &[f64], last: Option<(f64, &Tensor)>) -> Result<Tensor> {
        let mut terms: Vec<(f64, &Tensor)> = vec![(self.latents, &memory.latents)];
        let mut newest = -self.alpha * self.step.exp_m1();
        let earlier = memory.estimates.iter().skip(1);
        let differences =
            weights.iter().zip(&self.ratios).map(|(weight, ratio)| weight / ratio).zip(earlier).chain(last);
        for (weight, estimate) in differences {
            let factor = -self.alpha * scale * weight;
            terms.push((factor, estimate));
            newest -= factor;
        }
        terms.extend(memory.estimates.first().map(|estimate| (newest, estimate)));
        crate::pass::combined(&terms)
    }
}

/// Log of signal over noise; infinite at either end. The signal's share is rounded as the reference rounds it: near pure
/// noise it decides the whole step.
fn log_ratio(sigma: f32) -> f64 {
    f64::from(1.0 - sigma).ln() - f64::from(sigma).ln()
}

/// Weights with Σ weight·point^k = side_k for k = 0, 1, …: Gaussian elimination with pivots on at most three rows.
fn solve(points: &[f64], mut sides: Vec<f64>) -> Vec<f64> {
    let count = points.len();
    let mut rows: Vec<Vec<f64>> =
        (0..count).map(|power| points.iter().map(|point| point.powi(power as i32)).collect()).collect();
    for column in 0..count {
        let largest = |row: &usize| rows[*row][column].abs();
        let pivot = (column..count).max_by(|left, right| largest(left).total_cmp(&largest(right))).unwrap_or(column);
        rows.swap(column, pivot);
        sides.swap(column, pivot);
        for row in (0..count).filter(|&row| row != column) {
            let factor = rows[row][column] / rows[column][column];
            let above = rows[column].clone();
            rows[row].iter_mut().zip(above).for_each(|(value, above)| *value -= factor * above);
            sides[row] -= factor * sides[column];
        }
    }
    (0..count).map(|row| sides[row] / rows[row][row]).collect()
}

impl UniPcOptions {
    fn of(config: &SchedulerConfig) -> Result<Self> {
        let order = config.solver_order.unwrap_or(2);
        let orders = 1..=HIGHEST_ORDER;
        config.refuse("solver_order other than 1, 2 and 3", !orders.contains(&order), "set it to 2")?;
        config.refuse("predict_x0 false", config.predict_x0 == Some(false), "set it to true")?;
        // Its last step multiplies an infinite length by nothing: diffusers' own ends in NaN.
        config.refuse("solver_type bh1", config.solver_type.as_deref() == Some("bh1"), "set it to bh2")?;
        // The last step is infinite in the log signal-to-noise ratio: only first order is finite there.
        let kept = config.lower_order_final == Some(false) && order > 1;
        config.refuse("lower_order_final false with unipc", kept, "set it to true")?;
        let uncorrected = config.disable_corrector.clone().unwrap_or_default();
        Ok(Self { order, uncorrected })
    }
}

pub(crate) fn schedule(config: &SchedulerConfig, request: &ScheduleRequest) -> Result<Schedule> {
    let options = UniPcOptions::of(config)?;
    let karras = config.sigma_spacing()? != crate::SigmaSpacing::Discrete || request.sigma_spacing.is_some();
    let spaced = karras && request.sigma_spacing != Some(crate::SigmaSpacing::Discrete);
    config.refuse("spacing of noise levels with unipc", spaced, "choose discrete, or dpm++2m")?;
    let dynamic = config.use_dynamic_shifting == Some(true) || config.shift_terminal.is_some_and(|end| end != 0.0);
    config.refuse("use_dynamic_shifting or shift_terminal with unipc", dynamic, "choose euler")?;
    let train = config.train_timesteps()? as f64;
    let shift = config.flow_shift.or(config.shift).unwrap_or(1.0);
    if !(shift > 0.0 && shift.is_finite()) {
        return Err(Error::Range { what: "flow_shift", expected: "above 0", value: shift });
    }
    let stride = (1.0 / train - 1.0) / request.steps as f64;
    let level = |index: usize| {
        let even = 1.0 + index as f64 * stride;
        let sigma = shift * even / (1.0 + (shift - 1.0) * even);
        if (sigma - 1.0).abs() < FROM_PURE_NOISE { sigma - FROM_PURE_NOISE } else { sigma }
    };
    let levels: Vec<f64> = (0..request.steps).map(level).collect();
    let last = match config.final_sigmas_type.as_deref() {
        None | Some("zero") => 0.0,
        Some("sigma_min") => levels.last().copied().unwrap_or_default(),
        Some(name) => {
            let known = "zero, sigma_min".into();
            return Err(Error::UnknownName { what: "final_sigmas_type", name: name.into(), known });
        }
    };
    config.refuse("final_sigmas_type sigma_min with unipc", last > 0.0, "set it to zero")?;
    Ok(Schedule {
        sampler: Sampler::UniPc,
        prediction: Prediction::Flow,
        timesteps: levels.iter().map(|sigma| (sigma * train).trunc() as f32).collect(),
        sigmas: levels.iter().chain(&[last]).map(|&sigma| sigma as f32).collect(),
        init_noise_sigma: 1.0,
        method: Method::UniPc(options),
        left_out: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_meet_their_conditions() {
        let points = [-0.7, -1.9, 1.0];
        let sides = vec![0.4, -0.2, 0.11];
        let weights = solve(&points, sides.clone());
        for (power, side) in sides.into_iter().enumerate() {
            let sum: f64 = weights.iter().zip(points).map(|(weight, point)| weight * point.powi(power as i32)).sum();
            assert!((sum - side).abs() < 1e-12, "{power}: {sum}");
        }
    }
}
