//! The flags of `gen video`; those that `gen image` has too are spelled alike.

#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "clap prints these comments as help, where shapes stand in brackets"
)]

use std::path::PathBuf;

use clap::Args;
use clap::builder::PossibleValuesParser;

use crate::gen_image::names;

/// `refrain gen video` as typed.
#[derive(Debug, Clone, Args)]
pub(crate) struct GenVideoOptions {
    /// What the clip shows
    #[arg(short, long, value_name = "TEXT", help_heading = "Prompt")]
    pub(crate) prompt: String,
    /// What guidance leads away from
    #[arg(short, long, value_name = "TEXT", default_value = "", help_heading = "Prompt")]
    pub(crate) negative_prompt: String,

    /// Folder of a WanPipeline in the diffusers layout
    #[arg(short, long, value_name = "FOLDER", help_heading = "Model")]
    pub(crate) model: Option<PathBuf>,
    /// Another transformer of the same sizes in one file (.pt, .safetensors), such as Self-Forcing's; a .pt is never executed
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    pub(crate) transformer: Option<PathBuf>,
    /// A TAEHV decoder (taew2_1) instead of the model's own: much faster, a little softer
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    pub(crate) taehv: Option<PathBuf>,
    /// Arithmetic of the weights; activations stay f32
    #[arg(long, value_name = "TYPE", value_parser = PossibleValuesParser::new(names::DTYPES), default_value = "f32", help_heading = "Model")]
    pub(crate) dtype: String,
    /// Threads; the frames do not depend on them [default: all cores]
    #[arg(short, long, value_name = "N", help_heading = "Model")]
    pub(crate) threads: Option<usize>,

    /// The clip: .gif, .png (APNG), .y4m, .rgb, a folder for PNGs, with ffmpeg .mp4, .webm, .mkv; .safetensors for `latents`
    /// [1, c, f, h, w] and `image` [frames, 3, height, width]; `-` for y4m on standard output
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub(crate) output: PathBuf,
    /// Frames; one more than a multiple of the autoencoder's time factor
    #[arg(long, value_name = "N", default_value_t = 81, help_heading = "Output")]
    pub(crate) frames: usize,
    /// Frames per second of the file
    #[arg(long, value_name = "RATE", default_value = "16", help_heading = "Output")]
    pub(crate) fps: String,
    /// Width in pixels
    #[arg(short = 'W', long, value_name = "PIXELS", default_value_t = 832, help_heading = "Output")]
    pub(crate) width: usize,
    /// Height in pixels
    #[arg(short = 'H', long, value_name = "PIXELS", default_value_t = 480, help_heading = "Output")]
    pub(crate) height: usize,

    /// Steps of the sampler [default: 50; 4 with --causal]
    #[arg(long, value_name = "N", help_heading = "Sampling")]
    pub(crate) steps: Option<usize>,
    /// Classifier-free guidance; at most 1 is without [default: 5; 1 with --causal, whose models are distilled]
    #[arg(long, value_name = "X", help_heading = "Sampling")]
    pub(crate) cfg_scale: Option<f64>,
    /// Sampler [default: the model's own]
    #[arg(long, value_name = "NAME", value_parser = names::sampling_methods(), help_heading = "Sampling")]
    pub(crate) sampling_method: Option<String>,
    /// Seed of the noise; negative for a random one
    #[arg(short, long, value_name = "N", default_value_t = -1, help_heading = "Sampling")]
    pub(crate) seed: i64,
    /// Noise generator; torch gives the noise of PyTorch's CPU generator
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(names::GENERATORS), help_heading = "Sampling")]
    pub(crate) rng: Option<String>,
    /// Starting noise from a safetensors file, `latents` [1, c, f, h, w]
    #[arg(long, value_name = "FILE", help_heading = "Sampling")]
    pub(crate) latents: Option<PathBuf>,

    /// A causal model: frames are made chunk by chunk, each seeing those before it through a rolling KV cache
    #[arg(long, conflicts_with_all = ["sampling_method"], help_heading = "Causal")]
    pub(crate) causal: bool,
    /// Latent frames of a chunk
    #[arg(long, value_name = "N", default_value_t = 3, help_heading = "Causal")]
    pub(crate) chunk_frames: usize,
    /// Latent frames that the cache holds, those of the chunk included
    #[arg(long, value_name = "N", default_value_t = 21, help_heading = "Causal")]
    pub(crate) window: usize,
    /// First latent frames that stay in the cache
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Causal")]
    pub(crate) sinks: usize,
    /// Rolling KV policy: relative, shift or sdv2
    #[arg(long, value_name = "NAME", default_value = "relative", help_heading = "Causal")]
    pub(crate) kv: String,
    /// Shift of the table of noise levels (5 in Self-Forcing, 8 in StreamDiffusionV2)
    #[arg(long, value_name = "X", default_value_t = 5.0, help_heading = "Causal")]
    pub(crate) timestep_shift: f64,
    /// Leave out the pass over the clean chunk, whose keys and values later chunks see
    #[arg(long, help_heading = "Causal")]
    pub(crate) no_clean_pass: bool,

    /// Cache policy or a plan file [default: off]
    #[arg(long, value_name = "MODE|FILE", help_heading = "Cache")]
    pub(crate) cache: Option<String>,
    /// Options of the policy: `n=2`; repeatable
    #[arg(long, value_name = "K=V,…", help_heading = "Cache")]
    pub(crate) cache_option: Vec<String>,
    /// Write what was executed as a plan that `--cache FILE` replays to the same frames
    #[arg(long, value_name = "FILE", help_heading = "Cache")]
    pub(crate) emit_plan: Option<PathBuf>,
    /// Say what was computed, reused and forecast, what it saved and what it held
    #[arg(long, help_heading = "Cache")]
    pub(crate) cache_report: bool,

    /// Print one JSON object per event on stdout
    #[arg(long, help_heading = "Messages")]
    pub(crate) json: bool,
}
