//! `refrain train router`: learns when to compute, for a budget, and writes plans that `--cache FILE` replays.

mod curves;
mod harmonica;
mod options;
mod steps;
mod stream;

use std::path::{Path, PathBuf};

use refrain_cache::Plan;
use refrain_pipeline::{ImageRequest, LoadOptions, Pipeline};
use refrain_train::TrainError;
use refrain_train::on_pipeline::{Cost, site_costs, subject};

use crate::builtin::NamedModel;
use crate::errors::{interrupted, usage, usage_because};
use crate::events::{Console, Verbosity};
use crate::gen_image::collect_prompts;
use crate::gen_image::work::{DEFAULT_GUIDANCE, DEFAULT_STEPS};
use crate::{interrupt, machine, output};
pub(crate) use options::TrainRouterOptions;
use options::{CostUnit, Method};

/// Prompts to train on when none are given: none of them is among those that the routers are judged on.
const PROMPTS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/samples/prompts/router-training.txt"));

/// Trains and writes one plan per budget.
///
/// # Errors
/// A wrong call, a model that cannot be loaded, a loss that is not finite, or Ctrl-C.
pub(crate) fn run(options: &TrainRouterOptions, verbosity: Verbosity) -> anyhow::Result<()> {
    options.check()?;
    let outputs = outputs(options)?;
    let given = !options.prompt.is_empty() || options.prompt_file.is_some();
    let mut prompts =
        if given { collect_prompts(&options.prompt, options.prompt_file.as_deref())? } else { Vec::new() };
    for path in &outputs {
        output::prepare_file(path)?;
    }
    machine::set_threads(options.threads)?;
    interrupt::listen();
    let console = Console::new(verbosity, false, false);
    let began = std::time::Instant::now();
    if !options.stream.is_empty() {
        stream::train(options, &outputs, &console).map_err(stopped)?;
        console.note(&format!("trained in {:.0} s", began.elapsed().as_secs_f64()));
        return Ok(());
    }
    let model = NamedModel::find(Some(&options.model))?;
    let precision = options.dtype.parse().map_err(|error: refrain_ops::OpsError| usage_because(error))?;
    let request = request(options)?;
    let pipeline = Pipeline::load(&model.source, LoadOptions { precision })?;
    match pipeline.classes() {
        Some(_) if given => {
            return Err(usage("-p: this model draws classes, not prompts: leave -p and --prompt-file out"));
        }
        None if !given => {
            let known = PROMPTS.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
            prompts = known.map(str::to_owned).collect();
            console.note(&format!("no prompts given: training on the {} that come with the program", prompts.len()));
        }
        _ => {}
    }
    let cost = if options.cost == CostUnit::Time { Cost::Time } else { Cost::Flops };
    let costs = site_costs(&pipeline, &request, cost)?;
    let subject = subject(&pipeline, &request, &prompts, costs)?;
    match options.method {
        Method::Steps => steps::train(options, &subject, &outputs, &console),
        Method::Harmonica => harmonica::train(options, subject, &outputs, &console),
    }
    .map_err(stopped)?;
    let memory = machine::peak_memory().map(|bytes| format!(", at most {} of memory", indicatif::HumanBytes(bytes)));
    console.note(&format!("trained in {:.0} s{}", began.elapsed().as_secs_f64(), memory.unwrap_or_default()));
    Ok(())
}

fn stopped(error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref::<TrainError>() {
        Some(TrainError::Stopped) => interrupted("stopped: plans that were finished are kept"),
        Some(TrainError::Range { .. }) => usage_because(error),
        _ => error,
    }
}

fn outputs(options: &TrainRouterOptions) -> anyhow::Result<Vec<PathBuf>> {
    if let Some(bad) = options.budget.iter().find(|budget| !(budget.is_finite() && **budget > 0.0 && **budget <= 1.0)) {
        return Err(usage(format!("--budget must be above 0 and at most 1, got {bad}")));
    }
    if options.budget.len() > 1 && !options.output.contains("{budget}") {
        return Err(usage(
            "-o: several budgets need a name with {budget}, for example router-{budget}.plan.safetensors",
        ));
    }
    let name = |budget: &f64| PathBuf::from(options.output.replace("{budget}", &budget.to_string()));
    Ok(options.budget.iter().map(name).collect())
}

fn request(options: &TrainRouterOptions) -> anyhow::Result<ImageRequest> {
    let guidance_scale = options.cfg_scale.unwrap_or(DEFAULT_GUIDANCE);
    if !guidance_scale.is_finite() || guidance_scale < 0.0 {
        return Err(usage(format!("--cfg-scale must be a number of at least 0, got {guidance_scale}")));
    }
    if options.steps == Some(0) {
        return Err(usage("--steps must be at least 1"));
    }
    Ok(ImageRequest {
        steps: options.steps.unwrap_or(DEFAULT_STEPS),
        guidance_scale: guidance_scale as f32,
        sampler: options.sampling_method.as_deref().map(str::parse).transpose().map_err(usage_because)?,
        ..ImageRequest::default()
    })
}

fn checked() -> Result<(), TrainError> {
    if interrupt::requested() { Err(TrainError::Stopped) } else { Ok(()) }
}

fn write(plan: &Plan, path: &Path, console: &Console) -> anyhow::Result<()> {
    plan.save(path)?;
    console.note(&format!("wrote {} (computes {:.0} %)", path.display(), 100.0 * plan.computed_share()));
    Ok(())
}
