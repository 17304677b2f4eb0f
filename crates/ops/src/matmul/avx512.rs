//! Tile kernels for AVX-512: six rows by four 512-bit columns.
//!
//! The four panel registers are loaded once per step and each row's step is broadcast straight from where it lies, so a
//! step is 10 loads for 24 multiply-adds: below what the load ports give, and the multiplier never waits.
#![allow(unsafe_code, reason = "intrinsics on raw addresses that the caller vouches for")]

use std::arch::x86_64::*;

use super::{TILE_COLUMNS, kernel::Tile};

/// Defines a tile kernel: `$multiply_add(sum, row step as 16 words, panel)` with sums kept as bits in `__m512i`.
macro_rules! tile_kernel {
    ($(#[$doc:meta])* $name:ident, $inner:ident, $features:literal, $multiply_add:expr) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// As [`super::Kernel::run`]; the machine must have the instructions.
        pub(crate) unsafe fn $name(tile: &Tile<'_>) {
            // SAFETY: by the caller.
            unsafe {
                match tile.rows {
                    1 => $inner::<1>(tile),
                    2 => $inner::<2>(tile),
                    3 => $inner::<3>(tile),
                    4 => $inner::<4>(tile),
                    5 => $inner::<5>(tile),
                    _ => $inner::<6>(tile),
                }
            }
        }

        #[target_feature(enable = $features)]
        unsafe fn $inner<const ROWS: usize>(tile: &Tile<'_>) {
            let mut sums = [[_mm512_setzero_si512(); 4]; ROWS];
            // SAFETY: sums, rows and panel are as `Tile` says.
            unsafe {
                if tile.accumulate {
                    for (row, sums) in sums.iter_mut().enumerate() {
                        for (column, sum) in sums.iter_mut().enumerate() {
                            *sum = _mm512_load_si512(tile.sums.add(row * TILE_COLUMNS + column * 16).cast());
                        }
                    }
                }
                let (mut panel, mut ahead) = (tile.panel, tile.ahead);
                let mut offset = 0;
                for _ in 0..tile.steps {
                    let columns: [__m512i; 4] =
                        std::array::from_fn(|column| _mm512_load_si512(panel.add(column * 64).cast()));
                    _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
                    ahead = ahead.wrapping_add(64);
                    for row in 0..ROWS {
                        let step = tile.pointers[row].add(offset).cast::<i32>().read_unaligned();
                        let step = _mm512_set1_epi32(step);
                        for column in 0..4 {
                            sums[row][column] = $multiply_add(sums[row][column], step, columns[column]);
                        }
                    }
                    offset += 4;
                    panel = panel.add(256);
                }
                for (row, sums) in sums.iter().enumerate() {
                    for (column, sum) in sums.iter().enumerate() {
                        _mm512_store_si512(tile.sums.add(row * TILE_COLUMNS + column * 16).cast(), *sum);
                    }
                }
            }
        }
    };
}

tile_kernel!(
    /// `f32` rows by `f32` panels.
    tile_f32,
    rows_f32,
    "avx512f",
    |sum, row, panel| _mm512_castps_si512(_mm512_fmadd_ps(
        _mm512_castsi512_ps(row),
        _mm512_castsi512_ps(panel),
        _mm512_castsi512_ps(sum)
    ))
);

tile_kernel!(
    /// `bf16` rows by `bf16` panels, sums in `f32`.
    tile_bf16,
    rows_bf16,
    "avx512f,avx512bf16",
    |sum, row, panel| _mm512_castps_si512(_mm512_dpbf16_ps(
        _mm512_castsi512_ps(sum),
        std::mem::transmute::<__m512i, __m512bh>(row),
        std::mem::transmute::<__m512i, __m512bh>(panel)
    ))
);

tile_kernel!(
    /// Unsigned 8-bit rows by signed 8-bit panels, sums in `i32`.
    tile_int8,
    rows_int8,
    "avx512f,avx512vnni",
    |sum, row, panel| _mm512_dpbusd_epi32(sum, row, panel)
);

/// Rounds `values` to `bf16`, to nearest even, and writes them from `output` on.
///
/// # Safety
/// The machine must have AVX512-BF16 (with BW and VL), and `values.len()` elements of two bytes must be writable.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(crate) unsafe fn round_to_bf16(values: &[f32], output: *mut u8) {
    let (blocks, rest) = values.as_chunks::<16>();
    // SAFETY: each block writes 32 bytes, the rest as many elements as its mask has ones.
    unsafe {
        for (index, block) in blocks.iter().enumerate() {
            let rounded = _mm512_cvtneps_pbh(_mm512_loadu_ps(block.as_ptr()));
            _mm256_storeu_si256(output.add(index * 32).cast(), std::mem::transmute::<__m256bh, __m256i>(rounded));
        }
        if !rest.is_empty() {
            let mask = (1u16 << rest.len()) - 1;
            let rounded = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, rest.as_ptr()));
            let rounded = std::mem::transmute::<__m256bh, __m256i>(rounded);
            _mm256_mask_storeu_epi16(output.add(blocks.len() * 32).cast(), mask, rounded);
        }
    }
}
