//! `--inject`: a weight, or the choice among some.

use std::fmt;
use std::str::FromStr;

use refrain_morph::Settings;

/// The injection weight as asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum InjectionWeight {
    /// That of a few under which the frames are as like either picture as their places say, found on previews.
    Auto,
    /// This one.
    Fixed(f32),
}

impl InjectionWeight {
    /// The weight to invert for, and to inject with where there are no previews to choose by.
    pub(crate) fn settled(self) -> f32 {
        match self {
            Self::Auto => Settings::default().weight,
            Self::Fixed(weight) => weight,
        }
    }
}

impl FromStr for InjectionWeight {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        text.parse().map(Self::Fixed).map_err(|_| "expected `auto` or a number from 0 to 1".to_owned())
    }
}

impl fmt::Display for InjectionWeight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Fixed(weight) => weight.fmt(f),
        }
    }
}
