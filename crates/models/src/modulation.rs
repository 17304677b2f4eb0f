//! Adaptive layer norm (arXiv 2212.09748): shift, scale and gate that follow the timestep.

use candle_core::{Result, Tensor};

use crate::{error::ModelError, weights::Weights};

/// A norm's own weight and bias `[width]`, which fold into scale and shift.
#[derive(Debug)]
pub(crate) struct NormAffine {
    weight: Tensor,
    bias: Tensor,
}

impl NormAffine {
    pub(crate) fn load(
        weights: &Weights,
        width: usize,
        present: bool,
    ) -> std::result::Result<Option<Self>, ModelError> {
        if !present {
            return Ok(None);
        }
        Ok(Some(Self { weight: weights.tensor_f32("weight", &[width])?, bias: weights.tensor_f32("bias", &[width])? }))
    }

    /// (n·w + b)·(1 + scale) + shift = n·(1 + scale′) + shift′.
    fn fold(affine: Option<&Self>, shift: Tensor, scale: Tensor) -> Result<Shift> {
        let Some(affine) = affine else {
            return Ok(Shift { shift, scale });
        };
        let factor = (scale + 1.0)?;
        let shift = (shift + factor.broadcast_mul(&affine.bias)?)?;
        Ok(Shift { shift, scale: (factor.broadcast_mul(&affine.weight)? - 1.0)? })
    }
}

/// Shift and scale of one norm, `[1 or b, width]` each.
struct Shift {
    shift: Tensor,
    scale: Tensor,
}

/// Shift, scale and gate of a block's attention and feed-forward, `[1 or b, width]` each.
pub(crate) struct Modulation {
    attention: Shift,
    pub(crate) attention_gate: Tensor,
    feed_forward: Shift,
    pub(crate) feed_forward_gate: Tensor,
}

impl Modulation {
    /// Splits `[1 or b, 6, width]`; the norms' own weights, if any, are folded in.
    pub(crate) fn split(
        packed: &Tensor,
        attention_norm: Option<&NormAffine>,
        feed_forward_norm: Option<&NormAffine>,
    ) -> Result<Self> {
        let row = |index: usize| packed.narrow(1, index, 1)?.squeeze(1)?.contiguous();
        Ok(Self {
            attention: NormAffine::fold(attention_norm, row(0)?, row(1)?)?,
            attention_gate: row(2)?,
            feed_forward: NormAffine::fold(feed_forward_norm, row(3)?, row(4)?)?,
            feed_forward_gate: row(5)?,
        })
    }

    /// What the attention reads of `hidden` `[b, n, width]`.
    pub(crate) fn attention_input(&self, hidden: &Tensor, epsilon: f64) -> Result<Tensor> {
        refrain_ops::layer_norm_modulate(hidden, &self.attention.shift, &self.attention.scale, epsilon)
    }

    /// What the feed-forward reads of `hidden` `[b, n, width]`.
    pub(crate) fn feed_forward_input(&self, hidden: &Tensor, epsilon: f64) -> Result<Tensor> {
        refrain_ops::layer_norm_modulate(hidden, &self.feed_forward.shift, &self.feed_forward.scale, epsilon)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn a_norms_own_weights_fold_into_the_modulation() -> Result<()> {
        let device = &Device::Cpu;
        let random = |shape: &[usize]| Tensor::randn(0f32, 1.0, shape, device);
        let (hidden, packed) = (random(&[2, 3, 8])?, random(&[2, 6, 8])?);
        let affine = NormAffine { weight: random(&[8])?, bias: random(&[8])? };
        let folded = Modulation::split(&packed, Some(&affine), None)?.attention_input(&hidden, 1e-6)?;
        let normed = refrain_ops::layer_norm(&hidden, Some(&affine.weight), Some(&affine.bias), 1e-6)?;
        let row = |index: usize| packed.narrow(1, index, 1);
        let expected = normed.broadcast_mul(&(row(1)? + 1.0)?)?.broadcast_add(&row(0)?)?;
        assert!(refrain_ops::relative_l2(&expected, &folded)? < 1e-6);
        Ok(())
    }
}
