//! Fixed interval per part: FORA (arXiv 2407.01425), and DeepCache's schedule (arXiv 2312.00858)
//! where the part is a U-Net's stage.
//!
//! FORA counts steps down: with `T` steps, step `i` computes when it is the first or when
//! `(T - 1 - i) % n == 0`. So the last step always computes, and the irregular gap, if any, lies at
//! the start, directly behind the first step. What is kept is the part's output before its gate.

use std::sync::Arc;

use super::options::{OptionDoc, Options};
use super::{Descriptor, spelling, unless};
use crate::{Action, Ask, CacheError, Part, Policy, RunHeader, Site, Step};

pub(super) const DESCRIPTOR: Descriptor = Descriptor {
    name: "interval",
    summary: "compute every n-th step, reuse in between; per part (FORA, arXiv 2407.01425)",
    options: OPTIONS,
    parse: |options| {
        let interval = Interval::read(&options, DEFAULT)?;
        Ok(Arc::new(move || Box::new(interval)))
    },
};

const DEFAULT: usize = 2;
const LONGEST: usize = 10_000;

pub(super) const OPTIONS: &[OptionDoc] = &[
    OptionDoc { key: "n", default: "2", help: "compute every n-th step" },
    OptionDoc { key: "attention", default: "n", help: "n for self-attention" },
    OptionDoc { key: "cross-attention", default: "n", help: "n for cross-attention" },
    OptionDoc { key: "feed-forward", default: "n", help: "n for feed-forward layers" },
    OptionDoc { key: "residual", default: "n", help: "n for residual blocks of a U-Net" },
    OptionDoc { key: "stage", default: "1", help: "n for whole stages of a U-Net (DeepCache)" },
    OptionDoc { key: "model", default: "1", help: "n for the whole model" },
];

/// Compute at regular steps, reuse in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    n: usize,
    attention: usize,
    cross_attention: usize,
    feed_forward: usize,
    residual: usize,
    stage: usize,
    model: usize,
}

impl Interval {
    /// The same interval for all parts of blocks.
    pub fn every(n: usize) -> Self {
        let n = n.max(1);
        Self { n, attention: n, cross_attention: n, feed_forward: n, residual: n, stage: 1, model: 1 }
    }

    pub(super) fn read(options: &Options, default: usize) -> Result<Self, CacheError> {
        let n = options.number("n", default, 1..=LONGEST)?;
        let read = |key: &str, default: usize| options.number(key, default, 1..=LONGEST);
        Ok(Self {
            n,
            attention: read("attention", n)?,
            cross_attention: read("cross-attention", n)?,
            feed_forward: read("feed-forward", n)?,
            residual: read("residual", n)?,
            stage: read("stage", 1)?,
            model: read("model", 1)?,
        })
    }

    pub(super) fn spelling(&self) -> [(&'static str, Option<String>); 7] {
        [
            ("n", unless(self.n, DEFAULT)),
            ("attention", unless(self.attention, self.n)),
            ("cross-attention", unless(self.cross_attention, self.n)),
            ("feed-forward", unless(self.feed_forward, self.n)),
            ("residual", unless(self.residual, self.n)),
            ("stage", unless(self.stage, 1)),
            ("model", unless(self.model, 1)),
        ]
    }

    /// Whether a part computes at a step of a run of `count` steps.
    pub fn computes(&self, part: Part, index: usize, count: usize) -> bool {
        let n = match part {
            Part::Attention => self.attention,
            Part::CrossAttention => self.cross_attention,
            Part::FeedForward => self.feed_forward,
            Part::Residual => self.residual,
            Part::Stage => self.stage,
            Part::Model => self.model,
            Part::Span { .. } => 1,
        };
        index == 0 || index + 1 >= count || (count - 1 - index).is_multiple_of(n)
    }
}

impl Policy for Interval {
    fn name(&self) -> String {
        spelling(DESCRIPTOR.name, &self.spelling())
    }

    fn start(&mut self, _header: &RunHeader) -> Result<(), CacheError> {
        Ok(())
    }

    fn decide(&mut self, ask: &Ask<'_>) -> Action {
        if self.computes(ask.site.part, ask.step.index, ask.step.count) { Action::Compute } else { Action::Reuse }
    }

    fn history_depth(&self, site: Site, step: Step) -> usize {
        // A value is read at once or never: a step that skips follows one that computed or skipped.
        usize::from(!step.is_last() && !self.computes(site.part, step.index + 1, step.count))
    }
}
