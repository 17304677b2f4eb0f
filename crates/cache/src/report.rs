//! What the cache did in a run: counts, drift, seconds, bytes, and what looks wrong.

mod table;

use serde::Serialize;

use crate::check::Checked;
use crate::ledger::{Ledger, Record};
use crate::plan::Planned;

/// Skips in a row, from a site's first computation on, that make it "never recomputed".
const NEVER_RECOMPUTED: usize = 3;

/// Account of the run so far.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Report {
    /// The policy's canonical spelling.
    pub policy: String,
    /// Model evaluations of the whole run.
    pub steps: usize,
    /// Model evaluations begun.
    pub steps_done: usize,
    /// Share of visits that computed, over the sites that enclose no other.
    pub computed_share: f64,
    /// One row per kind of part.
    pub groups: Vec<Group>,
    /// Seconds that skipped sites had needed at their mean measured cost: the model of the saving.
    pub seconds_predicted: f64,
    /// The same less what skipping itself cost: cached values, decisions, storage.
    pub seconds_saved: f64,
    /// Seconds spent on decisions, evidence and storage.
    pub seconds_overhead: f64,
    /// Bytes of features held now, for policies to read.
    pub bytes_held: usize,
    /// Most bytes held at any time, the policy's own evidence included.
    pub bytes_peak: usize,
    /// Most bytes held only to measure drift; 0 when it is not measured.
    pub bytes_measuring: usize,
    /// Visits at which the guard overruled a skip.
    pub guarded: usize,
    /// Why the rest of the run computed in full, if it did.
    pub fallback: Option<String>,
    /// Spot checks asked for.
    pub checks_wanted: usize,
    /// Spot checks done.
    pub checks: Vec<Checked>,
    /// What looks wrong, in words.
    pub warnings: Vec<String>,
}

/// All sites of one kind of part.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Group {
    /// `attention`, `cross-attention`, `feed-forward`, `residual`, `stage`, `span` or `model`.
    pub part: &'static str,
    /// Sites of the kind.
    pub sites: usize,
    /// Visits that computed.
    pub computed: usize,
    /// Visits that returned the last computed value.
    pub reused: usize,
    /// Visits that returned a combination of computed values.
    pub forecast: usize,
    /// Visits whose value was blended with the features of a morph's endpoints, however it came about.
    pub injected: usize,
    /// Visits that did not happen because an outer site was skipped.
    pub covered: usize,
    /// Relative L1 between successive computed values; `None` if it was not measured.
    pub drift: Option<Percentiles>,
    /// Seconds of all computations, with all that lies inside.
    pub seconds_computed: f64,
    /// As [`Report::seconds_predicted`], for skips of these sites themselves.
    pub seconds_predicted: f64,
    /// The same less the seconds spent on the cached values.
    pub seconds_saved: f64,
}

/// Order statistics of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Percentiles {
    /// Half of the sample lies at or below.
    pub p50: f32,
    /// Nine tenths lie at or below.
    pub p90: f32,
    /// 99 % lie at or below.
    pub p99: f32,
}

impl Percentiles {
    /// Nearest-rank percentiles; `None` for an empty sample.
    fn of(mut sample: Vec<f32>) -> Option<Self> {
        sample.sort_by(f32::total_cmp);
        let rank = |share: f64| {
            let rank = (share * sample.len() as f64).ceil() as usize;
            sample.get(rank.saturating_sub(1)).copied()
        };
        Some(Self { p50: rank(0.5)?, p90: rank(0.9)?, p99: rank(0.99)? })
    }
}

impl Report {
    /// Fills in all that follows from the ledger.
    pub(crate) fn count(&mut self, ledger: &Ledger) {
        let (mut computed, mut visits) = (0, 0);
        for record in ledger.records() {
            let group = match self.groups.iter_mut().position(|group| group.part == record.site.part.group()) {
                Some(index) => index,
                None => {
                    self.groups.push(Group { part: record.site.part.group(), ..Group::default() });
                    self.groups.len() - 1
                }
            };
            let Some(group) = self.groups.get_mut(group) else { continue };
            let counts = group.add(record);
            if record.is_leaf() {
                computed += counts.0;
                visits += counts.1;
            }
        }
        for group in &mut self.groups {
            let of_group = ledger.records().iter().filter(|record| record.site.part.group() == group.part);
            group.drift = Percentiles::of(of_group.flat_map(|record| record.drift.iter().copied()).collect());
        }
        self.computed_share = if visits == 0 { 1.0 } else { computed as f64 / visits as f64 };
        self.seconds_predicted = self.groups.iter().map(|group| group.seconds_predicted).sum();
        self.seconds_saved = self.seconds_predicted - self.seconds_overhead;
        self.warn(ledger);
    }

    fn warn(&mut self, ledger: &Ledger) {
        let skipped = self.groups.iter().any(|group| group.reused + group.forecast > 0);
        if !skipped && self.policy != "off" && self.steps_done > 1 {
            self.warnings.push(format!("inert: {} never skipped anything", self.policy));
        }
        let stale: Vec<&Record> = ledger.records().iter().filter(|record| never_recomputed(record)).collect();
        if let Some(first) = stale.first() {
            let others = match stale.len() - 1 {
                0 => String::new(),
                1 => " and 1 other".to_string(),
                more => format!(" and {more} others"),
            };
            self.warnings.push(format!("never recomputed between the first and the last step: {}{others}", first.site));
        }
        if self.checks.len() < self.checks_wanted {
            let (done, wanted) = (self.checks.len(), self.checks_wanted);
            self.warnings.push(format!("{done} of {wanted} checks done, for want of skips to check"));
        }
    }
}

/// Whether all steps between the first and the last were skipped, and there were a few.
fn never_recomputed(record: &Record) -> bool {
    let between = record.actions.len().saturating_sub(1);
    let between = record.actions.get(1..between).unwrap_or(&[]);
    // A covered site is its outer site's concern.
    let own = between.iter().any(|action| matches!(action, Planned::Reuse | Planned::Forecast(_)));
    own && between.len() >= NEVER_RECOMPUTED && !between.contains(&Planned::Compute)
}

impl Group {
    /// Adds a site; returns its (computed, all) visits.
    fn add(&mut self, record: &Record) -> (usize, usize) {
        let count = |wanted: fn(&Planned) -> bool| record.actions.iter().filter(|action| wanted(action)).count();
        let computed = count(|action| *action == Planned::Compute);
        let reused = count(|action| *action == Planned::Reuse);
        let forecast = count(|action| matches!(action, Planned::Forecast(_)));
        let covered = count(|action| *action == Planned::Covered);
        self.sites += 1;
        self.computed += computed;
        self.reused += reused;
        self.forecast += forecast;
        self.covered += covered;
        self.injected += record.injections;
        self.seconds_computed += record.compute_seconds;
        if record.computations > 0 {
            let mean = record.compute_seconds / record.computations as f64;
            let predicted = mean * (reused + forecast) as f64;
            self.seconds_predicted += predicted;
            self.seconds_saved += predicted - record.skip_seconds;
        }
        (computed, computed + reused + forecast + covered)
    }
}
