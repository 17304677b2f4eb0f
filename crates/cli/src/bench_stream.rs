//! `refrain bench stream`: speed, harm and fidelity of restyled clips, contender beside contender.
//!
//! Every contender restyles the same frames; they take turns frame by frame, in an order that rotates, so that a machine that
//! slows down hits all alike. *Harm* is measured against the first contender's frames (everything computed), *fidelity*
//! against the exact picture of the procedural style, next to that of the untouched input.

mod measure;
mod table;

use std::path::PathBuf;

use clap::Args;
use clap::builder::PossibleValuesParser;
use refrain_media::Picture;
use refrain_media::sequence::{SourceOptions, open_source};
use refrain_metrics::styles::Style;
use refrain_pipeline::{LoadOptions, RestylePipeline};
use refrain_stream::KvPolicy;

use crate::builtin::NamedModel;
use crate::cache::CacheChoice;
use crate::errors::{interrupted, usage, usage_because};
use crate::events::{Console, Event, Verbosity};
use crate::gen_image::names;
use crate::stream::Settings;
use crate::{interrupt, machine};
use measure::{Contender, Measured};

/// `refrain bench stream`
#[derive(Debug, Clone, Args)]
pub(crate) struct BenchStreamOptions {
    /// Clips to restyle: .y4m, .gif, .png (APNG) or folders of pictures
    #[arg(value_name = "CLIP", required = true)]
    clips: Vec<PathBuf>,
    /// Styles, by their prompts [default: all ten]
    #[arg(long, value_name = "PROMPT,…", value_delimiter = ',')]
    styles: Vec<String>,
    /// Contenders: cache policies and, as rivals, `steps:K` for fewer steps; the first must compute everything
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "off,motion,steps:1")]
    policies: Vec<String>,
    /// Frames of each clip
    #[arg(long, value_name = "N", default_value_t = 24)]
    frames: usize,
    /// Denoising steps a frame
    #[arg(long, value_name = "N", default_value_t = 2)]
    steps: usize,
    /// Model folder of a restyling pipeline, or `builtin` [default: builtin]
    #[arg(short, long, value_name = "FOLDER")]
    model: Option<PathBuf>,
    /// Arithmetic of the weights
    #[arg(long, value_name = "TYPE", value_parser = PossibleValuesParser::new(names::DTYPES), default_value = "f32")]
    dtype: String,
    /// Threads [default: all cores]
    #[arg(short, long, value_name = "N")]
    threads: Option<usize>,
    /// Print one JSON object per event on stdout
    #[arg(long)]
    json: bool,
}

/// Runs the bench and prints its two tables.
///
/// # Errors
/// A wrong call, a clip or a model that cannot be read, or Ctrl-C.
pub(crate) fn run(options: BenchStreamOptions, verbosity: Verbosity) -> anyhow::Result<()> {
    let styles = styles(&options.styles)?;
    let settings = settings(&options)?;
    let contenders = contenders(&options, &settings)?;
    if options.frames < 2 {
        return Err(usage("--frames must be at least 2: flicker needs a pair"));
    }
    let console = Console::new(verbosity, options.json, false);
    machine::set_threads(options.threads)?;
    interrupt::listen();
    let pipeline = RestylePipeline::load(&settings.model.source, LoadOptions { precision: settings.precision })?;
    let side = pipeline.defaults().side as u32;
    let clips =
        options.clips.iter().map(|clip| frames_of(clip, options.frames, side)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut measured = Measured::new(&contenders);
    for (clip, frames) in clips.iter().enumerate() {
        for &style in &styles {
            if interrupt::requested() {
                return Err(interrupted("stopped before the tables were complete"));
            }
            machine::in_pool(|| measured.restyle(&pipeline, &contenders, (clip, style), frames))?;
            console.detail(&format!("{}: {}", options.clips[clip].display(), style.prompt()));
        }
    }
    let rows = measured.rows()?;
    let fidelity = measured.fidelity()?;
    console.event(&Event::Table { table: serde_json::json!({ "contenders": rows, "styles": fidelity }) })?;
    let frames: usize = clips.iter().map(Vec::len).sum();
    let about = format!(
        "{} ({}), {side}x{side}, {} steps, {}; {} on {} cores; {} clips, {frames} frames, {} styles; refrain {}",
        settings.model.name,
        pipeline.parameters().map(|(_, count)| count).iter().sum::<usize>(),
        options.steps,
        options.dtype,
        machine::processor(),
        machine::cores(),
        clips.len(),
        styles.len(),
        env!("CARGO_PKG_VERSION"),
    );
    console.result(&table::contenders(&rows))?;
    console.result(&table::styles(&fidelity))?;
    console.result(&about)
}

fn styles(given: &[String]) -> anyhow::Result<Vec<Style>> {
    if given.is_empty() {
        return Ok(Style::ALL.to_vec());
    }
    let known = || Style::ALL.map(Style::prompt).join(", ");
    given
        .iter()
        .map(|name| Style::from_prompt(name).ok_or_else(|| usage(format!("--styles {name:?}: there are {}", known()))))
        .collect()
}

fn settings(options: &BenchStreamOptions) -> anyhow::Result<Settings> {
    if !(1..=4).contains(&options.steps) {
        return Err(usage(format!("--steps must be between 1 and 4, got {}", options.steps)));
    }
    Ok(Settings {
        size: (None, None),
        prompt: Style::Plain.prompt().to_owned(),
        steps: options.steps,
        strength: None,
        noise_control: true,
        seed: 0,
        fresh_noise: false,
        model: NamedModel::find_restyler(options.model.as_deref())?,
        precision: options.dtype.parse().map_err(|error: refrain_ops::OpsError| usage_because(error))?,
        batch: false,
        window: None,
        sinks: 0,
        kv: KvPolicy::Relative { refresh: None },
        cache: CacheChoice::parse(None, &[])?,
    })
}

fn contenders(options: &BenchStreamOptions, settings: &Settings) -> anyhow::Result<Vec<Contender>> {
    let read = |spelling: &String| -> anyhow::Result<Contender> {
        let mut settings = settings.clone();
        match spelling.strip_prefix("steps:") {
            Some(steps) => {
                let fewer = steps.parse().ok().filter(|steps| (1..=4).contains(steps));
                settings.steps = fewer.ok_or_else(|| usage(format!("--policies {spelling}: steps are 1 to 4")))?;
            }
            None => settings.cache = CacheChoice::parse(Some(spelling), &[])?,
        }
        Ok(Contender { name: spelling.clone(), settings })
    };
    let contenders: Vec<Contender> = options.policies.iter().map(read).collect::<anyhow::Result<_>>()?;
    match contenders.first() {
        Some(first) if first.settings.cache.is_off() => Ok(contenders),
        _ => Err(usage("--policies: the first contender must compute everything, as `off` does")),
    }
}

/// The first frames of a clip, scaled to what the model works at.
fn frames_of(clip: &std::path::Path, count: usize, side: u32) -> anyhow::Result<Vec<Picture>> {
    let mut source = open_source(clip, SourceOptions::default())?;
    let mut frames = Vec::new();
    while frames.len() < count
        && let Some(frame) = source.next_frame()?
    {
        frames.push(frame.covering(side, side));
    }
    if frames.len() < 2 {
        return Err(usage(format!("{}: has fewer than 2 frames, and flicker needs a pair", clip.display())));
    }
    Ok(frames)
}
