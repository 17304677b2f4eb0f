//! `refrain morph calibrate`: which depth suits which step, by the frequencies of a model's own features.

use std::path::PathBuf;

use clap::Args;
use refrain_morph::calibrate::{Calibration, unwatched};
use refrain_morph::text::Texts;
use refrain_morph::{Morpher, Settings};
use refrain_pipeline::{LoadOptions, Pipeline};

use super::{of_morph, pictures, tensor};
use crate::builtin::NamedModel;
use crate::errors::interrupted;
use crate::events::{Console, Verbosity};
use crate::{interrupt, machine, output};

/// `refrain morph calibrate` as typed.
#[derive(Debug, Clone, Args)]
pub(crate) struct CalibrateOptions {
    /// Pictures of the kind that will be morphed; a few are enough
    #[arg(value_name = "PICTURE", required = true)]
    pub(crate) pictures: Vec<PathBuf>,
    /// Where to write the schedule, for `morph --inject-schedule FILE`
    #[arg(short, long, value_name = "FILE", default_value = "inject-schedule.json")]
    pub(crate) output: PathBuf,
    /// Steps from picture to noise
    #[arg(long, value_name = "N", default_value_t = 25)]
    pub(crate) steps: usize,
    /// Model folder in the diffusers layout, or `builtin` [default: builtin-unet]
    #[arg(short, long, value_name = "FOLDER")]
    pub(crate) model: Option<PathBuf>,
    /// Threads [default: all cores]
    #[arg(short, long, value_name = "N")]
    pub(crate) threads: Option<usize>,
}

/// Inverts the pictures one by one and writes the cuts.
///
/// # Errors
/// A picture that cannot be read (exit 2), or what model, disk or user do.
pub(super) fn run(options: &CalibrateOptions, verbosity: Verbosity) -> anyhow::Result<()> {
    output::prepare_file(&options.output)?;
    machine::set_threads(options.threads)?;
    interrupt::listen();
    let console = Console::new(verbosity, false, false);
    let loaded = pictures::load(&options.pictures, [255; 3], &console)?;
    let model = NamedModel::find_morpher(options.model.as_deref())?;
    machine::in_pool(|| {
        let pipeline = Pipeline::load(&model.source, LoadOptions::default())?;
        let (height, width) = pipeline.default_size();
        let settings = Settings {
            inversion_steps: options.steps,
            denoising_steps: options.steps,
            rung: Some(refrain_morph::memory::Rung::F32),
            ..Settings::default()
        };
        let morpher = Morpher::new(&pipeline, settings, (height, width)).map_err(of_morph)?;
        let mut calibration = Calibration::default();
        for picture in &loaded {
            if interrupt::requested() {
                return Err(interrupted("stopped; nothing was written"));
            }
            let picture = picture.resized(width as u32, height as u32);
            let texts = Texts::encode(&pipeline, &[String::new()], None).map_err(of_morph)?;
            calibration.add(&morpher, &tensor(&[picture])?, texts, &mut unwatched).map_err(of_morph)?;
        }
        let turns = calibration.turns().map_err(of_morph)?;
        for (name, bands) in ["early", "middle", "late"].into_iter().zip(calibration.prototypes()) {
            let bands: Vec<String> = bands.iter().map(|band| format!("{band:.3}")).collect();
            console.note(&format!("{name:<7} {}", bands.join(" ")));
        }
        output::write_file(&options.output, (serde_json::to_string_pretty(&turns)? + "\n").as_bytes())?;
        console.result(&format!(
            "{}: early until {:.2}, middle until {:.2} of the steps",
            options.output.display(),
            turns.early.1,
            turns.middle.1
        ))
    })
}
