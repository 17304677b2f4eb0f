//! The rolling cache of keys and values.

mod relative;
mod sdv2;
mod shift;
mod slots;
mod store;
#[cfg(test)]
mod tests;

pub use slots::{Slot, SlotMap};
pub use store::{KvShape, Residents, RollingKv, RowChunk};

use crate::error::{Result, StreamError};

/// Replacement of a sink that has become unlike the picture (adaptive sinks, arXiv 2511.07399).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SinkRefresh {
    /// A sink less similar than this to the newest frame is replaced by it; from -1 to 1.
    pub threshold: f32,
    /// Latent frames for which no further sink is replaced.
    pub cool_down: u64,
}

/// Which frames a stream still sees, and where in time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum KvPolicy {
    /// StreamDiffusionV2 as published: a ring of slots behind the sinks, keys at absolute times.
    Sdv2 {
        /// Similarity below which a sink is queued for replacement; `None` never.
        threshold: Option<f32>,
        /// Latent frames after which counting starts again at the cache's length less one (50 in its demo).
        position_reset: Option<u64>,
    },
    /// Self-Forcing: the oldest frame behind the sinks leaves, keys at absolute times.
    Shift,
    /// Frames leave as with [`KvPolicy::Shift`]; times are ranks among the frames held, so that a stream has no end.
    Relative {
        /// Replacement of sinks; `None` never.
        refresh: Option<SinkRefresh>,
    },
}

impl KvPolicy {
    /// Name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sdv2 { .. } => "sdv2",
            Self::Shift => "shift",
            Self::Relative { .. } => "relative",
        }
    }

    /// The policy of a name, with the published constants.
    ///
    /// # Errors
    /// Lists the known names.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "sdv2" => Ok(Self::Sdv2 { threshold: Some(0.2), position_reset: Some(50) }),
            "shift" => Ok(Self::Shift),
            "relative" => Ok(Self::Relative { refresh: None }),
            _ => Err(StreamError::Option {
                what: "rolling KV policy",
                found: format!("`{}`", name.chars().take(40).collect::<String>()),
                expected: "sdv2, shift or relative".to_owned(),
            }),
        }
    }
}

/// Size and policy of a rolling cache. Both numbers count latent frames.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KvOptions {
    /// Frames held, sinks and the present ones included.
    pub length: usize,
    /// First frames of the stream that stay.
    pub sinks: usize,
    /// Which others stay, and at which times.
    pub policy: KvPolicy,
}

impl Default for KvOptions {
    /// StreamDiffusionV2's sizes under our own policy.
    fn default() -> Self {
        Self { length: 6, sinks: 3, policy: KvPolicy::Relative { refresh: None } }
    }
}

/// Longest cache in latent frames; beyond it a typing error is likelier than a wish.
const LONGEST: usize = 4096;

impl KvOptions {
    /// The options, if a cache can work with them.
    ///
    /// # Errors
    /// [`StreamError::Option`].
    pub fn checked(self) -> Result<Self> {
        let refuse = |what, found: String, expected: String| Err(StreamError::Option { what, found, expected });
        if self.length == 0 || self.length > LONGEST {
            return refuse("cache length", self.length.to_string(), format!("1 to {LONGEST} latent frames"));
        }
        if self.sinks >= self.length {
            let expected = format!("fewer than the cache's {} latent frames", self.length);
            return refuse("number of sinks", self.sinks.to_string(), expected);
        }
        let threshold = match self.policy {
            KvPolicy::Sdv2 { threshold, .. } => threshold,
            KvPolicy::Relative { refresh } => refresh.map(|refresh| refresh.threshold),
            KvPolicy::Shift => None,
        };
        match threshold {
            Some(threshold) if !(-1.0..=1.0).contains(&threshold) => {
                refuse("sink threshold", threshold.to_string(), "a cosine, from -1 to 1".to_owned())
            }
            _ => Ok(self),
        }
    }
}
