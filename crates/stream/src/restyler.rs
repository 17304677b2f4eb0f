//! A picture in, the same picture in another style out: one latent frame a picture.
//!
//! The model reads noised latents with the picture's own latents beside them. They start as `(1 - s)·picture + s·noise`
//! (SDEdit, arXiv 2108.01073), where the noise scale `s` follows the motion.

use candle_core::{DType, Tensor};
use refrain_cache::Context;
use refrain_models::patch_autoencoder::PatchAutoencoder;
use refrain_models::wan::{WanText, WanTransformer};
use refrain_ops::linear_combination;

use crate::error::Result;
use crate::noise::NoiseSource;
use crate::noise_controller::{NoiseControl, NoiseController};
use crate::steps::DenoisingStep;
use crate::stream::{Incoming, Outgoing, StreamOptions, VideoStream};

/// The networks of a restyler.
#[derive(Debug, Clone, Copy)]
pub struct RestyleModel<'a> {
    /// Denoises latents beside those of the picture.
    pub transformer: &'a WanTransformer,
    /// Pictures to latents and back.
    pub autoencoder: &'a PatchAutoencoder,
}

/// How a restyler runs.
#[derive(Debug, Clone)]
pub struct RestyleOptions {
    /// Steps, rolling cache and mode.
    pub stream: StreamOptions,
    /// How the noise scale follows the motion; the first step's own without.
    pub control: Option<NoiseControl>,
}

/// A restyled picture.
#[derive(Debug, Clone)]
pub struct Restyled {
    /// Number of the picture that it answers, from 0.
    pub frame: u64,
    /// Pixels `[1, 3, height, width]` in 0..1.
    pub picture: Tensor,
    /// Latents `[1, c, 1, h, w]`.
    pub latents: Tensor,
}

/// A stream of pictures under one prompt at a time.
pub struct Restyler<'a> {
    model: RestyleModel<'a>,
    stream: VideoStream<'a>,
    context: Context,
    text: WanText,
    noise: Box<dyn NoiseSource + Send>,
    controller: Option<NoiseController>,
}

impl<'a> Restyler<'a> {
    /// A stream of pictures of `height` × `width` pixels.
    ///
    /// # Errors
    /// Options or a size that do not fit the model.
    pub fn new(
        model: RestyleModel<'a>,
        options: RestyleOptions,
        (text, context): (WanText, Context),
        noise: Box<dyn NoiseSource + Send>,
        (height, width): (usize, usize),
    ) -> Result<Self> {
        let side = model.autoencoder.config().patch;
        let stream = VideoStream::new(model.transformer, options.stream, (height / side, width / side))?;
        let controller = options.control.map(NoiseController::new);
        Ok(Self { model, stream, context, text, noise, controller })
    }

    /// The cache, for its report.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The rolling stream inside.
    pub fn stream(&self) -> &VideoStream<'a> {
        &self.stream
    }

    /// The noise scale of the next picture if nothing moves.
    pub fn noise_scale(&self) -> Option<f64> {
        self.controller.as_ref().map(NoiseController::scale)
    }

    /// Another prompt from the next picture on: no feature of the former one is used again, while the rolling keys and values
    /// keep the motion smooth until they have left.
    pub fn set_prompt(&mut self, text: WanText) {
        self.text = text;
        self.context.forget();
    }

    /// Takes a picture `[1, 3, height, width]` in 0..1, and gives the one that is finished, if any: the same one in sequential
    /// mode, one from `steps - 1` pictures ago in a stream batch.
    ///
    /// # Errors
    /// A picture of another size, and those of the model.
    pub fn push(&mut self, picture: &Tensor) -> Result<Option<Restyled>> {
        let signed = picture.to_dtype(DType::F32)?.affine(2.0, -1.0)?;
        let source = self.model.autoencoder.encode(&signed)?.unsqueeze(2)?;
        let level = match &mut self.controller {
            Some(controller) => {
                let scale = controller.observe(&signed.unsqueeze(2)?)?;
                DenoisingStep { timestep: 1000.0 * scale as f32, sigma: scale as f32 }
            }
            None => self.first_level(),
        };
        let noise = self.noise.noise(self.stream.chunks(), 0, source.dims())?;
        let latents = linear_combination(&[(1.0 - level.sigma, &source), (level.sigma, &noise)])?;
        let incoming = Incoming { latents, level, condition: Some(source) };
        let finished = self.stream.push(&mut self.context, incoming, &self.text, self.noise.as_mut())?;
        finished.map(|outgoing| self.decode(outgoing)).transpose()
    }

    /// Finishes a picture in flight without a new one; `None` when none is left.
    ///
    /// # Errors
    /// Those of the model.
    pub fn flush(&mut self) -> Result<Option<Restyled>> {
        let finished = self.stream.flush(&mut self.context, &self.text, self.noise.as_mut())?;
        finished.map(|outgoing| self.decode(outgoing)).transpose()
    }

    fn first_level(&self) -> DenoisingStep {
        let steps = self.stream.options().steps.steps();
        steps.first().copied().unwrap_or(DenoisingStep { timestep: 1000.0, sigma: 1.0 })
    }

    fn decode(&self, outgoing: Outgoing) -> Result<Restyled> {
        let decoded = self.model.autoencoder.decode(&outgoing.latents.squeeze(2)?)?;
        let picture = decoded.affine(0.5, 0.5)?.clamp(0f32, 1f32)?;
        Ok(Restyled { frame: outgoing.frame, picture, latents: outgoing.latents })
    }
}
