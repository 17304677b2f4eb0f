//! Step masks: whole steps are skipped, by a list that is given or by one of cache-dit's presets.
//!
//! The list is spelled as stable-diffusion.cpp's `--scm-mask`: `1,1,0,1`, 1 = compute (without commas
//! is fine too). A skipped step reuses every site, which is the whole model; what it returns is the
//! model's last computed output. Presets are the bins of the cache-dit project for 28 steps, scaled.

use std::fmt;
use std::sync::Arc;

use super::options::{OptionDoc, Options};
use super::{Descriptor, spelling, unless};
use crate::plan::MAX_STEPS;
use crate::{Action, Ask, CacheError, ModelValue, Part, Policy, RunHeader, Site, Step};

pub(super) const DESCRIPTOR: Descriptor = Descriptor {
    name: "mask",
    summary: "skip whole steps by a list such as 1,1,0,1 (1 = compute) or a preset of the cache-dit project",
    options: &[
        OptionDoc {
            key: "steps",
            default: "medium",
            help: "a list with one digit per step, or slow, medium, fast, ultra",
        },
        KEEP,
    ],
    parse: |options| {
        let steps = StepMask::read(&options, "steps")?.unwrap_or(StepMask::Preset(MaskPreset::Medium));
        let keep = read_keep(&options, ModelValue::Output)?;
        Ok(Arc::new(move || Box::new(Mask::new(steps.clone(), keep))))
    },
};

const KEEP: OptionDoc =
    OptionDoc { key: "keep", default: "output", help: "what is remembered: output, or residual (output minus input)" };

pub(super) fn read_keep(options: &Options, default: ModelValue) -> Result<ModelValue, CacheError> {
    options.choice("keep", default, &[("output", ModelValue::Output), ("residual", ModelValue::Residual)])
}

pub(super) fn spell_keep(keep: ModelValue, default: ModelValue) -> Option<String> {
    let word = match keep {
        ModelValue::Output => "output",
        ModelValue::Residual => "residual",
    };
    (keep != default).then(|| word.to_string())
}

/// Steps that the presets were made for.
const PRESET_STEPS: usize = 28;

/// Presets of the cache-dit project, from careful to bold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaskPreset {
    /// 18 of 28 steps compute.
    Slow,
    /// 15 of 28.
    Medium,
    /// 11 of 28.
    Fast,
    /// 8 of 28.
    Ultra,
}

impl MaskPreset {
    const ALL: [(&'static str, Self); 4] =
        [("slow", Self::Slow), ("medium", Self::Medium), ("fast", Self::Fast), ("ultra", Self::Ultra)];

    /// Lengths of the runs of computed and skipped steps, in turn, at 28 steps.
    fn bins(self) -> &'static [usize] {
        match self {
            Self::Slow => &[8, 1, 3, 2, 3, 2, 2, 2, 1, 3, 1],
            Self::Medium => &[6, 1, 2, 3, 2, 3, 2, 3, 2, 3, 1],
            Self::Fast => &[6, 1, 1, 3, 1, 4, 1, 5, 1, 4, 1],
            Self::Ultra => &[4, 2, 1, 5, 1, 6, 1, 7, 1],
        }
    }

    /// The preset scaled to `steps`: the borders between runs are moved in proportion, so that the
    /// share of skipped steps stays about the same. The first and the last step compute.
    pub fn mask(self, steps: usize) -> Vec<bool> {
        let mut mask = Vec::with_capacity(steps);
        let mut border = 0;
        for (index, length) in self.bins().iter().enumerate() {
            border += length;
            let scaled = (2 * border * steps + PRESET_STEPS) / (2 * PRESET_STEPS);
            mask.resize(scaled, index % 2 == 0);
        }
        if let [first, .., last] = mask.as_mut_slice() {
            (*first, *last) = (true, true);
        } else {
            mask.fill(true);
        }
        mask
    }
}

/// Which steps compute: a list, or a preset that fits any number of steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepMask {
    /// One entry per step, true = compute.
    List(Vec<bool>),
    /// A preset.
    Preset(MaskPreset),
}

impl StepMask {
    pub(super) fn read(options: &Options, key: &str) -> Result<Option<Self>, CacheError> {
        let Some(text) = options.text(key).filter(|text| *text != "none") else { return Ok(None) };
        if let Some((_, preset)) = MaskPreset::ALL.iter().find(|(name, _)| *name == text) {
            return Ok(Some(Self::Preset(*preset)));
        }
        let digits = text.chars().filter(|c| !matches!(c, ',' | ' '));
        let list: Option<Vec<bool>> = digits
            .map(|digit| match digit {
                '1' => Some(true),
                '0' => Some(false),
                _ => None,
            })
            .collect();
        match list {
            Some(list) if !list.is_empty() && list.len() <= MAX_STEPS => Ok(Some(Self::List(list))),
            _ => {
                Err(options.bad(key, text, "digits 1 and 0, one per step, or one of slow, medium, fast, ultra".into()))
            }
        }
    }

    /// The list for a run of `steps`.
    pub(super) fn for_run(&self, policy: &str, steps: usize) -> Result<Vec<bool>, CacheError> {
        match self {
            Self::Preset(preset) => Ok(preset.mask(steps.min(MAX_STEPS))),
            Self::List(list) if list.len() == steps => Ok(list.clone()),
            Self::List(list) => Err(CacheError::Unfit {
                policy: policy.to_string(),
                reason: format!(
                    "its mask has {} entries and the run {steps} steps; give one digit per step, or slow, medium, fast or ultra",
                    list.len()
                ),
            }),
        }
    }
}

impl fmt::Display for StepMask {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::List(list) => list.iter().try_for_each(|&computes| write!(formatter, "{}", u8::from(computes))),
            Self::Preset(preset) => {
                let name = MaskPreset::ALL.iter().find(|(_, other)| other == preset);
                formatter.write_str(name.map_or("", |(name, _)| name))
            }
        }
    }
}

/// The policy that skips whole steps by a list.
#[derive(Debug, Clone)]
pub struct Mask {
    steps: StepMask,
    keep: ModelValue,
    list: Vec<bool>,
}

impl Mask {
    /// A mask over the whole model.
    pub fn new(steps: StepMask, keep: ModelValue) -> Self {
        Self { steps, keep, list: Vec::new() }
    }

    fn skips(&self, index: usize) -> bool {
        self.list.get(index) == Some(&false)
    }
}

impl Policy for Mask {
    fn name(&self) -> String {
        let steps = unless(self.steps.to_string(), "medium".to_string());
        spelling(DESCRIPTOR.name, &[("steps", steps), ("keep", spell_keep(self.keep, ModelValue::Output))])
    }

    fn start(&mut self, header: &RunHeader) -> Result<(), CacheError> {
        self.list = self.steps.for_run(DESCRIPTOR.name, header.steps)?;
        Ok(())
    }

    fn decide(&mut self, ask: &Ask<'_>) -> Action {
        if ask.site.part == Part::Model && self.skips(ask.step.index) { Action::Reuse } else { Action::Compute }
    }

    fn history_depth(&self, site: Site, step: Step) -> usize {
        usize::from(site.part == Part::Model && !step.is_last() && self.skips(step.index + 1))
    }

    fn model_value(&self) -> ModelValue {
        self.keep
    }
}
