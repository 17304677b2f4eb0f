//! The residual block of a U-Net, told the timestep.

use candle_core::{Result, Tensor};
use refrain_cache::{Context, Site};
use refrain_ops::{Activation, Conv2d, ConvEpilogue, GroupNorm, Linear, Precision};

use super::UnetConfig;
use crate::{
    error::ModelError,
    transformer::{linear, linear_parameters},
    weights::Weights,
};

/// What every part of a U-Net needs to know besides its channels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style {
    pub(super) groups: usize,
    epsilon: f64,
    embedding_width: usize,
    pub(super) precision: Precision,
}

impl Style {
    pub(super) fn new(config: &UnetConfig, precision: Precision) -> Self {
        Self {
            groups: config.norm_groups,
            epsilon: config.norm_epsilon,
            embedding_width: config.embedding_width(),
            precision,
        }
    }

    /// A group norm over `channels`.
    pub(super) fn norm(
        self,
        weights: &Weights,
        channels: usize,
        epsilon: f64,
    ) -> std::result::Result<GroupNorm, ModelError> {
        let weight = weights.tensor_f32("weight", &[channels])?;
        let bias = weights.tensor_f32("bias", &[channels])?;
        Ok(GroupNorm::new(self.groups, &weight, &bias, epsilon)?)
    }

    /// The norm in front of a convolution.
    pub(super) fn residual_norm(
        self,
        weights: &Weights,
        channels: usize,
    ) -> std::result::Result<GroupNorm, ModelError> {
        self.norm(weights, channels, self.epsilon)
    }
}

/// A convolution with an odd kernel.
pub(super) fn convolution(
    weights: &Weights,
    (inputs, outputs): (usize, usize),
    (kernel, stride, padding): (usize, usize, usize),
    precision: Precision,
) -> std::result::Result<Conv2d, ModelError> {
    let weight = weights.tensor("weight", &[outputs, inputs, kernel, kernel])?;
    let bias = weights.tensor("bias", &[outputs])?;
    Ok(Conv2d::new(&weight, Some(&bias), stride, padding, precision)?)
}

/// Values of a convolution's weight and bias.
fn convolution_parameters(convolution: &Conv2d) -> usize {
    let pixels = convolution.kernel() * convolution.kernel();
    (convolution.in_channels() * pixels + 1) * convolution.out_channels()
}

/// Norm, SiLU, convolution, twice, with the timestep added between; plus the input.
#[derive(Debug)]
pub(super) struct ResidualBlock {
    /// Number of the block in execution order.
    pub(super) index: usize,
    norm1: GroupNorm,
    conv1: Conv2d,
    timestep: Linear,
    norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
}

impl ResidualBlock {
    pub(super) fn load(
        weights: &Weights,
        index: usize,
        (inputs, outputs): (usize, usize),
        style: Style,
    ) -> std::result::Result<Self, ModelError> {
        // The sum over a skip connection need not divide into the groups.
        if !inputs.is_multiple_of(style.groups) {
            let problem =
                format!("is {}, which does not divide the {inputs} channels of a residual block", style.groups);
            return Err(ModelError::config("unet/config.json", "norm_num_groups", problem));
        }
        let same = (3, 1, 1);
        let shortcut = (inputs != outputs)
            .then(|| convolution(&weights.at("conv_shortcut"), (inputs, outputs), (1, 1, 0), style.precision))
            .transpose()?;
        // One row a step: f32 costs nothing.
        let timestep = linear(&weights.at("time_emb_proj"), (style.embedding_width, outputs), true, Precision::F32)?;
        Ok(Self {
            index,
            norm1: style.residual_norm(&weights.at("norm1"), inputs)?,
            conv1: convolution(&weights.at("conv1"), (inputs, outputs), same, style.precision)?,
            timestep,
            norm2: style.residual_norm(&weights.at("norm2"), outputs)?,
            conv2: convolution(&weights.at("conv2"), (outputs, outputs), same, style.precision)?,
            shortcut,
        })
    }

    /// `[b, in, h, w]` to `[b, out, h, w]`; `embedded` `[1 or b, embedding width]` is behind its SiLU. Asks `cx` first.
    pub(super) fn forward(&self, cx: &mut Context, input: &Tensor, embedded: &Tensor) -> Result<Tensor> {
        cx.run(Site::residual(self.index), |_| self.compute(input, embedded))
    }

    fn compute(&self, input: &Tensor, embedded: &Tensor) -> Result<Tensor> {
        let shift = self.timestep.forward(embedded)?.broadcast_as((input.dim(0)?, self.conv1.out_channels()))?;
        let shift = shift.contiguous()?;
        let epilogue = ConvEpilogue { shift: Some(&shift), ..ConvEpilogue::default() };
        let hidden = self.conv1.forward_with(&self.norm1.forward(input, Activation::Silu)?, &epilogue)?;
        let hidden = self.norm2.forward(&hidden, Activation::Silu)?;
        let shortcut = self.shortcut.as_ref().map(|shortcut| shortcut.forward(input)).transpose()?;
        let epilogue = ConvEpilogue { residual: Some(shortcut.as_ref().unwrap_or(input)), ..ConvEpilogue::default() };
        self.conv2.forward_with(&hidden, &epilogue)
    }

    pub(super) fn out_channels(&self) -> usize {
        self.conv2.out_channels()
    }

    /// Operations for a picture of `height` × `width`.
    pub(super) fn flops(&self, (height, width): (usize, usize)) -> u64 {
        let layers = [Some(&self.conv1), Some(&self.conv2), self.shortcut.as_ref()];
        let products: u64 = layers.into_iter().flatten().map(|layer| layer.flops(height, width)).sum();
        products + self.timestep.flops(1)
    }

    pub(super) fn parameters(&self) -> usize {
        let layers = [Some(&self.conv1), Some(&self.conv2), self.shortcut.as_ref()];
        let products: usize = layers.into_iter().flatten().map(convolution_parameters).sum();
        let norms = 2 * (self.conv1.in_channels() + self.conv2.in_channels());
        products + linear_parameters(&self.timestep) + norms
    }
}
