//! One block of a PixArt transformer, and the cross-attention inside it.

use candle_core::{DType, Result, Tensor};
use refrain_cache::{Context, Site};
use refrain_ops::{AttentionOptions, Linear, Precision, add, attention, gate_residual};

use super::PixArtConfig;
use crate::{
    error::ModelError,
    modulation::{Modulation, NormAffine},
    transformer::{AttentionSize, FeedForward, SelfAttention, fused_linear, linear, linear_parameters},
    weights::Weights,
};

/// Attention of the tokens to the text. Keys and values depend on the text alone: they are computed once per prompt.
#[derive(Debug)]
struct CrossAttention {
    query: Linear,
    key_value: Linear,
    output: Linear,
    options: AttentionOptions,
}

impl CrossAttention {
    fn load(
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

    fn forward(&self, hidden: &Tensor, text: &BlockText, bias: Option<&Tensor>) -> Result<Tensor> {
        let query = self.query.forward(hidden)?;
        let mixed = attention(&query, &text.key, &text.value, bias, &self.options)?;
        self.output.forward(&mixed)
    }
}

/// Keys and values of the text for one block, `[b, tokens, width]` each.
#[derive(Debug, Clone)]
pub(super) struct BlockText {
    key: Tensor,
    value: Tensor,
}

/// Self-attention, cross-attention and feed-forward, the first and last modulated by the timestep (arXiv 2310.00426).
#[derive(Debug)]
pub(super) struct Block {
    index: usize,
    epsilon: f64,
    /// `[1, 6, width]`, added to the timestep's modulation.
    table: Tensor,
    norm1: Option<NormAffine>,
    attention: SelfAttention,
    cross_attention: CrossAttention,
    norm2: Option<NormAffine>,
    feed_forward: FeedForward,
}

impl Block {
    pub(super) fn load(
        weights: &Weights,
        config: &PixArtConfig,
        index: usize,
        precision: Precision,
    ) -> std::result::Result<Self, ModelError> {
        let (width, size) = (config.width(), config.attention());
        let text_width = config.cross_attention_width;
        let affine = config.norm_affine;
        Ok(Self {
            index,
            epsilon: config.norm_epsilon,
            table: weights.tensor_f32("scale_shift_table", &[6, width])?.unsqueeze(0)?,
            norm1: NormAffine::load(&weights.at("norm1"), width, affine)?,
            attention: SelfAttention::load(&weights.at("attn1"), size, precision)?,
            cross_attention: CrossAttention::load(&weights.at("attn2"), size, text_width, precision)?,
            norm2: NormAffine::load(&weights.at("norm2"), width, affine)?,
            feed_forward: FeedForward::load(&weights.at("ff"), width, config.feed_forward, precision)?,
        })
    }

    /// Keys and values of `states` `[b, tokens, text width]`.
    pub(super) fn prepare_text(&self, states: &Tensor) -> Result<BlockText> {
        let packed = self.cross_attention.key_value.forward(states)?;
        let mut halves = packed.chunk(2, 2)?.into_iter().map(|half| half.contiguous());
        match (halves.next(), halves.next()) {
            (Some(key), Some(value)) => Ok(BlockText { key: key?, value: value? }),
            _ => candle_core::bail!("keys and values of the text do not divide in two"),
        }
    }

    /// Splits the timestep's modulation `[1 or b, 6, width]`, after this block's table is added to it.
    pub(super) fn modulation(&self, timestep: &Tensor) -> Result<Modulation> {
        Modulation::split(&timestep.broadcast_add(&self.table)?, self.norm1.as_ref(), self.norm2.as_ref())
    }

    /// `hidden` `[b, n, width]`; each of the three parts asks `cx` first, with its output before the gate.
    pub(super) fn forward(
        &self,
        cx: &mut Context,
        hidden: &Tensor,
        modulation: &Modulation,
        (text, bias): (&BlockText, Option<&Tensor>),
    ) -> Result<Tensor> {
        let attended = cx.run(Site::attention(self.index), |_| {
            self.attention.forward(&modulation.attention_input(hidden, self.epsilon)?)
        })?;
        let hidden = gate_residual(hidden, &modulation.attention_gate, &attended)?;

        // PixArt does not normalise what the cross-attention reads.
        let crossed =
            cx.run(Site::cross_attention(self.index), |_| self.cross_attention.forward(&hidden, text, bias))?;
        let hidden = add(&hidden, &crossed)?;

        let fed = cx.run(Site::feed_forward(self.index), |_| {
            self.feed_forward.forward(&modulation.feed_forward_input(&hidden, self.epsilon)?)
        })?;
        gate_residual(&hidden, &modulation.feed_forward_gate, &fed)
    }

    /// Parameters and operations of the three sites for `tokens` tokens and a text of `text_tokens`.
    pub(super) fn costs(&self, tokens: usize, text_tokens: usize) -> [(Site, usize, u64); 3] {
        let cross = &self.cross_attention;
        let products = 4 * (tokens * text_tokens * cross.query.out_features()) as u64;
        let layers = [&cross.query, &cross.key_value, &cross.output];
        [
            (Site::attention(self.index), self.attention.parameters(), self.attention.flops(tokens)),
            (
                Site::cross_attention(self.index),
                layers.into_iter().map(linear_parameters).sum(),
                cross.query.flops(tokens) + products + cross.output.flops(tokens),
            ),
            (Site::feed_forward(self.index), self.feed_forward.parameters(), self.feed_forward.flops(tokens)),
        ]
    }
}

/// A mask `[b, tokens]` of ones and zeros as an additive bias `[b, 1, 1, tokens]`; `None` if nothing is masked.
pub(super) fn mask_bias(mask: &Tensor) -> Result<Option<Tensor>> {
    // Far enough below any score that a masked key's weight is exactly zero in f32.
    const DROPPED: f64 = -10_000.0;
    let mask = mask.to_dtype(DType::F32)?;
    if mask.flatten_all()?.to_vec1::<f32>()?.iter().all(|keep| *keep == 1.0) {
        return Ok(None);
    }
    let bias = ((1.0 - mask)? * DROPPED)?;
    Ok(Some(bias.unsqueeze(1)?.unsqueeze(1)?.contiguous()?))
}
