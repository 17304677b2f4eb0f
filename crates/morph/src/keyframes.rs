//! Inverted keyframes: what all frames between them are made from.

use candle_core::Tensor;
use refrain_samplers::BelmState;

use crate::inject::SharedArchive;
use crate::memory::Rung;
use crate::text::Texts;

/// Where the frames' denoising starts.
#[derive(Debug, Clone)]
pub(crate) enum Start {
    /// Latents at the noisiest level, `[keyframes, c, h, w]`.
    Latents(Tensor),
    /// Two neighbouring latents of O-BELM.
    Pair(BelmState),
}

impl Start {
    /// One value for each latents tensor.
    pub(crate) fn map(&self, change: impl Fn(&Tensor) -> candle_core::Result<Tensor>) -> candle_core::Result<Self> {
        Ok(match self {
            Self::Latents(latents) => Self::Latents(change(latents)?),
            Self::Pair(BelmState { noisier, cleaner }) => {
                Self::Pair(BelmState { noisier: change(noisier)?, cleaner: change(cleaner)? })
            }
        })
    }
}

/// Keyframes after inversion.
pub struct Keyframes {
    pub(crate) start: Start,
    pub(crate) texts: Texts,
    pub(crate) archive: SharedArchive,
    /// Latents at which each inversion step's network was last evaluated, `[keyframes, c, h, w]`; kept to recompute only.
    pub(crate) trajectory: Vec<Tensor>,
    pub(crate) rung: Rung,
    /// Clean latents of the autoencoder, `[keyframes, c, h, w]`.
    pub latents: Tensor,
    /// Bytes predicted for the features before the inversion.
    pub predicted_bytes: usize,
}

impl Keyframes {
    /// Number of keyframes.
    pub fn count(&self) -> usize {
        self.latents.dim(0).unwrap_or(0)
    }

    /// Rung of the memory ladder.
    pub fn rung(&self) -> Rung {
        self.rung
    }

    /// Bytes of features held now.
    pub fn bytes(&self) -> usize {
        let archive = self.archive.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let latents: usize = self.trajectory.iter().map(|latents| 4 * latents.elem_count()).sum();
        archive.bytes() + latents
    }

    /// Takes the anchor and its gate from `texts`, which have the same prompts: inversion does not see the anchor.
    pub fn anchor(&mut self, texts: Texts) {
        self.texts = texts;
    }

    /// The texts in use.
    pub fn texts(&self) -> &Texts {
        &self.texts
    }
}
