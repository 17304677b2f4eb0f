//! Attention to a text, whose keys and values are computed once per prompt.

use candle_core::{DType, Result, Tensor};
use refrain_ops::{AttentionOptions, Linear, Precision, attention};

use crate::{
    error::ModelError,
    transformer::{AttentionSize, fused_linear, linear, linear_parameters},
    weights::Weights,
};

/// A text as the blocks read it: keys and values of every block, prepared once for all steps.
#[derive(Debug, Clone)]
pub struct TextStates {
    pub(crate) blocks: Vec<BlockText>,
    pub(crate) bias: Option<Tensor>,
    /// Embedding of the picture's size, of models that are told it.
    pub(crate) size: Option<Tensor>,
    pub(crate) rows: usize,
    pub(crate) tokens: usize,
}

impl TextStates {
    /// Rows: pictures, or the two halves of guidance.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Tokens of the longest row.
    pub fn tokens(&self) -> usize {
        self.tokens
    }
}

/// Attention of the tokens to the text. Keys and values depend on the text alone: they are computed once per prompt.
#[derive(Debug)]
pub(crate) struct CrossAttention {
    query: Linear,
    key_value: Linear,
    output: Linear,
    options: AttentionOptions,
}

impl CrossAttention {
    pub(crate) fn load(
        weights: &Weights,
        size: AttentionSize,
        text_width: usize,
        precision: Precision,
    ) -> std::result::Result<Self, ModelError> {
        let width = size.width();
        let parts = ["to_k", "to_v"].map(|name| weights.at(name));
        Ok(Self {
            query: linear(&weights.at("to_q"), (width, width), size.bias, precision)?,
            key_value: fused_linear(&parts, (text_width, width), size.bias, precision)?,
            output: linear(&weights.at("to_out.0"), (width, width), true, precision)?,
            options: AttentionOptions::new(size.heads).with_precision(precision),
        })
    }

    /// `[b, n, width]` to `[b, n, width]`; `bias` masks tokens of the text.
    pub(crate) fn forward(&self, hidden: &Tensor, text: &BlockText, bias: Option<&Tensor>) -> Result<Tensor> {
        let query = self.query.forward(hidden)?;
        let mixed = attention(&query, &text.key, &text.value, bias, &self.options)?;
        self.output.forward(&mixed)
    }

    /// Keys and values of `states` `[b, tokens, text width]`.
    pub(crate) fn prepare_text(&self, states: &Tensor) -> Result<BlockText> {
        let packed = self.key_value.forward(states)?;
        let mut halves = packed.chunk(2, 2)?.into_iter().map(|half| half.contiguous());
        match (halves.next(), halves.next()) {
            (Some(key), Some(value)) => Ok(BlockText { key: key?, value: value? }),
            _ => candle_core::bail!("keys and values of the text do not divide in two"),
        }
    }

    /// Operations for `tokens` tokens and a text of `text_tokens`, whose keys and values are there already.
    pub(crate) fn flops(&self, tokens: usize, text_tokens: usize) -> u64 {
        let products = 4 * (tokens * text_tokens * self.query.out_features()) as u64;
        self.query.flops(tokens) + products + self.output.flops(tokens)
    }

    pub(crate) fn parameters(&self) -> usize {
        [&self.query, &self.key_value, &self.output].into_iter().map(linear_parameters).sum()
    }
}

/// Keys and values of the text for one block, `[b, tokens, width]` each.
#[derive(Debug, Clone)]
pub(crate) struct BlockText {
    key: Tensor,
    value: Tensor,
}

/// A mask `[b, tokens]` of ones and zeros as an additive bias `[b, 1, 1, tokens]`; `None` if nothing is masked.
pub(crate) fn mask_bias(mask: &Tensor) -> Result<Option<Tensor>> {
    // Far enough below any score that a masked key's weight is exactly zero in f32.
    const DROPPED: f64 = -10_000.0;
    let mask = mask.to_dtype(DType::F32)?;
    if mask.flatten_all()?.to_vec1::<f32>()?.iter().all(|keep| *keep == 1.0) {
        return Ok(None);
    }
    let bias = ((1.0 - mask)? * DROPPED)?;
    Ok(Some(bias.unsqueeze(1)?.unsqueeze(1)?.contiguous()?))
}
