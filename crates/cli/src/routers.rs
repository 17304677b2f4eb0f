//! The routers inside the binary: plans learned for the project's own models, found by what they were trained for and by
//! their budget. Their cards lie beside them, in `weights/*/routers/README.md`.

use refrain_cache::{Plan, PlanHeader, RunHeader, Validation};

/// Budget of `--cache router` when none is said.
pub(crate) const DEFAULT_BUDGET: f64 = 0.5;

/// Pictures that a router must have been validated on before it is taken unasked.
const ENOUGH_PICTURES: usize = 32;
/// Harm that nobody sees, in decibels to the uncached picture: half of the pictures, 19 of 20, every one of them.
const INVISIBLE: [f64; 3] = [36.0, 30.0, 30.0];

macro_rules! embedded {
    ($($name:literal),+ $(,)?) => {
        &[$(include_bytes!(concat!(
            env!("CARGO_MANIFEST_DIR"), "/weights/", $name, ".plan.safetensors"
        ))),+]
    };
}

static PLANS: &[&[u8]] = embedded![
    "emoji/routers/ddim-10-0.8",
    "emoji/routers/ddim-10-0.6",
    "emoji/routers/ddim-20-0.65",
    "emoji/routers/ddim-20-0.5",
    "emoji/routers/ddim-20-0.35",
    "emoji/routers/ddim-20-0.3",
    "emoji/routers/ddim-20-0.25",
    "emoji/routers/ddim-50-0.5",
    "emoji/routers/ddim-50-0.33",
    "emoji/routers/ddim-50-0.2",
    "emoji/routers/ddim-50-0.18",
    "emoji/routers/dpm++2m-20-0.65",
    "emoji/routers/dpm++2m-20-0.5",
    "emoji/routers/dpm++2m-20-0.35",
    "emoji/routers/ddim-25-unguided-0.5",
    "emoji/routers/ddim-25-unguided-0.35",
    "emoji-unet/routers/ddim-20-0.65",
    "emoji-unet/routers/ddim-20-0.5",
    "emoji-unet/routers/ddim-20-0.35",
    "emoji-unet/routers/ddim-25-unguided-0.35",
    "style-video/routers/stream-2-0.5",
];

fn all() -> impl Iterator<Item = Plan> {
    PLANS.iter().filter_map(|bytes| Plan::from_bytes(bytes).ok())
}

/// The routers for a run, whatever the precision of its weights.
fn fitting(run: &RunHeader) -> impl Iterator<Item = Plan> {
    all().filter(|plan| plan.header().run.in_dtype_of(run) == *run).map(|plan| {
        let header = PlanHeader { run: run.clone(), ..plan.header().clone() };
        plan.with_header(header)
    })
}

/// The router for a run that computes most within the budget; where none is so thrifty, the thriftiest.
pub(crate) fn find(run: &RunHeader, budget: f64) -> Option<Plan> {
    closest(fitting(run), budget)
}

fn closest(plans: impl Iterator<Item = Plan>, budget: f64) -> Option<Plan> {
    let rank = |plan: &Plan| {
        let share = plan.computed_share();
        // Rounding to whole steps may leave a plan a little above its name.
        if share <= budget + 1e-6 { (1, share) } else { (0, -share) }
    };
    plans.max_by(|a, b| {
        let ((a_fits, a_share), (b_fits, b_share)) = (rank(a), rank(b));
        a_fits.cmp(&b_fits).then(a_share.total_cmp(&b_share))
    })
}

/// The thriftiest router for a run that was proven to do no visible harm: what `--cache auto` takes.
pub(crate) fn harmless(run: &RunHeader) -> Option<Plan> {
    let proven = fitting(run).filter(|plan| plan.header().validation.is_some_and(invisible));
    proven.min_by(|a, b| a.computed_share().total_cmp(&b.computed_share()))
}

fn invisible(harm: Validation) -> bool {
    harm.pictures >= ENOUGH_PICTURES
        && [harm.median, harm.fifth_percentile, harm.worst].iter().zip(INVISIBLE).all(|(harm, limit)| *harm >= limit)
}

