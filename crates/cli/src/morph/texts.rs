//! What the pictures show, in words: given, found by a program, or nothing.

use std::path::Path;
use std::process::{Command, Stdio};

use refrain_media::Picture;
use refrain_pipeline::Pipeline;

use super::{of_morph, tensor};
use crate::errors::usage;
use crate::gen_image::check_prompt;

use super::work::Work;

/// Longest caption that is taken from a program.
const LONGEST_CAPTION: usize = 4096;

/// Where prompts came from, for the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// The call.
    Given,
    /// A program.
    Captioner,
    /// The built-in model's own words.
    Vocabulary,
    /// Nothing: unconditional.
    None,
}

impl Origin {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Given => "given",
            Self::Captioner => "captioner",
            Self::Vocabulary => "nearest of the model's vocabulary",
            Self::None => "none (unconditional)",
        }
    }
}

/// One prompt per picture; `keys` are the pictures in the size of the frames.
///
/// # Errors
/// A number of prompts that does not fit, or a captioner that fails (exit 2).
pub(super) fn prompts(work: &Work, pipeline: &Pipeline, keys: &[Picture]) -> anyhow::Result<(Vec<String>, Origin)> {
    let options = &work.options;
    let source = match options.captioner.as_str() {
        "none" => Origin::None,
        "vocabulary" if work.model.knows_emoji() => Origin::Vocabulary,
        "vocabulary" => return Err(usage("--captioner vocabulary: only the words of the built-in models are known")),
        _ => Origin::Captioner,
    };
    let count = options.pictures.len();
    let mut found: Vec<Option<String>> = vec![None; count];
    if !options.prompt.is_empty() {
        if options.prompt.len() != count {
            let given = options.prompt.len();
            return Err(usage(format!("--prompt: {given} prompts for {count} pictures; give one for each")));
        }
        found = options.prompt.iter().cloned().map(Some).collect();
    }
    for (slot, prompt) in found.iter_mut().zip([&options.prompt_a, &options.prompt_b]) {
        if prompt.is_some() {
            slot.clone_from(prompt);
        }
    }
    let given = found.iter().any(Option::is_some);
    let mut prompts = Vec::with_capacity(count);
    for (prompt, (picture, key)) in found.into_iter().zip(options.pictures.iter().zip(keys)) {
        prompts.push(match (prompt, source) {
            (Some(prompt), _) => prompt,
            (None, Origin::Captioner) => caption(&options.captioner, picture)?,
            (None, Origin::Vocabulary) => {
                let words = vocabulary();
                let (best, _) = refrain_morph::caption::nearest(pipeline, &tensor(std::slice::from_ref(key))?, &words)
                    .map_err(of_morph)?;
                words.get(best).cloned().unwrap_or_default()
            }
            (None, _) => String::new(),
        });
    }
    prompts.iter().chain(&options.anchor).try_for_each(|prompt| check_text(prompt))?;
    Ok((prompts, if given { Origin::Given } else { source }))
}

/// The names that the built-in model learned.
fn vocabulary() -> Vec<String> {
    let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/weights/recipes/names.txt"));
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', '[']));
    lines.map(|line| line.split(':').next().unwrap_or(line).trim().to_owned()).collect()
}

fn check_text(prompt: &str) -> anyhow::Result<()> {
    if prompt.is_empty() { Ok(()) } else { check_prompt("a prompt", prompt) }
}

/// Asks a program what a picture shows: `CMD PICTURE`, one caption on its standard output. The command is split at
/// spaces; nothing goes through a shell.
fn caption(command: &str, picture: &Path) -> anyhow::Result<String> {
    let wrong = |why: String| usage(format!("--captioner {command}: {why}"));
    let mut words = command.split_whitespace();
    let program = words.next().ok_or_else(|| wrong("names no program".to_owned()))?;
    let output = Command::new(program)
        .args(words)
        .arg(picture)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| wrong(error.to_string()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said: String = said.lines().last().unwrap_or("").chars().take(200).collect();
        return Err(wrong(format!("ended with {} for {}: {said}", output.status, picture.display())));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty());
    let line = line.ok_or_else(|| wrong(format!("printed no caption for {}", picture.display())))?;
    Ok(line.chars().take(LONGEST_CAPTION).collect())
}
