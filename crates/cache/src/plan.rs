//! The table `[step][site]` of actions: what a run did, or is to do.
//!
//! Every run can be written down as a plan, whatever policy decided it; a plan can be replayed,
//! inspected, hashed and edited. Adaptive decisions and forecasts are in it as executed, a forecast
//! with its coefficients, so that a replay needs neither thresholds nor the policy that made them.

mod compile;
mod file;
mod view;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::action::MAX_HISTORY;
use crate::policies::MotionLimits;
use crate::{CacheError, Coefficients, ModelValue, RunHeader, Site};

/// Most steps and sites of a plan; a file that asks for more is refused.
pub(crate) const MAX_STEPS: usize = 10_000;
const MAX_SITES: usize = 65_536;
/// Most cells of a table: 10 000 steps of 400 sites.
const MAX_CELLS: usize = 4_000_000;

/// What a site does at a step of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Planned {
    /// The site is not visited at this step.
    #[default]
    Absent,
    /// It computes.
    Compute,
    /// The value of the last computed step.
    Reuse,
    /// A linear combination of the last computed values.
    Forecast(Coefficients),
    /// It lies inside a site that is reused or forecast.
    Covered,
}

impl Planned {
    /// Whether no computation happens at the visit.
    pub fn is_skip(self) -> bool {
        matches!(self, Self::Reuse | Self::Forecast(_) | Self::Covered)
    }

    /// Values that must be remembered for it.
    pub(crate) fn reads(self) -> usize {
        match self {
            Self::Reuse => 1,
            Self::Forecast(coefficients) => coefficients.as_slice().len(),
            Self::Absent | Self::Compute | Self::Covered => 0,
        }
    }
}

/// What a plan was made for and by.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanHeader {
    /// The run that the plan fits.
    pub run: RunHeader,
    /// What a skip of the whole model adds up to.
    pub model_value: ModelValue,
    /// Who made it: the policy's spelling, a router, a search.
    pub provenance: String,
    /// For a run without end: the table is one period of frames, repeated within these limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeats: Option<MotionLimits>,
    /// The harm it does, where that was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Validation>,
}

/// Harm of a plan on pictures that nobody looked at while it was made: peak signal-to-noise ratios, in decibels, to the
/// uncached pictures of the same seeds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Validation {
    /// Pictures compared.
    pub pictures: usize,
    /// Half of them are at least this close.
    pub median: f64,
    /// All but one in twenty are at least this close.
    pub fifth_percentile: f64,
    /// The worst of them.
    pub worst: f64,
}

/// A plan: what every site does at every step.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    header: PlanHeader,
    /// Sorted, each once.
    sites: Vec<Site>,
    steps: usize,
    /// `[step][site]`.
    table: Vec<Planned>,
}

impl Plan {
    /// A plan from one column of actions per site; short columns are filled with `Absent`. Sites
    /// may come in any order.
    ///
    /// # Errors
    /// If a site comes twice, the table is too large, a column is longer than the plan, or a value
    /// is read before it was computed.
    pub fn new(header: PlanHeader, steps: usize, columns: &[(Site, Vec<Planned>)]) -> Result<Self, CacheError> {
        if steps > MAX_STEPS || columns.len() > MAX_SITES || steps.saturating_mul(columns.len()) > MAX_CELLS {
            return Err(invalid(format!("{steps} steps of {} sites are too many", columns.len())));
        }
        if !header.run.guidance_scale.is_finite() {
            return Err(invalid("the guidance scale is not finite".to_string()));
        }
        let mut order: Vec<usize> = (0..columns.len()).collect();
        order.sort_by_key(|&index| columns.get(index).map(|column| column.0));
        let mut plan = Self { header, sites: Vec::new(), steps, table: Vec::new() };
        for column in order.iter().filter_map(|&index| columns.get(index)) {
            if plan.sites.last() == Some(&column.0) {
                return Err(invalid(format!("site {} comes twice", column.0)));
            }
            check_column(column.0, &column.1, (steps, plan.header.repeats.is_some()))?;
            plan.sites.push(column.0);
        }
        for step in 0..steps {
            let columns = order.iter().filter_map(|&index| columns.get(index));
            plan.table.extend(columns.map(|column| column.1.get(step).copied().unwrap_or_default()));
        }
        Ok(plan)
    }

    /// What the plan was made for and by.
    pub fn header(&self) -> &PlanHeader {
        &self.header
    }

    /// The same decisions under another header.
    pub fn with_header(self, header: PlanHeader) -> Self {
        Self { header, ..self }
    }

