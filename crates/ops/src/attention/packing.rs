//! Keys and values laid out for the tile's inner loop.

#[cfg(target_arch = "x86_64")]
use super::tiled;
use crate::simd::{fetch, multiversion};
use crate::tile::{Arithmetic, LANES, Left, Right, Steps, Sums, multiply};
use crate::transpose::transpose;
use crate::types::as_words;

/// Keys that are scored before the softmax moves on: their scores, probabilities, keys and values stay in the
/// first-level cache.
pub(crate) const BLOCK: usize = 256;
/// Keys whose values are asked for before they are packed.
const AHEAD: usize = 8;
/// Vectors in a panel of matrix tiles, of keys or of a value's columns.
const TILED_VECTORS: usize = 4;

/// Rows of all heads in a larger tensor.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) values: &'a [f32],
    /// Where the first row of the first batch starts.
    pub(crate) start: usize,
    pub(crate) batch_step: usize,
    pub(crate) row_step: usize,
}

/// Rows of one head in a larger tensor.
#[derive(Clone, Copy)]
pub(crate) struct HeadRows<'a> {
    values: &'a [f32],
    step: usize,
    width: usize,
}

impl<'a> HeadRows<'a> {
    fn row(&self, row: usize) -> &'a [f32] {
        &self.values[row * self.step..][..self.width]
    }
}

impl<'a> Rows<'a> {
    /// One head's part of all rows.
    pub(crate) fn of_head(&self, batch: usize, head: usize, width: usize) -> HeadRows<'a> {
        let start = self.start + batch * self.batch_step + head * width;
        HeadRows { values: self.values.get(start..).unwrap_or_default(), step: self.row_step, width }
    }

    /// One head's part of a row.
    pub(crate) fn row(&self, batch: usize, row: usize, head: usize, width: usize) -> &'a [f32] {
        let start = self.start + batch * self.batch_step + row * self.row_step + head * width;
        &self.values[start..start + width]
    }
}

/// How keys and values of one head are laid out.
///
/// Keys: panels of [`KeyLayout::panel`], in each `[step of the width][key]`. Values: blocks of 256 keys, in each one panel after the other
/// of columns, `[step of keys][column]`.
#[derive(Debug, Clone)]
pub(crate) struct KeyLayout {
    pub(crate) arithmetic: Arithmetic,
    /// Width of a head.
    pub(crate) width: usize,
    /// Keys in one panel.
    pub(crate) panel: usize,
    /// Steps over the width of a head; for matrix tiles whole runs of 16, the last filled with zeros.
    pub(crate) width_steps: usize,
    /// Panels over the columns of a value.
    pub(crate) value_panels: Vec<usize>,
    /// Blocks of keys.
    pub(crate) blocks: usize,
}

impl KeyLayout {
    pub(crate) fn new(arithmetic: Arithmetic, width: usize, keys: usize) -> Self {
        let steps = arithmetic.steps(width);
        let blocks = keys.div_ceil(BLOCK);
        if arithmetic.is_tiled() {
            let panel = TILED_VECTORS * LANES;
            let value_panels = vec![TILED_VECTORS; width.div_ceil(panel)];
            return Self { arithmetic, width, panel, width_steps: steps.next_multiple_of(LANES), value_panels, blocks };
        }
        let panel = arithmetic.key_vectors() * LANES;
        Self { arithmetic, width, panel, width_steps: steps, value_panels: arithmetic.panel_widths(width), blocks }
    }

    /// Columns of a value with those that fill the last panel.
    pub(crate) fn columns(&self) -> usize {
        self.value_panels.iter().sum::<usize>() * LANES
    }

    /// Words of one head's keys.
    pub(crate) fn key_words(&self) -> usize {
        self.blocks * BLOCK * self.width_steps
    }

    /// Words of one head's values.
    pub(crate) fn value_words(&self) -> usize {
        self.blocks * self.value_block()
    }

    /// Words of one block's values.
    pub(crate) fn value_block(&self) -> usize {
        self.arithmetic.steps(BLOCK) * self.columns()
    }

    /// left · right, one panel of keys or of a value's columns.
    pub(crate) fn multiply(&self, left: Left<'_>, steps: &Steps, right: Right<'_>, sums: &mut Sums<'_>) {
        #[cfg(target_arch = "x86_64")]
        if self.arithmetic.is_tiled() {
            return tiled::multiply(left, steps.len().div_ceil(LANES), right.words, right.columns, sums);
        }
        multiply(self.arithmetic, left, steps, right, sums);
    }

    /// Packs the first `count` keys of one head.
    pub(crate) fn pack_keys(&self, count: usize, keys: HeadRows<'_>, words: &mut [u32]) {
        let (steps, panel) = (self.width_steps, self.panel);
        let row_step = steps.next_multiple_of(LANES);
        let mut rows = Vec::new();
        for first in (0..count).step_by(LANES) {
            let present = LANES.min(count - first);
            for key in first + LANES..count.min(first + 2 * LANES) {
                fetch(keys.row(key));
            }
            let target = &mut words[first / panel * panel * steps + first % panel..];
            // In f32 a value is its own word, and whole groups are turned round from where they are.
            if self.arithmetic.per_step() == 1 && present == LANES {
                turn(as_words(&keys.values[first * keys.step..]), keys.step, steps, target, panel);
                continue;
            }
            rows.resize(LANES * row_step, 0u32);
            for key in 0..LANES {
                let target = &mut rows[key * row_step..][..steps];
                if key < present {
                    self.arithmetic.pack_row(keys.row(first + key), target);
                } else {
                    target.fill(0);
                }
            }
            turn(&rows, row_step, steps, target, panel);
        }
        // What the last panel misses.
        let written = count.next_multiple_of(LANES) % panel;
        if written > 0 {
            for step in 0..steps {
                words[count / panel * panel * steps + step * panel + written..][..panel - written].fill(0);
            }
        }
    }

