//! A choice of steps as a plan of the cache.

use refrain_cache::{Coefficients, Plan, PlanHeader, Planned, RunHeader, Site};

use super::StepPlan;
use crate::TrainError;

impl StepPlan {
    /// The plan that the cache replays: one column, the whole model.
    ///
    /// # Errors
    /// If the table is beyond a plan's limits.
    pub fn to_plan(&self, run: &RunHeader, provenance: &str) -> Result<Plan, TrainError> {
        let actions = self.forecasts.iter().map(|forecast| match forecast {
            None => Planned::Compute,
            Some(weights) if *weights == Coefficients::HOLD => Planned::Reuse,
            Some(weights) => Planned::Forecast(*weights),
        });
        let header = PlanHeader { run: run.clone(), provenance: provenance.into(), ..PlanHeader::default() };
        Ok(Plan::new(header, self.forecasts.len(), &[(Site::model(), actions.collect())])?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_steps_become_forecasts_of_the_model() {
        let weights = Coefficients::new(&[1.5, -0.5]).unwrap();
        let steps = StepPlan { forecasts: vec![None, None, Some(weights), Some(Coefficients::HOLD), None] };
        let run = RunHeader { steps: 5, ..RunHeader::default() };
        let plan = steps.to_plan(&run, "test").unwrap();
        let column: Vec<Planned> = (0..5).map(|step| plan.at(step, 0)).collect();
        use Planned::{Compute, Forecast, Reuse};
        assert_eq!(column, [Compute, Compute, Forecast(weights), Reuse, Compute]);
        assert_eq!(steps.computed(), 3);
    }
}
