//! What a model predicts, and how the clean latents and the noise follow from it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Error;

/// Meaning of the model's output for latents `x = alpha * clean + sigma * noise`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Prediction {
    /// The noise (Ho et al., arXiv 2006.11239).
    #[serde(rename = "epsilon")]
    Epsilon,
    /// The velocity `alpha * noise - sigma * clean` (Salimans & Ho, arXiv 2202.00512).
    #[serde(rename = "v_prediction")]
    Velocity,
    /// The clean latents.
    #[serde(rename = "sample", alias = "original_sample")]
    Sample,
    /// The flow `noise - clean`, with `alpha = 1 - sigma` (Lipman et al., arXiv 2210.02747).
    #[serde(rename = "flow_prediction")]
    Flow,
}

/// A value that is linear in the latents and the model's output.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Mix {
    pub(crate) latents: f64,
    pub(crate) output: f64,
}

impl Mix {
    /// The mix at one place.
    pub(crate) fn at(self) -> impl Fn(f32, f32) -> f32 + Sync {
        let (a, b) = (self.latents as f32, self.output as f32);
        move |latents, output| a * latents + b * output
    }

    /// Whether both coefficients are finite.
    pub(crate) fn is_finite(self) -> bool {
        self.latents.is_finite() && self.output.is_finite()
    }
}

impl Prediction {
    /// Name as in `scheduler_config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Epsilon => "epsilon",
            Self::Velocity => "v_prediction",
            Self::Sample => "sample",
            Self::Flow => "flow_prediction",
        }
    }

    /// The clean latents from latents with signal share `alpha` and noise share `sigma`.
    pub(crate) fn denoised(self, alpha: f64, sigma: f64) -> Mix {
        match self {
            Self::Epsilon => Mix { latents: 1.0 / alpha, output: -sigma / alpha },
            Self::Velocity => Mix { latents: alpha, output: -sigma },
            Self::Sample => Mix { latents: 0.0, output: 1.0 },
            Self::Flow => Mix { latents: 1.0, output: -sigma },
        }
    }

    /// The clean latents from latents in the scale `clean + sigma * noise`, whose model input was scaled to unit
    /// variance.
    pub(crate) fn denoised_from_ratio(self, sigma: f64) -> Mix {
        let (alpha, noise) = crate::schedule::variance_preserving(sigma);
        let Mix { latents, output } = self.denoised(alpha, noise);
        Mix { latents: latents * alpha, output }
    }

    /// The noise in latents with signal share `alpha` and noise share `sigma`.
    pub(crate) fn noise(self, alpha: f64, sigma: f64) -> Mix {
        match self {
            Self::Epsilon => Mix { latents: 0.0, output: 1.0 },
            Self::Velocity => Mix { latents: sigma, output: alpha },
            Self::Sample => Mix { latents: 1.0 / sigma, output: -alpha / sigma },
            Self::Flow => Mix { latents: 1.0, output: alpha },
        }
    }
}

impl fmt::Display for Prediction {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Prediction {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "epsilon" | "eps" => Ok(Self::Epsilon),
            "v_prediction" | "v" => Ok(Self::Velocity),
            "sample" | "original_sample" => Ok(Self::Sample),
            "flow_prediction" | "flow" => Ok(Self::Flow),
            _ => Err(Error::UnknownName {
                what: "prediction_type",
                name: name.into(),
                known: "epsilon, v_prediction, sample, flow_prediction".into(),
            }),
        }
    }
}