/// The router of about the budget for a run with another number of steps, the nearest there is: what `auto:transfer`
/// starts from.
pub(crate) fn nearest(run: &RunHeader, budget: f64) -> Option<Plan> {
    let steps = |plan: &Plan| plan.steps();
    let fits = |plan: &Plan| {
        let trained = &plan.header().run;
        RunHeader { steps: run.steps, ..trained.in_dtype_of(run) } == *run
    };
    let distance = |steps: usize| (steps as f64 / run.steps.max(1) as f64).ln().abs();
    let known = all().filter(fits).map(|plan| steps(&plan)).min_by(|a, b| distance(*a).total_cmp(&distance(*b)))?;
    closest(all().filter(fits).filter(|plan| steps(plan) == known), budget)
}

/// A plan's share and harm, for messages.
pub(crate) fn described(plan: &Plan) -> String {
    let share = format!("{:.0} % of the steps compute", 100.0 * plan.computed_share());
    match plan.header().validation {
        Some(harm) => format!(
            "{share}; {} held-out pictures: median {:.1} dB to the uncached ones, 5 % below {:.1} dB",
            harm.pictures, harm.median, harm.fifth_percentile
        ),
        None => format!("{share}; its harm was not measured"),
    }
}

/// What the routers were trained for, for messages.
pub(crate) fn known() -> String {
    let mut runs: Vec<String> = Vec::new();
    for plan in all() {
        let run = &plan.header().run;
        let text = format!("{} {} steps guidance {}", run.sampler, run.steps, run.guidance_scale);
        if !runs.contains(&text) {
            runs.push(text);
        }
    }
    format!("the project's own models with {}", runs.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The run of 20 DDIM steps of the built-in model.
    fn run() -> RunHeader {
        let fits = |run: &RunHeader| (run.sampler.as_str(), run.steps) == ("ddim", 20);
        all().map(|plan| plan.header().run.clone()).find(fits).unwrap()
    }

    #[test]
    fn every_router_in_the_binary_reads() {
        assert_eq!(all().count(), PLANS.len());
    }

    #[test]
    fn a_budget_takes_the_router_that_computes_most_within_it() {
        let share = |budget| find(&run(), budget).unwrap().computed_share();
        assert!((share(0.5) - 0.5).abs() < 1e-6, "{}", share(0.5));
        assert!((share(0.99) - 0.65).abs() < 1e-6);
        assert!((share(0.01) - 0.25).abs() < 1e-6);
    }

    #[test]
    fn other_runs_have_no_router_and_other_arithmetic_has() {
        let run = run();
        assert!(find(&RunHeader { steps: 19, ..run.clone() }, 0.5).is_none());
        assert!(find(&RunHeader { model: "other".into(), ..run.clone() }, 0.5).is_none());
        assert!(harmless(&RunHeader { guidance_scale: 3.5, ..run.clone() }).is_none());
        assert_eq!(find(&RunHeader { dtype: "bf16".into(), ..run }, 0.5).unwrap().header().run.dtype, "bf16");
    }

    #[test]
    fn auto_takes_the_thriftiest_whose_harm_is_invisible() {
        let chosen = harmless(&run()).unwrap();
        assert!(invisible(chosen.header().validation.unwrap()));
        for thriftier in fitting(&run()).filter(|plan| plan.computed_share() < chosen.computed_share()) {
            assert!(!thriftier.header().validation.is_some_and(invisible), "{}", described(&thriftier));
        }
        let good = Validation { pictures: 64, median: 36.0, fifth_percentile: 30.0, worst: 30.0 };
        assert!(invisible(good));
        for bad in [
            Validation { pictures: 8, ..good },
            Validation { median: 35.9, ..good },
            Validation { fifth_percentile: 29.9, ..good },
            Validation { worst: 29.9, ..good },
            Validation { median: f64::NAN, ..good },
        ] {
            assert!(!invisible(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_transfer_starts_from_the_nearest_number_of_steps() {
        for (steps, expected) in [(12, 10), (16, 20), (30, 20), (40, 50), (100, 50)] {
            assert_eq!(nearest(&RunHeader { steps, ..run() }, 0.5).unwrap().steps(), expected, "{steps}");
        }
        assert!(nearest(&RunHeader { sampler: "heun".into(), ..run() }, 0.5).is_none());
    }
}
