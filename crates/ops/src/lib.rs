//! Fused CPU operations behind one function each.
//!
//! Every operation takes and gives candle tensors (f32 activations), has a plain twin with `reference` in its name built
//! from candle's own operations, and stays differentiable towards its activations; weights are frozen. A row of a result
//! depends neither on the other rows nor on the number of threads.

#[cfg(target_arch = "x86_64")]
mod amx;
mod attention;
mod blend;
mod channel_norm;
mod convolution;
mod differentiable;
mod elementary;
mod embedding;
mod group_norm;
mod linear;
pub mod mapped;
mod matmul;
mod measure;
pub mod memory;
mod norm;
mod parallel;
mod pointwise;
pub mod profile;
mod rotary;
mod simd;
#[cfg(test)]
mod testing;
mod tile;
mod transpose;
mod types;

pub use attention::{AttentionOptions, KeyValueRing, attention, attention_packed_qkv, attention_reference};
pub use blend::{blend_rows, blend_rows_reference};
pub use channel_norm::{channel_rms_norm, channel_rms_norm_reference};
pub use convolution::{Conv2d, ConvEpilogue};
pub use embedding::{TimestepEmbeddingOptions, timestep_embedding};
pub use group_norm::GroupNorm;
pub use linear::Linear;
pub use measure::{Health, health, relative_l1, relative_l1_reference, relative_l2, relative_l2_reference};
pub use norm::{
    layer_norm, layer_norm_modulate, layer_norm_modulate_reference, layer_norm_reference, rms_norm, rms_norm_reference,
};
pub use pointwise::{
    activate, add, gate_residual, gate_residual_reference, gelu, gelu_tanh, linear_combination,
    linear_combination_reference, silu,
};
pub use rotary::{rotate_pairs, rotate_pairs_reference};
pub use types::{Activation, OpsError, Precision};
