//! All that a training is in the middle of: saving and restoring it continues bit for bit.

use super::settings::{Settings, Timetable};
use crate::{
    TrainError,
    optimiser::AdamW,
    router::Router,
    subject::{SiteCost, Subject},
};

/// What one trajectory did, for curves and progress.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Progress {
    /// Optimiser steps so far.
    pub iteration: usize,
    /// Mean over the steps of λ · MSE + β · Σ cost · r.
    pub loss: f64,
    /// Mean squared error of the guided prediction, not weighed.
    pub error: f64,
    /// Mean λ over the steps, as measured: mean squared difference of the final latents.
    pub lambda: f64,
    /// Price of a step's whole cost.
    pub beta: f64,
    /// Share of the cost that the scores would compute, each counted by its score.
    pub score_share: f64,
    /// Share of the cost that hard decisions at the threshold would compute now.
    pub computed_share: f64,
    /// Share of the entries that reuse: HarmoniCa's cache usage ratio (CUR).
    pub reused_entries: f64,
}

/// Moments of the optimiser for one step's row.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    /// Of the logits.
    pub logits: AdamW,
    /// Of the forecasts' scalars.
    pub forecasts: AdamW,
}

/// A router in training.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// The table.
    pub router: Router,
    /// `[step]`.
    pub moments: Vec<Moments>,
    /// λ of each step, of mean 1.
    pub lambda: Vec<f64>,
    /// Mean λ as measured.
    pub lambda_mean: f64,
    /// Price of a step's whole cost; 0 before it was first estimated.
    pub beta: f64,
    /// Optimiser steps so far.
    pub iteration: usize,
    /// Trajectories so far: the number of the next trials.
    pub trajectory: u64,
    /// Optimiser steps at the last estimate of λ.
    pub refreshed: Option<usize>,
    /// One entry a trajectory.
    pub curve: Vec<Progress>,
}

/// A training: what all budgets share, and what each has made of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Training {
    /// The sites with the costs that budgets count by.
    pub costs: Vec<SiteCost>,
    /// All budgets' common part.
    pub trunk: State,
    /// One for each budget that has begun; all but the last are done.
    pub branches: Vec<State>,
}

impl Training {
    /// The start of a training.
    ///
    /// # Errors
    /// If the table cannot be made.
    pub fn new(subject: &Subject<'_>, settings: &Settings) -> Result<Self, TrainError> {
        let sites = subject.sites.iter().map(|cost| cost.site).collect();
        let router = Router::new(subject.run.clone(), sites, (settings.seed, settings.order))?;
        let moments = |(logits, forecasts): (&Vec<f32>, &Vec<f32>)| Moments {
            logits: AdamW::new(logits.len(), settings.optimiser()),
            forecasts: AdamW::new(forecasts.len(), settings.optimiser()),
        };
        let trunk = State {
            moments: router.logits.iter().zip(&router.forecasts).map(moments).collect(),
            lambda: vec![1.0; router.logits.len()],
            lambda_mean: 0.0,
            beta: 0.0,
            iteration: 0,
            trajectory: 0,
            refreshed: None,
            curve: Vec::new(),
            router,
        };
        Ok(Self { costs: subject.sites.clone(), trunk, branches: Vec::new() })
    }

    /// Branches that left the trunk before its present end belong to a shorter training.
    pub(super) fn fit(&mut self, timetable: &Timetable) {
        let longer = self.trunk.trajectory < timetable.trunk_trajectories;
        let other_end = |state: &State| state.iteration > timetable.branches.first().map_or(0, |stage| stage.last);
        if longer || self.branches.iter().any(other_end) {
            self.branches.clear();
        }
    }

    /// The state at work: the last branch, or the trunk.
    pub fn current(&self) -> &State {
        self.branches.last().unwrap_or(&self.trunk)
    }
}
