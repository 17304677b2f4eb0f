//! Chunks of latent frames through the noise levels.

use candle_core::Tensor;
use refrain_cache::{Branch, Context, Step};
use refrain_models::wan::{WanText, WanTransformer};
use refrain_ops::{health, linear_combination};

use crate::{
    error::{Result, StreamError},
    kv::{KvOptions, KvShape, RollingKv, RowChunk},
    noise::NoiseSource,
    steps::{DenoisingStep, FewSteps},
};

/// First branch of a stream batch with empty rows; those below are the rows of the sequential mode.
const PARTIAL: u16 = 0x4000;

/// How the steps of a stream are evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// One forward a chunk: its rows are neighbouring chunks, each at its own noise level (arXiv 2312.12491). Every weight
    /// is read once; a chunk leaves `steps - 1` chunks after it came.
    Batch,
    /// One chunk through all levels: `steps` forwards, no delay.
    #[default]
    Sequential,
}

/// What the model predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Prediction {
    /// Noise minus clean latents, as Wan does.
    #[default]
    Velocity,
    /// The clean latents themselves.
    Sample,
}

/// How a stream is set up.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamOptions {
    /// Size and policy of the rolling cache.
    pub kv: KvOptions,
    /// Noise levels.
    pub steps: FewSteps,
    /// What the model predicts.
    pub prediction: Prediction,
    /// Rows of one forward, or forwards after each other.
    pub mode: Mode,
    /// Gives all rows the keys and values of the first chunk's last step, as StreamDiffusionV2 does.
    pub copy_first_chunk: bool,
    /// After a chunk's last step one more forward on the clean latents at timestep 0, whose keys and values replace those
    /// of the last row (Self-Forcing). Sequential mode only.
    pub clean_pass: bool,
}

/// A chunk that enters a stream.
#[derive(Debug, Clone)]
pub struct Incoming {
    /// Noisy latents `[1, c, frames, h, w]`.
    pub latents: Tensor,
    /// Their noise level: the first step's, or what a noise controller chose.
    pub level: DenoisingStep,
    /// Channels that the model reads beside the latents at every step, `[1, c', frames, h, w]`.
    pub condition: Option<Tensor>,
}

/// A chunk that leaves a stream.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Number of the chunk, from 0, in order of arrival.
    pub chunk: u64,
    /// Number of its first latent frame.
    pub frame: u64,
    /// Clean latents `[1, c, frames, h, w]`.
    pub latents: Tensor,
}

/// A chunk on its way.
#[derive(Debug, Clone)]
struct Flying {
    chunk: u64,
    frame: u64,
    /// Step that comes next: the row.
    step: usize,
    level: DenoisingStep,
    latents: Tensor,
    condition: Option<Tensor>,
}

/// A stream in progress: the session's state, beside the model's weights.
pub struct VideoStream<'a> {
    model: &'a WanTransformer,
    options: StreamOptions,
    kv: RollingKv,
    /// Oldest first.
    flying: Vec<Flying>,
    chunks: u64,
    frames: u64,
    evaluations: usize,
}

impl<'a> VideoStream<'a> {
    /// A stream of latent frames of `height` × `width`.
    ///
    /// # Errors
    /// [`StreamError::Option`], or a size that does not divide into the model's patches.
    pub fn new(model: &'a WanTransformer, options: StreamOptions, (height, width): (usize, usize)) -> Result<Self> {
        if options.clean_pass && options.mode == Mode::Batch {
            return Err(StreamError::Option {
                what: "clean pass",
                found: "on in a stream batch".to_owned(),
                expected: "the sequential mode, whose chunks are clean before the next one comes".to_owned(),
            });
        }
        // With a clean pass all levels share one row: a chunk's last word is what later ones hear.
        let rows = if options.clean_pass { 1 } else { options.steps.count() };
        let kv = RollingKv::new(KvShape::of(model, height, width)?, options.kv, rows)?;
        Ok(Self { model, options, kv, flying: Vec::new(), chunks: 0, frames: 0, evaluations: 0 })
    }

    /// The rolling cache.
    pub fn kv(&self) -> &RollingKv {
        &self.kv
    }

    /// How the stream was set up.
    pub fn options(&self) -> &StreamOptions {
        &self.options
    }

