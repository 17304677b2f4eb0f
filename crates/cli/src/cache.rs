//! `--cache` and its options, up to the context that a run asks.

use std::io::{Read as _, Write as _};
use std::path::Path;

use base64::Engine as _;
use refrain_cache::policies::{self, PolicySpec};
use refrain_cache::{CacheError, CheckOptions, Context, Guard, Plan, Policy, RunHeader};

use crate::errors::{usage, usage_because};
use crate::routers;

/// Sites that `--cache-check` recomputes when it gets no number.
pub(crate) const DEFAULT_CHECKS: &str = "8";
/// Relative error of a checked site beyond which the rest of the run computes in full.
pub(crate) const DEFAULT_BUDGET: f64 = 0.5;
/// Largest plan that a picture may carry, unpacked: far above any that fits into its text.
const LARGEST_EMBEDDED_PLAN: u64 = 64 << 20;

/// What decides when to compute, ready to start as many runs as there are pictures.
#[derive(Debug, Clone)]
pub(crate) struct CacheChoice {
    decider: Decider,
    checks: usize,
    error_budget: f64,
    measure_drift: bool,
}

#[derive(Debug, Clone)]
enum Decider {
    Policy(PolicySpec),
    Plan(Plan),
    /// The built-in router of the run; without one, `or_off` computes all.
    Router {
        budget: f64,
        or_off: bool,
    },
}

impl CacheChoice {
    /// Reads `--cache` and `--cache-option`; an existing file is a plan.
    ///
    /// # Errors
    /// An unknown policy or option (exit 2), a plan that cannot be read.
    pub(crate) fn parse(mode: Option<&str>, options: &[String]) -> anyhow::Result<Self> {
        let mode = mode.unwrap_or("off");
        let options = options.join(",");
        let decider = if Path::new(mode).is_file() || mode.ends_with(".safetensors") {
            if !options.is_empty() {
                return Err(usage("--cache-option: a plan file has no options"));
            }
            Decider::Plan(load_plan(Path::new(mode))?)
        } else if let (name @ ("auto" | "router"), inline) = mode.split_once(':').unwrap_or((mode, "")) {
            let options = if inline.is_empty() { &options } else { inline };
            Decider::Router { budget: router_budget(name, options)?, or_off: name == "auto" }
        } else {
            let spec = policies::parse_with_options(mode, &options);
            let also = "auto, router or a plan file would do as well";
            Decider::Policy(spec.map_err(|error| match error {
                CacheError::UnknownPolicy { .. } => usage(format!("--cache {mode}: {error}; {also}")),
                other => usage(format!("--cache {mode}: {other}")),
            })?)
        };
        Ok(Self { decider, checks: 0, error_budget: DEFAULT_BUDGET, measure_drift: false })
    }

    /// Replays a plan that a picture carries.
    ///
    /// # Errors
    /// A damaged text (exit 2).
    pub(crate) fn embedded(text: &str) -> anyhow::Result<Self> {
        let damaged = |why: String| usage(format!("the plan inside the picture is damaged: {why}"));
        let packed =
            base64::engine::general_purpose::STANDARD.decode(text).map_err(|error| damaged(error.to_string()))?;
        let mut bytes = Vec::new();
        flate2::read::ZlibDecoder::new(packed.as_slice())
            .take(LARGEST_EMBEDDED_PLAN)
            .read_to_end(&mut bytes)
            .map_err(|error| damaged(error.to_string()))?;
        let plan = Plan::from_bytes(&bytes).map_err(|error| damaged(error.to_string()))?;
        Ok(Self { decider: Decider::Plan(plan), checks: 0, error_budget: DEFAULT_BUDGET, measure_drift: false })
    }

    /// Recomputes `checks` skipped sites per picture, and gives up skipping beyond the error budget.
    ///
    /// # Errors
    /// A budget that is no positive number (exit 2).
    pub(crate) fn with_checks(mut self, checks: usize, error_budget: Option<f64>) -> anyhow::Result<Self> {
        let budget = error_budget.unwrap_or(DEFAULT_BUDGET);
        if budget.is_nan() || budget <= 0.0 {
            return Err(usage(format!("--cache-budget must be above 0, got {budget}")));
        }
        (self.checks, self.error_budget) = (checks, budget);
        Ok(self)
    }

