//! Temporal reuse: features of the frame before, at the same noise level, while the picture moves little.
//!
//! In a stream every denoising step has a context of its own, whose "steps" are the frames: what a site remembers is its
//! value for the previous frame at the very same noise level. With the noise held fixed over time, the change of the
//! model's input from frame to frame is the motion of the picture. It is measured against the frame that the parts were
//! last computed for, as the relative change of the mean absolute value, so that a slow drift of still frames adds up and
//! is noticed:
//!
//! | change | what is computed |
//! |---|---|
//! | up to `still` | nothing: the model's last output is returned (the frame filter of StreamDiffusion, arXiv 2312.12491) |
//! | up to `spike` | the blocks of one phase out of `n`, in turn; the parts of the others are reused |
//! | more, or `refresh` frames since all was computed | everything |
//!
//! The phases need not be whole blocks in turn: a plan that [repeats](crate::PlanHeader::repeats) has one row for each
//! phase, and says for every part (or for the model as a whole) at every noise level what it does there. Routers of streams
//! are such plans.
//!
//! What makes the past worthless, such as a new prompt, is told by [`crate::Context::forget`]; then everything computes.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{DType, Result as TensorResult, Tensor};
use serde::{Deserialize, Serialize};

use super::options::OptionDoc;
use super::{Descriptor, Replay, spelling, unless};
use crate::store::own;
use crate::{Action, Ask, Branch, CacheError, Evidence, Observation, Part, Policy, RunHeader, Site, Step};

pub(super) const DESCRIPTOR: Descriptor = Descriptor {
    name: "motion",
    summary: "streams: reuse the previous frame's parts while the picture moves little",
    options: &[
        OptionDoc {
            key: "n",
            default: "2",
            help: "compute each block's parts at every n-th frame, blocks taking turns",
        },
        OptionDoc { key: "still", default: "0.005", help: "relative change up to which a frame is the one before" },
        OptionDoc { key: "spike", default: "0.15", help: "relative change above which everything computes" },
        OptionDoc { key: "refresh", default: "32", help: "frames after which everything computes" },
    ],
    parse: |options| {
        let limits = MotionLimits {
            still: options.number("still", DEFAULT.still, 0.0..=1e6)?,
            spike: options.number("spike", DEFAULT.spike, 0.0..=1e6)?,
            refresh: options.number("refresh", DEFAULT.refresh, 1..=1_000_000)?,
        };
        let turns = Turns::Blocks(options.number("n", BLOCK_TURNS, 1..=1000)?);
        Ok(Arc::new(move || Box::new(Motion { limits, turns: turns.clone(), branches: HashMap::new() })))
    },
};

const DEFAULT: MotionLimits = MotionLimits { still: 0.005, spike: 0.15, refresh: 32 };
const BLOCK_TURNS: usize = 2;

/// Between which changes of its input a stream follows its phases.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MotionLimits {
    /// Relative change up to which a frame is the one before.
    pub still: f32,
    /// Relative change above which everything computes.
    pub spike: f32,
    /// Frames after which everything computes.
    pub refresh: usize,
}

impl MotionLimits {
    /// How much an input of the model differs from a past one: the mean absolute difference over the mean absolute value.
    /// None where that is not finite or the shapes differ.
    pub fn change(input: &Tensor, past: &Tensor) -> Option<f32> {
        if input.dims() != past.dims() {
            return None;
        }
        let size =
            |tensor: &Tensor| -> TensorResult<f32> { tensor.abs()?.mean_all()?.to_dtype(DType::F32)?.to_scalar() };
        let change = size(&(input - past).ok()?).ok()? / size(past).ok()?;
        change.is_finite().then_some(change)
    }
}

impl Default for MotionLimits {
    fn default() -> Self {
        DEFAULT
    }
}

/// Which parts compute in a phase.
#[derive(Debug, Clone)]
enum Turns {
    /// Every n-th block.
    Blocks(usize),
    /// What the phase's row of a plan says.
    Plan(Replay),
}

impl Turns {
    fn phases(&self) -> usize {
        match self {
            Self::Blocks(count) => *count,
            Self::Plan(replay) => replay.plan().steps().max(1),
        }
    }

    fn action(&self, phase: usize, site: Site) -> Action {
        match self {
            // Blocks take turns, the model as a whole does not.
            Self::Blocks(count) if site.part != Part::Model && usize::from(site.block) % count != phase => {
                Action::Reuse
            }
            Self::Blocks(_) => Action::Compute,
            Self::Plan(replay) => replay.action(phase, site),
        }
    }
}

