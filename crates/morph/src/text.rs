//! Text states of the keyframes, their anchor, and how they are told to the model frame by frame.

use candle_core::{DType, Device, Tensor};
use refrain_ops::linear_combination;
use refrain_pipeline::Pipeline;

use crate::error::Result;

/// Least similarity of the anchor to each prompt; below it the anchor leads elsewhere than the morph and is dropped. The
/// value is the paper's by a third-party reading, and belongs to CLIP's text space.
pub const RELIABLE: f64 = 0.45;

/// The same for the built-in model's text encoder, whose mean states lie farther apart: over its 247 names the words
/// animal, food, vehicle and face have a median cosine of 0.32 to 0.39 with the names of their own group and of 0.16 to
/// 0.30 with those of other groups.
pub const RELIABLE_BUILTIN: f64 = 0.25;

/// The same for the text encoder of the built-in U-Net, where the medians are 0.38 to 0.49 and 0.32 to 0.39.
pub const RELIABLE_BUILTIN_UNET: f64 = 0.4;

/// States of all texts of a morph, of equal length.
#[derive(Debug, Clone)]
pub struct Texts {
    /// `[keyframes, tokens, width]`.
    pub keyframes: Tensor,
    /// `[1, tokens, width]`: the empty text, for guidance.
    pub empty: Tensor,
    /// `[1, anchor tokens, width]`.
    pub anchor: Option<Tensor>,
    /// Least cosine between the anchor and a prompt.
    pub reliability: Option<f64>,
    /// Least reliability with which the anchor is used.
    pub gate: f64,
}

impl Texts {
    /// Encodes one prompt per keyframe (an empty one is no caption) and the anchor. Families without a text get states
    /// without content.
    ///
    /// # Errors
    /// A text that cannot be encoded.
    pub fn encode(pipeline: &Pipeline, prompts: &[String], anchor: Option<&str>) -> Result<Self> {
        let Some(encoder) = pipeline.text_encoder() else {
            let nothing = |rows: usize| Tensor::zeros((rows, 1, 1), DType::F32, &Device::Cpu);
            return Ok(Self {
                keyframes: nothing(prompts.len())?,
                empty: nothing(1)?,
                anchor: None,
                reliability: None,
                gate: RELIABLE,
            });
        };
        let states: Vec<Tensor> = prompts.iter().map(|prompt| Ok(encoder.encode(prompt)?)).collect::<Result<_>>()?;
        let empty = encoder.encode("")?;
        let lengths = states.iter().chain([&empty]).map(|states| states.dim(1));
        let longest = lengths.collect::<candle_core::Result<Vec<_>>>()?.into_iter().max().unwrap_or(1);
        let equal: Vec<Tensor> = states.iter().map(|states| padded(states, longest)).collect::<Result<_>>()?;
        let (anchor, reliability) = match anchor {
            None => (None, None),
            Some(anchor) => {
                let anchor = encoder.encode(anchor)?.to_dtype(DType::F32)?;
                let similar: Vec<f64> =
                    states.iter().map(|states| pooled_cosine(&anchor, states)).collect::<Result<_>>()?;
                (Some(anchor), similar.into_iter().min_by(f64::total_cmp))
            }
        };
        Ok(Self {
            keyframes: Tensor::cat(&equal, 0)?,
            empty: padded(&empty, longest)?,
            anchor,
            reliability,
            gate: RELIABLE,
        })
    }

    /// The texts with another gate for the anchor, a cosine; -1 lets every anchor pass.
    #[must_use]
    pub fn gated(self, gate: f64) -> Self {
        Self { gate, ..self }
    }

    /// Whether an anchor was given and passes the gate.
    pub fn anchored(&self) -> bool {
        self.anchor.is_some() && self.reliability.is_none_or(|least| least >= self.gate)
    }

    /// States of frames between keyframes `first` and `second`, `[frames, tokens, width]`: the linear interpolation; with
    /// `anchored` the anchor's tokens follow.
    pub(crate) fn frames(&self, (first, second): (usize, usize), alphas: &[f64], anchored: bool) -> Result<Tensor> {
        let (a, b) = (self.keyframes.narrow(0, first, 1)?, self.keyframes.narrow(0, second, 1)?);
        let mut rows = Vec::with_capacity(alphas.len());
        for &alpha in alphas {
            let row = linear_combination(&[((1.0 - alpha) as f32, &a), (alpha as f32, &b)])?;
            rows.push(self.with_anchor(row, anchored)?);
        }
        Ok(Tensor::cat(&rows, 0)?)
    }

    /// The empty text for as many frames; the anchor's place is taken by repetition, so that both halves of guidance have
    /// one length.
    pub(crate) fn empty(&self, frames: usize, anchored: bool) -> Result<Tensor> {
        let extra =
            if anchored { self.anchor.as_ref().map(|anchor| anchor.dim(1)).transpose()?.unwrap_or(0) } else { 0 };
        let row = padded(&self.empty, self.empty.dim(1)? + extra)?;
        Ok(Tensor::cat(&vec![row; frames], 0)?)
    }

    fn with_anchor(&self, row: Tensor, anchored: bool) -> Result<Tensor> {
        match self.anchor.as_ref().filter(|_| anchored) {
            Some(anchor) => Ok(Tensor::cat(&[&row, anchor], 1)?),
            None => Ok(row),
        }
    }
}

/// The states `[1, n, width]` brought to a length by repeating the last, the end mark: a state that the model has seen,
/// which a zero would not be.
fn padded(states: &Tensor, length: usize) -> Result<Tensor> {
    let states = states.to_dtype(DType::F32)?;
    let have = states.dim(1)?;
    if have >= length {
        return Ok(states);
    }
    let last = states.narrow(1, have - 1, 1)?;
    let mut parts = vec![states.clone()];
    parts.extend(vec![last; length - have]);
    Ok(Tensor::cat(&parts, 1)?)
}

/// Cosine of the mean states of two texts.
fn pooled_cosine(first: &Tensor, second: &Tensor) -> Result<f64> {
    let mean = |states: &Tensor| states.to_dtype(DType::F32)?.mean(1)?.flatten_all()?.to_vec1::<f32>();
    let (first, second) = (mean(first)?, mean(second)?);
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let norms = (dot(&first, &first) * dot(&second, &second)).sqrt();
    Ok(if norms > 0.0 { dot(&first, &second) / norms } else { 0.0 })
}
