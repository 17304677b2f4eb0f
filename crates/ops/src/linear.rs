//! Linear layers: weights packed once at load, one fused product per call.
//!
//! Where a gradient is wanted, the same product runs as one differentiable operation (its gradient is a second packed
//! product with the transposed weight), and the pointwise end is composed of candle's own operations.

mod epilogue;
mod operation;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use candle_core::{DType, Result, Tensor};

use crate::matmul::TILE_COLUMNS;
use crate::types::{Activation, OpsError, Precision};
use operation::{End, LinearOperation, Weight};

/// A packed weight `[out, in]` with an optional bias `[out]`. Both are frozen: gradients go to the activations only.
///
/// Rows of the result do not depend on the other rows, the batch or the number of threads: they are bit-identical.
/// Cloning shares the weight.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Arc<Weight>,
}

impl Linear {
    /// Packs `weight` (`[out, in]`, any float type) and `bias` (`[out]`).
    ///
    /// # Errors
    /// When the weight is not a matrix with at least one input and output, or the bias does not fit it.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>, precision: Precision) -> Result<Self> {
        Self::fused(&[(weight, bias)], precision)
    }

    /// Packs several layers over the same input into one product; their outputs follow each other in the last dimension.
    ///
    /// # Errors
    /// When there is no part, a weight is not a matrix, the inputs differ in width or a bias does not fit its weight.
    pub fn fused(parts: &[(&Tensor, Option<&Tensor>)], precision: Precision) -> Result<Self> {
        let inputs = match parts.first() {
            Some((weight, _)) => weight.dims2()?.1,
            None => 0,
        };
        if inputs == 0 {
            return Err(too_few("in_features"));
        }
        let (mut weights, mut biases) = (Vec::new(), Vec::new());
        for (weight, bias) in parts {
            let (outputs, width) = weight.dims2()?;
            if width != inputs {
                return Err(refused("weight", weight, format!("[.., {inputs}]")));
            }
            let values = weight.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
            if weights.is_empty() {
                weights = values;
            } else {
                weights.extend(values);
            }
            match bias {
                Some(bias) if bias.dims() == [outputs] => biases.extend(bias.to_dtype(DType::F32)?.to_vec1::<f32>()?),
                Some(bias) => return Err(refused("bias", bias, format!("[{outputs}]"))),
                None => biases.resize(biases.len() + outputs, 0.0),
            }
        }
        if biases.is_empty() {
            return Err(too_few("out_features"));
        }
        let mut weight = Weight::new(biases.len(), inputs, precision, |output, input| weights[output * inputs + input]);
        weight.bias[..biases.len()].copy_from_slice(&biases);
        Ok(Self { weight: Arc::new(weight) })
    }

    /// `input * weight^T + bias`: `[.., in]` to `[.., out]`.
    ///
    /// # Errors
    /// When the last dimension of `input` is not `in_features`.
    pub fn forward(&self, input: &Tensor) -> Result<Tensor> {
        self.forward_activated(input, Activation::None)
    }

    /// `activation(input * weight^T + bias)`.
    ///
    /// # Errors
    /// As [`Linear::forward`].
    pub fn forward_activated(&self, input: &Tensor, activation: Activation) -> Result<Tensor> {
        let input = self.checked(input)?;
        if input.track_op() {
            return activation.reference(&input.apply_op1(self.operation(End::Activate(Activation::None)))?);
        }
        input.apply_op1_no_bwd(&self.operation(End::Activate(activation)))
    }

    /// `residual + gate * (input * weight^T + bias)`.
    ///
    /// `gate` has `out_features` elements per group of rows: `[out]` for all rows alike, `[b, out]` (or `[b, 1, out]`)
    /// for one gate per batch element.
    ///
    /// # Errors
    /// As [`Linear::forward`]; when `residual` has not the result's shape, or `gate` does not divide the rows.
    pub fn forward_residual(&self, input: &Tensor, gate: Option<&Tensor>, residual: &Tensor) -> Result<Tensor> {
        let input = self.checked(input)?;
        let mut shape = input.dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = self.out_features();
        }
        if residual.dims() != shape {
            return Err(refused("residual", residual, format!("{shape:?}")));
        }
        let rows = input.elem_count() / self.in_features();
        let groups = gate.map_or(1, |gate| gate.elem_count() / self.out_features()).max(1);
        if let Some(gate) =
            gate.filter(|gate| gate.elem_count() != groups * self.out_features() || !rows.is_multiple_of(groups))
        {
            return Err(refused("gate", gate, format!("[b, {}] with b dividing {rows} rows", self.out_features())));
        }
        let tracked = input.track_op() || residual.track_op() || gate.is_some_and(Tensor::track_op);
        if tracked {
            return self.residual_tracked(&input, gate, groups, residual);
        }
        let residual = single(residual)?;
        match gate {
            Some(gate) => input.apply_op3_no_bwd(&residual, &single(gate)?, &self.operation(End::Residual)),
            None => input.apply_op2_no_bwd(&residual, &self.operation(End::Residual)),
        }
    }

    fn residual_tracked(
        &self,
        input: &Tensor,
        gate: Option<&Tensor>,
        groups: usize,
        residual: &Tensor,
    ) -> Result<Tensor> {
        let product = self.forward(input)?;
        let Some(gate) = gate else { return residual + product };
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
        let input = self.checked(input)?;
        let half = self.out_features() / 2;
        if half.is_multiple_of(TILE_COLUMNS) && half > 0 && !input.track_op() {
            return input.apply_op1_no_bwd(&self.operation(End::Gated));
        }
        let product = self.forward(&input)?;
        let last = product.rank() - 1;
        product.narrow(last, 0, half)? * product.narrow(last, half, half)?.gelu_erf()?
    }

    /// The input as a contiguous `f32` tensor, if its width is right.
    fn checked(&self, input: &Tensor) -> Result<Tensor> {
        if input.dims().last() != Some(&self.in_features()) {
            return Err(refused("input", input, format!("[.., {}]", self.in_features())));
        }
        single(input)
    }

    fn operation(&self, end: End) -> LinearOperation {
        LinearOperation { weight: self.weight.clone(), end }
    }

    /// Width of the input's last dimension.
    #[must_use]
    pub fn in_features(&self) -> usize {
        self.weight.packed.shape.depth
    }

    /// Width of the result's last dimension.
    #[must_use]
    pub fn out_features(&self) -> usize {
        self.weight.packed.shape.outputs
    }

    /// Bytes held by the packed weight and the bias.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.weight.packed.bytes() + size_of_val(self.weight.bias.as_slice())
    }

    /// Floating-point operations of a product with `rows` rows (a multiply-add counts two).
    #[must_use]
    pub fn flops(&self, rows: usize) -> u64 {
        2 * rows as u64 * self.in_features() as u64 * self.out_features() as u64
    }
}

/// The tensor in `f32`, contiguous.
fn single(tensor: &Tensor) -> Result<Tensor> {
    tensor.to_dtype(DType::F32)?.contiguous()
}

/// The error of a layer without inputs or outputs.
fn too_few(argument: &'static str) -> candle_core::Error {
    let (found, expected) = ("0".to_owned(), "at least one".to_owned());
    OpsError::Value { operation: "linear", argument, found, expected }.into()
}

/// The error of an argument whose shape does not fit.
fn refused(argument: &'static str, tensor: &Tensor, expected: String) -> candle_core::Error {
    OpsError::Shape { operation: "linear", argument, found: tensor.dims().to_vec(), expected }.into()
}