/// What a frame gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Frame {
    All,
    Phase(usize),
    Nothing,
}

/// The policy that follows the motion of a stream. Each branch is a stream of its own.
pub struct Motion {
    limits: MotionLimits,
    turns: Turns,
    branches: HashMap<Branch, Past>,
}

impl Motion {
    /// Follows a plan, one row for each phase.
    pub(super) fn following(plan: Replay, limits: MotionLimits) -> Self {
        Self { limits, turns: Turns::Plan(plan), branches: HashMap::new() }
    }
}

/// What is known of one stream.
struct Past {
    /// Input of the last frame whose output was computed, in part or whole.
    latest: Option<Tensor>,
    /// Frames since everything was computed.
    age: usize,
    frame: Frame,
}

impl Default for Past {
    fn default() -> Self {
        Self { latest: None, age: 0, frame: Frame::All }
    }
}

impl Past {
    fn judge(&self, input: &Tensor, limits: &MotionLimits, phases: usize) -> Frame {
        let change = self.latest.as_ref().and_then(|latest| MotionLimits::change(input, latest));
        match change {
            Some(change) if self.age < limits.refresh && change <= limits.spike => {
                if change <= limits.still {
                    Frame::Nothing
                } else {
                    Frame::Phase(self.age % phases)
                }
            }
            _ => Frame::All,
        }
    }
}

impl Policy for Motion {
    fn name(&self) -> String {
        let limits = &self.limits;
        match &self.turns {
            Turns::Plan(replay) => replay.name(),
            Turns::Blocks(count) => spelling(
                DESCRIPTOR.name,
                &[
                    ("n", unless(*count, BLOCK_TURNS)),
                    ("still", unless(limits.still, DEFAULT.still)),
                    ("spike", unless(limits.spike, DEFAULT.spike)),
                    ("refresh", unless(limits.refresh, DEFAULT.refresh)),
                ],
            ),
        }
    }

    fn start(&mut self, header: &RunHeader) -> Result<(), CacheError> {
        self.branches.clear();
        match &mut self.turns {
            Turns::Plan(replay) => replay.start(header),
            Turns::Blocks(_) => Ok(()),
        }
    }

    fn decide(&mut self, ask: &Ask<'_>) -> Action {
        let past = self.branches.entry(ask.site.branch).or_default();
        if let Evidence::Model { input } = ask.evidence {
            past.frame = past.judge(input, &self.limits, self.turns.phases());
        }
        match past.frame {
            Frame::Nothing if ask.site.part == Part::Model => Action::Reuse,
            // Parts of a still frame are asked only when something made the model compute after all.
            Frame::All | Frame::Nothing => Action::Compute,
            Frame::Phase(phase) => self.turns.action(phase, ask.site),
        }
    }

    fn observe(&mut self, observation: &Observation<'_>) -> TensorResult<()> {
        let Evidence::Model { input } = observation.evidence else { return Ok(()) };
        let past = self.branches.entry(observation.site.branch).or_default();
        past.age += 1;
        if !observation.computed {
            return Ok(());
        }
        if past.frame == Frame::All {
            past.age = 0;
        }
        past.latest = Some(own(input)?);
        Ok(())
    }

    fn forget(&mut self) {
        self.branches.clear();
    }

    fn history_depth(&self, site: Site, step: Step) -> usize {
        let wanted = match (&self.turns, site.part) {
            (_, Part::Span { .. }) => 0,
            // A still frame repeats the last output.
            (Turns::Blocks(_), Part::Model) => 1,
            (Turns::Blocks(count), _) => usize::from(*count > 1),
            (Turns::Plan(replay), Part::Model) => replay.depth(0, site).max(1),
            (Turns::Plan(replay), _) => replay.depth(0, site),
        };
        if step.is_last() { 0 } else { wanted }
    }

    fn provenance(&self) -> String {
        match &self.turns {
            Turns::Plan(replay) => replay.provenance(),
            Turns::Blocks(_) => self.name(),
        }
    }

    fn bytes(&self) -> usize {
        let latest = self.branches.values().filter_map(|past| past.latest.as_ref());
        latest.map(|tensor| tensor.elem_count() * tensor.dtype().size_in_bytes()).sum()
    }
}
