//! Convolutional blocks of the autoencoder: residual block, attention over pixels, a level, the middle.

use candle_core::{Result, Tensor};
use refrain_ops::{
    Activation, AttentionOptions, Conv2d, ConvEpilogue, GroupNorm, Linear, Precision, add, attention_packed_qkv,
};

use super::AutoencoderKlConfig;
use crate::{
    error::ModelError,
    transformer::{fused_linear, linear},
    weights::Weights,
};

/// What every block needs to know besides its channels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style {
    groups: usize,
    activation: Activation,
    precision: Precision,
}

impl Style {
    pub(super) fn new(config: &AutoencoderKlConfig, precision: Precision) -> Self {
        Self { groups: config.norm_groups, activation: config.activation, precision }
    }

    /// A group norm over `channels`.
    pub(super) fn norm(self, weights: &Weights, channels: usize) -> std::result::Result<GroupNorm, ModelError> {
        const EPSILON: f64 = 1e-6;
        let weight = weights.tensor_f32("weight", &[channels])?;
        let bias = weights.tensor_f32("bias", &[channels])?;
        Ok(GroupNorm::new(self.groups, &weight, &bias, EPSILON)?)
    }

    /// A convolution that keeps the size, with an odd `kernel`.
    pub(super) fn convolution(
        self,
        weights: &Weights,
        (inputs, outputs): (usize, usize),
        kernel: usize,
    ) -> std::result::Result<Conv2d, ModelError> {
        self.strided(weights, (inputs, outputs), kernel, (1, kernel / 2))
    }

    fn strided(
        self,
        weights: &Weights,
        (inputs, outputs): (usize, usize),
        kernel: usize,
        (stride, padding): (usize, usize),
    ) -> std::result::Result<Conv2d, ModelError> {
        let weight = weights.tensor("weight", &[outputs, inputs, kernel, kernel])?;
        let bias = weights.tensor("bias", &[outputs])?;
        Ok(Conv2d::new(&weight, Some(&bias), stride, padding, self.precision)?)
    }
}

/// Norm, activation, convolution, twice; plus the input.
#[derive(Debug)]
struct ResidualBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
    activation: Activation,
}

impl ResidualBlock {
    fn load(
        weights: &Weights,
        (inputs, outputs): (usize, usize),
        style: Style,
    ) -> std::result::Result<Self, ModelError> {
        let shortcut = (inputs != outputs)
            .then(|| style.convolution(&weights.at("conv_shortcut"), (inputs, outputs), 1))
            .transpose()?;
        Ok(Self {
            norm1: style.norm(&weights.at("norm1"), inputs)?,
            conv1: style.convolution(&weights.at("conv1"), (inputs, outputs), 3)?,
            norm2: style.norm(&weights.at("norm2"), outputs)?,
            conv2: style.convolution(&weights.at("conv2"), (outputs, outputs), 3)?,
            shortcut,
            activation: style.activation,
        })
    }

    fn forward(&self, input: &Tensor) -> Result<Tensor> {
        let hidden = self.conv1.forward(&self.norm1.forward(input, self.activation)?)?;
        let hidden = self.norm2.forward(&hidden, self.activation)?;
        let shortcut = self.shortcut.as_ref().map(|shortcut| shortcut.forward(input)).transpose()?;
        let epilogue = ConvEpilogue { residual: Some(shortcut.as_ref().unwrap_or(input)), ..ConvEpilogue::default() };
        self.conv2.forward_with(&hidden, &epilogue)
    }
}

/// Single-head attention between all pixels; plus the input.
#[derive(Debug)]
struct PixelAttention {
    norm: GroupNorm,
    qkv: Linear,
    output: Linear,
    options: AttentionOptions,
}

impl PixelAttention {
    fn load(weights: &Weights, channels: usize, style: Style) -> std::result::Result<Self, ModelError> {
        // Checkpoints from before diffusers 0.17 carry the older names.
        let (inputs, output) = if weights.contains("query.weight") {
            (["query", "key", "value"], "proj_attn")
        } else {
            (["to_q", "to_k", "to_v"], "to_out.0")
        };
        let size = (channels, channels);
        Ok(Self {
            norm: style.norm(&weights.at("group_norm"), channels)?,
            qkv: fused_linear(&inputs.map(|name| weights.at(name)), size, true, style.precision)?,
            output: linear(&weights.at(output), size, true, style.precision)?,
            options: AttentionOptions::new(1).with_precision(style.precision),
        })
    }

