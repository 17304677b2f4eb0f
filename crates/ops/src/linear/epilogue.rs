//! What happens to a finished tile of a linear layer on its way to the output.

use crate::elementary::activated;
use crate::matmul::{Finished, Sink, TILE_COLUMNS};
use crate::parallel::Unwritten;
use crate::simd::multiversion;
use crate::types::Activation;

/// `residual + gate * value`, with one row of `gate` for every `rows_per_gate` rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Residual<'a> {
    /// As large as the output.
    pub(super) values: &'a [f32],
    /// Rows of the output's width; without it the gate is one.
    pub(super) gate: Option<&'a [f32]>,
    /// Rows that share a gate.
    pub(super) rows_per_gate: usize,
}

/// The pointwise end of a linear layer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Epilogue<'a> {
    /// `activation(product + bias)`.
    Activate(Activation),
    /// `residual + gate * (product + bias)`.
    Residual(Residual<'a>),
    /// First half of the product times GELU of the second, this many panels on.
    Gated(usize),
}

/// Writes tiles to an output of `width` columns.
pub(super) struct LinearSink<'a> {
    pub(super) output: &'a Unwritten,
    pub(super) width: usize,
    /// Padded with zeros to whole panels.
    pub(super) bias: &'a [f32],
    pub(super) epilogue: Epilogue<'a>,
}

impl Sink for LinearSink<'_> {
    #[cfg(target_arch = "x86_64")]
    fn expect(&self, first_row: usize, rows: usize, first_column: usize) {
        use std::arch::x86_64::{_MM_HINT_ET0, _MM_HINT_T0, _mm_prefetch};
        let columns = TILE_COLUMNS.min(self.width - first_column);
        for row in first_row..first_row + rows {
            let start = row * self.width + first_column;
            #[allow(unsafe_code, reason = "a prefetch reads nothing; each tile has its own part of the output")]
            // SAFETY: the driver hands out each tile once, and tiles do not overlap.
            unsafe {
                for line in self.output.part(start, columns).chunks(16) {
                    _mm_prefetch::<_MM_HINT_ET0>(line.as_ptr().cast());
                }
                if let Epilogue::Residual(residual) = &self.epilogue {
                    for line in residual.values[start..start + columns].chunks(16) {
                        _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast());
                    }
                }
            }
        }
    }

    fn store(&self, tile: &Finished<'_>) {
        store_rows(self, tile);
    }
}

multiversion! {
fn store_rows(sink: &LinearSink<'_>, tile: &Finished<'_>) {
    let columns = tile.columns.min(sink.width - tile.first_column);
    let (sums, _) = tile.sums.as_chunks::<TILE_COLUMNS>();
    let (paired, _) = tile.paired.as_chunks::<TILE_COLUMNS>();
    for (index, (sums, paired)) in sums.iter().zip(paired).take(tile.rows).enumerate() {
        let start = (tile.first_row + index) * sink.width + tile.first_column;
        let mut values = sink.biased(sums, tile.first_column);
        match &sink.epilogue {
            Epilogue::Activate(activation) => activate::<FUSED>(&mut values, *activation),
            Epilogue::Residual(residual) => {
                let gate = sink.gate_row(residual, tile, index);
                add_residual(&mut values[..columns], &residual.values[start..start + columns], gate);
            }
            Epilogue::Gated(distance) => {
                let gates = sink.biased(paired, tile.first_column + distance * TILE_COLUMNS);
                for (value, gate) in values.iter_mut().zip(&gates) {
                    *value *= activated::<FUSED>(*gate, Activation::Gelu);
                }
            }
        }
        // SAFETY: the driver hands out each tile once, and tiles do not overlap.
        let output = unsafe { sink.output.part(start, columns) };
        match output.as_mut_array::<TILE_COLUMNS>() {
            Some(output) => *output = values,
            None => output.copy_from_slice(&values[..columns]),
        }
    }
}
}

/// One loop for each activation.
#[inline(always)]
fn activate<const FUSED: bool>(values: &mut [f32; TILE_COLUMNS], activation: Activation) {
    let mut each = |activation| values.iter_mut().for_each(|value| *value = activated::<FUSED>(*value, activation));
    match activation {
        Activation::None => {}
        Activation::GeluTanh => each(Activation::GeluTanh),
        Activation::Gelu => each(Activation::Gelu),
        Activation::Silu => each(Activation::Silu),
    }
}

impl LinearSink<'_> {
    #[inline(always)]
    fn biased(&self, sums: &[f32; TILE_COLUMNS], first_column: usize) -> [f32; TILE_COLUMNS] {
        let mut values = *sums;
        for (value, bias) in values.iter_mut().zip(&self.bias[first_column..first_column + TILE_COLUMNS]) {
            *value += bias;
        }
        values
    }

    #[inline(always)]
    fn gate_row<'a>(&self, residual: &Residual<'a>, tile: &Finished<'_>, index: usize) -> Option<&'a [f32]> {
        let start = (tile.first_row + index) / residual.rows_per_gate * self.width + tile.first_column;
        residual.gate.map(|gate| &gate[start..])
    }
}

#[inline(always)]
fn add_residual(values: &mut [f32], residual: &[f32], gate: Option<&[f32]>) {
    match gate {
        Some(gate) => {
            for ((value, residual), gate) in values.iter_mut().zip(residual).zip(gate) {
                *value = residual + gate * *value;
            }
        }
        None => {
            for (value, residual) in values.iter_mut().zip(residual) {
                *value += residual;
            }
        }
    }
}
