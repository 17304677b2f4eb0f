//! A router for another number of steps, by signal-to-noise ratio.
//!
//! What a model's output does depends on the noise level, not on the number of the step. So the computed steps of a router
//! lie at noise levels, as dense in the new schedule as in the old, and a forecast keeps its moments: the sum of its weights
//! and how far it extrapolates, relative to the distance, in the first and second power.
//!
//! Levels are compared as angles `atan(σ/α)`, the log-SNR `λ` in the form `atan(exp(-λ/2))`: the same order, and bounded
//! where λ runs to infinity at both ends.

use refrain_cache::{Coefficients, Plan, PlanHeader, Planned, RunHeader, Site};
use refrain_samplers::{Sampler, Schedule};

use crate::{TrainError, least_squares::solve_linear};

/// Powers of the distance that a forecast keeps: its sum, its slope, its curvature.
const MOMENTS: usize = 3;

/// The router of `source`, which was made for the schedule `from`, under the schedule `to` of another run. The share of
/// computed steps stays. `None` for a plan that is no plain table of compute, reuse and forecast.
///
/// # Errors
/// If the schedules do not have as many steps as their plans.
pub fn transfer(
    source: &Plan,
    from: &Schedule,
    (run, to): (&RunHeader, &Schedule),
) -> Result<Option<Plan>, TrainError> {
    for (schedule, steps) in [(from, source.steps()), (to, run.steps)] {
        if schedule.count() != steps {
            let expected = "as many as the plan's";
            return Err(TrainError::Range { what: "steps of a schedule", expected, value: schedule.count() as f64 });
        }
    }
    let (from, to) = (levels(from), levels(to));
    let mut columns: Vec<(Site, Vec<Planned>)> = Vec::new();
    for (index, &site) in source.sites().iter().enumerate() {
        let actions: Vec<Planned> = (0..source.steps()).map(|step| source.at(step, index)).collect();
        let Some(column) = Column::read(&actions, &from) else { return Ok(None) };
        columns.push((site, column.at(&to)));
    }
    let header = PlanHeader {
        run: run.clone(),
        provenance: format!(
            "{}, transferred from {} to {} steps by log-SNR",
            source.header().provenance,
            from.len(),
            to.len()
        ),
        validation: None,
        ..source.header().clone()
    };
    Ok(Some(Plan::new(header, run.steps, &columns)?))
}

/// The noise level of each step as an angle from `π/2` (noise) to 0.
fn levels(schedule: &Schedule) -> Vec<f64> {
    let flow = schedule.sampler() == Sampler::EulerFlow;
    let level = |&sigma: &f32| {
        let sigma = f64::from(sigma);
        // Flow matching mixes (1 - σ) of the picture with σ of noise; the others know σ as noise to signal.
        if flow { sigma.atan2(1.0 - sigma) } else { sigma.atan() }
    };
    schedule.sigmas().iter().take(schedule.count()).map(level).collect()
}

/// What one site does, by noise level.
struct Column {
    /// Levels of the computed steps, falling.
    computed: Vec<f64>,
    /// Steps of the schedule.
    steps: usize,
    /// Level and moments of each step that is not computed.
    skips: Vec<(f64, [f64; MOMENTS])>,
}

impl Column {
    fn read(actions: &[Planned], levels: &[f64]) -> Option<Self> {
        let mut column = Self { computed: Vec::new(), steps: actions.len(), skips: Vec::new() };
        for (action, &level) in actions.iter().zip(levels) {
            let weights = match action {
                Planned::Compute => {
                    column.computed.push(level);
                    continue;
                }
                Planned::Reuse => Coefficients::HOLD,
                Planned::Forecast(weights) => *weights,
                Planned::Absent | Planned::Covered => return None,
            };
            column.skips.push((level, moments(&weights, &column.computed, level)?));
        }
        (!column.computed.is_empty()).then_some(column)
    }

    /// The actions under other levels.
    fn at(&self, levels: &[f64]) -> Vec<Planned> {
        let computes = self.placed(levels);
        let mut known: Vec<f64> = Vec::new();
        let mut actions = Vec::with_capacity(levels.len());
        for (&level, computes) in levels.iter().zip(computes) {
            if computes {
                known.push(level);
                actions.push(Planned::Compute);
            } else {
                actions.push(self.forecast(&known, level).map_or(Planned::Reuse, Planned::Forecast));
            }
        }
        actions
    }

