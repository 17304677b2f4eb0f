//! `scheduler_config.json` of a diffusers folder.

use serde::{Deserialize, Serialize};

use crate::{Error, Prediction, Result, Sampler, SigmaSpacing, TimestepSpacing};

/// Largest number of training timesteps accepted; a hostile configuration must not ask for gigabytes of table.
const MAX_TRAIN_TIMESTEPS: usize = 1_000_000;

/// How the noise grows over the training timesteps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BetaSchedule {
    /// Straight line from `beta_start` to `beta_end` (Ho et al., arXiv 2006.11239).
    Linear,
    /// Straight line between the square roots, squared (latent diffusion, arXiv 2112.10752).
    ScaledLinear,
    /// Squared cosine (Nichol & Dhariwal, arXiv 2102.09672).
    #[serde(rename = "squaredcos_cap_v2")]
    SquaredCosine,
}

/// A diffusers scheduler class whose configuration can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchedulerClass {
    /// `DDIMScheduler`
    Ddim,
    /// `DPMSolverMultistepScheduler`
    DpmSolverMultistep,
    /// `EulerDiscreteScheduler`
    Euler,
    /// `HeunDiscreteScheduler`
    Heun,
    /// `PNDMScheduler`
    Pndm,
    /// `FlowMatchEulerDiscreteScheduler`
    FlowMatchEuler,
    /// `UniPCMultistepScheduler`
    UniPc,
    /// A class that shares the noise schedule but samples in a way not provided here; a sampler must be chosen.
    Compatible(&'static str),
}

/// Diffusers classes that share their schedule keys with the provided ones (diffusers' `KarrasDiffusionSchedulers`).
const COMPATIBLE: [&str; 12] = [
    "DDPMScheduler",
    "LMSDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "DPMSolverSinglestepScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "DEISMultistepScheduler",
    "DPMSolverSDEScheduler",
    "EDMEulerScheduler",
    "DDIMInverseScheduler",
    "DPMSolverMultistepInverseScheduler",
    "LCMScheduler",
];

/// The classes with a sampler of their own.
const NATIVE: [(&str, SchedulerClass); 7] = [
    ("DDIMScheduler", SchedulerClass::Ddim),
    ("DPMSolverMultistepScheduler", SchedulerClass::DpmSolverMultistep),
    ("EulerDiscreteScheduler", SchedulerClass::Euler),
    ("HeunDiscreteScheduler", SchedulerClass::Heun),
    ("PNDMScheduler", SchedulerClass::Pndm),
    ("FlowMatchEulerDiscreteScheduler", SchedulerClass::FlowMatchEuler),
    ("UniPCMultistepScheduler", SchedulerClass::UniPc),
];

impl SchedulerClass {
    /// The class of a `_class_name`.
    ///
    /// # Errors
    /// [`Error::UnknownScheduler`].
    pub fn from_name(name: &str) -> Result<Self> {
        let native = NATIVE.iter().find(|(known, _)| *known == name).map(|(_, class)| *class);
        let compatible = || COMPATIBLE.iter().find(|known| **known == name).map(|known| Self::Compatible(known));
        native.or_else(compatible).ok_or_else(|| Error::UnknownScheduler {
            name: name.into(),
            known: NATIVE.map(|(known, _)| known).join(", "),
        })
    }

    /// The `_class_name`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Compatible(name) => name,
            _ => NATIVE.iter().find(|(_, class)| *class == self).map_or("", |(name, _)| name),
        }
    }
}

