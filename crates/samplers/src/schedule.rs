//! A run's table: the timesteps and noise levels that a sampler visits, made from the model's configuration.

use candle_core::Tensor;

use crate::ddim::DdimTable;
use crate::dpm_solver::SolverOptions;
use crate::noise_schedule::SMALLEST_ALPHA_CUMPROD;
use crate::pndm::PndmTable;
use crate::spacing::{self, SigmaSpacing, TimestepSpacing};
use crate::unipc::UniPcOptions;
use crate::{Error, NoiseSchedule, Prediction, Result, Sampler, SchedulerConfig, StepInfo};

/// What a caller decides about a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScheduleRequest {
    /// The method. [`Sampler::Euler`] on a flow-matching model means [`Sampler::EulerFlow`].
    pub sampler: Sampler,
    /// Steps, between 1 and the number of training timesteps. Heun evaluates the model `2 * steps - 1` times.
    pub steps: usize,
    /// Instead of the configuration's `use_karras_sigmas` and its like (`--scheduler`).
    pub sigma_spacing: Option<SigmaSpacing>,
    /// Instead of the configuration's `timestep_spacing`.
    pub timestep_spacing: Option<TimestepSpacing>,
    /// DDIM's share of fresh noise: 0 is deterministic, 1 is ancestral sampling.
    pub eta: f64,
    /// Tokens of the picture (`h * w` after patching), for flow models whose shift depends on it.
    pub image_tokens: Option<usize>,
}

impl ScheduleRequest {
    /// A request that leaves everything else to the model's configuration.
    pub fn new(sampler: Sampler, steps: usize) -> Self {
        Self { sampler, steps, sigma_spacing: None, timestep_spacing: None, eta: 0.0, image_tokens: None }
    }
}

/// What only one sampler needs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Method {
    Ddim(DdimTable),
    Solver(SolverOptions),
    Euler,
    Heun { clip: Option<f32> },
    Pndm(PndmTable),
    Flow,
    UniPc(UniPcOptions),
}

/// The table of one run; see [`Schedule::new`].
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    pub(crate) sampler: Sampler,
    pub(crate) prediction: Prediction,
    pub(crate) timesteps: Vec<f32>,
    /// One more than `timesteps`: a step goes from its sigma to the next.
    pub(crate) sigmas: Vec<f32>,
    pub(crate) init_noise_sigma: f64,
    pub(crate) method: Method,
    /// Evaluations that were left out in front; see [`Schedule::last_part`].
    pub(crate) left_out: usize,
}

impl Schedule {
    /// The table for a request, equal to what diffusers' scheduler of that kind makes of the same configuration
    /// (`Scheduler.from_config(config)`, `set_timesteps(steps)`).
    ///
    /// # Errors
    /// [`Error::Steps`], [`Error::Range`], an unknown or unsupported option, or [`Error::Schedule`] when a step would
    /// divide by zero (epsilon prediction from pure noise).
    pub fn new(config: &SchedulerConfig, request: &ScheduleRequest) -> Result<Self> {
        let train = config.train_timesteps()?;
        if request.steps == 0 || request.steps > train {
            return Err(Error::Steps { steps: request.steps, train });
        }
        config.refuse(
            "thresholding",
            config.thresholding == Some(true),
            "it suits pixel models only; remove the key",
        )?;
        let schedule = match (request.sampler, config.is_flow()) {
            (Sampler::Euler | Sampler::EulerFlow, true) => crate::flow::schedule(config, request),
            (Sampler::UniPc, true) => crate::unipc::schedule(config, request),
            (Sampler::DpmSolver2M, _) => crate::dpm_solver::schedule(config, request),
            (Sampler::Ddim | Sampler::DdimTrailing, false) => crate::ddim::schedule(config, request),
            (Sampler::Euler, false) => crate::euler::schedule(config, request),
            (Sampler::Heun, false) => crate::heun::schedule(config, request),
            (Sampler::Pndm, false) => crate::pndm::schedule(config, request),
            (sampler, true) => Err(Error::Unsupported {
                what: format!("sampler {sampler} on a flow-matching model"),
                advice: "choose euler, unipc or dpm++2m",
            }),
            (sampler @ (Sampler::EulerFlow | Sampler::UniPc), false) => Err(Error::Unsupported {
                what: format!("sampler {sampler} on a model that is not trained by flow matching"),
                advice: "choose euler",
            }),
        }?;
        schedule.validated(train)
    }

