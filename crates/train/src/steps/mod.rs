//! Learning which whole steps to compute, and the forecaster of the others, for a budget.
//!
//! Three stages, each correcting the one before: the outputs of full runs give the error of every possible forecast and
//! dynamic programming proposes the steps ([`schedule`]); sampling with the proposals, and with their neighbours, picks
//! the steps that harm the final latents least; a pass of sampling then refits the coefficients on the latents that the
//! student itself meets, as step-wise denoising training does (HarmoniCa, arXiv 2410.01723, §3.2).

mod gram;
mod plan;
mod rollout;
pub mod schedule;

use candle_core::Tensor;
use refrain_samplers::Schedule;

use crate::{
    TrainError,
    subject::{Subject, row_errors},
};
pub use gram::Gram;
pub use rollout::{Forecaster, StepPlan, Teacher, mean_log, roll_out_all};

/// Settings of a search over steps.
#[derive(Clone, Debug)]
pub struct StepSearch {
    /// Remembered values in a forecast, 1 to 3 (`--forecast` plus one).
    pub terms: usize,
    /// Trials to search with.
    pub trials: u64,
    /// Trials to fit the final coefficients with.
    pub fit_trials: u64,
    /// Sweeps of neighbour moves at most.
    pub sweeps: usize,
}

impl Default for StepSearch {
    fn default() -> Self {
        Self { terms: 3, trials: 4, fit_trials: 16, sweeps: 3 }
    }
}

/// A plan and the mean logarithm of its squared error.
#[derive(Clone, Debug)]
pub struct Found {
    /// The steps and coefficients.
    pub plan: StepPlan,
    /// Mean natural logarithm of the final latents' squared error.
    pub harm: f64,
}

/// Finds the steps to compute for each wanted number of computed steps.
///
/// # Errors
/// Those of the model and the sampler; [`TrainError::Stopped`] when `watch` says so.
pub fn search(
    subject: &Subject<'_>,
    wanted: &[usize],
    settings: &StepSearch,
    watch: &mut dyn FnMut(&str) -> Result<(), TrainError>,
) -> Result<Vec<Found>, TrainError> {
    let schedule = &subject.schedule;
    let teach = |numbers: std::ops::Range<u64>| {
        numbers.map(|number| Teacher::new((subject.draw)(number)?, schedule)).collect::<Result<Vec<_>, TrainError>>()
    };
    watch("running trials in full")?;
    let teachers = teach(0..settings.trials)?;
    let outputs: Vec<Vec<Tensor>> = teachers.iter().map(|teacher| teacher.outputs.clone()).collect();
    let gram = Gram::new(&outputs)?;
    watch("measuring how much the picture minds an error at each step")?;
    let weights = sensitivity(&teachers, schedule)?;
    let proposals = schedule::propose(&gram, &weights, settings.terms);
    let fitters = teach(settings.trials..settings.trials + settings.fit_trials)?;
    let mut found = Vec::with_capacity(wanted.len());
    for &count in wanted {
        let Some(path) = proposals.iter().find(|path| path.len() == count) else {
            let expected = "between 2 and the number of steps";
            return Err(TrainError::Range { what: "computed steps", expected, value: count as f64 });
        };
        let start = mask(path, subject.steps());
        let compute = improve(&teachers, schedule, (&gram, settings), start, &mut |harm| {
            watch(&format!("{count} steps: {:.2} dB", -10.0 * harm / std::f64::consts::LN_10))
        })?;
        let forecaster = Forecaster::Fit { terms: settings.terms, compute: &compute };
        let (_, plan) = roll_out_all(&fitters, schedule, &forecaster)?;
        let open = open_loop(&gram, &compute, settings.terms);
        // The refit sees the student's own latents; where it does not help on the search's trials, it is left out.
        let judge = |plan: &StepPlan| {
            roll_out_all(&teachers, schedule, &Forecaster::Plan(plan)).map(|(harms, _)| mean_log(&harms))
        };
        let (fitted, opened) = (judge(&plan)?, judge(&open)?);
        found.push(if fitted <= opened { Found { plan, harm: fitted } } else { Found { plan: open, harm: opened } });
    }
    Ok(found)
}

