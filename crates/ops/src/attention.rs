//! Scaled dot-product attention.

use candle_core::{D, Result, Tensor};

use crate::types::{OpsError, Precision};

/// How an attention is divided into heads and computed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionOptions {
    /// Number of heads; the width of query, key and value is a multiple of it.
    pub heads: usize,
    /// Factor of the products before the softmax; 1/√(head width) when absent.
    pub scale: Option<f32>,
    /// How the two matrix products are computed. The softmax is always f32.
    pub precision: Precision,
}

impl AttentionOptions {
    /// Options with the usual scale, in f32.
    pub fn new(heads: usize) -> Self {
        Self { heads, scale: None, precision: Precision::F32 }
    }

    /// The same with another factor before the softmax (T5 takes 1).
    pub fn with_scale(self, scale: f32) -> Self {
        Self { scale: Some(scale), ..self }
    }

    /// The same in another precision.
    pub fn with_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }
}

/// softmax(scale · query · keyᵀ + bias) · value for each head.
///
/// `query` is `[b, nq, heads·d]`, `key` and `value` are `[b, nk, heads·d]`; the result is `[b, nq, heads·d]`.
/// `bias` is additive and broadcasts to `[b, heads, nq, nk]`: a key mask is `[b, 1, 1, nk]` with 0 to keep and a large
/// negative number or -inf to drop. A row whose keys are all dropped by -inf gives zeros.
///
/// # Errors
/// When shapes disagree, or the width is no multiple of `heads`.
pub fn attention(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    bias: Option<&Tensor>,
    options: &AttentionOptions,
) -> Result<Tensor> {
    attention_reference(query, key, value, bias, options)
}

/// Self-attention over one packed tensor `[b, n, 3·heads·d]` that holds query, key and value side by side.
///
/// # Errors
/// When the last dimension is no multiple of 3·`heads`.
pub fn attention_packed_qkv(qkv: &Tensor, bias: Option<&Tensor>, options: &AttentionOptions) -> Result<Tensor> {
    let (_, _, packed) = qkv.dims3()?;
    if packed % 3 != 0 {
        return Err(shape_error("qkv", qkv, "[b, n, 3·heads·d]".into()));
    }
    let width = packed / 3;
    let part = |index: usize| qkv.narrow(D::Minus1, index * width, width)?.contiguous();
    attention(&part(0)?, &part(1)?, &part(2)?, bias, options)
}

fn shape_error(argument: &'static str, tensor: &Tensor, expected: String) -> candle_core::Error {
    OpsError::Shape { operation: "attention", argument, found: tensor.dims().to_vec(), expected }.into()
}

/// The plain twin of [`attention`]: unfused products through candle, differentiable.
///
/// # Errors
/// As [`attention`].
pub fn attention_reference(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    bias: Option<&Tensor>,
    options: &AttentionOptions,
) -> Result<Tensor> {
    let (batch, query_count, width) = query.dims3()?;
    let (_, key_count, _) = key.dims3()?;
    let heads = options.heads;
    if heads == 0 || width % heads != 0 {
        return Err(shape_error("query", query, format!("[b, n, {heads} heads · d]")));
    }
    for (name, tensor) in [("key", key), ("value", value)] {
        if tensor.dims() != [batch, key_count, width] {
            return Err(shape_error(name, tensor, format!("[{batch}, {key_count}, {width}]")));
        }
    }
    let head_width = width / heads;
    let split = |tensor: &Tensor, count: usize| {
        tensor.reshape((batch, count, heads, head_width))?.transpose(1, 2)?.contiguous()
    };
    let scale = options.scale.unwrap_or(1.0 / (head_width as f32).sqrt());
    let (query, key, value) = (split(query, query_count)?, split(key, key_count)?, split(value, key_count)?);
    let mut scores = (query.matmul(&key.t()?)? * f64::from(scale))?;
    if let Some(bias) = bias {
        scores = scores.broadcast_add(&bias.to_dtype(scores.dtype())?)?;
    }
    // candle's `softmax_last_dim` silently severs the gradient; this one keeps it. The floor keeps a row whose keys
    // are all masked by -inf from turning into -inf - -inf.
    let largest = scores.max_keepdim(D::Minus1)?.detach().maximum(f64::from(f32::MIN))?;
    let weights = scores.broadcast_sub(&largest)?.exp()?;
    let total = weights.sum_keepdim(D::Minus1)?.maximum(f64::from(f32::MIN_POSITIVE))?;
    let weights = weights.broadcast_div(&total)?;
    weights.matmul(&value)?.transpose(1, 2)?.reshape((batch, query_count, width))
}
