//! The encoder of T5 (arXiv 1910.10683), plain or gated (T5 v1.1, arXiv 2002.05202), and of UMT5 (arXiv 2304.09151), whose
//! layers each have a position bias of their own.

use candle_core::{D, Device, IndexOp, Result, Tensor};
use refrain_ops::{Activation, AttentionOptions, Linear, Precision, activate, attention, rms_norm};

use crate::{
    config::ConfigFile,
    error::ModelError,
    transformer::{fused_linear, linear},
    weights::Weights,
};

/// Dimensions of a T5 encoder, as in transformers' `config.json`.
#[derive(Debug, Clone)]
pub struct T5Config {
    /// Rows of the embedding table.
    pub vocabulary: usize,
    /// Width of the states.
    pub width: usize,
    /// Number of layers.
    pub layers: usize,
    /// Number of heads.
    pub heads: usize,
    /// Width of one head; heads times this need not be the states' width.
    pub head_width: usize,
    /// Inner width of the feed-forward.
    pub feed_forward_width: usize,
    /// Activation of the feed-forward.
    pub activation: T5Activation,
    /// Whether the feed-forward is gated.
    pub gated: bool,
    /// Whether every layer has its own position bias (UMT5), instead of sharing the first one's.
    pub bias_per_layer: bool,
    /// Number of distance buckets of the position bias.
    pub buckets: usize,
    /// Distance from which all positions share a bucket.
    pub max_distance: usize,
    /// Added under the root of the norms.
    pub epsilon: f64,
}

/// Activations that T5 checkpoints use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum T5Activation {
    /// max(x, 0).
    Relu,
    /// One of the fused ones.
    Fused(Activation),
}

impl T5Config {
    /// Reads and checks a `config.json`.
    ///
    /// # Errors
    /// Names the field that no T5 encoder can have.
    pub fn from_json(config: &ConfigFile) -> std::result::Result<Self, ModelError> {
        const SIDE: std::ops::RangeInclusive<usize> = 1..=65_536;
        let fused = T5Activation::Fused;
        let (gated, activation) = config.choice(
            "feed_forward_proj",
            "relu",
            &[
                ("relu", (false, T5Activation::Relu)),
                ("gelu", (false, fused(Activation::Gelu))),
                ("silu", (false, fused(Activation::Silu))),
                ("gated-relu", (true, T5Activation::Relu)),
                // The name is historical: v1.1 checkpoints compute the tanh approximation.
                ("gated-gelu", (true, fused(Activation::GeluTanh))),
                ("gated-silu", (true, fused(Activation::Silu))),
            ],
        )?;
        let buckets = config.count("relative_attention_num_buckets", Some(32), 4..=4096)?;
        let max_distance = config.count("relative_attention_max_distance", Some(128), 2..=1_000_000)?;
        if max_distance <= buckets / 4 {
            let problem = format!("is {max_distance}, expected more than a quarter of the {buckets} buckets");
            return Err(config.error("relative_attention_max_distance", problem));
        }
        let bias_per_layer = config.choice("model_type", "t5", &[("t5", false), ("umt5", true)])?;
        Ok(Self {
            bias_per_layer,
            vocabulary: config.count("vocab_size", Some(32_128), 1..=4_000_000)?,
            width: config.count("d_model", Some(512), SIDE)?,
            layers: config.count("num_layers", Some(6), 1..=1024)?,
            heads: config.count("num_heads", Some(8), 1..=1024)?,
            head_width: config.count("d_kv", Some(64), 1..=4096)?,
            feed_forward_width: config.count("d_ff", Some(2048), SIDE)?,
            activation,
            gated,
            buckets,
            max_distance,
            epsilon: config.positive("layer_norm_epsilon", 1e-6)?,
        })
    }

