//! The working part of a context that is not off: policy, guard, store and ledger together.

use std::collections::HashMap;
use std::ops::Range;
use std::time::Instant;

use candle_core::{Result, Tensor};

use crate::action::MAX_HISTORY;
use crate::check::{CheckOptions, Checked, Checker};
use crate::ledger::Ledger;
use crate::plan::{PlanHeader, Planned};
use crate::policy::Evidence;
use crate::recompute::Recording;
use crate::store::{Keep, Store};
use crate::{
    Action, Ask, Branch, CacheError, Coefficients, Guard, Injection, ModelValue, Observation, Part, Plan, Policy,
    Report, RunHeader, Site, Step,
};

/// State of a run under a policy.
pub(crate) struct Live {
    policy: Box<dyn Policy>,
    guard: Guard,
    header: RunHeader,
    measure_drift: bool,
    checker: Checker,
    step: Option<Step>,
    pub(crate) branch: Branch,
    ledger: Ledger,
    store: Store,
    /// Why all the rest of the run computes, if it does.
    fallback: Option<String>,
    /// A check is recomputing: sites inside run as if the context were off.
    pub(crate) shadow: bool,
    /// Skips so far, to tell whether a call of the model skipped anything.
    skips: usize,
    guarded: usize,
    overhead_seconds: f64,
    /// Standard deviation of the last healthy output of the model, by branch.
    usual_std: HashMap<Branch, f32>,
    /// What training wants noted of the present pass.
    pub(crate) recording: Option<Recording>,
}

/// A question put to the policy and the guard, with their verdict.
pub(crate) struct Visit<'a> {
    pub(crate) index: usize,
    site: Site,
    step: Step,
    evidence: Evidence<'a>,
    pub(crate) began: Instant,
    pub(crate) verdict: Verdict,
    /// What is blended into the value on its way to the model.
    pub(crate) injection: Option<Box<Injection>>,
}

pub(crate) enum Verdict {
    Compute,
    Skip { value: Tensor, action: Planned },
    Mix(Blend),
}

/// What a router in training mixes into a fresh value.
pub(crate) struct Blend {
    pub(crate) weight: Tensor,
    pub(crate) refresh: bool,
    /// Remembered values, newest first; none if the site has too few.
    pub(crate) cached: Vec<Tensor>,
    /// One weight for each of them; without, the first stands alone.
    pub(crate) forecast: Option<Tensor>,
}

impl Blend {
    /// The newest remembered value, or the forecast from all of them.
    pub(crate) fn remembered(&self) -> Result<Option<Tensor>> {
        let Some(forecast) = &self.forecast else { return Ok(self.cached.first().cloned()) };
        let mut sum: Option<Tensor> = None;
        for (age, value) in self.cached.iter().enumerate() {
            let term = value.broadcast_mul(&forecast.get(age)?)?;
            sum = Some(match sum {
                Some(sum) => (sum + term)?,
                None => term,
            });
        }
        Ok(sum)
    }

    /// `base + weight · fresh value + (1 − weight) · remembered`, differentiable; the fresh output if nothing is
    /// remembered.
    pub(crate) fn mix(&self, fresh: &Tensor, base: Option<&Tensor>) -> Result<Tensor> {
        let Some(remembered) = self.remembered()? else { return Ok(fresh.clone()) };
        let value = match base {
            Some(base) => (fresh - base)?,
            None => fresh.clone(),
        };
        let keep = self.weight.affine(-1.0, 1.0)?;
        let mixed = (value.broadcast_mul(&self.weight)? + remembered.broadcast_mul(&keep)?)?;
        match base {
            Some(base) => base + mixed,
            None => Ok(mixed),
        }
    }
}

/// What the model's output looks like.
pub(crate) enum Health {
    Good,
    /// Broken after a skip: to be repeated in full, for the reason given.
    Broken(String),
}

impl Live {
    pub(crate) fn new(policy: Box<dyn Policy>, guard: Guard, header: RunHeader) -> Self {
        Self {
            policy,
            guard,
            header,
            measure_drift: false,
            checker: Checker::default(),
            step: None,
            branch: Branch::GUIDED,
            ledger: Ledger::default(),
            store: Store::default(),
            fallback: None,
            shadow: false,
            skips: 0,
            guarded: 0,
            overhead_seconds: 0.0,
            usual_std: HashMap::new(),
            recording: None,
        }
    }

