//! `refrain eval morph`: how good the frames of a morph are, beside the two baselines that any morph has to beat.

use std::path::PathBuf;

use candle_core::Tensor;
use clap::Args;
use refrain_media::sequence::{SourceOptions, open_source};
use refrain_media::{LoadOptions, Picture, load_picture};
use refrain_morph::judge::{GAMMA, Judgement, Pace, cross_fade, judge, latent_slerp};
use refrain_morph::similarity::Backbone;
use refrain_pipeline::Pipeline;
use serde_json::json;

use crate::builtin::NamedModel;
use crate::errors::{usage, usage_because};
use crate::events::Verbosity;
use crate::machine;
use crate::morph::{of_morph, of_picture, tensor};

/// Most frames that are judged.
const MOST_FRAMES: usize = 4096;

/// `refrain eval morph` as typed.
#[derive(Debug, Clone, Args)]
pub(crate) struct EvalMorphOptions {
    /// The frames: a folder, or a clip (.gif, .png, .y4m)
    #[arg(value_name = "DIR|CLIP")]
    pub(crate) frames: PathBuf,
    /// The picture that they lead from
    #[arg(long, value_name = "PICTURE")]
    pub(crate) a: PathBuf,
    /// The picture that they lead to
    #[arg(long, value_name = "PICTURE")]
    pub(crate) b: PathBuf,
    /// The model that judges likeness: a folder in the diffusers layout, or `builtin`
    #[arg(short, long, value_name = "FOLDER")]
    pub(crate) model: Option<PathBuf>,
    /// Threads [default: all cores]
    #[arg(short, long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// Print JSON instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

/// Judges and prints.
///
/// # Errors
/// Frames or pictures that cannot be read or do not fit (exit 2).
pub(crate) fn run(options: &EvalMorphOptions, _verbosity: Verbosity) -> anyhow::Result<()> {
    machine::set_threads(options.threads)?;
    machine::in_pool(|| judge_all(options))
}

fn judge_all(options: &EvalMorphOptions) -> anyhow::Result<()> {
    let frames = frames(options)?;
    let size = frames.first().map(|frame| (frame.width(), frame.height())).unwrap_or_default();
    let picture = |path: &PathBuf| -> anyhow::Result<Tensor> {
        let picture = load_picture(path, &LoadOptions::default()).map_err(of_picture)?;
        tensor(&[picture.resized(size.0, size.1)])
    };
    let (first, last) = (picture(&options.a)?, picture(&options.b)?);
    let model = NamedModel::find(options.model.as_deref())?;
    let pipeline = Pipeline::load(&model.source, refrain_pipeline::LoadOptions::default())?;
    let shape = (size.1 as usize, size.0 as usize);
    let backbone = Backbone::new(&pipeline, shape).map_err(of_morph)?;
    let ends = (&first, &last);
    let count = frames.len();
    let frames = tensor(&frames)?;
    let mut rows = vec![("frames", judge(&backbone, &frames, ends))];
    for (fade, slerp, pace) in [
        ("cross-fade", "latent slerp", Pace::Uniform),
        ("cross-fade, even", "latent slerp, even", Pace::Even(&backbone)),
    ] {
        let faded = cross_fade(ends, count, pace).and_then(|frames| judge(&backbone, &frames, ends));
        let slerped = latent_slerp(&pipeline, ends, count, pace).and_then(|frames| judge(&backbone, &frames, ends));
        rows.extend([(fade, faded), (slerp, slerped)]);
    }
    let mut judged = Vec::with_capacity(rows.len());
    for (name, row) in rows {
        judged.push((name, row.map_err(of_morph)?));
    }
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    if options.json {
        let rows: serde_json::Map<String, serde_json::Value> = judged
            .iter()
            .map(|(name, row)| Ok(((*name).to_owned(), serde_json::to_value(row)?)))
            .collect::<Result<_, serde_json::Error>>()?;
        let all = json!({ "backbone": backbone.name(), "model": model.name, "gamma": GAMMA, "frames": count, "sequences": rows });
        writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
    } else {
        write!(out, "{}", table(&judged))?;
        writeln!(
            out,
            "likeness: {} of {}; GLCS with gamma {GAMMA}, linear interpolation",
            backbone.name(),
            model.name
        )?;
    }
    Ok(())
}

/// The frames, all of one size.
fn frames(options: &EvalMorphOptions) -> anyhow::Result<Vec<Picture>> {
    let mut source = open_source(&options.frames, SourceOptions::default()).map_err(usage_because)?;
    let mut frames = Vec::new();
    while let Some(frame) = source.next_frame().map_err(usage_because)? {
        frames.push(frame);
        if frames.len() > MOST_FRAMES {
            return Err(usage(format!("{}: more than {MOST_FRAMES} frames", options.frames.display())));
        }
    }
    Ok(frames)
}

/// One row per sequence.
pub(crate) fn table(rows: &[(&str, Judgement)]) -> String {
    let mut text = format!(
        "{:<18} {:>6} {:>6} {:>6}  {:>7} {:>7} {:>9}  {:>7} {:>7}  {:>6} {:>6}  {:>7} {:>7}\n",
        "",
        "GLCS",
        "global",
        "local",
        "path",
        "largest",
        "variance",
        "rms sum",
        "rms max",
        "from A",
        "to B",
        "A dB",
        "B dB"
    );
    let decibels = |value: Option<f64>| value.map_or_else(|| "equal".to_owned(), |value| format!("{value:.1}"));
    for (name, row) in rows {
        let Judgement { glcs, path, pixel_path, .. } = row;
        text += &format!(
            "{name:<18} {:>6.2} {:>6.2} {:>6.2}  {:>7.4} {:>7.4} {:>9.2e}  {:>7.4} {:>7.4}  {:>6.2} {:>6.2}  {:>7} {:>7}\n",
            100.0 * glcs.glcs,
            100.0 * glcs.global,
            100.0 * glcs.local,
            path.sum,
            path.max,
            path.variance,
            pixel_path.sum,
            pixel_path.max,
            row.leaves_first,
            row.nears_last,
            decibels(row.first_psnr),
            decibels(row.last_psnr),
        );
    }
    text
}
