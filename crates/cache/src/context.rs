//! The context that a model asks around each cacheable part.

use std::ops::Range;

use candle_core::{Result, Tensor};

use crate::check::CheckOptions;
use crate::live::{Health, Live, Verdict, Visit, base_of};
use crate::plan::Planned;
use crate::policy::Evidence;
use crate::recompute::{Recording, Replayed};
use crate::{Branch, CacheError, Guard, Plan, Policy, Report, RunHeader, Site, Step};

/// Latents whose standard deviation is below this hold no picture.
const COLLAPSED_STD: f32 = 1e-5;
/// Latents of fewer values are no latents: a standard deviation says nothing of them.
const FEWEST_LATENTS: usize = 16;

/// One sampling run's cache. Created per picture (a batch of pictures on the CPU is a loop), passed
/// by `&mut` through the model's forward pass.
///
/// A closure given to a context must be pure: it may run again to check a cached value, or not at all.
pub struct Context {
    live: Option<Box<Live>>,
    /// A part of a recorded pass that runs again; then nothing is live.
    replay: Option<Box<Replayed>>,
    step: Option<Step>,
}

impl Context {
    /// A context without policy, store or report: every closure simply runs.
    pub fn off() -> Self {
        Self { live: None, replay: None, step: None }
    }

    /// A context under a policy and a guard.
    ///
    /// # Errors
    /// If the policy cannot run under the header.
    pub fn new(mut policy: Box<dyn Policy>, guard: Guard, header: RunHeader) -> std::result::Result<Self, CacheError> {
        policy.start(&header)?;
        Ok(Self { live: Some(Box::new(Live::new(policy, guard, header))), replay: None, step: None })
    }

    pub(crate) fn of_replay(replay: Replayed) -> Self {
        Self { live: None, replay: Some(Box::new(replay)), step: None }
    }

    pub(crate) fn replay_mut(&mut self) -> Option<&mut Replayed> {
        self.replay.as_deref_mut()
    }

    /// Notes from here on what each block is given and each site mixes in, for [`Context::replaying`].
    pub fn start_recording(&mut self) {
        if let Some(live) = &mut self.live {
            live.recording = Some(Recording::default());
        }
    }

    /// Ends the recording.
    pub fn take_recording(&mut self) -> Option<Recording> {
        self.live.as_mut()?.recording.take()
    }

    /// Measures, at every computation, how far the value moved since the last one. Costs a pass
    /// over each value, and memory for values that would be free already.
    #[must_use]
    pub fn with_drift(mut self, measure: bool) -> Self {
        if let Some(live) = &mut self.live {
            live.set_drift(measure);
        }
        self
    }

    /// Checks some skipped sites by computing them after all.
    #[must_use]
    pub fn with_check(mut self, options: CheckOptions) -> Self {
        if let Some(live) = &mut self.live {
            live.set_check(options);
        }
        self
    }

    /// Names the branch that the following sites belong to; [`Branch::GUIDED`] at first.
    pub fn set_branch(&mut self, branch: Branch) {
        if let Some(live) = &mut self.live {
            live.branch = branch;
        }
    }

    /// Forgets all features in the middle of a run, whose account goes on: at its next visit every site computes. For what
    /// makes them worthless, such as a new prompt or a replaced sink of a stream.
    pub fn forget(&mut self) {
        if let Some(live) = &mut self.live {
            live.forget();
        }
    }

    /// Begins one evaluation of the model. An index that does not grow starts a new run.
    pub fn begin_step(&mut self, step: Step) {
        self.step = Some(step);
        if let Some(live) = &mut self.live {
            live.begin_step(step);
        }
    }

    /// Ends a step, given the latents behind it.
    ///
    /// # Errors
    /// If the latents are not finite or carry no picture any more; the error names the step.
    pub fn end_step(&mut self, latents: &Tensor) -> std::result::Result<(), CacheError> {
        let Step { index, count, timestep, .. } = self.step.unwrap_or_default();
        let health = refrain_ops::health(latents)?;
        if let Some(live) = &mut self.live {
            live.end_step();
        }
        let (what, step) = ("the latents", index + 1);
        if !health.finite {
            return Err(CacheError::NonFinite { what, step, count, timestep });
        }
        if health.std < COLLAPSED_STD && latents.elem_count() >= FEWEST_LATENTS {
            return Err(CacheError::Collapsed { what, step, count, std: health.std });
        }
        Ok(())
    }