    /// Which steps compute: as large a share, as dense at each level.
    fn placed(&self, levels: &[f64]) -> Vec<bool> {
        let steps = levels.len();
        let share = self.computed.len() as f64 / self.steps.max(1) as f64;
        let count = ((share * steps as f64).round() as usize).clamp(1.min(steps), steps);
        let mut computes = vec![false; steps];
        let mut next = 0;
        for number in 0..count {
            let place = number as f64 * (self.computed.len() - 1) as f64 / (count - 1).max(1) as f64;
            let wanted = self.level_of(place);
            // Enough steps must be left for the rest.
            let candidates = next..=steps - (count - number);
            let distance = |step: &usize| levels.get(*step).map_or(f64::INFINITY, |level| (level - wanted).abs());
            let step = candidates.min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap_or(next);
            let step = if number == 0 { 0 } else { step };
            if let Some(slot) = computes.get_mut(step) {
                *slot = true;
            }
            next = step + 1;
        }
        computes
    }

    /// The level of the computed step number `place`, between two of them linear.
    fn level_of(&self, place: f64) -> f64 {
        let below = place.floor() as usize;
        let at = |index: usize| self.computed.get(index).or(self.computed.last()).copied().unwrap_or(0.0);
        at(below) + (at(below + 1) - at(below)) * (place - below as f64)
    }

    /// A forecast from the `known` levels with the moments of the nearest one.
    fn forecast(&self, known: &[f64], level: f64) -> Option<Coefficients> {
        let nearest = self.skips.iter().min_by(|a, b| (a.0 - level).abs().total_cmp(&(b.0 - level).abs()))?;
        let newest = *known.last()?;
        let span = level - newest;
        let used: Vec<f64> = known.iter().rev().take(MOMENTS).map(|known| (known - newest) / span).collect();
        if used.len() == 1 {
            return Coefficients::new(&[nearest.1[0] as f32]);
        }
        let matrix = (0..used.len()).map(|power| used.iter().map(|at| at.powi(power as i32)).collect()).collect();
        let right = nearest.1.iter().take(used.len()).copied().collect();
        let weights = solve_linear(matrix, right)?;
        Coefficients::new(&weights.iter().map(|&weight| weight as f32).collect::<Vec<_>>())
    }
}

/// Moments of a forecast's weights about the newest value, in units of the distance that is forecast: an exact polynomial
/// extrapolation has 1, 1, 1; plain reuse has 1, 0, 0.
fn moments(weights: &Coefficients, computed: &[f64], level: f64) -> Option<[f64; MOMENTS]> {
    let newest = *computed.last()?;
    let span = level - newest;
    let mut sums = [0.0; MOMENTS];
    for (&weight, known) in weights.as_slice().iter().zip(computed.iter().rev()) {
        let at = (known - newest) / span;
        for (power, sum) in sums.iter_mut().enumerate() {
            *sum += f64::from(weight) * at.powi(power as i32);
        }
    }
    sums.iter().all(|sum| sum.is_finite()).then_some(sums)
}

#[cfg(test)]
mod tests {
    use super::*;
    use refrain_samplers::{ScheduleRequest, SchedulerConfig};

