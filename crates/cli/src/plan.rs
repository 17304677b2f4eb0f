//! `refrain plan import` and `plan export`: schedules of other projects as plans, and back; `plan validate`.

mod validate;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use refrain_cache::{Plan, Planned, RunHeader};
use refrain_pipeline::{ImageRequest, LoadOptions, Pipeline};
use refrain_train::import::{Flavour, ImportError, Schedule, logits, scm, smoothcache};

use crate::builtin::NamedModel;
use crate::errors::{usage, usage_because};
use crate::events::{Console, Verbosity};
use crate::gen_image::names;
use crate::gen_image::work::DEFAULT_GUIDANCE;
use crate::output;

/// Largest schedule that is text.
const LARGEST_TEXT: u64 = 64 << 20;
/// What an imported plan names as its model when none is given; no model has this fingerprint.
const NO_MODEL: &str = "none";

/// `refrain plan`
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum PlanVerb {
    /// Read a router or a schedule of another project as a plan
    Import(ImportOptions),
    /// Write a plan as another project reads it
    Export(ExportOptions),
    /// Measure a plan's harm on prompts that its making never saw, and write it into the plan: `--cache auto` goes by it
    Validate(validate::ValidateOptions),
}

/// `refrain plan import` as typed.
#[derive(Debug, Clone, Args)]
pub(crate) struct ImportOptions {
    /// The router or schedule
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What the file is
    #[arg(long, value_enum)]
    format: ImportFormat,
    /// Plan to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Score at or below which an entry reuses (harmonica, l2c)
    #[arg(long, value_name = "SCORE", default_value_t = logits::PUBLISHED_THRESHOLD)]
    threshold: f32,
    /// Model that the plan is for; without one it can be looked at, not replayed
    #[arg(short, long, value_name = "FOLDER", help_heading = "Run")]
    model: Option<PathBuf>,
    /// Classifier-free guidance that the plan is for [default: 4]
    #[arg(long, value_name = "X", help_heading = "Run")]
    cfg_scale: Option<f64>,
    /// Sampler that the plan is for [default: the model's own, else ddim]
    #[arg(long, value_parser = names::sampling_methods(), help_heading = "Run")]
    sampling_method: Option<String>,
    /// Arithmetic of the weights that the plan is for
    #[arg(long, default_value = "f32", value_parser = clap::builder::PossibleValuesParser::new(names::DTYPES), help_heading = "Run")]
    dtype: String,
}

/// `refrain plan export` as typed.
#[derive(Debug, Clone, Args)]
pub(crate) struct ExportOptions {
    /// The plan
    #[arg(value_name = "PLAN")]
    plan: PathBuf,
    /// What to write
    #[arg(long, value_enum)]
    format: ExportFormat,
    /// File to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

/// What can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ImportFormat {
    /// A .pt of HarmoniCa: every row is a router, the first denoising step frozen.
    Harmonica,
    /// A .pt of Learning-to-Cache: every other step computes whole.
    L2c,
    /// A JSON schedule of SmoothCache.
    Smoothcache,
    /// A steps computation mask of cache-dit: 1,1,0,1 or JSON.
    Scm,
}

/// What can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ExportFormat {
    /// A JSON schedule of SmoothCache.
    Smoothcache,
    /// A steps computation mask of cache-dit.
    Scm,
}

/// Imports or exports.
///
/// # Errors
/// A file that is not what the format says, a plan that the format cannot express, a disk that refuses.
pub(crate) fn run(verb: &PlanVerb, verbosity: Verbosity) -> anyhow::Result<()> {
    let console = Console::new(verbosity, false, false);
    match verb {
        PlanVerb::Import(options) => import(options, &console),
        PlanVerb::Export(options) => export(options, &console),
        PlanVerb::Validate(options) => validate::run(options, &console),
    }
}

fn import(options: &ImportOptions, console: &Console) -> anyhow::Result<()> {
    if !(options.threshold >= 0.0 && options.threshold <= 1.0) {
        return Err(usage(format!("--threshold must be between 0 and 1, got {}", options.threshold)));
    }
    let schedule = read(options)?;
    let (run, known) = header(options, &schedule)?;
    if let Some(known) = known
        && let Some(missing) = schedule.sites.iter().find(|kind| !known.contains(&kind.site()))
    {
        return Err(usage(format!(
            "{}: it speaks of the {missing}, which the model does not have: it is for another model",
            options.file.display()
        )));
    }
    output::prepare_file(&options.output)?;
    let name = options.file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let format = options.format.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    let plan = schedule.to_plan(&run, &format!("{format} {name}")).map_err(|error| refused(&options.file, error))?;
    plan.save(&options.output)?;
    let entries = plan.steps() * plan.sites().len();
    console.note(&format!(
        "wrote {}: {} of {entries} entries reuse, {} steps of {} sites",
        options.output.display(),
        schedule.reused(),
        plan.steps(),
        plan.sites().len()
    ));
    Ok(())
}