    /// Chunks that came in since the last reset.
    pub fn chunks(&self) -> u64 {
        self.chunks
    }

    /// Evaluations of the model since the last reset.
    pub fn evaluations(&self) -> usize {
        self.evaluations
    }

    /// Chunks that entered and have not left.
    pub fn in_flight(&self) -> usize {
        self.flying.len()
    }

    /// Starts anew: a hard cut. Chunks in flight are dropped.
    pub fn reset(&mut self) {
        self.kv.reset();
        self.flying.clear();
        (self.chunks, self.frames, self.evaluations) = (0, 0, 0);
    }

    /// Takes a chunk in and gives the one that is finished, if any. `text` may change from call to call; the keys that are
    /// held stay those of the former text until they roll out.
    ///
    /// The first chunk, and one of another number of frames than those in flight, passes all levels at once.
    ///
    /// # Errors
    /// [`StreamError::Chunk`], latents that leave the numbers, and those of the model.
    pub fn push(
        &mut self,
        cx: &mut Context,
        incoming: Incoming,
        text: &WanText,
        noise: &mut dyn NoiseSource,
    ) -> Result<Option<Outgoing>> {
        let first = self.chunks == 0;
        let chunk = self.admit(incoming)?;
        if self.options.mode == Mode::Sequential || first {
            let last = self.options.steps.count() - 1;
            let out = self.pass_all(cx, chunk, (text, noise))?;
            if first && self.options.copy_first_chunk && !self.options.clean_pass {
                self.kv.copy_row_to_all(last)?;
            }
            return Ok(Some(out));
        }
        self.flying.push(chunk);
        self.advance(cx, (text, noise))
    }

    /// Finishes a chunk in flight without a new one; `None` when none is left.
    ///
    /// # Errors
    /// As [`VideoStream::push`].
    pub fn flush(&mut self, cx: &mut Context, text: &WanText, noise: &mut dyn NoiseSource) -> Result<Option<Outgoing>> {
        while !self.flying.is_empty() {
            if let Some(out) = self.advance(cx, (text, &mut *noise))? {
                return Ok(Some(out));
            }
        }
        Ok(None)
    }

    fn admit(&mut self, incoming: Incoming) -> Result<Flying> {
        let chunk = self.chunks;
        let problem = |problem: String| StreamError::Chunk { chunk, problem };
        let (rows, _, frames, ..) = incoming.latents.dims5().map_err(|error| problem(error.to_string()))?;
        if rows != 1 || frames == 0 {
            let found = incoming.latents.dims();
            return Err(problem(format!("latents of shape {found:?}, expected [1, c, frames, h, w]")));
        }
        if let Some(other) = self.flying.first().map(|flying| flying.latents.dims().to_vec())
            && other != incoming.latents.dims()
        {
            let found = incoming.latents.dims();
            return Err(problem(format!("latents of shape {found:?} in a batch of {other:?}; flush the stream first")));
        }
        let frame = self.frames;
        (self.chunks, self.frames) = (chunk + 1, frame + frames as u64);
        let Incoming { latents, level, condition } = incoming;
        Ok(Flying { chunk, frame, step: 0, level, latents, condition })
    }

    /// One forward of all chunks in flight, newest in row 0.
    fn advance(&mut self, cx: &mut Context, about: (&WanText, &mut dyn NoiseSource)) -> Result<Option<Outgoing>> {
        let (text, noise) = about;
        let mut rows = std::mem::take(&mut self.flying);
        rows.reverse();
        // Cached features of fewer rows are of no use to more: a stream that fills or drains is a branch of its own.
        let full = rows.len() == self.options.steps.count();
        cx.set_branch(if full { Branch::GUIDED } else { Branch::chunk(PARTIAL | rows.len() as u16) });
        let done = self.evaluate(cx, &mut rows, (text, noise))?;
        rows.reverse();
        self.flying = rows;
        Ok(done)
    }

