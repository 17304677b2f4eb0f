//! The flags of `train router`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use refrain_train::{
    router::Proxy,
    sdt::{Follow, Hardening},
};

use crate::errors::usage;
use crate::gen_image::names;

/// `refrain train router` as typed.
#[derive(Debug, Clone, Args)]
pub(crate) struct TrainRouterOptions {
    /// Share of a full run that may compute, 0 to 1; several, joined by commas, give one plan each
    #[arg(
        long,
        alias = "budgets",
        value_name = "SHARE",
        value_delimiter = ',',
        default_value = "0.5",
        help_heading = "Router"
    )]
    pub(crate) budget: Vec<f64>,
    /// What is learned: which whole steps compute, with a forecast of the others, or a score for each step and part of a
    /// block (HarmoniCa)
    #[arg(long, value_enum, default_value_t = Method::Steps, help_heading = "Router")]
    pub(crate) method: Method,
    /// Order of the learned forecast of what is not computed: 2 combines the last three values, 1 the last two, 0 reuses
    /// the last (method steps: scales it, and may go to 3) [default: 3 for steps, 1 for harmonica]
    #[arg(long, value_name = "ORDER", value_parser = clap::value_parser!(u8).range(0..=3), help_heading = "Router")]
    pub(crate) forecast: Option<u8>,
    /// Where to write: a plan file, or with several budgets a pattern with `{budget}`; method harmonica writes
    /// *.checkpoint.safetensors, *.curves.csv and *.curves.png beside it
    #[arg(
        short,
        long,
        value_name = "FILE",
        default_value = "router-{budget}.plan.safetensors",
        help_heading = "Router"
    )]
    pub(crate) output: String,
    /// Learn for `refrain stream`: how often each part of the model computes while frames of this clip go by; repeatable.
    /// The budget counts operations, -p names styles [default: all]
    #[arg(long, value_name = "CLIP", help_heading = "Stream")]
    pub(crate) stream: Vec<PathBuf>,
    /// Pieces of clips to learn from, styles taking turns
    #[arg(long, value_name = "N", default_value_t = 5, help_heading = "Stream")]
    pub(crate) trials: usize,
    /// Frames of each piece
    #[arg(long, value_name = "N", default_value_t = 12, help_heading = "Stream")]
    pub(crate) frames: usize,
    /// Neighbours of the proposed plan that are tried on the clips, for each budget
    #[arg(long, value_name = "N", default_value_t = 24, help_heading = "Stream")]
    pub(crate) moves: usize,
    /// Pictures to search with; twice as many more fit the coefficients that are kept
    #[arg(long, value_name = "N", default_value_t = 12, help_heading = "Method steps")]
    pub(crate) pictures: u64,
    /// Optimiser steps for each budget
    #[arg(long, value_name = "N", default_value_t = 4000, help_heading = "Method harmonica")]
    pub(crate) iterations: usize,
    /// Go on from the checkpoint beside -o, perhaps with more iterations
    #[arg(long, help_heading = "Method harmonica")]
    pub(crate) resume: bool,
    /// Trajectories side by side, whose gradients are averaged
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Method harmonica")]
    pub(crate) batch: usize,
    /// What the budget counts; time is measured here, so only flops gives the same router on every machine
    #[arg(long, value_enum, default_value_t = CostUnit::Time, help_heading = "Method harmonica")]
    pub(crate) cost: CostUnit,
    /// How much the picture minds an error at a step: leave-one-out (as the paper), telescoping (as its code) or uniform
    #[arg(long, value_name = "NAME", default_value = "leave-one-out", help_heading = "Method harmonica")]
    pub(crate) proxy: String,
    /// Optimiser steps between two measurements of that
    #[arg(long, value_name = "N", default_value_t = 500, help_heading = "Method harmonica")]
    pub(crate) refresh: usize,
    /// How soft scores become hard decisions
    #[arg(long, value_enum, default_value_t = HardeningName::Anneal, help_heading = "Method harmonica")]
    pub(crate) hardening: HardeningName,
    /// Whose latents training follows: the student's (step-wise denoising training) or the full model's (single steps,
    /// as Learning-to-Cache)
    #[arg(long, value_enum, default_value_t = FollowName::Student, help_heading = "Method harmonica")]
    pub(crate) trajectory: FollowName,
    /// Step size of the optimiser
    #[arg(long, value_name = "X", default_value_t = 0.2, help_heading = "Method harmonica")]
    pub(crate) learning_rate: f64,
    /// Compute each block again for its gradient: the memory of one block instead of all, for a quarter more time
    #[arg(long, help_heading = "Method harmonica")]
    pub(crate) recompute: bool,
    /// Seed of the first scores
    #[arg(short, long, value_name = "N", default_value_t = 0, help_heading = "Method harmonica")]
    pub(crate) seed: u64,
    /// Prompts to train on, one a line [default: a list that comes with the program]
    #[arg(long, value_name = "FILE", help_heading = "Run")]
    pub(crate) prompt_file: Option<PathBuf>,
    /// A prompt to train on; repeatable
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true, help_heading = "Run")]
    pub(crate) prompt: Vec<String>,
    /// Model folder in the diffusers layout, or `builtin`
    #[arg(short, long, value_name = "FOLDER", default_value = "builtin", help_heading = "Run")]
    pub(crate) model: PathBuf,
    /// Arithmetic of the weights
    #[arg(long, default_value = "f32", value_parser = clap::builder::PossibleValuesParser::new(names::DTYPES), help_heading = "Run")]
    pub(crate) dtype: String,
    /// Threads [default: all cores]
    #[arg(short, long, value_name = "N", help_heading = "Run")]
    pub(crate) threads: Option<usize>,
    /// Denoising steps [default: 20; for a stream 2 a frame]
    #[arg(long, value_name = "N", help_heading = "Run")]
    pub(crate) steps: Option<usize>,
    /// Classifier-free guidance [default: 4]
    #[arg(long, value_name = "X", help_heading = "Run")]
    pub(crate) cfg_scale: Option<f64>,
    /// Sampler [default: the model's own]
    #[arg(long, value_parser = names::sampling_methods(), help_heading = "Run")]
    pub(crate) sampling_method: Option<String>,
}

