//! Limits that hold whatever the policy says.

use crate::Step;

/// Limits on skipping. The default computes the first and the last step and nothing more.
#[derive(Debug, Clone, PartialEq)]
pub struct Guard {
    /// Steps at the start in which everything computes.
    pub warmup: usize,
    /// Whether everything computes in the last step, which writes the finest detail.
    pub compute_last: bool,
    /// Longest run of steps in which a site may go without computing; `None` for no limit.
    pub longest_skip: Option<usize>,
    /// Largest relative error of a checked site; beyond it the rest of the run computes.
    pub error_budget: Option<f32>,
    /// A model output whose standard deviation falls below this share of the last computed one has
    /// collapsed: the step is repeated in full, and so is the rest of the run.
    pub collapse_share: f32,
}

impl Default for Guard {
    fn default() -> Self {
        Self { warmup: 1, compute_last: true, longest_skip: None, error_budget: None, collapse_share: 0.02 }
    }
}

impl Guard {
    /// Whether a site must compute at this step, given the longest current run of skips among the
    /// site and all inside it.
    pub(crate) fn forbids_skip(&self, step: Step, skips_in_row: usize) -> bool {
        step.index < self.warmup
            || (self.compute_last && step.is_last())
            || self.longest_skip.is_some_and(|limit| skips_in_row >= limit)
    }
}
