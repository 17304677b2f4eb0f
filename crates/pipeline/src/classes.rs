//! Class names of a class-conditional pipeline.

use serde_json::Value;

use crate::{
    error::{PipelineError, Result},
    index::ModelIndex,
};

/// Names of classes, from the `id2label` of `model_index.json`: an id may have several, separated by commas.
#[derive(Debug, Default)]
pub struct ClassNames {
    /// (name, id), by id.
    names: Vec<(String, u32)>,
    count: usize,
}

impl ClassNames {
    /// Reads the names, if there are any, of a model with `count` classes.
    pub(crate) fn read(index: &ModelIndex, count: usize) -> Self {
        let entries = index.entry("id2label").and_then(Value::as_object);
        let mut names: Vec<(String, u32)> = entries
            .into_iter()
            .flatten()
            .filter_map(|(id, names)| Some((id.parse::<u32>().ok()?, names.as_str()?)))
            .filter(|(id, _)| (*id as usize) < count)
            .flat_map(|(id, names)| names.split(',').map(move |name| (name.trim().to_owned(), id)))
            .collect();
        names.sort_by_key(|(_, id)| *id);
        Self { names, count }
    }

    /// Number of classes.
    pub fn count(&self) -> usize {
        self.count
    }

    /// All names with their ids, by id.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u32)> {
        self.names.iter().map(|(name, id)| (name.as_str(), *id))
    }

    /// The class that a user means by `text`: a number, or a name in any case.
    ///
    /// # Errors
    /// If there is no such class; similar names are told.
    pub fn find(&self, text: &str) -> Result<u32> {
        let text = text.trim();
        if let Ok(id) = text.parse::<u32>() {
            return self.check(id);
        }
        let wanted = text.to_lowercase();
        let exact = self.names.iter().find(|(name, _)| name.to_lowercase() == wanted);
        exact.map(|(_, id)| *id).ok_or_else(|| {
            let shown: String = text.chars().filter(|c| !c.is_control()).take(60).collect();
            let similar: Vec<&str> = self
                .names
                .iter()
                .filter(|(name, _)| !wanted.is_empty() && name.to_lowercase().contains(&wanted))
                .map(|(name, _)| name.as_str())
                .take(5)
                .collect();
            let advice = match (self.names.is_empty(), similar.is_empty()) {
                (true, _) => "this model names no classes, give a number".to_owned(),
                (false, true) => format!("give a name of model_index.json or a number below {}", self.count),
                (false, false) => format!("did you mean {}?", similar.join(", ")),
            };
            PipelineError::Request { what: "class", problem: format!("`{shown}` is unknown; {advice}") }
        })
    }

    /// Refuses an id beyond the last class.
    pub(crate) fn check(&self, id: u32) -> Result<u32> {
        if (id as usize) < self.count {
            return Ok(id);
        }
        let problem = format!("{id} is beyond the model's last one, {}", self.count.saturating_sub(1));
        Err(PipelineError::Request { what: "class", problem })
    }
}
