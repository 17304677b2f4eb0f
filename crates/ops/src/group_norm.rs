//! Group norm with the activation that follows it.

use candle_core::{DType, Result, Tensor};

use crate::types::{Activation, OpsError};

/// Group norm (arXiv 1803.08494) over `[b, c, ..]` with frozen weight and bias `[c]`.
#[derive(Debug, Clone)]
pub struct GroupNorm {
    groups: usize,
    weight: Tensor,
    bias: Tensor,
    epsilon: f64,
}

impl GroupNorm {
    /// A norm over `groups` groups of channels.
    ///
    /// # Errors
    /// When `weight` and `bias` differ in length, or it is no multiple of `groups`.
    pub fn new(groups: usize, weight: &Tensor, bias: &Tensor, epsilon: f64) -> Result<Self> {
        let channels = weight.dims1()?;
        if groups == 0 || channels % groups != 0 || bias.dims() != [channels] {
            return Err(OpsError::Shape {
                operation: "group norm",
                argument: "bias",
                found: bias.dims().to_vec(),
                expected: format!("[{channels}] like the weight, a multiple of {groups} groups"),
            }
            .into());
        }
        let to_f32 = |tensor: &Tensor| tensor.detach().to_dtype(DType::F32)?.contiguous();
        Ok(Self { groups, weight: to_f32(weight)?, bias: to_f32(bias)?, epsilon })
    }

    /// The norm of `[b, c, ..]`, followed by `activation`.
    ///
    /// # Errors
    /// When the input has another number of channels.
    pub fn forward(&self, input: &Tensor, activation: Activation) -> Result<Tensor> {
        self.forward_reference(input, activation)
    }

    /// The plain twin of [`GroupNorm::forward`], differentiable.
    ///
    /// # Errors
    /// As [`GroupNorm::forward`].
    pub fn forward_reference(&self, input: &Tensor, activation: Activation) -> Result<Tensor> {
        let dims = input.dims();
        let channels = self.weight.dims1()?;
        let (&batch, rest) = match dims {
            [batch, found, rest @ ..] if *found == channels => (batch, rest),
            _ => {
                let expected = format!("[b, {channels}, ..]");
                let (operation, argument, found) = ("group norm", "input", dims.to_vec());
                return Err(OpsError::Shape { operation, argument, found, expected }.into());
            }
        };
        let per_channel: usize = rest.iter().product();
        let per_group = per_channel * (channels / self.groups);
        let grouped = input.reshape((batch, self.groups, per_group))?;
        let centred = grouped.broadcast_sub(&grouped.mean_keepdim(2)?)?;
        let variance = centred.sqr()?.mean_keepdim(2)?;
        let normed = centred.broadcast_div(&(variance + self.epsilon)?.sqrt()?)?;
        let normed = normed.reshape((batch, channels, per_channel))?;
        let output = normed
            .broadcast_mul(&self.weight.reshape((1, channels, 1))?)?
            .broadcast_add(&self.bias.reshape((1, channels, 1))?)?;
        activation.reference(&output.reshape(dims)?)
    }
}
