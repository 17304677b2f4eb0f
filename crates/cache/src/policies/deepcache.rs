//! DeepCache (arXiv 2312.00858): while it skips, a U-Net computes only its outermost layers.
//!
//! The skip connections of a U-Net nest; what lies below skip connection `b` is its stage `b` ([`Part::Stage`]). At most
//! steps the stage's value of an earlier step stands in for it, and only the layers above run: with branch 0 the first
//! convolution and the last layer of the way up. A model without stages computes everything.
//!
//! Steps that compute: every `n`-th from the first (the paper's uniform 1:N), or with a `center` the quadratic spacing of its
//! section 3.3, which puts more of them around the steps where features change most:
//! ```text
//! { floor(l^p + c) : l of k = ceil(T / n) even steps from (-c)^(1/p) to (T - c)^(1/p) }
//! ```
//! with odd powers, so that `(-c)^(1/p) = -(c^(1/p))`. In either case the guard adds the first and the last step.

use std::sync::Arc;

use super::options::{OptionDoc, Options};
use super::{Descriptor, spelling, unless};
use crate::{Action, Ask, CacheError, Part, Policy, RunHeader, Site, Step};

pub(super) const DESCRIPTOR: Descriptor = Descriptor {
    name: "deepcache",
    summary: "reuse a U-Net's deep features, compute its outermost layers (DeepCache, arXiv 2312.00858)",
    options: &[
        OptionDoc { key: "n", default: "3", help: "compute the deep part at every n-th step" },
        OptionDoc {
            key: "branch",
            default: "0",
            help: "skip connection below which all is reused; 0 is the outermost",
        },
        OptionDoc {
            key: "center",
            default: "none",
            help: "step around which more steps compute; none spaces them evenly",
        },
        OptionDoc { key: "power", default: "1.4", help: "how strongly they crowd around the center" },
    ],
    parse: |options| {
        let deep_cache = DeepCache::read(&options)?;
        Ok(Arc::new(move || Box::new(deep_cache.clone())))
    },
};

const LONGEST: usize = 10_000;

/// Computes a stage of a U-Net at some steps, reuses it in between.
#[derive(Debug, Clone, PartialEq)]
pub struct DeepCache {
    n: usize,
    branch: usize,
    center: Option<usize>,
    power: f64,
    /// By step: whether the stage computes.
    computes: Vec<bool>,
}

impl Default for DeepCache {
    fn default() -> Self {
        Self { n: 3, branch: 0, center: None, power: 1.4, computes: Vec::new() }
    }
}

impl DeepCache {
    /// The stage below skip connection `branch` computes at every `n`-th step.
    pub fn every(n: usize, branch: usize) -> Self {
        Self { n: n.max(1), branch, ..Self::default() }
    }

    fn read(options: &Options) -> Result<Self, CacheError> {
        let default = Self::default();
        Ok(Self {
            n: options.number("n", default.n, 1..=LONGEST)?,
            branch: options.number("branch", default.branch, 0..=1000)?,
            center: options.limit("center", 0..=LONGEST)?,
            power: options.number("power", default.power, 1.0..=10.0)?,
            computes: Vec::new(),
        })
    }

    /// Whether each step of a run computes the stage; the first and the last always do.
    pub fn schedule(&self, steps: usize) -> Vec<bool> {
        let mut computes: Vec<bool> = (0..steps).map(|index| index.is_multiple_of(self.n)).collect();
        if let Some(center) = self.center {
            computes.fill(false);
            for step in quadratic(steps, steps.div_ceil(self.n), center, self.power) {
                if let Some(step) = computes.get_mut(step) {
                    *step = true;
                }
            }
        }
        if let Some(first) = computes.first_mut() {
            *first = true;
        }
        if let Some(last) = computes.last_mut() {
            *last = true;
        }
        computes
    }

    fn concerns(&self, site: Site) -> bool {
        site.part == Part::Stage && usize::from(site.block) == self.branch
    }

    fn computes_at(&self, index: usize) -> bool {
        self.computes.get(index).copied().unwrap_or(true)
    }
}

/// At most `count` of `steps` steps, crowding around `center`.
fn quadratic(steps: usize, count: usize, center: usize, power: f64) -> Vec<usize> {
    let (steps, center) = (steps as f64, center as f64);
    let root = |offset: f64| offset.signum() * offset.abs().powf(1.0 / power);
    let (from, to) = (root(-center), root(steps - center));
    let stride = (to - from) / count.max(1) as f64;
    let place = |index: usize| from + stride * index as f64;
    (0..count).map(|index| (place(index).signum() * place(index).abs().powf(power) + center + 1e-9) as usize).collect()
}

impl Policy for DeepCache {
    fn name(&self) -> String {
        let default = Self::default();
        spelling(
            DESCRIPTOR.name,
            &[
                ("n", unless(self.n, default.n)),
                ("branch", unless(self.branch, default.branch)),
                ("center", self.center.map(|center| center.to_string())),
                ("power", unless(self.power, default.power)),
            ],
        )
    }

    fn start(&mut self, header: &RunHeader) -> Result<(), CacheError> {
        self.computes = self.schedule(header.steps);
        Ok(())
    }

    fn decide(&mut self, ask: &Ask<'_>) -> Action {
        if self.concerns(ask.site) && !self.computes_at(ask.step.index) { Action::Reuse } else { Action::Compute }
    }

    fn history_depth(&self, site: Site, step: Step) -> usize {
        // A value is read at once or never: a step that skips follows one that computed or skipped.
        usize::from(self.concerns(site) && !step.is_last() && !self.computes_at(step.index + 1))
    }
}