fn mask(path: &[usize], steps: usize) -> Vec<bool> {
    (0..steps).map(|step| path.contains(&step)).collect()
}

/// Mean squared error of the final latents for a unit of error energy in the output of each step, measured with the
/// error of plain reuse, made small: the proxy λ(t) of IEPO (HarmoniCa, §3.3) for a whole step.
fn sensitivity(teachers: &[Teacher<'_>], schedule: &Schedule) -> Result<Vec<f64>, TrainError> {
    const SHARE: f64 = 0.25;
    let Some(teacher) = teachers.first() else { return Ok(Vec::new()) };
    let mut weights = vec![0.0; schedule.count()];
    let pairs = teacher.outputs.windows(2).enumerate();
    for (step, (before, after)) in pairs.filter_map(|(index, pair)| Some((index + 1, (pair.first()?, pair.get(1)?)))) {
        let nudge = ((before - after)? * SHARE)?;
        let energy: f64 = row_errors(&nudge.zeros_like()?, &nudge)?.iter().sum();
        let harm: f64 = row_errors(&teacher.latents, &teacher.nudged(schedule, step, &nudge)?)?.iter().sum();
        if let Some(weight) = weights.get_mut(step) {
            *weight = if energy > 0.0 { harm / energy } else { 1.0 };
        }
    }
    Ok(weights)
}

/// The coefficients that fit the full runs.
fn open_loop(gram: &Gram, compute: &[bool], terms: usize) -> StepPlan {
    let mut history: Vec<usize> = Vec::new();
    let forecasts = compute.iter().enumerate().map(|(step, &computes)| {
        if computes {
            history.insert(0, step);
            return None;
        }
        let used: Vec<usize> = history.iter().copied().take(terms).collect();
        Some(gram.equations(step, &used).solve(crate::least_squares::RIDGE))
    });
    StepPlan { forecasts: forecasts.collect() }
}

/// Hill climbing: computed steps move by one or two while that lowers the harm of real sampling.
fn improve(
    teachers: &[Teacher<'_>],
    schedule: &Schedule,
    (gram, settings): (&Gram, &StepSearch),
    start: Vec<bool>,
    watch: &mut dyn FnMut(f64) -> Result<(), TrainError>,
) -> Result<Vec<bool>, TrainError> {
    let judge = |compute: &[bool]| -> Result<f64, TrainError> {
        let plan = open_loop(gram, compute, settings.terms);
        Ok(mean_log(&roll_out_all(teachers, schedule, &Forecaster::Plan(&plan))?.0))
    };
    let mut best = (judge(&start)?, start);
    watch(best.0)?;
    for _ in 0..settings.sweeps {
        let before = best.0;
        for (from, to) in moves(best.1.len()) {
            if best.1.get(from) != Some(&true) || best.1.get(to) != Some(&false) {
                continue;
            }
            let mut compute = best.1.clone();
            compute.swap(from, to);
            let harm = judge(&compute)?;
            if harm < best.0 {
                best = (harm, compute);
                watch(harm)?;
            }
        }
        if best.0 > before - 1e-3 {
            break;
        }
    }
    Ok(best.1)
}

/// Moves of a computed step by one or two; the first and the last stay.
fn moves(steps: usize) -> impl Iterator<Item = (usize, usize)> {
    (1..steps.saturating_sub(1)).flat_map(move |from| {
        [Some(from + 1), from.checked_sub(1), Some(from + 2), from.checked_sub(2)]
            .into_iter()
            .flatten()
            .filter(move |&to| to > 0 && to + 1 < steps)
            .map(move |to| (from, to))
    })
}
