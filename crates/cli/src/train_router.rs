//! `refrain train router`: learns when to compute, for a budget, and writes plans that `--cache FILE` replays.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use refrain_cache::Plan;
use refrain_pipeline::{ImageRequest, LoadOptions, Pipeline};
use refrain_train::TrainError;
use refrain_train::on_pipeline::{Cost, site_costs, subject};
use refrain_train::router::{Proxy, THRESHOLD};
use refrain_train::sdt::{self, Settings, State};
use refrain_train::steps::{self, StepSearch};
use refrain_train::subject::Subject;

use crate::builtin::NamedModel;
use crate::errors::{interrupted, usage, usage_because};
use crate::events::{Console, Verbosity};
use crate::gen_image::work::{DEFAULT_GUIDANCE, DEFAULT_STEPS};
use crate::gen_image::{check_prompt, collect_prompts, names};
use crate::{interrupt, machine, output};

/// `refrain train router` as typed.
#[derive(Debug, Clone, Args)]
pub(crate) struct TrainRouterOptions {
    /// Share of a full run that may compute, 0 to 1; several, joined by commas, give one plan each
    #[arg(
        long,
        alias = "budgets",
        value_name = "SHARE",
        value_delimiter = ',',
        default_value = "0.5",
        help_heading = "Router"
    )]
    pub(crate) budget: Vec<f64>,
    /// What is learned: which whole steps compute, with a forecast of the others, or a score for each step and part of a
    /// block (HarmoniCa)
    #[arg(long, value_enum, default_value_t = Method::Steps, help_heading = "Router")]
    pub(crate) method: Method,
    /// Order of the learned forecast (method steps): 0 scales the last output, 3 combines the last four
    #[arg(long, value_name = "ORDER", default_value_t = 3, value_parser = clap::value_parser!(u8).range(0..=3), help_heading = "Router")]
    pub(crate) forecast: u8,
    /// Optimiser steps (method harmonica)
    #[arg(long, value_name = "N", default_value_t = 4000, help_heading = "Router")]
    pub(crate) iterations: usize,
    /// How much the picture minds an error at a step (method harmonica): uniform, leave-one-out or telescoping
    #[arg(long, value_name = "NAME", default_value = "leave-one-out", help_heading = "Router")]
    pub(crate) proxy: String,
    /// What the budget counts (method harmonica)
    #[arg(long, value_enum, default_value_t = CostUnit::Time, help_heading = "Router")]
    pub(crate) cost: CostUnit,
    /// Where to write: a plan file, or with several budgets a pattern with `{budget}`
    #[arg(
        short,
        long,
        value_name = "FILE",
        default_value = "router-{budget}.plan.safetensors",
        help_heading = "Router"
    )]
    pub(crate) output: String,
    /// Prompts to train on, one a line
    #[arg(long, value_name = "FILE", help_heading = "Run")]
    pub(crate) prompt_file: Option<PathBuf>,
    /// A prompt to train on; repeatable
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true, help_heading = "Run")]
    pub(crate) prompt: Vec<String>,
    /// Model folder in the diffusers layout, or `builtin`
    #[arg(short, long, value_name = "FOLDER", default_value = "builtin", help_heading = "Run")]
    pub(crate) model: PathBuf,
    /// Arithmetic of the weights
    #[arg(long, default_value = "f32", value_parser = clap::builder::PossibleValuesParser::new(names::DTYPES), help_heading = "Run")]
    pub(crate) dtype: String,
    /// Threads [default: all cores]
    #[arg(short, long, value_name = "N", help_heading = "Run")]
    pub(crate) threads: Option<usize>,
    /// Denoising steps [default: 20]
    #[arg(long, value_name = "N", help_heading = "Run")]
    pub(crate) steps: Option<usize>,
    /// Classifier-free guidance [default: 4]
    #[arg(long, value_name = "X", help_heading = "Run")]
    pub(crate) cfg_scale: Option<f64>,
    /// Sampler [default: the model's own]
    #[arg(long, value_parser = names::sampling_methods(), help_heading = "Run")]
    pub(crate) sampling_method: Option<String>,
    /// Seed of the first scores (method harmonica)
    #[arg(short, long, value_name = "N", default_value_t = 0, help_heading = "Run")]
    pub(crate) seed: u64,
}

/// What a router learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Method {
    /// Whole steps and their forecasts.
    Steps,
    /// Parts of blocks.
    Harmonica,
}

