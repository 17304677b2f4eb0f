//! Attention itself: a few queries at a time walk over blocks of keys, keeping the largest score and the sum so far
//! (online softmax, arXiv 1805.02867 and 2205.14135), so scores are never written out.

use std::cell::Cell;
use std::ops::Range;

use rayon::prelude::*;

use super::packing::{BLOCK, KeyLayout, Rows};
use crate::elementary::{LOG2_E, exp2_not_positive};
use crate::parallel::{
    Scratch, Unwritten, WORTH_FLOPS, WORTH_VALUES, aligned, at_least, for_units, with_scratch, written,
};
use crate::simd::{fetch, multiply_add, multiversion};
use crate::tile::{LANES, Left, Right, Steps, Sums};
use crate::types::as_words;

/// Queries that walk together.
const QUERIES: usize = 16;
/// The same for AVX2, at most: whole tiles of 6 rows.
const NARROW_QUERIES: usize = 48;
/// The same for matrix tiles: two tiles of rows.
const TILED_QUERIES: usize = 32;
/// Queries that walk together at most.
const MOST_QUERIES: usize = NARROW_QUERIES;
/// Bytes of all heads' keys and values that stay in the second-level cache while queries pass.
const SMALL_KEYS: usize = 1 << 18;
/// Operations worth waking threads for: a softmax takes as long as twice its products.
const WORTH: usize = WORTH_FLOPS / 4;

/// Packed keys and values of all heads.
#[derive(Clone, Copy)]
pub(crate) struct Keys<'a> {
    pub(crate) layout: &'a KeyLayout,
    /// Of head h of batch b from (b·heads + h)·`layout.key_words()` on.
    pub(crate) keys: &'a [u32],
    /// Likewise.
    pub(crate) values: &'a [u32],
    /// Number of keys (of places, in a ring).
    pub(crate) count: usize,
}

/// An additive bias `[batch, heads, queries, keys]` with step 0 where it is the same for all.
#[derive(Clone, Copy)]
pub(crate) struct Bias<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) batch_step: usize,
    pub(crate) head_step: usize,
    pub(crate) query_step: usize,
}

/// One attention.
#[derive(Clone, Copy)]
pub(crate) struct Attention<'a> {
    pub(crate) batch: usize,
    pub(crate) heads: usize,
    pub(crate) queries: Rows<'a>,
    pub(crate) query_count: usize,
    pub(crate) keys: Keys<'a>,
    pub(crate) bias: Option<Bias<'a>>,
    pub(crate) scale: f32,
}

thread_local! {
    /// Packed keys and values of an earlier call: memory that is at hand.
    static PACKED: Cell<(Vec<u32>, Vec<u32>)> = Cell::default();
}

/// Keeps packed keys and values for the next call of this thread.
pub(crate) fn keep(keys: Vec<u32>, values: Vec<u32>) {
    PACKED.set((keys, values));
}

/// Memory for keys and values of `count` heads, and the packing of them. Packs `key_count` rows of each.
pub(crate) fn pack(
    layout: &KeyLayout,
    (batch, heads): (usize, usize),
    key_count: usize,
    keys: Rows<'_>,
    values: Rows<'_>,
) -> (Vec<u32>, Vec<u32>) {
    let (mut key_words, mut value_words) = PACKED.take();
    // Matrix tiles read on behind the last key: there must be zeros.
    if layout.arithmetic.is_tiled() {
        (key_words, value_words) = (Vec::new(), Vec::new());
    }
    let packed_keys = at_least(&mut key_words, batch * heads * layout.key_words());
    let packed_values = at_least(&mut value_words, batch * heads * layout.value_words());
    let width = layout.width;
    let worth = batch * heads * key_count * width >= WORTH_VALUES;
    for_heads(layout, worth, packed_keys, packed_values, |index, key_words, value_words| {
        let (batch, head) = (index / heads, index % heads);
        layout.pack_keys(key_count, keys.of_head(batch, head, width), key_words);
        layout.pack_values(key_count, values.of_head(batch, head, width), value_words);
    });
    (key_words, value_words)
}

