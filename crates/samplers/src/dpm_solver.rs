//! DPM-Solver++ 2M (Lu et al., arXiv 2211.01095), as diffusers' `DPMSolverMultistepScheduler`.

use candle_core::Tensor;

use crate::schedule::{Method, final_sigma, variance_preserving};
use crate::spacing::{self, SigmaSpacing, TimestepSpacing};
use crate::step::{Stepped, run};
use crate::{
    BetaSchedule, Denoise, Error, NoiseSchedule, Observe, Result, Sampler, Schedule, ScheduleRequest, SchedulerConfig,
};

/// Below this many steps `lower_order_final` makes the last step a first-order one.
const FEW_STEPS: usize = 15;

/// How the solver treats its steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct SolverOptions {
    second_order: bool,
    heun: bool,
    lower_order_final: bool,
    euler_at_final: bool,
    flow: bool,
}

/// A step: `next = latents * x + now * D + before * D_previous`, the D being estimates of the clean latents.
#[derive(Debug, Clone, Copy)]
struct SolverStep {
    latents: f32,
    now: f32,
    before: f32,
}

/// Samples with DPM-Solver++: exact in the linear part of the diffusion equation, and of second order in the estimate
/// of the clean latents, by the difference to the previous step's estimate.
///
/// # Errors
/// As [`sample`](crate::sample).
pub fn dpm_solver_2m(
    denoise: &mut Denoise,
    latents: Tensor,
    schedule: &Schedule,
    observe: &mut Observe,
) -> Result<Tensor> {
    let Method::Solver(options) = schedule.method else { return Err(schedule.wrong_for("dpm++2m")) };
    let mut previous: Option<Tensor> = None;
    run(denoise, latents, schedule, observe, |latents, output, index| {
        let (alpha, sigma) = options.shares(schedule.sigmas[index]);
        let denoised = schedule.prediction.denoised(alpha, sigma).at();
        let [next, clean] = match previous.take() {
            Some(previous) if options.is_second_order(index, schedule) => {
                let step = options.second_order_step(&schedule.sigmas, index);
                crate::pass::pass([latents, output, &previous], |[latents, output, previous]| {
                    let clean = denoised(latents, output);
                    [step.latents * latents + step.now * clean + step.before * previous, clean]
                })?
            }
            _ => {
                let step = options.first_order_step(&schedule.sigmas, index);
                crate::pass::pass([latents, output], |[latents, output]| {
                    let clean = denoised(latents, output);
                    [step.latents * latents + step.now * clean, clean]
                })?
            }
        };
        previous = Some(clean.clone());
        Ok(Stepped { latents: next, denoised: clean })
    })
}

impl SolverOptions {
    fn of(config: &SchedulerConfig) -> Result<Self> {
        let algorithm = config.algorithm_type.as_deref().unwrap_or("dpmsolver++");
        let known = matches!(algorithm, "dpmsolver++" | "deis");
        config.refuse("algorithm_type other than dpmsolver++", !known, "set it to dpmsolver++")?;
        let order = config.solver_order.unwrap_or(2);
        config.refuse("solver_order other than 1 and 2", !(1..=2).contains(&order), "set it to 2")?;
        let heun = match config.solver_type.as_deref() {
            None | Some("midpoint" | "logrho" | "bh1" | "bh2") => false,
            Some("heun") => true,
            Some(name) => {
                let known = "midpoint, heun".into();
                return Err(Error::UnknownName { what: "solver_type", name: name.into(), known });
            }
        };
        Ok(Self {
            second_order: order == 2,
            heun,
            lower_order_final: config.lower_order_final.unwrap_or(true),
            euler_at_final: config.euler_at_final.unwrap_or(false),
            flow: config.is_flow(),
        })
    }

    /// Signal and noise share at a noise level.
    pub(crate) fn shares(self, sigma: f32) -> (f64, f64) {
        let sigma = f64::from(sigma);
        if self.flow { (1.0 - sigma, sigma) } else { variance_preserving(sigma) }
    }

    /// Half the log signal-to-noise ratio; infinite at either end.
    fn log_ratio(self, sigma: f32) -> f64 {
        let (alpha, sigma) = self.shares(sigma);
        alpha.ln() - sigma.ln()
    }

    fn is_second_order(self, index: usize, schedule: &Schedule) -> bool {
        let last = index + 1 == schedule.count();
        let ends_clean = schedule.sigmas.last() == Some(&0.0);
        let few = schedule.left_out + schedule.count() < FEW_STEPS;
        let lower_at_last = self.euler_at_final || (self.lower_order_final && few) || ends_clean;
        self.second_order && index > 0 && !(last && lower_at_last)
    }

    fn first_order_step(self, sigmas: &[f32], index: usize) -> SolverStep {
        let (_, sigma) = self.shares(sigmas[index]);
        let (next_alpha, next_sigma) = self.shares(sigmas[index + 1]);
        let length = self.log_ratio(sigmas[index + 1]) - self.log_ratio(sigmas[index]);
        let now = -next_alpha * (-length).exp_m1();
        SolverStep { latents: (next_sigma / sigma) as f32, now: now as f32, before: 0.0 }
    }