    /// Measures drift for the report.
    pub(crate) fn with_drift(mut self, measure: bool) -> Self {
        self.measure_drift = measure;
        self
    }

    /// Whether nothing can be skipped.
    pub(crate) fn is_off(&self) -> bool {
        matches!(&self.decider, Decider::Policy(spec) if spec.is_off())
    }

    /// The policy with its options, or `plan`.
    pub(crate) fn spelling(&self) -> String {
        match &self.decider {
            Decider::Policy(spec) => spec.to_string(),
            Decider::Plan(_) => "plan".to_owned(),
            Decider::Router { or_off: true, budget } if *budget == routers::AUTO_BUDGET => "auto".to_owned(),
            Decider::Router { or_off: true, budget } => format!("auto:budget={budget}"),
            Decider::Router { or_off: false, budget } => format!("router:budget={budget}"),
        }
    }

    /// The plan to be replayed, as text for a picture.
    ///
    /// # Errors
    /// Never for a plan that was read.
    pub(crate) fn embeddable_plan(&self) -> anyhow::Result<Option<String>> {
        let Decider::Plan(plan) = &self.decider else { return Ok(None) };
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(&plan.to_bytes()?)?;
        Ok(Some(base64::engine::general_purpose::STANDARD.encode(encoder.finish()?)))
    }

    /// A fresh policy for a run.
    ///
    /// # Errors
    /// No router for the run, where one was asked for (exit 2).
    pub(crate) fn policy(&self, header: &RunHeader) -> anyhow::Result<Box<dyn Policy>> {
        Ok(match &self.decider {
            Decider::Policy(spec) => spec.policy(),
            Decider::Plan(plan) => policies::follow(plan.clone()),
            Decider::Router { budget, or_off } => match routers::find(header, *budget) {
                Some(plan) => policies::follow(plan),
                None if *or_off => policies::parse("off").map_err(usage_because)?.policy(),
                None => {
                    let known = routers::known();
                    return Err(usage(format!(
                        "--cache router: none was trained for this run; there are routers for {known}"
                    )));
                }
            },
        })
    }

    /// The context of one picture. `watched`: a report or an executed plan is wanted even when nothing is skipped.
    ///
    /// # Errors
    /// A policy that does not fit the run, for example a plan made for another model (exit 2).
    pub(crate) fn context(&self, header: &RunHeader, seed: u64, watched: bool) -> anyhow::Result<Context> {
        if self.is_off() && !watched {
            return Ok(Context::off());
        }
        let policy = self.policy(header)?;
        let budget = (self.checks > 0).then_some(self.error_budget as f32);
        // A plan says what it does at every step, the last one included: what it says is what happens.
        let planned = matches!(&self.decider, Decider::Plan(_) | Decider::Router { .. });
        let guard = Guard { error_budget: budget, compute_last: !planned, ..Guard::default() };
        let context =
            Context::new(policy, guard, header.clone()).map_err(|error| usage(format!("--cache: {error}")))?;
        Ok(context.with_drift(self.measure_drift).with_check(CheckOptions { count: self.checks, seed }))
    }
}

/// `budget=SHARE` of a router.
fn router_budget(mode: &str, options: &str) -> anyhow::Result<f64> {
    if options.is_empty() {
        return Ok(routers::AUTO_BUDGET);
    }
    let budget = options.strip_prefix("budget=").and_then(|text| text.parse::<f64>().ok());
    budget.filter(|budget| *budget > 0.0 && *budget <= 1.0).ok_or_else(|| {
        usage(format!("--cache {mode}: unknown option {options:?}; it takes budget=SHARE, above 0 and at most 1"))
    })
}

fn load_plan(path: &Path) -> anyhow::Result<Plan> {
    Plan::load(path).map_err(|error| match error {
        CacheError::Io { path, source } => usage(format!("cannot read plan {}: {source}", path.display())),
        damaged => anyhow::Error::new(damaged),
    })
}
