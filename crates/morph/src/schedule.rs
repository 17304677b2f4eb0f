//! Which sites are injected at which denoising step, how strongly, and which inversion step they read.
//!
//! The paper's public text (arXiv 2512.07155) names depth groups that are injected one after the other; the tables here
//! (thirds of the run, cuts found by `calibrate`, or all depths throughout) are our own design after that description.

use refrain_cache::{Part, Site};
use refrain_models::{Depth, SiteInfo};
use serde::{Deserialize, Serialize};

use crate::error::{MorphError, Result};

/// How a feature is blended into a site's value `h`, with the weight `w` and the blended feature `C`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// `h + w C`, as the paper.
    Residual,
    /// `(1 - w) h + w C`: the endpoints' own trajectories are fixed points.
    #[default]
    Convex,
    /// `h + w C`, scaled back to the norm of `h`.
    Renorm,
}

impl Mode {
    /// Names, for help.
    pub const NAMES: [&str; 3] = ["residual", "convex", "renorm"];
}

impl std::str::FromStr for Mode {
    type Err = MorphError;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "residual" => Ok(Self::Residual),
            "convex" => Ok(Self::Convex),
            "renorm" => Ok(Self::Renorm),
            _ => Err(MorphError::Setting { what: "inject mode", expected: Self::NAMES.join(", "), value: name.into() }),
        }
    }
}

/// When each depth is injected: shares of the denoising steps counted from the noisy end, `(from, until)`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Turns {
    /// Down stages, first blocks.
    pub early: (f64, f64),
    /// Middle.
    pub middle: (f64, f64),
    /// Up stages, last blocks.
    pub late: (f64, f64),
}

impl Turns {
    /// The depths share the run equally, one after the other.
    pub const THIRDS: Self = Self::in_turn(1.0 / 3.0, 2.0 / 3.0);

    /// Every depth at every step.
    pub const THROUGHOUT: Self = Self { early: (0.0, 1.0), middle: (0.0, 1.0), late: (0.0, 1.0) };

    /// What `morph calibrate` found for the built-in PixArt model on three emoji (cat face among them), 25 steps.
    pub const BUILTIN_FFT: Self = Self::in_turn(0.2, 0.32);

    /// One depth after the other: early before the share `early`, late from `middle` on.
    pub const fn in_turn(early: f64, middle: f64) -> Self {
        Self { early: (0.0, early), middle: (early, middle), late: (middle, 1.0) }
    }

    /// Reads a file that [`Turns`] were written to as JSON.
    ///
    /// # Errors
    /// What is no such file, and shares out of order or outside 0..=1.
    pub fn from_json(text: &str) -> Result<Self> {
        let turns: Self = serde_json::from_str(text).map_err(|error| MorphError::Schedule(error.to_string()))?;
        let ordered = |(from, until): (f64, f64)| 0.0 <= from && from <= until && until <= 1.0;
        if !turns.all().into_iter().all(ordered) {
            let problem = "expected 0 <= from <= until <= 1 for each depth";
            return Err(MorphError::Schedule(format!("{problem}, found {turns:?}")));
        }
        Ok(turns)
    }

    /// Nothing from the share `last` on.
    #[must_use]
    pub fn until(self, last: f64) -> Self {
        let cut = |(from, until): (f64, f64)| (from.min(last), until.min(last));
        Self { early: cut(self.early), middle: cut(self.middle), late: cut(self.late) }
    }

    /// Whether a depth is injected at denoising step `step` of `steps`, from the noisy end.
    pub fn hold(&self, depth: Depth, step: usize, steps: usize) -> bool {
        let share = step as f64 / steps.max(1) as f64;
        let (from, until) = match depth {
            Depth::Early => self.early,
            Depth::Middle => self.middle,
            Depth::Late => self.late,
        };
        // Shares are sums of floats: a step on the border belongs behind it.
        from <= share + 1e-9 && share + 1e-9 < until
    }

    fn all(&self) -> [(f64, f64); 3] {
        [self.early, self.middle, self.late]
    }
}