    /// The one call a model makes around a cacheable part. The site is given without branch.
    ///
    /// # Errors
    /// Those of `compute`.
    #[inline]
    pub fn run(&mut self, site: Site, compute: impl FnOnce(&mut Self) -> Result<Tensor>) -> Result<Tensor> {
        if self.live.is_none() {
            let fresh = compute(self)?;
            return match &self.replay {
                Some(replay) => replay.mix(site, fresh),
                None => Ok(fresh),
            };
        }
        self.visit(site, Evidence::None, compute)
    }

    /// The stage of a U-Net below its skip connection `stage`, `hidden`: [`Context::run`] for [`Site::stage`], which lets a
    /// policy look at what enters.
    ///
    /// # Errors
    /// Those of `compute`.
    pub fn stage(
        &mut self,
        stage: usize,
        hidden: &Tensor,
        compute: impl FnOnce(&mut Self) -> Result<Tensor>,
    ) -> Result<Tensor> {
        if self.live.is_none() {
            return compute(self);
        }
        self.visit(Site::stage(stage), Evidence::Stage { hidden }, compute)
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
        range: Range<usize>,
        mut hidden: Tensor,
        mut block: impl FnMut(&mut Self, usize, Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        if let Some((index, hidden)) = self.replay.as_ref().map(|replay| replay.stack(&range)) {
            let Some(index) = index else { return Ok(hidden) };
            let output = block(self, index, hidden)?;
            return Ok(self.replay.as_mut().map_or_else(|| output.clone(), |replay| replay.finish(output.clone())));
        }
        let noted = range.clone();
        let mut block = |cx: &mut Self, index: usize, hidden: Tensor| {
            if let Some(recording) = cx.recording() {
                recording.enter(index, &hidden);
            }
            block(cx, index, hidden)
        };
        let spans = match &self.live {
            Some(live) if !live.shadow => live.spans(&range),
            _ => Vec::new(),
        };
        let mut next = range.start;
        if !spans.is_empty() {
            let stack_input = hidden.clone();
            for span in spans {
                hidden = (next..span.start).try_fold(hidden, |hidden, index| block(self, index, hidden))?;
                next = span.end;
                let evidence = Evidence::Span { stack_input: &stack_input, hidden: &hidden };
                hidden = self.visit(Site::span(span.clone()), evidence, |context| {
                    span.clone().try_fold(hidden.clone(), |hidden, index| block(context, index, hidden))
                })?;
            }
        }
        let hidden = (next..range.end).try_fold(hidden, |hidden, index| block(self, index, hidden))?;
        if let Some(recording) = self.recording() {
            recording.leave(noted, &hidden);
        }
        Ok(hidden)
    }

    fn recording(&mut self) -> Option<&mut Recording> {
        self.live.as_mut()?.recording.as_mut()
    }

    /// The whole denoiser as one site. Its output is checked: one that is not finite or has
    /// collapsed after skipping is computed again in full (which is why the closure may run twice).
    ///
    /// # Errors
    /// Those of `compute`, and [`CacheError::NonFinite`] for an output that is not finite though
    /// everything was computed.
    pub fn model(&mut self, input: &Tensor, mut compute: impl FnMut(&mut Self) -> Result<Tensor>) -> Result<Tensor> {
        let Some(live) = self.live.as_ref().filter(|live| !live.shadow) else { return compute(self) };
        let before = live.skips();
        let output = self.visit(Site::model(), Evidence::Model { input }, &mut compute)?;
        match self.judge(&output, before)? {
            Health::Good => return Ok(output),
            Health::Broken(reason) => {
                if let Some(live) = &mut self.live {
                    live.fall_back(reason);
                }
            }
        }
        let before = self.live.as_ref().map_or(0, |live| live.skips());
        let output = self.visit(Site::model(), Evidence::Model { input }, &mut compute)?;
        self.judge(&output, before)?;
        Ok(output)
    }

    /// What was computed, reused and forecast so far in this run; empty if the context is off.
    pub fn report(&self) -> Report {
        match &self.live {
            Some(live) => live.report(),
            None => Report { policy: "off".to_string(), computed_share: 1.0, ..Report::default() },
        }
    }

    /// The actions taken so far in this run; empty if the context is off. Replaying it gives the
    /// same output.
    pub fn executed_plan(&self) -> Plan {
        self.live.as_ref().map(|live| live.executed_plan()).unwrap_or_default()
    }

    #[cfg(test)]
    pub(crate) fn accounted_and_allocated(&self) -> (usize, usize) {
        self.live.as_ref().map_or((0, 0), |live| live.accounted_and_allocated())
    }

    fn judge(&mut self, output: &Tensor, skips_before: usize) -> std::result::Result<Health, CacheError> {
        match &mut self.live {
            Some(live) => live.judge(output, skips_before),
            None => Ok(Health::Good),
        }
    }

    /// A site under the policy.
    fn visit(
        &mut self,
        site: Site,
        evidence: Evidence<'_>,
        compute: impl FnOnce(&mut Self) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let Some(live) = self.live.as_mut().filter(|live| !live.shadow) else { return compute(self) };
        let base = base_of(site, live.model_value(), evidence);
        let mut visit = live.ask(site, evidence)?;
        let output = self.answer(&mut visit, base, compute)?;
        match &mut self.live {
            Some(live) => live.inject(&visit, output),
            None => Ok(output),
        }
    }

    /// The site's value as its verdict says, before any injection.
    fn answer(
        &mut self,
        visit: &mut Visit<'_>,
        mut base: Option<&Tensor>,
        compute: impl FnOnce(&mut Self) -> Result<Tensor>,
    ) -> Result<Tensor> {
        match std::mem::replace(&mut visit.verdict, Verdict::Compute) {
            Verdict::Skip { value, action } => {
                // A residual of another shape than the input was stored as the output itself.
                base = base.filter(|base| base.dims() == value.dims());
                self.skip(visit, (value, action), base, compute)
            }
            Verdict::Compute => {
                let output = self.compute(visit, compute)?;
                base = base.filter(|base| base.dims() == output.dims());
                if let Some(live) = &mut self.live {
                    live.finish_computed(visit, &output, base, true)?;
                }
                Ok(output)
            }
            Verdict::Mix(blend) => {
                let fresh = self.compute(visit, compute)?;
                base = base.filter(|base| base.dims() == fresh.dims());
                if let Some(live) = &mut self.live {
                    live.finish_computed(visit, &fresh, base, blend.refresh || blend.cached.is_empty())?;
                }
                blend.mix(&fresh, base)
            }
        }
    }

    /// Runs a site's closure; what it visits lies inside the site.
    fn compute(&mut self, visit: &Visit<'_>, compute: impl FnOnce(&mut Self) -> Result<Tensor>) -> Result<Tensor> {
        if let Some(live) = &mut self.live {
            live.open(visit.index);
        }
        let output = compute(self);
        if let Some(live) = &mut self.live {
            live.close();
        }
        output
    }

    /// Returns a cached value, and on occasion looks how wrong it is.
    fn skip(
        &mut self,
        visit: &Visit<'_>,
        (value, action): (Tensor, Planned),
        base: Option<&Tensor>,
        compute: impl FnOnce(&mut Self) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let output = match base {
            Some(base) => refrain_ops::add(base, &value)?,
            None => value.clone(),
        };
        let seconds = visit.began.elapsed().as_secs_f64();
        if self.live.as_mut().is_some_and(|live| live.check_due(visit)) {
            let fresh = self.in_shadow(compute)?;
            let fresh_value = base.map_or_else(|| Ok(fresh.clone()), |base| &fresh - base)?;
            if let Some(live) = &mut self.live
                && !live.checked(visit, &fresh_value, &value)?
            {
                // The value is known to be wrong and the right one is at hand.
                live.finish_computed(visit, &fresh, base, false)?;
                return Ok(fresh);
            }
        }
        if let Some(live) = &mut self.live {
            live.finish_skipped(visit, action, &output, seconds)?;
        }
        Ok(output)
    }

    /// Computes without leaving a trace in the run's state.
    fn in_shadow(&mut self, compute: impl FnOnce(&mut Self) -> Result<Tensor>) -> Result<Tensor> {
        if let Some(live) = &mut self.live {
            live.shadow = true;
        }
        let output = compute(self);
        if let Some(live) = &mut self.live {
            live.shadow = false;
        }
        output
    }
}
