//! One block of a Wan transformer.

use candle_core::{Result, Tensor};
use refrain_cache::{Context, Site};
use refrain_ops::{
    Activation, AttentionOptions, Linear, Precision, add, attention, gate_residual, layer_norm, rms_norm,
};

use super::{WanConfig, memory::FrameMemory};
use crate::{
    error::ModelError,
    modulation::{Modulation, NormAffine},
    transformer::{linear, linear_parameters},
    weights::Weights,
};

/// The products of an attention. Queries and keys are normed over the whole width, before they divide into heads.
#[derive(Debug)]
struct Projections {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    query_norm: Tensor,
    key_norm: Tensor,
    epsilon: f64,
}

impl Projections {
    fn load(weights: &Weights, config: &WanConfig, precision: Precision) -> std::result::Result<Self, ModelError> {
        let width = config.width();
        let layer = |name: &str| linear(&weights.at(name), (width, width), true, precision);
        Ok(Self {
            query: layer("to_q")?,
            key: layer("to_k")?,
            value: layer("to_v")?,
            output: layer("to_out.0")?,
            query_norm: weights.tensor_f32("norm_q.weight", &[width])?,
            key_norm: weights.tensor_f32("norm_k.weight", &[width])?,
            epsilon: config.epsilon,
        })
    }

    fn query(&self, input: &Tensor) -> Result<Tensor> {
        rms_norm(&self.query.forward(input)?, &self.query_norm, self.epsilon)
    }

    fn key_value(&self, input: &Tensor) -> Result<(Tensor, Tensor)> {
        Ok((rms_norm(&self.key.forward(input)?, &self.key_norm, self.epsilon)?, self.value.forward(input)?))
    }

    fn parameters(&self) -> usize {
        let layers = [&self.query, &self.key, &self.value, &self.output];
        layers.into_iter().map(linear_parameters).sum::<usize>() + 2 * self.query.in_features()
    }
}

/// Keys and values of a text for one block, `[1 or rows, tokens, width]` each.
#[derive(Debug, Clone)]
pub(super) struct BlockText {
    pub(super) key: Tensor,
    pub(super) value: Tensor,
}

/// Rows of a call, and the frames and tokens of each.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    pub(super) rows: usize,
    /// Tokens of a row, all frames together.
    pub(super) tokens: usize,
}

/// Self-attention, cross-attention to the text, feed-forward; the first and last modulated by the timestep.
#[derive(Debug)]
pub(super) struct Block {
    index: usize,
    width: usize,
    epsilon: f64,
    options: AttentionOptions,
    /// `[1, 6, width]`, added to the timestep's modulation.
    table: Tensor,
    attention: Projections,
    cross_attention: Projections,
    cross_norm: Option<(Tensor, Tensor)>,
    expand: Linear,
    contract: Linear,
}

impl Block {
    pub(super) fn load(
        weights: &Weights,
        config: &WanConfig,
        index: usize,
        precision: Precision,
    ) -> std::result::Result<Self, ModelError> {
        let (width, inner) = (config.width(), config.feed_forward_width);
        let norm = weights.at("norm2");
        let cross_norm = || -> std::result::Result<_, ModelError> {
            Ok((norm.tensor_f32("weight", &[width])?, norm.tensor_f32("bias", &[width])?))
        };
        Ok(Self {
            index,
            width,
            epsilon: config.epsilon,
            options: AttentionOptions::new(config.heads).with_precision(precision),
            table: weights.tensor_f32("scale_shift_table", &[1, 6, width])?,
            attention: Projections::load(&weights.at("attn1"), config, precision)?,
            cross_attention: Projections::load(&weights.at("attn2"), config, precision)?,
            cross_norm: config.cross_attention_norm.then(cross_norm).transpose()?,
            expand: linear(&weights.at("ffn.net.0.proj"), (width, inner), true, precision)?,
            contract: linear(&weights.at("ffn.net.2"), (inner, width), true, precision)?,
        })
    }

    /// Keys and values of `states` `[1 or rows, tokens, width]`.
    pub(super) fn prepare_text(&self, states: &Tensor) -> Result<BlockText> {
        let (key, value) = self.cross_attention.key_value(states)?;
        Ok(BlockText { key, value })
    }

