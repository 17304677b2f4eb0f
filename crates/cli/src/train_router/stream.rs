//! `train router --stream CLIP…`: how often each part of a restyling model computes while frames go by.

use std::path::Path;

use refrain_cache::{Branch, Context};
use refrain_media::Picture;
use refrain_media::sequence::{SourceOptions, open_source};
use refrain_metrics::styles::Style;
use refrain_ops::OpsError;
use refrain_pipeline::{LoadOptions, RestylePipeline};
use refrain_stream::KvPolicy;
use refrain_train::TrainError;
use refrain_train::stream::{StreamSearch, StreamSubject, search};
use refrain_train::subject::SiteCost;

use super::{TrainRouterOptions, checked, write};
use crate::builtin::{self, NamedModel};
use crate::cache::CacheChoice;
use crate::errors::{usage, usage_because};
use crate::events::Console;
use crate::stream::{Session, Settings, run_header};

/// Denoising steps a frame when nothing is said.
const DEFAULT_STEPS: usize = 2;

/// Trains and writes one plan per budget.
///
/// # Errors
/// A wrong call, a clip or a model that cannot be read, or Ctrl-C.
pub(super) fn train(
    options: &TrainRouterOptions,
    outputs: &[std::path::PathBuf],
    console: &Console,
) -> anyhow::Result<()> {
    let settings = settings(options)?;
    let load = LoadOptions { precision: settings.precision };
    let pipeline = RestylePipeline::load(&settings.model.source, load)?;
    let trials = trials(options, &pipeline)?;
    let subject = subject(&settings, &pipeline, &trials)?;
    let search_settings = StreamSearch { moves: options.moves, ..StreamSearch::default() };
    let found = search(&subject, &options.budget, &search_settings, &mut |line| {
        console.note(line);
        checked()
    })?;
    for (found, path) in found.iter().zip(outputs) {
        write(&found.plan, path, console)?;
    }
    Ok(())
}

/// Some frames of a clip under a style.
struct Trial {
    prompt: String,
    frames: Vec<Picture>,
}

/// Clips and styles in turn; where a clip is long, later trials take later frames.
fn trials(options: &TrainRouterOptions, pipeline: &RestylePipeline) -> anyhow::Result<Vec<Trial>> {
    let prompts: Vec<String> = match options.prompt.is_empty() {
        true => Style::ALL.iter().map(|style| style.prompt().to_owned()).collect(),
        false => options.prompt.clone(),
    };
    let side = pipeline.defaults().side as u32;
    let clips = options.stream.len();
    (0..options.trials)
        .map(|trial| {
            let Some(path) = options.stream.get(trial % clips.max(1)) else { return Err(usage("--stream: no clip")) };
            let prompt = prompts.get(trial % prompts.len().max(1)).cloned().unwrap_or_default();
            let frames = frames(path, trial / clips.max(1) * options.frames, options.frames, side)?;
            Ok(Trial { prompt, frames })
        })
        .collect()
}

/// `count` frames from the `first` on, or where there are so many none, the clip's last ones.
fn frames(path: &Path, first: usize, count: usize, side: u32) -> anyhow::Result<Vec<Picture>> {
    let mut source = open_source(path, SourceOptions::default())?;
    let mut held = std::collections::VecDeque::new();
    let mut number = 0;
    while number < first + count
        && let Some(frame) = source.next_frame()?
    {
        number += 1;
        held.push_back(frame.covering(side, side));
        if held.len() > count {
            held.pop_front();
        }
    }
    if held.len() < 2 {
        return Err(usage(format!("{}: has fewer than 2 frames, and a stream is learned from more", path.display())));
    }
    Ok(held.into())
}

fn subject<'a>(
    settings: &'a Settings,
    pipeline: &'a RestylePipeline,
    trials: &'a [Trial],
) -> anyhow::Result<StreamSubject<'a>> {
    let defaults = pipeline.defaults();
    let side = defaults.side / pipeline.autoencoder().config().patch;
    let parts = pipeline.transformer().sites((1, side, side), defaults.window, pipeline.text_tokens())?;
    let whole = (settings.steps as u64 * parts.iter().map(|part| part.flops).sum::<u64>()).max(1) as f64;
    let levels = 0..settings.steps as u16;
    let sites = levels.flat_map(|level| {
        parts.iter().map(move |part| SiteCost {
            site: part.site.with_branch(Branch::chunk(level)),
            share: part.flops as f64 / whole,
        })
    });
    let roll = move |number: usize, context: Context| -> Result<Vec<candle_core::Tensor>, TrainError> {
        let Some(trial) = trials.get(number) else { return Ok(Vec::new()) };
        let settings = Settings { prompt: trial.prompt.clone(), ..settings.clone() };
        let failed = |error: anyhow::Error| TrainError::Model(error.into());
        let mut session = Session::under(&settings, pipeline, context).map_err(failed)?;
        let mut latents = Vec::new();
        for frame in &trial.frames {
            latents.extend(session.restyle(frame).map_err(failed)?.map(|restyled| restyled.latents));
        }
        Ok(latents)
    };
    Ok(StreamSubject {
        run: run_header(settings, pipeline)?,
        sites: sites.collect(),
        trials: trials.len(),
        roll: Box::new(roll),
    })
}

fn settings(options: &TrainRouterOptions) -> anyhow::Result<Settings> {
    let steps = options.steps.unwrap_or(DEFAULT_STEPS);
    if !(1..=4).contains(&steps) {
        return Err(usage(format!("--steps must be between 1 and 4 for a stream, got {steps}")));
    }
    let model = Some(options.model.as_path()).filter(|path| *path != Path::new(builtin::NAME));
    Ok(Settings {
        size: (None, None),
        prompt: Style::Plain.prompt().to_owned(),
        steps,
        strength: None,
        noise_control: true,
        seed: options.seed,
        fresh_noise: false,
        model: NamedModel::find_restyler(model)?,
        precision: options.dtype.parse().map_err(|error: OpsError| usage_because(error))?,
        batch: false,
        window: None,
        sinks: 0,
        kv: KvPolicy::Relative { refresh: None },
        cache: CacheChoice::parse(None, &[])?,
    })
}
