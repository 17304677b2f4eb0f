//! The routers inside the binary: plans learned for the project's own models, found by what they were trained for and by
//! their budget. Their cards lie beside them: `weights/emoji/routers/README.md`, `weights/emoji-unet/routers/README.md`.

use refrain_cache::{Plan, PlanHeader, Planned, RunHeader, Site};

/// Budget that `--cache auto` takes: half of the time at a harm nobody sees (the routers' card has the figures).
pub(crate) const AUTO_BUDGET: f64 = 0.5;

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
    "emoji/routers/ddim-20-0.25",
    "emoji/routers/ddim-50-0.33",
    "emoji/routers/ddim-50-0.2",
    "emoji/routers/dpm++2m-20-0.65",
    "emoji/routers/dpm++2m-20-0.5",
    "emoji/routers/dpm++2m-20-0.35",
    "emoji/routers/ddim-25-unguided-0.5",
    "emoji/routers/ddim-25-unguided-0.35",
    "emoji-unet/routers/ddim-20-0.65",
    "emoji-unet/routers/ddim-20-0.5",
    "emoji-unet/routers/ddim-20-0.35",
];

/// The router for a run that computes most within the budget; where none is so thrifty, the thriftiest.
///
/// The arithmetic of the weights may differ from the training's: coefficients of outputs do not feel the last bits.
pub(crate) fn find(run: &RunHeader, budget: f64) -> Option<Plan> {
    let fitting = PLANS.iter().filter_map(|bytes| Plan::from_bytes(bytes).ok()).filter(|plan| {
        let trained = RunHeader { dtype: run.dtype.clone(), ..plan.header().run.clone() };
        trained == *run
    });
    let plan = fitting.max_by(|a, b| {
        let rank = |plan: &Plan| {
            let share = plan.computed_share();
            // Rounding to whole steps may leave a plan a little above its name.
            if share <= budget + 1e-6 { (1, share) } else { (0, -share) }
        };
        let ((a_fits, a_share), (b_fits, b_share)) = (rank(a), rank(b));
        a_fits.cmp(&b_fits).then(a_share.total_cmp(&b_share))
    })?;
    retargeted(&plan, run)
}

fn retargeted(plan: &Plan, run: &RunHeader) -> Option<Plan> {
    let header = PlanHeader { run: run.clone(), ..plan.header().clone() };
    let columns: Vec<(Site, Vec<Planned>)> = plan
        .sites()
        .iter()
        .enumerate()
        .map(|(column, &site)| (site, (0..plan.steps()).map(|step| plan.at(step, column)).collect()))
        .collect();
    Plan::new(header, plan.steps(), &columns).ok()
}

/// What the routers were trained for, for messages.
pub(crate) fn known() -> String {
    let mut runs: Vec<String> = Vec::new();
    for plan in PLANS.iter().filter_map(|bytes| Plan::from_bytes(bytes).ok()) {
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

    fn run_of(first: usize) -> RunHeader {
        Plan::from_bytes(PLANS[first]).unwrap().header().run.clone()
    }

    #[test]
    fn a_budget_takes_the_router_that_computes_most_within_it() {
        let run = run_of(2);
        let share = |budget| find(&run, budget).unwrap().computed_share();
        assert!((share(0.5) - 0.5).abs() < 1e-6, "{}", share(0.5));
        assert!((share(0.99) - 0.65).abs() < 1e-6);
        assert!((share(0.01) - 0.25).abs() < 1e-6);
    }

    #[test]
    fn other_runs_have_no_router_and_other_arithmetic_has() {
        let run = run_of(2);
        assert!(find(&RunHeader { steps: 19, ..run.clone() }, 0.5).is_none());
        assert!(find(&RunHeader { model: "other".into(), ..run.clone() }, 0.5).is_none());
        assert_eq!(find(&RunHeader { dtype: "bf16".into(), ..run }, 0.5).unwrap().header().run.dtype, "bf16");
    }
}