/// A scheduler configuration: the keys that were written, nothing filled in.
///
/// A missing key means what the *sampler in use* takes for its default, as when diffusers makes one scheduler from
/// another's configuration (`from_config`); so no default is put in place before the sampler is known.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the keys are diffusers'; its documentation defines them")]
pub struct SchedulerConfig {
    #[serde(rename = "_class_name")]
    pub class_name: String,
    pub num_train_timesteps: Option<usize>,
    pub beta_start: Option<f64>,
    pub beta_end: Option<f64>,
    pub beta_schedule: Option<String>,
    pub trained_betas: Option<Vec<f64>>,
    pub rescale_betas_zero_snr: Option<bool>,
    pub prediction_type: Option<String>,
    pub timestep_spacing: Option<String>,
    pub steps_offset: Option<i64>,
    pub final_sigmas_type: Option<String>,
    pub use_karras_sigmas: Option<bool>,
    pub use_exponential_sigmas: Option<bool>,
    pub use_beta_sigmas: Option<bool>,
    pub use_lu_lambdas: Option<bool>,
    pub use_flow_sigmas: Option<bool>,
    pub flow_shift: Option<f64>,
    pub sigma_min: Option<f64>,
    pub sigma_max: Option<f64>,
    pub thresholding: Option<bool>,
    // DDIM, Heun
    pub set_alpha_to_one: Option<bool>,
    pub clip_sample: Option<bool>,
    pub clip_sample_range: Option<f64>,
    // PNDM
    pub skip_prk_steps: Option<bool>,
    // DPM-Solver++
    pub solver_order: Option<usize>,
    pub solver_type: Option<String>,
    pub algorithm_type: Option<String>,
    pub lower_order_final: Option<bool>,
    pub euler_at_final: Option<bool>,
    pub lambda_min_clipped: Option<f64>,
    // UniPC
    pub predict_x0: Option<bool>,
    pub disable_corrector: Option<Vec<usize>>,
    // Euler
    pub interpolation_type: Option<String>,
    pub timestep_type: Option<String>,
    // flow matching
    pub shift: Option<f64>,
    pub shift_terminal: Option<f64>,
    pub use_dynamic_shifting: Option<bool>,
    pub time_shift_type: Option<String>,
    pub base_shift: Option<f64>,
    pub max_shift: Option<f64>,
    pub base_image_seq_len: Option<usize>,
    pub max_image_seq_len: Option<usize>,
    pub invert_sigmas: Option<bool>,
    pub stochastic_sampling: Option<bool>,
}

impl SchedulerConfig {
    /// Reads the text of `scheduler_config.json`. Python's `Infinity` and `NaN`, which JSON forbids and diffusers
    /// writes (`"lambda_min_clipped": -Infinity`), are accepted. Unknown keys are ignored.
    ///
    /// # Errors
    /// [`Error::Config`] for bad JSON or a key of the wrong type, [`Error::UnknownScheduler`] for a strange
    /// `_class_name`, [`Error::Range`] for an absurd number of training timesteps.
    pub fn from_json(text: &str) -> Result<Self> {
        let config: Self = serde_json::from_str(&without_python_floats(text))
            .map_err(|error| Error::Config { reason: error.to_string() })?;
        config.class()?;
        config.train_timesteps()?;
        Ok(config)
    }

    /// The class that `_class_name` names.
    ///
    /// # Errors
    /// [`Error::UnknownScheduler`].
    pub fn class(&self) -> Result<SchedulerClass> {
        SchedulerClass::from_name(&self.class_name)
    }

    /// The sampler that belongs to the configuration's class.
    ///
    /// # Errors
    /// [`Error::NoDefaultSampler`] when the class is only [`SchedulerClass::Compatible`].
    pub fn default_sampler(&self) -> Result<Sampler> {
        match self.class()? {
            SchedulerClass::Ddim => Ok(Sampler::Ddim),
            SchedulerClass::DpmSolverMultistep => Ok(Sampler::DpmSolver2M),
            SchedulerClass::Euler => Ok(Sampler::Euler),
            SchedulerClass::Heun => Ok(Sampler::Heun),
            SchedulerClass::Pndm => Ok(Sampler::Pndm),
            SchedulerClass::FlowMatchEuler => Ok(Sampler::EulerFlow),
            SchedulerClass::UniPc if self.is_flow() => Ok(Sampler::UniPc),
            SchedulerClass::UniPc => {
                Err(Error::NoDefaultSampler { class: self.class_name.clone(), known: Sampler::names() })
            }
            SchedulerClass::Compatible(class) => {
                Err(Error::NoDefaultSampler { class: class.into(), known: Sampler::names() })
            }
        }
    }

