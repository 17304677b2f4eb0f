//! `refrain info x.png`: how a picture was made, by us or by another program that writes AUTOMATIC1111's text.

use std::io::Write as _;
use std::path::Path;

use refrain_media::{Metadata, PARAMETERS_KEY, Parameters, REFRAIN_KEY};
use serde_json::{Map, Value, json};

use crate::arguments::InfoOptions;
use crate::errors::{flatten, usage_because};

/// Prints what each picture says.
///
/// # Errors
/// A file that cannot be read or is no picture (exit 2); one without any text (exit 1).
pub(crate) fn run(options: &InfoOptions) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    for path in &options.pictures {
        let metadata = Metadata::load(path).map_err(usage_because)?;
        if metadata.is_empty() && !options.json {
            anyhow::bail!("{}: no text in it says how it was made", path.display());
        }
        let text = if options.json { as_json(path, &metadata) } else { for_people(path, &metadata) };
        writeln!(stdout, "{text}")?;
    }
    Ok(())
}

fn as_json(path: &Path, metadata: &Metadata) -> String {
    let parameters = metadata.get(PARAMETERS_KEY).map(|text| {
        let parameters = Parameters::parse(text);
        let settings: Map<String, Value> =
            parameters.settings().map(|(key, value)| (key.to_owned(), Value::from(value))).collect();
        json!({
            "prompt": parameters.prompt,
            "negative_prompt": parameters.negative_prompt,
            "settings": settings,
            "text": text,
        })
    });
    let recipe = metadata.get(REFRAIN_KEY).and_then(|text| serde_json::from_str::<Value>(text).ok());
    json!({ "path": path.display().to_string(), "refrain": recipe, "parameters": parameters }).to_string()
}

fn for_people(path: &Path, metadata: &Metadata) -> String {
    let mut lines = vec![flatten(&path.display().to_string())];
    let mut say = |key: &str, value: &str| lines.push(format!("  {key:<16}{}", flatten(value)));
    let recipe = metadata.get(REFRAIN_KEY).and_then(|text| serde_json::from_str::<Map<String, Value>>(text).ok());
    if let Some(recipe) = recipe {
        for (key, value) in &recipe {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            say(&key.replace('_', " "), &value);
        }
        return lines.join("\n");
    }
    if let Some(text) = metadata.get(PARAMETERS_KEY) {
        let parameters = Parameters::parse(text);
        say("prompt", &parameters.prompt);
        if !parameters.negative_prompt.is_empty() {
            say("negative prompt", &parameters.negative_prompt);
        }
        for (key, value) in parameters.settings() {
            say(&key.to_lowercase(), value);
        }
        return lines.join("\n");
    }
    for (key, text) in metadata.entries() {
        say(key, text);
    }
    lines.join("\n")
}
