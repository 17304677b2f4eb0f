//! Tile kernels for AVX2 with FMA: the tile's 64 columns in four strips of two 256-bit registers.
#![allow(unsafe_code, reason = "intrinsics on raw addresses that the caller vouches for")]

use std::arch::x86_64::*;

use super::{TILE_COLUMNS, kernel::Tile};

/// `f32` rows by `f32` panels.
///
/// # Safety
/// As [`super::Kernel::run`]; the machine must have AVX2 and FMA.
pub(crate) unsafe fn tile_f32(tile: &Tile<'_>) {
    // SAFETY: by the caller.
    unsafe {
        match tile.rows {
            1 => strips::<1, false>(tile, 0),
            2 => strips::<2, false>(tile, 0),
            3 => strips::<3, false>(tile, 0),
            4 => strips::<4, false>(tile, 0),
            5 => strips::<5, false>(tile, 0),
            _ => strips::<6, false>(tile, 0),
        }
    }
}

/// `f32` rows by `bf16` panels, which are widened in registers.
///
/// # Safety
/// As [`super::Kernel::run`]; the machine must have AVX2 and FMA.
pub(crate) unsafe fn tile_bf16_widened(tile: &Tile<'_>) {
    // Six rows would need more than the 16 registers: three and three.
    // SAFETY: by the caller.
    unsafe {
        match tile.rows {
            1 => strips::<1, true>(tile, 0),
            2 => strips::<2, true>(tile, 0),
            3 => strips::<3, true>(tile, 0),
            4 => {
                strips::<3, true>(tile, 0);
                strips::<1, true>(tile, 3);
            }
            5 => {
                strips::<3, true>(tile, 0);
                strips::<2, true>(tile, 3);
            }
            _ => {
                strips::<3, true>(tile, 0);
                strips::<3, true>(tile, 3);
            }
        }
    }
}

/// Rows `first..first + ROWS` of a tile.
#[target_feature(enable = "avx2,fma")]
unsafe fn strips<const ROWS: usize, const WIDENED: bool>(tile: &Tile<'_>, first: usize) {
    for strip in 0..TILE_COLUMNS / 16 {
        let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
        // SAFETY: sums, rows and panel are as `Tile` says.
        unsafe {
            let target = tile.sums.add(first * TILE_COLUMNS + strip * 16);
            if tile.accumulate {
                for (row, sums) in sums.iter_mut().enumerate() {
                    sums[0] = _mm256_load_ps(target.add(row * TILE_COLUMNS));
                    sums[1] = _mm256_load_ps(target.add(row * TILE_COLUMNS + 8));
                }
            }
            let mut panel = tile.panel.add(strip * 64);
            for step in 0..tile.steps {
                let words = [_mm256_load_si256(panel.cast()), _mm256_load_si256(panel.add(32).cast())];
                if WIDENED {
                    let even = words.map(|words| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words)));
                    add_step(&mut sums, tile.pointers, first, step * 8, even);
                    let high = _mm256_set1_epi32(0xffff_0000_u32.cast_signed());
                    let odd = words.map(|words| _mm256_castsi256_ps(_mm256_and_si256(words, high)));
                    add_step(&mut sums, tile.pointers, first, step * 8 + 4, odd);
                } else {
                    add_step(&mut sums, tile.pointers, first, step * 4, words.map(|words| _mm256_castsi256_ps(words)));
                }
                panel = panel.add(256);
            }
            for (row, sums) in sums.iter().enumerate() {
                _mm256_store_ps(target.add(row * TILE_COLUMNS), sums[0]);
                _mm256_store_ps(target.add(row * TILE_COLUMNS + 8), sums[1]);
            }
        }
    }
}

/// Adds one depth element, `offset` bytes into each row, to the sums of a strip.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn add_step<const ROWS: usize>(
    sums: &mut [[__m256; 2]; ROWS],
    pointers: &[*const u8; super::TILE_ROWS],
    first: usize,
    offset: usize,
    columns: [__m256; 2],
) {
    for (sums, pointer) in sums.iter_mut().zip(&pointers[first..]) {
        // SAFETY: the offset lies within the row.
        let value = unsafe { _mm256_set1_ps(pointer.add(offset).cast::<f32>().read_unaligned()) };
        sums[0] = _mm256_fmadd_ps(value, columns[0], sums[0]);
        sums[1] = _mm256_fmadd_ps(value, columns[1], sums[1]);
    }
}
