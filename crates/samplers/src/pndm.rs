//! Pseudo numerical methods on the manifold (PNDM; Liu et al., arXiv 2202.09778), as diffusers' `PNDMScheduler`: the
//! sampler that Stable Diffusion 1.x folders name.
//!
//! The transfer of equation 11 moves latents between two signal shares along a direction of noise. Which direction, is a
//! classical method's choice: a linear multistep of the last four outputs (PLMS), begun either by one second-order step
//! or by three steps of Runge and Kutta's fourth-order method (`skip_prk_steps: false`).

use std::collections::VecDeque;

use candle_core::Tensor;

use crate::pass::combined;
use crate::schedule::{Method, sigma_of};
use crate::spacing::{self, TimestepSpacing};
use crate::step::{Stepped, run};
use crate::{
    Denoise, Error, NoiseSchedule, Observe, Prediction, Result, Sampler, Schedule, ScheduleRequest, SchedulerConfig,
};

/// Outputs that a multistep combines at most; also the steps that Runge-Kutta needs to begin with.
const ORDER: usize = 4;
/// Evaluations of a Runge-Kutta step.
const STAGES: usize = 4;

/// Weights of the last outputs, newest first, by how many there are (Adams-Bashforth).
const MULTISTEP: [&[f64]; ORDER] = [
    &[1.0],
    &[3.0 / 2.0, -1.0 / 2.0],
    &[23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0],
    &[55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0],
];

/// Weights of the four stages of a Runge-Kutta step.
const RUNGE_KUTTA: [f64; STAGES] = [1.0 / 6.0, 1.0 / 3.0, 1.0 / 3.0, 1.0 / 6.0];

/// What the evaluations of a run do, one by one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PndmTable {
    evaluations: Vec<Evaluation>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Evaluation {
    timestep: f64,
    /// Signal's share of the variance at the timestep.
    share: f64,
    /// Shares between which the latents are moved.
    from: f64,
    to: f64,
    rule: Rule,
}

/// How an evaluation's output becomes a direction, and which latents it moves.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Rule {
    /// Euler's first step, which the next evaluation takes anew.
    First,
    /// The first step again, along the mean of the directions at both ends.
    Again,
    /// A combination of the last outputs.
    Multistep,
    /// A stage of a step that starts from the latents of stage 0.
    RungeKutta(usize),
}

impl PndmTable {
    /// Signal's share of the variance where the run starts.
    pub(crate) fn first_share(&self) -> f64 {
        self.evaluations.first().map_or(1.0, |first| first.share)
    }

    /// Whole steps that the evaluations make.
    pub(crate) fn steps(&self) -> usize {
        self.evaluations.iter().filter(|evaluation| evaluation.ends_a_step()).count()
    }

    /// Leaves out the first `steps` and tells how many evaluations those were. What follows begins with the lower orders
    /// of the multistep. (diffusers cuts its list of timesteps instead, after which its latents lag one step behind their
    /// timesteps.)
    pub(crate) fn leave_out(&mut self, steps: usize) -> usize {
        let ends = self.evaluations.iter().enumerate().filter(|(_, evaluation)| evaluation.ends_a_step());
        let cut = steps.checked_sub(1).and_then(|last| ends.map(|(index, _)| index + 1).nth(last)).unwrap_or(0);
        self.evaluations.drain(..cut);
        cut
    }
}

impl Evaluation {
    fn ends_a_step(self) -> bool {
        match self.rule {
            Rule::First => false,
            Rule::Again | Rule::Multistep => true,
            Rule::RungeKutta(stage) => stage + 1 == STAGES,
        }
    }

    /// Factors of the latents and of the direction (equation 11), where the direction is what the model predicts: noise,
    /// or a velocity, of which noise is `alpha * velocity + sigma * latents`.
    fn transfer(self, prediction: Prediction) -> (f32, f32) {
        let (from, to) = (self.from, self.to);
        let below = from * (1.0 - to).sqrt() + (from * (1.0 - from) * to).sqrt();
        let noise = prediction.noise(from.sqrt(), (1.0 - from).sqrt());
        let direction = -(to - from) / below;
        (((to / from).sqrt() + direction * noise.latents) as f32, (direction * noise.output) as f32)
    }
}

/// What a run remembers.
#[derive(Default)]
struct Memory {
    /// Outputs of past steps, newest first.
    outputs: VecDeque<Tensor>,
    /// Latents that the present step started from, and its weighted outputs so far.
    start: Option<Tensor>,
    sum: Option<Tensor>,
}

impl Memory {
    fn remember(&mut self, output: &Tensor) {
        self.outputs.push_front(output.clone());
        self.outputs.truncate(ORDER);
    }

