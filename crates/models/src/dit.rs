//! DiT (arXiv 2212.09748): a diffusion transformer conditioned on a class by adaptive norms alone.

mod config;

use std::sync::Arc;

use candle_core::{D, DType, Device, Result, Tensor};
use rayon::prelude::*;
use refrain_cache::{Context, Site};
use refrain_ops::{Linear, Precision, TimestepEmbeddingOptions, gate_residual, layer_norm_modulate, silu};

pub use config::DitConfig;

use crate::{
    denoiser::{Conditions, Denoiser, Facts, LatentShape, SiteInfo},
    error::ModelError,
    modulation::{Modulation, NormAffine},
    position::GridPositions,
    transformer::{
        FeedForward, OutputShape, PatchEmbedding, SelfAttention, SinusoidalEmbedder, edge_precision, linear,
        output_linear, patch_grid, unpatchify,
    },
    weights::Weights,
};

/// Epsilon of the attention's and the last norm, whatever the configuration says of the others.
const EPSILON: f64 = 1e-6;

/// Timestep and class to one vector. The layout gives every block its own, but those of a converted original are copies of
/// one (arXiv 2212.09748 has one), which is then held once.
#[derive(Debug)]
struct Conditioner {
    timestep: SinusoidalEmbedder,
    /// `[classes + 1, width]` as stored; a step reads two rows of it.
    classes: Tensor,
}

impl Conditioner {
    fn load(weights: &Weights, config: &DitConfig) -> std::result::Result<Self, ModelError> {
        let width = config.width();
        let options = TimestepEmbeddingOptions { frequency_shift: 1.0, ..TimestepEmbeddingOptions::default() };
        let table = [config.classes + 1, width];
        Ok(Self {
            timestep: SinusoidalEmbedder::load(&weights.at("timestep_embedder"), width, options)?,
            classes: weights.tensor("class_embedder.embedding_table.weight", &table)?,
        })
    }

    /// `[b, width]`.
    fn forward(&self, timesteps: &[f32], labels: &Tensor) -> Result<Tensor> {
        let classes = self.classes.index_select(labels, 0)?.to_dtype(DType::F32)?;
        self.timestep.forward(timesteps)?.broadcast_add(&classes)
    }
}

/// Self-attention and feed-forward, both modulated by timestep and class.
#[derive(Debug)]
struct Block {
    index: usize,
    epsilon: f64,
    conditioner: Arc<Conditioner>,
    modulation: Linear,
    attention: SelfAttention,
    feed_forward_norm: Option<NormAffine>,
    feed_forward: FeedForward,
}

impl Block {
    /// Block `index` of those at `blocks`; `first` is the first one's conditioner.
    fn load(
        blocks: &Weights,
        config: &DitConfig,
        (index, first): (usize, &Arc<Conditioner>),
        precision: Precision,
    ) -> std::result::Result<Self, ModelError> {
        let width = config.width();
        let weights = blocks.at(index);
        let norm1 = weights.at("norm1");
        let embedding = norm1.at("emb");
        let conditioner = if embedding.equals(&blocks.at("0.norm1.emb"))? {
            first.clone()
        } else {
            Arc::new(Conditioner::load(&embedding, config)?)
        };
        let edge = edge_precision(precision);
        Ok(Self {
            index,
            epsilon: config.norm_epsilon,
            conditioner,
            modulation: linear(&norm1.at("linear"), (width, 6 * width), true, edge)?,
            attention: SelfAttention::load(&weights.at("attn1"), config.attention(), precision)?,
            feed_forward_norm: NormAffine::load(&weights.at("norm3"), width, config.norm_affine)?,
            feed_forward: FeedForward::load(&weights.at("ff"), width, config.feed_forward, precision)?,
        })
    }

    /// `hidden` `[b, n, width]`; both parts ask `cx` first, with their output before the gate.
    fn forward(&self, cx: &mut Context, hidden: &Tensor, timesteps: &[f32], labels: &Tensor) -> Result<Tensor> {
        let condition = silu(&self.conditioner.forward(timesteps, labels)?)?;
        let packed = self.modulation.forward(&condition)?.reshape(((), 6, hidden.dim(D::Minus1)?))?;
        let modulation = Modulation::split(&packed, None, self.feed_forward_norm.as_ref())?;

        let attended = cx.run(Site::attention(self.index), |_| {
            self.attention.forward(&modulation.attention_input(hidden, EPSILON)?)
        })?;
        let hidden = gate_residual(hidden, &modulation.attention_gate, &attended)?;
        let fed = cx.run(Site::feed_forward(self.index), |_| {
            self.feed_forward.forward(&modulation.feed_forward_input(&hidden, self.epsilon)?)
        })?;
        gate_residual(&hidden, &modulation.feed_forward_gate, &fed)
    }

    /// Parameters and operations of the two sites for `tokens` tokens.
    fn costs(&self, tokens: usize) -> [(Site, usize, u64); 2] {
        [
            (Site::attention(self.index), self.attention.parameters(), self.attention.flops(tokens)),
            (Site::feed_forward(self.index), self.feed_forward.parameters(), self.feed_forward.flops(tokens)),
        ]
    }
}

/// A DiT, its weights packed.
#[derive(Debug)]
pub struct Dit {
    config: DitConfig,
    patches: PatchEmbedding,
    blocks: Vec<Block>,
    /// Condition to shift and scale of the last norm.
    output_modulation: Linear,
    output: Linear,
    /// As counted in the checkpoint.
    parameters: usize,
}

