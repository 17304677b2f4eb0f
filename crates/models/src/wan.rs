//! Wan (arXiv 2503.20314): a diffusion transformer over video latents that attends to a text.
//!
//! The same weights run in two ways. [`WanTransformer::forward`] sees a whole clip at one timestep, every token every
//! other. [`WanTransformer::forward_causal`] takes the newest latent frames only, each at its own timestep, and asks a
//! [`FrameMemory`] for what came before (CausVid, arXiv 2412.07772; Self-Forcing, arXiv 2506.08009; StreamDiffusionV2,
//! arXiv 2511.07399). Both ask the context at three sites a block: attention, cross-attention, feed-forward.

mod block;
mod config;
mod memory;
mod names;
mod rope;

use candle_core::{Result, Tensor};
use rayon::prelude::*;
use refrain_cache::Context;
use refrain_ops::{
    Activation, AttentionOptions, Linear, Precision, TimestepEmbeddingOptions, layer_norm_modulate, silu,
    timestep_embedding,
};

use block::{Block, BlockText, Extent};
pub use config::WanConfig;
pub use memory::{FrameMemory, WholeClip};
pub use rope::{FrameGrid, WanRope};

use crate::{
    denoiser::SiteInfo,
    error::ModelError,
    transformer::{edge_precision, linear},
    weights::Weights,
};

/// A text as the blocks read it: keys and values of every block, prepared once per prompt.
#[derive(Debug, Clone)]
pub struct WanText {
    blocks: Vec<BlockText>,
    rows: usize,
    tokens: usize,
}

impl WanText {
    /// Rows: one for all, or one per row of latents.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Tokens of each row.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Texts of equal length as rows of one: a stream's rows can stand under different prompts while one replaces
    /// another.
    ///
    /// # Errors
    /// When there is no text or the lengths differ.
    pub fn stack(texts: &[&Self]) -> Result<Self> {
        let Some(first) = texts.first() else { candle_core::bail!("no text to stack") };
        let blocks = (0..first.blocks.len())
            .map(|index| {
                let part = |of: fn(&BlockText) -> &Tensor| -> Result<Tensor> {
                    let parts: Vec<&Tensor> = texts.iter().filter_map(|text| text.blocks.get(index)).map(of).collect();
                    Tensor::cat(&parts, 0)
                };
                Ok(BlockText { key: part(|text| &text.key)?, value: part(|text| &text.value)? })
            })
            .collect::<Result<_>>()?;
        Ok(Self { blocks, rows: texts.iter().map(|text| text.rows).sum(), tokens: first.tokens })
    }
}

/// A Wan transformer, its weights packed.
#[derive(Debug)]
pub struct WanTransformer {
    config: WanConfig,
    precision: Precision,
    patches: Linear,
    time: [Linear; 2],
    /// The timestep's embedding to the six modulations that all blocks share.
    modulation: Linear,
    text: [Linear; 2],
    blocks: Vec<Block>,
    /// `[1, 2, width]`: shift and scale of the last norm, added to the timestep's embedding.
    output_table: Tensor,
    output: Linear,
    /// As counted in the checkpoint.
    parameters: usize,
}

impl WanTransformer {
    /// Loads the transformer from the root of its checkpoint, in diffusers' or the original layout; blocks pack in
    /// parallel.
    ///
    /// # Errors
    /// Names a tensor that is missing or does not fit the configuration.
    pub fn load(weights: &Weights, config: &WanConfig, precision: Precision) -> std::result::Result<Self, ModelError> {
        let weights = names::any_layout(weights);
        let (width, edge) = (config.width(), edge_precision(precision));
        let [frames, rows, columns] = config.patch;
        let (inputs, outputs) = (config.in_channels, config.out_channels);
        let volume = frames * rows * columns;
        let patch = weights.tensor("patch_embedding.weight", &[width, inputs, frames, rows, columns])?;
        let patch_bias = weights.tensor("patch_embedding.bias", &[width])?;
        let embedder = weights.at("condition_embedder");
        let layer = |name: &str, sizes| linear(&embedder.at(name), sizes, true, Precision::F32);
        let blocks = weights.at("blocks");
        Ok(Self {
            patches: Linear::new(&patch.reshape((width, inputs * volume))?, Some(&patch_bias), edge)?,
            // A few rows a step: f32 costs nothing here, and an error would reach every block.
            time: [
                layer("time_embedder.linear_1", (config.frequencies, width))?,
                layer("time_embedder.linear_2", (width, width))?,
            ],
            modulation: layer("time_proj", (width, 6 * width))?,
            text: [
                layer("text_embedder.linear_1", (config.text_width, width))?,
                layer("text_embedder.linear_2", (width, width))?,
            ],
            blocks: (0..config.layers)
                .into_par_iter()
                .map(|index| Block::load(&blocks.at(index), config, index, precision))
                .collect::<std::result::Result<_, _>>()?,
            output_table: weights.tensor_f32("scale_shift_table", &[1, 2, width])?,
            output: linear(&weights.at("proj_out"), (width, outputs * volume), true, edge)?,
            parameters: weights.parameters(),
            config: config.clone(),
            precision,
        })
    }

