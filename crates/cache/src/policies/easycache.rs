//! EasyCache (arXiv 2507.02860): the whole model is skipped while its output is predicted to have
//! changed little, by a rate of change that the run itself shows.
//!
//! With input `x` and output `v` of the model and `|·|` the mean absolute value, the rate
//! `k = |Δv| / |Δx|` is taken between the last two steps that computed. At each step the predicted
//! relative change `k |x - x_previous| / |v_computed|` is added up; while the sum stays below the
//! threshold the step is skipped, and what it returns is the input plus the last `v - x`.
//! A step that computes starts the sum anew.
//!
//! Both differences of the rate are taken between the *same* two steps here. A vanished output, or
//! a change that is not finite, computes. Each branch decides for itself.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{DType, Result as TensorResult, Tensor};

use super::mask::{read_keep, spell_keep};
use super::options::OptionDoc;
use super::{Descriptor, spelling, unless};
use crate::store::own;
use crate::{Action, Ask, CacheError, Evidence, ModelValue, Observation, Part, Policy, RunHeader, Site, Step};

pub(super) const DESCRIPTOR: Descriptor = Descriptor {
    name: "easycache",
    summary: "skip the model while its output is predicted to change little (EasyCache, arXiv 2507.02860)",
    options: &[
        OptionDoc {
            key: "threshold",
            default: "0.1",
            help: "largest predicted relative change, summed over a run of skips",
        },
        OptionDoc { key: "start", default: "0.15", help: "share of the steps before the first skip" },
        OptionDoc { key: "end", default: "0.95", help: "share of the steps after which nothing is skipped" },
        OptionDoc {
            key: "keep",
            default: "residual",
            help: "what is remembered: residual (output minus input) or output",
        },
    ],
    parse: |options| {
        let settings = Settings {
            threshold: options.number("threshold", DEFAULT.threshold, 0.0..=1e6)?,
            start: options.number("start", DEFAULT.start, 0.0..=1.0)?,
            end: options.number("end", DEFAULT.end, 0.0..=1.0)?,
            keep: read_keep(&options, DEFAULT.keep)?,
        };
        Ok(Arc::new(move || Box::new(EasyCache { settings, branches: HashMap::new() })))
    },
};

const DEFAULT: Settings = Settings { threshold: 0.1, start: 0.15, end: 0.95, keep: ModelValue::Residual };

#[derive(Debug, Clone, Copy, PartialEq)]
struct Settings {
    threshold: f32,
    start: f32,
    end: f32,
    keep: ModelValue,
}

/// What is known of the model in one branch.
#[derive(Default)]
struct Past {
    /// Input of the previous step.
    previous_input: Option<Tensor>,
    /// Input and output of the last step that computed.
    computed: Option<(Tensor, Tensor)>,
    /// |Δv| / |Δx| between the last two steps that computed.
    rate: Option<f32>,
    accumulated: f32,
    /// The sum if the current step is skipped.
    pending: f32,
}

impl Past {
    /// Predicted relative change of the output since the previous step.
    fn predict(&self, input: &Tensor) -> Option<f32> {
        let (previous, (_, output)) = (self.previous_input.as_ref()?, self.computed.as_ref()?);
        let change = self.rate? * distance(input, previous).ok()? / size(output).ok()?;
        change.is_finite().then_some(change)
    }
}

/// Mean absolute value.
fn size(tensor: &Tensor) -> TensorResult<f32> {
    tensor.abs()?.mean_all()?.to_dtype(DType::F32)?.to_scalar()
}

/// Mean absolute difference.
fn distance(left: &Tensor, right: &Tensor) -> TensorResult<f32> {
    size(&(left - right)?)
}

/// The policy that skips the model while its output is predicted to change little.
pub struct EasyCache {
    settings: Settings,
    branches: HashMap<Site, Past>,
}

impl EasyCache {
    fn window_allows(&self, step: Step) -> bool {
        let position = step.index as f32 / step.count.max(1) as f32;
        position >= self.settings.start && position < self.settings.end
    }
}

impl Policy for EasyCache {
    fn name(&self) -> String {
        let settings = &self.settings;
        spelling(
            DESCRIPTOR.name,
            &[
                ("threshold", unless(settings.threshold, DEFAULT.threshold)),
                ("start", unless(settings.start, DEFAULT.start)),
                ("end", unless(settings.end, DEFAULT.end)),
                ("keep", spell_keep(settings.keep, DEFAULT.keep)),
            ],
        )
    }

    fn start(&mut self, _header: &RunHeader) -> Result<(), CacheError> {
        self.branches.clear();
        Ok(())
    }

    fn decide(&mut self, ask: &Ask<'_>) -> Action {
        let Evidence::Model { input } = ask.evidence else { return Action::Compute };
        let allowed = self.window_allows(ask.step);
        let past = self.branches.entry(ask.site).or_default();
        let Some(change) = past.predict(input) else { return Action::Compute };
        past.pending = past.accumulated + change;
        if allowed && past.pending < self.settings.threshold { Action::Reuse } else { Action::Compute }
    }

    fn observe(&mut self, observation: &Observation<'_>) -> TensorResult<()> {
        let Evidence::Model { input } = observation.evidence else { return Ok(()) };
        let past = self.branches.entry(observation.site).or_default();
        let input = own(input)?;
        if observation.computed {
            let output = own(observation.output)?;
            if let Some((before, value)) = &past.computed {
                let rate = distance(&output, value)? / distance(&input, before)?;
                past.rate = rate.is_finite().then_some(rate);
            }
            past.computed = Some((input.clone(), output));
            past.accumulated = 0.0;
        } else {
            past.accumulated = past.pending;
        }
        past.previous_input = Some(input);
        Ok(())
    }

    fn history_depth(&self, site: Site, step: Step) -> usize {
        usize::from(site.part == Part::Model && !step.is_last())
    }

    fn model_value(&self) -> ModelValue {
        self.settings.keep
    }

    fn bytes(&self) -> usize {
        let bytes = |tensor: &Tensor| tensor.elem_count() * tensor.dtype().size_in_bytes();
        let of = |past: &Past| {
            let computed = past.computed.as_ref();
            // Behind a step that computed, the previous input is the computed one: one allocation.
            let shared = computed.zip(past.previous_input.as_ref()).is_some_and(|((x, _), p)| x.id() == p.id());
            let previous = past.previous_input.as_ref().filter(|_| !shared).map_or(0, bytes);
            previous + computed.map_or(0, |(input, output)| bytes(input) + bytes(output))
        };
        self.branches.values().map(of).sum()
    }
}