    /// Splits the timesteps' modulation `[1 or groups, 6, width]`, after this block's table is added to it.
    pub(super) fn modulation(&self, shared: &Tensor) -> Result<Modulation> {
        let no_affine: Option<&NormAffine> = None;
        Modulation::split(&shared.broadcast_add(&self.table)?, no_affine, None)
    }

    /// `hidden` `[groups, tokens, width]`, where a group is a row or one of its frames.
    pub(super) fn forward(
        &self,
        cx: &mut Context,
        hidden: Tensor,
        (modulation, text, extent): (&Modulation, &BlockText, Extent),
        memory: &mut dyn FrameMemory,
    ) -> Result<Tensor> {
        let attended = self.attend(cx, &hidden, (modulation, extent), memory)?;
        let hidden = gate_residual(&hidden, &modulation.attention_gate, &attended)?;
        let told = cx.run(Site::cross_attention(self.index), |_| self.cross_attend(&hidden, text, extent))?;
        let hidden = add(&hidden, &told)?;
        let fed = cx.run(Site::feed_forward(self.index), |_| {
            let normed = modulation.feed_forward_input(&hidden, self.epsilon)?;
            self.contract.forward(&self.expand.forward_activated(&normed, Activation::GeluTanh)?)
        })?;
        gate_residual(&hidden, &modulation.feed_forward_gate, &fed)
    }

    /// Self-attention before its gate. A memory that later frames read gets its keys and values outside the site: a
    /// skipped attention still owes them.
    fn attend(
        &self,
        cx: &mut Context,
        hidden: &Tensor,
        (modulation, extent): (&Modulation, Extent),
        memory: &mut dyn FrameMemory,
    ) -> Result<Tensor> {
        let input = || -> Result<Tensor> {
            let normed = modulation.attention_input(hidden, self.epsilon)?;
            normed.reshape((extent.rows, extent.tokens, self.width))
        };
        let owed = if memory.outlives_call() {
            let normed = input()?;
            self.write(&normed, memory)?;
            Some(normed)
        } else {
            None
        };
        cx.run(Site::attention(self.index), |_| {
            let normed = match owed {
                Some(normed) => normed,
                None => {
                    let normed = input()?;
                    self.write(&normed, memory)?;
                    normed
                }
            };
            let mixed = memory.attend(self.index, &self.attention.query(&normed)?)?;
            self.attention.output.forward(&mixed)?.reshape(hidden.shape())
        })
    }

    fn write(&self, normed: &Tensor, memory: &mut dyn FrameMemory) -> Result<()> {
        let (key, value) = self.attention.key_value(normed)?;
        memory.write(self.index, &key, &value)
    }

    fn cross_attend(&self, hidden: &Tensor, text: &BlockText, extent: Extent) -> Result<Tensor> {
        let normed = match &self.cross_norm {
            Some((weight, bias)) => layer_norm(hidden, Some(weight), Some(bias), self.epsilon)?,
            None => hidden.clone(),
        };
        let query = self.cross_attention.query(&normed)?;
        // One text for all rows: their queries are one long row.
        let rows = text.key.dim(0)?;
        let tokens = extent.rows * extent.tokens / rows.max(1);
        let query = query.reshape((rows, tokens, self.width))?;
        let mixed = attention(&query, &text.key, &text.value, None, &self.options)?;
        self.cross_attention.output.forward(&mixed)?.reshape(hidden.shape())
    }

    /// The block's sites with parameters and operations, for `tokens` tokens that attend to `seen` ones and `text` ones.
    pub(super) fn costs(&self, tokens: usize, seen: usize, text: usize) -> [(Site, usize, u64); 3] {
        let square = |layer: &Linear| layer.flops(tokens);
        let products = |keys: usize| 4 * (tokens * keys * self.width) as u64;
        let layers = &self.attention;
        let own = square(&layers.query) + square(&layers.key) + square(&layers.value) + square(&layers.output);
        let across = square(&self.cross_attention.query) + square(&self.cross_attention.output);
        let fed = self.expand.flops(tokens) + self.contract.flops(tokens);
        let fed_parameters = linear_parameters(&self.expand) + linear_parameters(&self.contract);
        [
            (Site::attention(self.index), layers.parameters(), own + products(seen)),
            (Site::cross_attention(self.index), self.cross_attention.parameters(), across + products(text)),
            (Site::feed_forward(self.index), fed_parameters, fed),
        ]
    }
}
