//! `refrain bench cache`: speed and harm of cache policies, side by side with the honest rival, fewer steps.
//!
//! All contenders make the same pictures in turn, in an order that rotates from picture to picture, so that a machine
//! that warms up or slows down hits all alike. Time is that of the denoising loop; harm is measured against the uncached
//! picture of the same prompt and seed.

pub(crate) mod contender;
mod grid;
mod margin;
mod measure;
pub(crate) mod options;
mod plot;
mod table;

use std::path::Path;

use refrain_media::plot::Plot as _;
use refrain_pipeline::{ImageRequest, LoadOptions, Noise, Pipeline};
use refrain_samplers::NoiseKind;

use crate::builtin::NamedModel;
use crate::errors::{interrupted, usage, usage_because};
use crate::events::{Console, Event, Verbosity};
use crate::gen_image::work::{DEFAULT_GUIDANCE, DEFAULT_STEPS};
use crate::gen_image::{check_prompt, collect_prompts};
use crate::{interrupt, machine, output};
use contender::Contender;
use measure::Bench;
pub(crate) use options::BenchCacheOptions;
use table::{Setting, Table};

/// Runs the bench and shows its table.
///
/// # Errors
/// A wrong call, a model that cannot be loaded, a folder that cannot be written, or Ctrl-C.
pub(crate) fn run(options: BenchCacheOptions, verbosity: Verbosity) -> anyhow::Result<()> {
    machine::check_device(Some(&options.device))?;
    let mut contenders = contenders(&options.policies)?;
    if options.grid {
        let grid = grid::contenders(options.steps.unwrap_or(DEFAULT_STEPS))?;
        contenders.extend(grid.into_iter().filter(|rival| !options.policies.contains(&rival.spelling())));
    }
    let prompts = collect_prompts(&options.prompt, options.prompt_file.as_deref())?;
    prompts.iter().try_for_each(|prompt| check_prompt("a prompt", prompt))?;
    if options.seeds == 0 || options.rounds == 0 {
        return Err(usage("--seeds and --rounds must be at least 1"));
    }
    if let Some(folder) = &options.output {
        output::prepare_file(&folder.join("table.json"))?;
    }
    machine::set_threads(options.threads)?;
    interrupt::listen();
    let console = Console::new(verbosity, options.json, false);
    let model = NamedModel::find(Some(&options.model))?;
    let precision = options.dtype.parse().map_err(|error: refrain_ops::OpsError| usage_because(error))?;
    let pipeline = Pipeline::load(&model.source, LoadOptions { precision })?;
    let base = base_request(&options)?;
    let mut bench = Bench::new((&pipeline, &model.source), console, base, &contenders)?;
    let items: Vec<(usize, String, u64)> = prompts
        .iter()
        .enumerate()
        .flat_map(|(index, prompt)| (0..options.seeds as u64).map(move |seed| (index, prompt.clone(), seed)))
        .map(|(index, prompt, seed)| (index, prompt, options.seed.saturating_add(seed)))
        .collect();
    bench.warm_up(&items, !options.no_rivals)?;
    let complete = bench.measure(&items, options.rounds)?;
    let setting = setting(&options, &pipeline, &model, prompts.len())?;
    show(&bench, Table { setting, rows: bench.rows() }, &console, options.output.as_deref())?;
    if complete { Ok(()) } else { Err(interrupted("stopped: the table holds what was measured until then")) }
}

fn contenders(spellings: &[String]) -> anyhow::Result<Vec<Contender>> {
    // The uncached run comes first whether or not it is named: all others are measured against it.
    let mut contenders = vec![Contender::off()];
    for spelling in spellings {
        let contender = Contender::parse(spelling)?;
        if !contenders.contains(&contender) {
            contenders.push(contender);
        }
    }
    Ok(contenders)
}

fn base_request(options: &BenchCacheOptions) -> anyhow::Result<ImageRequest> {
    let steps = options.steps.unwrap_or(DEFAULT_STEPS);
    if steps == 0 {
        return Err(usage("--steps must be at least 1"));
    }
    let guidance_scale = options.cfg_scale.unwrap_or(DEFAULT_GUIDANCE);
    if !guidance_scale.is_finite() || guidance_scale < 0.0 {
        return Err(usage(format!("--cfg-scale must be a number of at least 0, got {guidance_scale}")));
    }
    Ok(ImageRequest {
        negative_prompt: options.negative_prompt.clone(),
        noise: Noise::Seed { seed: options.seed, kind: NoiseKind::Counter },
        width: options.width,
        height: options.height,
        steps,
        guidance_scale: guidance_scale as f32,
        sampler: options.sampling_method.as_deref().map(str::parse).transpose().map_err(usage_because)?,
        ..ImageRequest::default()
    })
}

fn setting(
    options: &BenchCacheOptions,
    pipeline: &Pipeline,
    model: &NamedModel,
    prompts: usize,
) -> anyhow::Result<Setting> {
    let request = base_request(options)?;
    let (height, width) = pipeline.default_size();
    let sampler = match request.sampler {
        Some(sampler) => sampler,
        None => pipeline.default_sampler()?,
    };
    Ok(Setting {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        processor: machine::processor(),
        cores: machine::cores(),
        threads: rayon::current_num_threads(),
        dtype: pipeline.precision().to_string(),
        model: model.name.clone(),
        model_hash: pipeline.fingerprint()?.chars().take(10).collect(),
        sampler: sampler.name().to_owned(),
        steps: request.steps,
        guidance_scale: options.cfg_scale.unwrap_or(DEFAULT_GUIDANCE),
        size: format!("{}x{}", options.width.unwrap_or(width), options.height.unwrap_or(height)),
        prompts,
        seeds: options.seeds,
        rounds: options.rounds,
    })
}

fn show(bench: &Bench<'_>, table: Table, console: &Console, folder: Option<&Path>) -> anyhow::Result<()> {
    if let Some(folder) = folder {
        output::write_file(&folder.join("table.md"), table.markdown().as_bytes())?;
        output::write_file(&folder.join("table.csv"), table.csv().as_bytes())?;
        let mut json = serde_json::to_vec_pretty(&table)?;
        json.push(b'\n');
        output::write_file(&folder.join("table.json"), &json)?;
        plot::speed_harm(&table).save(&folder.join("plot.png"))?;
        refrain_media::save_picture(&folder.join("pictures.png"), &plot::pictures(&table, bench.samples())?)?;
        console.note(&format!(
            "wrote table.md, table.csv, table.json, plot.png and pictures.png into {}",
            folder.display()
        ));
    }
    console.event(&Event::Table { table: serde_json::to_value(&table)? })?;
    console.result(&table.markdown())
}
