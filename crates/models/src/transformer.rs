//! The parts that diffusion transformers share: patches, self-attention, feed-forward, timestep embedding.

use candle_core::{D, Result, Tensor};
use refrain_ops::{
    Activation, AttentionOptions, Linear, Precision, TimestepEmbeddingOptions, attention_packed_qkv, timestep_embedding,
};

use crate::{config::ConfigFile, error::ModelError, position::GridPositions, weights::Weights};

/// Loads `weight` `[out, in]` and, if asked, `bias` `[out]`.
pub(crate) fn linear(
    weights: &Weights,
    (inputs, outputs): (usize, usize),
    bias: bool,
    precision: Precision,
) -> std::result::Result<Linear, ModelError> {
    let weight = weights.tensor("weight", &[outputs, inputs])?;
    let bias = bias.then(|| weights.tensor("bias", &[outputs])).transpose()?;
    Ok(Linear::new(&weight, bias.as_ref(), precision)?)
}

/// Loads several layers over the same input as one product.
pub(crate) fn fused_linear(
    parts: &[Weights],
    (inputs, outputs): (usize, usize),
    bias: bool,
    precision: Precision,
) -> std::result::Result<Linear, ModelError> {
    let mut tensors = Vec::with_capacity(parts.len());
    for part in parts {
        let weight = part.tensor("weight", &[outputs, inputs])?;
        tensors.push((weight, bias.then(|| part.tensor("bias", &[outputs])).transpose()?));
    }
    let borrowed: Vec<_> = tensors.iter().map(|(weight, bias)| (weight, bias.as_ref())).collect();
    Ok(Linear::fused(&borrowed, precision)?)
}

/// Precision of the layers at a model's edges, which 8 bits would harm and which cost little.
pub(crate) fn edge_precision(precision: Precision) -> Precision {
    match precision {
        Precision::Int8 => Precision::Bf16,
        other => other,
    }
}

/// Width and heads of an attention.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttentionSize {
    pub(crate) heads: usize,
    pub(crate) head_width: usize,
    /// Whether query, key and value have biases.
    pub(crate) bias: bool,
}

impl AttentionSize {
    pub(crate) fn width(self) -> usize {
        self.heads * self.head_width
    }
}

/// Multi-head attention of a sequence to itself.
#[derive(Debug)]
pub(crate) struct SelfAttention {
    qkv: Linear,
    output: Linear,
    options: AttentionOptions,
}

impl SelfAttention {
    pub(crate) fn load(
        weights: &Weights,
        size: AttentionSize,
        precision: Precision,
    ) -> std::result::Result<Self, ModelError> {
        let width = size.width();
        let parts = ["to_q", "to_k", "to_v"].map(|name| weights.at(name));
        Ok(Self {
            qkv: fused_linear(&parts, (width, width), size.bias, precision)?,
            output: linear(&weights.at("to_out.0"), (width, width), true, precision)?,
            options: AttentionOptions::new(size.heads).with_precision(precision),
        })
    }

    /// `[b, n, width]` to `[b, n, width]`.
    pub(crate) fn forward(&self, hidden: &Tensor) -> Result<Tensor> {
        let mixed = attention_packed_qkv(&self.qkv.forward(hidden)?, None, &self.options)?;
        self.output.forward(&mixed)
    }

    /// Operations for `tokens` tokens.
    pub(crate) fn flops(&self, tokens: usize) -> u64 {
        let products = 4 * (tokens * tokens * self.output.in_features()) as u64;
        self.qkv.flops(tokens) + products + self.output.flops(tokens)
    }

    pub(crate) fn parameters(&self) -> usize {
        linear_parameters(&self.qkv) + linear_parameters(&self.output)
    }
}

/// Parameters of a layer with a bias; without one it is off by the width, which no listing notices.
pub(crate) fn linear_parameters(layer: &Linear) -> usize {
    (layer.in_features() + 1) * layer.out_features()
}

/// What a feed-forward does between its two products.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedForwardKind {
    /// A pointwise activation.
    Plain(Activation),
    /// GELU-gated (arXiv 2002.05202): the first product is twice as wide.
    Geglu,
}

impl FeedForwardKind {
    /// Reads diffusers' `activation_fn`.
    ///
    /// # Errors
    /// If it is one that no supported model uses.
    pub fn from_config(config: &ConfigFile, default: &str) -> std::result::Result<Self, ModelError> {
        config.choice(
            "activation_fn",
            default,
            &[
                ("gelu-approximate", Self::Plain(Activation::GeluTanh)),
                ("gelu", Self::Plain(Activation::Gelu)),
                ("linear-silu", Self::Plain(Activation::Silu)),
                ("geglu", Self::Geglu),
            ],
        )
    }
}

