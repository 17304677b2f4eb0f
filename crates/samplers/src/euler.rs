//! Euler's method over noise levels (Karras et al., arXiv 2206.00364), as diffusers' `EulerDiscreteScheduler`.

use candle_core::Tensor;

use crate::schedule::{Method, final_sigma, sigma_table};
use crate::step::{Stepped, run};
use crate::{Denoise, NoiseSchedule, Observe, Result, Sampler, Schedule, ScheduleRequest, SchedulerConfig};

/// Samples with Euler's method. The latents' scale is `clean + sigma * noise`.
///
/// # Errors
/// As [`sample`](crate::sample).
pub fn euler(denoise: &mut Denoise, latents: Tensor, schedule: &Schedule, observe: &mut Observe) -> Result<Tensor> {
    let Method::Euler = schedule.method else { return Err(schedule.wrong_for("euler")) };
    run(denoise, latents, schedule, observe, |latents, output, index| {
        let (sigma, next) = (schedule.sigmas[index], schedule.sigmas[index + 1]);
        let denoised = schedule.prediction.denoised_from_ratio(f64::from(sigma)).at();
        let length = next - sigma;
        let [latents, denoised] = crate::pass::pass([latents, output], |[latents, output]| {
            let clean = denoised(latents, output);
            [latents + (latents - clean) / sigma * length, clean]
        })?;
        Ok(Stepped { latents, denoised })
    })
}

pub(crate) fn schedule(config: &SchedulerConfig, request: &ScheduleRequest) -> Result<Schedule> {
    let strange = |value: &Option<String>, usual: &str| value.as_deref().is_some_and(|value| value != usual);
    config.refuse("interpolation_type", strange(&config.interpolation_type, "linear"), "only linear is")?;
    config.refuse("timestep_type", strange(&config.timestep_type, "discrete"), "only discrete is")?;
    let mut noise = NoiseSchedule::new(config)?;
    if config.rescale_betas_zero_snr == Some(true) {
        noise.lift_terminal();
    }
    let table = sigma_table(config, request, &noise, final_sigma(config, &noise)?)?;
    Ok(Schedule {
        sampler: Sampler::Euler,
        prediction: config.prediction()?,
        timesteps: table.timesteps,
        sigmas: table.sigmas,
        init_noise_sigma: table.init_noise_sigma,
        method: Method::Euler,
        left_out: 0,
    })
}