    /// The last steps of the schedule, for a run that starts from a picture instead of from noise (SDEdit, Meng et al.,
    /// arXiv 2108.01073): `strength` is the share of the steps that is left, rounded down, as in diffusers'
    /// image-to-image pipelines. The run then starts from [`Schedule::noised`].
    ///
    /// # Errors
    /// [`Error::Range`] for a strength outside 0..=1, and [`Error::Strength`] where no step is left.
    pub fn last_part(mut self, strength: f64) -> Result<Self> {
        if !(0.0..=1.0).contains(&strength) {
            return Err(Error::Range { what: "strength", expected: "between 0 and 1", value: strength });
        }
        let steps = self.steps();
        let left = (steps as f64 * strength) as usize;
        if left == 0 {
            return Err(Error::Strength { strength, steps });
        }
        let out = steps - left;
        let cut = match &mut self.method {
            Method::Ddim(table) => table.alphas_cumprod.drain(..out).count(),
            Method::Heun { .. } => 2 * out,
            Method::Pndm(table) => table.leave_out(out),
            Method::Solver(_) | Method::Euler | Method::Flow | Method::UniPc(_) => out,
        };
        self.timesteps.drain(..cut);
        self.sigmas.drain(..cut);
        self.left_out += cut;
        Ok(self)
    }

    /// Clean latents with as much of `unit_noise` as the first step expects (diffusers' `add_noise`, `scale_noise`).
    ///
    /// # Errors
    /// Tensors that differ in shape or cannot be read as f32.
    pub fn noised(&self, clean: &Tensor, unit_noise: &Tensor) -> Result<Tensor> {
        let sigma = self.sigmas.first().copied().unwrap_or_default();
        let (signal, noise) = match &self.method {
            Method::Ddim(table) => {
                let share = table.alphas_cumprod.first().map_or(1.0, |&(share, _)| share);
                (share.sqrt(), (1.0 - share).sqrt())
            }
            Method::Pndm(table) => (table.first_share().sqrt(), (1.0 - table.first_share()).sqrt()),
            Method::Solver(options) => options.shares(sigma),
            Method::Euler | Method::Heun { .. } => (1.0, f64::from(sigma)),
            Method::Flow | Method::UniPc(_) => (1.0 - f64::from(sigma), f64::from(sigma)),
        };
        let (signal, noise) = (signal as f32, noise as f32);
        let [latents] = crate::pass::pass([clean, unit_noise], |[clean, normal]| [signal * clean + noise * normal])?;
        Ok(latents)
    }

    /// The sampler that the table is for.
    pub fn sampler(&self) -> Sampler {
        self.sampler
    }

    /// What the model's output means.
    pub fn prediction(&self) -> Prediction {
        self.prediction
    }

    /// Evaluations of the model.
    pub fn count(&self) -> usize {
        self.timesteps.len()
    }

    /// Steps that the evaluations make.
    fn steps(&self) -> usize {
        match &self.method {
            // Every step is evaluated twice but the last one.
            Method::Heun { .. } => self.count().div_ceil(2),
            Method::Pndm(table) => table.steps(),
            _ => self.count(),
        }
    }

    /// Timesteps, one an evaluation, falling.
    pub fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    /// Noise levels, one an evaluation and the one that remains at the end; all finite.
    pub fn sigmas(&self) -> &[f32] {
        &self.sigmas
    }

    /// The evaluation `index`, which must be below [`Schedule::count`].
    pub fn step(&self, index: usize) -> StepInfo {
        StepInfo { index, count: self.count(), timestep: self.timesteps[index], sigma: self.sigmas[index] }
    }

    /// Standard deviation of the latents that the first step expects (diffusers' `init_noise_sigma`).
    pub fn init_noise_sigma(&self) -> f64 {
        self.init_noise_sigma
    }

    /// Factor from latents to model input at an evaluation (diffusers' `scale_model_input`).
    pub fn input_scale(&self, index: usize) -> f32 {
        match self.method {
            Method::Euler | Method::Heun { .. } => variance_preserving(f64::from(self.sigmas[index])).0 as f32,
            Method::Ddim(_) | Method::Pndm(_) | Method::Solver(_) | Method::Flow | Method::UniPc(_) => 1.0,
        }
    }

    /// The latents to start from: unit-variance noise at the first step's level.
    ///
    /// # Errors
    /// A tensor that cannot be read as f32.
    pub fn initial_latents(&self, unit_noise: &Tensor) -> Result<Tensor> {
        crate::pass::scaled(unit_noise, self.init_noise_sigma as f32)
    }

    /// The error of a sampler function that was handed another sampler's table.
    pub(crate) fn wrong_for(&self, called: &'static str) -> Error {
        Error::WrongSchedule { made_for: self.sampler.name(), called }
    }

