//! The spatial transformer of a U-Net: pixels as tokens that attend to each other and to the text.

use candle_core::{Result, Tensor};
use refrain_cache::{Context, Site};
use refrain_ops::{Activation, GroupNorm, Linear, add, layer_norm};

use super::{TransformerConfig, UnetConfig, residual::Style};
use crate::{
    cross_attention::{BlockText, CrossAttention},
    error::ModelError,
    transformer::{AttentionSize, FeedForward, FeedForwardKind, SelfAttention},
    weights::Weights,
};

/// Epsilon of the norm in front, whatever the configuration says of the others.
const INPUT_EPSILON: f64 = 1e-6;
/// Epsilon of the layer norms.
const EPSILON: f64 = 1e-5;

/// Weight and bias of a layer norm.
#[derive(Debug)]
struct Norm {
    weight: Tensor,
    bias: Tensor,
}

impl Norm {
    fn load(weights: &Weights, width: usize) -> std::result::Result<Self, ModelError> {
        Ok(Self { weight: weights.tensor_f32("weight", &[width])?, bias: weights.tensor_f32("bias", &[width])? })
    }

    fn forward(&self, hidden: &Tensor) -> Result<Tensor> {
        layer_norm(hidden, Some(&self.weight), Some(&self.bias), EPSILON)
    }
}

/// Self-attention, cross-attention and feed-forward, each behind a norm and added to its input.
#[derive(Debug)]
pub(super) struct TransformerBlock {
    index: usize,
    norm1: Norm,
    attention: SelfAttention,
    norm2: Norm,
    cross_attention: CrossAttention,
    norm3: Norm,
    feed_forward: FeedForward,
}

impl TransformerBlock {
    fn load(
        weights: &Weights,
        index: usize,
        (size, text_width): (AttentionSize, usize),
        style: Style,
    ) -> std::result::Result<Self, ModelError> {
        let (width, precision) = (size.width(), style.precision);
        Ok(Self {
            index,
            norm1: Norm::load(&weights.at("norm1"), width)?,
            attention: SelfAttention::load(&weights.at("attn1"), size, precision)?,
            norm2: Norm::load(&weights.at("norm2"), width)?,
            cross_attention: CrossAttention::load(&weights.at("attn2"), size, text_width, precision)?,
            norm3: Norm::load(&weights.at("norm3"), width)?,
            feed_forward: FeedForward::load(&weights.at("ff"), width, FeedForwardKind::Geglu, precision)?,
        })
    }

    /// Keys and values of text states `[b, tokens, text width]`.
    pub(super) fn prepare_text(&self, states: &Tensor) -> Result<BlockText> {
        self.cross_attention.prepare_text(states)
    }

    fn forward(&self, cx: &mut Context, hidden: &Tensor, text: &BlockText) -> Result<Tensor> {
        let attended = cx.run(Site::attention(self.index), |_| self.attention.forward(&self.norm1.forward(hidden)?))?;
        let hidden = add(hidden, &attended)?;
        let crossed = cx.run(Site::cross_attention(self.index), |_| {
            self.cross_attention.forward(&self.norm2.forward(&hidden)?, text, None)
        })?;
        let hidden = add(&hidden, &crossed)?;
        let fed =
            cx.run(Site::feed_forward(self.index), |_| self.feed_forward.forward(&self.norm3.forward(&hidden)?))?;
        add(&hidden, &fed)
    }

    /// Sites with their parameters and operations for `tokens` tokens and a text of `text_tokens`.
    fn costs(&self, tokens: usize, text_tokens: usize) -> [(Site, usize, u64); 3] {
        let cross = &self.cross_attention;
        [
            (Site::attention(self.index), self.attention.parameters(), self.attention.flops(tokens)),
            (Site::cross_attention(self.index), cross.parameters(), cross.flops(tokens, text_tokens)),
            (Site::feed_forward(self.index), self.feed_forward.parameters(), self.feed_forward.flops(tokens)),
        ]
    }
}

/// Norm and projection to tokens, transformer blocks, projection back; plus the input.
#[derive(Debug)]
pub(super) struct SpatialTransformer {
    norm: GroupNorm,
    project_in: Linear,
    pub(super) blocks: Vec<TransformerBlock>,
    project_out: Linear,
}

impl SpatialTransformer {
    /// `first` is the number of its first block, in execution order.
    pub(super) fn load(
        weights: &Weights,
        first: usize,
        (channels, shape): (usize, TransformerConfig),
        (config, style): (&UnetConfig, Style),
    ) -> std::result::Result<Self, ModelError> {
        let size = AttentionSize { heads: shape.heads, head_width: channels / shape.heads, bias: false };
        let blocks = weights.at("transformer_blocks");
        let project = |name: &str| projection(&weights.at(name), channels, config.linear_projection, style);
        Ok(Self {
            norm: style.norm(&weights.at("norm"), channels, INPUT_EPSILON)?,
            project_in: project("proj_in")?,
            blocks: (0..shape.blocks)
                .map(|block| TransformerBlock::load(&blocks.at(block), first + block, (size, config.text_width), style))
                .collect::<std::result::Result<_, _>>()?,
            project_out: project("proj_out")?,
        })
    }

    /// `[b, c, h, w]` to `[b, c, h, w]`; `text` holds keys and values for each of its blocks.
    pub(super) fn forward(&self, cx: &mut Context, input: &Tensor, text: &[BlockText]) -> Result<Tensor> {
        let (batch, channels, height, width) = input.dims4()?;
        let pixels = self.norm.forward(input, Activation::None)?.reshape((batch, channels, height * width))?;
        let mut hidden = self.project_in.forward(&pixels.transpose(1, 2)?.contiguous()?)?;
        for (block, text) in self.blocks.iter().zip(text) {
            hidden = block.forward(cx, &hidden, text)?;
        }
        let output = self.project_out.forward(&hidden)?.transpose(1, 2)?.contiguous()?;
        add(input, &output.reshape((batch, channels, height, width))?)
    }

    /// Sites with their parameters and operations.
    pub(super) fn costs(&self, tokens: usize, text_tokens: usize) -> impl Iterator<Item = (Site, usize, u64)> + '_ {
        self.blocks.iter().flat_map(move |block| block.costs(tokens, text_tokens))
    }

    /// Operations outside its sites.
    pub(super) fn edge_flops(&self, tokens: usize) -> u64 {
        self.project_in.flops(tokens) + self.project_out.flops(tokens)
    }
}

/// A product over channels, stored as a matrix or as a 1×1 convolution.
fn projection(
    weights: &Weights,
    channels: usize,
    matrix: bool,
    style: Style,
) -> std::result::Result<Linear, ModelError> {
    let weight = if matrix {
        weights.tensor("weight", &[channels, channels])?
    } else {
        weights.tensor("weight", &[channels, channels, 1, 1])?.reshape((channels, channels))?
    };
    let bias = weights.tensor("bias", &[channels])?;
    Ok(Linear::new(&weight, Some(&bias), style.precision)?)
}
