//! Tile kernels without any instruction set in mind: the fallback, and the reference of the others.
#![allow(unsafe_code, reason = "tiles are read through the addresses that their caller vouches for")]

use super::{TILE_COLUMNS, kernel::Tile};

/// Calls `step(row pointer at this step, 64 panel words, that row's sums)` over a tile in depth order.
///
/// # Safety
/// As [`super::Kernel::run`].
#[inline(always)]
unsafe fn for_each_step<Sum: Copy>(
    tile: &Tile<'_>,
    zero: Sum,
    row_bytes: usize,
    mut step: impl FnMut(*const u8, &[u32; TILE_COLUMNS], &mut [Sum; TILE_COLUMNS]),
) {
    for row in 0..tile.rows {
        // SAFETY: sums hold TILE_ROWS rows of TILE_COLUMNS elements of four bytes.
        let sums = unsafe { &mut *tile.sums.add(row * TILE_COLUMNS).cast::<[Sum; TILE_COLUMNS]>() };
        if !tile.accumulate {
            sums.fill(zero);
        }
        let mut panel = tile.panel.cast::<[u32; TILE_COLUMNS]>();
        for index in 0..tile.steps {
            // SAFETY: `steps` steps are readable behind each row pointer and in the panel.
            unsafe {
                step(tile.pointers[row].add(index * row_bytes), &*panel, sums);
                panel = panel.add(1);
            }
        }
    }
}

/// `f32` rows by `f32` panels.
///
/// # Safety
/// As [`super::Kernel::run`].
pub(crate) unsafe fn tile_f32(tile: &Tile<'_>) {
    // SAFETY: by the caller.
    unsafe {
        for_each_step(tile, 0f32, 4, |row, panel, sums| {
            let value = row.cast::<f32>().read_unaligned();
            for (sum, word) in sums.iter_mut().zip(panel) {
                *sum += value * f32::from_bits(*word);
            }
        });
    }
}

/// `f32` rows by `bf16` panels.
///
/// # Safety
/// As [`super::Kernel::run`].
pub(crate) unsafe fn tile_bf16_widened(tile: &Tile<'_>) {
    // SAFETY: by the caller.
    unsafe {
        for_each_step(tile, 0f32, 8, |row, panel, sums| {
            let [even, odd] = row.cast::<[f32; 2]>().read_unaligned();
            for (sum, word) in sums.iter_mut().zip(panel) {
                *sum += even * f32::from_bits(*word << 16);
                *sum += odd * f32::from_bits(*word & 0xffff_0000);
            }
        });
    }
}

/// Unsigned 8-bit rows by signed 8-bit panels; sums are `i32`.
///
/// # Safety
/// As [`super::Kernel::run`].
pub(crate) unsafe fn tile_int8(tile: &Tile<'_>) {
    // SAFETY: by the caller.
    unsafe {
        for_each_step(tile, 0i32, 4, |row, panel, sums| {
            let values = row.cast::<[u8; 4]>().read_unaligned();
            for (sum, word) in sums.iter_mut().zip(panel) {
                for (value, weight) in values.into_iter().zip(word.to_le_bytes()) {
                    *sum += i32::from(value) * i32::from(weight.cast_signed());
                }
            }
        });
    }
}
