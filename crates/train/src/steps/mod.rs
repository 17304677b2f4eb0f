//! Learning which whole steps to compute, and the forecaster of the others, for a budget.
//!
//! Three stages, each correcting the one before: the outputs of full runs give the error of every possible forecast and
//! dynamic programming proposes the steps ([`schedule`]); sampling with the proposals, and with their neighbours, picks
//! the steps that harm the final latents least, the worst pictures weighing as much as the typical one. Every such pass of
//! sampling fits the coefficients on the latents that the student itself meets, as step-wise denoising training does
//! (HarmoniCa, arXiv 2410.01723, §3.2), towards the teacher's trajectory: a forecast mends the drift that those before it
//! left. A last pass over more trials fits those that are kept.

mod gram;
mod plan;
mod response;
mod rollout;
pub mod schedule;

use candle_core::Tensor;
use refrain_samplers::Schedule;

use crate::{
    TrainError,
    subject::{Subject, row_errors},
};
pub use gram::Gram;
pub use response::Response;
pub use rollout::{Fitted, Ground, StepPlan, Teacher, fit, harms, overall};

/// Settings of a search over steps.
#[derive(Clone, Debug)]
pub struct StepSearch {
    /// Remembered values in a forecast, 1 to 4 (`--forecast` plus one).
    pub terms: usize,
    /// Trials to search with; twice as many fit the final coefficients.
    pub trials: u64,
    /// Sweeps of neighbour moves at most.
    pub sweeps: usize,
}

impl Default for StepSearch {
    fn default() -> Self {
        Self { terms: 4, trials: 12, sweeps: 3 }
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

/// Asked often whether to go on, now and then with a line about what is being done; an error ends the search.
pub type Watch<'w> = dyn FnMut(Option<&str>) -> Result<(), TrainError> + 'w;

/// A search that knows its model: what full runs give, for any number of computed steps.
pub struct Search<'a> {
    schedule: Schedule,
    settings: StepSearch,
    /// Full runs: first those to search with, then those that fit the last coefficients.
    teachers: Vec<Teacher<'a>>,
    /// Trials for the final coefficients, those of the search among them.
    response: Option<Response>,
    gram: Gram,
    weights: Vec<f64>,
    proposals: Vec<Vec<usize>>,
}

/// Share of the trials that a move is screened with before it is judged on all.
const SCREENED: f64 = 1.0 / 3.0;

impl<'a> Search<'a> {
    /// Runs the trials in full.
    ///
    /// # Errors
    /// Those of the model and the sampler; whatever `watch` says.
    pub fn new(subject: &Subject<'a>, settings: &StepSearch, watch: &mut Watch<'_>) -> Result<Self, TrainError> {
        if settings.trials == 0 {
            return Err(TrainError::Range { what: "trials", expected: "at least 1", value: 0.0 });
        }
        let schedule = subject.schedule.clone();
        watch(Some("running trials in full"))?;
        let mut teachers = Vec::new();
        for number in 0..3 * settings.trials {
            teachers.push(Teacher::new((subject.draw)(number)?, &schedule)?);
            watch(None)?;
        }
        let searched = teachers.get(..settings.trials as usize).unwrap_or(&teachers);
        let outputs: Vec<Vec<Tensor>> = searched.iter().map(|teacher| teacher.outputs.clone()).collect();
        let gram = Gram::new(&outputs)?;
        watch(Some("measuring how much the picture minds an error at each step"))?;
        let weights = sensitivity(searched, &schedule)?;
        let proposals = schedule::propose(&gram, &weights, settings.terms);
        let response = Response::of(&schedule, searched)?;
        Ok(Self { schedule, settings: settings.clone(), teachers, response, gram, weights, proposals })
    }

    /// The best steps and coefficients with `count` computed steps.
    ///
    /// # Errors
    /// A count out of range, those of the model and the sampler; whatever `watch` says.
    pub fn find(&self, count: usize, watch: &mut Watch<'_>) -> Result<Found, TrainError> {
        let Some(path) = self.proposals.iter().find(|path| path.len() == count) else {
            let expected = "between 2 and the number of steps";
            return Err(TrainError::Range { what: "computed steps", expected, value: count as f64 });
        };
        let start = mask(path, self.schedule.count());
        let compute = self.improve(start, &mut |harm| {
            let line = harm.map(|harm| format!("{count} steps: {:.2} dB", -10.0 * harm / std::f64::consts::LN_10));
            watch(line.as_deref())
        })?;
        let searched = self.settings.trials as usize;
        let (judges, fitters) = self.teachers.split_at(searched.min(self.teachers.len()));
        let plan = fit(self.ground(fitters), (self.settings.terms, &compute), None)?.plan;
        let harm = overall(&harms(judges, &self.schedule, &plan)?);
        Ok(Found { plan, harm })
    }

    fn ground<'t>(&'t self, teachers: &'t [Teacher<'a>]) -> Ground<'t, 'a> {
        Ground { teachers, schedule: &self.schedule, response: self.response.as_ref() }
    }

    /// Hill climbing: computed steps move by one or two while that lowers the harm of real sampling. Moves whose predicted
    /// harm is far above the present one's are not sampled, and those that do worse on some trials not on all.
    fn improve(
        &self,
        start: Vec<bool>,
        watch: &mut dyn FnMut(Option<f64>) -> Result<(), TrainError>,
    ) -> Result<Vec<bool>, TrainError> {
        /// A prediction this many times the present one still deserves a trial.
        const HOPEFUL: f64 = 1.5;
        /// Excess of the screened harm that other trials may yet make good.
        const DOUBT: f64 = 0.1;
        let all = self.teachers.get(..self.settings.trials as usize).unwrap_or(&self.teachers);
        let some = all.get(..(all.len() as f64 * SCREENED).ceil() as usize).unwrap_or(all);
        let judge = |teachers, compute: &[bool], shared: Option<(&Fitted, usize)>| {
            let run = fit(self.ground(teachers), (self.settings.terms, compute), shared)?;
            Ok::<_, TrainError>((overall(&run.harms), run))
        };
        let predicted = |compute: &[bool]| predicted_harm(&self.gram, &self.weights, compute, self.settings.terms);
        let mut chosen = start;
        let (mut screened, mut screen) = judge(some, &chosen, None)?;
        let (mut least, mut run) = judge(all, &chosen, None)?;
        watch(Some(least))?;
        for _ in 0..self.settings.sweeps {
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
                let (sketch, tried) = judge(some, &compute, Some((&screen, from.min(to))))?;
                watch(None)?;
                if sketch > screened + DOUBT {
                    continue;
                }
                let (harm, moved) = judge(all, &compute, Some((&run, from.min(to))))?;
                if harm < least {
                    (least, run, chosen) = (harm, moved, compute);
                    (screened, screen) = (sketch, tried);
                    watch(Some(least))?;
                }
            }
            if least > before - 1e-2 {
                break;
            }
        }
        Ok(chosen)
    }
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
