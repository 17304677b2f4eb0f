//! Turning blocks of 16 columns round.

use crate::simd::{Level, level};
use crate::tile::LANES;

/// A 4-byte word that is moved, not computed with.
pub(crate) trait Word: Copy {}
impl Word for f32 {}
impl Word for u32 {}

/// Writes the first 16 columns of `rows` rows (`source_step` apart) as 16 rows (`target_step` apart).
///
/// # Panics
/// When a slice is too short: a mistake in this crate.
pub(crate) fn transpose<T: Word>(source: &[T], source_step: usize, rows: usize, target: &mut [T], target_step: usize) {
    if rows == 0 {
        return;
    }
    assert!((rows - 1) * source_step + LANES <= source.len());
    assert!((LANES - 1) * target_step + rows <= target.len());
    let whole = match level() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Avx512Bf16 | Level::Amx => {
            for row in (0..rows / LANES * LANES).step_by(LANES) {
                let (source, target) = (&source[row * source_step..], &mut target[row..]);
                // SAFETY: sixteen rows and columns lie inside both slices by the assertions; AVX-512 was found.
                #[allow(unsafe_code)]
                unsafe {
                    let (source, target) = (source.as_ptr().cast(), target.as_mut_ptr().cast());
                    x86::transpose16(source, source_step, target, target_step);
                }
            }
            rows / LANES * LANES
        }
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => {
            for row in (0..rows / 8 * 8).step_by(8) {
                for column in [0, 8] {
                    let (source, target) =
                        (&source[row * source_step + column..], &mut target[column * target_step + row..]);
                    // SAFETY: eight rows and columns lie inside both slices by the assertions; AVX2 was found.
                    #[allow(unsafe_code)]
                    unsafe {
                        let (source, target) = (source.as_ptr().cast(), target.as_mut_ptr().cast());
                        x86::transpose8(source, source_step, target, target_step);
                    }
                }
            }
            rows / 8 * 8
        }
        _ => 0,
    };
    for row in whole..rows {
        for column in 0..LANES {
            target[column * target_step + row] = source[row * source_step + column];
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod x86 {
    use std::arch::x86_64::*;

    /// # Safety
    /// 8 rows of 8 values lie at both pointers; the machine has AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn transpose8(source: *const f32, source_step: usize, target: *mut f32, target_step: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            // Half-rows of rows r and r + 4 share a vector, so that a 4 by 4 turn in each lane is all that is left.
            let pair = |row: usize, half: usize| {
                let low = _mm_loadu_ps(source.add(row * source_step + 4 * half));
                let high = _mm_loadu_ps(source.add((row + 4) * source_step + 4 * half));
                _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(low), high)
            };
            for half in 0..2 {
                let (a, b, c, d) = (pair(0, half), pair(1, half), pair(2, half), pair(3, half));
                let pd = |value| _mm256_castps_pd(value);
                let low = (pd(_mm256_unpacklo_ps(a, b)), pd(_mm256_unpacklo_ps(c, d)));
                let high = (pd(_mm256_unpackhi_ps(a, b)), pd(_mm256_unpackhi_ps(c, d)));
                let turned = [
                    _mm256_unpacklo_pd(low.0, low.1),
                    _mm256_unpackhi_pd(low.0, low.1),
                    _mm256_unpacklo_pd(high.0, high.1),
                    _mm256_unpackhi_pd(high.0, high.1),
                ];
                for (column, values) in turned.into_iter().enumerate() {
                    _mm256_storeu_ps(target.add((4 * half + column) * target_step), _mm256_castpd_ps(values));
                }
            }
        }
    }

    /// # Safety
    /// 16 rows of 16 values lie at both pointers; the machine has AVX-512.
    #[target_feature(enable = "avx512f,avx512dq")]
    pub(super) unsafe fn transpose16(source: *const f32, source_step: usize, target: *mut f32, target_step: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            // Within each group of four rows, 128-bit lane l of quad[4·group + c] holds column 4·l + c.
            let mut quad = [_mm512_setzero_ps(); 16];
            for group in 0..4 {
                let row = |index: usize| _mm512_loadu_ps(source.add((4 * group + index) * source_step));
                let (a, b, c, d) = (row(0), row(1), row(2), row(3));
                let low = (_mm512_unpacklo_ps(a, b), _mm512_unpacklo_ps(c, d));
                let high = (_mm512_unpackhi_ps(a, b), _mm512_unpackhi_ps(c, d));
                let pd = |value| _mm512_castps_pd(value);
                quad[4 * group] = _mm512_castpd_ps(_mm512_unpacklo_pd(pd(low.0), pd(low.1)));
                quad[4 * group + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(pd(low.0), pd(low.1)));
                quad[4 * group + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(pd(high.0), pd(high.1)));
                quad[4 * group + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(pd(high.0), pd(high.1)));
            }
            // Then the lanes of the four groups are gathered: two rounds of picking even and odd lanes.
            for column in 0..4 {
                let (a, b, c, d) = (quad[column], quad[4 + column], quad[8 + column], quad[12 + column]);
                let even = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0x88>(c, d));
                let odd = (_mm512_shuffle_f32x4::<0xdd>(a, b), _mm512_shuffle_f32x4::<0xdd>(c, d));
                let out = |lane: usize| target.add((4 * lane + column) * target_step);
                _mm512_storeu_ps(out(0), _mm512_shuffle_f32x4::<0x88>(even.0, even.1));
                _mm512_storeu_ps(out(1), _mm512_shuffle_f32x4::<0x88>(odd.0, odd.1));
                _mm512_storeu_ps(out(2), _mm512_shuffle_f32x4::<0xdd>(even.0, even.1));
                _mm512_storeu_ps(out(3), _mm512_shuffle_f32x4::<0xdd>(odd.0, odd.1));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_every_size_round() {
        for rows in [0, 1, 15, 16, 17, 40] {
            let source: Vec<f32> = (0..rows * 20).map(|index| index as f32).collect();
            let mut target = vec![0.0; LANES * 41];
            transpose(&source, 20, rows, &mut target, 41);
            for (row, column) in (0..rows).flat_map(|row| (0..LANES).map(move |column| (row, column))) {
                assert_eq!(target[column * 41 + row], source[row * 20 + column]);
            }
        }
    }
}