    pub(crate) fn set_drift(&mut self, on: bool) {
        self.measure_drift = on;
    }

    pub(crate) fn set_check(&mut self, options: CheckOptions) {
        self.checker = Checker::new(options);
        self.checker.start(self.header.steps);
    }

    pub(crate) fn begin_step(&mut self, step: Step) {
        if self.step.is_some_and(|previous| step.index <= previous.index) {
            self.restart();
        }
        self.step = Some(step);
    }

    /// Forgets the last run, so that the next equals one on a fresh context.
    fn restart(&mut self) {
        self.ledger = Ledger::default();
        self.store = Store::default();
        self.checker.start(self.header.steps);
        (self.branch, self.shadow, self.skips, self.guarded) = (Branch::GUIDED, false, 0, 0);
        self.overhead_seconds = 0.0;
        self.usual_std.clear();
        // The header has been accepted before; a policy that now refuses it computes everything.
        self.fallback = self.policy.start(&self.header).err().map(|error| error.to_string());
    }

    /// Forgets all features; the run goes on.
    pub(crate) fn forget(&mut self) {
        self.store.clear();
        self.policy.forget();
    }

    /// Frees all features behind the last step: nobody reads them again.
    pub(crate) fn end_step(&mut self) {
        if self.step.is_some_and(|step| step.is_last()) {
            self.store.clear();
        }
    }

    /// The spans that the policy wants to be asked about, made safe: within `blocks`, in order,
    /// not empty, disjoint.
    pub(crate) fn spans(&self, blocks: &Range<usize>) -> Vec<Range<usize>> {
        let mut next = blocks.start;
        let mut spans = self.policy.spans(self.branch, blocks.clone());
        spans.retain(|span| {
            let fits = span.start >= next && span.start < span.end && span.end <= blocks.end;
            next = if fits { span.end } else { next };
            fits
        });
        spans
    }

    /// Whether a skip of the model adds up to its input.
    pub(crate) fn model_value(&self) -> ModelValue {
        self.policy.model_value()
    }

    pub(crate) fn skips(&self) -> usize {
        self.skips
    }

