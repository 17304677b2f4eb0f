//! What the tests of this crate share: a tiny random Wan.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

use std::collections::HashMap;

use candle_core::Tensor;
use refrain_models::{
    ConfigFile, Weights,
    wan::{WanConfig, WanText, WanTransformer},
};
use refrain_ops::Precision;
use refrain_samplers::noise::counter;

pub type TestResult = Result<(), Box<dyn std::error::Error>>;
pub type Made<T> = Result<T, Box<dyn std::error::Error>>;

/// Sizes of a tiny model.
#[derive(Clone, Copy)]
pub struct Tiny {
    pub heads: usize,
    pub head_width: usize,
    pub layers: usize,
    pub channels: usize,
    pub condition: usize,
    pub patch: usize,
}

pub const TINY: Tiny = Tiny { heads: 2, head_width: 12, layers: 2, channels: 3, condition: 0, patch: 2 };

/// A Wan transformer with weights from a seed, spread so that every path matters.
pub fn wan(tiny: Tiny) -> Made<WanTransformer> {
    let Tiny { heads, head_width, layers, channels, condition, patch } = tiny;
    let (width, inner, text, frequencies, inputs) = (heads * head_width, 32, 10, 16, channels + condition);
    let config = format!(
        r#"{{"num_attention_heads": {heads}, "attention_head_dim": {head_width}, "in_channels": {inputs},
        "out_channels": {channels}, "num_layers": {layers}, "ffn_dim": {inner}, "text_dim": {text},
        "freq_dim": {frequencies}, "patch_size": [1, {patch}, {patch}]}}"#
    );
    let config = WanConfig::from_json(&ConfigFile::parse("config.json", &config)?)?;
    let mut shapes: Vec<(String, Vec<usize>)> = Vec::new();
    let mut layer = |name: &str, outputs: usize, inputs: usize| {
        shapes.push((format!("{name}.weight"), vec![outputs, inputs]));
        shapes.push((format!("{name}.bias"), vec![outputs]));
    };
    layer("condition_embedder.time_embedder.linear_1", width, frequencies);
    layer("condition_embedder.time_embedder.linear_2", width, width);
    layer("condition_embedder.time_proj", 6 * width, width);
    layer("condition_embedder.text_embedder.linear_1", width, text);
    layer("condition_embedder.text_embedder.linear_2", width, width);
    layer("proj_out", channels * patch * patch, width);
    for block in 0..layers {
        for attention in ["attn1", "attn2"] {
            for part in ["to_q", "to_k", "to_v", "to_out.0"] {
                layer(&format!("blocks.{block}.{attention}.{part}"), width, width);
            }
        }
        layer(&format!("blocks.{block}.ffn.net.0.proj"), inner, width);
        layer(&format!("blocks.{block}.ffn.net.2"), width, inner);
    }
    for block in 0..layers {
        for norm in ["attn1.norm_q", "attn1.norm_k", "attn2.norm_q", "attn2.norm_k", "norm2"] {
            shapes.push((format!("blocks.{block}.{norm}.weight"), vec![width]));
        }
        shapes.push((format!("blocks.{block}.norm2.bias"), vec![width]));
        shapes.push((format!("blocks.{block}.scale_shift_table"), vec![1, 6, width]));
    }
    shapes.push(("scale_shift_table".to_owned(), vec![1, 2, width]));
    shapes.push(("patch_embedding.weight".to_owned(), vec![width, inputs, 1, patch, patch]));
    shapes.push(("patch_embedding.bias".to_owned(), vec![width]));
    let mut tensors = HashMap::new();
    for (seed, (name, shape)) in shapes.into_iter().enumerate() {
        let noise = counter(1000 + seed as u64, &shape)?;
        let tensor = match (name.contains("norm") && name.ends_with("weight"), shape.len()) {
            (true, _) => noise.affine(0.2, 1.0)?,
            (false, 1) => (noise * 0.1)?,
            (false, _) => {
                let fan: usize = shape[1..].iter().product();
                (noise / (fan as f64).sqrt())?
            }
        };
        tensors.insert(name, tensor);
    }
    Ok(WanTransformer::load(&Weights::from_tensors(tensors), &config, Precision::F32)?)
}

/// Text states of a seed, prepared.
pub fn text(model: &WanTransformer, seed: u64) -> Made<WanText> {
    Ok(model.prepare_text(&counter(seed, &[1, 5, 10])?)?)
}

/// Largest absolute difference.
pub fn distance(left: &Tensor, right: &Tensor) -> Made<f32> {
    assert_eq!(left.dims(), right.dims());
    Ok((left - right)?.abs()?.flatten_all()?.max(0)?.to_scalar()?)
}