    fn second_order_step(self, sigmas: &[f32], index: usize) -> SolverStep {
        let (_, sigma) = self.shares(sigmas[index]);
        let (next_alpha, next_sigma) = self.shares(sigmas[index + 1]);
        let length = self.log_ratio(sigmas[index + 1]) - self.log_ratio(sigmas[index]);
        let length_before = self.log_ratio(sigmas[index]) - self.log_ratio(sigmas[index - 1]);
        let first = -next_alpha * (-length).exp_m1();
        let difference = match self.heun {
            false => first / 2.0,
            true => next_alpha * ((-length).exp_m1() / length + 1.0),
        } * (length / length_before);
        let (now, before) = (first + difference, -difference);
        SolverStep { latents: (next_sigma / sigma) as f32, now: now as f32, before: before as f32 }
    }
}

pub(crate) fn schedule(config: &SchedulerConfig, request: &ScheduleRequest) -> Result<Schedule> {
    let options = SolverOptions::of(config)?;
    let mut noise = NoiseSchedule::new(config)?;
    if config.rescale_betas_zero_snr == Some(true) {
        noise.lift_terminal();
    }
    let (timesteps, mut sigmas) = match options.flow {
        true => flow_levels(config, request)?,
        false => levels(config, request, &noise)?,
    };
    sigmas.push(final_sigma(config, &noise)?);
    if let Some(step) = sigmas.windows(2).position(|pair| pair[0] as f32 == pair[1] as f32) {
        let advice = "two steps share a noise level; choose fewer steps";
        return Err(Error::Schedule { what: "sigma", value: sigmas[step], step, advice });
    }
    Ok(Schedule {
        sampler: Sampler::DpmSolver2M,
        prediction: config.prediction()?,
        timesteps: timesteps.into_iter().map(|timestep| timestep.trunc() as f32).collect(),
        sigmas: sigmas.into_iter().map(|sigma| sigma as f32).collect(),
        init_noise_sigma: 1.0,
        method: Method::Solver(options),
        left_out: 0,
    })
}

fn levels(config: &SchedulerConfig, request: &ScheduleRequest, noise: &NoiseSchedule) -> Result<(Vec<f64>, Vec<f64>)> {
    let table = noise.sigmas();
    let log_table: Vec<f32> = table.iter().map(|sigma| sigma.ln()).collect();
    let spacing = match request.sigma_spacing {
        Some(spacing) => spacing,
        None => config.sigma_spacing()?,
    };
    let end = |sigma: Option<&f32>| sigma.map_or(0.0, |&sigma| f64::from(sigma));
    let smallest = config.sigma_min.unwrap_or_else(|| end(table.first()));
    let largest = config.sigma_max.unwrap_or_else(|| end(table.last()));
    if let Some(sigmas) = spacing::sigmas(spacing, largest, smallest, request.steps) {
        let mut timesteps: Vec<f64> = sigmas.iter().map(|&sigma| spacing::timestep_of(&log_table, sigma)).collect();
        if config.beta_schedule()? != BetaSchedule::SquaredCosine && spacing != SigmaSpacing::Exponential {
            timesteps.iter_mut().for_each(|timestep| *timestep = timestep.round_ties_even());
        }
        return Ok((timesteps, sigmas));
    }
    let spacing = match request.timestep_spacing {
        Some(spacing) => spacing,
        None => config.timestep_spacing(TimestepSpacing::Linspace)?,
    };
    // `lambda = -log sigma` falls with the timestep: those below the limit are the noisiest and are left out.
    let limit = config.lambda_min_clipped.unwrap_or(f64::NEG_INFINITY);
    let last = log_table.iter().take_while(|&&log_sigma| f64::from(-log_sigma) >= limit).count();
    let train = noise.train_timesteps();
    if last < request.steps {
        return Err(Error::Steps { steps: request.steps, train: last });
    }
    let offset = config.steps_offset.unwrap_or(0);
    let timesteps = spacing::solver_timesteps(spacing, request.steps, train, last, offset);
    let sigmas = timesteps.iter().map(|&timestep| spacing::interpolate(&table, timestep)).collect();
    Ok((timesteps, sigmas))
}

/// Levels of `use_flow_sigmas`.
fn flow_levels(config: &SchedulerConfig, request: &ScheduleRequest) -> Result<(Vec<f64>, Vec<f64>)> {
    let train = config.train_timesteps()? as f64;
    let shift = config.flow_shift.or(config.shift).unwrap_or(1.0);
    if !(shift > 0.0 && shift.is_finite()) {
        return Err(Error::Range { what: "flow_shift", expected: "above 0", value: shift });
    }
    let even = |index: usize| index as f64 / request.steps as f64 * (1.0 - 1.0 / train);
    let sigmas: Vec<f64> =
        (1..=request.steps).rev().map(even).map(|sigma| shift * sigma / (1.0 + (shift - 1.0) * sigma)).collect();
    Ok((sigmas.iter().map(|sigma| sigma * train).collect(), sigmas))
}
