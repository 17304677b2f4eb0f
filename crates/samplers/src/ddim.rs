//! DDIM (Song et al., arXiv 2010.02502), as diffusers' `DDIMScheduler`.

use candle_core::Tensor;

use crate::prediction::Mix;
use crate::schedule::{Method, sigma_of};
use crate::spacing::{self, TimestepSpacing};
use crate::step::{Stepped, run};
use crate::{
    Denoise, Error, NoiseSchedule, NoiseStream, Observe, Result, Sampler, Schedule, ScheduleRequest, SchedulerConfig,
};

/// Signal shares of the variance before and after every step.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DdimTable {
    pub(crate) alphas_cumprod: Vec<(f64, f64)>,
    pub(crate) eta: f64,
    pub(crate) clip: Option<f32>,
}

/// One step as numbers: `next = clean * denoised + direction * noise + fresh * normal`.
struct DdimStep {
    denoised: Mix,
    noise: Mix,
    clean: f32,
    direction: f32,
    fresh: f32,
}

/// Samples with DDIM; with eta above 0 every step adds fresh noise from `noise`.
///
/// # Errors
/// As [`sample`](crate::sample).
pub fn ddim(
    denoise: &mut Denoise,
    latents: Tensor,
    schedule: &Schedule,
    noise: &mut NoiseStream,
    observe: &mut Observe,
) -> Result<Tensor> {
    let Method::Ddim(table) = &schedule.method else { return Err(schedule.wrong_for("ddim")) };
    let limit = table.clip.unwrap_or(f32::INFINITY);
    run(denoise, latents, schedule, observe, |latents, output, index| {
        let step = table.step(schedule, index);
        let (denoised, direction) = (step.denoised.at(), step.noise.at());
        let [mut next, clean] = crate::pass::pass([latents, output], |[latents, output]| {
            let clean = denoised(latents, output).clamp(-limit, limit);
            [step.clean * clean + step.direction * direction(latents, output), clean]
        })?;
        if step.fresh > 0.0 {
            let normal = noise.normal(next.dims())?.to_device(next.device())?;
            [next] = crate::pass::pass([&next, &normal], |[next, normal]| [next + step.fresh * normal])?;
        }
        Ok(Stepped { latents: next, denoised: clean })
    })
}

impl DdimTable {
    fn step(&self, schedule: &Schedule, index: usize) -> DdimStep {
        let (now, next) = self.alphas_cumprod[index];
        let (alpha, sigma) = (now.sqrt(), (1.0 - now).sqrt());
        // Equation 16: the deviation of the fresh noise; the old noise keeps what is left of the variance.
        let fresh = self.eta * ((1.0 - next) / (1.0 - now) * (1.0 - now / next)).max(0.0).sqrt();
        DdimStep {
            denoised: schedule.prediction.denoised(alpha, sigma),
            noise: schedule.prediction.noise(alpha, sigma),
            clean: next.sqrt() as f32,
            direction: (1.0 - next - fresh * fresh).max(0.0).sqrt() as f32,
            fresh: fresh as f32,
        }
    }
}

pub(crate) fn schedule(config: &SchedulerConfig, request: &ScheduleRequest) -> Result<Schedule> {
    if !(0.0..=1.0).contains(&request.eta) {
        return Err(Error::Range { what: "eta", expected: "between 0 and 1", value: request.eta });
    }
    let noise = NoiseSchedule::new(config)?;
    let train = noise.train_timesteps();
    let spacing = match (request.sampler, request.timestep_spacing) {
        (Sampler::DdimTrailing, _) => TimestepSpacing::Trailing,
        (_, Some(spacing)) => spacing,
        (_, None) => config.timestep_spacing(TimestepSpacing::Leading)?,
    };
    let timesteps = spacing::timesteps(spacing, request.steps, train, config.steps_offset.unwrap_or(0));
    let timesteps: Vec<f64> = timesteps.into_iter().map(f64::round_ties_even).collect();
    let table = DdimTable {
        alphas_cumprod: signal_shares(config, request.steps, &timesteps, &noise)?,
        eta: request.eta,
        clip: config.clip_sample.unwrap_or(true).then(|| config.clip_sample_range.unwrap_or(1.0) as f32),
    };
    let mut sigmas: Vec<f32> = table.alphas_cumprod.iter().map(|&(now, _)| sigma_of(now) as f32).collect();
    sigmas.extend(table.alphas_cumprod.last().map(|&(_, next)| sigma_of(next) as f32));
    let schedule = Schedule {
        sampler: request.sampler,
        prediction: config.prediction()?,
        timesteps: timesteps.into_iter().map(|timestep| timestep as f32).collect(),
        sigmas,
        init_noise_sigma: 1.0,
        method: Method::Ddim(table.clone()),
        left_out: 0,
    };
    for index in 0..schedule.count() {
        let step = table.step(&schedule, index);
        if !(step.denoised.is_finite() && step.noise.is_finite()) {
            let advice = "a model that starts from pure noise must predict v (or use dpm++2m or euler)";
            return Err(Error::Schedule { what: "alpha", value: table.alphas_cumprod[index].0, step: index, advice });
        }
    }
    Ok(schedule)
}

/// Shares before and after each step. As in diffusers a step ends `train / steps` timesteps lower, which is not always
/// the next timestep of the run.
fn signal_shares(
    config: &SchedulerConfig,
    steps: usize,
    timesteps: &[f64],
    noise: &NoiseSchedule,
) -> Result<Vec<(f64, f64)>> {
    let shares = noise.alphas_cumprod();
    let stride = (noise.train_timesteps() / steps) as f64;
    let last =
        if config.set_alpha_to_one.unwrap_or(true) { 1.0 } else { shares.first().map_or(1.0, |&share| share.into()) };
    let share = |timestep: f64| shares.get(timestep as usize).map(|&share| f64::from(share));
    timesteps
        .iter()
        .enumerate()
        .map(|(step, &timestep)| {
            let advice = "steps_offset leads outside the training timesteps";
            let outside = || Error::Schedule { what: "timestep", value: timestep, step, advice };
            let now = if timestep < 0.0 { None } else { share(timestep) }.ok_or_else(outside)?;
            let next = if timestep < stride { Some(last) } else { share(timestep - stride) }.ok_or_else(outside)?;
            Ok((now, next))
        })
        .collect()
}
