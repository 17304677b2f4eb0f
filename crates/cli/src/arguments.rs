//! The command line as parsed, before anything is checked against a model or the disk.
//!
//! Arguments have two stages, as in ripgrep: these structs hold what was typed and nothing else; each verb turns them
//! into a validated plan of work before it does anything that costs time. Completions and the man page come from the
//! same definition.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::bench_cache::BenchCacheOptions;
use crate::bench_morph::BenchMorphOptions;
use crate::bench_stream::BenchStreamOptions;
use crate::eval_morph::EvalMorphOptions;
use crate::events::Verbosity;
use crate::gen_image::options::GenImageCall;
use crate::gen_video::options::GenVideoOptions;
use crate::morph::MorphCall;
use crate::plan::PlanVerb;
use crate::stream::options::StreamCallOptions;
use crate::train_router::TrainRouterOptions;

/// Feature-cache accelerator for diffusion image and video generation: pictures sooner, and an honest account of what
/// that cost.
#[derive(Debug, Parser)]
#[command(
    name = "refrain",
    version,
    max_term_width = 110,
    arg_required_else_help = true,
    subcommand_required = true,
    disable_help_subcommand = true,
    after_help = "Start here:\n  refrain gen image -p \"a red fox on a blue background\"\n  refrain gen image -p \"pizza\" \
                  --cache taylor --cache-report\n\nExit codes: 0 ok, 1 the work failed or a quality gate said no, \
                  2 usage, 3 memory or disk, 130 interrupted."
)]
pub(crate) struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub(crate) verb: Verb,
    /// How much to say.
    #[command(flatten)]
    pub(crate) voice: Voice,
}

/// Flags of every verb.
#[derive(Debug, Clone, Copy, Args)]
#[command(next_help_heading = "Messages")]
pub(crate) struct Voice {
    /// Say how it is done, on stderr (repeat for the libraries' own log)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Say only errors and warnings
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
}

impl Voice {
    /// The level that the flags ask for.
    pub(crate) fn verbosity(self) -> Verbosity {
        match (self.quiet, self.verbose) {
            (true, _) => Verbosity::Quiet,
            (false, 0) => Verbosity::Normal,
            (false, _) => Verbosity::Verbose,
        }
    }
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Generate: pictures and clips from text
    #[command(subcommand)]
    Gen(GenVerb),
    /// Make the frames between pictures
    #[command(allow_negative_numbers = true, after_long_help = policies_help())]
    Morph(Box<MorphCall>),
    /// Restyle a clip or a live pipe, frame by frame as it comes
    #[command(after_long_help = stream_help())]
    Stream(Box<StreamCallOptions>),
    /// Read how a picture was made from its metadata
    Info(InfoOptions),
    /// Look into a model (parts, parameters, operations) or into a plan (steps x sites)
    Inspect(InspectOptions),
    /// Measure speed and harm side by side
    #[command(subcommand)]
    Bench(BenchVerb),
    /// Judge what was made
    #[command(subcommand)]
    Eval(EvalVerb),
    /// Learn when to compute
    #[command(subcommand)]
    Train(TrainVerb),
    /// Plans from and for other projects: HarmoniCa, Learning-to-Cache, SmoothCache, cache-dit
    #[command(subcommand)]
    Plan(PlanVerb),
    /// Print a completion script for a shell
    Completions {
        /// The shell that will read it
        shell: clap_complete::Shell,
    },
    /// Print the manual page (roff): `refrain man | man -l -`
    Man {
        /// The verb to describe, for example `gen image`; the whole program without it
        verb: Vec<String>,
    },
}

/// What can be generated.
#[derive(Debug, Subcommand)]
pub(crate) enum GenVerb {
    /// Pictures from text
    #[command(allow_negative_numbers = true, after_long_help = policies_help())]
    Image(Box<GenImageCall>),
    /// A clip from text, by a WanPipeline folder
    #[command(allow_negative_numbers = true, after_long_help = policies_help())]
    Video(Box<GenVideoOptions>),
}

/// What can be measured.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchVerb {
    /// Cache policies against each other and against fewer steps
    #[command(allow_negative_numbers = true, after_long_help = policies_help())]
    Cache(Box<BenchCacheOptions>),
    /// What injection, captions and anchors add to morphs over many pairs of pictures
    Morph(Box<BenchMorphOptions>),
    /// Restyled clips: speed, harm, and fidelity to the exact styles
    Stream(Box<BenchStreamOptions>),
}

/// What can be judged.
#[derive(Debug, Subcommand)]
pub(crate) enum EvalVerb {
    /// The frames of a morph: consistency, path and ends, beside a cross-fade and a latent slerp
    Morph(Box<EvalMorphOptions>),
}

/// What can be trained.
#[derive(Debug, Subcommand)]
pub(crate) enum TrainVerb {
    /// A router: which steps, or which parts of which steps, compute for a budget
    #[command(allow_negative_numbers = true)]
    Router(Box<TrainRouterOptions>),
}

/// `refrain info`
#[derive(Debug, Args)]
pub(crate) struct InfoOptions {
    /// Pictures to read
    #[arg(value_name = "PNG", required = true)]
    pub(crate) pictures: Vec<PathBuf>,
    /// Print one JSON object per picture
    #[arg(long)]
    pub(crate) json: bool,
}

/// `refrain inspect`
#[derive(Debug, Args)]
pub(crate) struct InspectOptions {
    /// A model folder, `builtin`, or a plan file
    #[arg(value_name = "MODEL|PLAN")]
    pub(crate) subject: PathBuf,
    /// Print JSON instead of a table or a drawing
    #[arg(long)]
    pub(crate) json: bool,
    /// For a plan: also draw the heat map into this file (.png or .svg)
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// For a model: width that operations are counted for [default: the model's own]
    #[arg(short = 'W', long, value_name = "PIXELS")]
    pub(crate) width: Option<usize>,
    /// For a model: height that operations are counted for [default: the model's own]
    #[arg(short = 'H', long, value_name = "PIXELS")]
    pub(crate) height: Option<usize>,
}

/// The policies with their options, for `--help`.
fn policies_help() -> String {
    format!("Cache policies and their options [defaults]:\n\n{}", refrain_cache::policies::help())
}

/// Calls of `stream` to start from, and the policies with their options.
fn stream_help() -> String {
    let calls = [
        "refrain stream --input clip.gif --output sketch.gif -p \"pencil sketch\"",
        "refrain stream --input webcam --output sketch.mp4 -p blueprint        (builds with ffmpeg)",
        "ffmpeg -i clip.mp4 -f yuv4mpegpipe - | refrain stream --input - --no-drop --output - -p blueprint | ffplay -",
        "ffmpeg -f v4l2 -i /dev/video0 -f yuv4mpegpipe - | refrain stream --input - --output - -p sepia | ffplay -",
    ];
    format!("Start here:\n  {}\n\n{}", calls.join("\n  "), policies_help())
}
