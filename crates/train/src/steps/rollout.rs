//! Sampling with whole steps forecast: what a choice of steps really costs.

use candle_core::Tensor;
use refrain_cache::{Coefficients, Context, MAX_HISTORY};

use super::response::Response;
use crate::{
    TrainError,
    least_squares::{NormalEquations, RIDGE},
    subject::{Trial, roll_out, row_errors},
};
use refrain_samplers::{Schedule, StepInfo};

/// A trial with what the full run makes of it.
pub struct Teacher<'a> {
    trial: Trial<'a>,
    /// The model's output at every step of the full run.
    pub outputs: Vec<Tensor>,
    /// Final latents of the full run.
    pub latents: Tensor,
}

impl<'a> Teacher<'a> {
    /// Runs the trial in full.
    ///
    /// # Errors
    /// Those of the model and the sampler.
    pub fn new(trial: Trial<'a>, schedule: &Schedule) -> Result<Self, TrainError> {
        let mut outputs = Vec::with_capacity(schedule.count());
        let latents = roll_out(schedule, &trial.latents, &mut |latents, step| {
            let output = (trial.predict)(&mut Context::off(), latents, step)?;
            outputs.push(output.clone());
            Ok(output)
        })?;
        Ok(Self { trial, outputs, latents })
    }

    /// First latents.
    pub(super) fn start(&self) -> &Tensor {
        &self.trial.latents
    }

    /// Final latents when the output of `step` is `nudge` off: how much the picture minds an error there.
    ///
    /// # Errors
    /// Those of the model and the sampler.
    pub fn nudged(&self, schedule: &Schedule, at: usize, nudge: &Tensor) -> Result<Tensor, TrainError> {
        roll_out(schedule, &self.trial.latents, &mut |latents, step| match step.index {
            index if index < at => self.output(index),
            index if index == at => Ok((self.output(index)? + nudge)?),
            _ => (self.trial.predict)(&mut Context::off(), latents, step),
        })
    }

    fn output(&self, step: usize) -> Result<Tensor, TrainError> {
        self.outputs.get(step).cloned().ok_or(TrainError::Range {
            what: "step",
            expected: "within the run",
            value: step as f64,
        })
    }
}

/// Which steps compute, and how the others are forecast.
#[derive(Clone, Debug, PartialEq)]
pub struct StepPlan {
    /// `[step]`: `None` computes, else the weights of the last computed outputs.
    pub forecasts: Vec<Option<Coefficients>>,
}

impl StepPlan {
    /// Number of computed steps.
    pub fn computed(&self) -> usize {
        self.forecasts.iter().filter(|forecast| forecast.is_none()).count()
    }
}

/// Samples all trials by a plan. Returns the harm of each picture: mean squared difference of the final latents from the full
/// run's.
///
/// # Errors
/// Those of the model and the sampler.
pub fn harms(teachers: &[Teacher<'_>], schedule: &Schedule, plan: &StepPlan) -> Result<Vec<f64>, TrainError> {
    let mut harms = Vec::new();
    for teacher in teachers {
        harms.extend(row_errors(&teacher.latents, &follow(teacher, schedule, plan)?)?);
    }
    Ok(harms)
}

fn follow(teacher: &Teacher<'_>, schedule: &Schedule, plan: &StepPlan) -> Result<Tensor, TrainError> {
    let mut history: Vec<Tensor> = Vec::new();
    // Up to the first forecast the run is the full run.
    let known = plan.forecasts.iter().take_while(|forecast| forecast.is_none()).count();
    roll_out(schedule, &teacher.trial.latents, &mut |latents, step| match plan
        .forecasts
        .get(step.index)
        .copied()
        .flatten()
    {
        Some(weights) => combine(&weights, &history),
        None => {
            let output = if step.index < known.max(1) {
                teacher.output(step.index)?
            } else {
                (teacher.trial.predict)(&mut Context::off(), latents, step)?
            };
            remember(&mut history, output.clone());
            Ok(output)
        }
    })
}

fn remember(history: &mut Vec<Tensor>, output: Tensor) {
    history.insert(0, output);
    history.truncate(MAX_HISTORY);
}

fn combine(weights: &Coefficients, history: &[Tensor]) -> Result<Tensor, TrainError> {
    let mut sum: Option<Tensor> = None;
    for (&weight, value) in weights.as_slice().iter().zip(history) {
        let term = (value * f64::from(weight))?;
        sum = Some(match sum {
            Some(sum) => (sum + term)?,
            None => term,
        });
    }
    sum.ok_or(TrainError::Range { what: "history", expected: "at least one value", value: 0.0 })
}

/// A plan whose coefficients were fitted while sampling, and what the sampling gave.
#[derive(Debug)]
pub struct Fitted {
    /// The steps and their coefficients.
    pub plan: StepPlan,
    /// Harm of each picture.
    pub harms: Vec<f64>,
    /// What stood for the model's output at every step, all trials as rows.
    outputs: Vec<Tensor>,
}

/// What coefficients are fitted on.
#[derive(Clone, Copy)]
pub struct Ground<'t, 'a> {
    /// The trials.
    pub teachers: &'t [Teacher<'a>],
    /// The sampler's steps.
    pub schedule: &'t Schedule,
    /// How latents follow from outputs; `None` where they are no fixed combination of them.
    pub response: Option<&'t Response>,
}

