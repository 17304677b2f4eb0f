//! Rows of a product, in the form its kernel reads.

use super::{Buffer, Kernel, Operand};
use crate::simd::{Level, multiversion};

/// What a thread keeps from product to product: converted rows and unfinished sums.
#[derive(Debug, Default)]
pub(crate) struct RowScratch {
    /// Converted rows, [`RowScratch::stride`] bytes apart.
    pub(crate) rows: Buffer,
    /// Bytes from one converted row to the next.
    pub(crate) stride: usize,
    /// Per loaded row, for int8: what one unit stands for.
    pub(crate) scales: Vec<f32>,
    /// Sums of the tiles in work.
    pub(crate) sums: Buffer,
    /// A strip of a panel, widened.
    pub(crate) strip: Buffer,
}

/// Rows of a contiguous `f32` matrix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    values: &'a [f32],
    depth: usize,
    rows: usize,
}

impl<'a> Rows<'a> {
    /// `values.len() / depth` rows of `depth`.
    pub(crate) fn new(values: &'a [f32], depth: usize) -> Self {
        Self { values, depth, rows: values.len() / depth.max(1) }
    }

    /// Number of rows.
    pub(crate) fn len(&self) -> usize {
        self.rows
    }

    /// Whether `kernel` reads the matrix as it is.
    fn in_place(&self, kernel: &Kernel) -> bool {
        match kernel.operand {
            Operand::F32 => true,
            Operand::Bf16Widened => self.depth.is_multiple_of(2),
            Operand::Bf16 | Operand::Int8 | Operand::Int8Widened => false,
        }
    }

    /// Makes rows `first..first + count` readable for `kernel`, in `scratch` if they cannot be read where they lie.
    pub(crate) fn load(&self, first: usize, count: usize, kernel: &Kernel, scratch: &mut RowScratch) {
        if self.in_place(kernel) {
            scratch.stride = 0;
            return;
        }
        let row_bytes = self.depth.div_ceil(kernel.operand.step()) * kernel.operand.row_step_bytes();
        // One line more than needed: rows a power of two apart would fight for the same cache sets.
        scratch.stride = row_bytes.next_multiple_of(64) + 64;
        scratch.rows.reserve(count.next_multiple_of(kernel.rows()) * scratch.stride);
        scratch.scales.clear();
        for (index, row) in self.values.chunks_exact(self.depth).skip(first).take(count).enumerate() {
            let words = scratch.stride / 4;
            let target = &mut scratch.rows.words_mut()[index * words..(index + 1) * words];
            match kernel.operand {
                Operand::Int8 => scratch.scales.push(quantise(row, target)),
                Operand::Int8Widened => scratch.scales.push(quantise_widened(row, target)),
                _ => convert(row, kernel, target),
            }
            // A kernel of whole runs of steps reads on behind the depth, where the panel is zero: so must not be a NaN.
            target[row_bytes / 4..].fill(0);
        }
    }

    /// Where the rows from `row` on lie before they are loaded.
    pub(crate) fn lies_at(&self, row: usize) -> *const u8 {
        self.values.as_ptr().wrapping_add(row * self.depth).cast()
    }

    /// Bytes from a row to the next, as the last `load` left them.
    pub(crate) fn stride(&self, scratch: &RowScratch) -> usize {
        if scratch.stride == 0 { self.depth * 4 } else { scratch.stride }
    }

    /// Address of a row's first step. `first` is that of the last `load`, which covers `row`; all steps follow.
    pub(crate) fn pointer(&self, row: usize, first: usize, scratch: &RowScratch) -> *const u8 {
        if scratch.stride == 0 {
            self.lies_at(row)
        } else {
            scratch.rows.as_ptr().wrapping_add((row - first) * scratch.stride)
        }
    }
}

