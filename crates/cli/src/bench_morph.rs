//! `refrain bench morph`: over many pairs of pictures, what injection, captions and anchors each add, beside the baselines.

mod pairs;
mod table;

use std::collections::HashSet;
use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use candle_core::Tensor;
use clap::Args;
use refrain_metrics::psnr;
use refrain_morph::judge::{Pace, cross_fade, judge, latent_slerp};
use refrain_morph::pace::{Ease, Place, places};
use refrain_morph::schedule::{Mode, Parts};
use refrain_morph::similarity::Backbone;
use refrain_morph::text::Texts;
use refrain_morph::{Keyframes, Morpher, Settings};
use refrain_pipeline::Pipeline;

use crate::builtin::NamedModel;
use crate::cache::CacheChoice;
use crate::errors::{interrupted, usage, usage_because};
use crate::events::{Console, Verbosity};
use crate::morph::{DEFAULT_PARTS, DEFAULT_SCHEDULE, InjectionWeight, Pacing, anchor_gate, of_morph, turns};
use crate::{interrupt, machine, output};
use pairs::{Pair, pictures};
use table::{Cost, Row, differences};

/// `refrain bench morph` as typed.
#[derive(Debug, Clone, Args)]
pub(crate) struct BenchMorphOptions {
    /// Pairs, one a line: picture, picture, prompt, prompt and anchor, separated by tabs (texts may be left out)
    #[arg(value_name = "TSV")]
    pub(crate) pairs: PathBuf,
    /// Frames of each morph, both ends included
    #[arg(long, value_name = "N", default_value_t = 7)]
    pub(crate) frames: usize,
    /// Steps both ways
    #[arg(long, value_name = "N", default_value_t = 25)]
    pub(crate) steps: usize,
    /// Injection weights to compare
    #[arg(long, value_name = "W|auto", value_delimiter = ',', default_values_t = [InjectionWeight::Auto])]
    pub(crate) inject: Vec<InjectionWeight>,
    /// Injection modes to compare
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_value = "convex")]
    pub(crate) inject_mode: Vec<String>,
    /// Which depth is injected when, as of `morph`
    #[arg(long, value_name = "NAME|FILE", default_value = DEFAULT_SCHEDULE)]
    pub(crate) inject_schedule: String,
    /// What is injected, as of `morph`
    #[arg(long, value_name = "PARTS", default_value = DEFAULT_PARTS)]
    pub(crate) inject_parts: String,
    /// Least cosine between an anchor and its prompts, as of `morph`
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) anchor_gate: Option<f64>,
    /// Cache policies for the frames of the first injection, as of `morph`: each is timed and measured against the frames
    /// without it; repeatable
    #[arg(long, value_name = "MODE|FILE")]
    pub(crate) cache: Vec<String>,
    /// Pace of all generated sequences
    #[arg(long, value_enum, default_value_t = Pacing::Even)]
    pub(crate) schedule: Pacing,
    /// Model folder, or `builtin` [default: builtin-unet]
    #[arg(short, long, value_name = "FOLDER")]
    pub(crate) model: Option<PathBuf>,
    /// The model that judges likeness [default: the built-in one]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) judge: Option<PathBuf>,
    /// Threads [default: all cores]
    #[arg(short, long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// Write the tables (Markdown) here as well, anew after every pair
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

/// What is compared: a name, the texts it may use, and its injection.
struct Variant {
    name: String,
    captions: bool,
    anchor: bool,
    injection: Option<(InjectionWeight, Mode)>,
    cache: CacheChoice,
}

/// A sequence of one pair.
struct Sequence {
    name: String,
    /// `[frames, 3, height, width]`
    frames: Tensor,
    cost: Option<Cost>,
}

