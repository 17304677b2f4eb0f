//! The words that flags accept, for help, completions and early errors.

use clap::builder::{PossibleValue, PossibleValuesParser};
use refrain_samplers::{Sampler, SigmaSpacing};

/// `--dtype`
pub(crate) const DTYPES: [&str; 3] = ["f32", "bf16", "int8"];
/// `--rng`
pub(crate) const GENERATORS: [&str; 2] = ["counter", "torch"];

/// `--sampling-method`, with ComfyUI's spellings as aliases.
pub(crate) fn sampling_methods() -> PossibleValuesParser {
    PossibleValuesParser::new(Sampler::ALL.map(|sampler| {
        let value = PossibleValue::new(sampler.name());
        match sampler {
            Sampler::DpmSolver2M => value.alias("dpmpp_2m"),
            Sampler::EulerFlow => value.alias("flow_euler"),
            _ => value,
        }
    }))
}

/// `--scheduler`
pub(crate) fn schedulers() -> PossibleValuesParser {
    PossibleValuesParser::new(SigmaSpacing::ALL.map(|spacing| PossibleValue::new(spacing.name())))
}

/// `--preview`, with the spellings of sd.cpp and ComfyUI as aliases.
pub(crate) fn previews() -> PossibleValuesParser {
    PossibleValuesParser::new([
        PossibleValue::new("none"),
        PossibleValue::new("proj").alias("latent2rgb"),
        PossibleValue::new("vae"),
    ])
}
