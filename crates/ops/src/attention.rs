//! Scaled dot-product attention in blocks: scores are made, exponentiated and used while they are in the first-level
//! cache, and never written out.

mod engine;
mod packing;
mod ring;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod tiled;

use candle_core::{D, Result, Tensor};

use crate::differentiable::{Values, is_plain, tied};
use crate::profile::{self, Kind};
use crate::tile::Arithmetic;
use crate::types::{OpsError, Precision};
use engine::{Attention, Bias, Keys};
use packing::{KeyLayout, Rows};
pub use ring::KeyValueRing;

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

    fn scale_for(&self, head_width: usize) -> f32 {
        self.scale.unwrap_or(1.0 / (head_width as f32).sqrt())
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
    let sizes = Sizes::of(query, key, value, options)?;
    let tensors = [Some(query), Some(key), Some(value), bias];
    if !tensors.into_iter().flatten().all(is_plain) || bias.is_some_and(Tensor::track_op) {
        return attention_reference(query, key, value, bias, options);
    }
    let (plain_query, plain_key, plain_value) = (query.contiguous()?, key.contiguous()?, value.contiguous()?);
    let output = {
        let (query, key, value) = (Values::of(&plain_query)?, Values::of(&plain_key)?, Values::of(&plain_value)?);
        let rows = |values, count| rows_of(values, count, sizes.width);
        run(&sizes, rows(&query, sizes.queries), rows(&key, sizes.keys), rows(&value, sizes.keys), bias, options)?
    };
    let (bias, options) = (bias.cloned(), *options);
    tied(output, (sizes.batch, sizes.queries, sizes.width), &[query, key, value], move |inputs| {
        attention_reference(&inputs[0], &inputs[1], &inputs[2], bias.as_ref(), &options)
    })
}

/// Self-attention over one packed tensor `[b, n, 3·heads·d]` that holds query, key and value side by side, read where
/// they lie.
///
/// # Errors
/// When the last dimension is no multiple of 3·`heads`.
pub fn attention_packed_qkv(qkv: &Tensor, bias: Option<&Tensor>, options: &AttentionOptions) -> Result<Tensor> {
    let (batch, count, packed) = qkv.dims3()?;
    if options.heads == 0 || packed % (3 * options.heads) != 0 {
        return Err(shape_error("qkv", qkv, format!("[b, n, 3 · {} heads · d]", options.heads)));
    }
    let sizes = Sizes { batch, queries: count, keys: count, width: packed / 3 };
    if ![Some(qkv), bias].into_iter().flatten().all(is_plain) || bias.is_some_and(Tensor::track_op) {
        return packed_reference(qkv, bias, options);
    }
    let plain = qkv.contiguous()?;
    let output = {
        let values = Values::of(&plain)?;
        let rows =
            |part| Rows { values: &values, start: part * sizes.width, batch_step: count * packed, row_step: packed };
        run(&sizes, rows(0), rows(1), rows(2), bias, options)?
    };
    let (bias, options) = (bias.cloned(), *options);
    let shape = (batch, count, sizes.width);
    tied(output, shape, &[qkv], move |inputs| packed_reference(&inputs[0], bias.as_ref(), &options))
}

/// Sizes of one attention.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    batch: usize,
    queries: usize,
    keys: usize,
    /// All heads together.
    width: usize,
}

impl Sizes {
    fn of(query: &Tensor, key: &Tensor, value: &Tensor, options: &AttentionOptions) -> Result<Self> {
        let (batch, queries, width) = query.dims3()?;
        let (_, keys, _) = key.dims3()?;
        let heads = options.heads;
        if heads == 0 || width % heads != 0 {
            return Err(shape_error("query", query, format!("[b, n, {heads} heads · d]")));
        }
        for (name, tensor) in [("key", key), ("value", value)] {
            if tensor.dims() != [batch, keys, width] {
                return Err(shape_error(name, tensor, format!("[{batch}, {keys}, {width}]")));
            }
        }
        Ok(Self { batch, queries, keys, width })
    }
}

/// The rows of a contiguous `[b, count, width]`.
fn rows_of(values: &[f32], count: usize, width: usize) -> Rows<'_> {
    Rows { values, start: 0, batch_step: count * width, row_step: width }
}

fn run(
    sizes: &Sizes,
    queries: Rows<'_>,
    keys: Rows<'_>,
    values: Rows<'_>,
    bias: Option<&Tensor>,
    options: &AttentionOptions,
) -> Result<Vec<f32>> {
    let _timed = profile::timed(Kind::Attention);
    let heads = options.heads;
    let bias = bias.map(|bias| contiguous_bias(bias, sizes, heads)).transpose()?;
    let bias_values = bias.as_ref().map(Values::of).transpose()?;
    let bias = bias.as_ref().zip(bias_values.as_deref()).map(|(tensor, values)| {
        // Steps of a contiguous tensor, 0 where one entry serves all.
        let mut steps = [0; 3];
        let mut step = sizes.keys;
        for (target, &size) in steps.iter_mut().rev().zip(tensor.dims().iter().rev().skip(1)) {
            *target = if size == 1 { 0 } else { step };
            step *= size;
        }
        Bias { values, batch_step: steps[0], head_step: steps[1], query_step: steps[2] }
    });
    let head_width = sizes.width / heads;
    let layout = KeyLayout::new(Arithmetic::of(options.precision), head_width, sizes.keys);
    let (key_words, value_words) = engine::pack(&layout, (sizes.batch, heads), sizes.keys, keys, values);
    let attention = Attention {
        batch: sizes.batch,
        heads,
        queries,
        query_count: sizes.queries,
        keys: Keys { layout: &layout, keys: &key_words, values: &value_words, count: sizes.keys },
        bias,
        scale: options.scale_for(head_width),
    };
    let output = attention.run();
    engine::keep(key_words, value_words);
    Ok(output)
}

/// The bias with a full last dimension, contiguous.
fn contiguous_bias(bias: &Tensor, sizes: &Sizes, heads: usize) -> Result<Tensor> {
    let full = [sizes.batch, heads, sizes.queries, sizes.keys];
    let fits = |(&found, expected): (&usize, usize)| found == expected || found == 1;
    if bias.rank() != 4 || !bias.dims().iter().zip(full).all(fits) {
        return Err(shape_error("bias", bias, format!("{full:?} or 1 where it is the same for all")));
    }
    let (batch, heads, queries, _) = bias.dims4()?;
    bias.broadcast_as((batch, heads, queries, sizes.keys))?.contiguous()
}

fn shape_error(argument: &'static str, tensor: &Tensor, expected: String) -> candle_core::Error {
    OpsError::Shape { operation: "attention", argument, found: tensor.dims().to_vec(), expected }.into()
}

fn packed_reference(qkv: &Tensor, bias: Option<&Tensor>, options: &AttentionOptions) -> Result<Tensor> {
    let width = qkv.dim(D::Minus1)? / 3;
    let part = |index: usize| qkv.narrow(D::Minus1, index * width, width)?.contiguous();
    attention_reference(&part(0)?, &part(1)?, &part(2)?, bias, options)
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
    let Sizes { batch, queries: query_count, keys: key_count, width } = Sizes::of(query, key, value, options)?;
    let heads = options.heads;
    if key_count == 0 {
        return query.zeros_like();
    }
    let head_width = width / heads;
    let split = |tensor: &Tensor, count: usize| {
        tensor.reshape((batch, count, heads, head_width))?.transpose(1, 2)?.contiguous()
    };
    let scale = options.scale_for(head_width);
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
