//! How much the pictures of a stream moved while its teachers were made.
//!
//! A plan is judged on those very frames without anything that interrupts it, so up to the widest change among them its harm
//! is known; beyond, nobody has looked, and everything computes.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Result as TensorResult, Tensor};
use refrain_cache::policies::MotionLimits;
use refrain_cache::{
    Action, Ask, Branch, CacheError, Context, Evidence, Guard, Observation, Policy, RunHeader, Site, Step,
};

/// The widest change seen by the contexts made from it.
#[derive(Default)]
pub(super) struct Widest(Arc<Mutex<f32>>);

impl Widest {
    /// A context that computes everything and looks on.
    ///
    /// # Errors
    /// As [`Context::new`].
    pub(super) fn context(&self, run: &RunHeader) -> Result<Context, CacheError> {
        let watch = Watch { widest: Arc::clone(&self.0), latest: Vec::new() };
        Context::new(Box::new(watch), Guard::default(), run.clone())
    }

    /// The widest change of all.
    pub(super) fn change(&self) -> f32 {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Computes everything, and compares each input of a noise level with the one before.
struct Watch {
    widest: Arc<Mutex<f32>>,
    latest: Vec<(Branch, Tensor)>,
}

impl Policy for Watch {
    fn name(&self) -> String {
        "off".to_owned()
    }

    fn start(&mut self, _header: &RunHeader) -> Result<(), CacheError> {
        self.latest.clear();
        Ok(())
    }

    fn decide(&mut self, _ask: &Ask<'_>) -> Action {
        Action::Compute
    }

    fn observe(&mut self, observation: &Observation<'_>) -> TensorResult<()> {
        let Evidence::Model { input } = observation.evidence else { return Ok(()) };
        let (branch, input) = (observation.site.branch, input.detach());
        match self.latest.iter_mut().find(|(known, _)| *known == branch) {
            Some((_, latest)) => {
                if let Some(change) = MotionLimits::change(&input, latest) {
                    let mut widest = self.widest.lock().unwrap_or_else(PoisonError::into_inner);
                    *widest = widest.max(change);
                }
                *latest = input;
            }
            None => self.latest.push((branch, input)),
        }
        Ok(())
    }

    fn history_depth(&self, _site: Site, _step: Step) -> usize {
        0
    }

    fn forget(&mut self) {
        self.latest.clear();
    }
}
