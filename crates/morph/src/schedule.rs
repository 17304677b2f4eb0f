//! Which sites are injected at which denoising step, how strongly, and which inversion step they read.
//!
//! The paper's public text (arXiv 2512.07155) names depth groups that are injected one after the other; the tables here
//! (thirds of the run, or cuts found by `calibrate`) are our own design after that description.

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

/// Where the run passes from early to middle and from middle to late depth, as shares of the denoising steps; and up to
/// which share anything is injected at all.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cuts {
    /// Early depth before this share of the steps.
    pub early: f64,
    /// Middle depth from there to this share, late depth behind it.
    pub middle: f64,
    /// Nothing from this share on.
    #[serde(default = "whole")]
    pub until: f64,
}

fn whole() -> f64 {
    1.0
}

impl Cuts {
    /// The groups share the run equally.
    pub const THIRDS: Self = Self { early: 1.0 / 3.0, middle: 2.0 / 3.0, until: 1.0 };

    /// Cuts that `morph calibrate` found for the built-in PixArt model on three emoji (cat face among them), 25 steps.
    pub const BUILTIN_FFT: Self = Self { early: 0.2, middle: 0.32, until: 1.0 };

    /// Reads a file that [`Cuts`] were written to as JSON.
    ///
    /// # Errors
    /// What is no such file, and shares out of order or outside 0..=1.
    pub fn from_json(text: &str) -> Result<Self> {
        let cuts: Self = serde_json::from_str(text).map_err(|error| MorphError::Schedule(error.to_string()))?;
        let ordered = 0.0 <= cuts.early && cuts.early <= cuts.middle && cuts.middle <= 1.0;
        if !ordered || !(0.0..=1.0).contains(&cuts.until) {
            let problem = "expected 0 <= early <= middle <= 1 and until between 0 and 1";
            return Err(MorphError::Schedule(format!("{problem}, found {cuts:?}")));
        }
        Ok(cuts)
    }

    /// The group of denoising step `step` of `steps`, from the noisy end.
    pub fn depth(&self, step: usize, steps: usize) -> Option<Depth> {
        let share = step as f64 / steps.max(1) as f64;
        // Shares are sums of floats: a step on the cut belongs behind it.
        let before = |cut: f64| share + 1e-9 < cut;
        if !before(self.until) {
            None
        } else if before(self.early) {
            Some(Depth::Early)
        } else if before(self.middle) {
            Some(Depth::Middle)
        } else {
            Some(Depth::Late)
        }
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
}

impl Default for Parts {
    fn default() -> Self {
        Self { attention: true, cross_attention: false, feed_forward: true, residual: true }
    }
}

impl Parts {
    /// Reads `attention,feed-forward`.
    ///
    /// # Errors
    /// An unknown name, or none.
    pub fn parse(text: &str) -> Result<Self> {
        let mut parts = Self { attention: false, cross_attention: false, feed_forward: false, residual: false };
        for name in text.split(',') {
            match name.trim() {
                "attention" => parts.attention = true,
                "cross-attention" => parts.cross_attention = true,
                "feed-forward" => parts.feed_forward = true,
                "residual" => parts.residual = true,
                other => {
                    let expected = "attention, cross-attention, feed-forward or residual, joined by commas".to_owned();
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
            Part::Stage | Part::Span { .. } | Part::Model => false,
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
    pub cuts: Cuts,
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
                let depth = request.cuts.depth(step, count).filter(|_| request.weight != 0.0);
                let chosen = request
                    .sites
                    .iter()
                    .filter(|(info, place)| Some(*place) == depth && request.parts.holds(info.site.part));
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
            cuts: Cuts::THIRDS,
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
    fn cuts_are_read_and_checked() {
        assert!(Cuts::from_json(r#"{"early": 0.2, "middle": 0.5}"#).is_ok_and(|cuts| cuts.until == 1.0));
        for bad in ["", "[]", r#"{"early": 0.6, "middle": 0.5}"#, r#"{"early": 0.1, "middle": 0.5, "x": 1}"#] {
            assert!(Cuts::from_json(bad).is_err(), "{bad}");
        }
    }
}