/// The parts that are captured and injected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    /// Self-attention.
    pub attention: bool,
    /// Cross-attention.
    pub cross_attention: bool,
    /// Feed-forward.
    pub feed_forward: bool,
    /// Residual blocks of a U-Net.
    pub residual: bool,
    /// Stages of a U-Net: what lies below each skip connection.
    pub stage: bool,
    /// What the whole network predicts.
    pub model: bool,
}

impl Default for Parts {
    fn default() -> Self {
        Self { attention: true, feed_forward: true, residual: true, ..Self::NONE }
    }
}

impl Parts {
    const NONE: Self = Self {
        attention: false,
        cross_attention: false,
        feed_forward: false,
        residual: false,
        stage: false,
        model: false,
    };

    /// Reads `attention,feed-forward`.
    ///
    /// # Errors
    /// An unknown name, or none.
    pub fn parse(text: &str) -> Result<Self> {
        let mut parts = Self::NONE;
        for name in text.split(',') {
            match name.trim() {
                "attention" => parts.attention = true,
                "cross-attention" => parts.cross_attention = true,
                "feed-forward" => parts.feed_forward = true,
                "residual" => parts.residual = true,
                "stage" => parts.stage = true,
                "model" => parts.model = true,
                other => {
                    let expected =
                        "attention, cross-attention, feed-forward, residual, stage or model, joined by commas"
                            .to_owned();
                    return Err(MorphError::Setting { what: "inject parts", expected, value: other.to_owned() });
                }
            }
        }
        Ok(parts)
    }

    pub(crate) fn holds(self, part: Part) -> bool {
        match part {
            Part::Attention => self.attention,
            Part::CrossAttention => self.cross_attention,
            Part::FeedForward => self.feed_forward,
            Part::Residual => self.residual,
            Part::Stage => self.stage,
            Part::Model => self.model,
            Part::Span { .. } => false,
        }
    }
}

/// What happens at one denoising step.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StepInjection {
    /// The sites of the step's group; none where nothing is injected.
    pub sites: Vec<Site>,
    /// Strength.
    pub weight: f32,
    /// The inversion step, counted from the clean end, whose features are read.
    pub read: usize,
}

/// The whole table, one entry per denoising step from the noisy end.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct InjectionTable {
    /// The steps.
    pub steps: Vec<StepInjection>,
    /// How it is blended.
    pub mode: Mode,
}

/// What a table is made from.
#[derive(Debug, Clone, Copy)]
pub struct TableRequest<'a> {
    /// The model's sites in order of execution.
    pub sites: &'a [(SiteInfo, Depth)],
    /// Which parts take part.
    pub parts: Parts,
    /// When each depth has its turn.
    pub turns: Turns,
    /// Strength, 0 for none.
    pub weight: f32,
    /// How it is blended.
    pub mode: Mode,
    /// Denoising steps.
    pub denoising_steps: usize,
    /// Inversion steps.
    pub inversion_steps: usize,
}

impl InjectionTable {
    /// The table of a request. Step counts may differ: index `i` of `n` denoising steps reads the inversion step at the
    /// same share of the way (the paper's inversion-denoising mapping, linear).
    pub fn new(request: &TableRequest<'_>) -> Self {
        let count = request.denoising_steps;
        let steps = (0..count)
            .map(|step| {
                let chosen = request.sites.iter().filter(|(info, depth)| {
                    request.weight != 0.0
                        && request.turns.hold(*depth, step, count)
                        && request.parts.holds(info.site.part)
                });
                StepInjection {
                    sites: chosen.map(|(info, _)| info.site).collect(),
                    weight: request.weight,
                    read: mapped(step, count, request.inversion_steps),
                }
            })
            .collect();
        Self { steps, mode: request.mode }
    }

    /// Reads every second step of a run of one group, its first and the last step of all: half the memory.
    #[must_use]
    pub fn thinned(mut self) -> Self {
        let mut kept = 0;
        let last = self.steps.len().saturating_sub(1);
        for index in 1..self.steps.len() {
            let same_group = self.steps[index].sites == self.steps[kept].sites;
            if !same_group || index - kept >= 2 || index == last {
                kept = index;
            } else {
                self.steps[index].read = self.steps[kept].read;
            }
        }
        self
    }