    fn pass_all(
        &mut self,
        cx: &mut Context,
        chunk: Flying,
        about: (&WanText, &mut dyn NoiseSource),
    ) -> Result<Outgoing> {
        let (text, noise) = about;
        let condition = chunk.condition.clone();
        let mut rows = vec![chunk];
        loop {
            cx.set_branch(Branch::chunk(rows.first().map_or(0, |row| row.step) as u16));
            if let Some(out) = self.evaluate(cx, &mut rows, (text, &mut *noise))? {
                cx.set_branch(Branch::GUIDED);
                if self.options.clean_pass {
                    self.rewrite_clean(&out, condition, text)?;
                }
                return Ok(out);
            }
        }
    }

    /// One forward of `rows`; each moves one level on, and the one that was at the last leaves.
    fn evaluate(
        &mut self,
        cx: &mut Context,
        rows: &mut Vec<Flying>,
        (text, noise): (&WanText, &mut dyn NoiseSource),
    ) -> Result<Option<Outgoing>> {
        let predicted = self.forward(cx, rows, text)?;
        let steps = self.options.steps.steps();
        let mut done = None;
        let mut kept = Vec::with_capacity(rows.len());
        for (index, mut row) in rows.drain(..).enumerate() {
            let predicted = predicted.narrow(0, index, 1)?;
            let clean = match self.options.prediction {
                Prediction::Velocity => linear_combination(&[(1.0, &row.latents), (-row.level.sigma, &predicted)])?,
                Prediction::Sample => predicted.contiguous()?,
            };
            if !health(&clean)?.finite {
                return Err(StreamError::NotFinite { chunk: row.chunk, step: row.step });
            }
            match steps.get(row.step + 1) {
                None => done = Some(Outgoing { chunk: row.chunk, frame: row.frame, latents: clean }),
                Some(&next) => {
                    row.step += 1;
                    row.level = next;
                    let fresh = noise.noise(row.chunk, row.step, clean.dims())?;
                    row.latents = linear_combination(&[(1.0 - next.sigma, &clean), (next.sigma, &fresh)])?;
                    kept.push(row);
                }
            }
        }
        *rows = kept;
        Ok(done)
    }

    fn forward(&mut self, cx: &mut Context, rows: &[Flying], text: &WanText) -> Result<Tensor> {
        let inputs = rows.iter().map(Flying::input).collect::<candle_core::Result<Vec<_>>>()?;
        let frames = inputs.first().map_or(Ok(0), |input| input.dim(2))?;
        let place = |row: &Flying| if self.options.clean_pass { 0 } else { row.step };
        let chunks: Vec<RowChunk> = rows.iter().map(|row| RowChunk { row: place(row), frame: row.frame }).collect();
        let timesteps: Vec<f32> = rows.iter().map(|row| row.level.timestep).collect();
        let level = rows.first().map_or(DenoisingStep { timestep: 0.0, sigma: 0.0 }, |row| row.level);
        // A stream has no last step.
        let (index, count) = (self.evaluations, usize::MAX);
        cx.begin_step(Step { index, count, timestep: level.timestep, sigma: level.sigma });
        self.evaluations += 1;
        self.kv.begin(&chunks, frames)?;
        let (inputs, refreshes) = (Tensor::cat(&inputs, 0)?, self.kv.refreshes());
        let predicted = self.model.forward_causal(cx, &inputs, &timesteps, (text, &mut self.kv))?;
        if self.kv.refreshes() != refreshes {
            // Attention has another past from here on: features that were made with the old one do not follow it.
            cx.forget();
        }
        Ok(predicted)
    }

    /// Replaces a finished chunk's keys and values by those of its clean latents.
    fn rewrite_clean(&mut self, out: &Outgoing, condition: Option<Tensor>, text: &WanText) -> Result<()> {
        let level = DenoisingStep { timestep: 0.0, sigma: 0.0 };
        let Outgoing { chunk, frame, latents } = out.clone();
        self.kv.begin(&[RowChunk { row: 0, frame }], latents.dim(2)?)?;
        let clean = Flying { chunk, frame, step: 0, level, latents, condition };
        self.model.forward_causal(&mut Context::off(), &clean.input()?, &[0.0], (text, &mut self.kv))?;
        Ok(())
    }
}

impl Flying {
    /// What the model reads: the latents, with the condition's channels behind them.
    fn input(&self) -> candle_core::Result<Tensor> {
        match &self.condition {
            Some(condition) => Tensor::cat(&[&self.latents, condition], 1),
            None => Ok(self.latents.clone()),
        }
    }
}
