//! Learning which whole steps to compute, and the forecaster of the others, for a budget.
//!
//! Three stages, each correcting the one before: the outputs of full runs give the error of every possible forecast and
//! dynamic programming proposes the steps ([`schedule`]); sampling with the proposals, and with their neighbours, picks
//! the steps that harm the final latents least. Every such pass of sampling fits the coefficients on the latents that the
//! student itself meets, as step-wise denoising training does (HarmoniCa, arXiv 2410.01723, §3.2), towards the teacher's
//! trajectory: a forecast mends the drift that those before it left. A last pass over more trials fits those that are kept.

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
pub use rollout::{Fitted, StepPlan, Teacher, fit, harms, overall};

/// Settings of a search over steps.
#[derive(Clone, Debug)]
pub struct StepSearch {
    /// Remembered values in a forecast, 1 to 4 (`--forecast` plus one).
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
        Self { terms: 4, trials: 10, fit_trials: 32, sweeps: 3 }
    }
}

/// A plan and its harm.
#[derive(Clone, Debug)]
pub struct Found {
    /// The steps and coefficients.
    pub plan: StepPlan,
    /// Harm of the final latents, as [`overall`] sums it up.
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
        let predicted = |compute: &[bool]| predicted_harm(&gram, &weights, compute, settings.terms);
        let compute = improve(&teachers, schedule, (&predicted, settings), start, &mut |harm| {
            watch(&format!("{count} steps: {:.2} dB", -10.0 * harm / std::f64::consts::LN_10))
        })?;
        let plan = fit(&fitters, schedule, (settings.terms, &compute), None)?.plan;
        let harm = overall(&harms(&teachers, schedule, &plan)?);
        found.push(Found { plan, harm });
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

/// A cheap guess at the harm of a choice of steps.
type Predicted<'a> = dyn Fn(&[bool]) -> f64 + 'a;

/// Harm of a choice of steps as dynamic programming adds it up.
fn predicted_harm(gram: &Gram, weights: &[f64], compute: &[bool], terms: usize) -> f64 {
    let mut history: Vec<usize> = Vec::new();
    let mut harm = 0.0;
    for (step, &computes) in compute.iter().enumerate() {
        if computes {
            history.insert(0, step);
            history.truncate(terms.min(3));
        } else {
            harm += weights.get(step).copied().unwrap_or(1.0) * gram.error(step, &history);
        }
    }
    harm
}

/// Hill climbing: computed steps move by one or two while that lowers the harm of real sampling. Moves whose predicted harm
/// is far above the present one's are not sampled.
fn improve(
    teachers: &[Teacher<'_>],
    schedule: &Schedule,
    (predicted, settings): (&Predicted<'_>, &StepSearch),
    start: Vec<bool>,
    watch: &mut dyn FnMut(f64) -> Result<(), TrainError>,
) -> Result<Vec<bool>, TrainError> {
    /// A prediction this many times the present one still deserves a trial.
    const HOPEFUL: f64 = 1.5;
    let judge = |compute: &[bool], shared: Option<(&Fitted, usize)>| {
        let run = fit(teachers, schedule, (settings.terms, compute), shared)?;
        Ok::<_, TrainError>((overall(&run.harms), run))
    };
    let mut chosen = start;
    let (mut least, mut run) = judge(&chosen, None)?;
    watch(least)?;
    for _ in 0..settings.sweeps {
        let before = least;
        for (from, to) in moves(chosen.len()) {
            if chosen.get(from) != Some(&true) || chosen.get(to) != Some(&false) {
                continue;
            }
            let mut compute = chosen.clone();
            compute.swap(from, to);
            if predicted(&compute) > HOPEFUL * predicted(&chosen) {
                continue;
            }
            let (harm, moved) = judge(&compute, Some((&run, from.min(to))))?;
            if harm < least {
                (least, run, chosen) = (harm, moved, compute);
                watch(least)?;
            }
        }
        if least > before - 1e-2 {
            break;
        }
    }
    Ok(chosen)
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
