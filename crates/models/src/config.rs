//! Reading a component's `config.json`: every value is checked against a range before anything is allocated.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::error::ModelError;

/// The fields of one `config.json`, with the file's name for messages.
///
/// Missing fields and nulls take the default of the diffusers or transformers class, as their own loaders do.
#[derive(Debug, Clone)]
pub struct ConfigFile {
    file: String,
    fields: Map<String, Value>,
}

impl ConfigFile {
    /// Parses the text of `file`.
    ///
    /// # Errors
    /// If the text is no JSON object.
    pub fn parse(file: &str, text: &str) -> Result<Self, ModelError> {
        let problem = |problem: String| ModelError::Json { file: file.to_owned(), problem };
        match serde_json::from_str(text) {
            Ok(Value::Object(fields)) => Ok(Self { file: file.to_owned(), fields }),
            Ok(_) => Err(problem("it holds another kind of value".to_owned())),
            Err(error) => Err(problem(error.to_string())),
        }
    }

    /// The file's name, as given to [`ConfigFile::parse`].
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The raw value, unless absent or null.
    pub fn value(&self, field: &str) -> Option<&Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    /// Whether the field is there, be it null.
    pub fn mentions(&self, field: &str) -> bool {
        self.fields.contains_key(field)
    }

    /// A complaint about `field`.
    pub fn error(&self, field: &str, problem: impl Into<String>) -> ModelError {
        ModelError::config(&self.file, field, problem)
    }

    /// A whole number within `range`.
    ///
    /// # Errors
    /// If it is of another kind, out of range, or absent without a default.
    pub fn count(
        &self,
        field: &str,
        default: Option<usize>,
        range: RangeInclusive<usize>,
    ) -> Result<usize, ModelError> {
        match (self.value(field), default) {
            (Some(value), _) => self.as_count(field, value, &range),
            (None, Some(default)) => Ok(default),
            (None, None) => Err(self.error(field, "is missing")),
        }
    }

    /// A whole number within `range`, or `None` where the field is absent or null.
    ///
    /// # Errors
    /// If it is of another kind or out of range.
    pub fn optional_count(&self, field: &str, range: RangeInclusive<usize>) -> Result<Option<usize>, ModelError> {
        self.value(field).map(|value| self.as_count(field, value, &range)).transpose()
    }

    /// A list of whole numbers within `range`.
    ///
    /// # Errors
    /// If it is no list of such numbers, empty, or absent.
    pub fn counts(&self, field: &str, range: RangeInclusive<usize>) -> Result<Vec<usize>, ModelError> {
        match self.value(field) {
            Some(Value::Array(values)) if !values.is_empty() && values.len() <= 64 => {
                values.iter().map(|value| self.as_count(field, value, &range)).collect()
            }
            Some(_) => Err(self.error(field, "is not a list of 1 to 64 whole numbers")),
            None => Err(self.error(field, "is missing")),
        }
    }

    /// A finite number.
    ///
    /// # Errors
    /// If it is of another kind.
    pub fn number(&self, field: &str) -> Result<Option<f64>, ModelError> {
        self.value(field)
            .map(|value| {
                value
                    .as_f64()
                    .filter(|number| number.is_finite())
                    .ok_or_else(|| self.error(field, format!("is {}, expected a finite number", shortened(value))))
            })
            .transpose()
    }

    /// A number above zero.
    ///
    /// # Errors
    /// If it is of another kind, zero or negative.
    pub fn positive(&self, field: &str, default: f64) -> Result<f64, ModelError> {
        match self.number(field)? {
            None => Ok(default),
            Some(number) if number > 0.0 => Ok(number),
            Some(number) => Err(self.error(field, format!("is {number}, expected a number above 0"))),
        }
    }

    /// True or false.
    ///
    /// # Errors
    /// If it is of another kind.
    pub fn flag(&self, field: &str, default: bool) -> Result<bool, ModelError> {
        match self.value(field) {
            None => Ok(default),
            Some(value) => value
                .as_bool()
                .ok_or_else(|| self.error(field, format!("is {}, expected true or false", shortened(value)))),
        }
    }

    /// A text.
    ///
    /// # Errors
    /// If it is of another kind.
    pub fn text<'a>(&'a self, field: &str, default: &'a str) -> Result<&'a str, ModelError> {
        match self.value(field) {
            None => Ok(default),
            Some(value) => {
                value.as_str().ok_or_else(|| self.error(field, format!("is {}, expected a text", shortened(value))))
            }
        }
    }

    /// One of a few known words, with the value that it stands for.
    ///
    /// # Errors
    /// Lists the known words if it is another one.
    pub fn choice<T: Copy>(&self, field: &str, default: &str, known: &[(&str, T)]) -> Result<T, ModelError> {
        let word = self.text(field, default)?;
        known.iter().find(|(name, _)| *name == word).map(|(_, value)| *value).ok_or_else(|| {
            let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
            self.error(field, format!("is `{word}`, this build knows {}", names.join(", ")))
        })
    }

    fn as_count(&self, field: &str, value: &Value, range: &RangeInclusive<usize>) -> Result<usize, ModelError> {
        value
            .as_u64()
            .and_then(|number| usize::try_from(number).ok())
            .filter(|number| range.contains(number))
            .ok_or_else(|| {
                let (low, high) = (range.start(), range.end());
                self.error(field, format!("is {}, expected a whole number from {low} to {high}", shortened(value)))
            })
    }
}

/// A value as it stands in the file, cut to what fits a line.
fn shortened(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Result<ConfigFile, ModelError> {
        ConfigFile::parse(
            "transformer/config.json",
            r#"{"layers": 12, "heads": 0, "scale": -1.0, "none": null, "sizes": [8, "x"], "kind": "other"}"#,
        )
    }

    #[test]
    fn reads_values_and_defaults() -> Result<(), ModelError> {
        let config = sample()?;
        assert_eq!(config.count("layers", None, 1..=64)?, 12);
        assert_eq!(config.count("none", Some(3), 1..=64)?, 3);
        assert_eq!(config.optional_count("none", 1..=64)?, None);
        assert!(config.flag("absent", true)?);
        Ok(())
    }

    #[test]
    fn complaints_name_file_and_field() -> Result<(), ModelError> {
        let config = sample()?;
        let told = [
            config.count("heads", None, 1..=64).err(),
            config.positive("scale", 1.0).err(),
            config.counts("sizes", 1..=64).err(),
            config.choice("kind", "a", &[("a", 1), ("b", 2)]).err(),
            config.count("absent", None, 1..=2).err(),
        ]
        .map(|error| error.map(|error| error.to_string()).unwrap_or_default());
        let start = "transformer/config.json: field ";
        assert_eq!(
            told,
            [
                format!("{start}`heads` is 0, expected a whole number from 1 to 64"),
                format!("{start}`scale` is -1, expected a number above 0"),
                format!("{start}`sizes` is \"x\", expected a whole number from 1 to 64"),
                format!("{start}`kind` is `other`, this build knows a, b"),
                format!("{start}`absent` is missing"),
            ]
        );
        Ok(())
    }

    #[test]
    fn refuses_what_is_no_object() {
        for text in ["", "[1]", "{\"a\": ", "\u{0}"] {
            assert!(matches!(ConfigFile::parse("config.json", text), Err(ModelError::Json { .. })));
        }
    }
}
