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
//! A new prompt begins a new run of the context, which computes everything.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{DType, Result as TensorResult, Tensor};

use super::options::OptionDoc;
use super::{Descriptor, spelling, unless};
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
        let settings = Settings {
            n: options.number("n", DEFAULT.n, 1..=1000)?,
            still: options.number("still", DEFAULT.still, 0.0..=1e6)?,
            spike: options.number("spike", DEFAULT.spike, 0.0..=1e6)?,
            refresh: options.number("refresh", DEFAULT.refresh, 1..=1_000_000)?,
        };
        Ok(Arc::new(move || Box::new(Motion { settings, branches: HashMap::new() })))
    },
};

const DEFAULT: Settings = Settings { n: 2, still: 0.005, spike: 0.15, refresh: 32 };

#[derive(Debug, Clone, Copy, PartialEq)]
struct Settings {
    n: usize,
    still: f32,
    spike: f32,
    refresh: usize,
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
    settings: Settings,
    branches: HashMap<Branch, Past>,
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
    fn judge(&self, input: &Tensor, settings: &Settings) -> Frame {
        let change = self.latest.as_ref().and_then(|latest| relative_change(input, latest));
        match change {
            Some(change) if self.age < settings.refresh && change <= settings.spike => {
                if change <= settings.still {
                    Frame::Nothing
                } else {
                    Frame::Phase(self.age % settings.n)
                }
            }
            _ => Frame::All,
        }
    }
}

/// Mean absolute difference over the mean absolute value; none for what is not finite, or vanished.
fn relative_change(input: &Tensor, past: &Tensor) -> Option<f32> {
    if input.dims() != past.dims() {
        return None;
    }
    let size = |tensor: &Tensor| -> TensorResult<f32> { tensor.abs()?.mean_all()?.to_dtype(DType::F32)?.to_scalar() };
    let change = size(&(input - past).ok()?).ok()? / size(past).ok()?;
    change.is_finite().then_some(change)
}

impl Policy for Motion {
    fn name(&self) -> String {
        let settings = &self.settings;
        spelling(
            DESCRIPTOR.name,
            &[
                ("n", unless(settings.n, DEFAULT.n)),
                ("still", unless(settings.still, DEFAULT.still)),
                ("spike", unless(settings.spike, DEFAULT.spike)),
                ("refresh", unless(settings.refresh, DEFAULT.refresh)),
            ],
        )
    }

    fn start(&mut self, _header: &RunHeader) -> Result<(), CacheError> {
        self.branches.clear();
        Ok(())
    }

    fn decide(&mut self, ask: &Ask<'_>) -> Action {
        let past = self.branches.entry(ask.site.branch).or_default();
        if let Evidence::Model { input } = ask.evidence {
            past.frame = past.judge(input, &self.settings);
            return if past.frame == Frame::Nothing { Action::Reuse } else { Action::Compute };
        }
        match past.frame {
            Frame::Phase(phase) if usize::from(ask.site.block) % self.settings.n != phase => Action::Reuse,
            _ => Action::Compute,
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

    fn history_depth(&self, site: Site, step: Step) -> usize {
        let wanted = match site.part {
            Part::Model => true,
            Part::Span { .. } => false,
            _ => self.settings.n > 1,
        };
        usize::from(wanted && !step.is_last())
    }

    fn bytes(&self) -> usize {
        let latest = self.branches.values().filter_map(|past| past.latest.as_ref());
        latest.map(|tensor| tensor.elem_count() * tensor.dtype().size_in_bytes()).sum()
    }
}
