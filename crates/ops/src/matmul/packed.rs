//! Weights in the order the tiles read them.

use rayon::prelude::*;

use super::{Buffer, Kernel, Operand, TILE_COLUMNS};
use crate::types::Precision;

/// Extent of a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PackedShape {
    /// Columns of the product.
    pub(crate) outputs: usize,
    /// Positions of a convolution kernel; 1 for a linear layer.
    pub(crate) taps: usize,
    /// Depth per tap: input features or channels.
    pub(crate) depth: usize,
}

/// A weight packed for one kernel: panels of [`TILE_COLUMNS`] outputs, in each tap after tap, in each step after step, in
/// each the columns side by side with the step's depth elements together. Missing columns and elements are zero.
#[derive(Clone, Debug)]
pub(crate) struct Packed {
    /// Extent of the weight.
    pub(crate) shape: PackedShape,
    /// Who reads it.
    pub(crate) kernel: Kernel,
    /// Steps per tap.
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
    /// Packs `weight(output, tap, depth)` for the fastest kernel of this machine.
    pub(crate) fn new(
        shape: PackedShape,
        precision: Precision,
        weight: impl Fn(usize, usize, usize) -> f32 + Sync,
    ) -> Self {
        Self::for_kernel(shape, Kernel::detect(precision), weight)
    }

    /// Packs `weight(output, tap, depth)` for `kernel`.
    pub(crate) fn for_kernel(
        shape: PackedShape,
        kernel: Kernel,
        weight: impl Fn(usize, usize, usize) -> f32 + Sync,
    ) -> Self {
        let steps = shape.depth.div_ceil(kernel.operand.step());
        let words = shape.taps * steps * TILE_COLUMNS;
        let mut data = Buffer::zeroed(shape.outputs.div_ceil(TILE_COLUMNS) * words * 4);
        let mut columns = vec![Int8Column::default(); if kernel.operand == Operand::Int8 { shape.outputs } else { 0 }];
        columns.par_iter_mut().enumerate().for_each(|(output, column)| *column = measure(&shape, output, &weight));
        if words > 0 {
            data.words_mut().par_chunks_mut(words).enumerate().for_each(|(panel, words)| {
                for column in 0..TILE_COLUMNS.min(shape.outputs.saturating_sub(panel * TILE_COLUMNS)) {
                    let output = panel * TILE_COLUMNS + column;
                    let scale = columns.get(output).map_or(1.0, |column| column.scale);
                    for tap in 0..shape.taps {
                        for step in 0..steps {
                            let value = |offset: usize| {
                                let depth = step * kernel.operand.step() + offset;
                                if depth < shape.depth { weight(output, tap, depth) } else { 0.0 }
                            };
                            words[(tap * steps + step) * TILE_COLUMNS + column] = word(kernel.operand, scale, value);
                        }
                    }
                }
            });
        }
        Self { shape, kernel, steps, data, columns }
    }

    /// Panels of [`TILE_COLUMNS`] outputs.
    pub(crate) fn panels(&self) -> usize {
        self.shape.outputs.div_ceil(TILE_COLUMNS)
    }

    /// Address of a panel's step; the steps of all taps follow each other.
    pub(crate) fn panel(&self, panel: usize, step: usize) -> *const u8 {
        let offset = (panel * self.shape.taps * self.steps + step) * TILE_COLUMNS * 4;
        assert!(offset <= self.data.bytes(), "a panel lies outside its weight");
        self.data.as_ptr().wrapping_add(offset)
    }

    /// One weight as it was rounded.
    pub(crate) fn value(&self, output: usize, tap: usize, depth: usize) -> f32 {
        let (operand, width) = (self.kernel.operand, self.kernel.operand.step());
        let step = ((output / TILE_COLUMNS) * self.shape.taps + tap) * self.steps + depth / width;
        let word = self.data.words()[step * TILE_COLUMNS + output % TILE_COLUMNS];
        match operand {
            Operand::F32 => f32::from_bits(word),
            Operand::Bf16 | Operand::Bf16Widened if depth % 2 == 0 => f32::from_bits(word << 16),
            Operand::Bf16 | Operand::Bf16Widened => f32::from_bits(word & 0xffff_0000),
            Operand::Int8 => f32::from(word.to_le_bytes()[depth % 4].cast_signed()) * self.columns[output].scale,
        }
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.data.bytes() + size_of_val(self.columns.as_slice())
    }
}

/// The step of one column, whose depth elements `value` gives.
fn word(operand: Operand, scale: f32, value: impl Fn(usize) -> f32) -> u32 {
    match operand {
        Operand::F32 => value(0).to_bits(),
        Operand::Bf16 | Operand::Bf16Widened => {
            let bits = |offset| u32::from(half::bf16::from_f32(value(offset)).to_bits());
            bits(0) | bits(1) << 16
        }
        Operand::Int8 => u32::from_le_bytes(std::array::from_fn(|offset| units(value(offset), scale).cast_unsigned())),
    }
}

/// A value in units of `scale`, within ±127.
fn units(value: f32, scale: f32) -> i8 {
    if scale > 0.0 { (value / scale).round_ties_even().clamp(-127.0, 127.0) as i8 } else { 0 }
}

/// Scale and offset of one output: its largest magnitude becomes 127 units.
fn measure(shape: &PackedShape, output: usize, weight: &impl Fn(usize, usize, usize) -> f32) -> Int8Column {
    let values = || (0..shape.taps).flat_map(|tap| (0..shape.depth).map(move |depth| weight(output, tap, depth)));
    let scale = values().fold(0f32, |largest, value| largest.max(value.abs())) / 127.0;
    let sum: i32 = values().map(|value| i32::from(units(value, scale))).sum();
    Int8Column { scale, offset: sum * 128 }
}