impl TrainRouterOptions {
    /// Refuses what makes no sense before anything is loaded.
    ///
    /// # Errors
    /// A number out of range, a name that is none, a flag of the other method (exit 2).
    pub(super) fn check(&self) -> anyhow::Result<()> {
        self.proxy()?;
        for (flag, value) in [("--iterations", self.iterations), ("--batch", self.batch), ("--refresh", self.refresh)] {
            if value == 0 {
                return Err(usage(format!("{flag} must be at least 1")));
            }
        }
        if !self.stream.is_empty() {
            if self.trials == 0 || self.frames < 2 {
                return Err(usage("--trials must be at least 1 and --frames at least 2"));
            }
            if self.method == Method::Harmonica || self.forecast.is_some() || self.cfg_scale.is_some() {
                return Err(usage("--stream: a stream has one method, and knows neither --forecast nor --cfg-scale"));
            }
            if self.prompt_file.is_some() || self.sampling_method.is_some() {
                return Err(usage(
                    "--stream: styles are named with -p; --prompt-file and --sampling-method are for pictures",
                ));
            }
        }
        if self.pictures == 0 {
            return Err(usage("--pictures must be at least 1"));
        }
        if !(self.learning_rate.is_finite() && self.learning_rate > 0.0) {
            return Err(usage(format!("--learning-rate must be above 0, got {}", self.learning_rate)));
        }
        if self.forecast.is_some_and(|order| order > 2) && self.method == Method::Harmonica {
            return Err(usage("--forecast 3: method harmonica goes to 2"));
        }
        if self.resume && self.method != Method::Harmonica {
            return Err(usage("--resume: only --method harmonica leaves a checkpoint"));
        }
        Ok(())
    }

    /// The proxy by its name.
    ///
    /// # Errors
    /// A name that is none (exit 2).
    pub(super) fn proxy(&self) -> anyhow::Result<Proxy> {
        self.proxy.parse().map_err(|error: String| usage(format!("--proxy: {error}")))
    }
}

/// What a router learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Method {
    /// Whole steps and their forecasts.
    Steps,
    /// Parts of blocks.
    Harmonica,
}

/// What a budget counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CostUnit {
    /// Seconds, measured here.
    Time,
    /// Floating-point operations.
    Flops,
}

/// How soft scores become hard decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum HardeningName {
    /// Not at all: inference cuts them at a threshold.
    Soft,
    /// Scores grow steep in the last third.
    Anneal,
    /// Hard from the start, with soft gradients.
    StraightThrough,
}

impl From<HardeningName> for Hardening {
    fn from(name: HardeningName) -> Self {
        match name {
            HardeningName::Soft => Self::Soft,
            HardeningName::Anneal => Self::Anneal,
            HardeningName::StraightThrough => Self::StraightThrough,
        }
    }
}

/// Whose latents training follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FollowName {
    /// The student's.
    Student,
    /// The full model's.
    Teacher,
}

impl From<FollowName> for Follow {
    fn from(name: FollowName) -> Self {
        match name {
            FollowName::Student => Self::Student,
            FollowName::Teacher => Self::Teacher,
        }
    }
}