/// Runs `work` on the keys and values of each head.
pub(crate) fn for_heads(
    layout: &KeyLayout,
    worth: bool,
    keys: &mut [u32],
    values: &mut [u32],
    work: impl Fn(usize, &mut [u32], &mut [u32]) + Sync + Send,
) {
    let (key_words, value_words) = (layout.key_words().max(1), layout.value_words().max(1));
    if worth {
        let parts = keys.par_chunks_mut(key_words).zip(values.par_chunks_mut(value_words));
        parts.enumerate().for_each(|(index, (keys, values))| work(index, keys, values));
    } else {
        let parts = keys.chunks_mut(key_words).zip(values.chunks_mut(value_words));
        parts.enumerate().for_each(|(index, (keys, values))| work(index, keys, values));
    }
}

/// Queries of one head that walk together.
struct Unit {
    batch: usize,
    head: usize,
    queries: Range<usize>,
}

impl Attention<'_> {
    /// The result `[batch, queries, heads·width]`.
    pub(crate) fn run(&self) -> Vec<f32> {
        let width = self.keys.layout.width;
        let arithmetic = self.keys.layout.arithmetic;
        let together = match arithmetic.is_tiled() {
            true => TILED_QUERIES,
            false if arithmetic.key_vectors() == 1 => {
                let blocks = self.query_count.div_ceil(NARROW_QUERIES).max(1);
                self.query_count.div_ceil(blocks).max(1).next_multiple_of(arithmetic.tile_rows())
            }
            false => QUERIES,
        };
        let blocks = self.query_count.div_ceil(together);
        let length = self.batch * self.query_count * self.heads * width;
        let flops = 4 * length * self.keys.count;
        let steps = Steps::contiguous(self.keys.layout.width_steps);
        // All heads of a query lie side by side: few keys leave room in the cache to go through them before the next.
        let head_bytes = (self.keys.layout.key_words() + self.keys.layout.value_words()) * 4;
        let queries_first = self.heads * head_bytes.min(self.keys.count * width * 8) <= SMALL_KEYS;
        // SAFETY: the units cover every block of queries of every head once, and each writes all of its rows.
        #[allow(unsafe_code)]
        unsafe {
            written(length, |output| {
                let units = self.batch * self.heads * blocks;
                let unit = |index: usize| {
                    let (batch, rest) = (index / (self.heads * blocks), index % (self.heads * blocks));
                    let (head, block) = match queries_first {
                        true => (rest % self.heads, rest / self.heads),
                        false => (rest / blocks, rest % blocks),
                    };
                    Unit { batch, head, queries: block * together..self.query_count.min((block + 1) * together) }
                };
                for_units(units, flops >= WORTH, |index| {
                    with_scratch(|scratch| {
                        let now = unit(index);
                        self.fetch(&now, (index + 1 < units).then(|| unit(index + 1)).as_ref(), output);
                        self.unit(&now, &steps, scratch, output);
                    });
                });
            })
        }
    }

    /// Asks for the rows that a unit will write and for the queries of the next: rows of one head lie so far apart that the
    /// processor does not see them coming.
    fn fetch(&self, unit: &Unit, next: Option<&Unit>, output: &Unwritten) {
        let width = self.keys.layout.width;
        for query in unit.queries.clone() {
            output.fetch(((unit.batch * self.query_count + query) * self.heads + unit.head) * width, width);
        }
        if let Some(next) = next {
            for query in next.queries.clone() {
                fetch(self.queries.row(next.batch, query, next.head, width));
            }
        }
    }

    fn unit(&self, unit: &Unit, steps: &Steps, scratch: &mut Scratch, output: &Unwritten) {
        let Unit { batch, head, ref queries } = *unit;
        let layout = self.keys.layout;
        let (width, columns, arithmetic) = (layout.width, layout.columns(), layout.arithmetic);
        let (first, count) = (queries.start, queries.len());
        // Matrix tiles read and write whole tiles of rows.
        let room = count.next_multiple_of(QUERIES);
        let Scratch { words, sums, rows, .. } = scratch;
        let (queries, probabilities) =
            aligned(words, room * (layout.width_steps + BLOCK)).split_at_mut(room * layout.width_steps);
        let (scores, totals) = aligned(sums, room * (BLOCK + columns)).split_at_mut(room * BLOCK);
        #[cfg(target_arch = "x86_64")]
        let _tiles = arithmetic.is_tiled().then(crate::amx::Tiles::shape);
        // Scores are logarithms to base 2, as that is what the exponential takes.
        let scale = self.scale * LOG2_E;
        for query in 0..count {
            let row = self.queries.row(batch, first + query, head, width);
            let target = &mut queries[query * layout.width_steps..][..layout.width_steps];
            if arithmetic.per_step() == 1 {
                scaled_words(row, scale, target);
                continue;
            }
            let scaled = at_least(rows, width);
            scaled_by(row, scale, scaled);
            target[width / 2..].fill(0);
            arithmetic.pack_row(scaled, target);
        }
        let index = batch * self.heads + head;
        let keys = &self.keys.keys[index * layout.key_words()..][..layout.key_words()];
        let values = &self.keys.values[index * layout.value_words()..][..layout.value_words()];
        let mut state = [Softmax::START; MOST_QUERIES];
        for start in (0..self.keys.count).step_by(BLOCK) {
            let present = BLOCK.min(self.keys.count - start);
            for panel in (0..present).step_by(layout.panel) {
                let left = Left { words: queries, start: 0, row_step: layout.width_steps, rows: count };
                let right = Right {
                    words: &keys[(start + panel) * layout.width_steps..],
                    width: layout.panel / LANES,
                    // Matrix tiles take a panel whole.
                    columns: if arithmetic.is_tiled() { layout.panel } else { layout.panel.min(present - panel) },
                    ahead: &[],
                };
                let mut sums = Sums { values: &mut scores[panel..], row_step: BLOCK, accumulate: false };
                layout.multiply(left, steps, right, &mut sums);
            }
            if let Some(bias) = &self.bias {
                let start = batch * bias.batch_step + head * bias.head_step + first * bias.query_step + start;
                add_rows(scores, count, present, &bias.values[start..], bias.query_step);
            }
            let factors = softmax_rows(scores, count, present, &mut state);
            for (query, factor) in factors.iter().enumerate().take(count) {
                if arithmetic.per_step() > 1 {
                    let target = &mut probabilities[query * BLOCK..][..BLOCK];
                    arithmetic.pack_row(&scores[query * BLOCK..][..present], target);
                    if arithmetic.is_tiled() {
                        // The last run of steps goes on behind the last key.
                        target[arithmetic.steps(present)..BLOCK / 2].fill(0);
                    }
                }
                if start > 0 && *factor != 1.0 {
                    scale_by(&mut totals[query * columns..][..width], *factor);
                }
            }
            // In f32 a probability is its own word.
            let words = if arithmetic.per_step() > 1 { &*probabilities } else { as_words(scores) };
            let left = Left { words, start: 0, row_step: BLOCK, rows: count };
            self.weigh(left, present, &values[start / BLOCK * layout.value_block()..], start > 0, totals);
        }
        for (query, state) in state.iter().enumerate().take(count) {
            let start = ((batch * self.query_count + first + query) * self.heads + head) * width;
            // SAFETY: this head's part of this query's row, which no other unit touches.
            #[allow(unsafe_code)]
            let target = unsafe { output.part(start, width) };
            // A row that saw no key at all is zero; a sum that is not a number stays one.
            let sum = fold(state.sums, |first, second| first + second);
            let factor = if sum == 0.0 { 0.0 } else { 1.0 / sum };
            if factor == 0.0 {
                target.fill(0.0);
                continue;
            }
            scaled_by(&totals[query * columns..][..width], factor, target);
        }
    }

    /// Adds probabilities · values of one block to the totals.
    fn weigh(&self, left: Left<'_>, present: usize, values: &[u32], accumulate: bool, totals: &mut [f32]) {
        let layout = self.keys.layout;
        let (columns, block_steps) = (layout.columns(), layout.arithmetic.steps(BLOCK));
        let steps = Steps::contiguous(layout.arithmetic.steps(present));
        let mut column = 0;
        for &vectors in &layout.value_panels {
            let mut sums = Sums { values: &mut totals[column..], row_step: columns, accumulate };
            let columns = (vectors * LANES).min(layout.width - column);
            let right = Right { words: &values[column * block_steps..], width: vectors, columns, ahead: &[] };
            layout.multiply(left, &steps, right, &mut sums);
            column += vectors * LANES;
        }
    }
}