    fn schedule(steps: usize) -> Schedule {
        let config = SchedulerConfig::from_json(
            r#"{"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
                "prediction_type": "v_prediction", "clip_sample": false, "timestep_spacing": "trailing"}"#,
        );
        Schedule::new(&config.unwrap(), &ScheduleRequest::new(Sampler::Ddim, steps)).unwrap()
    }

    fn run(steps: usize) -> RunHeader {
        RunHeader { steps, ..RunHeader::default() }
    }

    /// Dense at the noisy end, then every third step, with forecasts from up to three values.
    fn router() -> Plan {
        let (mut computed, mut actions) = (0, Vec::new());
        for step in 0..20 {
            if step < 6 || step % 3 == 0 {
                computed += 1;
                actions.push(Planned::Compute);
            } else {
                let weights: &[f32] = if computed > 2 { &[1.5, -0.75, 0.25] } else { &[1.0] };
                actions.push(Planned::Forecast(Coefficients::new(weights).unwrap()));
            }
        }
        Plan::new(PlanHeader { run: run(20), ..PlanHeader::default() }, 20, &[(Site::model(), actions)]).unwrap()
    }

    #[test]
    fn to_its_own_schedule_a_router_stays_as_it_is() {
        let (plan, schedule) = (router(), schedule(20));
        let same = transfer(&plan, &schedule, (&run(20), &schedule)).unwrap().unwrap();
        for step in 0..20 {
            match (plan.at(step, 0), same.at(step, 0)) {
                (Planned::Forecast(a), Planned::Forecast(b)) => {
                    for (a, b) in a.as_slice().iter().zip(b.as_slice()) {
                        assert!((a - b).abs() < 1e-4, "{step}: {a} {b}");
                    }
                }
                (a, b) => assert_eq!(a, b, "{step}"),
            }
        }
        assert!(same.header().provenance.contains("log-SNR"));
    }

    #[test]
    fn share_and_density_stay_under_any_number_of_steps() {
        let (plan, from) = (router(), schedule(20));
        for steps in [2, 5, 10, 13, 30, 50, 100] {
            let moved = transfer(&plan, &from, (&run(steps), &schedule(steps))).unwrap().unwrap();
            assert_eq!((moved.steps(), moved.at(0, 0)), (steps, Planned::Compute));
            let computed = |range: std::ops::Range<usize>| {
                range.filter(|&step| moved.at(step, 0) == Planned::Compute).count() as f64
            };
            assert!((moved.computed_share() - plan.computed_share()).abs() <= 0.5 / steps as f64 + 1e-9, "{steps}");
            if steps >= 10 {
                // The noisy 30 % compute nearly whole, the rest a third.
                let (early, late) = (computed(0..steps * 3 / 10), computed(steps * 3 / 10..steps));
                assert!(
                    early >= 0.8 * (steps * 3 / 10) as f64 && late <= 0.5 * steps as f64,
                    "{steps}: {early} {late}"
                );
            }
        }
    }

    #[test]
    fn an_exact_extrapolation_stays_exact() {
        // Weights that extrapolate parabolas on the old levels do so on the new ones.
        let (from, to) = (schedule(8), schedule(11));
        let old = levels(&from);
        let exact = |known: &[f64], level: f64| -> Vec<f32> {
            let weight = |at: usize| {
                (0..known.len())
                    .filter(|&other| other != at)
                    .map(|other| (level - known[other]) / (known[at] - known[other]))
                    .product::<f64>() as f32
            };
            (0..known.len()).map(weight).collect()
        };
        let actions: Vec<Planned> = (0..8)
            .map(|step| match step {
                3 | 5 | 7 => {
                    let known: Vec<f64> =
                        (0..step).rev().filter(|step| ![3, 5].contains(step)).take(3).map(|s| old[s]).collect();
                    Planned::Forecast(Coefficients::new(&exact(&known, old[step])).unwrap())
                }
                _ => Planned::Compute,
            })
            .collect();
        let header = PlanHeader { run: run(8), ..PlanHeader::default() };
        let plan = Plan::new(header, 8, &[(Site::model(), actions)]).unwrap();
        let moved = transfer(&plan, &from, (&run(11), &to)).unwrap().unwrap();
        let new = levels(&to);
        let mut known: Vec<f64> = Vec::new();
        let mut seen = 0;
        for (step, &level) in new.iter().enumerate() {
            let Planned::Forecast(weights) = moved.at(step, 0) else {
                known.insert(0, level);
                continue;
            };
            if known.len() < 3 {
                continue;
            }
            seen += 1;
            for (found, expected) in weights.as_slice().iter().zip(exact(&known[..3], level)) {
                assert!((found - expected).abs() < 2e-3 * expected.abs().max(1.0), "{step}: {found} {expected}");
            }
        }
        assert!(seen > 1);
    }

    #[test]
    fn what_is_no_plain_table_is_not_transferred() {
        let columns = [(Site::model(), vec![Planned::Compute, Planned::Absent])];
        let plan = Plan::new(PlanHeader { run: run(2), ..PlanHeader::default() }, 2, &columns).unwrap();
        assert!(transfer(&plan, &schedule(2), (&run(5), &schedule(5))).unwrap().is_none());
        assert!(transfer(&plan, &schedule(3), (&run(5), &schedule(5))).is_err());
    }
}