    /// Number of timesteps the model was trained on.
    ///
    /// # Errors
    /// [`Error::Range`] when zero or absurdly large.
    pub fn train_timesteps(&self) -> Result<usize> {
        let count = self.num_train_timesteps.unwrap_or(1000);
        if count == 0 || count > MAX_TRAIN_TIMESTEPS {
            let (what, expected) = ("num_train_timesteps", "between 1 and 1000000");
            return Err(Error::Range { what, expected, value: count as f64 });
        }
        Ok(count)
    }

    /// What the model predicts; flow for a flow-matching scheduler, else epsilon where the key is missing.
    ///
    /// # Errors
    /// [`Error::UnknownName`].
    pub fn prediction(&self) -> Result<Prediction> {
        match &self.prediction_type {
            _ if self.is_flow() => Ok(Prediction::Flow),
            Some(name) => name.parse(),
            None => Ok(Prediction::Epsilon),
        }
    }

    /// Whether the model was trained by flow matching: the class says so, or the keys do.
    pub fn is_flow(&self) -> bool {
        self.class_name == SchedulerClass::FlowMatchEuler.name()
            || self.use_flow_sigmas == Some(true)
            || self.prediction_type.as_deref() == Some(Prediction::Flow.name())
    }

    pub(crate) fn beta_schedule(&self) -> Result<BetaSchedule> {
        match self.beta_schedule.as_deref() {
            None | Some("linear") => Ok(BetaSchedule::Linear),
            Some("scaled_linear") => Ok(BetaSchedule::ScaledLinear),
            Some("squaredcos_cap_v2") => Ok(BetaSchedule::SquaredCosine),
            Some(name) => Err(Error::UnknownName {
                what: "beta_schedule",
                name: name.into(),
                known: "linear, scaled_linear, squaredcos_cap_v2".into(),
            }),
        }
    }

    pub(crate) fn timestep_spacing(&self, default: TimestepSpacing) -> Result<TimestepSpacing> {
        self.timestep_spacing.as_deref().map_or(Ok(default), str::parse)
    }

    /// The spacing of the noise levels that the `use_*` keys ask for.
    pub(crate) fn sigma_spacing(&self) -> Result<SigmaSpacing> {
        let flag = |value: Option<bool>| value.unwrap_or(false);
        if flag(self.use_beta_sigmas) {
            return Err(Error::Unsupported {
                what: "use_beta_sigmas".into(),
                advice: "remove the key, or choose discrete, karras, exponential or lu",
            });
        }
        Ok(match () {
            () if flag(self.use_karras_sigmas) => SigmaSpacing::Karras,
            () if flag(self.use_exponential_sigmas) => SigmaSpacing::Exponential,
            () if flag(self.use_lu_lambdas) => SigmaSpacing::Lu,
            () => SigmaSpacing::Discrete,
        })
    }

    /// Refuses a key whose value would need code that is not there: a silently different picture helps nobody.
    pub(crate) fn refuse(&self, what: &str, asked: bool, advice: &'static str) -> Result<()> {
        if asked { Err(Error::Unsupported { what: what.into(), advice }) } else { Ok(()) }
    }
}

/// The text with bare `NaN`, `Infinity` and `-Infinity` replaced: infinities by numbers of the same effect, NaN by
/// null. Strings are left alone.
fn without_python_floats(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let (mut rest, mut in_string) = (text, false);
    while let Some(first) = rest.chars().next() {
        let replaced = if in_string {
            None
        } else {
            [("-Infinity", "-1e300"), ("Infinity", "1e300"), ("NaN", "null")]
                .into_iter()
                .find_map(|(word, number)| rest.strip_prefix(word).map(|after| (number, after)))
        };
        if let Some((number, after)) = replaced {
            clean.push_str(number);
            rest = after;
            continue;
        }
        let length = match first {
            // An escape and the character it protects stay together.
            '\\' if in_string => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
            '"' => {
                in_string = !in_string;
                1
            }
            _ => first.len_utf8(),
        };
        clean.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    clean
}