/// Two products with an activation between; the inner width is four times the outer.
#[derive(Debug)]
pub(crate) struct FeedForward {
    kind: FeedForwardKind,
    expand: Linear,
    contract: Linear,
}

impl FeedForward {
    pub(crate) fn load(
        weights: &Weights,
        width: usize,
        kind: FeedForwardKind,
        precision: Precision,
    ) -> std::result::Result<Self, ModelError> {
        let inner = 4 * width;
        let expanded = if kind == FeedForwardKind::Geglu { 2 * inner } else { inner };
        Ok(Self {
            kind,
            expand: linear(&weights.at("net.0.proj"), (width, expanded), true, precision)?,
            contract: linear(&weights.at("net.2"), (inner, width), true, precision)?,
        })
    }

    /// `[b, n, width]` to `[b, n, width]`.
    pub(crate) fn forward(&self, hidden: &Tensor) -> Result<Tensor> {
        let inner = match self.kind {
            FeedForwardKind::Plain(activation) => self.expand.forward_activated(hidden, activation)?,
            FeedForwardKind::Geglu => self.expand.forward_geglu(hidden)?,
        };
        self.contract.forward(&inner)
    }

    /// Operations for `tokens` tokens.
    pub(crate) fn flops(&self, tokens: usize) -> u64 {
        self.expand.flops(tokens) + self.contract.flops(tokens)
    }

    pub(crate) fn parameters(&self) -> usize {
        linear_parameters(&self.expand) + linear_parameters(&self.contract)
    }
}

/// Sinusoids of a number, then two layers with SiLU between.
#[derive(Debug)]
pub(crate) struct SinusoidalEmbedder {
    first: Linear,
    second: Linear,
    sinusoids: usize,
    options: TimestepEmbeddingOptions,
}

/// Width of the sinusoids in all supported transformers.
const SINUSOIDS: usize = 256;

impl SinusoidalEmbedder {
    pub(crate) fn load(
        weights: &Weights,
        width: usize,
        options: TimestepEmbeddingOptions,
    ) -> std::result::Result<Self, ModelError> {
        Self::load_sized(weights, (SINUSOIDS, width), options)
    }

    /// As [`SinusoidalEmbedder::load`], for sinusoids of another width.
    pub(crate) fn load_sized(
        weights: &Weights,
        (sinusoids, width): (usize, usize),
        options: TimestepEmbeddingOptions,
    ) -> std::result::Result<Self, ModelError> {
        // One row a step: f32 costs nothing here, and an error would reach every block.
        Ok(Self {
            first: linear(&weights.at("linear_1"), (sinusoids, width), true, Precision::F32)?,
            second: linear(&weights.at("linear_2"), (width, width), true, Precision::F32)?,
            sinusoids,
            options,
        })
    }

    /// `[numbers, width]`.
    pub(crate) fn forward(&self, numbers: &[f32]) -> Result<Tensor> {
        let sinusoids = timestep_embedding(numbers, self.sinusoids, &self.options)?;
        self.second.forward(&self.first.forward_activated(&sinusoids, Activation::Silu)?)
    }

    pub(crate) fn parameters(&self) -> usize {
        linear_parameters(&self.first) + linear_parameters(&self.second)
    }
}

/// Latents to tokens: one product per patch, plus the patch's position.
#[derive(Debug)]
pub(crate) struct PatchEmbedding {
    projection: Linear,
    positions: GridPositions,
    patch: usize,
}

impl PatchEmbedding {
    pub(crate) fn load(
        weights: &Weights,
        (channels, patch): (usize, usize),
        positions: (usize, GridPositions),
        precision: Precision,
    ) -> std::result::Result<Self, ModelError> {
        let (width, positions) = positions;
        let weight = weights
            .tensor("proj.weight", &[width, channels, patch, patch])?
            .reshape((width, channels * patch * patch))?;
        let bias = weights.tensor("proj.bias", &[width])?;
        Ok(Self { projection: Linear::new(&weight, Some(&bias), precision)?, positions, patch })
    }

    /// `[b, c, h, w]` to `[b, (h / patch) * (w / patch), width]`.
    pub(crate) fn forward(&self, latents: &Tensor) -> Result<Tensor> {
        let (rows, columns) = patch_grid(latents, self.patch)?;
        let tokens = self.projection.forward(&patchify(latents, self.patch)?)?;
        tokens.broadcast_add(&self.positions.table(rows, columns)?)
    }