/// What a budget counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CostUnit {
    /// Seconds, measured here.
    Time,
    /// Floating-point operations.
    Flops,
}

/// Trains and writes one plan per budget.
///
/// # Errors
/// A wrong call, a model that cannot be loaded, a loss that is not finite, or Ctrl-C.
pub(crate) fn run(options: &TrainRouterOptions, verbosity: Verbosity) -> anyhow::Result<()> {
    let outputs = outputs(options)?;
    let proxy: Proxy = options.proxy.parse().map_err(|error: String| usage(format!("--proxy: {error}")))?;
    let prompts = collect_prompts(&options.prompt, options.prompt_file.as_deref())?;
    prompts.iter().try_for_each(|prompt| check_prompt("a prompt", prompt))?;
    for path in &outputs {
        output::prepare_file(path)?;
    }
    machine::set_threads(options.threads)?;
    interrupt::listen();
    let console = Console::new(verbosity, false, false);
    let model = NamedModel::find(Some(&options.model))?;
    let precision = options.dtype.parse().map_err(|error: refrain_ops::OpsError| usage_because(error))?;
    let request = request(options)?;
    let pipeline = Pipeline::load(&model.source, LoadOptions { precision })?;
    let cost = if options.cost == CostUnit::Time { Cost::Time } else { Cost::Flops };
    let costs = site_costs(&pipeline, &request, cost)?;
    let subject = subject(&pipeline, &request, &prompts, costs)?;
    let began = std::time::Instant::now();
    match options.method {
        Method::Steps => train_steps(options, &subject, &outputs, &console),
        Method::Harmonica => train_parts(options, proxy, &subject, &outputs, &console),
    }
    .map_err(stopped)?;
    console.note(&format!("trained in {:.0} s", began.elapsed().as_secs_f64()));
    Ok(())
}

fn stopped(error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref::<TrainError>() {
        Some(TrainError::Stopped) => interrupted("stopped: plans that were finished are kept"),
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

fn train_steps(
    options: &TrainRouterOptions,
    subject: &Subject<'_>,
    outputs: &[PathBuf],
    console: &Console,
) -> anyhow::Result<()> {
    let settings = StepSearch { terms: usize::from(options.forecast) + 1, ..StepSearch::default() };
    let total = subject.steps();
    for (budget, path) in options.budget.iter().zip(outputs) {
        let wanted = ((budget * total as f64).floor() as usize).clamp(2, total);
        let found = steps::search(subject, &[wanted], &settings, &mut |line| {
            console.note(&format!("budget {budget}: {line}"));
            checked()
        })?;
        for found in found {
            let provenance = format!("router steps, forecast {}, budget {budget}", options.forecast);
            write(&found.plan.to_plan(&subject.run, &provenance)?, path, console)?;
        }
    }
    Ok(())
}

fn train_parts(
    options: &TrainRouterOptions,
    proxy: Proxy,
    subject: &Subject<'_>,
    outputs: &[PathBuf],
    console: &Console,
) -> anyhow::Result<()> {
    for (budget, path) in options.budget.iter().zip(outputs) {
        let settings = Settings {
            budget: *budget,
            iterations: options.iterations,
            seed: options.seed,
            proxy,
            ..Settings::default()
        };
        let mut state = State::new(subject, &settings)?;
        sdt::train(subject, &settings, &mut state, &mut |_, progress| {
            console.note(&format!(
                "{} of {}: loss {:.3e}, beta {:.2e}, computed {:.0} %",
                progress.iteration,
                settings.iterations,
                progress.loss,
                progress.beta,
                100.0 * progress.computed_share
            ));
            checked()
        })?;
        let shares: Vec<f64> = subject.sites.iter().map(|cost| cost.share).collect();
        let threshold = state.router.threshold_for(*budget, &shares).unwrap_or(THRESHOLD);
        let provenance = format!("router harmonica, {proxy:?}, budget {budget}, {} iterations", options.iterations);
        write(&state.router.plan(threshold, &provenance)?, path, console)?;
    }
    Ok(())
}

fn write(plan: &Plan, path: &Path, console: &Console) -> anyhow::Result<()> {
    plan.save(path)?;
    console.note(&format!("wrote {} (computes {:.0} %)", path.display(), 100.0 * plan.computed_share()));
    Ok(())
}
