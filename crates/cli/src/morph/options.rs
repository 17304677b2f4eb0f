//! The flags of `morph`.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand, ValueEnum};
use refrain_morph::schedule::Mode;

use super::calibrate::CalibrateOptions;
use super::weight::InjectionWeight;
use crate::gen_image::names;

/// When injection happens unless said otherwise.
pub(crate) const DEFAULT_SCHEDULE: &str = "throughout";
/// What is injected unless said otherwise.
pub(crate) const DEFAULT_PARTS: &str = "attention,feed-forward,residual";

/// `refrain morph` as typed.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true, disable_help_subcommand = true)]
pub(crate) struct MorphCall {
    /// Something about morphing other than a morph.
    #[command(subcommand)]
    pub(crate) verb: Option<MorphVerb>,
    /// The morph.
    #[command(flatten)]
    pub(crate) options: MorphOptions,
}

/// What belongs to morphing.
#[derive(Debug, Subcommand)]
pub(crate) enum MorphVerb {
    /// Find out which depth suits which step, by the frequencies of the model's features
    Calibrate(CalibrateOptions),
}

/// How pictures of another shape are fitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fit {
    /// Fill the frame and cut off what lies outside.
    Crop,
    /// Show all of the picture, with the background around it.
    Pad,
}

/// How frames are paced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pacing {
    /// Equal steps of the mixture.
    Uniform,
    /// Equal steps to the eye, found on quick previews.
    Even,
}

/// How pictures become noise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum InverterName {
    /// DDIM backwards, refined.
    Ddim,
    /// O-BELM: exact.
    Belm,
}

/// The settings of `morph`.
#[derive(Debug, Clone, Args)]
pub(crate) struct MorphOptions {
    /// Two or more pictures (png, jpeg, webp, gif)
    #[arg(value_name = "PICTURE", num_args = 2.., required = true)]
    pub(crate) pictures: Vec<PathBuf>,

    /// Where to write: a folder of PNGs, or a clip by its ending (.gif, .png for APNG, .y4m)
    #[arg(short, long, value_name = "DIR|FILE", default_value = "morph", help_heading = "Output")]
    pub(crate) output: PathBuf,
    /// Frames in all, the pictures themselves included; 2 to 240 for each segment
    #[arg(long, value_name = "N", default_value_t = 16, help_heading = "Output")]
    pub(crate) frames: usize,
    /// Seconds of each segment; one for all, or one each. Frames are shared out in proportion
    #[arg(long, value_name = "SECONDS", num_args = 1.., help_heading = "Output")]
    pub(crate) seconds: Vec<f64>,
    /// Come back from the last picture to the first
    #[arg(long = "loop", help_heading = "Output")]
    pub(crate) looped: bool,
    /// Width in pixels [default: the model's area in the first picture's shape]
    #[arg(short = 'W', long, value_name = "PIXELS", help_heading = "Output")]
    pub(crate) width: Option<usize>,
    /// Height in pixels [default: the model's area in the first picture's shape]
    #[arg(short = 'H', long, value_name = "PIXELS", help_heading = "Output")]
    pub(crate) height: Option<usize>,
    /// How pictures of another shape are fitted
    #[arg(long, value_enum, default_value_t = Fit::Pad, help_heading = "Output")]
    pub(crate) fit: Fit,
    /// Colour behind transparent places and padding
    #[arg(long, value_name = "RRGGBB", default_value = "ffffff", help_heading = "Output")]
    pub(crate) background: String,
    /// Contact sheet of all frames [default: beside the output, NAME-sheet.png]
    #[arg(long, value_name = "PNG", help_heading = "Output")]
    pub(crate) sheet: Option<PathBuf>,
    /// Show the model's reconstruction of the pictures instead of the pictures
    #[arg(long, help_heading = "Output")]
    pub(crate) reconstruct_ends: bool,
    /// Go on with a folder that an earlier call of the same settings left unfinished
    #[arg(long, help_heading = "Output")]
    pub(crate) resume: bool,

    /// How time runs along a segment: linear, in, out, in-out
    #[arg(long, value_name = "NAME", default_value = "linear", value_parser = PossibleValuesParser::new(refrain_morph::pace::Ease::NAMES), help_heading = "Pace")]
    pub(crate) ease: String,
    /// Equal steps of the mixture, or equal steps to the model's eye [default: even; uniform with --inverter belm]
    #[arg(long, value_enum, help_heading = "Pace")]
    pub(crate) schedule: Option<Pacing>,

