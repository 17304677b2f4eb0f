//! The text encoder of CLIP (arXiv 2103.00020): a causal transformer over a text of fixed length.

use candle_core::{DType, Device, Result, Tensor};
use refrain_ops::{Activation, AttentionOptions, Linear, Precision, attention_packed_qkv, layer_norm};

use crate::{
    config::ConfigFile,
    error::ModelError,
    transformer::{fused_linear, linear},
    weights::Weights,
};

/// Factor inside the sigmoid of CLIP's quick GELU, x·σ(1.702x).
const QUICK_GELU: f64 = 1.702;

/// Dimensions of a CLIP text encoder, as in transformers' `config.json`.
#[derive(Debug, Clone)]
pub struct ClipTextConfig {
    /// Rows of the embedding table.
    pub vocabulary: usize,
    /// Width of the states.
    pub width: usize,
    /// Number of layers.
    pub layers: usize,
    /// Number of heads.
    pub heads: usize,
    /// Inner width of the feed-forward.
    pub feed_forward_width: usize,
    /// Longest text in tokens.
    pub positions: usize,
    /// Whether the activation is CLIP's quick GELU; else the exact one.
    pub quick_gelu: bool,
    /// Added under the root of the norms.
    pub epsilon: f64,
}

impl ClipTextConfig {
    /// Reads and checks a `config.json`.
    ///
    /// # Errors
    /// Names the field that no CLIP text encoder can have.
    pub fn from_json(config: &ConfigFile) -> std::result::Result<Self, ModelError> {
        const SIDE: std::ops::RangeInclusive<usize> = 1..=65_536;
        let width = config.count("hidden_size", Some(512), SIDE)?;
        let heads = config.count("num_attention_heads", Some(8), 1..=1024)?;
        if !width.is_multiple_of(heads) {
            let problem = format!("is {heads}, which does not divide the width {width}");
            return Err(config.error("num_attention_heads", problem));
        }
        Ok(Self {
            vocabulary: config.count("vocab_size", Some(49_408), 1..=4_000_000)?,
            width,
            layers: config.count("num_hidden_layers", Some(12), 1..=1024)?,
            heads,
            feed_forward_width: config.count("intermediate_size", Some(2048), SIDE)?,
            positions: config.count("max_position_embeddings", Some(77), 2..=65_536)?,
            quick_gelu: config.choice("hidden_act", "quick_gelu", &[("quick_gelu", true), ("gelu", false)])?,
            epsilon: config.positive("layer_norm_eps", 1e-5)?,
        })
    }
}

/// Weight and bias of a layer norm.
#[derive(Debug)]
struct Norm {
    weight: Tensor,
    bias: Tensor,
    epsilon: f64,
}

impl Norm {
    fn load(weights: &Weights, config: &ClipTextConfig) -> std::result::Result<Self, ModelError> {
        let shape = [config.width];
        let (weight, bias) = (weights.tensor_f32("weight", &shape)?, weights.tensor_f32("bias", &shape)?);
        Ok(Self { weight, bias, epsilon: config.epsilon })
    }

    fn forward(&self, hidden: &Tensor) -> Result<Tensor> {
        layer_norm(hidden, Some(&self.weight), Some(&self.bias), self.epsilon)
    }
}

/// A CLIP text encoder: token ids to states.
#[derive(Debug)]
pub struct ClipTextEncoder {
    config: ClipTextConfig,
    /// `[vocabulary, width]`, in the stored type.
    embeddings: Tensor,
    /// `[positions, width]`.
    positions: Tensor,
    layers: Vec<Layer>,
    final_norm: Norm,
}

impl ClipTextEncoder {
    /// Loads the encoder from the root of its checkpoint.
    ///
    /// # Errors
    /// Names a tensor that is missing or does not fit the configuration.
    pub fn load(
        weights: &Weights,
        config: &ClipTextConfig,
        precision: Precision,
    ) -> std::result::Result<Self, ModelError> {
        // Checkpoints written by transformers before version 5 keep the encoder inside a larger model.
        let inner = weights.at("text_model");
        let root = if inner.contains("final_layer_norm.weight") { inner } else { weights.clone() };
        let (embeddings, layers) = (root.at("embeddings"), root.at("encoder.layers"));
        Ok(Self {
            embeddings: embeddings.tensor("token_embedding.weight", &[config.vocabulary, config.width])?,
            positions: embeddings.tensor_f32("position_embedding.weight", &[config.positions, config.width])?,
            layers: (0..config.layers)
                .map(|index| Layer::load(&layers.at(index), config, precision))
                .collect::<std::result::Result<_, _>>()?,
            final_norm: Norm::load(&root.at("final_layer_norm"), config)?,
            config: config.clone(),
        })
    }

    /// Dimensions of this encoder.
    pub fn config(&self) -> &ClipTextConfig {
        &self.config
    }

