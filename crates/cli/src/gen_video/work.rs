//! A call of `gen video`, checked against everything but the model.

use std::path::{Path, PathBuf};

use candle_core::Tensor;
use refrain_media::sequence::{FrameRate, SequenceFormat};
use refrain_ops::Precision;
use refrain_pipeline::{Noise, VideoRequest};
use refrain_samplers::NoiseKind;
use refrain_stream::{FewSteps, KvOptions, KvPolicy};

use super::options::GenVideoOptions;
use crate::builtin::{self, NamedModel};
use crate::cache::CacheChoice;
use crate::errors::{usage, usage_because};
use crate::gen_image::{check_prompt, check_prompt_characters, tensors, work};
use crate::output;

/// Steps when nothing is said, as Wan's own.
const DEFAULT_STEPS: usize = 50;
/// Guidance when nothing is said, as Wan's own.
const DEFAULT_GUIDANCE: f64 = 5.0;
/// Steps of a distilled causal model, as Self-Forcing's.
const DEFAULT_CAUSAL_STEPS: usize = 4;
/// Training timesteps.
const TIMESTEPS: f32 = 1000.0;

/// Everything that `gen video` will do.
pub(super) struct Work {
    pub(super) model: NamedModel,
    pub(super) transformer: Option<PathBuf>,
    pub(super) fast_decoder: Option<PathBuf>,
    pub(super) precision: Precision,
    pub(super) request: VideoRequest,
    pub(super) seed: u64,
    pub(super) causal: Option<Causal>,
    pub(super) cache: CacheChoice,
    pub(super) cache_report: bool,
    pub(super) emit_plan: Option<PathBuf>,
    pub(super) output: PathBuf,
    /// Whether tensors are written rather than pictures.
    pub(super) tensors: bool,
    pub(super) rate: FrameRate,
}

/// How a causal model makes its clip.
pub(super) struct Causal {
    pub(super) chunk_frames: usize,
    pub(super) kv: KvOptions,
    pub(super) steps: FewSteps,
    pub(super) clean_pass: bool,
}

impl Work {
    /// Checks the call.
    ///
    /// # Errors
    /// The flag that is wrong, and what it wants (exit 2), or a place that cannot be written (exit 3).
    pub(super) fn plan(options: GenVideoOptions) -> anyhow::Result<Self> {
        check_prompt("the prompt", &options.prompt)?;
        check_prompt_characters("the negative prompt", &options.negative_prompt)?;
        let folder = options.model.as_deref().filter(|path| *path != Path::new(builtin::NAME));
        let Some(model) = folder else {
            return Err(usage(
                "the built-in video model restyles clips and cannot make one from text alone: give a WanPipeline folder \
                 with -m, or restyle a clip with `refrain stream`",
            ));
        };
        let model = NamedModel::find(Some(model))?;
        let rate = FrameRate::parse(&options.fps)
            .ok_or_else(|| usage(format!("--fps {:?}: expected 16, 23.976 or 30000/1001", options.fps)))?;
        let tensors = options.output.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("safetensors"));
        if !tensors {
            SequenceFormat::from_path(&options.output)
                .map_err(|error| usage(format!("-o {error} (or .safetensors for tensors)")))?;
        }
        if options.output.as_os_str() != "-" && options.output.extension().is_some() {
            output::prepare_file(&options.output)?;
        }
        if let Some(path) = &options.emit_plan {
            output::prepare_file(path)?;
        }
        let causal = options.causal.then(|| Causal::plan(&options)).transpose()?;
        let seed = work::seed(options.seed)?;
        Ok(Self {
            model,
            precision: options.dtype.parse().map_err(|error: refrain_ops::OpsError| usage_because(error))?,
            request: request(&options, seed)?,
            seed,
            causal,
            cache: CacheChoice::parse(options.cache.as_deref(), &options.cache_option)?
                .with_drift(options.cache_report),
            cache_report: options.cache_report,
            tensors,
            rate,
            transformer: options.transformer,
            fast_decoder: options.taehv,
            emit_plan: options.emit_plan,
            output: options.output,
        })
    }
}

fn request(options: &GenVideoOptions, seed: u64) -> anyhow::Result<VideoRequest> {
    let guidance = options.cfg_scale.unwrap_or(if options.causal { 1.0 } else { DEFAULT_GUIDANCE });
    if options.causal && guidance > 1.0 {
        return Err(usage("--cfg-scale: causal models are distilled and know no guidance; leave it out"));
    }
    let kind: NoiseKind = work::word(options.rng.as_deref())?.unwrap_or_default();
    let noise = match &options.latents {
        Some(path) => Noise::Latents(latents(path)?),
        None => Noise::Seed { seed, kind },
    };
    let steps = options.steps.unwrap_or(if options.causal { DEFAULT_CAUSAL_STEPS } else { DEFAULT_STEPS });
    if steps == 0 {
        return Err(usage("--steps must be at least 1"));
    }
    Ok(VideoRequest {
        prompt: options.prompt.clone(),
        negative_prompt: options.negative_prompt.clone(),
        noise,
        width: options.width,
        height: options.height,
        frames: options.frames,
        steps,
        guidance_scale: work::guidance(guidance)? as f32,
        sampler: work::word(options.sampling_method.as_deref())?,
    })
}

/// Noise for one clip, `[1, c, f, h, w]`.
fn latents(path: &Path) -> anyhow::Result<Tensor> {
    let held = tensors::read_tensor(path)?;
    match held.dims() {
        [1, _, _, _, _] => Ok(held),
        found => Err(usage(format!(
            "--latents {}: tensor `latents` has shape {found:?}, expected [1, c, f, h, w]",
            path.display()
        ))),
    }
}

impl Causal {
    fn plan(options: &GenVideoOptions) -> anyhow::Result<Self> {
        let policy = KvPolicy::from_name(&options.kv).map_err(|error| usage(format!("--kv: {error}")))?;
        let kv = KvOptions { length: options.window, sinks: options.sinks, policy };
        let kv = kv.checked().map_err(usage_because)?;
        if options.chunk_frames == 0 || options.chunk_frames > options.window - options.sinks {
            let room = options.window - options.sinks;
            return Err(usage(format!(
                "--chunk-frames must be between 1 and {room}, what --window leaves beside --sinks, got {}",
                options.chunk_frames
            )));
        }
        // Evenly from pure noise, as 1000, 750, 500, 250; the table gives each its noise level.
        let count = options.steps.unwrap_or(DEFAULT_CAUSAL_STEPS).min(TIMESTEPS as usize);
        let nominal: Vec<f32> = (0..count).map(|step| TIMESTEPS * (count - step) as f32 / count as f32).collect();
        let steps = FewSteps::new(&nominal, options.timestep_shift).map_err(usage_because)?;
        Ok(Self { chunk_frames: options.chunk_frames, kv, steps, clean_pass: !options.no_clean_pass })
    }
}