/// One query's softmax so far; the sum is kept in lanes until the end.
#[derive(Debug, Clone, Copy)]
struct Softmax {
    largest: f32,
    sums: [f32; LANES],
}

impl Softmax {
    const START: Self = Self { largest: f32::NEG_INFINITY, sums: [0.0; LANES] };
}

/// Combines the lanes pair by pair: a chain of sixteen would wait for each step.
#[inline(always)]
fn fold(mut lanes: [f32; LANES], combine: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] = combine(lanes[lane], lanes[lane + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// The larger, or the first when the second is not a number.
#[inline(always)]
fn larger(first: f32, second: f32) -> f32 {
    if second > first { second } else { first }
}

multiversion! {
    /// Turns rows of scores into unnormalised probabilities; gives the factors by which earlier totals shrink.
    fn softmax_rows(scores: &mut [f32], count: usize, present: usize, states: &mut [Softmax; MOST_QUERIES]) -> [f32; MOST_QUERIES] {
        let mut factors = [1.0; MOST_QUERIES];
        let rows = scores.chunks_exact_mut(BLOCK).zip(states.iter_mut()).zip(&mut factors);
        for ((row, state), factor) in rows.take(count) {
            // Up to whole vectors: what no key scored adds nothing.
            let padded = present.next_multiple_of(LANES);
            row[present..padded].fill(f32::NEG_INFINITY);
            let row = &mut row[..padded];
            let mut lanes = [f32::NEG_INFINITY; LANES];
            for chunk in row.as_chunks::<LANES>().0 {
                for (lane, score) in lanes.iter_mut().zip(chunk) {
                    *lane = larger(*lane, *score);
                }
            }
            let largest = larger(state.largest, fold(lanes, larger));
            if largest == f32::NEG_INFINITY && row.iter().all(|score| *score == f32::NEG_INFINITY) {
                row.fill(0.0);
                continue;
            }
            *factor = exp2_not_positive::<FUSED>(state.largest - largest);
            let mut sums = state.sums.map(|sum| sum * *factor);
            for chunk in row.as_chunks_mut::<LANES>().0 {
                for (sum, score) in sums.iter_mut().zip(chunk) {
                    *score = exp2_not_positive::<FUSED>(*score - largest);
                    *sum += *score;
                }
            }
            *state = Softmax { largest, sums };
        }
        factors
    }
}

multiversion! {
    /// Adds `present` values to each row of scores, as logarithms to base 2; rows of `values` are `step` apart.
    fn add_rows(scores: &mut [f32], count: usize, present: usize, values: &[f32], step: usize) {
        for (row, scores) in scores.chunks_exact_mut(BLOCK).enumerate().take(count) {
            for (score, value) in scores[..present].iter_mut().zip(&values[row * step..][..present]) {
                *score = multiply_add::<FUSED>(*value, LOG2_E, *score);
            }
        }
    }
}

multiversion! {
    fn scaled_by(values: &[f32], factor: f32, target: &mut [f32]) {
        for (target, value) in target.iter_mut().zip(values) {
            *target = value * factor;
        }
    }
}

multiversion! {
    fn scaled_words(values: &[f32], factor: f32, words: &mut [u32]) {
        for (word, value) in words.iter_mut().zip(values) {
            *word = (value * factor).to_bits();
        }
    }
}

multiversion! {
    fn scale_by(target: &mut [f32], factor: f32) {
        for target in target {
            *target *= factor;
        }
    }
}