    /// The latents that an evaluation moves and the direction it moves them along.
    fn direct(&mut self, rule: Rule, latents: &Tensor, output: &Tensor) -> Result<(Tensor, Tensor)> {
        match rule {
            Rule::First => {
                self.remember(output);
                self.start = Some(latents.clone());
                Ok((latents.clone(), output.clone()))
            }
            Rule::Again => {
                let start = self.start.take().unwrap_or_else(|| latents.clone());
                let before = self.outputs.front().unwrap_or(output);
                Ok((start, combined(&[(0.5, output), (0.5, before)])?))
            }
            Rule::Multistep => {
                self.remember(output);
                let weights = MULTISTEP.get(self.outputs.len() - 1).copied().unwrap_or_default();
                let terms: Vec<_> = weights.iter().copied().zip(&self.outputs).collect();
                Ok((latents.clone(), combined(&terms)?))
            }
            Rule::RungeKutta(stage) => self.stage(stage, latents, output),
        }
    }

    fn stage(&mut self, stage: usize, latents: &Tensor, output: &Tensor) -> Result<(Tensor, Tensor)> {
        if stage == 0 {
            self.remember(output);
            self.start = Some(latents.clone());
            self.sum = None;
        }
        let weight = RUNGE_KUTTA.get(stage).copied().unwrap_or_default();
        let sum = match self.sum.take() {
            Some(sum) => combined(&[(1.0, &sum), (weight, output)])?,
            None => combined(&[(weight, output)])?,
        };
        let start = self.start.clone().unwrap_or_else(|| latents.clone());
        let direction = if stage + 1 == STAGES { sum.clone() } else { output.clone() };
        self.sum = Some(sum);
        Ok((start, direction))
    }
}

/// Samples with PNDM. `n` steps are `n + 1` evaluations, or `n + 9` with Runge-Kutta in front.
///
/// # Errors
/// As [`sample`](crate::sample).
pub fn pndm(denoise: &mut Denoise, latents: Tensor, schedule: &Schedule, observe: &mut Observe) -> Result<Tensor> {
    let Method::Pndm(table) = &schedule.method else { return Err(schedule.wrong_for("pndm")) };
    let mut memory = Memory::default();
    run(denoise, latents, schedule, observe, |latents, output, index| {
        let evaluation = table.evaluations[index];
        let (alpha, sigma) = (evaluation.share.sqrt(), (1.0 - evaluation.share).sqrt());
        let clean = schedule.prediction.denoised(alpha, sigma).at();
        let (start, direction) = memory.direct(evaluation.rule, latents, output)?;
        let (keep, along) = evaluation.transfer(schedule.prediction);
        let inputs = [&start, &direction, latents, output];
        let [latents, denoised] = crate::pass::pass(inputs, |[start, direction, latents, output]| {
            [keep * start + along * direction, clean(latents, output)]
        })?;
        Ok(Stepped { latents, denoised })
    })
}

/// As in diffusers, `rescale_betas_zero_snr` has no effect here and the last step ends at the first training timestep's
/// level unless `set_alpha_to_one` says otherwise.
pub(crate) fn schedule(config: &SchedulerConfig, request: &ScheduleRequest) -> Result<Schedule> {
    let prediction = config.prediction()?;
    config.refuse("prediction_type sample with pndm", prediction == Prediction::Sample, "choose ddim")?;
    let spaced = request.sigma_spacing.is_some_and(|spacing| spacing != crate::SigmaSpacing::Discrete);
    config.refuse("spacing of noise levels with pndm", spaced, "choose discrete, or dpm++2m")?;
    let noise = NoiseSchedule::with_defaults(config, (0.0001, 0.02), false)?;
    let spacing = match request.timestep_spacing {
        Some(spacing) => spacing,
        None => config.timestep_spacing(TimestepSpacing::Leading)?,
    };
    let offset = config.steps_offset.unwrap_or(0);
    let timesteps: Vec<f64> = spacing::timesteps(spacing, request.steps, noise.train_timesteps(), offset)
        .into_iter()
        .map(f64::round_ties_even)
        .collect();
    let runge_kutta = !config.skip_prk_steps.unwrap_or(false);
    let few = runge_kutta && request.steps < ORDER;
    config.refuse("fewer than 4 steps with skip_prk_steps false", few, "take more steps, or set it to true")?;
    let shares =
        Shares { noise: &noise, stride: noise.train_timesteps() / request.steps, last: last_share(config, &noise) };
    let table = PndmTable { evaluations: shares.evaluations(&timesteps, runge_kutta)? };
    let mut sigmas: Vec<f32> = table.evaluations.iter().map(|one| sigma_of(one.share) as f32).collect();
    sigmas.extend(table.evaluations.last().map(|one| sigma_of(one.to) as f32));
    Ok(Schedule {
        sampler: Sampler::Pndm,
        prediction,
        timesteps: table.evaluations.iter().map(|one| one.timestep as f32).collect(),
        sigmas,
        init_noise_sigma: 1.0,
        method: Method::Pndm(table),
        left_out: 0,
    })
}

fn last_share(config: &SchedulerConfig, noise: &NoiseSchedule) -> f64 {
    match config.set_alpha_to_one {
        Some(true) => 1.0,
        _ => noise.alphas_cumprod().first().map_or(1.0, |&share| share.into()),
    }
}

/// Signal shares by timestep, and what lies beyond the last one.
struct Shares<'a> {
    noise: &'a NoiseSchedule,
    /// Training timesteps of one step.
    stride: usize,
    last: f64,
}

