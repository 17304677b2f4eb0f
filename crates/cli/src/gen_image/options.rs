//! The flags of `gen image`, which are also the keys of its configuration file.
//!
//! Names follow stable-diffusion.cpp. One struct serves both spellings, so that a flag and its key cannot drift apart;
//! every field is optional, so that "not given" stays distinguishable until flags have been laid over the file.

#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "clap prints these comments as help, where shapes stand in brackets"
)]

use std::path::PathBuf;

use clap::Args;
use clap::builder::PossibleValuesParser;
use serde::{Deserialize, Serialize};

use super::names;

/// `refrain gen image` as typed: the settings, and the two flags about settings files.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct GenImageCall {
    /// The settings.
    #[command(flatten)]
    pub(crate) options: GenImageOptions,
    /// Read settings from a TOML file; flags win over it, unknown keys are errors
    #[arg(long, value_name = "FILE", help_heading = "Settings")]
    pub(crate) config: Option<PathBuf>,
    /// Print a settings file that reproduces this call (random seed included), and make nothing
    #[arg(long, help_heading = "Settings")]
    pub(crate) dump_config: bool,
    /// Print one JSON object per event on stdout
    #[arg(long, help_heading = "Messages")]
    pub(crate) json: bool,
}

/// The settings of `gen image`.
#[derive(Debug, Clone, Default, PartialEq, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct GenImageOptions {
    /// What to draw; repeat it for several pictures in one batch; `-` reads stdin, one prompt a line
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true, help_heading = "Prompt")]
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "crate::config::one_or_many")]
    pub(crate) prompt: Vec<String>,
    /// What to draw, for class-conditional models: number or name of a class; several, joined by commas, are one batch
    #[arg(long, value_name = "CLASS[,…]", value_delimiter = ',', conflicts_with_all = ["prompt", "prompt_file"], help_heading = "Prompt")]
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "crate::config::one_or_many")]
    pub(crate) class: Vec<String>,
    /// Read prompts from a file, one a line (`#` starts a comment line)
    #[arg(long, value_name = "FILE", help_heading = "Prompt")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prompt_file: Option<PathBuf>,
    /// What to keep away from [default: empty]
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true, help_heading = "Prompt")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) negative_prompt: Option<String>,
    /// Take all settings from a picture that refrain made, and reproduce it
    #[arg(long, value_name = "PNG", help_heading = "Prompt")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) from: Option<PathBuf>,

    /// Model folder in the diffusers layout, or `builtin` [default: builtin]
    #[arg(short, long, value_name = "FOLDER", help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) model: Option<PathBuf>,
    /// Arithmetic of the weights; activations stay f32 [default: f32]
    #[arg(long, value_name = "TYPE", value_parser = PossibleValuesParser::new(names::DTYPES), help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dtype: Option<String>,
    /// Where to compute; only `cpu` in this build [default: cpu]
    #[arg(long, value_name = "DEVICE", help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) device: Option<String>,
    /// Threads; the pixels do not depend on them [default: all cores]
    #[arg(short, long, value_name = "N", help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) threads: Option<usize>,

    /// Where to write: a file (.png .jpg .webp, or .safetensors), a pattern (`fox-%03d.png`), a folder, or `-` for stdout
    /// [default: named after the prompt, never over an existing file]
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) output: Option<PathBuf>,
    /// Pictures per prompt; picture i uses seed + i [default: 1]
    #[arg(short, long, value_name = "N", help_heading = "Output")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) batch_count: Option<usize>,
    /// Width in pixels [default: the model's own]
    #[arg(short = 'W', long, value_name = "PIXELS", help_heading = "Output")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) width: Option<usize>,
    /// Height in pixels [default: the model's own]
    #[arg(short = 'H', long, value_name = "PIXELS", help_heading = "Output")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) height: Option<usize>,

    /// Seed of the noise; -1 is random, and always printed and stored [default: -1]
    #[arg(short, long, value_name = "N", allow_negative_numbers = true, help_heading = "Sampling")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) seed: Option<i64>,
    /// Noise generator: `counter` is ours, `torch` is PyTorch's on the CPU, so that a seed gives diffusers' picture
    /// [default: counter]
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(names::GENERATORS), help_heading = "Sampling")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rng: Option<String>,
    /// Start from this picture instead of pure noise (.png .jpg .webp .gif); without -W and -H the result has about its
    /// shape and the model's own number of pixels
    #[arg(short, long, value_name = "PICTURE", help_heading = "Sampling")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) init_img: Option<PathBuf>,
    /// How much of the picture of --init-img is drawn anew, 0 to 1: the share of the steps that run [default: 0.75]
    #[arg(long, value_name = "X", allow_negative_numbers = true, help_heading = "Sampling")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) strength: Option<f64>,
    /// Start from this noise instead of a seed: key `latents`, unit variance, [n,c,h,w]
    #[arg(long, value_name = "SAFETENSORS", help_heading = "Sampling")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) latents: Option<PathBuf>,
    /// Denoising steps [default: 20]
    #[arg(long, alias = "num-inference-steps", value_name = "N", help_heading = "Sampling")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) steps: Option<usize>,
    /// Classifier-free guidance; 1 switches it off and halves the work [default: 4]
    #[arg(long, alias = "guidance-scale", value_name = "X", allow_negative_numbers = true, help_heading = "Sampling")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cfg_scale: Option<f64>,
    /// Sampler [default: the model's own; ddim for the built-in model]
    #[arg(long, value_name = "NAME", value_parser = names::sampling_methods(), help_heading = "Sampling")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sampling_method: Option<String>,
    /// Spacing of the noise levels [default: the model's own]
    #[arg(long, value_name = "NAME", value_parser = names::schedulers(), help_heading = "Sampling")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) scheduler: Option<String>,
    /// Fresh noise per DDIM step, 0 (none) to 1 (DDPM) [default: 0]
    #[arg(long, value_name = "X", help_heading = "Sampling")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) eta: Option<f64>,

    /// Cache policy, `off`, `router` (learned; built in), `auto` (the fastest router whose harm is proven invisible, else
    /// off), `auto:transfer` (else one moved from another number of steps), or a plan file [default: auto]
    #[arg(long, value_name = "MODE|FILE", help_heading = "Cache")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cache: Option<String>,
    /// Options of the policy: `threshold=0.1,warmup=2`; repeatable
    #[arg(long, value_name = "K=V,…", help_heading = "Cache")]
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "crate::config::one_or_many")]
    pub(crate) cache_option: Vec<String>,
    /// Write what was executed as a plan that `--cache FILE` replays to the same pixels
    #[arg(long, value_name = "FILE", help_heading = "Cache")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) emit_plan: Option<PathBuf>,
    /// Say what was computed, reused and forecast, what it saved and what it held
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL", help_heading = "Cache")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cache_report: Option<bool>,
    /// Recompute K random reused sites, say the error, and fall back to full compute beyond the error budget
    /// [K without a value: 8]
    #[arg(long, num_args = 0..=1, default_missing_value = crate::cache::DEFAULT_CHECKS, require_equals = true, value_name = "K", help_heading = "Cache")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cache_check: Option<usize>,
    /// Relative error of a checked site beyond which the rest of the run computes [default: 0.5]
    #[arg(long, value_name = "X", help_heading = "Cache")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cache_budget: Option<f64>,

    /// Show the picture while it forms: a cheap projection of the latents, or the autoencoder [default: none]
    #[arg(long, value_name = "HOW", value_parser = names::previews(), help_heading = "Preview")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) preview: Option<String>,
    /// Steps between two previews [default: 1]
    #[arg(long, value_name = "N", help_heading = "Preview")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) preview_interval: Option<usize>,
    /// Write the latest preview to this PNG as well [default: only the terminal]
    #[arg(long, value_name = "PNG", help_heading = "Preview")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) preview_path: Option<PathBuf>,
}
