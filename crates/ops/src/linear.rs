//! Linear layers: weights packed once at load, one fused product per call.

use candle_core::{DType, Result, Tensor};

use crate::types::{Activation, OpsError, Precision};

/// A packed weight `[out, in]` with an optional bias `[out]`.
///
/// Rows of the result do not depend on the other rows, the batch or the number of threads: they are bit-identical.
#[derive(Clone, Debug)]
pub struct Linear {
    transposed: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// Packs `weight` (`[out, in]`, any float type) and `bias` (`[out]`).
    ///
    /// # Errors
    /// When the weight is not a matrix or the bias does not fit it.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>, precision: Precision) -> Result<Self> {
        Self::fused(&[(weight, bias)], precision)
    }

    /// Packs several layers over the same input into one product; their outputs follow each other in the last dimension.
    ///
    /// # Errors
    /// When there is no part, a weight is not a matrix, the inputs differ in width or a bias does not fit its weight.
    pub fn fused(parts: &[(&Tensor, Option<&Tensor>)], _precision: Precision) -> Result<Self> {
        let mut weights = Vec::new();
        let mut biases = Vec::new();
        for (weight, bias) in parts {
            let (out, _) = weight.dims2()?;
            weights.push(weight.to_dtype(DType::F32)?);
            biases.push(match bias {
                Some(bias) if bias.dims() == [out] => bias.to_dtype(DType::F32)?,
                Some(bias) => return Err(refused("bias", bias, format!("[{out}]"))),
                None => Tensor::zeros(out, DType::F32, weight.device())?,
            });
        }
        let transposed = Tensor::cat(&weights, 0)?.t()?.contiguous()?.detach();
        let bias = match parts.iter().any(|(_, bias)| bias.is_some()) {
            true => Some(Tensor::cat(&biases, 0)?.detach()),
            false => None,
        };
        Ok(Self { transposed, bias })
    }

    /// `input * weight^T + bias`: `[.., in]` to `[.., out]`.
    ///
    /// # Errors
    /// When the last dimension of `input` is not `in_features`.
    pub fn forward(&self, input: &Tensor) -> Result<Tensor> {
        let mut shape = input.dims().to_vec();
        match shape.last_mut() {
            Some(last) if *last == self.in_features() => *last = self.out_features(),
            _ => return Err(refused("input", input, format!("[.., {}]", self.in_features()))),
        }
        let rows = input.elem_count() / self.in_features().max(1);
        let product = input.contiguous()?.reshape((rows, self.in_features()))?.matmul(&self.transposed)?;
        let product = match &self.bias {
            Some(bias) => product.broadcast_add(bias)?,
            None => product,
        };
        product.reshape(shape)
    }

    /// `activation(input * weight^T + bias)`.
    ///
    /// # Errors
    /// As [`Linear::forward`].
    pub fn forward_activated(&self, input: &Tensor, activation: Activation) -> Result<Tensor> {
        activation.reference(&self.forward(input)?)
    }

    /// `residual + gate * (input * weight^T + bias)`.
    ///
    /// `gate` has `out_features` elements per group of rows: `[out]` for all rows alike, `[b, out]` (or `[b, 1, out]`)
    /// for one gate per batch element.
    ///
    /// # Errors
    /// As [`Linear::forward`]; when `residual` has not the result's shape, or `gate` does not divide the rows.
    pub fn forward_residual(&self, input: &Tensor, gate: Option<&Tensor>, residual: &Tensor) -> Result<Tensor> {
        let product = self.forward(input)?;
        let Some(gate) = gate else { return residual + product };
        let groups = gate.elem_count() / self.out_features().max(1);
        let gate = gate.contiguous()?.reshape((groups, 1, self.out_features()))?;
        let grouped = product.reshape((groups, (), self.out_features()))?.broadcast_mul(&gate)?;
        residual + grouped.reshape(product.shape())?
    }

    /// The gated feed-forward of arXiv 2002.05202: of the product `[.., 2 h]`, first half times GELU of the second half.
    ///
    /// # Errors
    /// As [`Linear::forward`]; when `out_features` is odd.
    pub fn forward_geglu(&self, input: &Tensor) -> Result<Tensor> {
        if self.out_features() % 2 == 1 {
            let (found, expected) = (self.out_features().to_string(), "an even number for a gated layer".to_owned());
            return Err(OpsError::Value { operation: "linear", argument: "out_features", found, expected }.into());
        }
        let half = self.out_features() / 2;
        let product = self.forward(input)?;
        let last = product.rank() - 1;
        product.narrow(last, 0, half)? * product.narrow(last, half, half)?.gelu_erf()?
    }

    /// Width of the input's last dimension.
    #[must_use]
    pub fn in_features(&self) -> usize {
        self.transposed.dims()[0]
    }

    /// Width of the result's last dimension.
    #[must_use]
    pub fn out_features(&self) -> usize {
        self.transposed.dims()[1]
    }

    /// Bytes held by the packed weight and the bias.
    #[must_use]
    pub fn bytes(&self) -> usize {
        (self.transposed.elem_count() + self.bias.as_ref().map_or(0, Tensor::elem_count)) * size_of::<f32>()
    }

    /// Floating-point operations of a product with `rows` rows (a multiply-add counts two).
    #[must_use]
    pub fn flops(&self, rows: usize) -> u64 {
        2 * rows as u64 * self.in_features() as u64 * self.out_features() as u64
    }
}

/// The error of an argument whose shape does not fit.
fn refused(argument: &'static str, tensor: &Tensor, expected: String) -> candle_core::Error {
    OpsError::Shape { operation: "linear", argument, found: tensor.dims().to_vec(), expected }.into()
}
