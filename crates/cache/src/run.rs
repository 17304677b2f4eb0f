//! The run a context lives in: its header, and the step it is at.

use serde::{Deserialize, Serialize};

/// One evaluation of the model within a sampling run.
///
/// A sampler that evaluates the model twice per step (Heun) counts both: the index grows by one at
/// each evaluation, and a step whose index does not grow starts a new run.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Step {
    /// Index from 0, in the order of sampling.
    pub index: usize,
    /// Evaluations of the whole run.
    pub count: usize,
    /// The timestep the model is given.
    pub timestep: f32,
    /// The noise level, in the sampler's own convention.
    pub sigma: f32,
}

impl Step {
    /// Whether the run ends with this step.
    pub fn is_last(&self) -> bool {
        self.index + 1 >= self.count
    }
}

/// What a cache plan depends on. A plan made under one header does not fit another, but for the precision of the weights.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunHeader {
    /// Fingerprint of the model's weights and configuration.
    pub model: String,
    /// Sampler with all that changes its steps, e.g. `ddim` or `dpmpp2m-karras`.
    pub sampler: String,
    /// Model evaluations of a run.
    pub steps: usize,
    /// Scale of classifier-free guidance; 1 without.
    pub guidance_scale: f32,
    /// Precision of the weights: `f32`, `bf16`, `int8`.
    pub dtype: String,
}

impl RunHeader {
    /// This run with weights of `other`'s precision. A plan serves weights of any precision: its decisions, and its
    /// coefficients of outputs, do not feel their last bits.
    #[must_use]
    pub fn in_dtype_of(&self, other: &Self) -> Self {
        Self { dtype: other.dtype.clone(), ..self.clone() }
    }

    /// What differs between the plan's header (`self`) and this run's, in words; empty if nothing.
    pub fn differences(&self, here: &Self) -> Vec<String> {
        let mut found = Vec::new();
        let mut compare = |name: &str, planned: String, actual: String| {
            if planned != actual {
                found.push(format!("{name} is {planned} in the plan and {actual} here"));
            }
        };
        compare("model", short(&self.model), short(&here.model));
        compare("sampler", short(&self.sampler), short(&here.sampler));
        compare("steps", self.steps.to_string(), here.steps.to_string());
        compare("guidance scale", self.guidance_scale.to_string(), here.guidance_scale.to_string());
        compare("dtype", short(&self.dtype), short(&here.dtype));
        if found.is_empty() && self != here {
            found.push("the header differs".to_string());
        }
        found
    }
}

/// The first characters of a fingerprint, without control characters: enough to tell two apart.
fn short(text: &str) -> String {
    let mut start: String = text.chars().filter(|c| !c.is_control()).take(24).collect();
    if text.chars().count() > 24 {
        start.push('…');
    }
    start
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_differ_in_what_they_say() {
        let header =
            RunHeader { model: "m".into(), sampler: "ddim".into(), steps: 4, guidance_scale: 1.0, dtype: "f32".into() };
        let here = RunHeader { steps: 5, dtype: "bf16".into(), ..header.clone() };
        let said = ["steps is 4 in the plan and 5 here", "dtype is f32 in the plan and bf16 here"];
        assert_eq!(header.differences(&here), said);
        assert_eq!(header.differences(&here.in_dtype_of(&header)), said[..1]);
    }
}
