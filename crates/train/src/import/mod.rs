//! Schedules of other projects, read into one shape: `[step][site]`, first denoising step first, `true` = compute.

mod archive;
pub mod logits;
mod pickle;
mod plan;
pub mod scm;
pub mod smoothcache;

use std::{fmt, path::PathBuf};

/// What a foreign schedule's column speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SiteKind {
    /// Self-attention of a block, before its gate.
    Attention(usize),
    /// Feed-forward of a block, before its gate.
    FeedForward(usize),
    /// The whole denoiser.
    Model,
}

impl SiteKind {
    /// The block's number; 0 for the whole denoiser.
    pub fn block(&self) -> usize {
        match self {
            Self::Attention(block) | Self::FeedForward(block) => *block,
            Self::Model => 0,
        }
    }
}

impl fmt::Display for SiteKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attention(block) => write!(formatter, "attention of block {block}"),
            Self::FeedForward(block) => write!(formatter, "feed-forward of block {block}"),
            Self::Model => formatter.write_str("the whole model"),
        }
    }
}

/// A foreign schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// The columns.
    pub sites: Vec<SiteKind>,
    /// `[step][site]`: whether the site computes.
    pub compute: Vec<Vec<bool>>,
}

impl Schedule {
    /// How many entries reuse.
    pub fn reused(&self) -> usize {
        self.compute.iter().flatten().filter(|&&compute| !compute).count()
    }
}

/// Which of the two readings of a router file is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// All rows are routers, the first denoising step frozen.
    HarmoniCa,
    /// Even rows are routers, odd rows compute whole.
    LearningToCache,
}

impl fmt::Display for Flavour {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::HarmoniCa => "harmonica",
            Self::LearningToCache => "l2c",
        })
    }
}

/// Why a foreign schedule could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A PyTorch archive that holds no routers.
    #[error("{path}: no router archive: {reason}", path = path.display())]
    Archive {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The other flavour's file.
    #[error("this is no {asked} router: {evidence}; try --format {other}", other = match asked {
        Flavour::HarmoniCa => Flavour::LearningToCache,
        Flavour::LearningToCache => Flavour::HarmoniCa,
    })]
    Flavour {
        /// What was asked for.
        asked: Flavour,
        /// What the file shows.
        evidence: &'static str,
    },
    /// JSON that is no schedule.
    #[error("no SmoothCache schedule: {reason}")]
    Json {
        /// What is wrong with it.
        reason: String,
    },
    /// Text that is no steps computation mask.
    #[error("no steps computation mask: {reason}")]
    Mask {
        /// What is wrong with it.
        reason: String,
    },
    /// A plan that the other format cannot express.
    #[error("{format} cannot express this plan: {reason}")]
    Inexpressible {
        /// The format.
        format: &'static str,
        /// What it has no word for.
        reason: String,
    },
    /// A schedule that is no plan.
    #[error(transparent)]
    Plan(#[from] refrain_cache::CacheError),
}
