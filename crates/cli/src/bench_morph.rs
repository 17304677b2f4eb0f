//! `refrain bench morph`: over many pairs of pictures, what injection, captions and anchors each add, beside the baselines.

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use clap::Args;
use refrain_cache::policies::Off;
use refrain_media::{LoadOptions, load_picture};
use refrain_metrics::mean;
use refrain_morph::judge::{Judgement, cross_fade, judge, latent_slerp};
use refrain_morph::pace::{Ease, places};
use refrain_morph::schedule::{Cuts, Mode};
use refrain_morph::similarity::Backbone;
use refrain_morph::text::Texts;
use refrain_morph::{Morpher, Settings};
use refrain_pipeline::Pipeline;

use crate::builtin::NamedModel;
use crate::errors::{interrupted, usage, usage_because};
use crate::events::{Console, Verbosity};
use crate::morph::{of_morph, of_picture, tensor};
use crate::{interrupt, machine, output};

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
    #[arg(long, value_name = "W", value_delimiter = ',', default_value = "0.4")]
    pub(crate) inject: Vec<f32>,
    /// Injection modes to compare
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_value = "convex")]
    pub(crate) inject_mode: Vec<String>,
    /// Model folder, or `builtin`
    #[arg(short, long, value_name = "FOLDER")]
    pub(crate) model: Option<PathBuf>,
    /// Threads [default: all cores]
    #[arg(short, long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// Write the table (Markdown) here as well
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

struct Pair {
    pictures: [PathBuf; 2],
    prompts: [String; 2],
    anchor: Option<String>,
}

/// What is compared: a name, the texts it may use, and its injection.
struct Variant {
    name: String,
    captions: bool,
    anchor: bool,
    injection: Option<(f32, Mode)>,
}

/// Runs all pairs and prints the table.
///
/// # Errors
/// A list or a picture that cannot be read (exit 2), or what the model does.
pub(crate) fn run(options: &BenchMorphOptions, verbosity: Verbosity) -> anyhow::Result<()> {
    let pairs = read(&options.pairs)?;
    let variants = variants(options)?;
    if let Some(path) = &options.output {
        output::prepare_file(path)?;
    }
    machine::set_threads(options.threads)?;
    interrupt::listen();
    let console = Console::new(verbosity, false, false);
    let model = NamedModel::find(options.model.as_deref())?;
    machine::in_pool(|| {
        let pipeline = Pipeline::load(&model.source, refrain_pipeline::LoadOptions::default())?;
        let (height, width) = pipeline.default_size();
        let backbone = Backbone::new(&pipeline, (height, width)).map_err(of_morph)?;
        let mut found: Vec<Vec<Judgement>> = variants.iter().map(|_| Vec::new()).collect();
        let mut baselines: [Vec<Judgement>; 2] = [Vec::new(), Vec::new()];
        for (index, pair) in pairs.iter().enumerate() {
            let ends = pictures(pair, (width, height))?;
            let (first, last) = (ends.narrow(0, 0, 1)?, ends.narrow(0, 1, 1)?);
            let around = (&first, &last);
            let faded = cross_fade(around, options.frames).map_err(of_morph)?;
            let slerped = latent_slerp(&pipeline, around, options.frames).map_err(of_morph)?;
            baselines[0].push(judge(&backbone, &faded, around).map_err(of_morph)?);
            baselines[1].push(judge(&backbone, &slerped, around).map_err(of_morph)?);
            for (variant, found) in variants.iter().zip(&mut found) {
                let frames = morph(&pipeline, options, (pair, &ends), variant)?;
                found.push(judge(&backbone, &frames, around).map_err(of_morph)?);
            }
            console.note(&format!("{} of {}", index + 1, pairs.len()));
            if interrupt::requested() {
                return Err(interrupted(format!("stopped after {} of {} pairs", index + 1, pairs.len())));
            }
        }
        let names = ["cross-fade", "latent slerp"].map(str::to_owned);
        let rows: Vec<(String, &[Judgement])> = names
            .into_iter()
            .zip(&baselines)
            .chain(variants.iter().map(|variant| variant.name.clone()).zip(&found))
            .map(|(name, judged)| (name, judged.as_slice()))
            .collect();
        let mut text = table(&rows);
        let _ = writeln!(
            text,
            "\n{} pairs, {} frames, {} steps both ways, model {}; likeness: {}.",
            pairs.len(),
            options.frames,
            options.steps,
            model.name,
            backbone.name()
        );
        if let Some(path) = &options.output {
            output::write_file(path, text.as_bytes())?;
        }
        console.result(text.trim_end())
    })
}

