//! Keys and values of a stream, kept packed: new ones take the places of those that were dropped.

use std::collections::{BTreeSet, VecDeque};

use candle_core::{Result, Tensor};

use super::engine::{Attention, Bias, Keys, for_heads};
use super::packing::{BLOCK, KeyLayout};
use super::{AttentionOptions, rows_of};
use crate::differentiable::{Values, is_plain};
use crate::parallel::WORTH_VALUES;
use crate::profile::{self, Kind};
use crate::tile::Arithmetic;
use crate::types::{OpsError, Precision};

/// A bounded store of keys and values for rolling attention over a stream.
///
/// Keys carry their positions already (a softmax over keys does not depend on their order), so dropping the oldest and
/// writing the newest in their places moves nothing. Keys and values stay packed for the matrix tiles from one step to
/// the next. Not differentiable: a stream is inference.
#[derive(Debug, Clone)]
pub struct KeyValueRing {
    layout: KeyLayout,
    batch: usize,
    heads: usize,
    capacity: usize,
    keys: Vec<u32>,
    values: Vec<u32>,
    /// 0 for a place that holds a key, -inf for a free one.
    mask: Vec<f32>,
    /// Places in use, oldest first.
    order: VecDeque<usize>,
    free: BTreeSet<usize>,
}

impl KeyValueRing {
    /// A ring of `capacity` keys for each of `batch` rows, with `heads` heads of `head_width`.
    pub fn new(batch: usize, heads: usize, head_width: usize, capacity: usize, precision: Precision) -> Self {
        let layout = KeyLayout::new(Arithmetic::of(precision), head_width, capacity);
        let keys = vec![0; batch * heads * layout.key_words()];
        let values = vec![0; batch * heads * layout.value_words()];
        let mask = vec![f32::NEG_INFINITY; layout.blocks * BLOCK];
        let free = (0..capacity).collect();
        Self { layout, batch, heads, capacity, keys, values, mask, order: VecDeque::new(), free }
    }

    /// Keys that are held.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether no key is held.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Keys that can be held.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes of the packed keys and values.
    pub fn bytes(&self) -> usize {
        (self.keys.len() + self.values.len()) * 4
    }

    /// Adds keys and values `[batch, n, heads·head_width]` as the newest.
    ///
    /// # Errors
    /// When shapes do not fit or fewer than `n` places are free; nothing is added then.
    pub fn append(&mut self, key: &Tensor, value: &Tensor) -> Result<()> {
        let width = self.heads * self.layout.width;
        let count = key.dims().get(1).copied().unwrap_or(0);
        for (argument, tensor) in [("key", key), ("value", value)] {
            if tensor.dims() != [self.batch, count, width] || !is_plain(tensor) {
                let expected = format!("[{}, n, {width}] in f32 on the cpu", self.batch);
                return Err(shape_error(argument, tensor, expected));
            }
        }
        if count > self.free.len() {
            return Err(OpsError::Value {
                operation: "key/value ring",
                argument: "number of new keys",
                found: count.to_string(),
                expected: format!("at most the {} free places: evict first", self.free.len()),
            }
            .into());
        }
        let (key, value) = (key.contiguous()?, value.contiguous()?);
        let (key, value) = (Values::of(&key)?, Values::of(&value)?);
        let (key, value) = (rows_of(&key, count, width), rows_of(&value, count, width));
        let places: Vec<usize> = self.free.iter().copied().take(count).collect();
        let (layout, heads) = (&self.layout, self.heads);
        let worth = self.batch * count * width >= WORTH_VALUES;
        for_heads(layout, worth, &mut self.keys, &mut self.values, |index, keys, values| {
            let (batch, head) = (index / heads, index % heads);
            for (row, &place) in places.iter().enumerate() {
                let (key, value) = (key.row(batch, row, head, layout.width), value.row(batch, row, head, layout.width));
                layout.write_one(place, key, value, keys, values);
            }
        });
        for place in places {
            self.free.remove(&place);
            self.mask[place] = 0.0;
            self.order.push_back(place);
        }
        Ok(())
    }

    /// Drops the `count` oldest keys behind the first `keep` (a stream's sinks); fewer if there are fewer.
    pub fn evict(&mut self, keep: usize, count: usize) {
        let keep = keep.min(self.order.len());
        let end = keep + count.min(self.order.len() - keep);
        let places: Vec<usize> = self.order.drain(keep..end).collect();
        self.release(&places);
    }

    /// Takes back the `count` newest keys: those of a chunk that is denoised again.
    pub fn retract(&mut self, count: usize) {
        let places: Vec<usize> = self.order.drain(self.order.len() - count.min(self.order.len())..).collect();
        self.release(&places);
    }

    /// Attention of `query` `[batch, nq, heads·head_width]` over all keys held. `options` gives heads and scale; the
    /// precision is the ring's.
    ///
    /// # Errors
    /// When shapes do not fit.
    pub fn attend(&self, query: &Tensor, options: &AttentionOptions) -> Result<Tensor> {
        let width = self.heads * self.layout.width;
        let (batch, query_count, found) = query.dims3()?;
        if (batch, found, options.heads) != (self.batch, width, self.heads) || !is_plain(query) {
            return Err(shape_error(
                "query",
                query,
                format!("[{}, n, {} heads · d = {width}]", self.batch, self.heads),
            ));
        }
        let query = query.contiguous()?;
        let values = Values::of(&query)?;
        let count = self.order.iter().max().map_or(0, |last| last + 1);
        let bias = Bias { values: &self.mask, batch_step: 0, head_step: 0, query_step: 0 };
        let _timed = profile::timed(Kind::Attention);
        let attention = Attention {
            batch,
            heads: self.heads,
            queries: rows_of(&values, query_count, width),
            query_count,
            keys: Keys { layout: &self.layout, keys: &self.keys, values: &self.values, count },
            bias: (count > self.order.len()).then_some(bias),
            scale: options.scale_for(self.layout.width),
        };
        Tensor::from_vec(attention.run(), (batch, query_count, width), &candle_core::Device::Cpu)
    }

    /// Frees places and clears them: what was not a number there would otherwise survive its weight of zero.
    fn release(&mut self, places: &[usize]) {
        let zeros = vec![0.0; self.layout.width];
        let layout = &self.layout;
        for_heads(layout, false, &mut self.keys, &mut self.values, |_, keys, values| {
            for &place in places {
                layout.write_one(place, &zeros, &zeros, keys, values);
            }
        });
        for &place in places {
            self.mask[place] = f32::NEG_INFINITY;
            self.free.insert(place);
        }
    }
}

fn shape_error(argument: &'static str, tensor: &Tensor, expected: String) -> candle_core::Error {
    OpsError::Shape { operation: "key/value ring", argument, found: tensor.dims().to_vec(), expected }.into()
}
