//! Sampling with whole steps forecast: what a choice of steps really costs.

use candle_core::Tensor;
use refrain_cache::{Coefficients, Context, MAX_HISTORY};

use crate::{
    TrainError,
    least_squares::{NormalEquations, RIDGE},
    subject::{Trial, roll_out, row_errors},
};
use refrain_samplers::Schedule;

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

/// How the coefficients of a roll-out are found.
pub enum Forecaster<'p> {
    /// As the plan says.
    Plan(&'p StepPlan),
    /// Least squares against the model at the student's own latents (which costs a full run): `terms` values enter.
    Fit {
        /// Most values of a forecast.
        terms: usize,
        /// `[step]`: whether it computes.
        compute: &'p [bool],
    },
}

/// Samples all trials in step, so that a fit sees them together. Returns the harm of each picture (mean squared
/// difference of the final latents from the full run's) and the plan that was executed.
///
/// # Errors
/// Those of the model and the sampler.
pub fn roll_out_all(
    teachers: &[Teacher<'_>],
    schedule: &Schedule,
    forecaster: &Forecaster<'_>,
) -> Result<(Vec<f64>, StepPlan), TrainError> {
    match forecaster {
        Forecaster::Plan(plan) => {
            let mut harms = Vec::new();
            for teacher in teachers {
                harms.extend(row_errors(&teacher.latents, &follow(teacher, schedule, plan)?)?);
            }
            Ok((harms, (*plan).clone()))
        }
        Forecaster::Fit { terms, compute } => fit(teachers, schedule, *terms, compute),
    }
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

/// One pass through time with all trials in one batch: at each skipped step the coefficients are fitted, then used.
fn fit(
    teachers: &[Teacher<'_>],
    schedule: &Schedule,
    terms: usize,
    compute: &[bool],
) -> Result<(Vec<f64>, StepPlan), TrainError> {
    let rows: Vec<usize> = teachers.iter().map(|teacher| teacher.latents.dim(0)).collect::<Result<_, _>>()?;
    let latents: Vec<&Tensor> = teachers.iter().map(|teacher| &teacher.trial.latents).collect();
    let mut forecasts = Vec::with_capacity(schedule.count());
    let mut history: Vec<Tensor> = Vec::new();
    let last = roll_out(schedule, &Tensor::cat(&latents, 0)?, &mut |latents, step| {
        let mut outputs = Vec::with_capacity(teachers.len());
        let mut start = 0;
        for (teacher, &rows) in teachers.iter().zip(&rows) {
            let part = latents.narrow(0, start, rows)?.contiguous()?;
            outputs.push((teacher.trial.predict)(&mut Context::off(), &part, step)?);
            start += rows;
        }
        let fresh = Tensor::cat(&outputs, 0)?;
        if compute.get(step.index) != Some(&false) || history.is_empty() {
            forecasts.push(None);
            remember(&mut history, fresh.clone());
            return Ok(fresh);
        }
        let used: Vec<&Tensor> = history.iter().take(terms).collect();
        let mut equations = NormalEquations::new(used.len());
        equations.add(&fresh, &used)?;
        let weights = equations.solve(RIDGE);
        forecasts.push(Some(weights));
        combine(&weights, &history)
    })?;
    let expected: Vec<&Tensor> = teachers.iter().map(|teacher| &teacher.latents).collect();
    Ok((row_errors(&Tensor::cat(&expected, 0)?, &last)?, StepPlan { forecasts }))
}

/// Mean harm on the scale of decibels (natural logarithm of the squared error): what is minimised, since medians of PSNR
/// are what people compare.
pub fn mean_log(harms: &[f64]) -> f64 {
    harms.iter().map(|harm| harm.max(1e-20).ln()).sum::<f64>() / harms.len().max(1) as f64
}
