//! What is trained, how, and when it sharpens.

use serde::{Deserialize, Serialize};

use crate::{TrainError, forecast, optimiser::AdamWSettings, router::Proxy};

/// Whose latents a trajectory follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Follow {
    /// The student's own, with values as old as its decisions make them: step-wise denoising training.
    Student,
    /// The full model's, with values of the step before: single steps that never meet an accumulated error, as
    /// Learning-to-Cache trains (arXiv 2406.01733).
    Teacher,
}

/// How soft scores become hard decisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hardening {
    /// Not at all: inference cuts the soft scores at the threshold, as published.
    Soft,
    /// In the last third scores grow steep at the threshold.
    Anneal,
    /// Decisions are hard from the start; gradients pass as if they were soft.
    StraightThrough,
}

/// Settings of a training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Shares of a full run's cost that may compute, each in 0..1: one router each.
    pub budgets: Vec<f64>,
    /// Optimiser steps of each router, those of the trunk included.
    pub iterations: usize,
    /// Seed of the first logits.
    pub seed: u64,
    /// Trajectories side by side; their gradients are averaged.
    pub batch: usize,
    /// How the steps' losses are weighed.
    pub proxy: Proxy,
    /// Whose latents a trajectory follows.
    pub follow: Follow,
    /// How soft scores become hard decisions.
    pub hardening: Hardening,
    /// Order of the learned forecast of reused entries, 0 to 2; 0 reuses values as they are.
    pub order: usize,
    /// Optimiser steps between two estimates of λ (C of the paper).
    pub refresh: usize,
    /// Step size of the optimiser.
    pub learning_rate: f64,
    /// Whether gradients run block by block, each block computed again: the memory of one block instead of all.
    pub recompute: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            budgets: vec![0.5],
            iterations: 4_000,
            seed: 0,
            batch: 1,
            proxy: Proxy::LeaveOneOut,
            follow: Follow::Student,
            hardening: Hardening::Anneal,
            order: 0,
            refresh: 500,
            learning_rate: 0.2,
            recompute: false,
        }
    }
}

/// Last share of a training in which budgets part and scores sharpen.
const LAST_SHARE: f64 = 1.0 / 3.0;
/// Sharpness at the end: a logit a quarter away from the threshold's decides by 99 %.
const SHARPEST: f64 = 20.0;

impl Settings {
    /// The optimiser's settings. A row has some hundred updates, and β moves the gradients by orders of magnitude: the
    /// usual memory of a thousand squares would freeze what is learned late.
    pub(super) fn optimiser(&self) -> AdamWSettings {
        AdamWSettings { learning_rate: self.learning_rate, variance_decay: 0.98, ..AdamWSettings::default() }
    }

    fn check(&self, steps: usize) -> Result<(), TrainError> {
        let range = |what, expected, value: f64| Err(TrainError::Range { what, expected, value });
        if let Some(&budget) = self.budgets.iter().find(|&&budget| !(budget > 0.0 && budget <= 1.0)) {
            return range("a budget", "above 0 and at most 1", budget);
        }
        if self.budgets.is_empty() {
            return range("budgets", "at least one", 0.0);
        }
        if steps < 2 {
            return range("steps", "at least 2, since the first always computes", steps as f64);
        }
        if self.batch == 0 || self.refresh == 0 || self.iterations == 0 {
            return range("iterations, batch and refresh", "at least 1", 0.0);
        }
        if !(self.learning_rate.is_finite() && self.learning_rate > 0.0) {
            return range("the learning rate", "above 0", self.learning_rate);
        }
        if self.order > forecast::MAX_ORDER {
            return range("the forecast's order", "0, 1 or 2", self.order as f64);
        }
        Ok(())
    }
}

/// A part of a training under one budget.
#[derive(Clone, Debug)]
pub(super) struct Stage {
    pub(super) budget: f64,
    /// Iterations at which it begins and ends.
    pub(super) first: usize,
    pub(super) last: usize,
    sharpens: bool,
}

impl Stage {
    /// Sharpness of the scores at an iteration: 1 while soft.
    pub(super) fn sharpness(&self, iteration: usize) -> f64 {
        if self.sharpens { SHARPEST.powf(self.progress(iteration)) } else { 1.0 }
    }

    /// Share of the learning rate at an iteration: it falls once decisions are to settle.
    pub(super) fn rate(&self, iteration: usize) -> f64 {
        const LOWEST: f64 = 0.1;
        if self.sharpens { 1.0 - (1.0 - LOWEST) * self.progress(iteration) } else { 1.0 }
    }

    fn progress(&self, iteration: usize) -> f64 {
        let length = self.last.saturating_sub(self.first).max(1);
        (iteration.saturating_sub(self.first) as f64 / length as f64).min(1.0)
    }
}

/// When what happens. The trunk is whole trajectories and depends on the length of the training in nothing but its own
/// length: a finished training can be resumed with more iterations.
#[derive(Debug)]
pub(super) struct Timetable {
    pub(super) trunk: Stage,
    pub(super) trunk_trajectories: u64,
    /// One for each budget.
    pub(super) branches: Vec<Stage>,
}

impl Timetable {
    pub(super) fn new(settings: &Settings, steps: usize) -> Result<Self, TrainError> {
        settings.check(steps)?;
        let sharpens = settings.hardening == Hardening::Anneal;
        let share = if sharpens || settings.budgets.len() > 1 { 1.0 - LAST_SHARE } else { 1.0 };
        let learned = steps - 1;
        let trajectories = (settings.iterations as f64 * share) as usize / learned;
        let end = trajectories * learned;
        let mean = settings.budgets.iter().sum::<f64>() / settings.budgets.len() as f64;
        let branch = |&budget: &f64| Stage { budget, first: end, last: settings.iterations, sharpens };
        Ok(Self {
            trunk: Stage { budget: mean, first: 0, last: end, sharpens: false },
            trunk_trajectories: trajectories as u64,
            branches: settings.budgets.iter().map(branch).collect(),
        })
    }
}
