//! Sampling with whole steps forecast: what a choice of steps really costs.

use candle_core::Tensor;
use refrain_cache::{Coefficients, Context, MAX_HISTORY};

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
    /// Latents before every step of the full run.
    inputs: Vec<Tensor>,
    /// Final latents of the full run.
    pub latents: Tensor,
}

impl<'a> Teacher<'a> {
    /// Runs the trial in full.
    ///
    /// # Errors
    /// Those of the model and the sampler.
    pub fn new(trial: Trial<'a>, schedule: &Schedule) -> Result<Self, TrainError> {
        let (mut inputs, mut outputs) = (Vec::with_capacity(schedule.count()), Vec::with_capacity(schedule.count()));
        let latents = roll_out(schedule, &trial.latents, &mut |latents, step| {
            let output = (trial.predict)(&mut Context::off(), latents, step)?;
            inputs.push(latents.clone());
            outputs.push(output.clone());
            Ok(output)
        })?;
        Ok(Self { trial, outputs, inputs, latents })
    }

    /// Latents after `step` of the full run.
    fn after(&self, step: usize) -> &Tensor {
        self.inputs.get(step + 1).unwrap_or(&self.latents)
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

/// Samples all trials in step and fits the coefficients on the way, by least squares on the student's own latents; `terms`
/// values enter a forecast. `compute` says for each step whether it computes.
///
/// Where the sampler is linear in one output, the aim is the output that leads to the teacher's next latents, so that a
/// forecast also mends what those before it missed, and only computed steps cost an evaluation; elsewhere it is the model's
/// output, which costs a full run. Steps before `shared.1` are taken from the run `shared.0`, which has the same choice there.
///
/// # Errors
/// Those of the model and the sampler.
pub fn fit(
    teachers: &[Teacher<'_>],
    schedule: &Schedule,
    (terms, compute): (usize, &[bool]),
    shared: Option<(&Fitted, usize)>,
) -> Result<Fitted, TrainError> {
    let batch = Batch::new(teachers)?;
    let mut forecasts = Vec::with_capacity(schedule.count());
    let mut outputs = Vec::with_capacity(schedule.count());
    let mut history: Vec<Tensor> = Vec::new();
    // Up to the first forecast the run is the full run.
    let known = compute.iter().take_while(|computes| **computes).count();
    let first = batch.gather(|teacher| Ok(teacher.trial.latents.clone()))?;
    let last = roll_out(schedule, &first, &mut |latents, step| {
        let index = step.index;
        let computes = compute.get(index) != Some(&false) || history.is_empty();
        let (forecast, output) = match shared.filter(|(_, until)| index < *until).and_then(|(run, _)| run.at(index)) {
            Some(same) => same,
            None if computes && index < known => (None, batch.gather(|teacher| teacher.output(index))?),
            None if computes => (None, batch.predict(latents, step)?),
            None => {
                let aim = match batch.towards(index, latents)? {
                    Some(aim) => aim,
                    None => batch.predict(latents, step)?,
                };
                let weights = fitted(&aim, &history, terms)?;
                (Some(weights), combine(&weights, &history)?)
            }
        };
        if forecast.is_none() {
            remember(&mut history, output.clone());
        }
        forecasts.push(forecast);
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

    /// The output at `step` that leads from `latents` to the teachers' next latents; `None` where the next latents are not
    /// a fixed combination of latents and output, as with multistep samplers.
    fn towards(&self, step: usize, latents: &Tensor) -> Result<Option<Tensor>, TrainError> {
        /// Relative error of the combination that still counts as none.
        const EXACT: f64 = 1e-4;
        let after = self.gather(|teacher| Ok(teacher.after(step).clone()))?;
        let before = self.gather(|teacher| Ok(teacher.inputs.get(step).unwrap_or(&teacher.latents).clone()))?;
        let output = self.gather(|teacher| teacher.output(step))?;
        let mut equations = NormalEquations::new(2);
        equations.add(&after, &[&before, &output])?;
        let weights = equations.solve(0.0);
        let &[keep, advance] = weights.as_slice() else { return Ok(None) };
        let (keep, advance) = (f64::from(keep), f64::from(advance));
        let miss = ((&after - (&before * keep)?)? - (&output * advance)?)?;
        let energy = |tensor: &Tensor| row_errors(&tensor.zeros_like()?, tensor).map(|rows| rows.iter().sum::<f64>());
        if advance.abs() < 1e-6 || energy(&miss)? > EXACT * EXACT * energy(&after)? {
            return Ok(None);
        }
        Ok(Some(((after - (latents * keep)?)? / advance)?))
    }
}

/// Harm of many pictures on the scale of decibels (natural logarithm of a squared error): what is minimised. Half-way between
/// the mean of the logarithms, which one bad picture hardly moves, and the logarithm of the mean, which it rules.
pub fn overall(harms: &[f64]) -> f64 {
    let mean = harms.iter().map(|harm| harm.max(1e-20).sqrt()).sum::<f64>() / harms.len().max(1) as f64;
    2.0 * mean.max(1e-10).ln()
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
        let schedule = schedule(Sampler::Ddim);
        let plan = fit(&teachers(&schedule, 0..4), &schedule, (3, &COMPUTE), None).unwrap().plan;
        let hold = COMPUTE.map(|computes| (!computes).then_some(Coefficients::HOLD)).to_vec();
        let judges = teachers(&schedule, 100..103);
        let of = |plan: &StepPlan| overall(&harms(&judges, &schedule, plan).unwrap());
        // A squared error 20 times less.
        assert!(of(&plan) < of(&StepPlan { forecasts: hold }) - 3.0, "{}", of(&plan));
        assert_eq!(plan.computed(), 6);
    }

    #[test]
    fn harms_of_a_fit_are_those_of_its_plan() {
        for sampler in [Sampler::Ddim, Sampler::DpmSolver2M] {
            let schedule = schedule(sampler);
            let teachers = teachers(&schedule, 0..3);
            let run = fit(&teachers, &schedule, (2, &COMPUTE), None).unwrap();
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
        let first = fit(&teachers, &schedule, (3, &COMPUTE), None).unwrap();
        let mut moved = COMPUTE;
        moved.swap(6, 7);
        let alone = fit(&teachers, &schedule, (3, &moved), None).unwrap();
        let shared = fit(&teachers, &schedule, (3, &moved), Some((&first, 6))).unwrap();
        assert_eq!((shared.plan, shared.harms), (alone.plan, alone.harms));
    }

    #[test]
    fn only_single_step_samplers_have_an_output_that_leads_to_given_latents() {
        for (sampler, linear) in [(Sampler::Ddim, true), (Sampler::DpmSolver2M, false)] {
            let schedule = schedule(sampler);
            let teachers = teachers(&schedule, 0..2);
            let batch = Batch::new(&teachers).unwrap();
            let before = batch.gather(|teacher| Ok(teacher.inputs[5].clone())).unwrap();
            let Some(aim) = batch.towards(5, &before).unwrap() else {
                assert!(!linear, "{sampler}");
                continue;
            };
            assert!(linear, "{sampler}");
            let output = batch.gather(|teacher| teacher.output(5)).unwrap();
            let miss = (aim - output).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(miss < 1e-3, "{miss}");
        }
    }
}
