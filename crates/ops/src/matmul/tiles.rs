//! Tile kernels for machines with matrix tiles: 32 rows by 64 columns.
#![allow(unsafe_code, reason = "assembly on raw addresses that the caller vouches for")]

use super::{TILE_COLUMNS, kernel::Tile};
use crate::amx::{self, Block, Numbers, ROWS};

/// Most runs of 16 steps in one call, more than the driver asks for.
const RUNS: usize = 64;

/// Converted rows lie without gaps.
const OFFSETS: [u32; RUNS] = {
    let mut offsets = [0; RUNS];
    let mut run = 0;
    while run < RUNS {
        offsets[run] = (run * amx::ROW_BYTES) as u32;
        run += 1;
    }
    offsets
};

/// `bf16` rows by `bf16` panels, sums in `f32`.
///
/// # Safety
/// As [`super::Kernel::run`]; the thread's tiles are shaped.
pub(crate) unsafe fn tile_bf16(tile: &Tile<'_>) {
    // SAFETY: by the caller.
    unsafe { multiply(Numbers::Bf16, tile) }
}

/// Unsigned 8-bit rows by signed 8-bit panels, sums in `i32`.
///
/// # Safety
/// As [`super::Kernel::run`]; the thread's tiles are shaped.
pub(crate) unsafe fn tile_int8(tile: &Tile<'_>) {
    // SAFETY: by the caller.
    unsafe { multiply(Numbers::Int8, tile) }
}

unsafe fn multiply(numbers: Numbers, tile: &Tile<'_>) {
    let first = tile.pointers[0];
    let second = (tile.rows > ROWS).then(|| first.wrapping_add(ROWS * tile.stride));
    let block = Block {
        rows: (first, second),
        stride: tile.stride,
        offsets: &OFFSETS[..tile.steps / ROWS],
        panel: tile.panel,
        ahead: tile.ahead,
        columns: tile.columns,
        sums: (tile.sums, tile.sums.wrapping_add(ROWS * TILE_COLUMNS)),
        sums_step: TILE_COLUMNS,
        accumulate: tile.accumulate,
    };
    // SAFETY: by the caller; steps of a panel come in whole runs, and rows were converted in whole tiles.
    unsafe { amx::multiply(numbers, &block) }
}