    /// Dimensions of this model.
    pub fn config(&self) -> &WanConfig {
        &self.config
    }

    /// All its parameters, as counted in the checkpoint.
    pub fn parameters(&self) -> usize {
        self.parameters
    }

    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Heads and precision of its self-attention, for a [`FrameMemory`].
    pub fn attention_options(&self) -> AttentionOptions {
        AttentionOptions::new(self.config.heads).with_precision(self.precision)
    }

    /// Rows and columns of a latent frame's tokens.
    ///
    /// # Errors
    /// If the latents do not divide into patches.
    pub fn grid(&self, height: usize, width: usize) -> Result<FrameGrid> {
        let [_, rows, columns] = self.config.patch;
        if height == 0 || width == 0 || !height.is_multiple_of(rows) || !width.is_multiple_of(columns) {
            candle_core::bail!("latents of {height}x{width} do not divide into patches of {rows}x{columns}");
        }
        Ok(FrameGrid { rows: height / rows, columns: width / columns })
    }

    /// The rotations for latent frames of `height` × `width`.
    ///
    /// # Errors
    /// If they do not divide into patches.
    pub fn rope(&self, height: usize, width: usize) -> Result<WanRope> {
        WanRope::new(self.config.head_width, self.grid(height, width)?)
    }

    /// Prepares text states `[rows, tokens, text width]` for all steps. Wan attends to its padding too: states come padded
    /// with zeros to the length that the model was trained on.
    ///
    /// # Errors
    /// If the states have another width than the configuration's.
    pub fn prepare_text(&self, states: &Tensor) -> Result<WanText> {
        let (rows, tokens, _) = states.dims3()?;
        let states = self.text[1].forward(&self.text[0].forward_activated(states, Activation::GeluTanh)?)?;
        let blocks = self.blocks.iter().map(|block| block.prepare_text(&states)).collect::<Result<_>>()?;
        Ok(WanText { blocks, rows, tokens })
    }

    /// One evaluation of a whole clip: `latents` `[b, c, frames, h, w]` at `timesteps`, one per row or one for all, to the
    /// prediction `[b, c, frames, h, w]`.
    ///
    /// # Errors
    /// If the latents do not divide into patches, or `text` or `timesteps` have another number of rows.
    pub fn forward(&self, cx: &mut Context, latents: &Tensor, timesteps: &[f32], text: &WanText) -> Result<Tensor> {
        let (_, _, frames, height, width) = latents.dims5()?;
        let frames = frames / self.config.patch[0];
        let mut clip = WholeClip::bidirectional(self.rope(height, width)?, frames, self.attention_options());
        self.forward_causal(cx, latents, timesteps, (text, &mut clip))
    }

    /// One evaluation of the newest frames: `latents` `[rows, c, frames, h, w]` to the prediction of the same frames, where
    /// `memory` says what their self-attention sees. `timesteps`: one for all, one per row, or one per row and frame,
    /// frames changing fastest. The rows are those of a stream batch: neighbouring chunks at different noise levels.
    ///
    /// # Errors
    /// As [`WanTransformer::forward`], and those of the memory.
    pub fn forward_causal(
        &self,
        cx: &mut Context,
        latents: &Tensor,
        timesteps: &[f32],
        (text, memory): (&WanText, &mut dyn FrameMemory),
    ) -> Result<Tensor> {
        let (rows, _, frames, ..) = latents.dims5()?;
        let frames = frames / self.config.patch[0];
        if rows == 0 || (text.rows != rows && text.rows != 1) {
            candle_core::bail!("{rows} rows of latents with {} of text", text.rows);
        }
        let alike = timesteps.windows(2).all(|pair| pair[0] == pair[1]);
        let groups = match timesteps.len() {
            count if count > 0 && alike => 1,
            count if count == rows || count == rows * frames => count,
            count => candle_core::bail!("{count} timesteps for {rows} rows of {frames} frames"),
        };
        let output = cx.model(latents, |cx| self.evaluate(cx, latents, &timesteps[..groups], (text, &mut *memory)))?;
        memory.settle()?;
        Ok(output)
    }

