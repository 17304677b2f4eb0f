//! Why a morph could not be made. Every text is one line.

use refrain_cache::CacheError;
use refrain_pipeline::PipelineError;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum MorphError {
    /// A setting that makes no sense.
    #[error("{what} must be {expected}, got {value}")]
    Setting {
        /// The setting.
        what: &'static str,
        /// What would do, in words.
        expected: String,
        /// What was given.
        value: String,
    },
    /// An injection schedule that cannot be read or does not fit.
    #[error("injection schedule: {0}")]
    Schedule(String),
    /// No rung of the memory ladder fits.
    #[error("--cache-memory {limit} is too little: {ladder}")]
    Memory {
        /// The limit, in bytes.
        limit: usize,
        /// What every rung needs.
        ladder: String,
    },
    /// A caption that is none.
    #[error("captioner: {0}")]
    Caption(String),
    /// The observer asked to stop.
    #[error("stopped")]
    Stopped,
    /// The pipeline.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// A schedule that cannot be inverted, or a step that failed.
    #[error(transparent)]
    Sampler(refrain_samplers::Error),
    /// The cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A tensor operation.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl From<refrain_samplers::Error> for MorphError {
    fn from(error: refrain_samplers::Error) -> Self {
        match error {
            refrain_samplers::Error::Stopped { .. } => Self::Stopped,
            other => Self::Sampler(other),
        }
    }
}

/// Result with this crate's error.
pub type Result<T> = std::result::Result<T, MorphError>;
