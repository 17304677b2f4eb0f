//! A static policy written out as the plan it will execute, without running any model.

use std::collections::BTreeSet;

use super::{Plan, PlanHeader, Planned};
use crate::{Action, Ask, CacheError, Evidence, Guard, Part, Policy, RunHeader, Site, Step};

/// One site's column in the making.
struct Column {
    site: Site,
    actions: Vec<Planned>,
    /// Steps of the remembered values, newest first.
    history: Vec<usize>,
    skips_in_row: usize,
}

impl Plan {
    /// What `policy` will do under `guard` at the given sites of a model. Sites of the whole model
    /// and the policy's spans of blocks enclose the others; stages enclose nothing here, as their
    /// contents are not known.
    ///
    /// An adaptive policy has no evidence to go by here, and so computes everything.
    ///
    /// # Errors
    /// If the policy cannot run under the header, or the table would be too large.
    pub fn compile(
        policy: &mut dyn Policy,
        guard: &Guard,
        run: &RunHeader,
        sites: &[Site],
    ) -> Result<Self, CacheError> {
        policy.start(run)?;
        let mut columns: Vec<Column> = with_spans(policy, sites)
            .into_iter()
            .map(|site| Column { site, actions: Vec::new(), history: Vec::new(), skips_in_row: 0 })
            .collect();
        // Outer sites are asked before what they enclose.
        columns.sort_by_key(|column| (column.site.branch, std::cmp::Reverse(reach(column.site)), column.site));
        for index in 0..run.steps.min(super::MAX_STEPS) {
            let step = Step { index, count: run.steps, ..Step::default() };
            for place in 0..columns.len() {
                decide(policy, guard, &mut columns, place, step);
            }
        }
        let header = PlanHeader {
            run: run.clone(),
            model_value: policy.model_value(),
            provenance: policy.provenance(),
            repeats: None,
            validation: None,
        };
        let columns: Vec<_> = columns.into_iter().map(|column| (column.site, column.actions)).collect();
        Self::new(header, run.steps, &columns)
    }
}

/// The sites, and in each branch the spans that the policy wants to be asked about.
fn with_spans(policy: &dyn Policy, sites: &[Site]) -> BTreeSet<Site> {
    let mut all: BTreeSet<Site> =
        sites.iter().copied().filter(|site| !matches!(site.part, Part::Span { .. })).collect();
    let branches: BTreeSet<_> = all.iter().map(|site| site.branch).collect();
    let blocks = all.iter().filter(|site| site.part != Part::Model).map(|site| usize::from(site.block) + 1).max();
    for branch in branches {
        let spans = policy.spans(branch, 0..blocks.unwrap_or(0));
        all.extend(spans.into_iter().map(|span| Site::span(span).with_branch(branch)));
    }
    all
}

/// Blocks that a site encloses.
fn reach(site: Site) -> usize {
    match site.part {
        Part::Model => usize::MAX,
        Part::Span { end } => usize::from(end.saturating_sub(site.block)),
        _ => 0,
    }
}

fn encloses(outer: Site, inner: Site) -> bool {
    outer.branch == inner.branch
        && outer != inner
        && match outer.part {
            Part::Model => true,
            Part::Span { end } => inner.part != Part::Model && (outer.block..end).contains(&inner.block),
            _ => false,
        }
}

/// Enters the action of one site at one step; one that is covered already stays so.
fn decide(policy: &mut dyn Policy, guard: &Guard, columns: &mut [Column], place: usize, step: Step) {
    let Some(column) = columns.get(place).filter(|column| column.actions.len() == step.index) else { return };
    let site = column.site;
    let history = column.history.iter().copied().collect();
    let answer = match policy.decide(&Ask { site, step, history, evidence: Evidence::None }) {
        // A plan says where values come from; the features of a morph are not a plan's to hold.
        Action::Inject { base, .. } => *base,
        answer => answer,
    };
    let mut action = match answer {
        Action::Reuse => Planned::Reuse,
        Action::Forecast(weights) => Planned::Forecast(weights),
        Action::Compute | Action::Mix { .. } | Action::Inject { .. } => Planned::Compute,
    };
    let inside = columns.iter().filter(|other| other.site == site || encloses(site, other.site));
    let longest = inside.map(|other| other.skips_in_row).max().unwrap_or(0);
    if action.reads() > history.len() || guard.forbids_skip(step, longest) {
        action = Planned::Compute;
    }
    for other in columns.iter_mut().filter(|other| other.actions.len() == step.index) {
        if other.site == site {
            other.enter(policy, action, step);
        } else if action.is_skip() && encloses(site, other.site) {
            other.enter(policy, Planned::Covered, step);
        }
    }
}

impl Column {
    fn enter(&mut self, policy: &dyn Policy, action: Planned, step: Step) {
        self.actions.push(action);
        if action == Planned::Compute {
            self.history.insert(0, step.index);
            self.skips_in_row = 0;
        } else {
            self.skips_in_row += 1;
        }
        self.history.truncate(policy.history_depth(self.site, step));
    }
}
