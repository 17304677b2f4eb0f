//! Settings files: TOML whose keys are the long flags. Flags win over the file; an unknown key is an error, since a
//! misspelt key that is silently ignored costs more than any message.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

use crate::errors::usage;

/// Reads a settings file.
///
/// # Errors
/// A file that is missing, is no TOML, or has an unknown key or a value of the wrong type (exit 2).
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| usage(format!("cannot read settings file {}: {error}", path.display())))?;
    toml::from_str(&text).map_err(|error| {
        let line =
            error.span().map_or(1, |span| text.bytes().take(span.start).filter(|&byte| byte == b'\n').count() + 1);
        usage(format!("settings file {}, line {line}: {}", path.display(), error.message()))
    })
}

/// Lays what was typed over what the file says.
///
/// # Errors
/// Never for our own option structs: both sides serialise to the same table.
pub(crate) fn overlay<T: Serialize + DeserializeOwned>(file: &T, flags: &T) -> anyhow::Result<T> {
    let mut table = toml::Table::try_from(file)?;
    table.extend(toml::Table::try_from(flags)?);
    Ok(table.try_into()?)
}

/// The settings as a file that [`read`] gives back.
///
/// # Errors
/// Never for our own option structs.
pub(crate) fn dump<T: Serialize>(settings: &T, heading: &str) -> anyhow::Result<String> {
    Ok(format!("# {heading}\n{}", toml::to_string(settings)?))
}

/// `key = "x"` and `key = ["x", "y"]` mean the same for flags that may be repeated.
pub(crate) fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a string or a list of strings")]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(text) => vec![text],
        OneOrMany::Many(texts) => texts,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gen_image::options::GenImageOptions;

    fn file(text: &str) -> anyhow::Result<GenImageOptions> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        std::fs::write(&path, text).unwrap();
        read(&path)
    }

    #[test]
    fn flags_win_over_the_file() {
        let from_file = file("prompt = \"a\"\nsteps = 7\nseed = 3\n").unwrap();
        let flags = GenImageOptions { steps: Some(9), ..Default::default() };
        let both = overlay(&from_file, &flags).unwrap();
        assert_eq!((both.steps, both.seed, both.prompt), (Some(9), Some(3), vec!["a".to_owned()]));
    }

    #[test]
    fn a_misspelt_key_is_an_error_that_names_its_line() {
        let error = crate::errors::one_line(&file("prompt = \"a\"\nstep = 7\n").unwrap_err());
        assert!(error.contains("line 2") && error.contains("step"), "{error}");
    }

    #[test]
    fn what_is_dumped_reads_back_the_same() {
        let options = GenImageOptions {
            prompt: vec!["a \"fox\"\n\u{1F98A}".to_owned(), "b".to_owned()],
            seed: Some(5),
            cfg_scale: Some(4.5),
            cache_option: vec!["n=2".to_owned()],
            cache_report: Some(true),
            ..Default::default()
        };
        assert_eq!(file(&dump(&options, "x").unwrap()).unwrap(), options);
    }
}
