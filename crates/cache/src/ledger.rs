//! What every site did at every step, and which site lies inside which.
//!
//! Nesting is learnt, not declared: whatever is visited while a site computes lies inside it. When
//! the outer site is skipped later, the inner ones are entered as covered, so that counts and plans
//! speak of the whole model whatever was skipped.

use std::collections::HashMap;

use crate::Site;
use crate::plan::{MAX_STEPS, Planned};

/// Everything known of one site in the current run.
pub(crate) struct Record {
    pub(crate) site: Site,
    pub(crate) children: Vec<usize>,
    /// What it did, by step.
    pub(crate) actions: Vec<Planned>,
    /// Steps since it last computed.
    pub(crate) skips_in_row: usize,
    /// Seconds of all its computations, with all that lies inside, and their number.
    pub(crate) compute_seconds: f64,
    pub(crate) computations: usize,
    /// Seconds spent on returning cached values.
    pub(crate) skip_seconds: f64,
    /// Relative L1 between successive computed values.
    pub(crate) drift: Vec<f32>,
    /// Whether the policy ever wanted a value of it.
    pub(crate) wanted: bool,
    /// Visits whose value was blended with features of endpoints.
    pub(crate) injections: usize,
    is_inner: bool,
}

impl Record {
    fn new(site: Site) -> Self {
        Self {
            site,
            children: Vec::new(),
            actions: Vec::new(),
            skips_in_row: 0,
            compute_seconds: 0.0,
            computations: 0,
            skip_seconds: 0.0,
            drift: Vec::new(),
            wanted: false,
            injections: 0,
            is_inner: false,
        }
    }

    /// Whether no other site lies inside.
    pub(crate) fn is_leaf(&self) -> bool {
        self.children.is_empty()
    }

    fn enter(&mut self, step: usize, action: Planned) {
        let step = step.min(MAX_STEPS - 1);
        if self.actions.len() <= step {
            self.actions.resize(step + 1, Planned::Absent);
        }
        if let Some(slot) = self.actions.get_mut(step) {
            *slot = action;
        }
    }
}

/// Records of all sites, in the order of their first visit.
#[derive(Default)]
pub(crate) struct Ledger {
    records: Vec<Record>,
    index: HashMap<Site, usize>,
    open: Vec<usize>,
}

impl Ledger {
    /// Index of a site that is being visited.
    pub(crate) fn visit(&mut self, site: Site) -> usize {
        let next = self.records.len();
        let index = *self.index.entry(site).or_insert(next);
        if index == next {
            self.records.push(Record::new(site));
        }
        let parent = self.open.last().copied().filter(|&parent| parent != index);
        if let Some(parent) = parent
            && self.records.get(index).is_some_and(|record| !record.is_inner)
        {
            if let Some(record) = self.records.get_mut(index) {
                record.is_inner = true;
            }
            if let Some(outer) = self.records.get_mut(parent) {
                outer.children.push(index);
            }
        }
        index
    }

    /// The site's computation begins: what is visited until [`Ledger::close`] lies inside it.
    pub(crate) fn open(&mut self, index: usize) {
        self.open.push(index);
    }

    /// The innermost open computation ends.
    pub(crate) fn close(&mut self) {
        self.open.pop();
    }

    /// Enters a computation.
    pub(crate) fn computed(&mut self, index: usize, step: usize, seconds: f64) {
        if let Some(record) = self.records.get_mut(index) {
            record.enter(step, Planned::Compute);
            record.skips_in_row = 0;
            record.compute_seconds += seconds;
            record.computations += 1;
        }
    }

    /// Enters a cached value, and all inner sites as covered. Returns these.
    pub(crate) fn skipped(&mut self, index: usize, step: usize, action: Planned, seconds: f64) -> Vec<usize> {
        if let Some(record) = self.records.get_mut(index) {
            record.enter(step, action);
            record.skips_in_row += 1;
            record.skip_seconds += seconds;
        }
        let inner = self.inside(index);
        for &index in &inner {
            if let Some(record) = self.records.get_mut(index) {
                record.enter(step, Planned::Covered);
                record.skips_in_row += 1;
            }
        }
        inner
    }

    /// Enters as computed all sites inside one that was recomputed without their knowing.
    pub(crate) fn computed_inside(&mut self, index: usize, step: usize) {
        for index in self.inside(index) {
            if let Some(record) = self.records.get_mut(index) {
                record.enter(step, Planned::Compute);
                record.skips_in_row = 0;
            }
        }
    }

    /// Longest current run of skips among the site and all inside it.
    pub(crate) fn longest_skip(&self, index: usize) -> usize {
        let own = std::iter::once(index).chain(self.inside(index));
        own.filter_map(|index| self.records.get(index)).map(|record| record.skips_in_row).max().unwrap_or(0)
    }

    /// All sites inside one, at any depth.
    fn inside(&self, index: usize) -> Vec<usize> {
        let mut found = self.records.get(index).map(|record| record.children.clone()).unwrap_or_default();
        let mut next = 0;
        while let Some(&inner) = found.get(next) {
            if let Some(record) = self.records.get(inner) {
                found.extend_from_slice(&record.children);
            }
            next += 1;
        }
        found
    }

    /// A site's record.
    pub(crate) fn record(&self, index: usize) -> Option<&Record> {
        self.records.get(index)
    }

    /// A site's record.
    pub(crate) fn record_mut(&mut self, index: usize) -> Option<&mut Record> {
        self.records.get_mut(index)
    }

    /// All records, in the order of first visit.
    pub(crate) fn records(&self) -> &[Record] {
        &self.records
    }

    /// Steps entered so far.
    pub(crate) fn steps(&self) -> usize {
        self.records.iter().map(|record| record.actions.len()).max().unwrap_or(0)
    }
}
