//! The policy of a router in training: every site mixes fresh and remembered by its score.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::Tensor;
use refrain_cache::{Action, Ask, CacheError, Policy, RunHeader, Site, Step};

/// What a site does at the current step of training.
#[derive(Clone, Debug)]
pub enum Blend {
    /// `weight * fresh + (1 - weight) * remembered`; `refresh` says whether the fresh value is then remembered.
    Soft {
        /// Scalar tensor that carries the gradient.
        weight: Tensor,
        /// Whether the score is above the threshold.
        refresh: bool,
    },
    /// A hard decision, as at inference.
    Hard {
        /// Compute, or reuse.
        compute: bool,
    },
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
}

impl Student {
    /// A student of `row`.
    pub fn new(row: Row) -> Self {
        Self { row }
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
        match self.row.get(ask.site) {
            Some(Blend::Soft { weight, refresh }) => Action::Mix { weight, refresh },
            Some(Blend::Hard { compute: false }) => Action::Reuse,
            _ => Action::Compute,
        }
    }

    fn history_depth(&self, _site: Site, _step: Step) -> usize {
        1
    }
}