    /// The bucket of a key `distance` tokens to the right (negative: left) of the query: near distances one each, far
    /// ones in logarithmic steps, the right side in the upper half.
    fn bucket(&self, distance: i64) -> usize {
        let side = self.buckets / 2;
        let offset = if distance > 0 { side } else { 0 };
        let distance = usize::try_from(distance.unsigned_abs()).unwrap_or(usize::MAX);
        let exact = side / 2;
        if distance < exact {
            return offset + distance;
        }
        // f32, as the reference computes it: a bucket's edge must not move by rounding.
        let position = (distance as f32 / exact as f32).ln() / ((self.max_distance as f64 / exact as f64).ln() as f32);
        let far = exact + (position * (side - exact) as f32) as usize;
        offset + far.min(side - 1)
    }
}

/// A T5 encoder: token ids to states.
#[derive(Debug)]
pub struct T5Encoder {
    config: T5Config,
    embeddings: Tensor,
    /// `[buckets, heads]`: the first layer's, or each layer's.
    position_biases: Vec<Tensor>,
    blocks: Vec<Block>,
    final_norm: Tensor,
}

impl T5Encoder {
    /// Loads the encoder from the root of its checkpoint.
    ///
    /// # Errors
    /// Names a tensor that is missing or does not fit the configuration.
    pub fn load(weights: &Weights, config: &T5Config, precision: Precision) -> std::result::Result<Self, ModelError> {
        // The table is stored under one of two tied names.
        let table = if weights.contains("shared.weight") || !weights.contains("encoder.embed_tokens.weight") {
            "shared.weight"
        } else {
            "encoder.embed_tokens.weight"
        };
        let encoder = weights.at("encoder");
        let blocks = (0..config.layers)
            .map(|index| Block::load(&encoder.at("block").at(index), config, precision))
            .collect::<std::result::Result<_, _>>()?;
        Ok(Self {
            embeddings: weights.tensor(table, &[config.vocabulary, config.width])?,
            position_biases: (0..if config.bias_per_layer { config.layers } else { 1 })
                .map(|layer| {
                    let name = format!("block.{layer}.layer.0.SelfAttention.relative_attention_bias.weight");
                    encoder.tensor_f32(name, &[config.buckets, config.heads])
                })
                .collect::<std::result::Result<_, _>>()?,
            blocks,
            final_norm: encoder.tensor_f32("final_layer_norm.weight", &[config.width])?,
            config: config.clone(),
        })
    }

    /// Dimensions of this encoder.
    pub fn config(&self) -> &T5Config {
        &self.config
    }

    /// Token ids of one text to its states `[1, tokens, width]`.
    ///
    /// Without padding no mask is needed: padded positions would change no state of a real one.
    ///
    /// # Errors
    /// If an id is beyond the vocabulary.
    pub fn forward(&self, ids: &[u32]) -> Result<Tensor> {
        if let Some(id) = ids.iter().find(|id| **id as usize >= self.config.vocabulary) {
            candle_core::bail!("token {id} is beyond the text encoder's {} embeddings", self.config.vocabulary);
        }
        let ids = Tensor::new(ids, &Device::Cpu)?;
        let mut hidden = self.embeddings.index_select(&ids, 0)?.to_dtype(candle_core::DType::F32)?.unsqueeze(0)?;
        let tokens = hidden.dim(1)?;
        let mut biases = self.position_biases.iter();
        let mut bias = None;
        for block in &self.blocks {
            if let Some(own) = biases.next() {
                bias = Some(self.bias(own, tokens)?);
            }
            if let Some(bias) = &bias {
                hidden = block.forward(&hidden, bias, &self.config)?;
            }
        }
        rms_norm(&hidden, &self.final_norm, self.config.epsilon)
    }

    /// Position bias `[1, heads, tokens, tokens]` from a table.
    fn bias(&self, table: &Tensor, tokens: usize) -> Result<Tensor> {
        let buckets: Vec<u32> = (0..tokens as i64)
            .flat_map(|query| (0..tokens as i64).map(move |key| key - query))
            .map(|distance| self.config.bucket(distance) as u32)
            .collect();
        let buckets = Tensor::from_vec(buckets, tokens * tokens, &Device::Cpu)?;
        table
            .index_select(&buckets, 0)?
            .reshape((tokens, tokens, self.config.heads))?
            .permute((2, 0, 1))?
            .unsqueeze(0)?
            .contiguous()
    }
}