impl Dit {
    /// Loads the transformer from the root of its checkpoint; blocks pack in parallel.
    ///
    /// # Errors
    /// Names a tensor that is missing or does not fit the configuration.
    pub fn load(weights: &Weights, config: &DitConfig, precision: Precision) -> std::result::Result<Self, ModelError> {
        let width = config.width();
        let edge = edge_precision(precision);
        let positions = GridPositions::new(width, config.sample_size / config.patch_size, 1.0);
        let stored = (config.in_channels, config.patch_size);
        let blocks = weights.at("transformer_blocks");
        let first = Arc::new(Conditioner::load(&blocks.at("0.norm1.emb"), config)?);
        let shape =
            OutputShape { width, patch: config.patch_size, kept: config.in_channels, stored: config.out_channels };
        Ok(Self {
            patches: PatchEmbedding::load(&weights.at("pos_embed"), stored, (width, positions), edge)?,
            blocks: (0..config.layers)
                .into_par_iter()
                .map(|index| Block::load(&blocks, config, (index, &first), precision))
                .collect::<std::result::Result<_, _>>()?,
            output_modulation: linear(&weights.at("proj_out_1"), (width, 2 * width), true, edge)?,
            output: output_linear(&weights.at("proj_out_2"), shape, edge)?,
            parameters: weights.parameters(),
            config: config.clone(),
        })
    }

    /// Dimensions of this model.
    pub fn config(&self) -> &DitConfig {
        &self.config
    }

    /// One evaluation: `latents` `[b, c, h, w]` at `timesteps`, one per row or one for all, for the classes `labels`, one
    /// per row, to the prediction `[b, c, h, w]`. A learned variance is dropped with its weights at load.
    ///
    /// # Errors
    /// If the latents do not divide into patches, the labels are not one per row, or one is beyond the null class.
    pub fn forward(&self, cx: &mut Context, latents: &Tensor, timesteps: &[f32], labels: &[u32]) -> Result<Tensor> {
        let rows = latents.dim(0)?;
        if rows == 0 || labels.len() != rows || (timesteps.len() != rows && timesteps.len() != 1) {
            candle_core::bail!("{rows} rows of latents with {} labels and {} timesteps", labels.len(), timesteps.len());
        }
        if let Some(label) = labels.iter().find(|label| **label > self.config.null_class()) {
            candle_core::bail!("class {label} is beyond the model's {} classes", self.config.classes);
        }
        let labels = Tensor::new(labels, &Device::Cpu)?;
        cx.model(latents, |cx| self.evaluate(cx, latents, timesteps, &labels))
    }

    fn evaluate(&self, cx: &mut Context, latents: &Tensor, timesteps: &[f32], labels: &Tensor) -> Result<Tensor> {
        let grid = patch_grid(latents, self.config.patch_size)?;
        let hidden = self.patches.forward(latents)?;
        let hidden = cx.blocks(self.blocks.len(), hidden, |cx, index, hidden| {
            self.blocks[index].forward(cx, &hidden, timesteps, labels)
        })?;
        // The last norm listens to the first block's condition.
        let [first, ..] = &self.blocks[..] else {
            candle_core::bail!("a DiT has at least one block");
        };
        let condition = silu(&first.conditioner.forward(timesteps, labels)?)?;
        let packed = self.output_modulation.forward(&condition)?;
        let width = self.config.width();
        let half = |index: usize| packed.narrow(1, index * width, width)?.contiguous();
        let hidden = layer_norm_modulate(&hidden, &half(0)?, &half(1)?, EPSILON)?;
        unpatchify(&self.output.forward(&hidden)?, grid, self.config.patch_size)
    }

    fn tokens(&self, shape: &LatentShape) -> usize {
        (shape.height / self.config.patch_size) * (shape.width / self.config.patch_size)
    }
}

impl Denoiser for Dit {
    fn facts(&self) -> Facts {
        Facts {
            family: "DiT",
            latent_channels: self.config.in_channels,
            patch_size: self.config.patch_size,
            sample_size: self.config.sample_size,
            blocks: self.blocks.len(),
            parameters: self.parameters,
        }
    }

    fn sites(&self, shape: &LatentShape) -> Vec<SiteInfo> {
        let tokens = self.tokens(shape);
        let output_values = tokens * self.config.width();
        self.blocks
            .iter()
            .flat_map(|block| block.costs(tokens))
            .map(|(site, parameters, flops)| SiteInfo { site, parameters, flops, output_values })
            .collect()
    }

    fn flops(&self, shape: &LatentShape) -> u64 {
        let sites: u64 = self.sites(shape).iter().map(|site| site.flops).sum();
        let conditions: u64 = self
            .blocks
            .iter()
            .map(|block| 2 * block.conditioner.timestep.parameters() as u64 + block.modulation.flops(1))
            .sum();
        let tokens = self.tokens(shape);
        let edges = 2 * (self.patches.parameters() * tokens) as u64 + self.output.flops(tokens);
        sites + conditions + edges + self.output_modulation.flops(1)
    }

    fn denoise(
        &self,
        cx: &mut Context,
        latents: &Tensor,
        timesteps: &[f32],
        conditions: &Conditions,
    ) -> Result<Tensor> {
        match conditions {
            Conditions::Classes(labels) => self.forward(cx, latents, timesteps, labels),
            Conditions::Text(_) => candle_core::bail!("a DiT is conditioned on classes, not on a text"),
        }
    }
}
