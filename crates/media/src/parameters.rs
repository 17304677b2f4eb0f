//! The `parameters` text of AUTOMATIC1111's web UI, which every picture browser of the field reads:
//!
//! ```text
//! a red fox
//! Negative prompt: blurry
//! Steps: 20, Sampler: DDIM, CFG scale: 4, Seed: 42, Size: 128x128, Model hash: 0123456789, Version: refrain 0.1
//! ```
//!
//! The format is ambiguous: a prompt may itself hold a line `Negative prompt: …`, and readers strip every line. The writer
//! therefore reads its own text back, and where the plain form would lie, it adds the exact prompts as two JSON-quoted settings
//! ([`RAW_PROMPT`], [`RAW_NEGATIVE_PROMPT`]). Other programs show those as settings; ours gives the prompts back letter for letter.

use crate::MediaError;
use std::fmt::Write as _;

/// Setting that carries the exact prompt where the plain form cannot.
pub const RAW_PROMPT: &str = "Raw prompt";
/// Setting that carries the exact negative prompt where the plain form cannot.
pub const RAW_NEGATIVE_PROMPT: &str = "Raw negative prompt";

const NEGATIVE: &str = "Negative prompt:";
/// The web UI takes a last line for settings only when it finds this many.
const FEWEST_SETTINGS: usize = 3;

/// Prompts and settings of one picture.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parameters {
    /// The prompt.
    pub prompt: String,
    /// The negative prompt; empty for none.
    pub negative_prompt: String,
    settings: Vec<(String, String)>,
}

impl Parameters {
    /// Parameters without settings.
    pub fn new(prompt: impl Into<String>, negative_prompt: impl Into<String>) -> Self {
        Self { prompt: prompt.into(), negative_prompt: negative_prompt.into(), settings: Vec::new() }
    }

    /// Adds a setting, or replaces one. The usual keys, in the usual order: `Steps`, `Sampler`, `CFG scale`, `Seed`, `Size`
    /// (`128x128`), `Model hash`, `Model`, `Version`.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl std::fmt::Display) -> Self {
        self.set(key, value.to_string());
        self
    }

    /// A setting's value.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.settings.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// All settings, in order.
    pub fn settings(&self) -> impl Iterator<Item = (&str, &str)> {
        self.settings.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Writes the text; [`Parameters::parse`] gives back an equal value.
    ///
    /// # Errors
    /// [`MediaError::Parameters`] for fewer than three settings, or a key that readers would not recognise: it must be two or more
    /// letters, digits, `_`, spaces, `-` or `/`, start with a letter, digit or `_`, and not be one of the two raw-prompt keys.
    pub fn to_text(&self) -> Result<String, MediaError> {
        if self.settings.len() < FEWEST_SETTINGS {
            let reason = format!("it needs at least {FEWEST_SETTINGS} settings, such as Steps, Sampler and Seed");
            return Err(MediaError::Parameters { reason });
        }
        if let Some((key, _)) = self.settings.iter().find(|(key, _)| !is_key(key)) {
            let reason = format!("setting {key:?} is no key; use letters, digits, spaces, '-' and '/'");
            return Err(MediaError::Parameters { reason });
        }
        let plain = self.lay_out(&[]);
        let read = Self::parse(&plain);
        if read == *self {
            return Ok(plain);
        }
        Ok(self.lay_out(&[(RAW_PROMPT, &self.prompt), (RAW_NEGATIVE_PROMPT, &self.negative_prompt)]))
    }

    fn lay_out(&self, extra: &[(&str, &str)]) -> String {
        let mut text = String::new();
        if !self.prompt.is_empty() {
            let _ = writeln!(text, "{}", self.prompt);
        }
        if !self.negative_prompt.is_empty() {
            let _ = writeln!(text, "{NEGATIVE} {}", self.negative_prompt);
        }
        for (index, (key, value)) in self.settings().chain(extra.iter().copied()).enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            let _ = write!(text, "{comma}{key}: {}", quote(value));
        }
        text
    }

    /// Reads a text of ours or of another program. Never fails: what is not recognised as settings is prompt.
    pub fn parse(text: &str) -> Self {
        let text = text.trim();
        let (body, last) = text.rsplit_once('\n').unwrap_or(("", text));
        let found = settings_of(last);
        let (body, found) = if found.len() >= FEWEST_SETTINGS { (body, found) } else { (text, Vec::new()) };

        let mut parameters = Self::default();
        let mut negative = false;
        // `split` gives one empty line for an empty body, which would only add nothing.
        for line in body.split('\n').map(str::trim) {
            let line = match line.strip_prefix(NEGATIVE) {
                Some(rest) => {
                    negative = true;
                    rest.trim()
                }
                None => line,
            };
            let part = if negative { &mut parameters.negative_prompt } else { &mut parameters.prompt };
            if !part.is_empty() {
                part.push('\n');
            }
            part.push_str(line);
        }
        for (key, value) in found {
            match key {
                RAW_PROMPT => parameters.prompt = value,
                RAW_NEGATIVE_PROMPT => parameters.negative_prompt = value,
                _ => parameters.set(key, value),
            }
        }
        parameters
    }

    fn set(&mut self, key: &str, value: String) {
        match self.settings.iter_mut().find(|(name, _)| name == key) {
            Some((_, old)) => *old = value,
            None => self.settings.push((key.to_owned(), value)),
        }
    }
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