    fn validated(self, train: usize) -> Result<Self> {
        let fail = |what, value: f32, step, advice| Err(Error::Schedule { what, value: value.into(), step, advice });
        for (step, &timestep) in self.timesteps.iter().enumerate() {
            if !(0.0..=train as f32).contains(&timestep) {
                return fail("timestep", timestep, step, "it lies outside the training timesteps; check steps_offset");
            }
        }
        for (step, pair) in self.sigmas.windows(2).enumerate() {
            // DDIM works with shares of the variance and never divides by sigma.
            let positive = pair[0] > 0.0 || matches!(self.method, Method::Ddim(_) | Method::Pndm(_));
            if !(pair[0].is_finite() && positive) {
                return fail(
                    "sigma",
                    pair[0],
                    step,
                    "check the betas, sigma_min and sigma_max of scheduler_config.json",
                );
            }
            if pair[1].is_nan() || pair[1] > pair[0] {
                return fail("sigma", pair[1], step + 1, "noise levels must fall; check the betas and sigma_min");
            }
        }
        Ok(self)
    }
}

/// Signal and noise share of variance-preserving latents at a noise-to-signal ratio.
pub(crate) fn variance_preserving(sigma: f64) -> (f64, f64) {
    let alpha = 1.0 / (sigma * sigma + 1.0).sqrt();
    (alpha, sigma * alpha)
}

/// Finite noise-to-signal ratio of a cumulative alpha.
pub(crate) fn sigma_of(alpha_cumprod: f64) -> f64 {
    ((1.0 - alpha_cumprod) / alpha_cumprod.max(SMALLEST_ALPHA_CUMPROD)).sqrt()
}

/// The noise levels of Euler and Heun before any repetition: timesteps, sigmas with the final one, and
/// `init_noise_sigma`.
pub(crate) struct SigmaTable {
    pub(crate) timesteps: Vec<f32>,
    pub(crate) sigmas: Vec<f32>,
    pub(crate) init_noise_sigma: f64,
}

/// The table that Euler and Heun share, from the noise schedule of the sampler in use.
pub(crate) fn sigma_table(
    config: &SchedulerConfig,
    request: &ScheduleRequest,
    noise: &NoiseSchedule,
    final_sigma: f64,
) -> Result<SigmaTable> {
    let chosen = match request.timestep_spacing {
        Some(spacing) => spacing,
        None => config.timestep_spacing(TimestepSpacing::Linspace)?,
    };
    let offset = config.steps_offset.unwrap_or(0);
    let mut timesteps = spacing::timesteps(chosen, request.steps, noise.train_timesteps(), offset);
    timesteps.iter_mut().for_each(|timestep| *timestep = f64::from(*timestep as f32));
    let table = noise.sigmas();
    let mut sigmas: Vec<f64> = timesteps.iter().map(|&timestep| spacing::interpolate(&table, timestep)).collect();
    let levels = match request.sigma_spacing {
        Some(spacing) => spacing,
        None => config.sigma_spacing()?,
    };
    config.refuse("lu spacing with this sampler", levels == SigmaSpacing::Lu, "choose karras, or dpm++2m")?;
    let largest = config.sigma_max.unwrap_or_else(|| sigmas.first().copied().unwrap_or_default());
    let smallest = config.sigma_min.unwrap_or_else(|| sigmas.last().copied().unwrap_or_default());
    if let Some(spaced) = spacing::sigmas(levels, largest, smallest, request.steps) {
        let log_table: Vec<f32> = table.iter().map(|sigma| sigma.ln()).collect();
        timesteps = spaced.iter().map(|&sigma| spacing::timestep_of(&log_table, sigma)).collect();
        sigmas = spaced;
    }
    let largest = sigmas.iter().fold(0.0f64, |largest, &sigma| largest.max(f64::from(sigma as f32)));
    let init_noise_sigma = match chosen {
        TimestepSpacing::Leading => (largest * largest + 1.0).sqrt(),
        TimestepSpacing::Linspace | TimestepSpacing::Trailing => largest,
    };
    sigmas.push(final_sigma);
    let narrow = |values: Vec<f64>| values.into_iter().map(|value| value as f32).collect();
    Ok(SigmaTable { timesteps: narrow(timesteps), sigmas: narrow(sigmas), init_noise_sigma })
}

/// Noise level that remains at the end, by `final_sigmas_type`.
pub(crate) fn final_sigma(config: &SchedulerConfig, noise: &NoiseSchedule) -> Result<f64> {
    match config.final_sigmas_type.as_deref() {
        None | Some("zero") => Ok(0.0),
        Some("sigma_min") => Ok(noise.alphas_cumprod().first().map_or(0.0, |&alpha| sigma_of(f64::from(alpha)))),
        Some(name) => {
            Err(Error::UnknownName { what: "final_sigmas_type", name: name.into(), known: "zero, sigma_min".into() })
        }
    }
}