fn read(options: &ImportOptions) -> anyhow::Result<Schedule> {
    let path = options.file.as_path();
    let router = |flavour| -> Result<Schedule, ImportError> {
        logits::schedule(&logits::read(path)?, flavour, options.threshold)
    };
    let schedule = match options.format {
        ImportFormat::Harmonica => router(Flavour::HarmoniCa),
        ImportFormat::L2c => router(Flavour::LearningToCache),
        ImportFormat::Smoothcache => smoothcache::parse(&text(path)?),
        ImportFormat::Scm => scm::parse(&text(path)?),
    };
    schedule.map_err(|error| refused(path, error))
}

fn refused(path: &Path, error: ImportError) -> anyhow::Error {
    match error {
        named @ ImportError::Archive { .. } => anyhow::Error::new(named),
        other => anyhow::anyhow!("{}: {other}", path.display()),
    }
}

fn text(path: &Path) -> anyhow::Result<String> {
    let shown = path.display();
    let size = std::fs::metadata(path).map_err(|error| usage(format!("cannot read {shown}: {error}")))?.len();
    if size > LARGEST_TEXT {
        return Err(usage(format!("{shown}: {size} bytes are too many for a schedule")));
    }
    let bytes = std::fs::read(path).map_err(|error| usage(format!("cannot read {shown}: {error}")))?;
    String::from_utf8(bytes).map_err(|_| anyhow::anyhow!("{shown}: not UTF-8 text"))
}

/// What the plan will be valid for, and the sites of the model if there is one.
fn header(
    options: &ImportOptions,
    schedule: &Schedule,
) -> anyhow::Result<(RunHeader, Option<Vec<refrain_cache::Site>>)> {
    let guidance_scale = options.cfg_scale.unwrap_or(DEFAULT_GUIDANCE);
    if !guidance_scale.is_finite() || guidance_scale < 0.0 {
        return Err(usage(format!("--cfg-scale must be a number of at least 0, got {guidance_scale}")));
    }
    let guidance_scale = guidance_scale as f32;
    let Some(model) = &options.model else {
        let sampler = options.sampling_method.clone().unwrap_or_else(|| "ddim".to_owned());
        let steps = schedule.compute.len();
        let run = RunHeader { model: NO_MODEL.into(), sampler, steps, guidance_scale, dtype: options.dtype.clone() };
        return Ok((run, None));
    };
    let precision = options.dtype.parse().map_err(|error: refrain_ops::OpsError| usage_because(error))?;
    let pipeline = Pipeline::load(&NamedModel::find(Some(model))?.source, LoadOptions { precision })?;
    let request = ImageRequest {
        steps: schedule.compute.len(),
        guidance_scale,
        sampler: options.sampling_method.as_deref().map(str::parse).transpose().map_err(usage_because)?,
        ..ImageRequest::default()
    };
    let run = pipeline.run_header(&request).map_err(usage_because)?;
    if run.steps != schedule.compute.len() {
        let (file, here) = (schedule.compute.len(), run.steps);
        return Err(usage(format!("the schedule has {file} steps, the sampler evaluates the model {here} times")));
    }
    let (height, width) = pipeline.default_size();
    let sites = pipeline.sites(height, width, 1)?;
    let model_itself = std::iter::once(refrain_cache::Site::model());
    Ok((run, Some(sites.into_iter().map(|info| info.site).chain(model_itself).collect())))
}

fn export(options: &ExportOptions, console: &Console) -> anyhow::Result<()> {
    let plan = Plan::load(&options.plan).map_err(|error| match error {
        refrain_cache::CacheError::Io { .. } => usage_because(error),
        damaged => anyhow::Error::new(damaged),
    })?;
    let (format, written) = match options.format {
        ExportFormat::Smoothcache => {
            ("smoothcache", Schedule::of_plan(&plan, "smoothcache").map(|s| smoothcache::write(&s)))
        }
        ExportFormat::Scm => ("scm", Schedule::of_plan(&plan, "scm").map(|schedule| scm::write(&schedule))),
    };
    let reason = match written {
        Ok(Some(mut text)) => {
            text.push('\n');
            output::prepare_file(&options.output)?;
            output::write_file(&options.output, text.as_bytes())?;
            console.note(&format!("wrote {}", options.output.display()));
            return Ok(());
        }
        Ok(None) if format == "scm" => "some steps compute in part".to_owned(),
        Ok(None) => "it skips the whole model".to_owned(),
        Err(error) => return Err(usage(format!("{}: {error}", options.plan.display()))),
    };
    Err(usage(format!("{}: {format} cannot express this plan: {reason}", options.plan.display())))
}

/// Number of entries of each kind, for `inspect --json`.
pub(crate) fn counts(plan: &Plan) -> serde_json::Value {
    let count = |wanted: fn(Planned) -> bool| {
        (0..plan.steps()).flat_map(|step| plan.row(step)).filter(|&&action| wanted(action)).count()
    };
    serde_json::json!({
        "entries": plan.steps() * plan.sites().len(),
        "compute": count(|action| action == Planned::Compute),
        "reuse": count(|action| action == Planned::Reuse),
        "forecast": count(|action| matches!(action, Planned::Forecast(_))),
        "covered": count(|action| action == Planned::Covered),
        "absent": count(|action| action == Planned::Absent),
    })
}