fn is_key_letter(letter: char) -> bool {
    is_word(letter) || matches!(letter, ' ' | '-' | '/')
}

fn is_key(key: &str) -> bool {
    key.chars().nth(1).is_some()
        && key.starts_with(is_word)
        && key.chars().all(is_key_letter)
        && key != RAW_PROMPT
        && key != RAW_NEGATIVE_PROMPT
}

/// Finds `key: value` pairs as the web UI's pattern `\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)` does, in linear time.
fn settings_of(line: &str) -> Vec<(&str, String)> {
    let mut found = Vec::new();
    let mut rest = line;
    while let Some(start) = rest.find(is_word) {
        rest = &rest[start..];
        let end = rest.find(|letter| !is_key_letter(letter)).unwrap_or(rest.len());
        let (key, after) = rest.split_at(end);
        // A run that no colon ends holds no key at any later start either.
        let Some(after) = after.strip_prefix(':').filter(|_| key.chars().nth(1).is_some()) else {
            let skipped = after.chars().next().map_or(0, char::len_utf8);
            rest = &after[skipped..];
            continue;
        };
        let after = after.trim_start();
        let (value, after) = quoted(after).unwrap_or_else(|| {
            let end = after.find(',').unwrap_or(after.len());
            (unquote(&after[..end]), &after[end..])
        });
        found.push((key, value));
        rest = after.strip_prefix(',').unwrap_or(after);
    }
    found
}

/// A quoted value that a comma or the end follows, and what comes after it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let inner = text.strip_prefix('"')?;
    let mut escaped = false;
    for (at, letter) in inner.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => {
                let end = at + 2;
                let after = text.get(end..)?;
                let complete = at > 0 && (after.is_empty() || after.starts_with(','));
                return complete.then(|| (unquote(&text[..end]), after));
            }
            _ => {}
        }
    }
    None
}

fn quote(value: &str) -> String {
    let plain = !value.contains([',', ':', '\n', '"']) && value.trim() == value;
    // The format has no quoted empty string.
    if plain || value.is_empty() { value.to_owned() } else { serde_json::Value::from(value).to_string() }
}

