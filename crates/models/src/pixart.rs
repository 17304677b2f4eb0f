//! PixArt-α and PixArt-Σ (arXiv 2310.00426, 2403.04692): a diffusion transformer that attends to a text.

mod block;
mod config;

use candle_core::{Result, Tensor};
use rayon::prelude::*;
use refrain_cache::Context;
use refrain_ops::{Activation, Linear, Precision, TimestepEmbeddingOptions, layer_norm_modulate, silu};

use block::Block;
pub use config::PixArtConfig;
pub(crate) use config::{channels, check_width};

use crate::{
    cross_attention::{TextStates, mask_bias},
    denoiser::{Conditions, Denoiser, Facts, LatentShape, SiteInfo},
    error::ModelError,
    modulation::Modulation,
    position::GridPositions,
    transformer::{
        OutputShape, PatchEmbedding, SinusoidalEmbedder, edge_precision, linear, output_linear, patch_grid, unpatchify,
    },
    weights::Weights,
};

/// Epsilon of the last norm, whatever the configuration says of the others.
const OUTPUT_EPSILON: f64 = 1e-6;

/// The two layers that bring text states to the tokens' width.
#[derive(Debug)]
struct CaptionProjection {
    first: Linear,
    second: Linear,
}

impl CaptionProjection {
    fn load(weights: &Weights, inputs: usize, width: usize) -> std::result::Result<Self, ModelError> {
        // Once per prompt: f32 costs nothing.
        Ok(Self {
            first: linear(&weights.at("linear_1"), (inputs, width), true, Precision::F32)?,
            second: linear(&weights.at("linear_2"), (width, width), true, Precision::F32)?,
        })
    }

    fn forward(&self, states: &Tensor) -> Result<Tensor> {
        self.second.forward(&self.first.forward_activated(states, Activation::GeluTanh)?)
    }
}

/// Embedders of height and width, and of their ratio (PixArt-α at 1024 pixels).
#[derive(Debug)]
struct SizeEmbedder {
    resolution: SinusoidalEmbedder,
    aspect_ratio: SinusoidalEmbedder,
}

/// A PixArt transformer, its weights packed.
#[derive(Debug)]
pub struct PixArt {
    config: PixArtConfig,
    patches: PatchEmbedding,
    timestep: SinusoidalEmbedder,
    size: Option<SizeEmbedder>,
    /// The timestep's embedding to the six modulations that all blocks share.
    modulation: Linear,
    caption: Option<CaptionProjection>,
    blocks: Vec<Block>,
    /// `[1, 2, width]`: shift and scale of the last norm, added to the timestep's embedding.
    output_table: Tensor,
    output: Linear,
    /// As counted in the checkpoint.
    parameters: usize,
}

impl PixArt {
    /// Loads the transformer from the root of its checkpoint; blocks pack in parallel.
    ///
    /// # Errors
    /// Names a tensor that is missing or does not fit the configuration.
    pub fn load(
        weights: &Weights,
        config: &PixArtConfig,
        precision: Precision,
    ) -> std::result::Result<Self, ModelError> {
        let width = config.width();
        let edge = edge_precision(precision);
        let options = TimestepEmbeddingOptions::default();
        let adaln = weights.at("adaln_single");
        let embedder = |name: &str, width: usize| SinusoidalEmbedder::load(&adaln.at("emb").at(name), width, options);
        let positions = GridPositions::new(width, config.sample_size / config.patch_size, config.interpolation_scale);
        let stored = (config.in_channels, config.patch_size);
        let blocks = weights.at("transformer_blocks");
        let shape =
            OutputShape { width, patch: config.patch_size, kept: config.in_channels, stored: config.out_channels };
        Ok(Self {
            patches: PatchEmbedding::load(&weights.at("pos_embed"), stored, (width, positions), edge)?,
            timestep: embedder("timestep_embedder", width)?,
            size: config.size_conditions.then(|| load_size(&embedder, width / 3)).transpose()?,
            modulation: linear(&adaln.at("linear"), (width, 6 * width), true, Precision::F32)?,
            caption: config
                .caption_channels
                .map(|inputs| CaptionProjection::load(&weights.at("caption_projection"), inputs, width))
                .transpose()?,
            blocks: (0..config.layers)
                .into_par_iter()
                .map(|index| Block::load(&blocks.at(index), config, index, precision))
                .collect::<std::result::Result<_, _>>()?,
            output_table: weights.tensor_f32("scale_shift_table", &[2, width])?.unsqueeze(0)?,
            output: output_linear(&weights.at("proj_out"), shape, edge)?,
            parameters: weights.parameters(),
            config: config.clone(),
        })
    }

    /// Dimensions of this model.
    pub fn config(&self) -> &PixArtConfig {
        &self.config
    }

    /// Width of the text states that it takes.
    pub fn text_width(&self) -> usize {
        self.config.caption_channels.unwrap_or(self.config.cross_attention_width)
    }

