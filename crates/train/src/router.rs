//! The learned table of a router (HarmoniCa, arXiv 2410.01723): a logit per step and site.

use refrain_cache::{Coefficients, Plan, PlanHeader, Planned, RunHeader, Site};
use refrain_samplers::noise;
use serde::{Deserialize, Serialize};

use crate::{TrainError, forecast};

/// Logits stay within ± this.
pub const LOGIT_LIMIT: f32 = 5.0;
/// Score at or below which a site reuses (τ of the paper).
pub const THRESHOLD: f32 = 0.1;

/// Which estimate of the image error weighs a step's loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proxy {
    /// No weights: step-wise denoising training alone.
    Uniform,
    /// The change of the final latents when caching is switched off at one step (as the paper writes λ).
    LeaveOneOut,
    /// The change when caching is switched on at a step on top of all earlier ones (as the released code does).
    Telescoping,
}

impl std::str::FromStr for Proxy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "uniform" => Ok(Self::Uniform),
            "leave-one-out" => Ok(Self::LeaveOneOut),
            "telescoping" => Ok(Self::Telescoping),
            _ => Err(format!("unknown proxy {text:?}; choose one of uniform, leave-one-out, telescoping")),
        }
    }
}

/// A table of logits, and of forecasts where there are any, with the run it was learned for.
#[derive(Clone, Debug, PartialEq)]
pub struct Router {
    /// The run.
    pub run: RunHeader,
    /// Columns.
    pub sites: Vec<Site>,
    /// `[step][site]`, first denoising step first. The first row never learns: nothing is remembered yet.
    pub logits: Vec<Vec<f32>>,
    /// Order of the forecast of a reused entry: 0 reuses the last computed value as it is.
    pub order: usize,
    /// `[step][site × parameters]`, see [`crate::forecast`]; empty rows for order 0.
    pub forecasts: Vec<Vec<f32>>,
}

impl Router {
    /// Fresh logits, N(0, 1) from `seed`, the first row fixed at the limit; forecasts that hold.
    ///
    /// # Errors
    /// If the table cannot be allocated.
    pub fn new(run: RunHeader, sites: Vec<Site>, (seed, order): (u64, usize)) -> Result<Self, TrainError> {
        let mut logits: Vec<Vec<f32>> = noise::counter(seed, &[run.steps, sites.len()])?.to_vec2()?;
        if let Some(first) = logits.first_mut() {
            first.fill(LOGIT_LIMIT);
        }
        let forecasts = vec![vec![0.0; sites.len() * forecast::parameters(order)]; run.steps];
        Ok(Self { run, sites, logits, order, forecasts })
    }

    /// The score of an entry, in 0..1: how much of it is computed.
    pub fn score(&self, step: usize, site: usize) -> f32 {
        self.logits.get(step).and_then(|row| row.get(site)).map_or(1.0, |&logit| sigmoid(logit))
    }

    /// Share of the cost (`shares`, one per site, of a whole evaluation) that computes when entries at or below
    /// `threshold` reuse. What is in no site always computes.
    pub fn computed_share(&self, threshold: f32, shares: &[f64]) -> f64 {
        let steps = self.logits.len().max(1) as f64;
        let saved: f64 = self
            .logits
            .iter()
            .map(|row| {
                let entries = row.iter().zip(shares);
                entries.filter(|(logit, _)| sigmoid(**logit) <= threshold).map(|(_, share)| share).sum::<f64>()
            })
            .sum();
        1.0 - saved / steps
    }

    /// The highest threshold below which no more than `budget` of the cost computes; `None` if even reusing everything
    /// costs more.
    pub fn threshold_for(&self, budget: f64, shares: &[f64]) -> Option<f32> {
        let mut scores: Vec<f32> = self.logits.iter().skip(1).flatten().map(|&logit| sigmoid(logit)).collect();
        scores.sort_by(f32::total_cmp);
        let fits = |score: f32| self.computed_share(score, shares) <= budget;
        let first = scores.partition_point(|&score| !fits(score));
        if fits(0.0) { Some(0.0) } else { scores.get(first).copied() }
    }

