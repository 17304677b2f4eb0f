//! A call of `stream`, checked against everything but the model.

use std::path::PathBuf;

use refrain_media::sequence::{FrameRate, Pace, SequenceFormat, SinkOptions, SourceOptions, input_pace};
use refrain_ops::Precision;
use refrain_stream::{InboxPolicy, KvPolicy};

use super::options::StreamCallOptions;
use crate::builtin::NamedModel;
use crate::cache::CacheChoice;
use crate::errors::{usage, usage_because};

/// Pictures that wait to be answered when none may be dropped.
const DEPTH: usize = 2;

/// What a call asks for.
pub(super) struct Work {
    pub(super) input: PathBuf,
    pub(super) source: SourceOptions,
    /// Frames come at the clip's own rate.
    pub(super) paced: bool,
    pub(super) inbox: InboxPolicy,
    pub(super) frames: Option<u64>,
    pub(super) output: PathBuf,
    pub(super) raw_output: bool,
    /// Prompts by the number of the frame that they begin at, in order.
    pub(super) later_prompts: Vec<(u64, String)>,
    pub(super) settings: Settings,
}

/// What a session depends on, whatever its frames come from.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Width and height in pixels; the model's own if absent.
    pub(crate) size: (Option<usize>, Option<usize>),
    pub(crate) prompt: String,
    pub(crate) steps: usize,
    pub(crate) strength: Option<f64>,
    pub(crate) noise_control: bool,
    pub(crate) seed: u64,
    pub(crate) fresh_noise: bool,
    pub(crate) model: NamedModel,
    pub(crate) precision: Precision,
    pub(crate) batch: bool,
    pub(crate) window: Option<usize>,
    pub(crate) sinks: usize,
    pub(crate) kv: KvPolicy,
    pub(crate) cache: CacheChoice,
}

impl Work {
    /// Checks the call.
    ///
    /// # Errors
    /// The flag that is wrong, and what it wants (exit 2).
    pub(super) fn plan(options: StreamCallOptions) -> anyhow::Result<Self> {
        let pace = input_pace(&options.input).map_err(usage_because)?;
        let drops = options.live || (pace != Pace::Stored && !options.no_drop);
        let rate = |text: &str| {
            FrameRate::parse(text).ok_or_else(|| usage(format!("--fps {text:?}: expected 30, 29.97 or 30000/1001")))
        };
        if !(1..=4).contains(&options.steps) {
            return Err(usage(format!("--steps must be between 1 and 4, got {}", options.steps)));
        }
        if options.strength.is_some_and(|strength| strength.is_nan() || strength <= 0.0 || strength > 1.0) {
            return Err(usage("--strength must be above 0 and at most 1"));
        }
        if options.prompt.trim().is_empty() {
            return Err(usage("--prompt is empty: name a style, for example \"pencil sketch\""));
        }
        if !options.raw_output {
            SequenceFormat::from_path(&options.output).map_err(usage_because)?;
        }
        let precision =
            options.dtype.as_deref().map(str::parse).transpose().map_err(|error| usage(format!("--dtype: {error}")))?;
        Ok(Self {
            source: SourceOptions {
                raw_size: options.raw_size.as_deref().map(raw_size).transpose()?,
                rate: options.fps.as_deref().map(rate).transpose()?,
            },
            paced: drops && pace != Pace::Arriving,
            inbox: if drops { InboxPolicy::Newest } else { InboxPolicy::KeepAll(DEPTH) },
            frames: options.frames,
            raw_output: options.raw_output,
            later_prompts: later_prompts(&options.prompt_at)?,
            settings: Settings {
                size: (options.width, options.height),
                prompt: options.prompt,
                steps: options.steps,
                strength: options.strength,
                noise_control: !options.no_noise_control,
                seed: options.seed,
                fresh_noise: options.fresh_noise,
                model: NamedModel::find_restyler(options.model.as_deref())?,
                precision: precision.unwrap_or_default(),
                batch: options.batch,
                window: options.window,
                sinks: options.sinks,
                kv: KvPolicy::from_name(&options.kv).map_err(|error| usage(format!("--kv: {error}")))?,
                cache: CacheChoice::parse(options.cache.as_deref(), &options.cache_option)?,
            },
            input: options.input,
            output: options.output,
        })
    }

    /// How to write at the input's rate.
    pub(super) fn sink(&self, rate: FrameRate) -> SinkOptions {
        SinkOptions { format: self.raw_output.then_some(SequenceFormat::RawVideo), ..SinkOptions::at(rate) }
    }
}

fn raw_size(text: &str) -> anyhow::Result<(u32, u32)> {
    let sides = text.split_once(['x', 'X']).and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
    sides.filter(|&(w, h): &(u32, u32)| (1..=16_384).contains(&w) && (1..=16_384).contains(&h)).ok_or_else(|| {
        usage(format!("--raw-size {text:?}: expected WIDTHxHEIGHT, for example 640x480, sides up to 16384"))
    })
}

fn later_prompts(given: &[String]) -> anyhow::Result<Vec<(u64, String)>> {
    let read = |text: &String| {
        let parts = text
            .split_once(':')
            .and_then(|(frame, prompt)| Some((frame.trim().parse().ok()?, prompt.trim().to_owned())));
        parts
            .filter(|(_, prompt)| !prompt.is_empty())
            .ok_or_else(|| usage(format!("--prompt-at {text:?}: expected FRAME:TEXT, for example 120:oil painting")))
    };
    let mut prompts: Vec<(u64, String)> = given.iter().map(read).collect::<anyhow::Result<_>>()?;
    prompts.sort_by_key(|(frame, _)| *frame);
    Ok(prompts)
}
