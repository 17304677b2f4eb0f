//! What can go wrong while training.

use std::path::PathBuf;

/// Why training stopped. Every text is one line.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A loss that is no number: nothing was written.
    #[error("the loss at step {step} of iteration {iteration} is not finite; lower --learning-rate or check the model")]
    NonFinite {
        /// Optimiser step.
        iteration: usize,
        /// Denoising step, from 1.
        step: usize,
    },
    /// An option outside its range.
    #[error("{what} must be {expected}, got {value}")]
    Range {
        /// The option.
        what: &'static str,
        /// The allowed range, in words.
        expected: &'static str,
        /// The value found.
        value: f64,
    },
    /// A router file or checkpoint that cannot be used.
    #[error("{path}: {reason}", path = path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The user asked to stop; a checkpoint was kept.
    #[error("stopped; the checkpoint is kept, --resume continues")]
    Stopped,
    /// The model failed.
    #[error("the model failed: {0}")]
    Model(Box<dyn std::error::Error + Send + Sync>),
    /// The cache refused.
    #[error(transparent)]
    Cache(#[from] refrain_cache::CacheError),
    /// The sampler failed.
    #[error(transparent)]
    Sampler(#[from] refrain_samplers::Error),
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}
