//! `model_index.json`: which pipeline a folder holds, and of which components.

use serde_json::{Map, Value};

use crate::{
    error::{PipelineError, Result},
    source::ModelSource,
};

/// The pipelines that this build reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PipelineClass {
    /// Text to image by a PixArt transformer (α or Σ).
    PixArt,
    /// Class to image by a diffusion transformer.
    Dit,
    /// Text to image by a U-Net.
    StableDiffusion,
    /// Text to video by a Wan transformer.
    Wan,
}

/// `_class_name` of each pipeline, and the longest text its own pipeline takes by default.
const CLASSES: [(&str, PipelineClass, usize); 5] = [
    ("PixArtAlphaPipeline", PipelineClass::PixArt, 120),
    ("PixArtSigmaPipeline", PipelineClass::PixArt, 300),
    ("DiTPipeline", PipelineClass::Dit, 0),
    ("StableDiffusionPipeline", PipelineClass::StableDiffusion, 77),
    ("WanPipeline", PipelineClass::Wan, 512),
];

/// A parsed `model_index.json`.
#[derive(Debug)]
pub(crate) struct ModelIndex {
    file: String,
    pub(crate) class_name: String,
    pub(crate) class: PipelineClass,
    /// Longest text in tokens.
    pub(crate) text_limit: usize,
    entries: Map<String, Value>,
}

impl ModelIndex {
    pub(crate) fn read(source: &ModelSource) -> Result<Self> {
        const NAME: &str = "model_index.json";
        let file = source.label(NAME);
        let advice = "a model is a folder in the diffusers layout, which has one";
        let text = source.text(NAME, advice)?;
        let problem = |problem: String| PipelineError::Index { file: file.clone(), problem };
        let entries: Map<String, Value> =
            serde_json::from_str(&text).map_err(|error| problem(format!("not a JSON object ({error})")))?;
        let known = || CLASSES.map(|(name, ..)| name).join(", ");
        let Some(name) = entries.get("_class_name").and_then(Value::as_str) else {
            return Err(problem(format!("has no `_class_name`; this build reads {}", known())));
        };
        let Some((class_name, class, text_limit)) = CLASSES.into_iter().find(|(class, ..)| *class == name) else {
            let name: String = name.chars().filter(|c| !c.is_control()).take(60).collect();
            return Err(problem(format!("`_class_name` is `{name}`; this build reads {}", known())));
        };
        Ok(Self { class_name: class_name.to_owned(), class, text_limit, file, entries })
    }

    /// A complaint about the index.
    pub(crate) fn problem(&self, problem: impl Into<String>) -> PipelineError {
        PipelineError::Index { file: self.file.clone(), problem: problem.into() }
    }

    /// Checks that a component is there and of one of the `known` classes, and returns its class.
    pub(crate) fn component(&self, name: &'static str, known: &[&'static str]) -> Result<&'static str> {
        let problem = |problem: String| PipelineError::Index { file: self.file.clone(), problem };
        let class = match self.entries.get(name) {
            Some(Value::Array(entry)) => entry.get(1).and_then(Value::as_str),
            _ => None,
        };
        let known_names = || known.join(", ");
        let Some(class) = class else {
            return Err(problem(format!(
                "lists no component `{name}`; a {} needs one of class {}",
                self.class_name,
                known_names()
            )));
        };
        known.iter().find(|known| **known == class).copied().ok_or_else(|| {
            let class: String = class.chars().filter(|c| !c.is_control()).take(60).collect();
            problem(format!("component `{name}` is of class `{class}`; this build reads {}", known_names()))
        })
    }

    /// Whether a component is listed at all.
    pub(crate) fn lists(&self, name: &str) -> bool {
        matches!(self.entries.get(name), Some(Value::Array(entry)) if entry.iter().any(|part| !part.is_null()))
    }

    /// A further entry of the index, such as DiT's class names.
    pub(crate) fn entry(&self, name: &str) -> Option<&Value> {
        self.entries.get(name)
    }
}
