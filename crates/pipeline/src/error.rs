//! Why a pipeline could not be loaded or a picture not be made. Every text is one line.

use refrain_cache::CacheError;
use refrain_models::ModelError;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// A file that could not be read.
    #[error("{file}: {source}")]
    Io {
        /// The file.
        file: String,
        /// The system's words.
        source: std::io::Error,
    },
    /// A file that a pipeline of this kind has, and this one lacks.
    #[error("{file}: no such file; {advice}")]
    MissingFile {
        /// The file looked for.
        file: String,
        /// Why it is needed, or what to do.
        advice: String,
    },
    /// `model_index.json` names no pipeline, or none that this build reads.
    #[error("{file}: {problem}")]
    Index {
        /// The index file.
        file: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// A file of tensors that is no safetensors file, or a damaged one.
    #[error("{file}: not a readable safetensors file: {problem}")]
    Safetensors {
        /// The file.
        file: String,
        /// What is wrong.
        problem: String,
    },
    /// A file of PyTorch tensors that cannot be read.
    #[error("{file}: not a readable PyTorch archive: {problem}")]
    TorchArchive {
        /// The file.
        file: String,
        /// What is wrong.
        problem: String,
    },
    /// A `tokenizer.json` that cannot be read, or a text that it cannot encode.
    #[error("{file}: {problem}")]
    Tokenizer {
        /// The file.
        file: String,
        /// What is wrong.
        problem: String,
    },
    /// A scheduler configuration that cannot be read.
    #[error("{file}: {source}")]
    Scheduler {
        /// The file.
        file: String,
        /// What is wrong.
        source: refrain_samplers::Error,
    },
    /// Components that each load but do not fit each other.
    #[error("{first} and {second} do not fit: {problem}")]
    Mismatch {
        /// One component's folder.
        first: &'static str,
        /// The other's.
        second: &'static str,
        /// Which numbers differ.
        problem: String,
    },
    /// A picture size that the model cannot make.
    #[error(
        "{axis} {value} is not possible with this model: expected a multiple of {multiple} from {multiple} to {limit}"
    )]
    Size {
        /// `width` or `height`.
        axis: &'static str,
        /// What was asked for.
        value: usize,
        /// Pixels that a patch of latents covers.
        multiple: usize,
        /// Largest side.
        limit: usize,
    },
    /// A request that makes no sense for this pipeline.
    #[error("{what} {problem}")]
    Request {
        /// The part of the request: `prompt`, `latents`, `class`, …
        what: &'static str,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// A decoded picture with values that are no numbers.
    #[error("the decoded picture is not finite though its latents are; try --dtype f32")]
    PictureNotFinite,
    /// A component's configuration or tensors.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A schedule that cannot be made, or a step that failed.
    #[error(transparent)]
    Sampler(#[from] refrain_samplers::Error),
    /// The cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A tensor operation.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl PipelineError {
    /// Whether the run ended because its observer asked for it.
    pub fn is_stopped(&self) -> bool {
        matches!(self, Self::Sampler(refrain_samplers::Error::Stopped { .. }))
    }
}

/// Result with this crate's error.
pub type Result<T> = std::result::Result<T, PipelineError>;
