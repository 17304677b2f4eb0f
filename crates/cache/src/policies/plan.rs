//! Replay of a plan: a run's decisions without the policy that took them.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::options::OptionDoc;
use super::{Descriptor, Motion, spelling};
use crate::plan::Planned;
use crate::{Action, Ask, Branch, CacheError, ModelValue, Part, Plan, Policy, RunHeader, Site, Step};

pub(super) const DESCRIPTOR: Descriptor = Descriptor {
    name: "plan",
    summary: "replay a plan file, written by --emit-plan, a router or a search",
    options: &[OptionDoc { key: "file", default: "none", help: "the plan, *.plan.safetensors" }],
    parse: |options| {
        let Some(file) = options.text("file") else {
            return Err(options.bad("file", "", "a plan file, as in plan:fox.plan.safetensors".to_string()));
        };
        let replay = Replay { file: file.to_string(), ..Replay::new(Plan::load(Path::new(file))?) };
        Ok(Arc::new(move || replay.clone().into_policy()))
    },
};

/// The file that `plan:FILE` or `plan:file=FILE` names; none for another spelling.
pub fn plan_file(text: &str) -> Option<&str> {
    let (name, file) = text.split_once(':')?;
    (name == DESCRIPTOR.name).then(|| file.strip_prefix("file=").unwrap_or(file))
}

/// The policy that follows a plan, once through or, for one that repeats, in every period of a run without end.
pub fn follow(plan: Plan) -> Box<dyn Policy> {
    Replay::new(plan).into_policy()
}

/// The policy that replays a plan. A site or step that the plan does not name computes.
#[derive(Debug, Clone)]
pub struct Replay {
    plan: Arc<Plan>,
    /// Values to keep behind each step, for each column of the plan.
    liveness: Arc<Vec<Vec<u8>>>,
    file: String,
}

impl Replay {
    /// Replays a plan.
    pub fn new(plan: Plan) -> Self {
        let liveness = (0..plan.sites().len()).map(|column| plan.liveness(column)).collect();
        Self { plan: Arc::new(plan), liveness: Arc::new(liveness), file: String::new() }
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    fn into_policy(self) -> Box<dyn Policy> {
        match self.plan.header().repeats {
            Some(limits) => Box::new(Motion::following(self, limits)),
            None => Box::new(self),
        }
    }

    /// What a site does in a row of the table.
    pub(super) fn action(&self, row: usize, site: Site) -> Action {
        let column = self.plan.column_of(site);
        match column.map_or(Planned::Absent, |column| self.plan.at(row, column)) {
            Planned::Reuse => Action::Reuse,
            Planned::Forecast(weights) => Action::Forecast(weights),
            // A covered site that is asked after all lies in a site that the guard made compute.
            Planned::Absent | Planned::Compute | Planned::Covered => Action::Compute,
        }
    }

    /// Values of a site to keep behind a row of the table.
    pub(super) fn depth(&self, row: usize, site: Site) -> usize {
        let needed = self.plan.column_of(site).and_then(|column| self.liveness.get(column)?.get(row));
        needed.copied().map_or(0, usize::from)
    }
}

impl Policy for Replay {
    fn name(&self) -> String {
        // In memory a plan has no file; its hash says which it is.
        let text = if self.file.is_empty() { self.plan.hash().chars().take(12).collect() } else { self.file.clone() };
        spelling(DESCRIPTOR.name, &[("file", Some(text))])
    }

    fn start(&mut self, header: &RunHeader) -> Result<(), CacheError> {
        self.plan.check_matches(header)
    }

    fn spans(&self, branch: Branch, blocks: Range<usize>) -> Vec<Range<usize>> {
        let spans = self.plan.sites().iter().filter(|site| site.branch == branch).filter_map(|site| match site.part {
            Part::Span { end } => Some(usize::from(site.block)..usize::from(end)),
            _ => None,
        });
        spans.filter(|span| span.start >= blocks.start && span.end <= blocks.end).collect()
    }

    fn decide(&mut self, ask: &Ask<'_>) -> Action {
        self.action(ask.step.index, ask.site)
    }

    fn history_depth(&self, site: Site, step: Step) -> usize {
        self.depth(step.index, site)
    }

    fn provenance(&self) -> String {
        self.plan.header().provenance.clone()
    }

    fn model_value(&self) -> ModelValue {
        self.plan.header().model_value
    }
}
