//! Tiles in the vector instructions of x86-64.

use super::{LANES, NEIGHBOURS, Pointers, SIDE_BY_SIDE, next_rows};
use std::arch::x86_64::*;
use std::hint::black_box;

/// The body shared by both AVX-512 tiles: `$multiply` adds the products of one step.
macro_rules! tile_512 {
    ($pointers:ident, $rows:ident, $width:ident, $multiply:expr) => {{
        let mut total = [[_mm512_setzero_ps(); $width]; $rows];
        // `rows` calls for 16 rows only where they are neighbours.
        let left_step = if $rows == 16 { 1 } else { $pointers.left_step };
        if $pointers.accumulate {
            for row in 0..$rows {
                for column in 0..$width {
                    let source = $pointers.sums.add(row * $pointers.sums_step + column * LANES);
                    total[row][column] = _mm512_loadu_ps(source);
                }
            }
        }
        let mut right = $pointers.right.cast::<f32>();
        for &offset in $pointers.offsets {
            let left = $pointers.left.add(offset as usize).cast::<f32>();
            let mut columns = [_mm512_setzero_ps(); $width];
            for column in 0..$width {
                columns[column] = _mm512_loadu_ps(right.add(column * LANES));
            }
            right = right.add($width * LANES);
            for row in 0..$rows {
                let value = _mm512_set1_ps(*left.add(row * left_step));
                for column in 0..$width {
                    total[row][column] = $multiply(total[row][column], value, columns[column]);
                }
            }
        }
        for row in 0..$rows {
            for column in 0..$width {
                let target = $pointers.sums.add(row * $pointers.sums_step + column * LANES);
                _mm512_storeu_ps(target, total[row][column]);
            }
        }
    }};
}

/// # Safety
/// 32 values and 16 words lie at the pointers; the machine has AVX-512 with bf16.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn narrow(values: *const f32, words: *mut u32) {
    // SAFETY: the caller's promise; the cast only renames the vector's type.
    unsafe {
        let pairs = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(values.add(LANES)), _mm512_loadu_ps(values));
        _mm512_storeu_si512(words.cast(), std::mem::transmute::<__m512bh, __m512i>(pairs));
    }
}

/// # Safety
/// All rows lie inside their slices; the machine has AVX-512 with bf16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) unsafe fn tile_bf16<const ROWS: usize, const WIDTH: usize>(pointers: Pointers<'_>) {
    // SAFETY: the caller's promise; the casts only rename the vector's type.
    unsafe {
        tile_512!(pointers, ROWS, WIDTH, |total, left: __m512, right: __m512| _mm512_dpbf16_ps(
            total,
            std::mem::transmute::<__m512, __m512bh>(left),
            std::mem::transmute::<__m512, __m512bh>(right)
        ));
    }
}

/// # Safety
/// All rows lie inside their slices; the machine has AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn tile_avx512<const ROWS: usize, const WIDTH: usize>(pointers: Pointers<'_>) {
    // SAFETY: the caller's promise.
    unsafe { tile_512!(pointers, ROWS, WIDTH, |total, left, right| _mm512_fmadd_ps(left, right, total)) }
}

/// Tiles of 6 rows or fewer by 16 columns, or of 8 by 8 for one half of them; the panel is one vector wide.
///
/// # Safety
/// All rows lie inside their slices; the machine has AVX2 and fused multiply-add. The left factor is as `LEFT` says.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn tiles_avx2<const HALVES: usize, const LEFT: u8>(mut pointers: Pointers<'_>, mut left: usize) {
    while left > 0 {
        let rows = if HALVES == 1 { left.min(8) } else { next_rows(left) };
        pointers.look_ahead(left, 6);
        // SAFETY: the caller's promise.
        unsafe {
            match rows {
                1 => rows_avx2::<1, HALVES, LEFT>(pointers),
                2 => rows_avx2::<2, HALVES, LEFT>(pointers),
                3 => rows_avx2::<3, HALVES, LEFT>(pointers),
                4 => rows_avx2::<4, HALVES, LEFT>(pointers),
                5 => rows_avx2::<5, HALVES, LEFT>(pointers),
                6 => rows_avx2::<6, HALVES, LEFT>(pointers),
                7 => rows_avx2::<7, HALVES, LEFT>(pointers),
                _ => rows_avx2::<8, HALVES, LEFT>(pointers),
            }
        }
        left -= rows;
        // One past the last row at most, and not read there.
        pointers.left = pointers.left.wrapping_add(rows * pointers.left_step);
        pointers.sums = pointers.sums.wrapping_add(rows * pointers.sums_step);
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn rows_avx2<const ROWS: usize, const HALVES: usize, const LEFT: u8>(pointers: Pointers<'_>) {
    // SAFETY: the caller's promise.
    unsafe {
        let target = |row: usize, half: usize| pointers.sums.add(row * pointers.sums_step + half * LANES / 2);
        // Addresses in registers of their own: knowing their distance, the compiler would add it up at each step.
        let apart: [*const u32; ROWS] = match LEFT {
            NEIGHBOURS => [pointers.left; ROWS],
            _ => black_box(std::array::from_fn(|row| pointers.left.wrapping_add(row * pointers.left_step))),
        };
        let mut total = [[_mm256_setzero_ps(); HALVES]; ROWS];
        if pointers.accumulate {
            for (row, total) in total.iter_mut().enumerate() {
                *total = std::array::from_fn(|half| _mm256_loadu_ps(target(row, half)));
            }
        }
        let mut right = pointers.right.cast::<f32>();
        for (step, &offset) in pointers.offsets.iter().enumerate() {
            let offset = if LEFT == SIDE_BY_SIDE { step } else { offset as usize };
            let neighbours = pointers.left.add(offset);
            let columns: [__m256; HALVES] = std::array::from_fn(|half| _mm256_loadu_ps(right.add(half * LANES / 2)));
            right = right.add(LANES);
            for (row, total) in total.iter_mut().enumerate() {
                let left = if LEFT == NEIGHBOURS { neighbours.add(row) } else { apart[row].add(offset) };
                let value = _mm256_set1_ps(*left.cast::<f32>());
                for (total, column) in total.iter_mut().zip(columns) {
                    *total = _mm256_fmadd_ps(value, column, *total);
                }
            }
        }
        for (row, total) in total.iter().enumerate() {
            for (half, total) in total.iter().enumerate() {
                _mm256_storeu_ps(target(row, half), *total);
            }
        }
    }
}