/// Runs all pairs and prints the tables.
///
/// # Errors
/// A list or a picture that cannot be read (exit 2), or what the model does.
pub(crate) fn run(options: &BenchMorphOptions, verbosity: Verbosity) -> anyhow::Result<()> {
    if !(3..=240).contains(&options.frames) {
        return Err(usage(format!("--frames must be between 3 and 240, got {}", options.frames)));
    }
    let pairs = pairs::read(&options.pairs)?;
    let variants = variants(options, pairs.iter().any(|pair| pair.anchor.is_some()))?;
    let settings = settings(options)?;
    if let Some(path) = &options.output {
        output::prepare_file(path)?;
    }
    machine::set_threads(options.threads)?;
    interrupt::listen();
    let console = Console::new(verbosity, false, false);
    let model = NamedModel::find_morpher(options.model.as_deref())?;
    let judging = NamedModel::find(options.judge.as_deref())?;
    machine::in_pool(|| {
        let pipeline = Pipeline::load(&model.source, refrain_pipeline::LoadOptions::default())?;
        let judging = Pipeline::load(&judging.source, refrain_pipeline::LoadOptions::default())?;
        let size = pipeline.default_size();
        let bench = Bench {
            options,
            variants: &variants,
            settings,
            gate: anchor_gate(options.anchor_gate, &model)?,
            backbone: Backbone::new(&judging, size).map_err(of_morph)?,
            pipeline: &pipeline,
            size,
        };
        let mut rows: Vec<Row> = Vec::new();
        for (index, pair) in pairs.iter().enumerate() {
            for Sequence { name, frames, cost } in bench.sequences(pair)? {
                let ends = (&frames.narrow(0, 0, 1)?, &frames.narrow(0, options.frames - 1, 1)?);
                let judged = judge(&bench.backbone, &frames, ends).map_err(of_morph)?;
                let index = rows.iter().position(|row| row.name == name).unwrap_or_else(|| {
                    rows.push(Row { name, judged: Vec::new(), costs: Vec::new() });
                    rows.len() - 1
                });
                if let Some(row) = rows.get_mut(index) {
                    row.judged.push(judged);
                    row.costs.extend(cost);
                }
            }
            let text = bench.report(&rows, &model.name)?;
            if let Some(path) = &options.output {
                output::write_file(path, text.as_bytes())?;
            }
            console.note(&format!("{} of {}", index + 1, pairs.len()));
            if interrupt::requested() {
                console.result(text.trim_end())?;
                return Err(interrupted(format!("stopped after {} of {} pairs", index + 1, pairs.len())));
            }
        }
        console.result(bench.report(&rows, &model.name)?.trim_end())
    })
}

/// Those that the options ask for; with `anchored`, each injection with an anchor as well.
fn variants(options: &BenchMorphOptions, anchored: bool) -> anyhow::Result<Vec<Variant>> {
    let off = CacheChoice::parse(None, &[])?;
    let variant = |name: &str, captions, anchor, injection| Variant {
        name: name.to_owned(),
        captions,
        anchor,
        injection,
        cache: off.clone(),
    };
    let mut found = vec![
        variant("no captions, no injection", false, false, None),
        variant("captions, no injection", true, false, None),
    ];
    for name in &options.inject_mode {
        let mode: Mode = name.parse().map_err(usage_because)?;
        for &weight in &options.inject {
            let injection = Some((weight, mode));
            found.push(variant(&format!("injection {name} {weight}"), true, false, injection));
            if anchored {
                found.push(variant(&format!("injection {name} {weight}, anchor"), true, true, injection));
            }
        }
    }
    for spelling in &options.cache {
        let cache = CacheChoice::parse(Some(spelling), &[])?;
        let (Some(name), Some(&weight)) = (options.inject_mode.first(), options.inject.first()) else { continue };
        let injection = Some((weight, name.parse().map_err(usage_because)?));
        let cached = variant(&format!("injection {name} {weight}, {spelling}"), true, false, injection);
        found.push(Variant { cache, ..cached });
    }
    Ok(found)
}

/// What all variants share.
fn settings(options: &BenchMorphOptions) -> anyhow::Result<Settings> {
    Ok(Settings {
        inversion_steps: options.steps,
        denoising_steps: options.steps,
        turns: turns(&options.inject_schedule)?,
        parts: Parts::parse(&options.inject_parts).map_err(of_morph)?,
        ..Settings::default()
    })
}

struct Bench<'a> {
    options: &'a BenchMorphOptions,
    variants: &'a [Variant],
    settings: Settings,
    gate: f64,
    pipeline: &'a Pipeline,
    backbone: Backbone<'a>,
    size: (usize, usize),
}

