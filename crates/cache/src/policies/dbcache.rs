//! DBCache of the cache-dit project: the first `fn` blocks always run, and how much their
//! contribution has changed decides whether the middle blocks run; the last `bn` blocks always run
//! and repair. `fn=1, bn=0` is first-block caching.
//!
//! With `R` = what the first `fn` blocks add to the hidden states, the measure is
//! ```text
//! d = mean|R_previous - R_current| / mean|R_previous|
//! ```
//! where `R_previous` is that of the last step at which the middle blocks *computed*. The checks
//! come in cache-dit's order: warm-up, step mask, number of skips so far, skips in a row, accumulated
//! `d`, and last the threshold. A skip adds what the middle blocks added when they last computed,
//! or (`order` > 0) its extrapolation as in [`super::taylor_coefficients`].
//!
//! On a U-Net the middle blocks are the stage below skip connection `fn`, which as many units of the way down made: the
//! measure compares that skip connection itself, and what a skip returns is the stage's value. The layers above it run on
//! the way up too, whatever `bn` says.
//!
//! Where peers differ, on purpose: every limit that says "compute" really ends the decision; `d` of
//! a vanished residual is not 0 but unknown, so a collapsed latent never looks similar; the
//! accumulated `d` starts anew when the middle blocks compute; each branch decides for itself.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{Result as TensorResult, Tensor};

use super::mask::StepMask;
use super::options::{OptionDoc, Options};
use super::taylor::{Basis, taylor_coefficients};
use super::{Descriptor, spelling, unless};
use crate::store::own;
use crate::{
    Action, Ask, Branch, CacheError, Coefficients, Evidence, Observation, Part, Policy, RunHeader, Site, Step,
};

pub(super) const DESCRIPTOR: Descriptor = Descriptor {
    name: "dbcache",
    summary: "skip the middle blocks while the first ones say that little changes (DBCache, cache-dit project)",
    options: &[
        OptionDoc { key: "threshold", default: "0.1", help: "largest relative change of the first blocks' residual" },
        OptionDoc { key: "fn", default: "1", help: "blocks at the front that always run" },
        OptionDoc { key: "bn", default: "0", help: "blocks at the end that always run" },
        OptionDoc { key: "warmup", default: "2", help: "steps at the start that all compute" },
        OptionDoc { key: "max_consecutive", default: "none", help: "longest run of skipped steps" },
        OptionDoc { key: "max_cached", default: "none", help: "most skipped steps of a run" },
        OptionDoc { key: "max_accumulated", default: "none", help: "largest sum of changes over a run of skips" },
        OptionDoc { key: "order", default: "0", help: "0 holds the middle blocks' residual, 1 and 2 extrapolate it" },
        OptionDoc { key: "mask", default: "none", help: "steps that must compute (1), as in the policy mask" },
    ],
    parse: |options| {
        let settings = Settings::read(&options)?;
        Ok(Arc::new(move || Box::new(DbCache::new(settings.clone()))))
    },
};

#[derive(Debug, Clone, PartialEq)]
struct Settings {
    threshold: f32,
    front: usize,
    back: usize,
    warmup: usize,
    max_consecutive: Option<usize>,
    max_cached: Option<usize>,
    max_accumulated: Option<f32>,
    order: usize,
    mask: Option<StepMask>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            threshold: 0.1,
            front: 1,
            back: 0,
            warmup: 2,
            max_consecutive: None,
            max_cached: None,
            max_accumulated: None,
            order: 0,
            mask: None,
        }
    }
}

impl Settings {
    fn read(options: &Options) -> Result<Self, CacheError> {
        let default = Self::default();
        Ok(Self {
            threshold: options.number("threshold", default.threshold, 0.0..=1e6)?,
            front: options.number("fn", default.front, 1..=10_000)?,
            back: options.number("bn", default.back, 0..=10_000)?,
            warmup: options.number("warmup", default.warmup, 0..=10_000)?,
            max_consecutive: options.limit("max_consecutive", 0..=10_000)?,
            max_cached: options.limit("max_cached", 0..=10_000)?,
            max_accumulated: options.limit("max_accumulated", 0.0..=1e6)?,
            order: options.number("order", default.order, 0..=2)?,
            mask: StepMask::read(options, "mask")?,
        })
    }
}

/// What is known of one span in one branch.
#[derive(Default)]
struct Span {
    /// The first blocks' residual when the span last computed.
    computed: Option<Tensor>,
    /// The same at the current step, and its change since then.
    current: Option<(Tensor, Option<f32>)>,
    consecutive: usize,
    cached: usize,
    accumulated: f32,
}

/// The policy that skips the middle blocks while the first ones hardly change.
pub struct DbCache {
    settings: Settings,
    mask: Vec<bool>,
    spans: HashMap<Site, Span>,
}

impl DbCache {
    fn new(settings: Settings) -> Self {
        Self { settings, mask: Vec::new(), spans: HashMap::new() }
    }