    /// Packs the first `count` values of one head.
    pub(crate) fn pack_values(&self, count: usize, values: HeadRows<'_>, words: &mut [u32]) {
        let per_step = self.arithmetic.per_step();
        if per_step == 1 {
            return copy_values(self, count, &values, words);
        }
        for first in (0..count).step_by(per_step) {
            let second = (first + 1 < count).then(|| values.row(first + 1));
            self.value_step(first, values.row(first), second, words);
        }
    }

    /// Writes one step of values: the keys `first` and, in bf16, `first + 1`.
    fn value_step(&self, first: usize, row: &[f32], second: Option<&[f32]>, words: &mut [u32]) {
        let (steps, step) = (self.arithmetic.steps(BLOCK), first % BLOCK / self.arithmetic.per_step());
        let words = &mut words[first / BLOCK * self.value_block()..];
        let mut column = 0;
        for &vectors in &self.value_panels {
            let panel = vectors * LANES;
            let target = &mut words[column * steps + step * panel..][..panel];
            let present = panel.min(self.width - column);
            let second = second.map(|second| &second[column..column + present]);
            interleave(self.arithmetic, &row[column..column + present], second, target);
            target[present..].fill(0);
            column += panel;
        }
    }

    /// Writes one key and its value at a place whose neighbours stay as they are.
    pub(crate) fn write_one(&self, place: usize, key: &[f32], value: &[f32], keys: &mut [u32], values: &mut [u32]) {
        let per_step = self.arithmetic.per_step();
        let first = place / self.panel * self.panel * self.width_steps + place % self.panel;
        for (step, part) in key.chunks(per_step).enumerate() {
            keys[first + step * self.panel] = self.arithmetic.word(part[0], part.get(1).copied().unwrap_or(0.0));
        }
        let (steps, step) = (self.arithmetic.steps(BLOCK), place % BLOCK / per_step);
        let values = &mut values[place / BLOCK * self.value_block()..];
        let mut column = 0;
        for &vectors in &self.value_panels {
            let panel = vectors * LANES;
            let target = &mut values[column * steps + step * panel..][..panel];
            for (word, &value) in target.iter_mut().zip(&value[column..]) {
                *word = match (per_step, place % per_step) {
                    (1, _) => value.to_bits(),
                    (_, 0) => *word & 0xffff_0000 | self.arithmetic.word(value, 0.0),
                    _ => *word & 0xffff | self.arithmetic.word(0.0, value),
                };
            }
            column += panel;
        }
    }
}

/// Turns 16 rows of `steps` words round.
fn turn(rows: &[u32], row_step: usize, steps: usize, target: &mut [u32], target_step: usize) {
    let whole = steps / LANES * LANES;
    for step in (0..whole).step_by(LANES) {
        transpose(&rows[step..], row_step, LANES, &mut target[step * target_step..], target_step);
    }
    if whole < steps && steps >= LANES {
        // The last 16 once more, some of which are done.
        let step = steps - LANES;
        return transpose(&rows[step..], row_step, LANES, &mut target[step * target_step..], target_step);
    }
    for step in whole..steps {
        for key in 0..LANES {
            target[step * target_step + key] = rows[key * row_step + step];
        }
    }
}

multiversion! {
    /// Values in f32, each into the panels of its block.
    fn copy_values(layout: &KeyLayout, count: usize, values: &HeadRows<'_>, words: &mut [u32]) {
        for key in 0..count {
            if key + AHEAD < count {
                fetch(values.row(key + AHEAD));
            }
            let row = as_words(values.row(key));
            let words = &mut words[key / BLOCK * layout.value_block()..];
            let mut column = 0;
            for &vectors in &layout.value_panels {
                let panel = vectors * LANES;
                let target = &mut words[column * BLOCK + key % BLOCK * panel..][..panel];
                let source = &row[column..layout.width.min(column + panel)];
                for (target, source) in target.as_chunks_mut::<LANES>().0.iter_mut().zip(source.chunks(LANES)) {
                    match source.first_chunk::<LANES>() {
                        Some(source) => *target = *source,
                        None => {
                            target[..source.len()].copy_from_slice(source);
                            target[source.len()..].fill(0);
                        }
                    }
                }
                column += panel;
            }
        }
    }
}

multiversion! {
    fn interleave(arithmetic: Arithmetic, first: &[f32], second: Option<&[f32]>, words: &mut [u32]) {
        match second {
            Some(second) => {
                for ((word, first), second) in words.iter_mut().zip(first).zip(second) {
                    *word = crate::elementary::bf16_pair(*first, *second);
                }
            }
            None => {
                for (word, first) in words.iter_mut().zip(first) {
                    *word = arithmetic.word(*first, 0.0);
                }
            }
        }
    }
}