    /// Token ids of one text, padding included, to its states `[1, tokens, width]` behind the last norm.
    ///
    /// # Errors
    /// If an id is beyond the vocabulary, or there are more ids than positions.
    pub fn forward(&self, ids: &[u32]) -> Result<Tensor> {
        let ClipTextConfig { vocabulary, positions, heads, .. } = self.config;
        if let Some(id) = ids.iter().find(|id| **id as usize >= vocabulary) {
            candle_core::bail!("token {id} is beyond the text encoder's {vocabulary} embeddings");
        }
        if ids.len() > positions {
            candle_core::bail!("a text of {} tokens is longer than the text encoder's {positions}", ids.len());
        }
        let ids = Tensor::new(ids, &Device::Cpu)?;
        let tokens = ids.dim(0)?;
        let embedded = self.embeddings.index_select(&ids, 0)?.to_dtype(DType::F32)?;
        let mut hidden = (embedded + self.positions.narrow(0, 0, tokens)?)?.unsqueeze(0)?;
        let (mask, options) = (causal_bias(tokens)?, AttentionOptions::new(heads));
        for layer in &self.layers {
            hidden = layer.forward(&hidden, &mask, &options)?;
        }
        self.final_norm.forward(&hidden)
    }
}

/// `[1, 1, tokens, tokens]`: a token sees itself and what stands before it.
fn causal_bias(tokens: usize) -> Result<Tensor> {
    // Far enough below any score that the weight is exactly zero in f32.
    const DROPPED: f32 = -10_000.0;
    let values: Vec<f32> =
        (0..tokens).flat_map(|query| (0..tokens).map(move |key| if key <= query { 0.0 } else { DROPPED })).collect();
    Tensor::from_vec(values, (1, 1, tokens, tokens), &Device::Cpu)
}

#[derive(Debug)]
struct Layer {
    attention_norm: Norm,
    qkv: Linear,
    output: Linear,
    feed_forward_norm: Norm,
    expand: Linear,
    contract: Linear,
    activation: Activation,
}

impl Layer {
    fn load(weights: &Weights, config: &ClipTextConfig, precision: Precision) -> std::result::Result<Self, ModelError> {
        let (width, inner) = (config.width, config.feed_forward_width);
        let (attention, mlp) = (weights.at("self_attn"), weights.at("mlp"));
        let qkv = ["q_proj", "k_proj", "v_proj"].map(|name| attention.at(name));
        // x·σ(1.702x) = silu(1.702x) / 1.702: the two factors go into the layers around it.
        let (activation, scale) =
            if config.quick_gelu { (Activation::Silu, QUICK_GELU) } else { (Activation::Gelu, 1.0) };
        let (first, second) = (mlp.at("fc1"), mlp.at("fc2"));
        let expand_weight = (first.tensor_f32("weight", &[inner, width])? * scale)?;
        let expand_bias = (first.tensor_f32("bias", &[inner])? * scale)?;
        let contract_weight = (second.tensor_f32("weight", &[width, inner])? / scale)?;
        let contract_bias = second.tensor_f32("bias", &[width])?;
        Ok(Self {
            attention_norm: Norm::load(&weights.at("layer_norm1"), config)?,
            qkv: fused_linear(&qkv, (width, width), true, precision)?,
            output: linear(&attention.at("out_proj"), (width, width), true, precision)?,
            feed_forward_norm: Norm::load(&weights.at("layer_norm2"), config)?,
            expand: Linear::new(&expand_weight, Some(&expand_bias), precision)?,
            contract: Linear::new(&contract_weight, Some(&contract_bias), precision)?,
            activation,
        })
    }

    fn forward(&self, hidden: &Tensor, mask: &Tensor, options: &AttentionOptions) -> Result<Tensor> {
        let qkv = self.qkv.forward(&self.attention_norm.forward(hidden)?)?;
        let mixed = attention_packed_qkv(&qkv, Some(mask), options)?;
        let hidden = self.output.forward_residual(&mixed, None, hidden)?;
        let inner = self.expand.forward_activated(&self.feed_forward_norm.forward(&hidden)?, self.activation)?;
        self.contract.forward_residual(&inner, None, &hidden)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absurd_dimensions_are_refused() -> std::result::Result<(), ModelError> {
        for text in [
            r#"{"hidden_size": 0}"#,
            r#"{"hidden_size": 10, "num_attention_heads": 3}"#,
            r#"{"hidden_act": "relu"}"#,
            r#"{"max_position_embeddings": 1}"#,
        ] {
            assert!(ClipTextConfig::from_json(&ConfigFile::parse("config.json", text)?).is_err(), "{text}");
        }
        Ok(())
    }

    #[test]
    fn a_token_sees_nothing_behind_it() -> Result<()> {
        let bias: Vec<Vec<f32>> = causal_bias(3)?.squeeze(0)?.squeeze(0)?.to_vec2()?;
        assert_eq!(bias[0], [0.0, -10_000.0, -10_000.0]);
        assert_eq!(bias[2], [0.0, 0.0, 0.0]);
        Ok(())
    }
}