    /// Prepares text states `[b, tokens, text width]` with their mask `[b, tokens]` (1 keeps, 0 drops) for all steps, for a
    /// picture of `height` × `width` pixels, which models with size conditions are told.
    ///
    /// # Errors
    /// If the states have another width than [`PixArt::text_width`].
    pub fn prepare_text(
        &self,
        states: &Tensor,
        mask: Option<&Tensor>,
        (height, width): (usize, usize),
    ) -> Result<TextStates> {
        let (rows, tokens, _) = states.dims3()?;
        let states = match &self.caption {
            Some(projection) => projection.forward(states)?,
            None => states.clone(),
        };
        let size = match &self.size {
            None => None,
            Some(embedder) => {
                let (height, width) = (height as f32, width as f32);
                let resolution = embedder.resolution.forward(&[height, width])?.flatten_all()?.unsqueeze(0)?;
                let aspect_ratio = embedder.aspect_ratio.forward(&[height / width])?;
                Some(Tensor::cat(&[resolution, aspect_ratio], 1)?)
            }
        };
        Ok(TextStates {
            blocks: self.blocks.iter().map(|block| block.prepare_text(&states)).collect::<Result<_>>()?,
            bias: mask.map(mask_bias).transpose()?.flatten(),
            size,
            rows,
            tokens,
        })
    }

    /// One evaluation: `latents` `[b, c, h, w]` at `timesteps`, one per row or one for all, to the prediction
    /// `[b, c, h, w]`. A learned variance is dropped with its weights at load.
    ///
    /// # Errors
    /// If the latents do not divide into patches, or `text` has another number of rows.
    pub fn forward(&self, cx: &mut Context, latents: &Tensor, timesteps: &[f32], text: &TextStates) -> Result<Tensor> {
        let rows = latents.dim(0)?;
        if rows == 0 || text.rows != rows || (timesteps.len() != rows && timesteps.len() != 1) {
            candle_core::bail!("{rows} rows of latents with {} of text and {} timesteps", text.rows, timesteps.len());
        }
        cx.model(latents, |cx| self.evaluate(cx, latents, timesteps, text))
    }

    fn evaluate(&self, cx: &mut Context, latents: &Tensor, timesteps: &[f32], text: &TextStates) -> Result<Tensor> {
        let width = self.config.width();
        let grid = patch_grid(latents, self.config.patch_size)?;
        let embedded = self.embed_timesteps(timesteps, text)?;
        let shared = self.modulation.forward(&silu(&embedded)?)?.reshape(((), 6, width))?;
        let modulations =
            self.blocks.iter().map(|block| block.modulation(&shared)).collect::<Result<Vec<Modulation>>>()?;

        let hidden = self.patches.forward(latents)?;
        let bias = text.bias.as_ref();
        let hidden = cx.blocks(self.blocks.len(), hidden, |cx, index, hidden| {
            self.blocks[index].forward(cx, &hidden, &modulations[index], (&text.blocks[index], bias))
        })?;

        let table = embedded.unsqueeze(1)?.broadcast_add(&self.output_table)?;
        let row = |index: usize| table.narrow(1, index, 1)?.squeeze(1)?.contiguous();
        let hidden = layer_norm_modulate(&hidden, &row(0)?, &row(1)?, OUTPUT_EPSILON)?;
        unpatchify(&self.output.forward(&hidden)?, grid, self.config.patch_size)
    }

    /// `[1 or b, width]`: one row serves all rows at the same timestep.
    fn embed_timesteps(&self, timesteps: &[f32], text: &TextStates) -> Result<Tensor> {
        let alike = timesteps.windows(2).all(|pair| pair[0] == pair[1]);
        let embedded = self.timestep.forward(if alike { &timesteps[..1] } else { timesteps })?;
        match &text.size {
            Some(size) => embedded.broadcast_add(size),
            None => Ok(embedded),
        }
    }
}

fn load_size(
    embedder: &impl Fn(&str, usize) -> std::result::Result<SinusoidalEmbedder, ModelError>,
    width: usize,
) -> std::result::Result<SizeEmbedder, ModelError> {
    Ok(SizeEmbedder {
        resolution: embedder("resolution_embedder", width)?,
        aspect_ratio: embedder("aspect_ratio_embedder", width)?,
    })
}

impl Denoiser for PixArt {
    fn facts(&self) -> Facts {
        Facts {
            family: "PixArt",
            latent_channels: self.config.in_channels,
            patch_size: self.config.patch_size,
            sample_size: self.config.sample_size,
            blocks: self.blocks.len(),
            parameters: self.parameters,
        }
    }

    fn sites(&self, shape: &LatentShape) -> Vec<SiteInfo> {
        let patch = self.config.patch_size;
        let tokens = (shape.height / patch) * (shape.width / patch);
        self.blocks
            .iter()
            .flat_map(|block| block.costs(tokens, shape.text_tokens))
            .map(|(site, parameters, flops)| SiteInfo {
                site,
                parameters,
                flops,
                output_values: tokens * self.config.width(),
            })
            .collect()
    }

    fn flops(&self, shape: &LatentShape) -> u64 {
        let sites: u64 = self.sites(shape).iter().map(|site| site.flops).sum();
        let patch = self.config.patch_size;
        let tokens = (shape.height / patch) * (shape.width / patch);
        let edges = 2 * (self.patches.parameters() * tokens) as u64 + self.output.flops(tokens);
        sites + edges + self.modulation.flops(1) + 2 * self.timestep.parameters() as u64
    }

    fn denoise(
        &self,
        cx: &mut Context,
        latents: &Tensor,
        timesteps: &[f32],
        conditions: &Conditions,
    ) -> Result<Tensor> {
        match conditions {
            Conditions::Text(text) => self.forward(cx, latents, timesteps, text),
            Conditions::Classes(_) => candle_core::bail!("a PixArt model is conditioned on text, not on classes"),
        }
    }
}