    /// All (inversion step, site) pairs that are read, each once.
    pub fn reads(&self) -> std::collections::HashSet<(usize, Site)> {
        self.steps.iter().flat_map(|step| step.sites.iter().map(|site| (step.read, *site))).collect()
    }

    /// Whether nothing is injected anywhere.
    pub fn is_empty(&self) -> bool {
        self.steps.iter().all(|step| step.sites.is_empty())
    }
}

/// Inversion step, from the clean end, of denoising step `step` of `count`, from the noisy end.
fn mapped(step: usize, count: usize, inversion: usize) -> usize {
    let last = inversion.saturating_sub(1);
    let from_noisy = if count <= 1 { 0.0 } else { step as f64 * last as f64 / (count - 1) as f64 };
    last - (from_noisy.round() as usize).min(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sites() -> Vec<(SiteInfo, Depth)> {
        (0..6)
            .flat_map(|block| {
                let depth = [Depth::Early, Depth::Middle, Depth::Late][block / 2];
                [Site::attention(block), Site::cross_attention(block), Site::feed_forward(block)]
                    .map(|site| (SiteInfo { site, parameters: 0, flops: 0, output_values: 10 }, depth))
            })
            .collect()
    }

    fn table(denoising_steps: usize, inversion_steps: usize) -> InjectionTable {
        InjectionTable::new(&TableRequest {
            sites: &sites(),
            parts: Parts::default(),
            turns: Turns::THIRDS,
            weight: 0.4,
            mode: Mode::Residual,
            denoising_steps,
            inversion_steps,
        })
    }

    #[test]
    fn depth_groups_take_turns_from_early_to_late() {
        let table = table(6, 6);
        let first: Vec<u16> = table.steps.iter().map(|step| step.sites[0].block).collect();
        assert_eq!(first, [0, 0, 2, 2, 4, 4]);
        assert_eq!(table.steps[0].sites.len(), 4, "no cross-attention unless asked for");
        let reads: Vec<usize> = table.steps.iter().map(|step| step.read).collect();
        assert_eq!(reads, [5, 4, 3, 2, 1, 0], "denoising walks back");
    }

    #[test]
    fn other_step_counts_read_the_same_share_of_the_way() {
        let reads = |table: InjectionTable| table.steps.iter().map(|step| step.read).collect::<Vec<_>>();
        assert_eq!(reads(table(3, 9)), [8, 4, 0]);
        assert_eq!(reads(table(5, 3)), [2, 1, 1, 0, 0]);
        assert_eq!(reads(table(1, 4)), [3]);
    }

    #[test]
    fn thinning_keeps_group_switches_and_both_ends() {
        let full = table(12, 12);
        let thin = full.clone().thinned();
        let reads: Vec<usize> = thin.steps.iter().map(|step| step.read).collect();
        assert_eq!(reads, [11, 11, 9, 9, 7, 7, 5, 5, 3, 3, 1, 0]);
        assert!(thin.reads().len() < full.reads().len());
    }

    #[test]
    fn turns_are_read_and_checked() {
        let read =
            |early: &str| Turns::from_json(&format!(r#"{{"early": {early}, "middle": [0, 1], "late": [0.5, 1]}}"#));
        assert!(read("[0, 0.2]").is_ok_and(|turns| turns.early == (0.0, 0.2)));
        for bad in ["[0.3, 0.2]", "[-0.1, 0.2]", "[0, 1.1]", "[0]", "0.2", r#"[0, 1], "x": 1"#] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(Turns::from_json("").is_err());
    }

    #[test]
    fn turns_may_overlap_and_end_early() {
        let turns = Turns::THROUGHOUT.until(0.5);
        let held = |step| [Depth::Early, Depth::Middle, Depth::Late].map(|depth| turns.hold(depth, step, 10));
        assert_eq!((held(0), held(4), held(5)), ([true; 3], [true; 3], [false; 3]));
        assert!(!Turns::THIRDS.until(0.0).hold(Depth::Early, 0, 10));
    }
}