    fn forward(&self, input: &Tensor) -> Result<Tensor> {
        let (batch, channels, height, width) = input.dims4()?;
        let pixels = self
            .norm
            .forward(input, Activation::None)?
            .reshape((batch, channels, height * width))?
            .transpose(1, 2)?
            .contiguous()?;
        let mixed = attention_packed_qkv(&self.qkv.forward(&pixels)?, None, &self.options)?;
        let value =
            self.output.forward(&mixed)?.transpose(1, 2)?.contiguous()?.reshape((batch, channels, height, width))?;
        add(input, &value)
    }
}

/// Whether a level halves or doubles the size after its residual blocks.
#[derive(Debug)]
enum Resize {
    Keep,
    Halve(Conv2d),
    Double(Conv2d),
}

/// Which way a level goes, and whether it is the last one, which keeps the size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Down { last: bool },
    Up { last: bool },
}

/// Residual blocks at one resolution, each followed by attention if the level has it.
#[derive(Debug)]
pub(super) struct Level {
    blocks: Vec<(ResidualBlock, Option<PixelAttention>)>,
    resize: Resize,
}

/// What distinguishes a level from its neighbours.
#[derive(Debug, Clone, Copy)]
pub(super) struct LevelShape {
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) layers: usize,
    pub(super) attention: bool,
    pub(super) direction: Direction,
}

impl Level {
    pub(super) fn load(weights: &Weights, shape: LevelShape, style: Style) -> std::result::Result<Self, ModelError> {
        let outputs = shape.outputs;
        let block = |index: usize| {
            let inputs = if index == 0 { shape.inputs } else { outputs };
            let residual = ResidualBlock::load(&weights.at("resnets").at(index), (inputs, outputs), style)?;
            let attention = shape
                .attention
                .then(|| PixelAttention::load(&weights.at("attentions").at(index), outputs, style))
                .transpose()?;
            Ok((residual, attention))
        };
        let resize = match shape.direction {
            Direction::Down { last: true } | Direction::Up { last: true } => Resize::Keep,
            Direction::Down { last: false } => {
                let place = weights.at("downsamplers.0.conv");
                Resize::Halve(style.strided(&place, (outputs, outputs), 3, (2, 0))?)
            }
            Direction::Up { last: false } => {
                Resize::Double(style.convolution(&weights.at("upsamplers.0.conv"), (outputs, outputs), 3)?)
            }
        };
        Ok(Self { blocks: (0..shape.layers).map(block).collect::<std::result::Result<_, ModelError>>()?, resize })
    }

    pub(super) fn forward(&self, mut hidden: Tensor) -> Result<Tensor> {
        for (residual, attention) in &self.blocks {
            hidden = residual.forward(&hidden)?;
            if let Some(attention) = attention {
                hidden = attention.forward(&hidden)?;
            }
        }
        match &self.resize {
            Resize::Keep => Ok(hidden),
            // Padded at the right and bottom only: so the published autoencoders were trained.
            Resize::Halve(convolution) => {
                convolution.forward(&hidden.pad_with_zeros(2, 0, 1)?.pad_with_zeros(3, 0, 1)?)
            }
            Resize::Double(convolution) => convolution.forward_upsampled(&hidden),
        }
    }
}

/// The coarsest level: a residual block, attention if any, another residual block.
#[derive(Debug)]
pub(super) struct Middle {
    first: ResidualBlock,
    attention: Option<PixelAttention>,
    second: ResidualBlock,
}

impl Middle {
    pub(super) fn load(
        weights: &Weights,
        channels: usize,
        attention: bool,
        style: Style,
    ) -> std::result::Result<Self, ModelError> {
        let size = (channels, channels);
        Ok(Self {
            first: ResidualBlock::load(&weights.at("resnets.0"), size, style)?,
            attention: attention
                .then(|| PixelAttention::load(&weights.at("attentions.0"), channels, style))
                .transpose()?,
            second: ResidualBlock::load(&weights.at("resnets.1"), size, style)?,
        })
    }

    pub(super) fn forward(&self, hidden: &Tensor) -> Result<Tensor> {
        let mut hidden = self.first.forward(hidden)?;
        if let Some(attention) = &self.attention {
            hidden = attention.forward(&hidden)?;
        }
        self.second.forward(&hidden)
    }
}