fn unquote(value: &str) -> String {
    serde_json::from_str(value).unwrap_or_else(|_| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fox() -> Parameters {
        Parameters::new("a red fox", "blurry")
            .with("Steps", 20)
            .with("Sampler", "DDIM")
            .with("CFG scale", 4.5_f32)
            .with("Seed", 42)
            .with("Size", "128x128")
            .with("Model hash", "0123456789")
            .with("Model", "emoji, small: 3D")
            .with("Version", "refrain 0.1.0")
    }

    #[test]
    fn writes_the_known_format() {
        assert_eq!(
            fox().to_text().unwrap(),
            "a red fox\nNegative prompt: blurry\nSteps: 20, Sampler: DDIM, CFG scale: 4.5, Seed: 42, Size: 128x128, \
             Model hash: 0123456789, Model: \"emoji, small: 3D\", Version: refrain 0.1.0"
        );
    }

    #[test]
    fn reads_other_programs() {
        let text = "masterpiece, (fox:1.2)\nsecond line\nNegative prompt: bad, worse\nhands\nSteps: 28, Sampler: Euler a, CFG scale: 7, \
                    Seed: 965400086, Size: 512x512, Lora hashes: \"a: 1b2c, d: 3e4f\", Version: v1.7.0";
        let read = Parameters::parse(text);
        assert_eq!(read.prompt, "masterpiece, (fox:1.2)\nsecond line");
        assert_eq!(read.negative_prompt, "bad, worse\nhands");
        assert_eq!(read.get("Sampler"), Some("Euler a"));
        assert_eq!(read.get("Lora hashes"), Some("a: 1b2c, d: 3e4f"));
        assert_eq!(read.settings().count(), 7);
    }

    #[test]
    fn a_text_without_settings_is_prompt() {
        assert_eq!(Parameters::parse("just, a: prompt").prompt, "just, a: prompt");
        assert_eq!(Parameters::parse(""), Parameters::default());
    }

    #[test]
    fn prompts_that_look_like_the_format_survive() {
        for prompt in [
            "",
            " ",
            "\n",
            "a\n\nb",
            " padded ",
            "Negative prompt: x",
            "fox\nNegative prompt: x\nmore",
            "Steps: 3, Sampler: a, Seed: 9",
            "fox\nSteps: 3, Seed: 1, Size: 2x2",
            "quote \" and \\ back",
            "🦊 fox\u{2028}line\r\n",
            "\0\u{7f}\u{1b}[31m",
            "\u{feff}bom",
        ] {
            for negative in ["", "plain", "Steps: 1, Seed: 2, Size: 3", "\n", "\"", "Negative prompt: again"] {
                let parameters = Parameters { prompt: prompt.into(), negative_prompt: negative.into(), ..fox() };
                let text = parameters.to_text().unwrap();
                assert_eq!(Parameters::parse(&text), parameters, "{text:?}");
            }
        }
    }

    #[test]
    fn refuses_what_no_reader_would_find() {
        assert!(Parameters::new("a", "").with("Steps", 1).to_text().is_err());
        for key in ["", "x", "a:b", "a,b", " lead", "a\nb", RAW_PROMPT] {
            assert!(fox().with(key, 1).to_text().is_err(), "{key:?}");
        }
    }

    #[test]
    fn a_hostile_line_is_read_in_linear_time() {
        for pattern in ["a", "a ", "a:", "\"", "ab:\"", "ab:,", "\\\"", "ab: \"\\"] {
            let _ = Parameters::parse(&pattern.repeat(200_000));
        }
    }

    fn hostile() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("Negative prompt:".to_owned()),
            Just("Steps: 3, Seed: 1, Size: 1x1".to_owned()),
            Just("\n".to_owned()),
            Just("\\\"".to_owned()),
            any::<String>(),
            "[ \\t,:\"\\\\a-z🦊é\\n]{0,8}",
        ];
        proptest::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn round_trip(prompt in hostile(), negative in hostile(), values in proptest::collection::vec(hostile(), 3..6)) {
            let mut parameters = Parameters::new(prompt, negative);
            for (index, value) in values.iter().enumerate() {
                parameters = parameters.with(&format!("Key {index}"), value);
            }
            let text = parameters.to_text().unwrap();
            prop_assert_eq!(Parameters::parse(&text), parameters, "{:?}", text);
        }

        #[test]
        fn parsing_never_panics(text in any::<String>()) {
            let _ = Parameters::parse(&text);
        }
    }
}
