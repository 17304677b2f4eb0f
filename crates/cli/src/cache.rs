//! `--cache` and its options, up to the context that a run asks.

use std::io::{Read as _, Write as _};
use std::path::Path;

use base64::Engine as _;
use refrain_cache::policies::{self, PolicySpec};
use refrain_cache::{CacheError, CheckOptions, Context, Guard, Plan, Policy, RunHeader};
use refrain_pipeline::{ImageRequest, Pipeline};
use refrain_train::transfer::transfer;

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
    /// A built-in router of the run.
    Router(Wanted),
    /// A router that was moved to the run's number of steps.
    Transferred {
        plan: Plan,
        budget: f64,
    },
}

/// Which built-in router.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Wanted {
    /// The one of a budget; there must be one.
    Budget(f64),
    /// The thriftiest without visible harm; without one all is computed.
    Harmless,
    /// As `Harmless`; without one, that of the budget for another number of steps.
    Transfer(f64),
}

impl CacheChoice {
    /// Reads `--cache` and `--cache-option`; an existing file is a plan.
    ///
    /// # Errors
    /// An unknown policy or option (exit 2), a plan that cannot be read.
    pub(crate) fn parse(mode: Option<&str>, options: &[String]) -> anyhow::Result<Self> {
        let mode = mode.unwrap_or("off");
        let options = options.join(",");
        // A replayed plan is a plan of its own to the rest, however it was spelled.
        let file = policies::plan_file(mode).unwrap_or(mode);
        let decider = if Path::new(file).is_file() || file.ends_with(".safetensors") {
            if !options.is_empty() {
                return Err(usage("--cache-option: a plan file has no options"));
            }
            Decider::Plan(load_plan(Path::new(file))?)
        } else if let (name @ ("auto" | "router"), inline) = mode.split_once(':').unwrap_or((mode, "")) {
            let options = if inline.is_empty() { &options } else { inline };
            Decider::Router(wanted(name, options)?)
        } else {
            let spec = policies::parse_with_options(mode, &options);
            let also = "auto, router or a plan file would do as well";
            Decider::Policy(spec.map_err(|error| match error {
                CacheError::UnknownPolicy { .. } => usage(format!("--cache {mode}: {error}; {also}")),
                other => usage(format!("--cache {mode}: {other}")),
            })?)
        };
        Ok(Self::of(decider))
    }

    fn of(decider: Decider) -> Self {
        Self { decider, checks: 0, error_budget: DEFAULT_BUDGET, measure_drift: false }
    }