    /// Steps, i.e. rows of the table.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// Sites, i.e. columns, sorted by branch, block and part.
    pub fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// The column of a site.
    pub fn column_of(&self, site: Site) -> Option<usize> {
        self.sites.binary_search(&site).ok()
    }

    /// The action in a cell; `Absent` outside the table.
    pub fn at(&self, step: usize, column: usize) -> Planned {
        if column >= self.sites.len() {
            return Planned::Absent;
        }
        self.table.get(step.saturating_mul(self.sites.len()).saturating_add(column)).copied().unwrap_or_default()
    }

    /// The actions of one step, in the order of [`Plan::sites`].
    pub fn row(&self, step: usize) -> &[Planned] {
        let width = self.sites.len();
        self.table.get(step.saturating_mul(width)..(step + 1).saturating_mul(width)).unwrap_or(&[])
    }

    /// Share of visits that compute, over the sites that enclose no other: 1 if nothing is skipped.
    pub fn computed_share(&self) -> f64 {
        let inner = self.sites.iter().any(|site| !site.part.encloses());
        let (mut computed, mut visits) = (0usize, 0usize);
        for step in 0..self.steps {
            for (site, action) in self.sites.iter().zip(self.row(step)) {
                if inner && site.part.encloses() || *action == Planned::Absent {
                    continue;
                }
                visits += 1;
                computed += usize::from(*action == Planned::Compute);
            }
        }
        if visits == 0 { 1.0 } else { computed as f64 / visits as f64 }
    }

    /// How many computed values of a column may still be read after `step`, for every step.
    pub(crate) fn liveness(&self, column: usize) -> Vec<u8> {
        if self.header.repeats.is_some() {
            // The end of a period reads what its beginning computed, and the other way round.
            let reads = (0..self.steps).map(|step| self.at(step, column).reads()).max().unwrap_or(0);
            return vec![reads as u8; self.steps];
        }
        let mut needed = vec![0u8; self.steps];
        let mut wanted = 0usize;
        for step in (0..self.steps).rev() {
            if let Some(slot) = needed.get_mut(step) {
                *slot = wanted as u8;
            }
            let action = self.at(step, column);
            if action == Planned::Compute {
                // One of the values wanted later is made here.
                wanted = wanted.saturating_sub(1);
            }
            wanted = wanted.max(action.reads());
        }
        needed
    }

    /// Checks that the plan was made for the run at hand; the precision of the weights may be another.
    ///
    /// # Errors
    /// [`CacheError::PlanMismatch`] that says what differs.
    pub fn check_matches(&self, here: &RunHeader) -> Result<(), CacheError> {
        let mut differences = self.header.run.differences(&here.in_dtype_of(&self.header.run));
        if differences.is_empty() && self.header.repeats.is_none() && self.steps > here.steps {
            differences.push(format!("the plan has {} steps and the run {}", self.steps, here.steps));
        }
        if differences.is_empty() {
            return Ok(());
        }
        Err(CacheError::PlanMismatch { differences: differences.join(", ") })
    }

    /// SHA-256, in hexadecimal, of all that decides the output: header and table without the
    /// provenance and the measured harm. Two policies that take the same decisions have plans of the same hash.
    pub fn hash(&self) -> String {
        let anonymous = PlanHeader { provenance: String::new(), validation: None, ..self.header.clone() };
        let mut hasher = Sha256::new();
        // A header of strings and numbers always serialises; were it not to, the table still counts.
        hasher.update(serde_json::to_string(&(&anonymous, &self.sites, self.steps)).unwrap_or_default());
        let (actions, coefficients) = file::encode(self);
        hasher.update(actions);
        hasher.update(coefficients);
        hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A column must not read what was never computed; one that repeats reads what the period before left.
fn check_column(site: Site, column: &[Planned], (steps, repeats): (usize, bool)) -> Result<(), CacheError> {
    if column.len() > steps {
        return Err(invalid(format!("site {site} has {} actions in {steps} steps", column.len())));
    }
    let mut computed = match repeats && column.contains(&Planned::Compute) {
        true => MAX_HISTORY,
        false => 0,
    };
    for (step, action) in column.iter().enumerate() {
        if action.reads() > computed {
            let reads = action.reads();
            return Err(invalid(format!("site {site} reads {reads} values at step {step}, but computed {computed}")));
        }
        computed += usize::from(*action == Planned::Compute);
    }
    Ok(())
}

/// A complaint about a plan that has no file yet; the reader puts the file's name in.
fn invalid(reason: String) -> CacheError {
    CacheError::BadPlan { path: PathBuf::from("plan"), reason }
}
