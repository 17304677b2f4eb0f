//! Weights in the order the tiles read them.

use std::ops::Range;

use rayon::prelude::*;

use super::{Buffer, Kernel, Operand, STRIP_COLUMNS, TILE_COLUMNS};
use crate::elementary::bf16_pair;
use crate::types::Precision;

/// Extent of a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PackedShape {
    /// Columns of the product.
    pub(crate) outputs: usize,
    /// Length of the sums.
    pub(crate) depth: usize,
}

/// A weight packed for one kernel: panels of [`TILE_COLUMNS`] outputs (or in each strip after strip of [`STRIP_COLUMNS`]), in
/// each step after step, in each the columns side by side with the step's depth elements together. Missing columns and
/// elements are zero.
#[derive(Clone, Debug)]
pub(crate) struct Packed {
    /// Extent of the weight.
    pub(crate) shape: PackedShape,
    /// Who reads it.
    pub(crate) kernel: Kernel,
    /// Steps of the depth.
    pub(crate) steps: usize,
    data: Buffer,
    /// Per output, for int8: what one unit stands for, and the sum of the weight's units.
    pub(crate) columns: Vec<Int8Column>,
}

/// Scale and offset of one int8 output.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Int8Column {
    /// Weight value of one unit.
    pub(crate) scale: f32,
    /// Sum of the units, times the rows' offset of 128: what to take off a sum.
    pub(crate) offset: i32,
}

impl Packed {
    /// Packs `weight(output, depth)` for the fastest kernel of this machine.
    pub(crate) fn new(shape: PackedShape, precision: Precision, weight: impl Fn(usize, usize) -> f32 + Sync) -> Self {
        Self::for_kernel(shape, Kernel::detect(precision), weight)
    }

    /// Packs `weight(output, depth)` for `kernel`.
    pub(crate) fn for_kernel(shape: PackedShape, kernel: Kernel, weight: impl Fn(usize, usize) -> f32 + Sync) -> Self {
        let steps = shape.depth.div_ceil(kernel.operand.step()).next_multiple_of(kernel.step_multiple());
        let words = steps * TILE_COLUMNS;
        let mut data = Buffer::zeroed(shape.outputs.div_ceil(TILE_COLUMNS) * words * 4);
        let mut columns = vec![Int8Column::default(); if kernel.operand.is_int8() { shape.outputs } else { 0 }];
        columns.par_iter_mut().enumerate().for_each(|(output, column)| {
            *column = measure(&shape, kernel.operand, output, &weight);
        });
        if words > 0 {
            data.words_mut().par_chunks_mut(words).enumerate().for_each(|(panel, words)| {
                let pack = PanelPacking { shape, kernel, steps, first: panel * TILE_COLUMNS };
                pack.run(words, &columns, &weight);
            });
        }
        Self { shape, kernel, steps, data, columns }
    }

    /// Panels of [`TILE_COLUMNS`] outputs.
    pub(crate) fn panels(&self) -> usize {
        self.shape.outputs.div_ceil(TILE_COLUMNS)
    }

    /// Address of a panel's `steps`.
    pub(crate) fn panel(&self, panel: usize, steps: &Range<usize>) -> *const u8 {
        let step_bytes = TILE_COLUMNS * 4;
        let offset = (panel * self.steps + steps.start) * step_bytes;
        assert!(offset + steps.len() * step_bytes <= self.data.bytes(), "a panel lies outside its weight");
        self.data.as_ptr().wrapping_add(offset)
    }

    /// Some steps of a strip of a panel, for kernels that take panels so.
    pub(crate) fn strip(&self, panel: usize, strip: usize, steps: &Range<usize>) -> &[u32] {
        let first = (panel * TILE_COLUMNS + strip * STRIP_COLUMNS) * self.steps;
        &self.data.words()[first + steps.start * STRIP_COLUMNS..first + steps.end * STRIP_COLUMNS]
    }

