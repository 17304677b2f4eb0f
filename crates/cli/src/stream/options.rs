//! The flags of `stream`.

#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "clap prints these comments as help, where shapes stand in brackets"
)]

use std::path::PathBuf;

use clap::Args;
use clap::builder::PossibleValuesParser;

use crate::gen_image::names;

/// `refrain stream` as typed.
#[derive(Debug, Clone, Args)]
pub(crate) struct StreamCallOptions {
    /// The clip: .y4m, .gif, .png (APNG), a folder of pictures, or `-` for one of these on standard input; with ffmpeg also
    /// .mp4, .webm, .mkv and whatever else that reads, webcam:N (/dev/videoN) and lavfi:SOURCE, a source filter
    #[arg(short, long, value_name = "FILE", help_heading = "Input")]
    pub(crate) input: PathBuf,
    /// The input is headerless RGB24 of this size, as ffmpeg -f rawvideo -pix_fmt rgb24 writes it
    #[arg(long, value_name = "WxH", help_heading = "Input")]
    pub(crate) raw_size: Option<String>,
    /// Frames per second, where the input does not say, or instead of what it says; what a camera is asked for
    #[arg(long, value_name = "RATE", help_heading = "Input")]
    pub(crate) fps: Option<String>,
    /// Answer every frame; the default for files and folders, while of standard input and cameras the newest frame wins
    #[arg(long, help_heading = "Input")]
    pub(crate) no_drop: bool,
    /// Play a file at its own rate, as a camera would, and let the newest frame win
    #[arg(long, conflicts_with = "no_drop", help_heading = "Input")]
    pub(crate) live: bool,
    /// Stop after this many input frames
    #[arg(long, value_name = "N", help_heading = "Input")]
    pub(crate) frames: Option<u64>,

    /// Where to write: .y4m, .gif, .png (APNG), .rgb (RGB24), a folder for PNGs, or `-` for y4m on standard output; with
    /// ffmpeg .mp4, .webm or .mkv
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub(crate) output: PathBuf,
    /// Write headerless RGB24 whatever the output's name
    #[arg(long, help_heading = "Output")]
    pub(crate) raw_output: bool,
    /// Width of the pictures; the input is scaled to cover it and cut [default: the model's own]
    #[arg(short = 'W', long, value_name = "PIXELS", help_heading = "Output")]
    pub(crate) width: Option<usize>,
    /// Height of the pictures [default: the model's own]
    #[arg(short = 'H', long, value_name = "PIXELS", help_heading = "Output")]
    pub(crate) height: Option<usize>,

    /// The style: plain, sepia, pencil sketch, ink edges, posterised cartoon, oil painting, thermal camera, night vision,
    /// blueprint, pixel art
    #[arg(short, long, value_name = "TEXT", help_heading = "Style")]
    pub(crate) prompt: String,
    /// Another prompt from this input frame on: `120:oil painting`; repeatable
    #[arg(long, value_name = "FRAME:TEXT", help_heading = "Style")]
    pub(crate) prompt_at: Vec<String>,
    /// Denoising steps a frame, 1 to 4
    #[arg(long, value_name = "N", default_value_t = 2, help_heading = "Style")]
    pub(crate) steps: usize,
    /// Noise scale of the first step, above 0 and at most 1 [default: the model's own]
    #[arg(long, value_name = "X", help_heading = "Style")]
    pub(crate) strength: Option<f64>,
    /// Keep the noise scale, instead of less noise while the picture moves
    #[arg(long, help_heading = "Style")]
    pub(crate) no_noise_control: bool,
    /// Seed of the noise
    #[arg(short, long, value_name = "N", default_value_t = 0, help_heading = "Style")]
    pub(crate) seed: u64,
    /// Draw fresh noise for every frame instead of holding it, which keeps still pictures still
    #[arg(long, help_heading = "Style")]
    pub(crate) fresh_noise: bool,

    /// Model folder of a restyling pipeline, or `builtin` [default: builtin]
    #[arg(short, long, value_name = "FOLDER", help_heading = "Model")]
    pub(crate) model: Option<PathBuf>,
    /// Arithmetic of the weights; activations stay f32 [default: f32]
    #[arg(long, value_name = "TYPE", value_parser = PossibleValuesParser::new(names::DTYPES), help_heading = "Model")]
    pub(crate) dtype: Option<String>,
    /// Threads; the pixels do not depend on them [default: all cores]
    #[arg(short, long, value_name = "N", help_heading = "Model")]
    pub(crate) threads: Option<usize>,
    /// The steps of neighbouring frames in one evaluation; a frame leaves steps - 1 frames after it came
    #[arg(long, help_heading = "Model")]
    pub(crate) batch: bool,
    /// Latent frames that a frame attends to, itself included [default: the model's own]
    #[arg(long, value_name = "N", help_heading = "Model")]
    pub(crate) window: Option<usize>,
    /// First frames that stay in the window
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Model")]
    pub(crate) sinks: usize,
    /// Rolling KV policy: relative, shift or sdv2
    #[arg(long, value_name = "NAME", default_value = "relative", help_heading = "Model")]
    pub(crate) kv: String,

    /// Cache policy, for example `motion`; features of the frame before, at the same noise level [default: off]
    #[arg(long, value_name = "MODE", help_heading = "Cache")]
    pub(crate) cache: Option<String>,
    /// Options of the policy: `n=2,spike=0.2`; repeatable
    #[arg(long, value_name = "K=V,…", help_heading = "Cache")]
    pub(crate) cache_option: Vec<String>,

    /// Print one JSON object per event on stdout
    #[arg(long, help_heading = "Messages")]
    pub(crate) json: bool,
}