    /// Whether a site is what the policy skips: a span, or a U-Net's stage behind the first units.
    fn is_middle(&self, site: Site) -> bool {
        match site.part {
            Part::Span { .. } => true,
            Part::Stage => usize::from(site.block) == self.settings.front,
            _ => false,
        }
    }

    /// Whether the limits and the measure allow a skip.
    fn allows(&self, span: &Span, change: Option<f32>, step: Step) -> bool {
        let settings = &self.settings;
        if step.index < settings.warmup || self.mask.get(step.index) == Some(&true) {
            return false;
        }
        if settings.max_cached.is_some_and(|most| span.cached >= most)
            || settings.max_consecutive.is_some_and(|longest| span.consecutive >= longest)
        {
            return false;
        }
        let Some(change) = change else { return false };
        if settings.max_accumulated.is_some_and(|most| span.accumulated + change > most) {
            return false;
        }
        change < settings.threshold
    }
}

/// Relative change between two residuals; `None` if it cannot be told.
fn change_between(previous: &Tensor, current: &Tensor) -> Option<f32> {
    if previous.dims() != current.dims() {
        return None;
    }
    let change = refrain_ops::relative_l1(previous, current).ok()?;
    // Zero means equal residuals, or that both have vanished: then there is nothing to go by.
    let vanished =
        change == 0.0 && previous.abs().and_then(|size| size.max_all()).and_then(|m| scalar(&m)).ok()? == 0.0;
    (change.is_finite() && !vanished).then_some(change)
}

fn scalar(tensor: &Tensor) -> TensorResult<f32> {
    tensor.to_dtype(candle_core::DType::F32)?.to_scalar()
}

impl Policy for DbCache {
    fn name(&self) -> String {
        let (settings, default) = (&self.settings, Settings::default());
        let text = |value: Option<usize>| value.map(|value| value.to_string());
        spelling(
            DESCRIPTOR.name,
            &[
                ("threshold", unless(settings.threshold, default.threshold)),
                ("fn", unless(settings.front, default.front)),
                ("bn", unless(settings.back, default.back)),
                ("warmup", unless(settings.warmup, default.warmup)),
                ("max_consecutive", text(settings.max_consecutive)),
                ("max_cached", text(settings.max_cached)),
                ("max_accumulated", settings.max_accumulated.map(|value| value.to_string())),
                ("order", unless(settings.order, default.order)),
                ("mask", settings.mask.as_ref().map(StepMask::to_string)),
            ],
        )
    }

    fn start(&mut self, header: &RunHeader) -> Result<(), CacheError> {
        self.spans.clear();
        self.mask = match &self.settings.mask {
            Some(mask) => mask.for_run(DESCRIPTOR.name, header.steps)?,
            None => Vec::new(),
        };
        Ok(())
    }

    fn spans(&self, _branch: Branch, blocks: Range<usize>) -> Vec<Range<usize>> {
        let middle = blocks.start + self.settings.front..blocks.end.saturating_sub(self.settings.back);
        if middle.is_empty() { Vec::new() } else { vec![middle] }
    }

    fn decide(&mut self, ask: &Ask<'_>) -> Action {
        let measured = match ask.evidence {
            Evidence::Span { stack_input, hidden } => hidden - stack_input,
            Evidence::Stage { hidden } if self.is_middle(ask.site) => Ok(hidden.clone()),
            _ => return Action::Compute,
        };
        let span = self.spans.entry(ask.site).or_default();
        let Ok(residual) = measured else { return Action::Compute };
        let change = span.computed.as_ref().and_then(|previous| change_between(previous, &residual));
        span.current = Some((residual, change));
        let Some(span) = self.spans.get(&ask.site).filter(|span| self.allows(span, change, ask.step)) else {
            return Action::Compute;
        };
        debug_assert!(span.computed.is_some(), "a change was measured against something");
        match taylor_coefficients(Basis::Ladder, self.settings.order, ask.history.steps(), ask.step.index) {
            None => Action::Compute,
            Some(Coefficients::HOLD) => Action::Reuse,
            Some(weights) => Action::Forecast(weights),
        }
    }

    fn observe(&mut self, observation: &Observation<'_>) -> TensorResult<()> {
        let Some(span) = self.spans.get_mut(&observation.site) else { return Ok(()) };
        let Some((residual, change)) = span.current.take() else { return Ok(()) };
        if observation.computed {
            span.computed = Some(own(&residual)?);
            (span.consecutive, span.accumulated) = (0, 0.0);
        } else {
            span.consecutive += 1;
            span.cached += 1;
            span.accumulated += change.unwrap_or(0.0);
        }
        Ok(())
    }

    fn history_depth(&self, site: Site, step: Step) -> usize {
        if self.is_middle(site) && !step.is_last() { self.settings.order + 1 } else { 0 }
    }

    fn bytes(&self) -> usize {
        let held = self.spans.values().filter_map(|span| span.computed.as_ref());
        held.map(|tensor| tensor.elem_count() * tensor.dtype().size_in_bytes()).sum()
    }
}
