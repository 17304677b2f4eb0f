//! Where a value was produced: the key of the cache.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::CacheError;

/// The part of a block (or the run of blocks) that a site stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// Self-attention, its output before the gate.
    Attention,
    /// Cross-attention to the text.
    CrossAttention,
    /// The feed-forward layer, its output before the gate.
    FeedForward,
    /// A residual block of a U-Net.
    Residual,
    /// A whole stage of a U-Net, with all that lies below it (DeepCache, arXiv 2312.00858).
    Stage,
    /// The run of blocks `block..end`; its value is what the run adds to the hidden states.
    Span {
        /// One past the last block of the run.
        end: u16,
    },
    /// The whole denoiser.
    Model,
}

impl Part {
    /// Name of the kind of part, the same for spans of every length: `attention`, `span`, …
    pub fn group(self) -> &'static str {
        match self {
            Self::Attention => "attention",
            Self::CrossAttention => "cross-attention",
            Self::FeedForward => "feed-forward",
            Self::Residual => "residual",
            Self::Stage => "stage",
            Self::Span { .. } => "span",
            Self::Model => "model",
        }
    }

    /// Whether the part encloses other sites.
    pub fn encloses(self) -> bool {
        matches!(self, Self::Stage | Self::Span { .. } | Self::Model)
    }
}

impl fmt::Display for Part {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Span { end } => write!(formatter, "span-{end}"),
            other => formatter.write_str(other.group()),
        }
    }
}

/// Which evaluation of the network a value belongs to. Values of two branches never mix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Branch(u16);

/// First number of the morphing endpoints, and of the video chunks.
const ENDPOINTS: u16 = 0x4000;
const CHUNKS: u16 = 0x8000;

impl Branch {
    /// Both halves of classifier-free guidance in one batch, or a run without guidance.
    pub const GUIDED: Self = Self(0);
    /// The prompt's half, evaluated alone.
    pub const CONDITIONAL: Self = Self(1);
    /// The negative prompt's half, evaluated alone.
    pub const UNCONDITIONAL: Self = Self(2);

    /// The `index`-th endpoint of a morph (modulo 16384).
    pub fn endpoint(index: u16) -> Self {
        Self(ENDPOINTS | (index & (ENDPOINTS - 1)))
    }

    /// The `index`-th chunk of frames (modulo 32768).
    pub fn chunk(index: u16) -> Self {
        Self(CHUNKS | (index & (CHUNKS - 1)))
    }
}

impl fmt::Display for Branch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => formatter.write_str("guided"),
            1 => formatter.write_str("cond"),
            2 => formatter.write_str("uncond"),
            n if n >= CHUNKS => write!(formatter, "chunk-{}", n - CHUNKS),
            n if n >= ENDPOINTS => write!(formatter, "endpoint-{}", n - ENDPOINTS),
            n => write!(formatter, "branch-{n}"),
        }
    }
}

impl FromStr for Branch {
    type Err = CacheError;

    fn from_str(text: &str) -> Result<Self, CacheError> {
        let bad = || CacheError::BadSite { text: format!("@{text}") };
        let numbered = |prefix: &str| text.strip_prefix(prefix).and_then(canonical_number);
        match text {
            "guided" => Ok(Self::GUIDED),
            "cond" => Ok(Self::CONDITIONAL),
            "uncond" => Ok(Self::UNCONDITIONAL),
            _ => {
                if let Some(index) = numbered("chunk-").filter(|&index| index < CHUNKS) {
                    Ok(Self::chunk(index))
                } else if let Some(index) = numbered("endpoint-").filter(|&index| index < ENDPOINTS) {
                    Ok(Self::endpoint(index))
                } else {
                    numbered("branch-").filter(|&index| index > 2 && index < ENDPOINTS).map(Self).ok_or_else(bad)
                }
            }
        }
    }
}

/// A number written the one way `Display` writes it: no sign, no leading zero. Two spellings of
/// one site in a plan would be two rows for one decision.
fn canonical_number(text: &str) -> Option<u16> {
    let number: u16 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// A cacheable part of a model, in one branch. Models name it without a branch; the context adds
/// the current one.
///
/// Text form: `3.attention`, `0.span-8`, `model`, with `@uncond` and the like appended for a
/// branch other than [`Branch::GUIDED`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Site {
    /// Branch; first, so that sites sort by branch.
    pub branch: Branch,
    /// Index of the block, in execution order; 0 for the whole model.
    pub block: u16,
    /// Part of the block.
    pub part: Part,
}

impl Site {
    fn of(block: usize, part: Part) -> Self {
        // No model comes near 65 536 blocks.
        Self { branch: Branch::GUIDED, block: block.min(usize::from(u16::MAX)) as u16, part }
    }