/// Writes a row of `f32` in `kernel`'s layout, with zeros up to a whole step. Not for int8, which needs a scale.
pub(crate) fn convert(row: &[f32], kernel: &Kernel, target: &mut [u32]) {
    debug_assert!(row.len() * kernel.operand.row_step_bytes() / kernel.operand.step() <= target.len() * 4);
    match kernel.operand {
        Operand::Bf16 => {
            if let Some(last) = target.get_mut(row.len() / 2) {
                *last = 0;
            }
            #[cfg(target_arch = "x86_64")]
            if kernel.level >= Level::Avx512Bf16 {
                #[allow(unsafe_code, reason = "a bf16 kernel is only chosen on a machine with AVX512-BF16")]
                // SAFETY: two bytes per element fit the target, as asserted by its callers' strides.
                unsafe {
                    super::avx512::round_to_bf16(row, target.as_mut_ptr().cast());
                }
                return;
            }
            for (pair, word) in row.chunks(2).zip(target) {
                let bits = |index: usize| pair.get(index).map_or(0, |value| half::bf16::from_f32(*value).to_bits());
                *word = u32::from(bits(0)) | u32::from(bits(1)) << 16;
            }
        }
        Operand::F32 | Operand::Bf16Widened | Operand::Int8 | Operand::Int8Widened => {
            if let Some(last) = target.get_mut(row.len()) {
                *last = 0;
            }
            for (value, word) in row.iter().zip(target) {
                *word = value.to_bits();
            }
        }
    }
}

/// What a unit of a row stands for, and how many units 1 is.
///
/// A row that holds a NaN or an infinity gets a scale that is not finite, so that the product shows it.
#[inline(always)]
fn units(row: &[f32]) -> (f32, f32) {
    // The largest bits of a magnitude are the largest magnitude; NaN and infinity are above all.
    let largest = row.iter().fold(0, |largest: u32, value| largest.max(value.to_bits() & 0x7fff_ffff));
    let scale = f32::from_bits(largest) / 127.0;
    (scale, if scale > 0.0 && scale.is_finite() { 1.0 / scale } else { 0.0 })
}

/// The units of a value: adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
#[inline(always)]
fn rounded(value: f32, inverse: f32) -> u32 {
    (value * inverse + 12_582_912.0).to_bits()
}

multiversion! {
/// Writes a row in unsigned units with offset 128, four to a word, and returns what a unit stands for.
fn quantise(row: &[f32], target: &mut [u32]) -> f32 {
    let (scale, inverse) = units(row);
    let unit = |value: f32| rounded(value, inverse).wrapping_add(128) & 0xff;
    let (fours, rest) = row.as_chunks::<4>();
    for (four, word) in fours.iter().zip(target.iter_mut()) {
        *word = unit(four[0]) | unit(four[1]) << 8 | unit(four[2]) << 16 | unit(four[3]) << 24;
    }
    if let (false, Some(word)) = (rest.is_empty(), target.get_mut(fours.len())) {
        // Beyond the depth the panel is zero, so that the offset does no harm.
        *word = rest.iter().enumerate().fold(0, |word, (index, value)| word | unit(*value) << (8 * index));
    }
    scale
}
}

multiversion! {
/// Writes a row in signed units, two to a word, and returns what a unit stands for.
fn quantise_widened(row: &[f32], target: &mut [u32]) -> f32 {
    let (scale, inverse) = units(row);
    let unit = |value: f32| rounded(value, inverse) & 0xffff;
    let (pairs, rest) = row.as_chunks::<2>();
    for (pair, word) in pairs.iter().zip(target.iter_mut()) {
        *word = unit(pair[0]) | unit(pair[1]) << 16;
    }
    // A step is two words: the second of them may lie behind the depth.
    for (index, word) in target.iter_mut().enumerate().take(row.len().div_ceil(4) * 2).skip(pairs.len()) {
        *word = rest.first().filter(|_| index == pairs.len()).map_or(0, |value| unit(*value));
    }
    scale
}
}
