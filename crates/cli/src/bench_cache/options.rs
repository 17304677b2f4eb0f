//! The flags of `bench cache`.

use std::path::PathBuf;

use clap::Args;
use clap::builder::PossibleValuesParser;

use crate::gen_image::names;

/// `refrain bench cache` as typed.
#[derive(Debug, Clone, Args)]
pub(crate) struct BenchCacheOptions {
    /// Policies to measure, options joined by `+`; `steps:K` is the uncached sampler with K steps, `dtype:D` the
    /// uncached sampler in another dtype. `off` always runs, and each policy gets the `steps:K` of its own speed as a rival
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = DEFAULT_POLICIES, help_heading = "Bench")]
    pub(crate) policies: Vec<String>,
    /// Measure every hand-made policy under a grid of settings, and fewer steps in ten sizes
    #[arg(long, help_heading = "Bench")]
    pub(crate) grid: bool,
    /// Do not add rivals of equal speed
    #[arg(long, help_heading = "Bench")]
    pub(crate) no_rivals: bool,
    /// Prompts, one a line
    #[arg(long, value_name = "FILE", help_heading = "Bench")]
    pub(crate) prompt_file: Option<PathBuf>,
    /// A prompt; repeatable
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true, help_heading = "Bench")]
    pub(crate) prompt: Vec<String>,
    /// Seeds per prompt: --seed, --seed + 1, …
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Bench")]
    pub(crate) seeds: usize,
    /// Times that everything is measured again
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Bench")]
    pub(crate) rounds: usize,
    /// Folder for table.md, table.csv, table.json and plot.png [default: only print the table]
    #[arg(short, long, value_name = "FOLDER", help_heading = "Bench")]
    pub(crate) output: Option<PathBuf>,
    /// Print one JSON object per event on stdout instead of the table
    #[arg(long, help_heading = "Messages")]
    pub(crate) json: bool,

    /// Model folder in the diffusers layout, or `builtin`
    #[arg(short, long, value_name = "FOLDER", default_value = "builtin", help_heading = "Run")]
    pub(crate) model: PathBuf,
    /// Arithmetic of the weights
    #[arg(long, default_value = "f32", value_parser = PossibleValuesParser::new(names::DTYPES), help_heading = "Run")]
    pub(crate) dtype: String,
    /// Where to compute; only `cpu` in this build
    #[arg(long, value_name = "DEVICE", default_value = "cpu", help_heading = "Run")]
    pub(crate) device: String,
    /// Threads [default: all cores]
    #[arg(short, long, value_name = "N", help_heading = "Run")]
    pub(crate) threads: Option<usize>,
    /// First seed
    #[arg(short, long, value_name = "N", default_value_t = 0, help_heading = "Run")]
    pub(crate) seed: u64,
    /// Denoising steps [default: 20]
    #[arg(long, value_name = "N", help_heading = "Run")]
    pub(crate) steps: Option<usize>,
    /// Classifier-free guidance [default: 4]
    #[arg(long, value_name = "X", help_heading = "Run")]
    pub(crate) cfg_scale: Option<f64>,
    /// What to keep away from
    #[arg(short, long, value_name = "TEXT", default_value = "", allow_hyphen_values = true, help_heading = "Run")]
    pub(crate) negative_prompt: String,
    /// Sampler [default: the model's own]
    #[arg(long, value_parser = names::sampling_methods(), help_heading = "Run")]
    pub(crate) sampling_method: Option<String>,
    /// Width in pixels [default: the model's own]
    #[arg(short = 'W', long, value_name = "PIXELS", help_heading = "Run")]
    pub(crate) width: Option<usize>,
    /// Height in pixels [default: the model's own]
    #[arg(short = 'H', long, value_name = "PIXELS", help_heading = "Run")]
    pub(crate) height: Option<usize>,
}

/// One of each kind, at settings that skip about half the work.
const DEFAULT_POLICIES: &str = "off,interval:n=2,taylor:n=2,dbcache:threshold=0.1,easycache";
