//! TaylorSeer (arXiv 2503.06923): at skipped steps a part's value is not held but extrapolated from
//! the last computed ones.
//!
//! TaylorSeer keeps a ladder of differences. With values `F0, F1, F2` (newest first) computed `g1`
//! and then `g2` steps apart,
//! ```text
//! D1 = (F0 - F1) / g1,   D2 = (D1 - (F1 - F2) / g2) / g1,   F(x) = F0 + D1 x + D2 x²/2
//! ```
//! where `x` counts steps since `F0`. All of it is linear in the values, so the policy answers with
//! the [`Coefficients`] of that combination and stores nothing but the values themselves: order `O`
//! costs `O + 1` values per site, as the ladder does, but a plan of it replays without the ladder.
//!
//! Steps count upwards here, so gaps and `x` are positive and odd orders keep their sign; the
//! reference counts down, where both are negative. The ladder's second difference is centred half a
//! gap too late for a true second derivative at `F0`; `basis=newton` extrapolates the polynomial
//! through the values instead, exact for polynomials of the order on any gaps.

use std::sync::Arc;

use super::interval::{Interval, OPTIONS as INTERVAL_OPTIONS};
use super::options::OptionDoc;
use super::{Descriptor, spelling, unless};
use crate::{Action, Ask, CacheError, Coefficients, Part, Policy, RunHeader, Site, Step};

pub(super) const DESCRIPTOR: Descriptor = Descriptor {
    name: "taylor",
    summary: "as interval, but extrapolate in between (TaylorSeer, arXiv 2503.06923)",
    options: &OPTIONS,
    parse: |options| {
        let interval = Interval::read(&options, DEFAULT_INTERVAL)?;
        let order = options.number("order", DEFAULT_ORDER, 0..=HIGHEST_ORDER)?;
        let warmup = options.number("warmup", DEFAULT_WARMUP, 0..=10_000)?;
        let basis = options.choice("basis", Basis::Ladder, &[("ladder", Basis::Ladder), ("newton", Basis::Newton)])?;
        Ok(Arc::new(move || Box::new(Taylor { interval, order, warmup, basis, last_skip: [None; PARTS.len()] })))
    },
};

const DEFAULT_INTERVAL: usize = 2;
const DEFAULT_ORDER: usize = 1;
const DEFAULT_WARMUP: usize = 2;
const HIGHEST_ORDER: usize = 2;

const OPTIONS: [OptionDoc; INTERVAL_OPTIONS.len() + 3] = {
    let mut all = [OptionDoc { key: "order", default: "1", help: "0 holds, 1 extrapolates a line, 2 a parabola" };
        INTERVAL_OPTIONS.len() + 3];
    let mut index = 0;
    while index < INTERVAL_OPTIONS.len() {
        all[index] = INTERVAL_OPTIONS[index];
        index += 1;
    }
    all[index + 1] = OptionDoc { key: "warmup", default: "2", help: "steps at the start that all compute" };
    all[index + 2] =
        OptionDoc { key: "basis", default: "ladder", help: "ladder (TaylorSeer's) or newton (through the values)" };
    all
};

/// Parts that the policy may skip.
const PARTS: [Part; 6] =
    [Part::Attention, Part::CrossAttention, Part::FeedForward, Part::Residual, Part::Stage, Part::Model];

/// How values become an extrapolation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Basis {
    /// TaylorSeer's ladder of differences.
    #[default]
    Ladder,
    /// The polynomial through the values.
    Newton,
}

/// Weights of the values computed at `history` (step indices, newest first, falling) that
/// extrapolate to step `index`, of the highest order up to `order` (at most 2) that the history
/// allows. `None` without history.
pub fn taylor_coefficients(basis: Basis, order: usize, history: &[usize], index: usize) -> Option<Coefficients> {
    let newest = *history.first()?;
    let distance =
        |later: usize, earlier: usize| later.checked_sub(earlier).filter(|&gap| gap > 0).map(|gap| gap as f64);
    let x = distance(index, newest);
    let first = history.get(1).filter(|_| order >= 1).and_then(|&previous| distance(newest, previous));
    let (Some(x), Some(g1)) = (x, first) else { return Some(Coefficients::HOLD) };
    let second = history.get(1).zip(history.get(2)).filter(|_| order >= 2).and_then(|(&one, &two)| distance(one, two));
    let (held, slope) = (1.0 + x / g1, -x / g1);
    let Some(g2) = second else { return Coefficients::new(&[held as f32, slope as f32]) };
    // Both add a multiple of the second difference (F0 - F1)/g1 - (F1 - F2)/g2.
    let bend = match basis {
        Basis::Ladder => x * x / (2.0 * g1),
        Basis::Newton => x * (x + g1) / (g1 + g2),
    };
    let weights = [held + bend / g1, slope - bend * (1.0 / g1 + 1.0 / g2), bend / g2];
    Coefficients::new(&weights.map(|weight| weight as f32))
}

/// Compute at regular steps, extrapolate in between.
#[derive(Debug, Clone)]
pub struct Taylor {
    interval: Interval,
    order: usize,
    warmup: usize,
    basis: Basis,
    /// Last step that skips, for each of [`PARTS`].
    last_skip: [Option<usize>; PARTS.len()],
}

impl Taylor {
    fn computes(&self, part: Part, index: usize, count: usize) -> bool {
        index < self.warmup || self.interval.computes(part, index, count)
    }
}

impl Policy for Taylor {
    fn name(&self) -> String {
        let basis = (self.basis == Basis::Newton).then(|| "newton".to_string());
        let own = [("order", unless(self.order, DEFAULT_ORDER)), ("warmup", unless(self.warmup, DEFAULT_WARMUP))];
        let options: Vec<_> = self.interval.spelling().into_iter().chain(own).chain([("basis", basis)]).collect();
        spelling(DESCRIPTOR.name, &options)
    }

    fn start(&mut self, header: &RunHeader) -> Result<(), CacheError> {
        let last = |part| (0..header.steps).rev().find(|&index| !self.computes(part, index, header.steps));
        self.last_skip = PARTS.map(last);
        Ok(())
    }

    fn decide(&mut self, ask: &Ask<'_>) -> Action {
        let index = ask.step.index;
        if self.computes(ask.site.part, index, ask.step.count) {
            return Action::Compute;
        }
        match taylor_coefficients(self.basis, self.order, ask.history.steps(), index) {
            None => Action::Compute,
            Some(Coefficients::HOLD) => Action::Reuse,
            Some(weights) => Action::Forecast(weights),
        }
    }

    fn history_depth(&self, site: Site, step: Step) -> usize {
        let last = PARTS.iter().zip(self.last_skip).find(|(part, _)| **part == site.part).and_then(|(_, last)| last);
        if last.is_some_and(|last| step.index < last) { self.order + 1 } else { 0 }
    }
}
