//! Which timesteps and noise levels a run visits.

use std::str::FromStr;

use crate::{Error, Result};

/// How the visited timesteps lie among the training timesteps (Lin et al., arXiv 2305.08891, table 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TimestepSpacing {
    /// Multiples of a whole step from the clean end; never reaches the last timestep.
    Leading,
    /// Fractions of the range from the noisy end; always starts at the last timestep.
    Trailing,
    /// Both ends included.
    Linspace,
}

/// How the noise levels lie between the largest and the smallest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SigmaSpacing {
    /// Those of the timesteps.
    Discrete,
    /// Even in `sigma^(1/7)` (Karras et al., arXiv 2206.00364).
    Karras,
    /// Even in `log sigma`.
    Exponential,
    /// Even in the log signal-to-noise ratio (Lu et al., arXiv 2206.00927): as [`SigmaSpacing::Exponential`], with
    /// timesteps rounded to trained ones. DPM-Solver++ only.
    Lu,
}

impl FromStr for TimestepSpacing {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "leading" => Ok(Self::Leading),
            "trailing" => Ok(Self::Trailing),
            "linspace" => Ok(Self::Linspace),
            _ => Err(Error::UnknownName {
                what: "timestep_spacing",
                name: name.into(),
                known: "leading, trailing, linspace".into(),
            }),
        }
    }
}

impl SigmaSpacing {
    /// All, in the order of help texts.
    pub const ALL: [Self; 4] = [Self::Discrete, Self::Karras, Self::Exponential, Self::Lu];

    /// Name on the command line, as stable-diffusion.cpp spells `--scheduler`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Discrete => "discrete",
            Self::Karras => "karras",
            Self::Exponential => "exponential",
            Self::Lu => "lu",
        }
    }
}

impl FromStr for SigmaSpacing {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|spacing| spacing.name() == name).ok_or_else(|| Error::UnknownName {
            what: "scheduler",
            name: name.into(),
            known: Self::ALL.map(Self::name).join(", "),
        })
    }
}

/// `steps` timesteps in falling order, of `train` training timesteps, as DDIM, Euler and Heun take them. Not rounded
/// for [`TimestepSpacing::Linspace`].
pub(crate) fn timesteps(spacing: TimestepSpacing, steps: usize, train: usize, offset: i64) -> Vec<f64> {
    match spacing {
        TimestepSpacing::Linspace => {
            let stride = (train - 1) as f64 / (steps.max(2) - 1) as f64;
            (0..steps).rev().map(|index| (index as f64 * stride).min((train - 1) as f64)).collect()
        }
        TimestepSpacing::Leading => {
            let stride = train / steps;
            (0..steps).rev().map(|index| (index * stride) as f64 + offset as f64).collect()
        }
        TimestepSpacing::Trailing => trailing(train, steps, train),
    }
}

/// As [`timesteps`] for DPM-Solver++, which counts the end of the run as one more point and may leave out the noisiest
/// timesteps from `last` on.
pub(crate) fn solver_timesteps(
    spacing: TimestepSpacing,
    steps: usize,
    train: usize,
    last: usize,
    offset: i64,
) -> Vec<f64> {
    match spacing {
        TimestepSpacing::Linspace => {
            let stride = (last - 1) as f64 / steps as f64;
            (1..=steps).rev().map(|index| (index as f64 * stride).round_ties_even()).collect()
        }
        TimestepSpacing::Leading => {
            let stride = last / (steps + 1);
            (1..=steps).rev().map(|index| (index * stride) as f64 + offset as f64).collect()
        }
        TimestepSpacing::Trailing => trailing(last, steps, train),
    }
}

/// `last, last - train/steps, …`, each rounded, less one. Where rounding of the stride makes numpy's `arange` in
/// diffusers give one timestep too many (61 steps of 1000, for one), the number asked for is kept here.
fn trailing(last: usize, steps: usize, train: usize) -> Vec<f64> {
    let stride = train as f64 / steps as f64;
    (0..steps)
        .map(|index| (last as f64 - index as f64 * stride).round_ties_even() - 1.0)
        .take_while(|&timestep| timestep >= 0.0)
        .collect()
}

/// `count` levels from `largest` to `smallest`, even after `warp`.
fn even(largest: f64, smallest: f64, count: usize, warp: impl Fn(f64) -> f64, back: impl Fn(f64) -> f64) -> Vec<f64> {
    let (high, low) = (warp(largest), warp(smallest));
    let at = |index: usize| match count {
        1 => high,
        _ => high + index as f64 / (count - 1) as f64 * (low - high),
    };
    (0..count).map(|index| back(at(index))).collect()
}

/// Noise levels from `largest` down to `smallest`; none for [`SigmaSpacing::Discrete`].
pub(crate) fn sigmas(spacing: SigmaSpacing, largest: f64, smallest: f64, count: usize) -> Option<Vec<f64>> {
    const RHO: f64 = 7.0;
    match spacing {
        SigmaSpacing::Discrete => None,
        SigmaSpacing::Karras => {
            Some(even(largest, smallest, count, |sigma| sigma.powf(1.0 / RHO), |warped| warped.powf(RHO)))
        }
        SigmaSpacing::Exponential | SigmaSpacing::Lu => Some(even(largest, smallest, count, f64::ln, f64::exp)),
    }
}

/// The sigma at a timestep that may lie between two training timesteps.
pub(crate) fn interpolate(table: &[f32], timestep: f64) -> f64 {
    let last = table.len().saturating_sub(1);
    let low = (timestep.max(0.0) as usize).min(last);
    let high = (low + 1).min(last);
    let (below, above) = (f64::from(table[low]), f64::from(table[high]));
    below + (above - below) * (timestep - low as f64).clamp(0.0, 1.0)
}

/// The timestep, usually between two training timesteps, at which the table reaches `sigma`: linear in the logarithm.
pub(crate) fn timestep_of(log_table: &[f32], sigma: f64) -> f64 {
    let log_sigma = sigma.max(1e-10).ln();
    let above = log_table.partition_point(|&level| f64::from(level) <= log_sigma);
    let low = above.saturating_sub(1).min(log_table.len().saturating_sub(2));
    let high = (low + 1).min(log_table.len() - 1);
    let (below, next) = (f64::from(log_table[low]), f64::from(log_table[high]));
    let share = ((below - log_sigma) / (below - next)).clamp(0.0, 1.0);
    (1.0 - share) * low as f64 + share * high as f64
}