    /// Replays a plan.
    pub(crate) fn replay(plan: Plan) -> Self {
        Self::of(Decider::Plan(plan))
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
        Ok(Self::replay(Plan::from_bytes(&bytes).map_err(|error| damaged(error.to_string()))?))
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

    /// What `auto` comes to for a run: a router by its budget, one moved from another number of steps, or `off`. Everything
    /// else stays as it is.
    ///
    /// # Errors
    /// A request that does not fit the model.
    pub(crate) fn settled(mut self, pipeline: &Pipeline, request: &ImageRequest) -> anyhow::Result<Self> {
        let Decider::Router(wanted @ (Wanted::Harmless | Wanted::Transfer(_))) = self.decider else { return Ok(self) };
        let run = pipeline.run_header(request)?;
        self.decider = match (routers::harmless(&run), wanted) {
            (Some(plan), _) => Decider::Router(Wanted::Budget(budget_of(&plan))),
            (None, Wanted::Transfer(budget)) => match moved(pipeline, request, (&run, budget))? {
                Some(plan) => Decider::Transferred { plan, budget },
                None => off()?,
            },
            (None, _) => off()?,
        };
        Ok(self)
    }

    /// In words, which router decides a run and what is known of its harm; `None` where none does.
    pub(crate) fn router(&self, run: &RunHeader) -> Option<String> {
        match &self.decider {
            Decider::Router(Wanted::Budget(budget)) => Some(routers::described(&routers::find(run, *budget)?)),
            Decider::Transferred { plan, .. } => {
                Some(format!("{}; {}", plan.header().provenance, routers::described(plan)))
            }
            _ => None,
        }
    }

    /// Whether a plan decides, so that equal settings execute equal plans.
    pub(crate) fn is_planned(&self) -> bool {
        !matches!(self.decider, Decider::Policy(_))
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
            Decider::Router(Wanted::Budget(budget)) => format!("router:budget={budget}"),
            Decider::Router(Wanted::Harmless) => "auto".to_owned(),
            Decider::Router(Wanted::Transfer(budget)) | Decider::Transferred { budget, .. } => {
                format!("auto:transfer+budget={budget}")
            }
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
            Decider::Plan(plan) | Decider::Transferred { plan, .. } => policies::follow(plan.clone()),
            Decider::Router(Wanted::Budget(budget)) => match routers::find(header, *budget) {
                Some(plan) => policies::follow(plan),
                None => {
                    let known = routers::known();
                    return Err(usage(format!(
                        "--cache router: none was trained for this run; there are routers for {known}"
                    )));
                }
            },
            Decider::Router(Wanted::Harmless | Wanted::Transfer(_)) => match routers::harmless(header) {
                Some(plan) => policies::follow(plan),
                None => policies::parse("off").map_err(usage_because)?.policy(),
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
        let guard = Guard { error_budget: budget, compute_last: !self.is_planned(), ..Guard::default() };
        let context =
            Context::new(policy, guard, header.clone()).map_err(|error| usage(format!("--cache: {error}")))?;
        Ok(context.with_drift(self.measure_drift).with_check(CheckOptions { count: self.checks, seed }))
    }
}

/// `budget=SHARE` of a router, `transfer` of `auto`.
fn wanted(mode: &str, options: &str) -> anyhow::Result<Wanted> {
    let (mut transfer, mut budget) = (false, None);
    for option in options.split([',', '+']).map(str::trim).filter(|option| !option.is_empty()) {
        let share = option.strip_prefix("budget=").and_then(|text| text.parse::<f64>().ok());
        match share.filter(|budget| *budget > 0.0 && *budget <= 1.0) {
            Some(share) => budget = Some(share),
            None if option == "transfer" && mode == "auto" => transfer = true,
            None => {
                let takes = if mode == "auto" { "transfer, and then budget=SHARE" } else { "budget=SHARE" };
                return Err(usage(format!(
                    "--cache {mode}: unknown option {option:?}; it takes {takes}, above 0 and at most 1"
                )));
            }
        }
    }
    match (mode, transfer, budget) {
        ("auto", true, budget) => Ok(Wanted::Transfer(budget.unwrap_or(routers::DEFAULT_BUDGET))),
        ("auto", false, None) => Ok(Wanted::Harmless),
        ("auto", false, Some(_)) => {
            Err(usage("--cache auto: the harm decides, not a budget: --cache router:budget=SHARE takes one"))
        }
        (_, _, budget) => Ok(Wanted::Budget(budget.unwrap_or(routers::DEFAULT_BUDGET))),
    }
}

/// A budget that names the router, short enough to type again.
fn budget_of(plan: &Plan) -> f64 {
    (plan.computed_share() * 1e4 - 1e-6).ceil() / 1e4
}

fn off() -> anyhow::Result<Decider> {
    Ok(Decider::Policy(policies::parse("off").map_err(usage_because)?))
}

/// The router of about the budget, from the nearest number of steps.
fn moved(
    pipeline: &Pipeline,
    request: &ImageRequest,
    (run, budget): (&RunHeader, f64),
) -> anyhow::Result<Option<Plan>> {
    let Some(source) = routers::nearest(run, budget) else { return Ok(None) };
    let from = pipeline.schedule(&ImageRequest { steps: source.steps(), ..request.clone() })?;
    Ok(transfer(&source, &from, (run, &pipeline.schedule(request)?))?)
}

fn load_plan(path: &Path) -> anyhow::Result<Plan> {
    Plan::load(path).map_err(|error| match error {
        CacheError::Io { path, source } => usage(format!("cannot read plan {}: {source}", path.display())),
        damaged => anyhow::Error::new(damaged),
    })
}
