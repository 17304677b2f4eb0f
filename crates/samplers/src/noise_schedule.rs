//! How much noise the latents carry at every training timestep.

use crate::{BetaSchedule, Error, Result, SchedulerConfig};

/// Signal share that stands for "none" where a sampler divides by it: diffusers' `2^-24`, a sigma of 4096.
pub(crate) const SMALLEST_ALPHA_CUMPROD: f64 = 1.0 / 16_777_216.0;

/// The forward process `x_t = sqrt(a_t) * clean + sqrt(1 - a_t) * noise` at the training timesteps.
///
/// The table is computed in the mixture of f32 and f64 that PyTorch uses, since `1 - a_t` at the first timesteps
/// keeps only four digits of what f32 betas carry: an f64 table would differ from diffusers by more than the steps'
/// tolerance.
#[derive(Debug, Clone, PartialEq)]
pub struct NoiseSchedule {
    alphas_cumprod: Vec<f32>,
}

impl NoiseSchedule {
    /// The schedule of a configuration, with diffusers' defaults for missing keys (`beta_start` 0.0001, `beta_end`
    /// 0.02, linear, 1000 timesteps).
    ///
    /// # Errors
    /// Unknown `beta_schedule`, betas outside 0..1, or `trained_betas` that are empty.
    pub fn new(config: &SchedulerConfig) -> Result<Self> {
        Self::with_defaults(config, (0.0001, 0.02), config.rescale_betas_zero_snr.unwrap_or(false))
    }

    /// As [`NoiseSchedule::new`], with the sampler's own default betas and opinion about zero terminal SNR.
    pub(crate) fn with_defaults(config: &SchedulerConfig, betas: (f64, f64), rescale: bool) -> Result<Self> {
        let start = config.beta_start.unwrap_or(betas.0);
        let end = config.beta_end.unwrap_or(betas.1);
        let count = config.train_timesteps()?;
        let mut betas = match (&config.trained_betas, config.beta_schedule()?) {
            (Some(trained), _) => trained.iter().map(|&beta| beta as f32).collect(),
            (None, BetaSchedule::Linear) => linspace(checked(start)?, checked(end)?, count),
            (None, BetaSchedule::ScaledLinear) => {
                let mut roots = linspace(checked(start)?.sqrt(), checked(end)?.sqrt(), count);
                roots.iter_mut().for_each(|root| *root *= *root);
                roots
            }
            (None, BetaSchedule::SquaredCosine) => squared_cosine(count),
        };
        if betas.len() != count {
            let (what, expected) = ("the length of trained_betas", "num_train_timesteps");
            return Err(Error::Range { what, expected, value: betas.len() as f64 });
        }
        for &beta in &betas {
            checked(f64::from(beta))?;
        }
        if rescale {
            rescale_to_zero_terminal_snr(&mut betas);
        }
        Ok(Self { alphas_cumprod: cumulative_alphas(&betas) })
    }

    /// The signal's share of the variance at every training timestep, falling.
    pub fn alphas_cumprod(&self) -> &[f32] {
        &self.alphas_cumprod
    }

    /// Number of training timesteps.
    pub fn train_timesteps(&self) -> usize {
        self.alphas_cumprod.len()
    }

    /// Replaces a last value of zero by `2^-24`, as the samplers that divide by it do in diffusers.
    pub(crate) fn lift_terminal(&mut self) {
        if let Some(last) = self.alphas_cumprod.last_mut() {
            *last = SMALLEST_ALPHA_CUMPROD as f32;
        }
    }

    /// Noise-to-signal ratios `sqrt((1 - a) / a)` in f32, rising.
    pub(crate) fn sigmas(&self) -> Vec<f32> {
        self.alphas_cumprod.iter().map(|&alpha| ((1.0 - alpha) / alpha).sqrt()).collect()
    }
}

fn checked(beta: f64) -> Result<f64> {
    if beta > 0.0 && beta < 1.0 {
        Ok(beta)
    } else {
        Err(Error::Range { what: "a beta of the noise schedule", expected: "between 0 and 1", value: beta })
    }
}

/// `torch.linspace` in f32: from both ends towards the middle, with an f32 step.
fn linspace(start: f64, end: f64, count: usize) -> Vec<f32> {
    let (start, end) = (start as f32, end as f32);
    let step = (end - start) / (count.max(2) - 1) as f32;
    let forward = |index: usize| (f64::from(start) + f64::from(step) * index as f64) as f32;
    let backward = |index: usize| (f64::from(end) - f64::from(step) * (count - 1 - index) as f64) as f32;
    (0..count).map(|index| if index < count / 2 { forward(index) } else { backward(index) }).collect()
}

fn squared_cosine(count: usize) -> Vec<f32> {
    let level = |time: f64| ((time + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
    let at = |index: usize| level(index as f64 / count as f64);
    (0..count).map(|index| (1.0 - at(index + 1) / at(index)).min(0.999) as f32).collect()
}

/// `torch.cumprod(1 - betas)`: accumulated in f64, stored as f32.
fn cumulative_alphas(betas: &[f32]) -> Vec<f32> {
    let mut product = 1.0f64;
    betas
        .iter()
        .map(|&beta| {
            product *= f64::from(1.0 - beta);
            product as f32
        })
        .collect()
}

/// Shifts and scales `sqrt(a)` so that the last timestep is pure noise and the first stays (Lin et al.,
/// arXiv 2305.08891, algorithm 1).
fn rescale_to_zero_terminal_snr(betas: &mut [f32]) {
    let mut roots: Vec<f32> = cumulative_alphas(betas).into_iter().map(f32::sqrt).collect();
    let (Some(&first), Some(&last)) = (roots.first(), roots.last()) else { return };
    let stretch = first / (first - last);
    roots.iter_mut().for_each(|root| *root = (*root - last) * stretch);
    let mut previous = 1.0f32;
    for (beta, root) in betas.iter_mut().zip(roots) {
        let level = root * root;
        *beta = 1.0 - level / previous;
        previous = level;
    }
}