impl Bench<'_> {
    /// All sequences of a pair `[frames, 3, height, width]`, the baselines first.
    fn sequences(&self, pair: &Pair) -> anyhow::Result<Vec<Sequence>> {
        let ends = pictures(pair, (self.size.1, self.size.0))?;
        let around = (&ends.narrow(0, 0, 1)?, &ends.narrow(0, 1, 1)?);
        let count = self.options.frames;
        let mut found = Vec::new();
        for (name, pace) in [("", Pace::Uniform), (", even pace", Pace::Even(&self.backbone))] {
            let faded = cross_fade(around, count, pace).map_err(of_morph)?;
            let slerped = latent_slerp(self.pipeline, around, count, pace).map_err(of_morph)?;
            for (kind, frames) in [("cross-fade", faded), ("latent slerp", slerped)] {
                found.push(Sequence { name: format!("{kind}{name}"), frames, cost: None });
            }
        }
        let morphers: Vec<Morpher<'_>> =
            self.variants.iter().map(|variant| self.morpher(variant)).collect::<anyhow::Result<_>>()?;
        // Variants with the same texts share their inversion: it keeps what any of them reads.
        for captions in [false, true] {
            let chosen: Vec<_> =
                self.variants.iter().zip(&morphers).filter(|(variant, _)| variant.captions == captions).collect();
            let Some((_, first)) = chosen.first() else { continue };
            let reads: HashSet<_> = chosen.iter().flat_map(|(_, morpher)| morpher.table().reads()).collect();
            let texts = self.texts(pair, captions, false)?;
            let began = Instant::now();
            let mut keyframes = first.invert_for(&ends, texts, reads, &mut unwatched).map_err(of_morph)?;
            let inversion = began.elapsed().as_secs_f64();
            let mut uncached: Option<Tensor> = None;
            for (variant, morpher) in chosen {
                keyframes.anchor(self.texts(pair, captions, variant.anchor)?);
                let began = Instant::now();
                let frames = self.frames((morpher, variant), &keyframes, &ends)?;
                let rendering = began.elapsed().as_secs_f64();
                // The first injection of all is what cached ones are measured against.
                let fidelity = uncached.as_ref().filter(|_| !variant.cache.is_off()).map(|plain| least(plain, &frames));
                if variant.injection.is_some() && uncached.is_none() {
                    uncached = Some(frames.clone());
                }
                let cost = Some(Cost { inversion, rendering, fidelity: fidelity.transpose()? });
                found.push(Sequence { name: variant.name.clone(), frames, cost });
            }
        }
        Ok(found)
    }

    fn morpher(&self, variant: &Variant) -> anyhow::Result<Morpher<'_>> {
        let (weight, mode) = variant.injection.unwrap_or((InjectionWeight::Fixed(0.0), Mode::default()));
        let settings = Settings { weight: weight.settled(), mode, ..self.settings.clone() };
        Morpher::new(self.pipeline, settings, self.size).map_err(of_morph)
    }

    fn texts(&self, pair: &Pair, captions: bool, anchor: bool) -> anyhow::Result<Texts> {
        let prompts = if captions { pair.prompts.to_vec() } else { vec![String::new(); 2] };
        let anchor = pair.anchor.as_deref().filter(|_| anchor);
        Ok(Texts::encode(self.pipeline, &prompts, anchor).map_err(of_morph)?.gated(self.gate))
    }

    fn frames(
        &self,
        (morpher, variant): (&Morpher<'_>, &Variant),
        keyframes: &Keyframes,
        ends: &Tensor,
    ) -> anyhow::Result<Tensor> {
        let mut all = places(self.options.frames, &[1.0], Ease::Linear, false).map_err(of_morph)?;
        let around = (keyframes, ends);
        let chosen;
        let morpher = match (self.options.schedule, variant.injection) {
            (Pacing::Uniform, _) => morpher,
            (Pacing::Even, Some((InjectionWeight::Auto, _))) => {
                let best = morpher.evened_at_its_best(around, &all, &self.backbone, &mut unwatched);
                (chosen, all) = best.map_err(of_morph)?;
                &chosen
            }
            (Pacing::Even, _) => {
                all = morpher.evened(around, &all, &self.backbone, &mut unwatched).map_err(of_morph)?;
                morpher
            }
        };
        let inner: Vec<Place> = all.into_iter().filter(|place| place.keyframe().is_none()).collect();
        let mut frames = vec![ends.narrow(0, 0, 1)?];
        for batch in inner.chunks(morpher.settings().batch) {
            let policy = variant.cache.policy(morpher.header())?;
            let made = morpher.render(keyframes, batch, policy, &mut unwatched).map_err(of_morph)?;
            frames.push(morpher.decode(&made.latents).map_err(of_morph)?);
        }
        frames.push(ends.narrow(0, 1, 1)?);
        Ok(Tensor::cat(&frames, 0)?)
    }

    /// Both tables and what they were made with.
    fn report(&self, rows: &[Row], model: &str) -> anyhow::Result<String> {
        let mut text = table::table(rows);
        let pairs = rows.first().map_or(0, |row| row.judged.len());
        let options = self.options;
        let (frames, steps, schedule) = (options.frames, options.steps, &options.inject_schedule);
        let pace = if options.schedule == Pacing::Even { "even" } else { "uniform" };
        write!(text, "\n{pairs} pairs, {frames} frames, {steps} steps both ways, model {model}, ")?;
        write!(text, "injected {schedule} into {}, pace {pace}; ", options.inject_parts)?;
        writeln!(text, "likeness: {}.\n", self.backbone.name())?;
        writeln!(text, "{}", table::costs(rows))?;
        let injected = self
            .variants
            .iter()
            .filter(|variant| variant.injection.is_some() && !variant.anchor && variant.cache.is_off());
        for variant in injected {
            if let Some(subject) = rows.iter().find(|row| row.name == variant.name) {
                writeln!(text, "{}", differences(subject, rows))?;
            }
        }
        Ok(text)
    }
}

/// The worst frame's PSNR in dB; both ends are the pictures themselves.
fn least(plain: &Tensor, frames: &Tensor) -> anyhow::Result<f64> {
    let (plain, frames) = (plain.flatten_from(1)?.to_vec2::<f32>()?, frames.flatten_from(1)?.to_vec2::<f32>()?);
    let mut least = f64::INFINITY;
    for (plain, frame) in plain.iter().zip(&frames) {
        least = least.min(psnr(plain, frame)?);
    }
    Ok(least)
}

fn unwatched(_: refrain_morph::Evaluation) -> ControlFlow<()> {
    ControlFlow::Continue(())
}