fn variants(options: &BenchMorphOptions) -> anyhow::Result<Vec<Variant>> {
    let variant =
        |name: &str, captions, anchor, injection| Variant { name: name.to_owned(), captions, anchor, injection };
    let mut found = vec![
        variant("no captions, no injection", false, false, None),
        variant("captions, no injection", true, false, None),
    ];
    for name in &options.inject_mode {
        let mode: Mode = name.parse().map_err(usage_because)?;
        for &weight in &options.inject {
            let injection = Some((weight, mode));
            found.push(variant(&format!("injection {name} {weight}"), true, false, injection));
            found.push(variant(&format!("injection {name} {weight}, anchor"), true, true, injection));
        }
    }
    Ok(found)
}

fn morph(
    pipeline: &Pipeline,
    options: &BenchMorphOptions,
    (pair, ends): (&Pair, &Tensor),
    variant: &Variant,
) -> anyhow::Result<Tensor> {
    let settings = Settings {
        inversion_steps: options.steps,
        denoising_steps: options.steps,
        weight: variant.injection.map_or(0.0, |(weight, _)| weight),
        mode: variant.injection.map_or(Mode::default(), |(_, mode)| mode),
        cuts: Cuts::THIRDS,
        ..Settings::default()
    };
    let (_, _, height, width) = ends.dims4()?;
    let morpher = Morpher::new(pipeline, settings, (height, width)).map_err(of_morph)?;
    let prompts = if variant.captions { pair.prompts.to_vec() } else { vec![String::new(); 2] };
    let anchor = pair.anchor.as_deref().filter(|_| variant.anchor);
    let texts = Texts::encode(pipeline, &prompts, anchor).map_err(of_morph)?;
    let mut watch = |_| ControlFlow::Continue(());
    let keyframes = morpher.invert(ends, texts, &mut watch).map_err(of_morph)?;
    let all = places(options.frames, &[1.0], Ease::Linear, false).map_err(of_morph)?;
    let mut frames = vec![ends.narrow(0, 0, 1)?];
    let inner = all.get(1..options.frames.saturating_sub(1)).unwrap_or_default();
    for batch in inner.chunks(morpher.settings().batch) {
        let made = morpher.render(&keyframes, batch, Box::new(Off), &mut watch).map_err(of_morph)?;
        frames.push(morpher.decode(&made.latents).map_err(of_morph)?);
    }
    frames.push(ends.narrow(0, 1, 1)?);
    Ok(Tensor::cat(&frames, 0)?)
}

fn pictures(pair: &Pair, (width, height): (usize, usize)) -> anyhow::Result<Tensor> {
    let load = |path: &Path| -> anyhow::Result<_> {
        let picture = load_picture(path, &LoadOptions::default()).map_err(of_picture)?;
        Ok(picture.resized(width as u32, height as u32))
    };
    tensor(&[load(&pair.pictures[0])?, load(&pair.pictures[1])?])
}

/// The list; paths are relative to its folder.
fn read(path: &Path) -> anyhow::Result<Vec<Pair>> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| usage(format!("{shown}: {error}")))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut pairs = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'))
    {
        let mut cells = line.split('\t').map(str::trim);
        let mut cell = || cells.next().unwrap_or_default().to_owned();
        let (first, second, prompt, other, anchor) = (cell(), cell(), cell(), cell(), cell());
        if first.is_empty() || second.is_empty() {
            return Err(usage(format!("{shown}: line {}: expected two pictures, separated by a tab", number + 1)));
        }
        pairs.push(Pair {
            pictures: [folder.join(first), folder.join(second)],
            prompts: [prompt, other],
            anchor: Some(anchor).filter(|anchor| !anchor.is_empty()),
        });
    }
    if pairs.is_empty() {
        return Err(usage(format!("{shown}: holds no pairs")));
    }
    Ok(pairs)
}

/// Mean ± standard deviation over the pairs, as Markdown.
fn table(rows: &[(String, &[Judgement])]) -> String {
    let mut text = String::from(
        "| sequence | GLCS | global | local | path | largest step | pixel path | largest pixel step | from A | to B |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    for (name, judged) in rows {
        let cell = |value: fn(&Judgement) -> f64, digits: usize| {
            let values: Vec<f64> = judged.iter().map(value).collect();
            let middle = mean(&values).unwrap_or(f64::NAN);
            let squares: f64 = values.iter().map(|value| (value - middle) * (value - middle)).sum();
            let deviation = (squares / (values.len().max(2) - 1) as f64).sqrt();
            format!("{middle:.digits$} ± {deviation:.digits$}")
        };
        let cells = [
            cell(|row| 100.0 * row.glcs.glcs, 2),
            cell(|row| 100.0 * row.glcs.global, 2),
            cell(|row| 100.0 * row.glcs.local, 2),
            cell(|row| row.path.sum, 3),
            cell(|row| row.path.max, 3),
            cell(|row| row.pixel_path.sum, 3),
            cell(|row| row.pixel_path.max, 3),
            cell(|row| row.leaves_first, 2),
            cell(|row| row.nears_last, 2),
        ];
        let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
    }
    text
}