    /// Asks the policy, then the guard.
    pub(crate) fn ask<'a>(&mut self, site: Site, evidence: Evidence<'a>) -> Result<Visit<'a>> {
        let began = Instant::now();
        let (site, step) = (site.with_branch(self.branch), self.step.unwrap_or_default());
        let index = self.ledger.visit(site);
        let ask = Ask { site, step, history: self.store.history(index), evidence };
        // A fallback distrusts what was cached in this run; the endpoints' features are not of this run.
        let (action, injection) = match self.policy.decide(&ask) {
            Action::Inject { base, injection } => (*base, Some(injection)),
            action => (action, None),
        };
        let verdict = if self.fallback.is_some() {
            Verdict::Compute
        } else {
            match action {
                Action::Compute | Action::Inject { .. } => Verdict::Compute,
                Action::Reuse => self.skip(index, step, Planned::Reuse)?,
                Action::Forecast(weights) => self.skip(index, step, Planned::Forecast(weights))?,
                Action::Mix { .. } if self.forbids_skip(index, step) => Verdict::Compute,
                Action::Mix { weight, refresh, forecast } => {
                    let reads = forecast.as_ref().map_or(Ok(1), Tensor::dims1)?;
                    let reads = if reads > ask.history.len() { 0 } else { reads };
                    let cached: Vec<Tensor> =
                        (0..reads).filter_map(|age| self.store.get(index, age).cloned()).collect();
                    if let Some(recording) = &mut self.recording {
                        recording.mixed(site, &cached);
                    }
                    Verdict::Mix(Blend { weight, refresh, cached, forecast })
                }
            }
        };
        self.overhead_seconds += began.elapsed().as_secs_f64();
        Ok(Visit { index, site, step, evidence, began: Instant::now(), verdict, injection })
    }

    /// Blends the visit's injection into the value on its way to the model, and enters it.
    pub(crate) fn inject(&mut self, visit: &Visit<'_>, output: Tensor) -> Result<Tensor> {
        let Some(injection) = &visit.injection else { return Ok(output) };
        let began = Instant::now();
        let output = injection.apply(&output)?;
        if let Some(record) = self.ledger.record_mut(visit.index) {
            record.injections += 1;
        }
        self.overhead_seconds += began.elapsed().as_secs_f64();
        Ok(output)
    }

    /// The value of a skip, unless too little is remembered or the guard forbids it.
    fn skip(&mut self, index: usize, step: Step, action: Planned) -> Result<Verdict> {
        if self.store.history(index).len() < action.reads() {
            return Ok(Verdict::Compute);
        }
        if self.forbids_skip(index, step) {
            self.guarded += 1;
            return Ok(Verdict::Compute);
        }
        let value = match action {
            Planned::Forecast(weights) => self.combine(index, weights)?,
            _ => self.store.get(index, 0).cloned(),
        };
        Ok(value.map_or(Verdict::Compute, |value| Verdict::Skip { value, action }))
    }

    fn combine(&self, index: usize, weights: Coefficients) -> Result<Option<Tensor>> {
        let values = weights.as_slice().iter().enumerate();
        let terms: Option<Vec<(f32, &Tensor)>> =
            values.map(|(age, &weight)| Some((weight, self.store.get(index, age)?))).collect();
        terms.map(|terms| refrain_ops::linear_combination(&terms)).transpose()
    }

    fn forbids_skip(&self, index: usize, step: Step) -> bool {
        self.guard.forbids_skip(step, self.ledger.longest_skip(index))
    }

    pub(crate) fn open(&mut self, index: usize) {
        self.ledger.open(index);
    }

    pub(crate) fn close(&mut self) {
        self.ledger.close();
    }

    /// Whether this skip is to be checked.
    pub(crate) fn check_due(&mut self, visit: &Visit<'_>) -> bool {
        self.checker.due(visit.step)
    }

    /// Enters a check. Returns whether the error is within the budget; if not, the rest of the run
    /// computes.
    pub(crate) fn checked(&mut self, visit: &Visit<'_>, fresh: &Tensor, cached: &Tensor) -> Result<bool> {
        let error = refrain_ops::relative_l2(fresh, cached)?;
        self.checker.results.push(Checked { site: visit.site, step: visit.step.index, error });
        match self.guard.error_budget {
            Some(budget) if error.is_nan() || error > budget => {
                let (site, step) = (visit.site, visit.step.index + 1);
                self.ledger.computed_inside(visit.index, visit.step.index);
                self.fall_back(format!(
                    "the checked error {error:.4} of {site} at step {step} exceeds the budget {budget}"
                ));
                Ok(false)
            }
            _ => Ok(true),
        }
    }

    /// Computes everything for the rest of the run, and forgets what might be wrong.
    pub(crate) fn fall_back(&mut self, reason: String) {
        tracing::warn!("full compute from here: {reason}");
        self.fallback.get_or_insert(reason);
        self.store.clear();
    }

    /// Enters a computation. `base` is what a cached value of the site is added to.
    pub(crate) fn finish_computed(
        &mut self,
        visit: &Visit<'_>,
        output: &Tensor,
        base: Option<&Tensor>,
        store: bool,
    ) -> Result<()> {
        let ended = Instant::now();
        let seconds = ended.duration_since(visit.began).as_secs_f64();
        self.ledger.computed(visit.index, visit.step.index, seconds);
        let keep = self.keep(visit.index, visit.site, visit.step);
        if !store || (keep.needed == 0 && !keep.measuring) {
            self.store.trim(visit.index, keep);
        } else {
            let value = base.map_or_else(|| Ok(output.clone()), |base| output - base)?;
            self.note_drift(visit.index, &value)?;
            self.store.put(visit.index, visit.step.index, &value, keep)?;
        }
        self.observe(visit, true, output)?;
        self.overhead_seconds += ended.elapsed().as_secs_f64();
        Ok(())
    }

    /// Enters a skip, and all sites inside as covered.
    /// `seconds` is what making the output took.
    pub(crate) fn finish_skipped(
        &mut self,
        visit: &Visit<'_>,
        action: Planned,
        output: &Tensor,
        seconds: f64,
    ) -> Result<()> {
        let ended = Instant::now();
        self.skips += 1;
        let covered = self.ledger.skipped(visit.index, visit.step.index, action, seconds);
        for index in std::iter::once(visit.index).chain(covered) {
            if let Some(site) = self.ledger.record(index).map(|record| record.site) {
                let keep = self.keep(index, site, visit.step);
                self.store.trim(index, keep);
            }
        }
        self.observe(visit, false, output)?;
        self.overhead_seconds += seconds + ended.elapsed().as_secs_f64();
        Ok(())
    }

    fn keep(&mut self, index: usize, site: Site, step: Step) -> Keep {
        if self.fallback.is_some() {
            return Keep::default();
        }
        let needed = self.policy.history_depth(site, step).min(MAX_HISTORY);
        let Some(record) = self.ledger.record_mut(index) else { return Keep { needed, measuring: false } };
        record.wanted |= needed > 0;
        Keep { needed, measuring: self.measure_drift && record.wanted }
    }

    fn note_drift(&mut self, index: usize, value: &Tensor) -> Result<()> {
        if self.measure_drift
            && let Some(previous) = self.store.get(index, 0)
            && previous.dims() == value.dims()
        {
            let drift = refrain_ops::relative_l1(previous, value)?;
            if let Some(record) = self.ledger.record_mut(index) {
                record.drift.push(drift);
            }
        }
        Ok(())
    }

    fn observe(&mut self, visit: &Visit<'_>, computed: bool, output: &Tensor) -> Result<()> {
        if self.fallback.is_some() {
            return Ok(());
        }
        let &Visit { site, step, evidence, .. } = visit;
        self.policy.observe(&Observation { site, step, computed, evidence, output })?;
        self.store.note_policy_bytes(self.policy.bytes());
        Ok(())
    }

    /// Looks at the model's output. `skips_before` tells whether the call that made it skipped anything.
    pub(crate) fn judge(&mut self, output: &Tensor, skips_before: usize) -> std::result::Result<Health, CacheError> {
        let step = self.step.unwrap_or_default();
        let (skipped, number) = (self.skips > skips_before, step.index + 1);
        let health = refrain_ops::health(output)?;
        if !health.finite {
            if skipped {
                return Ok(Health::Broken(format!("the model's output at step {number} was not finite")));
            }
            let Step { count, timestep, .. } = step;
            return Err(CacheError::NonFinite { what: "the model's output", step: number, count, timestep });
        }
        let usual = self.usual_std.get(&self.branch).copied().unwrap_or(0.0);
        if health.std < usual * self.guard.collapse_share {
            if skipped {
                return Ok(Health::Broken(format!("the model's output at step {number} had collapsed to a constant")));
            }
            if self.fallback.is_none() {
                // Nothing to repeat, but nothing to build on either: a constant always looks similar.
                self.fall_back(format!("the model's output at step {number} is all but constant"));
            }
            return Ok(Health::Good);
        }
        self.usual_std.insert(self.branch, health.std);
        Ok(Health::Good)
    }

    pub(crate) fn report(&self) -> Report {
        let mut report = Report {
            policy: self.policy.name(),
            steps: self.header.steps,
            steps_done: self.ledger.steps(),
            seconds_overhead: self.overhead_seconds,
            bytes_held: self.store.held().needed,
            bytes_peak: self.store.peak().needed,
            bytes_measuring: self.store.peak().measuring,
            guarded: self.guarded,
            fallback: self.fallback.clone(),
            checks_wanted: self.checker.wanted(),
            checks: self.checker.results.clone(),
            ..Report::default()
        };
        report.count(&self.ledger);
        report
    }

    pub(crate) fn executed_plan(&self) -> Plan {
        let header = PlanHeader {
            run: self.header.clone(),
            model_value: self.policy.model_value(),
            provenance: self.policy.provenance(),
            repeats: None,
            validation: None,
        };
        let columns: Vec<(Site, Vec<Planned>)> =
            self.ledger.records().iter().map(|record| (record.site, record.actions.clone())).collect();
        // The ledger has each site once and enters a skip only where enough had been computed; the
        // table is too large only for a model beyond all limits, which then has an empty plan.
        Plan::new(header, self.ledger.steps(), &columns).unwrap_or_default()
    }

    #[cfg(test)]
    pub(crate) fn accounted_and_allocated(&self) -> (usize, usize) {
        let held = self.store.held();
        (held.needed + held.measuring, self.store.allocated())
    }
}

/// What a cached value of a site is added to: nothing for a part of a block.
pub(crate) fn base_of<'a>(site: Site, value: ModelValue, evidence: Evidence<'a>) -> Option<&'a Tensor> {
    match (site.part, evidence) {
        (Part::Span { .. }, Evidence::Span { hidden, .. }) => Some(hidden),
        (Part::Model, Evidence::Model { input }) if value == ModelValue::Residual => Some(input),
        _ => None,
    }
}
