//! The policy of a router in training: every site mixes fresh and remembered by its score.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::Tensor;
use refrain_cache::{Action, Ask, CacheError, Policy, RunHeader, Site, Step};

/// What a site does at the current step of training: `weight · fresh + (1 − weight) · remembered`.
#[derive(Clone, Debug)]
pub struct Blend {
    /// Scalar tensor that carries the gradient.
    pub weight: Tensor,
    /// Whether the fresh value is then remembered: the score is above the threshold.
    pub refresh: bool,
    /// Weights of a forecast from 1, 2, … remembered values; empty for plain reuse.
    pub forecasts: Vec<Tensor>,
}

/// The row of blends that a [`Student`] follows; the trainer replaces it before each step.
#[derive(Clone, Debug, Default)]
pub struct Row(Arc<Mutex<HashMap<Site, Blend>>>);

impl Row {
    /// Replaces the row. Sites that are not in it compute.
    pub fn set(&self, blends: impl IntoIterator<Item = (Site, Blend)>) {
        let mut row = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        row.clear();
        row.extend(blends);
    }

    fn get(&self, site: Site) -> Option<Blend> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&site).cloned()
    }
}

/// Follows a [`Row`].
pub struct Student {
    row: Row,
    depth: usize,
}

impl Student {
    /// A student of `row` that remembers `depth` computed values of each site.
    pub fn new(row: Row, depth: usize) -> Self {
        Self { row, depth }
    }
}

impl Policy for Student {
    fn name(&self) -> String {
        "router-in-training".into()
    }

    fn start(&mut self, _header: &RunHeader) -> Result<(), CacheError> {
        Ok(())
    }

    fn decide(&mut self, ask: &Ask<'_>) -> Action {
        let Some(Blend { weight, refresh, forecasts }) = self.row.get(ask.site) else { return Action::Compute };
        let known = ask.history.len().min(forecasts.len());
        let forecast = known.checked_sub(1).and_then(|index| forecasts.get(index).cloned());
        Action::Mix { weight, refresh, forecast }
    }

    fn history_depth(&self, _site: Site, _step: Step) -> usize {
        self.depth
    }
}
