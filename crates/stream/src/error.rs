//! What can go wrong in a stream, said in one line each.

/// A stream that cannot be set up or continued.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// An option outside what can work.
    #[error("{what} is {found}, expected {expected}")]
    Option {
        /// The option.
        what: &'static str,
        /// What came.
        found: String,
        /// What would do.
        expected: String,
    },
    /// A chunk that does not fit the stream.
    #[error("chunk {chunk}: {problem}")]
    Chunk {
        /// Number of the chunk, from 0.
        chunk: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// Latents that left the numbers.
    #[error("chunk {chunk}: the latents of step {step} are not finite; lower the noise or try f32")]
    NotFinite {
        /// Number of the chunk, from 0.
        chunk: u64,
        /// Denoising step, from 0.
        step: usize,
    },
    /// A sampler's error.
    #[error(transparent)]
    Sampler(#[from] refrain_samplers::Error),
    /// A failure inside a tensor operation.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, StreamError>;
