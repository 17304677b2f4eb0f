//! Spot checks: now and then a skipped site computes after all, only to see how wrong its cached
//! value was. The run goes on with the cached value, as if nothing had been looked at.

use serde::Serialize;

use crate::{Site, Step};

/// How many skipped sites of a run to recompute, and which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CheckOptions {
    /// Checks per run; 0 for none.
    pub count: usize,
    /// Seed of the choice: the same seed checks the same places.
    pub seed: u64,
}

/// Result of one check.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Checked {
    /// The site.
    pub site: Site,
    /// Step, from 0.
    pub step: usize,
    /// ‖cached − computed‖₂ / ‖computed‖₂ of the remembered value.
    pub error: f32,
}

/// A moment drawn for a check: the step, and how far through its skipped sites.
struct Draw {
    step: usize,
    share: f64,
}

/// Decides which skips are checked, and keeps the results.
#[derive(Default)]
pub(crate) struct Checker {
    options: CheckOptions,
    draws: Vec<Draw>,
    next: usize,
    step: usize,
    skips_in_step: usize,
    usual_skips: usize,
    pub(crate) results: Vec<Checked>,
}

impl Checker {
    pub(crate) fn new(options: CheckOptions) -> Self {
        Self { options, ..Self::default() }
    }

    /// Checks asked for.
    pub(crate) fn wanted(&self) -> usize {
        self.options.count
    }

    /// Draws the moments of a run of `count` steps. Its first and last step skip nothing.
    pub(crate) fn start(&mut self, count: usize) {
        *self = Self::new(self.options);
        let mut state = self.options.seed;
        let candidates = count.saturating_sub(2).max(1) as f64;
        self.draws = (0..self.options.count)
            .map(|_| Draw { step: 1 + (uniform(&mut state) * candidates) as usize, share: uniform(&mut state) })
            .collect();
        self.draws.sort_by(|a, b| a.step.cmp(&b.step).then(a.share.total_cmp(&b.share)));
    }

    /// Whether the skip at hand is to be checked. A moment at which nothing is skipped passes on
    /// to the next skip.
    pub(crate) fn due(&mut self, step: Step) -> bool {
        let Some(draw) = self.draws.get(self.next) else { return false };
        if step.index != self.step {
            self.usual_skips = self.skips_in_step;
            self.step = step.index;
            self.skips_in_step = 0;
        }
        let ordinal = self.skips_in_step;
        self.skips_in_step += 1;
        let due = draw.step < step.index
            || (draw.step == step.index && ordinal >= (draw.share * self.usual_skips as f64) as usize);
        self.next += usize::from(due);
        due
    }
}

/// The next number in [0, 1) of the splitmix64 generator.
fn uniform(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    (mixed >> 11) as f64 / (1u64 << 53) as f64
}