    /// What the first picture shows
    #[arg(long, value_name = "TEXT", help_heading = "Text")]
    pub(crate) prompt_a: Option<String>,
    /// What the second picture shows
    #[arg(long, value_name = "TEXT", help_heading = "Text")]
    pub(crate) prompt_b: Option<String>,
    /// What each picture shows, in order; repeat it, as often as there are pictures
    #[arg(short, long, value_name = "TEXT", conflicts_with_all = ["prompt_a", "prompt_b"], help_heading = "Text")]
    pub(crate) prompt: Vec<String>,
    /// What all pictures share: attended to in the first fifth of the steps
    #[arg(long, value_name = "TEXT", help_heading = "Text")]
    pub(crate) anchor: Option<String>,
    /// Least cosine between the anchor and each prompt, below which it is dropped [default: 0.45, for CLIP; 0.4 and
    /// 0.25 for the built-in U-Net and PixArt]
    #[arg(long, value_name = "X", allow_negative_numbers = true, help_heading = "Text")]
    pub(crate) anchor_gate: Option<f64>,
    /// Where prompts come from that are not given: `none`, `vocabulary` (the built-in models' own words, by inversion loss;
    /// some 280 evaluations a picture), or any program that prints a caption of the picture named to it
    #[arg(long, value_name = "CMD", default_value = "none", help_heading = "Text")]
    pub(crate) captioner: String,

    /// Steps from noise to frame
    #[arg(long, value_name = "N", default_value_t = 25, help_heading = "Sampling")]
    pub(crate) steps: usize,
    /// Steps from picture to noise [default: as --steps]
    #[arg(long, value_name = "N", help_heading = "Sampling")]
    pub(crate) inversion_steps: Option<usize>,
    /// How pictures become noise
    #[arg(long, value_enum, default_value_t = InverterName::Ddim, help_heading = "Sampling")]
    pub(crate) inverter: InverterName,
    /// Evaluations that each DDIM inversion step spends on top of the first
    #[arg(long, value_name = "N", default_value_t = refrain_morph::Settings::default().refinements, help_heading = "Sampling")]
    pub(crate) refinements: usize,
    /// Classifier-free guidance while denoising; 1 is none
    #[arg(long, value_name = "X", default_value_t = 1.0, help_heading = "Sampling")]
    pub(crate) cfg_scale: f32,
    /// Frames that are denoised together
    #[arg(long, value_name = "N", default_value_t = refrain_morph::Settings::default().batch, help_heading = "Sampling")]
    pub(crate) batch: usize,

    /// Weight of the injected features, 0 to 1; 0 is no injection; `auto` tries 0, 0.3 and 0.6 on the previews of an even
    /// pace and takes what puts frames best in their place (0.5 with a uniform pace)
    #[arg(long, value_name = "W|auto", default_value_t = InjectionWeight::Auto, help_heading = "Injection")]
    pub(crate) inject: InjectionWeight,
    /// How features are blended in: residual h + wC (the paper), convex (1-w)h + wC, renorm (residual at h's norm)
    #[arg(long, value_name = "NAME", default_value = "convex", value_parser = PossibleValuesParser::new(Mode::NAMES), help_heading = "Injection")]
    pub(crate) inject_mode: String,
    /// Which depth is injected when: throughout (all at every step), thirds (early, middle, late in turn), fft (the built-in
    /// calibration) or a file of `morph calibrate`
    #[arg(long, value_name = "NAME|FILE", default_value = DEFAULT_SCHEDULE, help_heading = "Injection")]
    pub(crate) inject_schedule: String,
    /// What is injected: attention, cross-attention, feed-forward, residual, stage (of a U-Net), model
    #[arg(long, value_name = "PARTS", default_value = DEFAULT_PARTS, help_heading = "Injection")]
    pub(crate) inject_parts: String,
    /// Share of the steps, from the noisy end, in which anything is injected [default: the schedule's]
    #[arg(long, value_name = "SHARE", help_heading = "Injection")]
    pub(crate) inject_until: Option<f64>,
    /// Memory for the endpoints' features, for example 512MiB: the first way of storing them that fits is taken
    /// [default: 2GiB]
    #[arg(long, value_name = "BYTES", help_heading = "Injection")]
    pub(crate) cache_memory: Option<String>,
    /// How features are stored: f32, bf16, int8, int8-stride2, file, recompute [default: the first that fits]
    #[arg(long, value_name = "NAME", conflicts_with = "cache_memory", help_heading = "Injection")]
    pub(crate) cache_storage: Option<String>,

    /// Cache policy of the denoising, `off`, `router`, `auto` or a plan file
    #[arg(long, value_name = "MODE|FILE", default_value = "off", help_heading = "Cache")]
    pub(crate) cache: String,
    /// Options of the policy: `threshold=0.1,warmup=2`; repeatable
    #[arg(long, value_name = "K=V,…", help_heading = "Cache")]
    pub(crate) cache_option: Vec<String>,
    /// Say what was computed, reused, forecast and injected
    #[arg(long, help_heading = "Cache")]
    pub(crate) cache_report: bool,

    /// Model folder in the diffusers layout, or `builtin` [default: builtin-unet]
    #[arg(short, long, value_name = "FOLDER", help_heading = "Model")]
    pub(crate) model: Option<PathBuf>,
    /// Arithmetic of the weights
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = PossibleValuesParser::new(names::DTYPES), help_heading = "Model")]
    pub(crate) dtype: String,
    /// Threads; the pixels do not depend on them [default: all cores]
    #[arg(short, long, value_name = "N", help_heading = "Model")]
    pub(crate) threads: Option<usize>,
    /// Print one JSON object per event on stdout
    #[arg(long, help_heading = "Messages")]
    pub(crate) json: bool,
}
