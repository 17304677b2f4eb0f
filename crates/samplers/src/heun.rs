//! Heun's second-order method over noise levels (Karras et al., arXiv 2206.00364, algorithm 1 without churn), as
//! diffusers' `HeunDiscreteScheduler`.

use candle_core::Tensor;

use crate::schedule::{Method, sigma_table};
use crate::step::{Stepped, run};
use crate::{Denoise, NoiseSchedule, Observe, Result, Sampler, Schedule, ScheduleRequest, SchedulerConfig};

/// Samples with Heun's method: an Euler step, then the same step again along the mean of the slopes at both ends. The
/// last step, which ends without noise, is Euler's alone; so `n` steps are `2n - 1` evaluations.
///
/// # Errors
/// As [`sample`](crate::sample).
pub fn heun(denoise: &mut Denoise, latents: Tensor, schedule: &Schedule, observe: &mut Observe) -> Result<Tensor> {
    let Method::Heun { clip } = schedule.method else { return Err(schedule.wrong_for("heun")) };
    let limit = clip.unwrap_or(f32::INFINITY);
    // Latents and slope at the beginning of the step, kept between its two evaluations.
    let mut begun: Option<(Tensor, Tensor)> = None;
    run(denoise, latents, schedule, observe, |latents, output, index| {
        let sigma = schedule.sigmas[index];
        let denoised = schedule.prediction.denoised_from_ratio(f64::from(sigma)).at();
        let clean = |latents, output| denoised(latents, output).clamp(-limit, limit);
        if let Some((start, first_slope)) = begun.take() {
            let length = sigma - schedule.sigmas[index - 1];
            let inputs = [&start, &first_slope, latents, output];
            let [latents, denoised] = crate::pass::pass(inputs, |[start, first_slope, latents, output]| {
                let clean = clean(latents, output);
                [start + (first_slope + (latents - clean) / sigma) / 2.0 * length, clean]
            })?;
            return Ok(Stepped { latents, denoised });
        }
        let length = schedule.sigmas[index + 1] - sigma;
        let [next, slope, denoised] = crate::pass::pass([latents, output], |[latents, output]| {
            let clean = clean(latents, output);
            let slope = (latents - clean) / sigma;
            [latents + slope * length, slope, clean]
        })?;
        begun = Some((latents.clone(), slope));
        Ok(Stepped { latents: next, denoised })
    })
}

/// As in diffusers, `rescale_betas_zero_snr` and `final_sigmas_type` have no effect here, and the default betas are
/// those of latent diffusion.
pub(crate) fn schedule(config: &SchedulerConfig, request: &ScheduleRequest) -> Result<Schedule> {
    let noise = NoiseSchedule::with_defaults(config, (0.00085, 0.012), false)?;
    let table = sigma_table(config, request, &noise, 0.0)?;
    let mut timesteps = Vec::with_capacity(2 * request.steps);
    let mut sigmas = Vec::with_capacity(2 * request.steps);
    for (index, (&timestep, &sigma)) in table.timesteps.iter().zip(&table.sigmas).enumerate() {
        let times = if index == 0 { 1 } else { 2 };
        timesteps.extend(std::iter::repeat_n(timestep, times));
        sigmas.extend(std::iter::repeat_n(sigma, times));
    }
    sigmas.push(0.0);
    Ok(Schedule {
        sampler: Sampler::Heun,
        left_out: 0,
        prediction: config.prediction()?,
        timesteps,
        sigmas,
        init_noise_sigma: table.init_noise_sigma,
        method: Method::Heun {
            clip: config.clip_sample.unwrap_or(false).then(|| config.clip_sample_range.unwrap_or(1.0) as f32),
        },
    })
}
