//! Kernels for AVX2 with FMA: six rows by a strip of two 256-bit columns.
//!
//! Twelve sums, two columns and one broadcast take 15 of the 16 registers. A step is 8 loads for 12 multiply-adds, which
//! a core with two multipliers and three load ports has in six cycles, as long as the strip comes from the first-level
//! cache: so narrow factors are widened into it strip by strip, once for all rows of a block.
#![allow(unsafe_code, reason = "intrinsics on raw addresses that the caller vouches for")]

use std::arch::x86_64::*;
use std::hint::black_box;

use super::{STRIP_COLUMNS, TILE_COLUMNS, TILE_ROWS, kernel::StripRun};

/// Defines a strip kernel: `$add(sum, row step as 8 words, column)` with sums kept as bits in `__m256i`.
macro_rules! strip_kernel {
    ($(#[$doc:meta])* $name:ident, $inner:ident, $add:expr) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// As [`super::kernel::Strips::run`]; the machine must have AVX2 and FMA.
        #[target_feature(enable = "avx2,fma")]
        pub(crate) unsafe fn $name(run: &StripRun) {
            let (mut rows, mut sums, mut left) = (run.rows, run.sums, run.count);
            while left > 0 {
                // SAFETY: by the caller.
                unsafe {
                    match left {
                        1 => $inner::<1>(run, rows, sums),
                        2 => $inner::<2>(run, rows, sums),
                        3 => $inner::<3>(run, rows, sums),
                        4 => $inner::<4>(run, rows, sums),
                        5 => $inner::<5>(run, rows, sums),
                        _ => $inner::<TILE_ROWS>(run, rows, sums),
                    }
                }
                // Past the end at last, and not read there.
                rows = rows.wrapping_add(TILE_ROWS * run.stride);
                sums = sums.wrapping_add(run.tile_step);
                left = left.saturating_sub(TILE_ROWS);
            }
        }

        #[inline]
        #[target_feature(enable = "avx2,fma")]
        unsafe fn $inner<const ROWS: usize>(run: &StripRun, rows: *const u8, target: *mut f32) {
            let mut sums = [[_mm256_setzero_si256(); 2]; ROWS];
            let rows: [*const i32; ROWS] = std::array::from_fn(|row| rows.wrapping_add(row * run.stride).cast());
            // Addresses in registers of their own: knowing their distance, the compiler would add it up at each step, which
            // takes an eighth longer.
            let rows = black_box(rows);
            // SAFETY: sums, rows and strip are as `StripRun` says.
            unsafe {
                let target = |row: usize, half: usize| target.add(row * TILE_COLUMNS + half * 8).cast::<__m256i>();
                if run.accumulate {
                    for (row, sums) in sums.iter_mut().enumerate() {
                        *sums = [_mm256_load_si256(target(row, 0)), _mm256_load_si256(target(row, 1))];
                    }
                }
                let mut strip = run.strip.cast::<__m256i>();
                for step in 0..run.steps {
                    let columns = [_mm256_load_si256(strip), _mm256_load_si256(strip.add(1))];
                    for (row, sums) in rows.iter().zip(&mut sums) {
                        let value = _mm256_set1_epi32(row.add(step).read_unaligned());
                        *sums = [$add(sums[0], value, columns[0]), $add(sums[1], value, columns[1])];
                    }
                    strip = strip.add(2);
                }
                for (row, sums) in sums.iter().enumerate() {
                    _mm256_store_si256(target(row, 0), sums[0]);
                    _mm256_store_si256(target(row, 1), sums[1]);
                }
            }
        }
    };
}

strip_kernel!(
    /// `f32` rows by a strip of `f32`.
    strip_f32,
    rows_f32,
    |sum, row, column| _mm256_castps_si256(_mm256_fmadd_ps(
        _mm256_castsi256_ps(row),
        _mm256_castsi256_ps(column),
        _mm256_castsi256_ps(sum)
    ))
);

strip_kernel!(
    /// Rows by a strip of signed 16-bit pairs, sums in `i32`: a multiplication of pairs does twice what one of `f32` does.
    strip_pairs,
    rows_pairs,
    |sum, row, column| _mm256_add_epi32(sum, _mm256_madd_epi16(row, column))
);

/// Widens `steps` steps of a strip from pairs of `bf16` to `f32`, one step to two.
///
/// # Safety
/// As [`super::kernel::Widen`]; the machine must have AVX2.
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn widen_bf16(strip: *const u8, steps: usize, target: *mut u8) {
    let high = _mm256_set1_epi32(0xffff_0000_u32.cast_signed());
    // SAFETY: two vectors in, four out for each step; by the caller.
    unsafe {
        let (strip, target) = (strip.cast::<__m256i>(), target.cast::<__m256i>());
        for step in 0..steps {
            let words = [_mm256_load_si256(strip.add(2 * step)), _mm256_load_si256(strip.add(2 * step + 1))];
            let target = target.add(4 * step);
            for (half, words) in words.into_iter().enumerate() {
                _mm256_store_si256(target.add(half), _mm256_slli_epi32::<16>(words));
                _mm256_store_si256(target.add(2 + half), _mm256_and_si256(words, high));
            }
        }
    }
}

/// Widens `steps` steps of a strip from fours of signed bytes to pairs of 16 bits, one step to two.
///
/// # Safety
/// As [`super::kernel::Widen`]; the machine must have AVX2.
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn widen_int8(strip: *const u8, steps: usize, target: *mut u8) {
    // Each byte to the upper half of a 16-bit number, from where a shift carries its sign down.
    let first = _mm256_set1_epi64x(0x05_80_04_80_01_80_00_80_u64.cast_signed());
    let first = _mm256_add_epi8(first, upper_lanes());
    let second = _mm256_set1_epi64x(0x07_80_06_80_03_80_02_80_u64.cast_signed());
    let second = _mm256_add_epi8(second, upper_lanes());
    // SAFETY: two vectors in, four out for each step; by the caller.
    unsafe {
        let (strip, target) = (strip.cast::<__m256i>(), target.cast::<__m256i>());
        for step in 0..steps {
            let words = [_mm256_load_si256(strip.add(2 * step)), _mm256_load_si256(strip.add(2 * step + 1))];
            let target = target.add(4 * step);
            for (half, words) in words.into_iter().enumerate() {
                let pairs = |order| _mm256_srai_epi16::<8>(_mm256_shuffle_epi8(words, order));
                _mm256_store_si256(target.add(half), pairs(first));
                _mm256_store_si256(target.add(2 + half), pairs(second));
            }
        }
    }
}

/// 8 for every byte that a shuffle takes from the upper half of its 16 bytes, and 0 where it takes none.
#[target_feature(enable = "avx2")]
fn upper_lanes() -> __m256i {
    let eights = 0x08_00_08_00_08_00_08_00;
    _mm256_set_epi64x(eights, 0, eights, 0)
}

const _: () = assert!(STRIP_COLUMNS == 16, "the kernels above are two vectors of eight wide");