    /// One weight as it was rounded.
    pub(crate) fn value(&self, output: usize, depth: usize) -> f32 {
        let (operand, width) = (self.kernel.operand, self.kernel.operand.step());
        let strips = column_step(&self.kernel);
        let step = output / strips * self.steps + depth / width;
        let word = self.data.words()[step * strips + output % strips];
        match operand {
            Operand::F32 => f32::from_bits(word),
            Operand::Bf16 | Operand::Bf16Widened if depth.is_multiple_of(2) => f32::from_bits(word << 16),
            Operand::Bf16 | Operand::Bf16Widened => f32::from_bits(word & 0xffff_0000),
            Operand::Int8 | Operand::Int8Widened => {
                f32::from(word.to_le_bytes()[depth % 4].cast_signed()) * self.columns[output].scale
            }
        }
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.data.bytes() + size_of_val(self.columns.as_slice())
    }
}

/// Steps packed of each column in turn: a part of the panel that stays in the nearest cache.
const PACKED_STEPS: usize = 16;

/// Columns that lie side by side in a step: of a panel, or of a strip of it.
fn column_step(kernel: &Kernel) -> usize {
    if kernel.strips().is_some() { STRIP_COLUMNS } else { TILE_COLUMNS }
}

/// One panel to pack.
struct PanelPacking {
    shape: PackedShape,
    kernel: Kernel,
    steps: usize,
    /// Its first output.
    first: usize,
}

impl PanelPacking {
    fn run(&self, words: &mut [u32], columns: &[Int8Column], weight: &(impl Fn(usize, usize) -> f32 + Sync)) {
        let across = column_step(&self.kernel);
        for (strip, words) in words.chunks_mut(self.steps * across).enumerate() {
            let first = self.first + strip * across;
            self.strip(first..self.shape.outputs.min(first + across), across, words, (columns, weight));
        }
    }

    /// Columns `outputs`, `across` of which lie side by side.
    fn strip(
        &self,
        outputs: Range<usize>,
        across: usize,
        words: &mut [u32],
        (columns, weight): (&[Int8Column], &(impl Fn(usize, usize) -> f32 + Sync)),
    ) {
        let width = self.kernel.operand.step();
        for (block, words) in words.chunks_mut(PACKED_STEPS * across).enumerate() {
            for (column, output) in outputs.clone().enumerate() {
                let scale = columns.get(output).map_or(1.0, |column| column.scale);
                for (index, word) in words[column..].iter_mut().step_by(across).enumerate() {
                    let step = block * PACKED_STEPS + index;
                    *word = pack_word(self.kernel.operand, scale, |offset| {
                        let depth = step * width + offset;
                        if depth < self.shape.depth { weight(output, depth) } else { 0.0 }
                    });
                }
            }
        }
    }
}

/// The step of one column, whose depth elements `value` gives.
fn pack_word(operand: Operand, scale: f32, value: impl Fn(usize) -> f32) -> u32 {
    match operand {
        Operand::F32 => value(0).to_bits(),
        Operand::Bf16 | Operand::Bf16Widened => bf16_pair(value(0), value(1)),
        Operand::Int8 | Operand::Int8Widened => {
            u32::from_le_bytes(std::array::from_fn(|offset| units(value(offset), scale).cast_unsigned()))
        }
    }
}

/// A value in units of `scale`, within ±127.
fn units(value: f32, scale: f32) -> i8 {
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
    if scale > 0.0 { ((value / scale + 12_582_912.0).to_bits() as u8).cast_signed() } else { 0 }
}

/// Scale and offset of one output: its largest magnitude becomes 127 units.
fn measure(shape: &PackedShape, operand: Operand, output: usize, weight: &impl Fn(usize, usize) -> f32) -> Int8Column {
    let (mut largest, mut sum) = (0f32, 0i32);
    for depth in 0..shape.depth {
        largest = largest.max(weight(output, depth).abs());
    }
    let scale = largest / 127.0;
    for depth in 0..shape.depth {
        sum += i32::from(units(weight(output, depth), scale));
    }
    // Signed rows have no offset.
    Int8Column { scale, offset: if operand == Operand::Int8 { sum * 128 } else { 0 } }
}
