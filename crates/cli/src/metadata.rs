//! What a picture says about how it was made.
//!
//! Two PNG text chunks: `parameters` in the format of AUTOMATIC1111's web UI, which every gallery reads, and `refrain`,
//! a JSON [`Recipe`] from which `gen image --from` makes the same file again, byte for byte. A recipe therefore holds
//! everything that decides the bytes and nothing that may differ between two equal runs: no time, no host, no number of
//! threads, no path.

use std::path::Path;

use refrain_media::{Metadata, PARAMETERS_KEY, Parameters, REFRAIN_KEY};
use serde::{Deserialize, Serialize};

use crate::errors::{usage, usage_because};

/// Text key of the embedded plan (base64), present only when the run replayed a plan file.
pub(crate) const PLAN_KEY: &str = "refrain-plan";

/// Everything that decides a picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Recipe {
    /// Version of the program.
    pub(crate) version: String,
    /// The prompt.
    pub(crate) prompt: String,
    /// The negative prompt; empty without one.
    pub(crate) negative_prompt: String,
    /// Model name: `builtin`, or the last part of the folder's path.
    pub(crate) model: String,
    /// SHA-256 of the model's files.
    pub(crate) model_hash: String,
    /// Pixels across.
    pub(crate) width: usize,
    /// Pixels down.
    pub(crate) height: usize,
    /// Denoising steps.
    pub(crate) steps: usize,
    /// Classifier-free guidance.
    pub(crate) guidance_scale: f64,
    /// Sampler, as `--sampling-method` spells it.
    pub(crate) sampler: String,
    /// Noise spacing, as `--scheduler` spells it; absent when it is the model's own.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) scheduler: Option<String>,
    /// DDIM's η.
    pub(crate) eta: f64,
    /// Seed of this picture; absent when the noise came from a file.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) seed: Option<u64>,
    /// Noise generator.
    pub(crate) rng: String,
    /// SHA-256 of the starting noise when it came from a file.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) latents_hash: Option<String>,
    /// SHA-256 of the file that the picture was started from.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) init_hash: Option<String>,
    /// How much of it was drawn anew.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) strength: Option<f64>,
    /// Arithmetic of the weights.
    pub(crate) dtype: String,
    /// Cache policy with its options, as `--cache` spells it; `plan` for a plan file, which the picture carries itself.
    pub(crate) cache: String,
    /// Sites recomputed by `--cache-check`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) cache_check: Option<usize>,
    /// Error budget of `--cache-check`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) cache_budget: Option<f64>,
    /// SHA-256 of the executed plan; absent with the cache off.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) plan_hash: Option<String>,
}

impl Recipe {
    /// The texts of the PNG.
    ///
    /// # Errors
    /// Never for a recipe made by this program.
    pub(crate) fn to_metadata(&self) -> anyhow::Result<Metadata> {
        let recipe = serde_json::to_string(self)?;
        Ok(Metadata::new().with(PARAMETERS_KEY, self.parameters().to_text()?).with(REFRAIN_KEY, recipe))
    }

    /// Reads the recipe of a picture that refrain made.
    ///
    /// # Errors
    /// A file that cannot be read, is no picture, or carries no recipe (exit 2).
    pub(crate) fn read(path: &Path) -> anyhow::Result<(Self, Metadata)> {
        let metadata = Metadata::load(path).map_err(usage_because)?;
        let text = metadata.get(REFRAIN_KEY).ok_or_else(|| {
            usage(format!(
                "{}: no text `{REFRAIN_KEY}` in it: only pictures that refrain made can be made again",
                path.display()
            ))
        })?;
        let recipe = serde_json::from_str(text)
            .map_err(|error| usage(format!("{}: its text `{REFRAIN_KEY}` is damaged: {error}", path.display())))?;
        Ok((recipe, metadata))
    }

    /// The settings as AUTOMATIC1111 names them.
    pub(crate) fn parameters(&self) -> Parameters {
        let mut parameters = Parameters::new(&self.prompt, &self.negative_prompt)
            .with("Steps", self.steps)
            .with("Sampler", webui_sampler(&self.sampler));
        if let Some(scheduler) = &self.scheduler {
            parameters = parameters.with("Schedule type", scheduler);
        }
        parameters = parameters.with("CFG scale", self.guidance_scale);
        if let Some(seed) = self.seed {
            parameters = parameters.with("Seed", seed);
        }
        let short_hash: String = self.model_hash.chars().take(10).collect();
        parameters = parameters
            .with("Size", format_args!("{}x{}", self.width, self.height))
            .with("Model hash", short_hash)
            .with("Model", &self.model);
        if self.eta != 0.0 {
            parameters = parameters.with("Eta", self.eta);
        }
        if let Some(strength) = self.strength {
            parameters = parameters.with("Denoising strength", strength);
        }
        parameters = parameters.with("RNG", &self.rng);
        if self.cache != "off" {
            parameters = parameters.with("Cache", &self.cache);
        }
        parameters.with("Version", format_args!("refrain {}", self.version))
    }
}

/// The web UI's name of a sampler.
fn webui_sampler(name: &str) -> &str {
    match name {
        "ddim" => "DDIM",
        "dpm++2m" => "DPM++ 2M",
        "euler" => "Euler",
        "heun" => "Heun",
        other => other,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn recipe() -> Recipe {
        Recipe {
            version: "0.1.0".into(),
            prompt: "a red fox".into(),
            negative_prompt: String::new(),
            model: "builtin".into(),
            model_hash: "0123456789abcdef".into(),
            width: 128,
            height: 96,
            steps: 20,
            guidance_scale: 4.5,
            sampler: "ddim".into(),
            scheduler: None,
            eta: 0.0,
            seed: Some(u64::MAX),
            rng: "counter".into(),
            latents_hash: None,
            init_hash: None,
            strength: None,
            dtype: "f32".into(),
            cache: "off".into(),
            cache_check: None,
            cache_budget: None,
            plan_hash: None,
        }
    }

    #[test]
    fn parameters_are_what_the_web_ui_writes() {
        let mut recipe = recipe();
        assert_eq!(
            recipe.parameters().to_text().unwrap(),
            "a red fox\nSteps: 20, Sampler: DDIM, CFG scale: 4.5, Seed: 18446744073709551615, Size: 128x96, \
             Model hash: 0123456789, Model: builtin, RNG: counter, Version: refrain 0.1.0"
        );
        recipe.negative_prompt = "blur".into();
        recipe.cache = "taylor:n=2+order=1".into();
        let text = recipe.parameters().to_text().unwrap();
        assert!(text.contains("\nNegative prompt: blur\n") && text.contains("Cache: \"taylor:n=2+order=1\""), "{text}");
    }

    #[test]
    fn a_recipe_reads_back_the_same() {
        let recipe = recipe();
        let text = serde_json::to_string(&recipe).unwrap();
        assert_eq!(serde_json::from_str::<Recipe>(&text).unwrap(), recipe);
    }
}