    fn evaluate(
        &self,
        cx: &mut Context,
        latents: &Tensor,
        timesteps: &[f32],
        (text, memory): (&WanText, &mut dyn FrameMemory),
    ) -> Result<Tensor> {
        let width = self.config.width();
        let tokens = self.patches.forward(&self.patchify(latents)?)?;
        let (rows, count, _) = tokens.dims3()?;
        let extent = Extent { rows, tokens: count };
        // Groups share a timestep: the frames of a row, or each frame.
        let groups = timesteps.len().max(rows);
        let hidden = tokens.reshape((groups, rows * count / groups, width))?;
        let embedded = self.embed(timesteps)?;
        let shared = self.modulation.forward(&silu(&embedded)?)?.reshape(((), 6, width))?;
        let modulations = self.blocks.iter().map(|block| block.modulation(&shared)).collect::<Result<Vec<_>>>()?;

        let hidden = cx.blocks(self.blocks.len(), hidden, |cx, index, hidden| {
            let about = (&modulations[index], &text.blocks[index], extent);
            self.blocks[index].forward(cx, hidden, about, &mut *memory)
        })?;

        let table = embedded.unsqueeze(1)?.broadcast_add(&self.output_table)?;
        let row = |index: usize| table.narrow(1, index, 1)?.squeeze(1)?.contiguous();
        let hidden = layer_norm_modulate(&hidden, &row(0)?, &row(1)?, self.config.epsilon)?;
        self.unpatchify(&self.output.forward(&hidden)?, latents)
    }

    /// `[timesteps, width]`.
    fn embed(&self, timesteps: &[f32]) -> Result<Tensor> {
        let sinusoids = timestep_embedding(timesteps, self.config.frequencies, &TimestepEmbeddingOptions::default())?;
        self.time[1].forward(&self.time[0].forward_activated(&sinusoids, Activation::Silu)?)
    }

    /// `[b, c, f, h, w]` to `[b, tokens, c · volume of a patch]`, frames changing slowest.
    fn patchify(&self, latents: &Tensor) -> Result<Tensor> {
        let (batch, channels, frames, height, width) = latents.dims5()?;
        let FrameGrid { rows, columns } = self.grid(height, width)?;
        let [deep, high, wide] = self.config.patch;
        if channels != self.config.in_channels || frames == 0 || !frames.is_multiple_of(deep) {
            let expected = self.config.in_channels;
            candle_core::bail!("latents of {channels} channels and {frames} frames, expected {expected} channels");
        }
        let spread = [batch, channels, frames / deep, deep, rows, high, columns, wide];
        let tokens = (frames / deep) * rows * columns;
        latents.reshape(&spread[..])?.permute([0, 2, 4, 6, 1, 3, 5, 7])?.reshape((
            batch,
            tokens,
            channels * deep * high * wide,
        ))
    }

    /// `[groups, tokens, volume of a patch · c]` to `[b, c, f, h, w]`: within a patch the channel changes fastest.
    fn unpatchify(&self, tokens: &Tensor, latents: &Tensor) -> Result<Tensor> {
        let (batch, _, frames, height, width) = latents.dims5()?;
        let FrameGrid { rows, columns } = self.grid(height, width)?;
        let [deep, high, wide] = self.config.patch;
        let channels = self.config.out_channels;
        let spread = [batch, frames / deep, rows, columns, deep, high, wide, channels];
        tokens
            .reshape(&spread[..])?
            .permute([0, 7, 1, 4, 2, 5, 3, 6])?
            .reshape((batch, channels, frames, height, width))
    }

    /// The sites of one evaluation of `frames` latent frames of `height` × `width` that attend to `seen` frames in all.
    ///
    /// # Errors
    /// If the latents do not divide into patches.
    pub fn sites(
        &self,
        (frames, height, width): (usize, usize, usize),
        seen: usize,
        text_tokens: usize,
    ) -> Result<Vec<SiteInfo>> {
        let tokens = self.grid(height, width)?.tokens();
        let (present, seen) = (frames * tokens, seen * tokens);
        let info = |(site, parameters, flops)| SiteInfo {
            site,
            parameters,
            flops,
            output_values: present * self.config.width(),
        };
        Ok(self.blocks.iter().flat_map(|block| block.costs(present, seen, text_tokens)).map(info).collect())
    }
}