    /// The plan of hard decisions at a threshold: entries at or below it reuse, or forecast from what is remembered.
    ///
    /// # Errors
    /// If the table is beyond a plan's limits.
    pub fn plan(&self, threshold: f32, provenance: &str) -> Result<Plan, TrainError> {
        let columns: Vec<(Site, Vec<Planned>)> =
            self.sites.iter().enumerate().map(|(index, &site)| (site, self.column(index, threshold))).collect();
        let header = PlanHeader { run: self.run.clone(), provenance: provenance.into(), ..PlanHeader::default() };
        Ok(Plan::new(header, self.logits.len(), &columns)?)
    }

    fn column(&self, site: usize, threshold: f32) -> Vec<Planned> {
        let mut remembered = 0;
        let action = |step: usize| {
            if remembered == 0 || self.score(step, site) > threshold {
                remembered += 1;
                return Planned::Compute;
            }
            match self.coefficients(step, site, remembered) {
                Some(weights) => Planned::Forecast(weights),
                None => Planned::Reuse,
            }
        };
        (0..self.logits.len()).map(action).collect()
    }

    /// Weights of the `remembered` values in the forecast of an entry; `None` where it reuses the newest.
    pub fn coefficients(&self, step: usize, site: usize, remembered: usize) -> Option<Coefficients> {
        let parameters = forecast::parameters(self.order);
        let start = site * parameters;
        let row = self.forecasts.get(step)?.get(start..start + parameters).filter(|row| !row.is_empty())?;
        Coefficients::new(&forecast::weights(row, remembered))
    }
}

/// The logistic function.
pub fn sigmoid(logit: f32) -> f32 {
    1.0 / (1.0 + (-logit).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router() -> Router {
        let run = RunHeader { steps: 3, ..RunHeader::default() };
        let sites = vec![Site::attention(0), Site::feed_forward(0)];
        let logits = vec![vec![5.0, 5.0], vec![-4.0, 2.0], vec![-1.0, -3.0]];
        Router { run, sites, logits, order: 0, forecasts: vec![Vec::new(); 3] }
    }

    #[test]
    fn a_budget_finds_its_threshold() {
        let shares = [0.25, 0.5];
        let router = router();
        // Entries reuse in the order of their scores: (1, attention), (2, feed-forward), (2, attention), (1, feed-forward).
        for (budget, reused) in [(1.0, 0), (0.95, 1), (0.76, 2), (0.7, 3), (0.5, 4)] {
            let threshold = router.threshold_for(budget, &shares).unwrap();
            let plan = router.plan(threshold, "test").unwrap();
            let count = (0..3).flat_map(|step| plan.row(step)).filter(|action| action.is_skip()).count();
            assert_eq!(count, reused, "{budget}");
            assert!(router.computed_share(threshold, &shares) <= budget);
        }
        assert_eq!(router.threshold_for(0.2, &shares), None);
    }

    #[test]
    fn the_first_row_never_reuses() {
        let mut router = router();
        router.logits[0] = vec![-5.0; 2];
        let plan = router.plan(1.0, "test").unwrap();
        assert!(plan.row(0).iter().all(|action| *action == Planned::Compute));
    }

    #[test]
    fn a_forecast_combines_no_more_than_was_computed() {
        let mut router = router();
        router.order = 1;
        router.forecasts = vec![vec![0.0; 4], vec![0.0, 0.5, 0.0, 0.25], vec![0.1, 0.5, 0.0, 0.25]];
        router.logits[2] = vec![-5.0; 2];
        let plan = router.plan(THRESHOLD, "test").unwrap();
        let attention = plan.column_of(Site::attention(0)).unwrap();
        // One value is remembered at both later steps: the slope has nothing to go by.
        assert_eq!(plan.at(1, attention), Planned::Forecast(Coefficients::HOLD));
        assert_eq!(plan.at(2, attention), Planned::Forecast(Coefficients::new(&[1.1]).unwrap()));
        let feed_forward = plan.column_of(Site::feed_forward(0)).unwrap();
        assert_eq!(plan.at(1, feed_forward), Planned::Compute);
        assert_eq!(plan.at(2, feed_forward), Planned::Forecast(Coefficients::new(&[1.25, -0.25]).unwrap()));
    }

    #[test]
    fn fresh_logits_are_the_seeds() {
        let make = |seed| Router::new(router().run, router().sites, (seed, 0)).unwrap();
        assert_eq!(make(3), make(3));
        assert_ne!(make(3), make(4));
        assert_eq!(make(3).logits[0], [LOGIT_LIMIT; 2]);
    }
}
