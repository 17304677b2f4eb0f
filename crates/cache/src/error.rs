//! What can go wrong in the cache, each with advice in the text.

use std::path::PathBuf;

/// Errors of this crate. Every message is one line.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// A policy name that the registry does not have.
    #[error("unknown cache policy '{name}'; there are: {known}")]
    UnknownPolicy {
        /// The name asked for.
        name: String,
        /// All names, comma separated.
        known: String,
    },
    /// An option that the policy does not have.
    #[error("cache policy '{policy}' has no option '{option}'; it has: {known}")]
    UnknownOption {
        /// The policy's name.
        policy: &'static str,
        /// The option asked for.
        option: String,
        /// All its options, comma separated.
        known: String,
    },
    /// An option's value that does not parse or lies outside its range.
    #[error("cache policy '{policy}': option '{option}' is '{value}', but must be {expected}")]
    BadOption {
        /// The policy's name.
        policy: &'static str,
        /// The option.
        option: String,
        /// The value given.
        value: String,
        /// What it must be.
        expected: String,
    },
    /// Text that is no site.
    #[error("'{text}' is no site; a site looks like 3.attention, 0.span-8 or 2.feed-forward@uncond")]
    BadSite {
        /// The text.
        text: String,
    },
    /// A policy that cannot run under this header, for example a mask of another length.
    #[error("cache policy '{policy}' does not fit this run: {reason}")]
    Unfit {
        /// The policy's name.
        policy: String,
        /// Why, with advice.
        reason: String,
    },
    /// A plan made for another run.
    #[error("the plan does not fit this run: {differences}; make one for this run with --emit-plan")]
    PlanMismatch {
        /// What differs, comma separated: `steps is 20 in the plan and 12 here`.
        differences: String,
    },
    /// A plan file or table that is malformed.
    #[error("{}: not a valid plan: {reason}", path.display())]
    BadPlan {
        /// The file, or `plan` for one in memory.
        path: PathBuf,
        /// What is wrong, and what was expected.
        reason: String,
    },
    /// A file that could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A value that is not finite although everything in the step was computed.
    #[error(
        "{what} is not finite at step {step} of {count} (timestep {timestep}) though nothing was cached there; try --dtype f32, a lower guidance scale or another sampler"
    )]
    NonFinite {
        /// `the model's output` or `the latents`.
        what: &'static str,
        /// Step, counted from 1.
        step: usize,
        /// Steps of the run.
        count: usize,
        /// The model's timestep.
        timestep: f32,
    },
    /// Latents that carry no picture any more.
    #[error(
        "{what} collapsed to a constant at step {step} of {count} (standard deviation {std:e}); the picture would be blank"
    )]
    Collapsed {
        /// `the latents`.
        what: &'static str,
        /// Step, counted from 1.
        step: usize,
        /// Steps of the run.
        count: usize,
        /// Standard deviation found.
        std: f32,
    },
    /// An error of a tensor operation.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl From<CacheError> for candle_core::Error {
    /// Lets the error pass through a model's forward function.
    fn from(error: CacheError) -> Self {
        match error {
            CacheError::Tensor(inner) => inner,
            // Without candle's backtrace, which would make the message many lines.
            other => candle_core::Error::Wrapped(Box::new(other)),
        }
    }
}