    pub(crate) fn parameters(&self) -> usize {
        linear_parameters(&self.projection)
    }
}

/// Shape of a model's last product.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OutputShape {
    pub(crate) width: usize,
    pub(crate) patch: usize,
    /// Channels that sampling reads.
    pub(crate) kept: usize,
    /// Channels in the checkpoint: twice as many with a learned variance.
    pub(crate) stored: usize,
}

/// The last product, without the rows of a learned variance.
pub(crate) fn output_linear(
    weights: &Weights,
    shape: OutputShape,
    precision: Precision,
) -> std::result::Result<Linear, ModelError> {
    let OutputShape { width, patch, kept, stored } = shape;
    let pixels = patch * patch;
    let weight = weights.tensor("weight", &[pixels * stored, width])?.reshape((pixels, stored, width))?;
    let bias = weights.tensor("bias", &[pixels * stored])?.reshape((pixels, stored))?;
    let weight = weight.narrow(1, 0, kept)?.reshape((pixels * kept, width))?;
    let bias = bias.narrow(1, 0, kept)?.reshape(pixels * kept)?;
    Ok(Linear::new(&weight, Some(&bias), precision)?)
}

/// Rows and columns of patches; an error unless the latents divide into them.
pub(crate) fn patch_grid(latents: &Tensor, patch: usize) -> Result<(usize, usize)> {
    let (_, _, height, width) = latents.dims4()?;
    if height == 0 || width == 0 || !height.is_multiple_of(patch) || !width.is_multiple_of(patch) {
        candle_core::bail!("latents of {height}x{width} do not divide into patches of {patch}x{patch}");
    }
    Ok((height / patch, width / patch))
}

/// `[b, c, h, w]` to `[b, patches, c * patch * patch]`.
pub(crate) fn patchify(latents: &Tensor, patch: usize) -> Result<Tensor> {
    let (batch, channels, ..) = latents.dims4()?;
    let (rows, columns) = patch_grid(latents, patch)?;
    latents.reshape(&[batch, channels, rows, patch, columns, patch][..])?.permute([0, 2, 4, 1, 3, 5])?.reshape((
        batch,
        rows * columns,
        channels * patch * patch,
    ))
}

/// `[b, patches, patch * patch * c]` back to `[b, c, h, w]`. Here the channel is the fastest index of a token, unlike in
/// [`patchify`]: so are the checkpoints.
pub(crate) fn unpatchify(tokens: &Tensor, (rows, columns): (usize, usize), patch: usize) -> Result<Tensor> {
    let batch = tokens.dim(0)?;
    let channels = tokens.dim(D::Minus1)? / (patch * patch);
    tokens.reshape(&[batch, rows, columns, patch, patch, channels][..])?.permute([0, 5, 1, 3, 2, 4])?.reshape((
        batch,
        channels,
        rows * patch,
        columns * patch,
    ))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn patches_hold_their_own_pixels() -> Result<()> {
        let latents = Tensor::arange(0_f32, 2.0 * 4.0 * 6.0, &Device::Cpu)?.reshape((1, 2, 4, 6))?;
        let patches = patchify(&latents, 2)?;
        assert_eq!(patches.dims(), [1, 6, 8]);
        let second: Vec<f32> = patches.get(0)?.get(1)?.to_vec1()?;
        assert_eq!(second, [2.0, 3.0, 8.0, 9.0, 26.0, 27.0, 32.0, 33.0]);
        Ok(())
    }

    #[test]
    fn unpatchify_takes_channels_last() -> Result<()> {
        let latents = Tensor::arange(0_f32, 96.0, &Device::Cpu)?.reshape((2, 2, 4, 6))?;
        let tokens = patchify(&latents, 2)?.reshape((2, 6, 2, 4))?.transpose(2, 3)?.reshape((2, 6, 8))?;
        let back = unpatchify(&tokens, (2, 3), 2)?;
        assert_eq!(back.flatten_all()?.to_vec1::<f32>()?, latents.flatten_all()?.to_vec1::<f32>()?);
        Ok(())
    }

    #[test]
    fn uneven_latents_are_refused() -> Result<()> {
        let latents = Tensor::zeros((1, 2, 5, 4), candle_core::DType::F32, &Device::Cpu)?;
        assert!(patchify(&latents, 2).is_err());
        Ok(())
    }
}
