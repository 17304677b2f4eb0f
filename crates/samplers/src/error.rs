//! What can go wrong between a scheduler configuration and the last step.

use crate::DenoiseError;

/// Result with this crate's [`enum@Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Why a schedule could not be built or a run could not finish. Every text is one line.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is not JSON, or a key has the wrong type.
    #[error("scheduler_config.json is not valid: {reason}")]
    Config {
        /// The parser's words.
        reason: String,
    },
    /// `_class_name` is none that this crate can read.
    #[error("unknown scheduler class {name:?}; known are {known}")]
    UnknownScheduler {
        /// The name found.
        name: String,
        /// The names that would do.
        known: String,
    },
    /// The scheduler class is known for its noise schedule, but its own sampling method is not provided.
    #[error("the model's scheduler {class} has no sampler here; choose one of {known} (--sampling-method)")]
    NoDefaultSampler {
        /// The class in the configuration.
        class: String,
        /// The samplers that would do.
        known: String,
    },
    /// A name on the command line or in a configuration is none of the choices.
    #[error("unknown {what} {name:?}; choose one of {known}")]
    UnknownName {
        /// What was being named: "sampler", "prediction_type", …
        what: &'static str,
        /// The name found.
        name: String,
        /// The names that would do.
        known: String,
    },
    /// A combination of options that has no meaning or no implementation.
    #[error("{what} is not supported: {advice}")]
    Unsupported {
        /// The option with its value.
        what: String,
        /// What to do instead.
        advice: &'static str,
    },
    /// The number of steps is zero or above the number of training timesteps.
    #[error("steps must be between 1 and {train}, got {steps}")]
    Steps {
        /// Steps asked for.
        steps: usize,
        /// Training timesteps of the model.
        train: usize,
    },
    /// So little of the schedule was asked for that no step is left.
    #[error("a strength of {strength} leaves none of {steps} steps; choose at least {:.2}, or more steps", 1.0 / *steps as f64)]
    Strength {
        /// The strength asked for.
        strength: f64,
        /// Steps of the whole schedule.
        steps: usize,
    },
    /// A number of the configuration is outside its range.
    #[error("{what} must be {expected}, got {value}")]
    Range {
        /// The key or option.
        what: &'static str,
        /// The allowed range, in words.
        expected: &'static str,
        /// The value found.
        value: f64,
    },
    /// The schedule holds a value that no step can be computed with.
    #[error("the schedule is not usable: {what} is {value} at step {}; {advice}", step + 1)]
    Schedule {
        /// Which number.
        what: &'static str,
        /// Its value.
        value: f64,
        /// Index of the step, from 0.
        step: usize,
        /// What to change.
        advice: &'static str,
    },
    /// A sampler function was called with the schedule of another sampler.
    #[error("the schedule was made for sampler {made_for}, not for {called}")]
    WrongSchedule {
        /// The schedule's sampler.
        made_for: &'static str,
        /// The function called.
        called: &'static str,
    },
    /// The model gave a tensor of another shape than its latents.
    #[error("the model's output has shape {got:?} at step {}, the latents have {expected:?}", step + 1)]
    Shape {
        /// Index of the step, from 0.
        step: usize,
        /// Shape of the latents.
        expected: Vec<usize>,
        /// Shape of the output.
        got: Vec<usize>,
    },
    /// A value became NaN or infinite.
    #[error("the latents are not finite after step {} of {count} (timestep {timestep})", step + 1)]
    NonFinite {
        /// Index of the step, from 0.
        step: usize,
        /// Steps of the run.
        count: usize,
        /// Timestep given to the model.
        timestep: f32,
    },
    /// The denoiser closure failed.
    #[error("step {} of {count} failed: {source}", step + 1)]
    Denoise {
        /// Index of the step, from 0.
        step: usize,
        /// Steps of the run.
        count: usize,
        /// The closure's error.
        source: DenoiseError,
    },
    /// The observer asked to stop.
    #[error("stopped after step {} of {count}", step + 1)]
    Stopped {
        /// Index of the last finished step, from 0.
        step: usize,
        /// Steps of the run.
        count: usize,
    },
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}