/// Samples all trials in step and fits the coefficients on the way, by least squares on the student's own latents; `terms`
/// values enter a forecast. `compute` says for each step whether it computes.
///
/// Where latents are a fixed combination of the outputs so far, the aim is the output that leads to the teacher's next
/// latents, so that a forecast also mends what those before it missed, and only computed steps cost an evaluation; elsewhere
/// it is the model's output, which costs a full run. Steps before `shared.1` are taken from the run `shared.0`, which has the
/// same choice there.
///
/// # Errors
/// Those of the model and the sampler.
pub fn fit(
    ground: Ground<'_, '_>,
    (terms, compute): (usize, &[bool]),
    shared: Option<(&Fitted, usize)>,
) -> Result<Fitted, TrainError> {
    let batch = Batch::new(ground.teachers)?;
    let schedule = ground.schedule;
    let mut forecasts = Vec::with_capacity(schedule.count());
    let mut outputs: Vec<Tensor> = Vec::with_capacity(schedule.count());
    let mut misses: Vec<Tensor> = Vec::with_capacity(schedule.count());
    let mut history: Vec<Tensor> = Vec::new();
    // Up to the first forecast the run is the full run.
    let known = compute.iter().take_while(|computes| **computes).count();
    let first = batch.gather(|teacher| Ok(teacher.trial.latents.clone()))?;
    let last = roll_out(schedule, &first, &mut |latents, step| {
        let index = step.index;
        let taught = batch.gather(|teacher| teacher.output(index))?;
        let computes = compute.get(index) != Some(&false) || history.is_empty();
        let (forecast, output) = match shared.filter(|(_, until)| index < *until).and_then(|(run, _)| run.at(index)) {
            Some(same) => same,
            None if computes && index < known => (None, taught.clone()),
            None if computes => (None, batch.predict(latents, step)?),
            None => {
                let aim = match ground.response.map(|response| response.mending(index, &taught, &misses)).transpose()? {
                    Some(Some(aim)) => aim,
                    _ => batch.predict(latents, step)?,
                };
                let weights = fitted(&aim, &history, terms)?;
                (Some(weights), combine(&weights, &history)?)
            }
        };
        if forecast.is_none() {
            remember(&mut history, output.clone());
        }
        forecasts.push(forecast);
        misses.push((&output - taught)?);
        outputs.push(output.clone());
        Ok(output)
    })?;
    let expected = batch.gather(|teacher| Ok(teacher.latents.clone()))?;
    Ok(Fitted { harms: row_errors(&expected, &last)?, plan: StepPlan { forecasts }, outputs })
}

impl Fitted {
    fn at(&self, step: usize) -> Option<(Option<Coefficients>, Tensor)> {
        Some((self.plan.forecasts.get(step).copied()?, self.outputs.get(step)?.clone()))
    }
}

fn fitted(aim: &Tensor, history: &[Tensor], terms: usize) -> Result<Coefficients, TrainError> {
    let used: Vec<&Tensor> = history.iter().take(terms).collect();
    let mut equations = NormalEquations::new(used.len());
    equations.add(aim, &used)?;
    Ok(equations.solve(RIDGE))
}

/// All trials as rows of one tensor.
struct Batch<'t, 'a> {
    teachers: &'t [Teacher<'a>],
    rows: Vec<usize>,
}

impl<'t, 'a> Batch<'t, 'a> {
    fn new(teachers: &'t [Teacher<'a>]) -> Result<Self, TrainError> {
        let rows = teachers.iter().map(|teacher| teacher.latents.dim(0)).collect::<Result<_, _>>()?;
        Ok(Self { teachers, rows })
    }

    fn gather(&self, part: impl Fn(&Teacher<'a>) -> Result<Tensor, TrainError>) -> Result<Tensor, TrainError> {
        let parts: Vec<Tensor> = self.teachers.iter().map(part).collect::<Result<_, _>>()?;
        Ok(Tensor::cat(&parts, 0)?)
    }

    fn predict(&self, latents: &Tensor, step: &StepInfo) -> Result<Tensor, TrainError> {
        let mut outputs = Vec::with_capacity(self.teachers.len());
        let mut start = 0;
        for (teacher, &rows) in self.teachers.iter().zip(&self.rows) {
            let part = latents.narrow(0, start, rows)?.contiguous()?;
            outputs.push((teacher.trial.predict)(&mut Context::off(), &part, step)?);
            start += rows;
        }
        Ok(Tensor::cat(&outputs, 0)?)
    }
}

