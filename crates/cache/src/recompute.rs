//! Gradients block by block: a pass through the model without any tape that notes what each block was given, and passes
//! that each run one block again with a tape, from the last to the first.
//!
//! A tape over the whole model holds every intermediate of every block. Noting the blocks' inputs alone, and keeping one
//! block's tape at a time, costs one more forward pass and bounds the memory by one block (Chen et al., arXiv 1604.06174).
//! The model knows nothing of it: the context hands each of its stacks of blocks what it is to compute.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{Result, Tensor};

use crate::live::Blend;
use crate::{Context, Site};

/// What a pass noted.
#[derive(Debug, Default)]
pub struct Recording {
    /// The stacks of blocks that ran.
    ranges: Vec<Range<usize>>,
    /// Hidden states that entered each block, by its number.
    inputs: HashMap<usize, Tensor>,
    /// Hidden states behind the last stack.
    output: Option<Tensor>,
    /// Remembered values that each site mixed in, newest first.
    mixed: HashMap<Site, Vec<Tensor>>,
}

impl Recording {
    /// The blocks, if there was one stack of them: between several stacks a model may do what no block sees.
    pub fn blocks(&self) -> Option<Range<usize>> {
        match self.ranges.as_slice() {
            [range] => Some(range.clone()),
            _ => None,
        }
    }

    /// Hidden states that entered a block; behind the last block, those that left it.
    pub fn hidden(&self, block: usize) -> Option<&Tensor> {
        self.inputs.get(&block).or(self.output.as_ref())
    }

    pub(crate) fn enter(&mut self, block: usize, hidden: &Tensor) {
        self.inputs.insert(block, hidden.detach());
    }

    pub(crate) fn leave(&mut self, range: Range<usize>, hidden: &Tensor) {
        self.ranges.push(range);
        self.output = Some(hidden.detach());
    }

    pub(crate) fn mixed(&mut self, site: Site, values: &[Tensor]) {
        self.mixed.insert(site, values.to_vec());
    }
}

/// Of a site and the number of values remembered of it: the weight of its fresh value, and the weights of a forecast.
pub type MixWeights = dyn Fn(Site, usize) -> Option<(Tensor, Option<Tensor>)> + Send + Sync;

/// One part of a recorded pass, to be run again.
pub(crate) struct Replayed {
    recording: Arc<Recording>,
    /// The block to run; past the last, what comes behind the blocks.
    block: usize,
    hidden: Tensor,
    weights: Arc<MixWeights>,
    output: Option<Tensor>,
}

impl Context {
    /// A context under which a model runs one `block` of a recorded pass again, from `hidden`, and nothing else that
    /// leaves a tape; one past the last block, it runs what follows the blocks.
    pub fn replaying(recording: Arc<Recording>, (block, hidden): (usize, Tensor), weights: Arc<MixWeights>) -> Self {
        Self::of_replay(Replayed { recording, block, hidden, weights, output: None })
    }

    /// What the block gave, with its tape.
    pub fn replayed(&mut self) -> Option<Tensor> {
        self.replay_mut()?.output.take()
    }
}

impl Replayed {
    /// A site: always computed, and mixed as it was.
    pub(crate) fn mix(&self, site: Site, fresh: Tensor) -> Result<Tensor> {
        let Some(cached) = self.recording.mixed.get(&site).filter(|cached| !cached.is_empty()) else {
            return Ok(fresh);
        };
        let Some((weight, forecast)) = (self.weights)(site, cached.len()) else { return Ok(fresh) };
        Blend { weight, refresh: false, cached: cached.clone(), forecast }.mix(&fresh, None)
    }

    /// What a stack of blocks is to run: the block and its input, or nothing but an output.
    pub(crate) fn stack(&self, range: &Range<usize>) -> (Option<usize>, Tensor) {
        let block = Some(self.block).filter(|block| range.contains(block));
        (block, self.hidden.clone())
    }

    /// The stack's output for the rest of the model once its block has run: any, since nobody reads the rest.
    pub(crate) fn finish(&mut self, output: Tensor) -> Tensor {
        let rest = self.recording.output.clone().unwrap_or_else(|| output.detach());
        self.output = Some(output);
        rest
    }
}
