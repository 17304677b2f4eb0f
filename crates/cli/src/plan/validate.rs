//! `refrain plan validate`: measures a plan's harm on prompts that its making never saw, and writes it into the plan.

use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::Args;
use refrain_cache::{Context, Plan, PlanHeader, RunHeader, Validation};
use refrain_metrics::{batch, median, percentile, psnr_capped};
use refrain_pipeline::{GeneratedImage, ImageRequest, LoadOptions, Noise, Pipeline, Progress as StepProgress};
use refrain_samplers::NoiseKind;

use crate::builtin::NamedModel;
use crate::cache::CacheChoice;
use crate::errors::{interrupted, usage, usage_because};
use crate::events::Console;
use crate::gen_image::{collect_prompts, names};
use crate::progress::Progress;
use crate::{interrupt, machine, output};

/// `refrain plan validate` as typed.
#[derive(Debug, Clone, Args)]
pub(crate) struct ValidateOptions {
    /// Plans of one model; each is measured in its own run (sampler, steps, guidance) and written anew with its figures
    #[arg(value_name = "PLAN", required = true)]
    plans: Vec<PathBuf>,
    /// Prompts, one a line: none that the plan was made with
    #[arg(long, value_name = "FILE")]
    prompt_file: PathBuf,
    /// Seed of every picture
    #[arg(short, long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Model folder in the diffusers layout, or `builtin`
    #[arg(short, long, value_name = "FOLDER", default_value = "builtin", help_heading = "Run")]
    model: PathBuf,
    /// Arithmetic of the weights
    #[arg(long, default_value = "f32", value_parser = clap::builder::PossibleValuesParser::new(names::DTYPES), help_heading = "Run")]
    dtype: String,
    /// Threads [default: all cores]
    #[arg(short, long, value_name = "N", help_heading = "Run")]
    threads: Option<usize>,
}

/// A plan on trial.
struct Candidate {
    path: PathBuf,
    plan: Plan,
    psnr: Vec<f64>,
}

/// Measures all plans; those of equal runs share the uncached pictures.
///
/// # Errors
/// A plan that cannot be read or is for another model (exit 2), what the model, the disk or the user does. Nothing is
/// written before all is measured.
pub(super) fn run(options: &ValidateOptions, console: &Console) -> anyhow::Result<()> {
    let mut candidates = Vec::new();
    for path in &options.plans {
        let plan = Plan::load(path).map_err(|error| match error {
            refrain_cache::CacheError::Io { .. } => usage_because(error),
            damaged => anyhow::Error::new(damaged),
        })?;
        output::prepare_file(path)?;
        candidates.push(Candidate { path: path.clone(), plan, psnr: Vec::new() });
    }
    let prompts = collect_prompts(&[], Some(&options.prompt_file))?;
    machine::set_threads(options.threads)?;
    interrupt::listen();
    let precision = options.dtype.parse().map_err(|error: refrain_ops::OpsError| usage_because(error))?;
    let pipeline = Pipeline::load(&NamedModel::find(Some(&options.model))?.source, LoadOptions { precision })?;
    let requests =
        candidates.iter().map(|candidate| request(&pipeline, candidate)).collect::<anyhow::Result<Vec<_>>>()?;
    let progress = Progress::counting(console, "validate", prompts.len() * candidates.len(), "picture");
    let mut done = 0;
    for prompt in &prompts {
        let mut references: Vec<(RunHeader, GeneratedImage)> = Vec::new();
        for (candidate, base) in candidates.iter_mut().zip(&requests) {
            let noise = Noise::Seed { seed: options.seed, kind: NoiseKind::Counter };
            let request = ImageRequest { prompt: prompt.clone(), noise, ..base.clone() };
            let run = pipeline.run_header(&request)?;
            if !references.iter().any(|(known, _)| *known == run) {
                references.push((run.clone(), made(&pipeline, &request, Context::off())?));
            }
            let Some((_, reference)) = references.iter().find(|(known, _)| *known == run) else { continue };
            let choice = CacheChoice::replay(candidate.plan.clone().with_header(under(&candidate.plan, &run)));
            let image = made(&pipeline, &request, choice.context(&run, options.seed, false)?)?;
            let psnr = batch::psnr(&reference.image, &image.image)?;
            candidate.psnr.extend(psnr.into_iter().map(psnr_capped));
            done += 1;
            progress.say(done, format!("{done} pictures"));
        }
    }
    progress.finish();
    for candidate in candidates {
        candidate.write(console)?;
    }
    Ok(())
}

/// The header of a plan for a run that differs in nothing but its arithmetic.
fn under(plan: &Plan, run: &RunHeader) -> PlanHeader {
    PlanHeader { run: run.clone(), ..plan.header().clone() }
}

/// The request that a plan was made for.
fn request(pipeline: &Pipeline, candidate: &Candidate) -> anyhow::Result<ImageRequest> {
    let planned = &candidate.plan.header().run;
    let path = candidate.path.display();
    let request = ImageRequest {
        steps: candidate.plan.steps(),
        guidance_scale: planned.guidance_scale,
        sampler: Some(planned.sampler.parse().map_err(|_| {
            usage(format!("{path}: made for the sampler {:?}: only plain samplers can be validated", planned.sampler))
        })?),
        ..ImageRequest::default()
    };
    let here = pipeline.run_header(&request).map_err(usage_because)?;
    let differences = planned.differences(&here.in_dtype_of(planned));
    if differences.is_empty() {
        return Ok(request);
    }
    Err(usage(format!("{path}: the plan does not fit: {}", differences.join(", "))))
}

fn made(pipeline: &Pipeline, request: &ImageRequest, mut cache: Context) -> anyhow::Result<GeneratedImage> {
    let mut watch = |_: &StepProgress<'_>| match interrupt::requested() {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    };
    pipeline.generate(request, &mut cache, &mut watch).map_err(|error| match error.is_stopped() {
        true => interrupted("stopped: no plan was changed"),
        false => anyhow::Error::new(error),
    })
}

impl Candidate {
    fn write(self, console: &Console) -> anyhow::Result<()> {
        let validation = Validation {
            pictures: self.psnr.len(),
            median: hundredths(median(&self.psnr)?),
            fifth_percentile: hundredths(percentile(&self.psnr, 5.0)?),
            worst: hundredths(self.psnr.iter().copied().reduce(f64::min)),
        };
        let header = PlanHeader { validation: Some(validation), ..self.plan.header().clone() };
        self.plan.with_header(header).save(&self.path)?;
        console.result(&format!(
            "{}: {} pictures, median {:.1} dB, 5 % below {:.1} dB, worst {:.1} dB",
            self.path.display(),
            validation.pictures,
            validation.median,
            validation.fifth_percentile,
            validation.worst
        ))
    }
}

/// Figures as a card states them.
fn hundredths(value: Option<f64>) -> f64 {
    (value.unwrap_or(0.0) * 100.0).round() / 100.0
}
