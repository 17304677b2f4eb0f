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
    let bias = &sink.bias[tile.first_column..][..columns];
    for index in 0..tile.rows {
        let start = (tile.first_row + index) * sink.width + tile.first_column;
        let sums = &tile.sums[index * TILE_COLUMNS..][..columns];
        // SAFETY: the driver hands out each tile once, and tiles do not overlap.
        let output = unsafe { sink.output.part(start, columns) };
        match &sink.epilogue {
            Epilogue::Activate(activation) => activate::<FUSED>(output, sums, bias, *activation),
            Epilogue::Residual(residual) => {
                write(output, sums, bias, |value| value);
                let row = (tile.first_row + index) / residual.rows_per_gate * sink.width + tile.first_column;
                add_residual(output, &residual.values[start..], residual.gate.map(|gate| &gate[row..]));
            }
            Epilogue::Gated(distance) => {
                let gate_bias = &sink.bias[tile.first_column + distance * TILE_COLUMNS..];
                let gates = tile.paired[index * TILE_COLUMNS..].iter().zip(gate_bias);
                write(output, sums, bias, |value| value);
                for (output, (gate, bias)) in output.iter_mut().zip(gates) {
                    *output *= activated::<FUSED>(gate + bias, Activation::Gelu);
                }
            }
        }
    }
}
}

/// One loop for each activation.
#[inline(always)]
fn activate<const FUSED: bool>(output: &mut [f32], sums: &[f32], bias: &[f32], activation: Activation) {
    match activation {
        Activation::None => write(output, sums, bias, |value| value),
        Activation::GeluTanh => {
            write(output, sums, bias, |value| activated::<FUSED>(value, Activation::GeluTanh));
        }
        Activation::Gelu => write(output, sums, bias, |value| activated::<FUSED>(value, Activation::Gelu)),
        Activation::Silu => write(output, sums, bias, |value| activated::<FUSED>(value, Activation::Silu)),
    }
}

#[inline(always)]
fn write(output: &mut [f32], sums: &[f32], bias: &[f32], function: impl Fn(f32) -> f32) {
    for ((output, sum), bias) in output.iter_mut().zip(sums).zip(bias) {
        *output = function(sum + bias);
    }
}

#[inline(always)]
fn add_residual(output: &mut [f32], residual: &[f32], gate: Option<&[f32]>) {
    match gate {
        Some(gate) => {
            for ((output, residual), gate) in output.iter_mut().zip(residual).zip(gate) {
                *output = residual + gate * *output;
            }
        }
        None => {
            for (output, residual) in output.iter_mut().zip(residual) {
                *output += residual;
            }
        }
    }
}
