//! Names for one or several output files.
//!
//! The rules follow stable-diffusion.cpp's `-o`: a C-like integer (`%d`, `%03d`) is replaced by the picture's number,
//! counted from 1. Without one, a single picture gets the name as it is, and several get a number before the ending:
//! `fox.png` becomes `fox-001.png`, `fox-002.png`, … `%%` is a plain percent sign.

use crate::MediaError;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Wider numbers are a typing mistake.
const WIDEST: usize = 12;

/// A parsed output name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputPattern {
    name: Name,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Name {
    /// No number asked for.
    Plain(PathBuf),
    Numbered {
        before: String,
        width: usize,
        after: String,
    },
}

impl OutputPattern {
    /// Reads an output name. A name that is not UTF-8 is taken literally.
    ///
    /// # Errors
    /// [`MediaError::Pattern`] for an empty name, a folder (trailing slash), two integer patterns, or a `%` that is
    /// neither `%%`, `%d` nor `%0Nd` with N up to 12.
    pub fn parse(path: &Path) -> Result<Self, MediaError> {
        let Some(text) = path.to_str() else {
            return Ok(Self { name: Name::Plain(path.to_owned()) });
        };
        let fail = |reason: String| MediaError::Pattern { pattern: text.to_owned(), reason };
        if text.is_empty() {
            return Err(fail("it is empty; name a file such as fox.png".to_owned()));
        }
        if text.ends_with(std::path::is_separator) {
            return Err(fail("it names a folder; name a file in it, such as out/fox.png".to_owned()));
        }
        let mut literal = String::new();
        let mut number: Option<(String, usize)> = None;
        let mut rest = text;
        while let Some((before, pattern)) = rest.split_once('%') {
            literal.push_str(before);
            if let Some(after) = pattern.strip_prefix('%') {
                literal.push('%');
                rest = after;
                continue;
            }
            let (width, after) = integer(pattern).ok_or_else(|| {
                let shown: String = pattern.chars().take(4).collect();
                fail(format!("\"%{shown}\" is no number pattern; use %d or %03d, or %% for a percent sign"))
            })?;
            if number.is_some() {
                return Err(fail("it has two number patterns; keep one".to_owned()));
            }
            number = Some((std::mem::take(&mut literal), width));
            rest = after;
        }
        literal.push_str(rest);
        let name = match number {
            Some((before, width)) => Name::Numbered { before, width, after: literal },
            None => Name::Plain(literal.into()),
        };
        Ok(Self { name })
    }

    /// Whether the name holds a number pattern.
    pub fn is_numbered(&self) -> bool {
        matches!(self.name, Name::Numbered { .. })
    }

    /// The name of picture `index` (from 0) of `count`.
    pub fn path(&self, index: usize, count: usize) -> PathBuf {
        let number = index + 1;
        match &self.name {
            Name::Numbered { before, width, after } => format!("{before}{number:0width$}{after}").into(),
            Name::Plain(path) if count <= 1 => path.clone(),
            Name::Plain(path) => {
                let mut name = path.file_stem().map(OsString::from).unwrap_or_default();
                name.push(format!("-{number:03}"));
                if let Some(extension) = path.extension() {
                    name.push(".");
                    name.push(extension);
                }
                path.with_file_name(name)
            }
        }
    }

    /// The names of all `count` pictures.
    pub fn paths(&self, count: usize) -> impl Iterator<Item = PathBuf> + '_ {
        (0..count).map(move |index| self.path(index, count))
    }
}

/// Reads what follows a `%`: `d` or `0Nd`. Gives the width and what comes after.
fn integer(pattern: &str) -> Option<(usize, &str)> {
    let (flags, after) = pattern.split_once('d')?;
    if flags.is_empty() {
        return Some((0, after));
    }
    let width: usize = flags.strip_prefix('0')?.parse().ok()?;
    // `parse` would take a sign.
    (flags.bytes().all(|byte| byte.is_ascii_digit()) && width <= WIDEST).then_some((width, after))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn expand(pattern: &str, index: usize, count: usize) -> String {
        OutputPattern::parse(pattern.as_ref()).unwrap().path(index, count).to_str().unwrap().to_owned()
    }

    #[test]
    fn expands() {
        assert_eq!(expand("fox.png", 0, 1), "fox.png");
        assert_eq!(expand("out/fox.v2.png", 1, 3), "out/fox.v2-002.png");
        assert_eq!(expand("fox", 11, 12), "fox-012");
        assert_eq!(expand("fox-%03d.png", 0, 1), "fox-001.png");
        assert_eq!(expand("%d/fox.png", 9, 10), "10/fox.png");
        assert_eq!(expand("100%%-%02d.png", 0, 2), "100%-01.png");
        assert_eq!(expand("%%03d.png", 0, 1), "%03d.png");
        assert_eq!(expand("fox.png", 1234, 2000), "fox-1235.png");
    }

    #[test]
    fn refuses() {
        for pattern in [
            "",
            "out/",
            "a%d-%d.png",
            "100%.png",
            "%s",
            "%3d",
            "%-3d",
            "%0+3d",
            "%099d",
            "%",
            "%0999999999999999999999d",
        ] {
            let error = OutputPattern::parse(pattern.as_ref()).unwrap_err().to_string();
            assert!(error.starts_with("output name ") && !error.contains('\n'), "{pattern}: {error}");
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_never_collides(text in "[a-z0-9%d./é]{0,12}", count in 2usize..20) {
            if let Ok(pattern) = OutputPattern::parse(text.as_ref()) {
                let names: std::collections::BTreeSet<_> = pattern.paths(count).collect();
                prop_assert_eq!(names.len(), count);
            }
        }
    }
}
