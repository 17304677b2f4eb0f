//! The plan of work of `morph`: the flags, checked against each other, before a picture or a model is loaded.

use std::path::{Path, PathBuf};

use refrain_media::sequence::{FrameRate, SequenceFormat};
use refrain_media::{Picture, Rgb};
use refrain_morph::memory::Rung;
use refrain_morph::pace::{Ease, Place, places};
use refrain_morph::schedule::{Parts, Turns};
use refrain_morph::text::{RELIABLE, RELIABLE_BUILTIN, RELIABLE_BUILTIN_UNET};
use refrain_morph::{Inverter, MorphError, Settings};
use refrain_ops::Precision;

use super::options::{InverterName, MorphOptions, Pacing};
use super::pictures;
use crate::builtin::{self, NamedModel};
use crate::cache::CacheChoice;
use crate::errors::{usage, usage_because};
use crate::events::Console;
use crate::output;

/// Most frames of a segment.
const MOST_FRAMES: usize = 240;
/// Largest injection schedule: three numbers.
const LARGEST_SCHEDULE: u64 = 64 << 10;

/// Everything that `morph` will do, apart from what depends on pictures and model.
pub(crate) struct Work {
    pub(crate) options: MorphOptions,
    pub(crate) model: NamedModel,
    pub(crate) precision: Precision,
    pub(crate) settings: Settings,
    pub(crate) cache: CacheChoice,
    pub(crate) pacing: Pacing,
    /// Least similarity of the anchor to the prompts.
    pub(crate) anchor_gate: f64,
    pub(crate) background: Rgb,
    /// One entry per frame.
    pub(crate) places: Vec<Place>,
    pub(crate) rate: FrameRate,
    /// The container; `Folder` keeps every finished frame.
    pub(crate) format: SequenceFormat,
    /// Where the contact sheet goes; none beside standard output.
    pub(crate) sheet: Option<PathBuf>,
}

impl Work {
    /// Checks the flags.
    ///
    /// # Errors
    /// Whatever in them makes no sense (exit 2), or a place that cannot be written (exit 3).
    pub(crate) fn plan(options: MorphOptions) -> anyhow::Result<Self> {
        let seconds = seconds(&options)?;
        if options.frames > MOST_FRAMES * seconds.len() {
            let most = MOST_FRAMES * seconds.len();
            return Err(usage(format!(
                "--frames must be at most {most}, 240 for each segment, got {}",
                options.frames
            )));
        }
        let ease: Ease = options.ease.parse().map_err(usage_because)?;
        let found = places(options.frames, &seconds, ease, options.looped);
        let places = found.map_err(|error| usage(format!("--{error}")))?;
        let steps = places.len() as f64 - if options.looped { 0.0 } else { 1.0 };
        let milliseconds = 1000.0 * seconds.iter().sum::<f64>() / steps;
        let rate = FrameRate::from_milliseconds(milliseconds)
            .ok_or_else(|| usage("--seconds: the frame rate would be outside what clips can hold"))?;
        let format = SequenceFormat::from_path(&options.output).map_err(usage_because)?;
        if options.resume && format != SequenceFormat::Folder {
            return Err(usage("--resume: only a folder of frames can be gone on with; name one with -o"));
        }
        let sheet = sheet(&options);
        output_is_writable(&options, format, sheet.as_deref())?;
        let model = NamedModel::find_morpher(options.model.as_deref())?;
        Ok(Self {
            pacing: options.schedule.unwrap_or(match options.inverter {
                InverterName::Ddim => Pacing::Even,
                InverterName::Belm => Pacing::Uniform,
            }),
            anchor_gate: anchor_gate(options.anchor_gate, &model)?,
            model,
            precision: options.dtype.parse().map_err(|error: refrain_ops::OpsError| usage_because(error))?,
            settings: settings(&options)?,
            cache: CacheChoice::parse(Some(&options.cache), &options.cache_option)?,
            background: pictures::colour(&options.background)?,
            places,
            rate,
            format,
            sheet,
            options,
        })
    }

    /// The keyframes, upright and opaque.
    ///
    /// # Errors
    /// A file that is no picture, too large or too small (exit 2 or 3).
    pub(crate) fn load_pictures(&self, console: &Console) -> anyhow::Result<Vec<Picture>> {
        pictures::load(&self.options.pictures, self.background, console)
    }
}

/// Seconds of each segment.
fn seconds(options: &MorphOptions) -> anyhow::Result<Vec<f64>> {
    let segments = options.pictures.len() - usize::from(!options.looped);
    if let Some(bad) = options.seconds.iter().find(|time| !(time.is_finite() && **time > 0.0 && **time <= 3600.0)) {
        return Err(usage(format!("--seconds must be above 0 and at most 3600, got {bad}")));
    }
    match options.seconds.as_slice() {
        [] => Ok(vec![1.0; segments]),
        [all] => Ok(vec![*all; segments]),
        each if each.len() == segments => Ok(each.to_vec()),
        each => {
            Err(usage(format!("--seconds: {} times for {segments} segments; give one for each, or one", each.len())))
        }
    }
}

