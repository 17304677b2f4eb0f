//! Reading `key=value` options, with errors that say what was expected.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::CacheError;

/// An option of a policy, for `--help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionDoc {
    /// Key on the command line.
    pub key: &'static str,
    /// Default, in words or as a number.
    pub default: &'static str,
    /// What it does.
    pub help: &'static str,
}

/// Options given to a policy; every key is one of its own.
pub(super) struct Options {
    policy: &'static str,
    entries: Vec<(&'static str, String)>,
}

impl Options {
    /// Splits `k=v` items at `,` and `+`. An item without `=` continues the value before it (masks
    /// are lists), or belongs to the policy's first option.
    pub(super) fn read(policy: &'static str, known: &'static [OptionDoc], text: &str) -> Result<Self, CacheError> {
        let mut options = Self { policy, entries: Vec::new() };
        if policy == super::plan::DESCRIPTOR.name {
            // A path may hold any character.
            let path = text.trim_end_matches(['+', ',']);
            let path = path.strip_prefix("file=").unwrap_or(path).to_string();
            if !path.is_empty() {
                options.entries.push(("file", path));
            }
            return Ok(options);
        }
        for item in text.split([',', '+']).map(str::trim).filter(|item| !item.is_empty()) {
            let Some((key, value)) = item.split_once('=') else {
                options.read_keyless(known, item)?;
                continue;
            };
            let key = known.iter().find(|option| option.key == key.trim());
            let key = key.ok_or_else(|| unknown(policy, known, item))?.key;
            options.entries.push((key, value.trim().to_string()));
        }
        Ok(options)
    }

    fn read_keyless(&mut self, known: &'static [OptionDoc], item: &str) -> Result<(), CacheError> {
        match (self.entries.last_mut(), known.first()) {
            (Some((_, value)), _) => {
                value.push(',');
                value.push_str(item);
            }
            (None, Some(first)) => self.entries.push((first.key, item.to_string())),
            (None, None) => return Err(unknown(self.policy, known, item)),
        }
        Ok(())
    }

    /// The value given last for a key.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.entries.iter().rev().find(|entry| entry.0 == key).map(|entry| entry.1.as_str())
    }

    /// A number within a range.
    pub(super) fn number<T>(&self, key: &str, default: T, range: RangeInclusive<T>) -> Result<T, CacheError>
    where
        T: FromStr + PartialOrd + Display,
    {
        let Some(text) = self.text(key) else { return Ok(default) };
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| self.bad(key, text, format!("a number from {} to {}", range.start(), range.end())))
    }

    /// A number within a range, or `none`.
    pub(super) fn limit<T>(&self, key: &str, range: RangeInclusive<T>) -> Result<Option<T>, CacheError>
    where
        T: FromStr + PartialOrd + Display,
    {
        let Some(text) = self.text(key).filter(|text| *text != "none") else { return Ok(None) };
        let number = text.parse().ok().filter(|number| range.contains(number));
        let expected = || format!("none or a number from {} to {}", range.start(), range.end());
        number.map(Some).ok_or_else(|| self.bad(key, text, expected()))
    }

    /// One of some words.
    pub(super) fn choice<T: Copy>(&self, key: &str, default: T, choices: &[(&str, T)]) -> Result<T, CacheError> {
        let Some(text) = self.text(key) else { return Ok(default) };
        let found = choices.iter().find(|choice| choice.0 == text).map(|choice| choice.1);
        found.ok_or_else(|| {
            let words: Vec<&str> = choices.iter().map(|choice| choice.0).collect();
            self.bad(key, text, format!("one of {}", words.join(", ")))
        })
    }

    /// The error for a value that does not fit.
    pub(super) fn bad(&self, key: &str, value: &str, expected: String) -> CacheError {
        let value = value.chars().filter(|c| !c.is_control()).take(60).collect();
        CacheError::BadOption { policy: self.policy, option: key.to_string(), value, expected }
    }
}

fn unknown(policy: &'static str, known: &[OptionDoc], item: &str) -> CacheError {
    let option = item.split('=').next().unwrap_or(item).chars().filter(|c| !c.is_control()).take(40).collect();
    let known = match known {
        [] => "none".to_string(),
        known => known.iter().map(|option| option.key).collect::<Vec<_>>().join(", "),
    };
    CacheError::UnknownOption { policy, option, known }
}