#[derive(Debug)]
struct Block {
    attention_norm: Tensor,
    qkv: Linear,
    output: Linear,
    feed_forward_norm: Tensor,
    /// Gate and value side by side if gated.
    expand: Linear,
    contract: Linear,
}

impl Block {
    fn load(weights: &Weights, config: &T5Config, precision: Precision) -> std::result::Result<Self, ModelError> {
        let (width, inner) = (config.width, config.heads * config.head_width);
        let attention = weights.at("layer.0.SelfAttention");
        let dense = weights.at("layer.1.DenseReluDense");
        let names: &[&str] = if config.gated { &["wi_0", "wi_1"] } else { &["wi"] };
        let expand: Vec<_> = names.iter().map(|name| dense.at(name)).collect();
        let qkv = ["q", "k", "v"].map(|name| attention.at(name));
        Ok(Self {
            attention_norm: weights.tensor_f32("layer.0.layer_norm.weight", &[width])?,
            qkv: fused_linear(&qkv, (width, inner), false, precision)?,
            output: linear(&attention.at("o"), (inner, width), false, precision)?,
            feed_forward_norm: weights.tensor_f32("layer.1.layer_norm.weight", &[width])?,
            expand: fused_linear(&expand, (width, config.feed_forward_width), false, precision)?,
            contract: linear(&dense.at("wo"), (config.feed_forward_width, width), false, precision)?,
        })
    }

    fn forward(&self, hidden: &Tensor, bias: &Tensor, config: &T5Config) -> Result<Tensor> {
        let inner = config.heads * config.head_width;
        let qkv = self.qkv.forward(&rms_norm(hidden, &self.attention_norm, config.epsilon)?)?;
        let part = |index: usize| qkv.i((.., .., index * inner..(index + 1) * inner));
        // T5 does not scale its products: the scale is learned into the query's weight.
        let options = AttentionOptions::new(config.heads).with_scale(1.0);
        let mixed = attention(&part(0)?, &part(1)?, &part(2)?, Some(bias), &options)?;
        let hidden = self.output.forward_residual(&mixed, None, hidden)?;

        let normed = rms_norm(&hidden, &self.feed_forward_norm, config.epsilon)?;
        let expanded = self.expand.forward(&normed)?;
        let inner = if config.gated {
            let width = config.feed_forward_width;
            let gate = expanded.narrow(D::Minus1, 0, width)?.contiguous()?;
            (config.activation.apply(&gate)? * expanded.narrow(D::Minus1, width, width)?)?
        } else {
            config.activation.apply(&expanded)?
        };
        self.contract.forward_residual(&inner, None, &hidden)
    }
}

impl T5Activation {
    fn apply(self, input: &Tensor) -> Result<Tensor> {
        match self {
            Self::Relu => input.relu(),
            Self::Fused(activation) => activate(input, activation),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_the_paper() -> std::result::Result<(), ModelError> {
        let config = T5Config::from_json(&ConfigFile::parse("config.json", "{}")?)?;
        // Eight exact ones to each side, then logarithmic steps up to distance 128, the right side shifted by 16.
        for (distance, bucket) in [(0, 0), (-1, 1), (-7, 7), (-8, 8), (-20, 10), (-127, 15), (-9999, 15)] {
            assert_eq!(config.bucket(distance), bucket);
        }
        for (distance, bucket) in [(1, 17), (7, 23), (8, 24), (20, 26), (127, 31), (9999, 31)] {
            assert_eq!(config.bucket(distance), bucket);
        }
        Ok(())
    }

    #[test]
    fn absurd_dimensions_are_refused() -> std::result::Result<(), ModelError> {
        for text in [
            r#"{"d_model": 0}"#,
            r#"{"num_layers": 1000000000000}"#,
            r#"{"feed_forward_proj": "gated-tanh"}"#,
            r#"{"relative_attention_max_distance": 8}"#,
        ] {
            assert!(T5Config::from_json(&ConfigFile::parse("config.json", text)?).is_err(), "{text}");
        }
        Ok(())
    }
}