impl Shares<'_> {
    /// The evaluations of a run over `timesteps`, falling.
    fn evaluations(&self, timesteps: &[f64], runge_kutta: bool) -> Result<Vec<Evaluation>> {
        let stride = self.stride as f64;
        let mut evaluations = Vec::with_capacity(timesteps.len() + (ORDER - 1) * STAGES);
        let mut rest = timesteps;
        if runge_kutta {
            for pair in timesteps.windows(2).take(ORDER - 1) {
                self.runge_kutta_step(pair[0], pair[1], &mut evaluations)?;
            }
            rest = timesteps.get(ORDER - 1..).unwrap_or_default();
        } else if let [first, second, others @ ..] = timesteps {
            evaluations.push(self.evaluation(*first, (*first, *first - stride), Rule::First)?);
            evaluations.push(self.evaluation(*second, (*second + stride, *second), Rule::Again)?);
            let multistep = std::iter::once(second).chain(others);
            return self.multisteps(multistep, evaluations);
        }
        self.multisteps(rest.iter(), evaluations)
    }

    fn multisteps<'t>(
        &self,
        timesteps: impl Iterator<Item = &'t f64>,
        mut evaluations: Vec<Evaluation>,
    ) -> Result<Vec<Evaluation>> {
        for &timestep in timesteps {
            let ends = (timestep, timestep - self.stride as f64);
            evaluations.push(self.evaluation(timestep, ends, Rule::Multistep)?);
        }
        Ok(evaluations)
    }

    /// Start, twice the middle, and the end; every stage moves the latents of the start.
    fn runge_kutta_step(&self, start: f64, end: f64, evaluations: &mut Vec<Evaluation>) -> Result<()> {
        let half = (self.stride / 2) as f64;
        let middle = end + half;
        let stages = [(start, start - half), (middle, middle), (middle, middle - half), (end, end)];
        for (stage, (timestep, to)) in stages.into_iter().enumerate() {
            evaluations.push(self.evaluation(timestep, (start, to), Rule::RungeKutta(stage))?);
        }
        Ok(())
    }

    fn evaluation(&self, timestep: f64, (from, to): (f64, f64), rule: Rule) -> Result<Evaluation> {
        let step = timestep as usize;
        let outside = |value| {
            let advice = "steps_offset leads outside the training timesteps";
            Error::Schedule { what: "timestep", value, step, advice }
        };
        let inside = |timestep: f64| {
            let share = self.noise.alphas_cumprod().get(timestep as usize).filter(|_| timestep >= 0.0);
            share.map(|&share| f64::from(share)).ok_or_else(|| outside(timestep))
        };
        let to = if to < 0.0 { self.last } else { inside(to)? };
        Ok(Evaluation { timestep, share: inside(timestep)?, from: inside(from)?, to, rule })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use candle_core::Device;

    use super::*;

    fn config(keys: &str) -> SchedulerConfig {
        SchedulerConfig::from_json(&format!(r#"{{"_class_name": "PNDMScheduler"{keys}}}"#)).unwrap()
    }

    /// The transfer is exact for a noise that never changes, so a run of any length, cut anywhere, must end at the last
    /// level of the very picture that it began from.
    #[test]
    fn a_noise_that_never_changes_is_taken_away_exactly() {
        let noise = Tensor::new(&[0.3f32, -1.2, 0.8, 0.1], &Device::Cpu).unwrap();
        let clean = Tensor::new(&[0.5f32, 0.2, -0.7, 1.1], &Device::Cpu).unwrap();
        for (keys, steps) in [("", 9), ("", 4), (r#", "skip_prk_steps": true"#, 9), (r#", "skip_prk_steps": true"#, 1)]
        {
            for strength in [1.0, 0.7, 0.4] {
                let schedule = Schedule::new(&config(keys), &ScheduleRequest::new(Sampler::Pndm, steps)).unwrap();
                let Ok(schedule) = schedule.last_part(strength) else { continue };
                let start = schedule.noised(&clean, &noise).unwrap();
                let mut denoise = |_: &Tensor, _: &crate::StepInfo| Ok(noise.clone());
                let last = pndm(&mut denoise, start, &schedule, &mut crate::ignore).unwrap();
                let Method::Pndm(table) = &schedule.method else { panic!("another table") };
                let to = table.evaluations.last().unwrap().to;
                let expected = combined(&[(to.sqrt(), &clean), ((1.0 - to).sqrt(), &noise)]).unwrap();
                let error = (last - expected).unwrap().abs().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
                assert!(error < 1e-4, "{keys} {steps} {strength}: {error}");
            }
        }
    }

    #[test]
    fn what_pndm_cannot_do_is_refused() {
        let refused = |keys: &str, steps: usize| {
            Schedule::new(&config(keys), &ScheduleRequest::new(Sampler::Pndm, steps)).unwrap_err().to_string()
        };
        assert!(refused("", 3).contains("fewer than 4 steps"));
        assert!(refused(r#", "prediction_type": "sample""#, 8).contains("prediction_type sample"));
        assert!(refused(r#", "steps_offset": 900"#, 8).contains("steps_offset"));
    }
}
