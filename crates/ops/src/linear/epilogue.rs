//! What happens to a finished tile of a linear layer on its way to the output.

use crate::matmul::{Finished, Instructions, SharedOutput, Sink, TILE_COLUMNS, vector_math};
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
#[derive(Clone, Copy, Debug)]
pub(super) struct LinearSink<'a> {
    pub(super) output: SharedOutput,
    pub(super) width: usize,
    /// Padded with zeros to whole panels.
    pub(super) bias: &'a [f32],
    pub(super) epilogue: Epilogue<'a>,
    pub(super) instructions: Instructions,
}

impl Sink for LinearSink<'_> {
    #[allow(unsafe_code, reason = "the instructions were detected")]
    fn store(&self, tile: &Finished<'_>) {
        match self.instructions {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: detected.
            Instructions::Avx512 => unsafe { self.store_avx512(tile) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: detected.
            Instructions::Avx2 => unsafe { self.store_avx2(tile) },
            _ => self.store_rows(tile),
        }
    }
}

impl LinearSink<'_> {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    #[allow(unsafe_code, reason = "the same loops, compiled for AVX-512")]
    unsafe fn store_avx512(&self, tile: &Finished<'_>) {
        self.store_rows(tile);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    #[allow(unsafe_code, reason = "the same loops, compiled for AVX2")]
    unsafe fn store_avx2(&self, tile: &Finished<'_>) {
        self.store_rows(tile);
    }

    #[inline(always)]
    fn store_rows(&self, tile: &Finished<'_>) {
        let columns = tile.columns.min(self.width - tile.first_column);
        let (sums, _) = tile.sums.as_chunks::<TILE_COLUMNS>();
        let (paired, _) = tile.paired.as_chunks::<TILE_COLUMNS>();
        for (index, (sums, paired)) in sums.iter().zip(paired).take(tile.rows).enumerate() {
            let start = (tile.first_row + index) * self.width + tile.first_column;
            let mut values = self.biased(sums, tile.first_column);
            match &self.epilogue {
                Epilogue::Activate(activation) => vector_math::activate(*activation, &mut values),
                Epilogue::Residual(residual) => {
                    let gate = self.gate_row(residual, tile, index);
                    add_residual(&mut values[..columns], &residual.values[start..start + columns], gate);
                }
                Epilogue::Gated(distance) => {
                    let gates = self.biased(paired, tile.first_column + distance * TILE_COLUMNS);
                    for (value, gate) in values.iter_mut().zip(&gates) {
                        *value *= vector_math::gelu(*gate);
                    }
                }
            }
            #[allow(unsafe_code, reason = "each tile has its own part of the output")]
            // SAFETY: the driver hands out each tile once.
            let output = unsafe { self.output.slice(start, columns) };
            match output.as_mut_array::<TILE_COLUMNS>() {
                Some(output) => *output = values,
                None => output.copy_from_slice(&values[..columns]),
            }
        }
    }

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
