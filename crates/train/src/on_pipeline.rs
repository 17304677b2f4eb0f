//! Training on a loaded pipeline: its model under prompts of a list, each with noise of its own.

use candle_core::Tensor;
use refrain_cache::{Context, Guard, Policy, Site};
use refrain_pipeline::{ImageRequest, Noise, Pipeline};
use refrain_samplers::{NoiseKind, StepInfo, noise};

use crate::{
    TrainError,
    student::{Row, Student},
    subject::{SiteCost, Subject, Trial, cache_step},
};

/// First seed of the trials' noise, so that no training sees the noise of the seeds that people type.
const FIRST_SEED: u64 = 0x5EED_0000_0000;

/// The pipeline under `request` (sampler, steps, guidance, size): trials take the prompts in turn, or, of a model that is
/// conditioned on classes, any class.
///
/// # Errors
/// If there is no prompt for a model that reads one, or the request does not fit the model.
pub fn subject<'a>(
    pipeline: &'a Pipeline,
    request: &'a ImageRequest,
    prompts: &'a [String],
    sites: Vec<SiteCost>,
) -> Result<Subject<'a>, TrainError> {
    let classes = pipeline.classes().map(|classes| classes.count());
    if prompts.is_empty() && classes.is_none() {
        return Err(TrainError::Range { what: "prompts", expected: "at least one", value: 0.0 });
    }
    let schedule = pipeline.schedule(request).map_err(model)?;
    let run = pipeline.run_header(request).map_err(model)?;
    let first = schedule.clone();
    let draw = move |number: u64| -> Result<Trial<'a>, TrainError> {
        let prompt = prompts.get((number % prompts.len().max(1) as u64) as usize).cloned().unwrap_or_default();
        let seed = FIRST_SEED.wrapping_add(number);
        let class_label = classes.map(|count| (scattered(number) % count.max(1) as u64) as u32);
        let request = ImageRequest {
            prompt,
            class_label,
            noise: Noise::Seed { seed, kind: NoiseKind::Counter },
            ..request.clone()
        };
        let conditions = pipeline.conditions(&request).map_err(model)?;
        let (height, width) = pipeline.default_size();
        let size = pipeline
            .latent_shape(request.height.unwrap_or(height), request.width.unwrap_or(width), 0)
            .map_err(model)?;
        let shape = [1, pipeline.denoiser().facts().latent_channels, size.height, size.width];
        let predict = move |cx: &mut Context, latents: &Tensor, step: &StepInfo| {
            let guidance = (&conditions, request.guidance_scale);
            pipeline.predict(cx, latents, step.timestep, guidance).map_err(model)
        };
        let latents = first.initial_latents(&noise::counter(seed, &shape)?)?;
        Ok(Trial { latents, predict: Box::new(predict) })
    };
    Ok(Subject { run, schedule, sites, draw: Box::new(draw) })
}

/// Numbers in a row become numbers all over (the finaliser of splitmix64).
fn scattered(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn model(error: refrain_pipeline::PipelineError) -> TrainError {
    TrainError::Model(Box::new(error))
}

/// What a share of the cost counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// Floating-point operations.
    Flops,
    /// Seconds, measured here and now.
    Time,
}

/// The sites of the pipeline's model with their shares of a whole evaluation.
///
/// # Errors
/// If the request does not fit the model.
pub fn site_costs(pipeline: &Pipeline, request: &ImageRequest, cost: Cost) -> Result<Vec<SiteCost>, TrainError> {
    const TEXT_TOKENS: usize = 12;
    let (height, width) = pipeline.default_size();
    let (height, width) = (request.height.unwrap_or(height), request.width.unwrap_or(width));
    let shape = pipeline.latent_shape(height, width, TEXT_TOKENS).map_err(model)?;
    let denoiser = pipeline.denoiser();
    let sites = denoiser.sites(&shape);
    let whole = denoiser.flops(&shape).max(1) as f64;
    let flops: Vec<SiteCost> =
        sites.iter().map(|info| SiteCost { site: info.site, share: info.flops as f64 / whole }).collect();
    if cost == Cost::Flops {
        return Ok(flops);
    }
    let prompts = [String::from("a")];
    let subject = subject(pipeline, request, &prompts, flops.clone())?;
    let (parts, whole) = seconds(&subject)?;
    // Time is measured by kind of part; within a kind operations tell the sites apart.
    let kind_flops = |site: Site| {
        flops.iter().filter(|other| other.site.part.group() == site.part.group()).map(|other| other.share).sum::<f64>()
    };
    Ok(flops
        .iter()
        .map(|cost| {
            let group = parts.iter().find(|(part, _)| *part == cost.site.part.group()).map_or(0.0, |(_, time)| *time);
            SiteCost { site: cost.site, share: cost.share / kind_flops(cost.site).max(1e-12) * group / whole }
        })
        .collect())
}

/// Seconds by kind of part, and of a whole trajectory.
type Measured = (Vec<(&'static str, f64)>, f64);

/// Seconds of each kind of part, and of everything, over one trajectory in full after one to warm up.
fn seconds(subject: &Subject<'_>) -> Result<Measured, TrainError> {
    let trial = (subject.draw)(0)?;
    let mut measured = (Vec::new(), 1.0);
    for _ in 0..2 {
        let policy: Box<dyn Policy> = Box::new(Student::new(Row::default(), 1));
        let mut cx = Context::new(policy, Guard::default(), subject.run.clone())?;
        let began = std::time::Instant::now();
        crate::subject::roll_out(&subject.schedule, &trial.latents, &mut |latents, step| {
            cx.begin_step(cache_step(step));
            (trial.predict)(&mut cx, latents, step)
        })?;
        let whole = began.elapsed().as_secs_f64();
        measured = (cx.report().groups.iter().map(|group| (group.part, group.seconds_computed)).collect(), whole);
    }
    Ok(measured)
}
