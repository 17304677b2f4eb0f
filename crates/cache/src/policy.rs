//! The one interface of all caching algorithms.

use std::ops::Range;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::action::MAX_HISTORY;
use crate::{Action, Branch, CacheError, RunHeader, Site, Step};

/// Steps at which the remembered values of a site were computed, newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct History {
    steps: [usize; MAX_HISTORY],
    count: usize,
}

impl History {
    /// The step indices, newest first.
    pub fn steps(&self) -> &[usize] {
        self.steps.get(..self.count).unwrap_or(&self.steps)
    }

    /// Number of remembered values.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl FromIterator<usize> for History {
    /// Takes the first [`MAX_HISTORY`] steps, newest first.
    fn from_iter<I: IntoIterator<Item = usize>>(steps: I) -> Self {
        let mut history = Self::default();
        for (slot, step) in history.steps.iter_mut().zip(steps) {
            *slot = step;
            history.count += 1;
        }
        history
    }
}

/// What an adaptive policy may look at before it decides.
#[derive(Debug, Clone, Copy)]
pub enum Evidence<'a> {
    /// Nothing: the site is a part of a block.
    None,
    /// A span of blocks is about to run.
    Span {
        /// Hidden states that entered the stack of blocks.
        stack_input: &'a Tensor,
        /// Hidden states that enter the span.
        hidden: &'a Tensor,
    },
    /// A stage of a U-Net is about to run.
    Stage {
        /// What enters it: the skip connection of its number.
        hidden: &'a Tensor,
    },
    /// The whole model is about to run.
    Model {
        /// Its input.
        input: &'a Tensor,
    },
}

/// A site's question.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// The site, with its branch.
    pub site: Site,
    /// The current step.
    pub step: Step,
    /// What is remembered of the site.
    pub history: History,
    /// What the decision may be based on.
    pub evidence: Evidence<'a>,
}

/// What came of a question, after the guard had its say.
#[derive(Debug, Clone, Copy)]
pub struct Observation<'a> {
    /// The site, with its branch.
    pub site: Site,
    /// The current step.
    pub step: Step,
    /// Whether the site computed (true) or its cached value was used.
    pub computed: bool,
    /// The evidence of the question.
    pub evidence: Evidence<'a>,
    /// The value the site returned to the model. For a span these are the hidden states behind it.
    pub output: &'a Tensor,
}

/// What is remembered of the whole model's site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelValue {
    /// The output itself.
    #[default]
    Output,
    /// Output minus input, added to the current input (EasyCache, arXiv 2507.02860). Where the
    /// shapes of the two differ, the output itself.
    Residual,
}

/// A caching algorithm. It decides; it neither computes nor stores feature values.
///
/// The context calls, for every site that is not inside a reused one: `decide`, then (computed or
/// not) `observe`, then `history_depth`.
pub trait Policy: Send {
    /// Canonical spelling with its options, as the registry reads it.
    fn name(&self) -> String;

    /// Forgets any earlier run and prepares for one under this header.
    ///
    /// # Errors
    /// If the policy cannot run under the header: a mask of another length, a plan for another model.
    fn start(&mut self, header: &RunHeader) -> Result<(), CacheError>;

    /// Answers a site. Whatever is answered, a site with too little remembered computes, and the
    /// guard may turn the answer into `Compute`.
    fn decide(&mut self, ask: &Ask<'_>) -> Action;

    /// Learns what happened.
    ///
    /// # Errors
    /// If a tensor operation on the evidence fails.
    fn observe(&mut self, _observation: &Observation<'_>) -> candle_core::Result<()> {
        Ok(())
    }

    /// What was seen so far is of another past: a new prompt, other frames in the window. The store is empty, so that the
    /// next visit of every site computes.
    fn forget(&mut self) {}

    /// How many of the site's computed values (this step's included) may still be read after this
    /// step. The store keeps no more than that: 0 frees the site.
    fn history_depth(&self, site: Site, step: Step) -> usize;

    /// Runs of blocks within `blocks` that are to be asked about as one site each: disjoint and in
    /// order.
    fn spans(&self, _branch: Branch, _blocks: Range<usize>) -> Vec<Range<usize>> {
        Vec::new()
    }

    /// What is remembered for the whole model.
    fn model_value(&self) -> ModelValue {
        ModelValue::Output
    }

    /// What a plan of this run says of its maker; a replay passes on what its plan says.
    fn provenance(&self) -> String {
        self.name()
    }

    /// Bytes of tensors the policy itself holds as evidence.
    fn bytes(&self) -> usize {
        0
    }
}