/// The gate of the call, or the one that belongs to the model's text encoder.
///
/// # Errors
/// A number that is no cosine (exit 2).
pub(crate) fn anchor_gate(asked: Option<f64>, model: &NamedModel) -> anyhow::Result<f64> {
    match asked {
        Some(gate) if (-1.0..=1.0).contains(&gate) => Ok(gate),
        Some(gate) => Err(usage(format!("--anchor-gate must be a cosine, between -1 and 1, got {gate}"))),
        None if model.name == builtin::NAME => Ok(RELIABLE_BUILTIN),
        None if model.name == builtin::UNET => Ok(RELIABLE_BUILTIN_UNET),
        None => Ok(RELIABLE),
    }
}

fn settings(options: &MorphOptions) -> anyhow::Result<Settings> {
    let mut turns = turns(&options.inject_schedule)?;
    if let Some(until) = options.inject_until {
        if !(0.0..=1.0).contains(&until) {
            return Err(usage(format!("--inject-until must be between 0 and 1, got {until}")));
        }
        turns = turns.until(until);
    }
    let of_flags = |error: MorphError| usage(error.to_string());
    Ok(Settings {
        inversion_steps: options.inversion_steps.unwrap_or(options.steps),
        denoising_steps: options.steps,
        inverter: match options.inverter {
            InverterName::Ddim => Inverter::Ddim,
            InverterName::Belm => Inverter::Belm,
        },
        refinements: options.refinements,
        guidance_scale: options.cfg_scale,
        weight: options.inject.settled(),
        mode: options.inject_mode.parse().map_err(of_flags)?,
        turns,
        parts: Parts::parse(&options.inject_parts).map_err(of_flags)?,
        batch: options.batch,
        memory: options.cache_memory.as_deref().map(bytes).transpose()?.or(Settings::default().memory),
        rung: options.cache_storage.as_deref().map(str::parse::<Rung>).transpose().map_err(of_flags)?,
        ..Settings::default()
    })
}

/// `thirds`, `fft`, `throughout`, or a file.
///
/// # Errors
/// A file that is none (exit 2).
pub(crate) fn turns(name: &str) -> anyhow::Result<Turns> {
    match name {
        "thirds" => return Ok(Turns::THIRDS),
        "fft" => return Ok(Turns::BUILTIN_FFT),
        "throughout" => return Ok(Turns::THROUGHOUT),
        _ => {}
    }
    let wrong = |why: String| usage(format!("--inject-schedule {name}: {why}"));
    let size = std::fs::metadata(name).map_err(|error| wrong(error.to_string()))?.len();
    if size > LARGEST_SCHEDULE {
        return Err(wrong(format!("{size} bytes are no schedule")));
    }
    let text = std::fs::read_to_string(name).map_err(|error| wrong(error.to_string()))?;
    Turns::from_json(&text).map_err(|error| wrong(error.to_string()))
}

/// A number of bytes: `512MiB`, `2GB`, `100000`.
fn bytes(text: &str) -> anyhow::Result<usize> {
    let wrong = || usage(format!("--cache-memory {text}: expected a size such as 512MiB, 2GiB or 800MB"));
    let at = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let factor: f64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kib" => 1024.0,
        "kb" => 1e3,
        "m" | "mib" => 1_048_576.0,
        "mb" => 1e6,
        "g" | "gib" => 1_073_741_824.0,
        "gb" => 1e9,
        _ => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    Ok((number * factor) as usize)
}

/// Where the contact sheet goes: beside the output, never among its frames.
fn sheet(options: &MorphOptions) -> Option<PathBuf> {
    if options.sheet.is_some() || options.output.as_os_str() == "-" {
        return options.sheet.clone();
    }
    let stem = options.output.file_stem().map_or_else(|| "morph".into(), |stem| stem.to_string_lossy().into_owned());
    Some(options.output.with_file_name(format!("{stem}-sheet.png")))
}

/// Finds out before the work begins that its result could not be written.
fn output_is_writable(options: &MorphOptions, format: SequenceFormat, sheet: Option<&Path>) -> anyhow::Result<()> {
    if let Some(sheet) = sheet {
        output::prepare_file(sheet)?;
    }
    if format == SequenceFormat::Folder {
        return super::folder::prepare(&options.output, options.resume);
    }
    if options.output.as_os_str() != "-" {
        output::prepare_file(&options.output)?;
    }
    Ok(())
}
