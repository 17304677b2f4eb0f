//! Sums, gates and activations in one pass.

use candle_core::{Result, Tensor};

use crate::types::{Activation, OpsError};

/// `hidden` + `gate`·`value` for `hidden`, `value` `[b, n, c]` and `gate` `[b, c]` (or `[1, c]` for all rows).
///
/// # Errors
/// When shapes disagree.
pub fn gate_residual(hidden: &Tensor, gate: &Tensor, value: &Tensor) -> Result<Tensor> {
    gate_residual_reference(hidden, gate, value)
}

/// The plain twin of [`gate_residual`].
///
/// # Errors
/// As [`gate_residual`].
pub fn gate_residual_reference(hidden: &Tensor, gate: &Tensor, value: &Tensor) -> Result<Tensor> {
    hidden + value.broadcast_mul(&gate.unsqueeze(1)?)?
}

/// The sum of two tensors of one shape.
///
/// # Errors
/// When shapes differ.
pub fn add(left: &Tensor, right: &Tensor) -> Result<Tensor> {
    left + right
}

/// Σ factor·tensor in one pass over tensors of one shape: forecasts, blends, sampler updates.
///
/// # Errors
/// When there is no term or shapes differ.
pub fn linear_combination(terms: &[(f32, &Tensor)]) -> Result<Tensor> {
    linear_combination_reference(terms)
}

/// The plain twin of [`linear_combination`].
///
/// # Errors
/// As [`linear_combination`].
pub fn linear_combination_reference(terms: &[(f32, &Tensor)]) -> Result<Tensor> {
    let Some(((factor, first), rest)) = terms.split_first() else {
        let (operation, argument) = ("linear combination", "terms");
        let (found, expected) = ("empty".into(), "at least one".into());
        return Err(OpsError::Value { operation, argument, found, expected }.into());
    };
    let mut total = (*first * f64::from(*factor))?;
    for (factor, tensor) in rest {
        total = (total + (*tensor * f64::from(*factor))?)?;
    }
    Ok(total)
}

/// An activation of each value.
///
/// # Errors
/// When the tensor is not of a float dtype.
pub fn activate(input: &Tensor, activation: Activation) -> Result<Tensor> {
    activation.reference(input)
}

/// SiLU of each value.
///
/// # Errors
/// As [`activate`].
pub fn silu(input: &Tensor) -> Result<Tensor> {
    activate(input, Activation::Silu)
}

/// GELU (error function) of each value.
///
/// # Errors
/// As [`activate`].
pub fn gelu(input: &Tensor) -> Result<Tensor> {
    activate(input, Activation::Gelu)
}

/// GELU (tanh approximation) of each value.
///
/// # Errors
/// As [`activate`].
pub fn gelu_tanh(input: &Tensor) -> Result<Tensor> {
    activate(input, Activation::GeluTanh)
}
