//! One block of a PixArt transformer.

use candle_core::{Result, Tensor};
use refrain_cache::{Context, Site};
use refrain_ops::{Precision, add, gate_residual};

use super::PixArtConfig;
use crate::{
    cross_attention::{BlockText, CrossAttention},
    error::ModelError,
    modulation::{Modulation, NormAffine},
    transformer::{FeedForward, SelfAttention},
    weights::Weights,
};

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
        self.cross_attention.prepare_text(states)
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
        [
            (Site::attention(self.index), self.attention.parameters(), self.attention.flops(tokens)),
            (Site::cross_attention(self.index), cross.parameters(), cross.flops(tokens, text_tokens)),
            (Site::feed_forward(self.index), self.feed_forward.parameters(), self.feed_forward.flops(tokens)),
        ]
    }
}