    /// Self-attention of a block.
    pub fn attention(block: usize) -> Self {
        Self::of(block, Part::Attention)
    }

    /// Cross-attention of a block.
    pub fn cross_attention(block: usize) -> Self {
        Self::of(block, Part::CrossAttention)
    }

    /// Feed-forward layer of a block.
    pub fn feed_forward(block: usize) -> Self {
        Self::of(block, Part::FeedForward)
    }

    /// Residual block of a U-Net.
    pub fn residual(block: usize) -> Self {
        Self::of(block, Part::Residual)
    }

    /// Stage of a U-Net.
    pub fn stage(stage: usize) -> Self {
        Self::of(stage, Part::Stage)
    }

    /// The blocks `blocks.start..blocks.end`.
    pub fn span(blocks: std::ops::Range<usize>) -> Self {
        Self::of(blocks.start, Part::Span { end: blocks.end.min(usize::from(u16::MAX)) as u16 })
    }

    /// The whole denoiser.
    pub fn model() -> Self {
        Self::of(0, Part::Model)
    }

    /// The same site in another branch.
    pub fn with_branch(self, branch: Branch) -> Self {
        Self { branch, ..self }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.part {
            Part::Model => formatter.write_str("model")?,
            part => write!(formatter, "{}.{part}", self.block)?,
        }
        if self.branch != Branch::GUIDED {
            write!(formatter, "@{}", self.branch)?;
        }
        Ok(())
    }
}

impl FromStr for Site {
    type Err = CacheError;

    fn from_str(text: &str) -> Result<Self, CacheError> {
        let bad = || CacheError::BadSite { text: text.chars().take(80).collect() };
        let (place, branch) = match text.split_once('@') {
            Some((place, branch)) => (place, branch.parse().map_err(|_| bad())?),
            None => (text, Branch::GUIDED),
        };
        if text.ends_with("@guided") {
            return Err(bad());
        }
        if place == "model" {
            return Ok(Self::model().with_branch(branch));
        }
        let (block, part) = place.split_once('.').ok_or_else(bad)?;
        let block = canonical_number(block).ok_or_else(bad)?;
        let part = match part {
            "attention" => Part::Attention,
            "cross-attention" => Part::CrossAttention,
            "feed-forward" => Part::FeedForward,
            "residual" => Part::Residual,
            "stage" => Part::Stage,
            span => {
                let end = span.strip_prefix("span-").and_then(canonical_number).ok_or_else(bad)?;
                if end <= block {
                    return Err(bad());
                }
                Part::Span { end }
            }
        };
        Ok(Self { branch, block, part })
    }
}

impl Serialize for Site {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Site {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sites_have_the_documented_spelling() {
        assert_eq!(Site::attention(3).to_string(), "3.attention");
        assert_eq!(Site::span(0..8).to_string(), "0.span-8");
        assert_eq!(Site::model().to_string(), "model");
        assert_eq!(Site::feed_forward(2).with_branch(Branch::UNCONDITIONAL).to_string(), "2.feed-forward@uncond");
        assert_eq!(Site::stage(1).with_branch(Branch::endpoint(3)).to_string(), "1.stage@endpoint-3");
        assert_eq!(Site::residual(1).with_branch(Branch::chunk(7)).to_string(), "1.residual@chunk-7");
    }

    #[test]
    fn sloppy_spellings_are_refused() {
        for text in ["", "3", "3.", ".attention", "+3.attention", "03.attention", "3.attention@guided", "8.span-8"] {
            assert!(text.parse::<Site>().is_err(), "{text}");
        }
        for text in ["3.attention@", "3.attention@branch-1", "65536.attention", "0.model", "model@chunk-40000"] {
            assert!(text.parse::<Site>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_site_reads_back(branch in any::<u16>(), block in 0u16..u16::MAX, kind in 0usize..7) {
            let part = [
                Part::Attention, Part::CrossAttention, Part::FeedForward, Part::Residual, Part::Stage,
                Part::Span { end: u16::MAX }, Part::Model,
            ][kind];
            let block = if part == Part::Model { 0 } else { block };
            let site = Site { branch: Branch(branch), block, part };
            prop_assert_eq!(site.to_string().parse::<Site>().unwrap(), site);
        }

        #[test]
        fn what_parses_is_written_the_same(text in "[0-9]{0,3}[.]?(attention|span-[0-9]{1,3}|model)@?[a-z0-9-]{0,9}") {
            if let Ok(site) = text.parse::<Site>() {
                prop_assert_eq!(site.to_string(), text);
            }
        }
    }
}
