//! Layer norm and RMS norm over the last dimension.

use candle_core::{D, Result, Tensor};

/// Layer norm (arXiv 1607.06450) over the last dimension of `[.., c]`, with optional `weight` and `bias` `[c]`.
///
/// # Errors
/// When the weight or bias has another length than the last dimension.
pub fn layer_norm(input: &Tensor, weight: Option<&Tensor>, bias: Option<&Tensor>, epsilon: f64) -> Result<Tensor> {
    layer_norm_reference(input, weight, bias, epsilon)
}

/// Adaptive layer norm (arXiv 2212.09748): norm(`input`)·(1 + `scale`) + `shift`, for `input` `[b, n, c]` and `shift`,
/// `scale` `[b, c]` (or `[1, c]` for all rows).
///
/// # Errors
/// When shapes disagree.
pub fn layer_norm_modulate(input: &Tensor, shift: &Tensor, scale: &Tensor, epsilon: f64) -> Result<Tensor> {
    layer_norm_modulate_reference(input, shift, scale, epsilon)
}

/// RMS norm (arXiv 1910.07467) over the last dimension of `[.., c]`, with `weight` `[c]`.
///
/// # Errors
/// When the weight has another length than the last dimension.
pub fn rms_norm(input: &Tensor, weight: &Tensor, epsilon: f64) -> Result<Tensor> {
    rms_norm_reference(input, weight, epsilon)
}

/// The plain twin of [`layer_norm`]: candle's own layer norm silently severs the gradient, these operations keep it.
///
/// # Errors
/// As [`layer_norm`].
pub fn layer_norm_reference(
    input: &Tensor,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    epsilon: f64,
) -> Result<Tensor> {
    let centred = input.broadcast_sub(&input.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let mut output = centred.broadcast_div(&(variance + epsilon)?.sqrt()?)?;
    if let Some(weight) = weight {
        output = output.broadcast_mul(weight)?;
    }
    if let Some(bias) = bias {
        output = output.broadcast_add(bias)?;
    }
    Ok(output)
}

/// The plain twin of [`layer_norm_modulate`].
///
/// # Errors
/// As [`layer_norm_modulate`].
pub fn layer_norm_modulate_reference(input: &Tensor, shift: &Tensor, scale: &Tensor, epsilon: f64) -> Result<Tensor> {
    let normed = layer_norm_reference(input, None, None, epsilon)?;
    normed.broadcast_mul(&(scale.unsqueeze(1)? + 1.0)?)?.broadcast_add(&shift.unsqueeze(1)?)
}

/// The plain twin of [`rms_norm`].
///
/// # Errors
/// As [`rms_norm`].
pub fn rms_norm_reference(input: &Tensor, weight: &Tensor, epsilon: f64) -> Result<Tensor> {
    let square = input.sqr()?.mean_keepdim(D::Minus1)?;
    input.broadcast_div(&(square + epsilon)?.sqrt()?)?.broadcast_mul(weight)
}
