//! Foreign schedules as plans of the cache, and back.

use refrain_cache::{Plan, PlanHeader, Planned, RunHeader, Site};

use super::{ImportError, Schedule, SiteKind};

impl SiteKind {
    /// The site of the cache.
    pub fn site(self) -> Site {
        match self {
            Self::Attention(block) => Site::attention(block),
            Self::FeedForward(block) => Site::feed_forward(block),
            Self::Model => Site::model(),
        }
    }

    fn of(site: Site) -> Option<Self> {
        let block = usize::from(site.block);
        [Self::Attention(block), Self::FeedForward(block), Self::Model].into_iter().find(|kind| kind.site() == site)
    }
}

impl Schedule {
    /// The plan that the cache replays.
    ///
    /// # Errors
    /// A schedule that reuses before it computes, names a site twice, or is beyond a plan's limits.
    pub fn to_plan(&self, run: &RunHeader, provenance: &str) -> Result<Plan, ImportError> {
        let column = |index: usize| {
            let actions = self.compute.iter().map(|row| match row.get(index) {
                Some(false) => Planned::Reuse,
                _ => Planned::Compute,
            });
            actions.collect::<Vec<_>>()
        };
        let columns: Vec<(Site, Vec<Planned>)> =
            self.sites.iter().enumerate().map(|(index, kind)| (kind.site(), column(index))).collect();
        let run = RunHeader { steps: self.compute.len(), ..run.clone() };
        let header = PlanHeader { run, provenance: provenance.to_owned(), ..PlanHeader::default() };
        Ok(Plan::new(header, self.compute.len(), &columns)?)
    }

    /// The schedule of a plan's sites that ever skip. What is left out computes, there as here.
    ///
    /// # Errors
    /// A forecast, or a site that `format` has no name for.
    pub fn of_plan(plan: &Plan, format: &'static str) -> Result<Self, ImportError> {
        let inexpressible = |reason: String| ImportError::Inexpressible { format, reason };
        let mut columns = Vec::new();
        for (column, &site) in plan.sites().iter().enumerate() {
            let actions: Vec<Planned> = (0..plan.steps()).map(|step| plan.at(step, column)).collect();
            if let Some(step) = actions.iter().position(|action| matches!(action, Planned::Forecast(_))) {
                return Err(inexpressible(format!("step {} of {site} is forecast, not reused", step + 1)));
            }
            let skips = actions.contains(&Planned::Reuse);
            match SiteKind::of(site) {
                // What encloses the parts and never skips says nothing of them.
                Some(SiteKind::Model) if !skips => {}
                Some(kind) => columns.push((kind, actions)),
                None if skips => return Err(inexpressible(format!("it has no name for {site}"))),
                None => {}
            }
        }
        // Parts inside a skipped model are skipped with it, and it says so itself.
        if columns.iter().any(|(kind, _)| *kind == SiteKind::Model) {
            if let Some((kind, _)) =
                columns.iter().find(|(kind, actions)| *kind != SiteKind::Model && actions.contains(&Planned::Reuse))
            {
                return Err(inexpressible(format!("both {kind} and the whole model are reused")));
            }
            columns.retain(|(kind, _)| *kind == SiteKind::Model);
        }
        columns.sort_by_key(|(kind, _)| (kind.block(), matches!(kind, SiteKind::FeedForward(_))));
        let skipped = |action: &Planned| action.is_skip();
        let compute = (0..plan.steps())
            .map(|step| columns.iter().map(|(_, actions)| !actions.get(step).is_some_and(skipped)).collect())
            .collect();
        Ok(Self { sites: columns.iter().map(|(kind, _)| *kind).collect(), compute })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_becomes_a_plan_and_comes_back() {
        let schedule = Schedule {
            sites: vec![SiteKind::Attention(0), SiteKind::FeedForward(0)],
            compute: vec![vec![true, true], vec![false, true], vec![true, false]],
        };
        let plan = schedule.to_plan(&RunHeader::default(), "test").unwrap();
        assert_eq!((plan.header().run.steps, plan.letters(0), plan.letters(1)), (3, "CRC".into(), "CCR".into()));
        assert_eq!(Schedule::of_plan(&plan, "test").unwrap(), schedule);
    }

    #[test]
    fn a_reuse_before_anything_is_computed_is_refused() {
        let schedule = Schedule { sites: vec![SiteKind::Attention(0)], compute: vec![vec![false]] };
        assert!(schedule.to_plan(&RunHeader::default(), "test").unwrap_err().to_string().contains("computed 0"));
    }

    #[test]
    fn what_has_no_name_is_refused() {
        use Planned::{Compute, Forecast, Reuse};
        let plan = |site, action| Plan::new(PlanHeader::default(), 2, &[(site, vec![Compute, action])]).unwrap();
        let refused = |site, action| Schedule::of_plan(&plan(site, action), "test").unwrap_err().to_string();
        assert!(refused(Site::cross_attention(1), Reuse).contains("1.cross-attention"));
        assert!(refused(Site::attention(1), Forecast(refrain_cache::Coefficients::HOLD)).contains("forecast"));
        // What never skips needs no name.
        assert_eq!(Schedule::of_plan(&plan(Site::cross_attention(1), Compute), "test").unwrap().sites, []);
    }
}
