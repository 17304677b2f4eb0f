//! Chunk after chunk through a causal transformer with a rolling KV cache (Self-Forcing, arXiv 2506.08009): frames are
//! written as they come, and memory does not grow with the clip.

use std::time::Instant;

use refrain_cache::RunHeader;
use refrain_stream::{ChunkNoise, Incoming, Mode, Prediction, StreamOptions, VideoStream};

use super::session::Session;
use super::work::Causal;
use crate::errors::{interrupted, of_request, usage, usage_because};
use crate::interrupt;
use crate::progress::Progress;

/// Makes the clip.
///
/// # Errors
/// Options that do not fit the model (exit 2), whatever the model or the disk do, or Ctrl-C: what is finished stays.
pub(super) fn run(session: Session<'_>, causal: &Causal) -> anyhow::Result<()> {
    let (request, pipeline) = (&session.work.request, session.pipeline);
    let transformer = pipeline.transformer();
    if transformer.config().patch.first() != Some(&1) {
        return Err(usage(
            "--causal: the model's patches span several latent frames, so that it cannot go frame by frame",
        ));
    }
    let (noise, _) = pipeline.first_noise(request).map_err(of_request)?;
    let (_, _, frames, height, width) = noise.dims5()?;
    let steps = causal.steps.steps().to_vec();
    let options = StreamOptions {
        kv: causal.kv,
        steps: causal.steps.clone(),
        prediction: Prediction::Velocity,
        mode: Mode::Sequential,
        copy_first_chunk: false,
        clean_pass: causal.clean_pass,
    };
    let mut stream = VideoStream::new(transformer, options, (height, width)).map_err(usage_because)?;
    let mut cache = session.cache(|| {
        Ok(RunHeader {
            model: pipeline.fingerprint()?.to_owned(),
            sampler: "causal".to_owned(),
            steps: steps.len(),
            guidance_scale: 1.0,
            dtype: session.work.precision.to_string(),
        })
    })?;
    let text = pipeline.prepare_text(&request.prompt).map_err(of_request)?;
    let mut output = session.output()?;
    session.announce("causal", steps.len())?;
    let chunks = frames.div_ceil(causal.chunk_frames);
    let progress = Progress::counting(&session.console, "", chunks, "chunk");
    let (mut fresh, mut decoder) = (ChunkNoise { seed: session.work.seed }, pipeline.begin_decoding());
    let began = Instant::now();
    for chunk in 0..chunks {
        if interrupt::requested() {
            let done = output.frames;
            if done > 0 {
                session.finish(output, &cache)?;
            }
            return Err(interrupted(format!("stopped with {done} of {} frames done", request.frames)));
        }
        let start = chunk * causal.chunk_frames;
        let latents = noise.narrow(2, start, causal.chunk_frames.min(frames - start))?;
        let Some(&level) = steps.first() else { break };
        // The first level is pure noise.
        let latents = refrain_ops::linear_combination(&[(level.sigma, &latents.contiguous()?)])?;
        let incoming = Incoming { latents, level, condition: None };
        if let Some(done) = stream.push(&mut cache, incoming, &text, &mut fresh)? {
            output.put(&done.latents, &decoder.push(&done.latents).map_err(of_request)?)?;
        }
        progress.step(chunk + 1, began.elapsed().as_secs_f64(), None);
    }
    progress.finish();
    session.finish(output, &cache)
}