/// Harm of many pictures on the scale of decibels (natural logarithm of a squared error): what is minimised. Half is the
/// typical picture (the mean of roots, which no single picture rules), half the worst eighth: a router that is good in the
/// middle may still ruin one picture in twenty, and that is the one that is seen.
pub fn overall(harms: &[f64]) -> f64 {
    const WORST: f64 = 1.0 / 8.0;
    let mut sorted: Vec<f64> = harms.iter().map(|harm| harm.max(1e-20)).collect();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let worst = ((sorted.len() as f64 * WORST).ceil() as usize).clamp(1, sorted.len().max(1));
    let mean = |values: &mut dyn Iterator<Item = f64>, count: usize| values.sum::<f64>() / count.max(1) as f64;
    let typical = mean(&mut sorted.iter().map(|harm| harm.sqrt()), sorted.len());
    let tail = mean(&mut sorted.iter().copied().take(worst), worst);
    typical.max(1e-10).ln() + 0.5 * tail.max(1e-20).ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Result as Tensors;
    use refrain_samplers::{Sampler, ScheduleRequest, SchedulerConfig, noise::counter};

    fn schedule(sampler: Sampler) -> Schedule {
        let config = SchedulerConfig::from_json(
            r#"{"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
                "prediction_type": "v_prediction", "clip_sample": false, "timestep_spacing": "trailing"}"#,
        );
        Schedule::new(&config.unwrap(), &ScheduleRequest::new(sampler, 12)).unwrap()
    }

    /// A curved field that turns with time.
    fn predict(latents: &Tensor, step: &StepInfo) -> Tensors<Tensor> {
        let turn = f64::from(step.timestep) / 300.0;
        let rolled = latents.roll(1, 3)?;
        (latents * turn.sin())? + (rolled.tanh()? * turn.cos())?
    }

    fn teachers(schedule: &Schedule, seeds: std::ops::Range<u64>) -> Vec<Teacher<'static>> {
        let trial = |seed| Trial {
            latents: counter(seed, &[1, 4, 6, 6]).unwrap(),
            predict: Box::new(|_: &mut Context, latents: &Tensor, step: &StepInfo| Ok(predict(latents, step)?)),
        };
        seeds.map(|seed| Teacher::new(trial(seed), schedule).unwrap()).collect()
    }

    const COMPUTE: [bool; 12] = [true, true, false, true, false, false, true, false, true, false, false, true];

    #[test]
    fn a_fitted_plan_harms_new_trials_less_than_reuse() {
        for sampler in [Sampler::Ddim, Sampler::DpmSolver2M] {
            let schedule = schedule(sampler);
            let plan = fitted_on(&schedule, &teachers(&schedule, 0..4), (3, &COMPUTE), None).plan;
            let hold = COMPUTE.map(|computes| (!computes).then_some(Coefficients::HOLD)).to_vec();
            let judges = teachers(&schedule, 100..103);
            let of = |plan: &StepPlan| overall(&harms(&judges, &schedule, plan).unwrap());
            // A squared error 20 times less.
            let (fitted, held) = (of(&plan), of(&StepPlan { forecasts: hold }));
            assert!(fitted < held - 3.0, "{sampler}: {fitted} {held}");
            assert_eq!(plan.computed(), 6);
        }
    }

    fn fitted_on(
        schedule: &Schedule,
        teachers: &[Teacher<'_>],
        choice: (usize, &[bool]),
        shared: Option<(&Fitted, usize)>,
    ) -> Fitted {
        let response = Response::of(schedule, teachers).unwrap();
        fit(Ground { teachers, schedule, response: response.as_ref() }, choice, shared).unwrap()
    }

    #[test]
    fn harms_of_a_fit_are_those_of_its_plan() {
        for sampler in [Sampler::Ddim, Sampler::DpmSolver2M] {
            let schedule = schedule(sampler);
            let teachers = teachers(&schedule, 0..3);
            let run = fitted_on(&schedule, &teachers, (2, &COMPUTE), None);
            let replayed = harms(&teachers, &schedule, &run.plan).unwrap();
            for (fitted, replayed) in run.harms.iter().zip(replayed) {
                assert!((fitted / replayed - 1.0).abs() < 1e-3, "{sampler}: {fitted} {replayed}");
            }
        }
    }

    #[test]
    fn a_shared_beginning_changes_nothing() {
        let schedule = schedule(Sampler::Ddim);
        let teachers = teachers(&schedule, 0..2);
        let first = fitted_on(&schedule, &teachers, (3, &COMPUTE), None);
        let mut moved = COMPUTE;
        moved.swap(6, 7);
        let alone = fitted_on(&schedule, &teachers, (3, &moved), None);
        let shared = fitted_on(&schedule, &teachers, (3, &moved), Some((&first, 6)));
        assert_eq!((shared.plan, shared.harms), (alone.plan, alone.harms));
    }

    #[test]
    fn a_ruined_picture_counts_and_so_does_the_typical_one() {
        let even = [1e-4; 16];
        let (mut ruined, mut worse) = (even, [2e-4; 16]);
        ruined[3] = 1e-1;
        worse[3] = 2e-4;
        assert!(overall(&ruined) > overall(&worse) && overall(&worse) > overall(&even));
        // Decibels: ten times the error everywhere is ln 10 more.
        assert!((overall(&[1e-3; 16]) - overall(&even) - 10f64.ln()).abs() < 1e-9);
    }
}
