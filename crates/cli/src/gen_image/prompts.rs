//! Collecting prompts from flags, files and standard input, and refusing those that could do harm.

use std::io::Read as _;
use std::path::Path;

use crate::errors::usage;

/// More text than any prompt; beyond it a file is not a list of prompts.
const MOST_BYTES: usize = 16 << 20;
/// Longest prompt that fits into metadata with room to spare.
const LONGEST_PROMPT: usize = 256 << 10;

/// All prompts in order: those of `-p` (`-` stands for the lines of standard input), then those of the file.
///
/// # Errors
/// No prompt at all, an empty one, control characters, text that is not UTF-8, a file that cannot be read (exit 2).
pub(crate) fn collect(flags: &[String], file: Option<&Path>) -> anyhow::Result<Vec<String>> {
    let mut prompts = Vec::new();
    for flag in flags {
        if flag == "-" {
            prompts.extend(lines(&read(std::io::stdin(), "standard input")?));
        } else {
            prompts.push(flag.clone());
        }
    }
    if let Some(path) = file {
        let shown = path.display().to_string();
        let opened =
            std::fs::File::open(path).map_err(|error| usage(format!("cannot read prompts from {shown}: {error}")))?;
        prompts.extend(lines(&read(opened, &shown)?));
    }
    if prompts.is_empty() {
        return Err(usage("no prompt: give one with -p \"a red fox\", or a file with --prompt-file"));
    }
    prompts.iter().try_for_each(|prompt| check("the prompt", prompt))?;
    Ok(prompts)
}

/// Refuses what no prompt should hold.
///
/// # Errors
/// An empty prompt, one beyond all measure, or control characters (exit 2).
pub(crate) fn check(what: &str, prompt: &str) -> anyhow::Result<()> {
    if prompt.trim().is_empty() {
        return Err(usage(format!("{what} is empty: say what to draw, for example -p \"a red fox\"")));
    }
    check_characters(what, prompt)
}

/// The part of [`check`] that also holds for negative prompts, which may be empty.
///
/// # Errors
/// A text beyond all measure, or control characters (exit 2).
pub(crate) fn check_characters(what: &str, prompt: &str) -> anyhow::Result<()> {
    if prompt.len() > LONGEST_PROMPT {
        return Err(usage(format!("{what} has {} bytes: more than {LONGEST_PROMPT} is no prompt", prompt.len())));
    }
    let harmful = |letter: &char| letter.is_control() && !matches!(letter, '\n' | '\r' | '\t');
    if let Some((place, letter)) = prompt.chars().enumerate().find(|(_, letter)| harmful(letter)) {
        let code = u32::from(letter);
        return Err(usage(format!("{what} has the control character U+{code:04X} at place {}: remove it", place + 1)));
    }
    Ok(())
}

fn read(source: impl std::io::Read, name: &str) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    let limit = MOST_BYTES as u64 + 1;
    source
        .take(limit)
        .read_to_end(&mut bytes)
        .map_err(|error| usage(format!("cannot read prompts from {name}: {error}")))?;
    if bytes.len() > MOST_BYTES {
        return Err(usage(format!("{name} is larger than {MOST_BYTES} bytes: not a list of prompts")));
    }
    String::from_utf8(bytes).map_err(|_| usage(format!("{name} is not UTF-8 text")))
}

fn lines(text: &str) -> Vec<String> {
    let kept = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    kept.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_one_prompt_a_line() {
        assert_eq!(lines("a fox\r\n\n# names\n  pizza \n"), ["a fox", "pizza"]);
    }

    #[test]
    fn control_characters_are_named() {
        let error = check("the prompt", "a\u{1b}[31m").unwrap_err().to_string();
        assert!(error.contains("U+001B") && error.contains("place 2"), "{error}");
        assert!(check("the prompt", "line one\nline two\t\u{1F98A}").is_ok());
        assert!(check("the prompt", " \n").is_err());
    }
}
