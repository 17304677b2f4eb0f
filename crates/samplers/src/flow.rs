//! Euler's method for flow matching (Lipman et al., arXiv 2210.02747; the shift of Esser et al., arXiv 2403.03206), as
//! diffusers' `FlowMatchEulerDiscreteScheduler`.

use candle_core::Tensor;

use crate::schedule::Method;
use crate::spacing::{self, SigmaSpacing};
use crate::step::{Stepped, run};
use crate::{Denoise, Error, Observe, Prediction, Result, Sampler, Schedule, ScheduleRequest, SchedulerConfig};

/// Samples a flow-matching model with Euler's method. The latents are `(1 - sigma) * clean + sigma * noise`, the model
/// gives their slope `noise - clean`.
///
/// # Errors
/// As [`sample`](crate::sample).
pub fn euler_flow(
    denoise: &mut Denoise,
    latents: Tensor,
    schedule: &Schedule,
    observe: &mut Observe,
) -> Result<Tensor> {
    let Method::Flow = schedule.method else { return Err(schedule.wrong_for("euler_flow")) };
    run(denoise, latents, schedule, observe, |latents, output, index| {
        let (sigma, next) = (schedule.sigmas[index], schedule.sigmas[index + 1]);
        let length = next - sigma;
        let [latents, denoised] = crate::pass::pass([latents, output], |[latents, output]| {
            [latents + length * output, latents - sigma * output]
        })?;
        Ok(Stepped { latents, denoised })
    })
}

/// How the even noise levels are pushed towards the noisy end.
enum Shift {
    /// `s * t / (1 + (s - 1) * t)`.
    Constant(f64),
    /// `e^mu / (e^mu + 1/t - 1)`, by the number of picture tokens.
    Exponential(f64),
    /// `mu / (mu + 1/t - 1)`.
    Linear(f64),
}

impl Shift {
    fn of(config: &SchedulerConfig, request: &ScheduleRequest) -> Result<Self> {
        if config.use_dynamic_shifting != Some(true) {
            let shift = config.shift.or(config.flow_shift).unwrap_or(1.0);
            if !(shift > 0.0 && shift.is_finite()) {
                return Err(Error::Range { what: "shift", expected: "above 0", value: shift });
            }
            return Ok(Self::Constant(shift));
        }
        let tokens = request.image_tokens.ok_or(Error::Unsupported {
            what: "use_dynamic_shifting without the number of picture tokens".into(),
            advice: "set image_tokens in the request",
        })?;
        let (few, many) = (config.base_image_seq_len.unwrap_or(256), config.max_image_seq_len.unwrap_or(4096));
        let (low, high) = (config.base_shift.unwrap_or(0.5), config.max_shift.unwrap_or(1.15));
        let slope = (high - low) / (many as f64 - few as f64);
        let mu = low + slope * (tokens as f64 - few as f64);
        match config.time_shift_type.as_deref() {
            None | Some("exponential") => Ok(Self::Exponential(mu)),
            Some("linear") => Ok(Self::Linear(mu)),
            Some(name) => Err(Error::UnknownName {
                what: "time_shift_type",
                name: name.into(),
                known: "exponential, linear".into(),
            }),
        }
    }

    fn apply(&self, sigma: f64) -> f64 {
        match *self {
            Self::Constant(shift) => shift * sigma / (1.0 + (shift - 1.0) * sigma),
            Self::Exponential(mu) => mu.exp() / (mu.exp() + (1.0 / sigma - 1.0)),
            Self::Linear(mu) => mu / (mu + (1.0 / sigma - 1.0)),
        }
    }

    /// The range of levels before spacing. A constant shift has moved its lower end once already: diffusers takes the
    /// range from the shifted training levels and shifts the run's levels again.
    fn smallest(&self, train: f64) -> f64 {
        match self {
            Self::Constant(_) => f64::from(self.apply(f64::from((1.0 / train) as f32)) as f32),
            Self::Exponential(_) | Self::Linear(_) => f64::from((1.0 / train) as f32),
        }
    }
}

pub(crate) fn schedule(config: &SchedulerConfig, request: &ScheduleRequest) -> Result<Schedule> {
    config.refuse("stochastic_sampling", config.stochastic_sampling == Some(true), "remove the key")?;
    config.refuse("invert_sigmas", config.invert_sigmas == Some(true), "remove the key")?;
    let train = config.train_timesteps()? as f64;
    let shift = Shift::of(config, request)?;
    let (first, last, steps) = (train, shift.smallest(train) * train, request.steps);
    let stride = if steps > 1 { (last - first) / (steps - 1) as f64 } else { 0.0 };
    let mut sigmas: Vec<f64> = (0..steps).map(|index| shift.apply((first + index as f64 * stride) / train)).collect();
    if let (Some(terminal), Some(&lowest)) = (config.shift_terminal.filter(|&terminal| terminal != 0.0), sigmas.last())
    {
        let stretch = (1.0 - lowest) / (1.0 - terminal);
        sigmas.iter_mut().for_each(|sigma| *sigma = 1.0 - (1.0 - *sigma) / stretch);
    }
    let levels = match request.sigma_spacing {
        Some(spacing) => spacing,
        None => config.sigma_spacing()?,
    };
    config.refuse(
        "lu spacing with euler_flow",
        levels == SigmaSpacing::Lu,
        "choose discrete, karras or exponential",
    )?;
    let (largest, smallest) = (sigmas.first().copied().unwrap_or(1.0), sigmas.last().copied().unwrap_or(1.0));
    let sigmas = spacing::sigmas(levels, largest, smallest, steps).unwrap_or(sigmas);
    let mut sigmas: Vec<f32> = sigmas.into_iter().map(|sigma| sigma as f32).collect();
    let timesteps = sigmas.iter().map(|&sigma| sigma * train as f32).collect();
    sigmas.push(0.0);
    Ok(Schedule {
        sampler: Sampler::EulerFlow,
        prediction: Prediction::Flow,
        timesteps,
        sigmas,
        init_noise_sigma: 1.0,
        method: Method::Flow,
        left_out: 0,
    })
}
