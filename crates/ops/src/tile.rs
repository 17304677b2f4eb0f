//! The one inner loop of convolution and attention: a tile of a matrix product in registers.
//!
//! Both products have a left factor whose element for step s and row r lies at `start + offsets[s] + r·row_step` (pixels
//! of a padded picture for a convolution, queries or probabilities for attention) and a right factor packed in panels of
//! 16·n columns, step by step. A step is one 4-byte word: an f32, or two bf16 numbers whose products are added together.
//! Every sum runs over the steps in order, one accumulator per element, so a result depends on nothing but its own
//! row and column.

use crate::elementary::bf16_pair;
use crate::simd::{Level, fetch_early, level};
use crate::types::Precision;

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "intrinsics on raw addresses that `multiply` has checked")]
mod x86;

/// Columns of one vector.
pub(crate) const LANES: usize = 16;
/// Vectors in the widest panel.
const WIDEST: usize = 3;

/// The instructions that a packed factor was laid out for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arithmetic {
    level: Level,
    pairs: bool,
    /// Whether weights are kept in bf16, to be widened before they are multiplied.
    narrow: bool,
}

impl Arithmetic {
    /// The best of this machine for `precision`. Without bf16 instructions, bf16 is computed as f32, from weights that
    /// are kept in bf16.
    pub(crate) fn of(precision: Precision) -> Self {
        let level = level();
        let pairs = precision != Precision::F32 && level >= Level::Avx512Bf16;
        Self { level, pairs, narrow: precision != Precision::F32 && !pairs }
    }

    /// Whether weights are kept in bf16, to be widened before they are multiplied.
    pub(crate) fn is_narrow(self) -> bool {
        self.narrow
    }

    /// Products in f32 on the same machine.
    pub(crate) fn in_f32(self) -> Self {
        Self { pairs: false, narrow: false, ..self }
    }

    /// Vectors in the widest panel. AVX2 has registers for one, which lies in memory as it is read.
    fn widest(self) -> usize {
        if self.level == Level::Avx2 { 1 } else { WIDEST }
    }

    /// Widths of the panels (in vectors of 16) that cover `columns`: as many of the widest as leave no panel of 1.
    pub(crate) fn panel_widths(self, columns: usize) -> Vec<usize> {
        let (mut left, widest) = (columns.div_ceil(LANES), self.widest());
        let mut widths = Vec::with_capacity(left.div_ceil(2));
        while left > 0 {
            let width = match left {
                4 => 2.min(widest),
                _ => left.min(widest),
            };
            widths.push(width);
            left -= width;
        }
        widths
    }

    /// Rows of a whole tile.
    pub(crate) fn tile_rows(self) -> usize {
        if self.level == Level::Avx2 { 6 } else { 8 }
    }

    /// Vectors of a panel of keys.
    pub(crate) fn key_vectors(self) -> usize {
        self.widest().min(2)
    }

    /// Whether products go through matrix tiles where they can.
    pub(crate) fn is_tiled(self) -> bool {
        self.pairs && self.level == Level::Amx
    }

    /// Values in one step.
    pub(crate) fn per_step(self) -> usize {
        if self.pairs { 2 } else { 1 }
    }

    /// Steps that hold `count` values.
    pub(crate) fn steps(self, count: usize) -> usize {
        count.div_ceil(self.per_step())
    }

    /// The word of one step; `second` is ignored in f32.
    #[inline(always)]
    pub(crate) fn word(self, first: f32, second: f32) -> u32 {
        if self.pairs { bf16_pair(first, second) } else { first.to_bits() }
    }

    /// Turns a row of values into words, side by side; an odd end is filled with zero.
    ///
    /// # Panics
    /// When there are fewer words than the values take: a mistake in this crate.
    #[allow(unsafe_code)]
    pub(crate) fn pack_row(self, values: &[f32], words: &mut [u32]) {
        if !self.pairs {
            for (word, value) in words[..values.len()].iter_mut().zip(values) {
                *word = value.to_bits();
            }
            return;
        }
        let words = &mut words[..values.len().div_ceil(2)];
        let whole = values.len() / (2 * LANES) * LANES;
        #[cfg(target_arch = "x86_64")]
        for (words, values) in words[..whole].chunks_exact_mut(LANES).zip(values.chunks_exact(2 * LANES)) {
            // SAFETY: 16 words from 32 values; pairs exist only where the bf16 instructions do.
            unsafe { x86::narrow(values.as_ptr(), words.as_mut_ptr()) };
        }
        for (word, pair) in words[whole..].iter_mut().zip(values[2 * whole..].chunks(2)) {
            *word = bf16_pair(pair[0], pair.get(1).copied().unwrap_or(0.0));
        }
    }

    /// The values of a word; the second means nothing in f32.
    pub(crate) fn values(self, word: u32) -> [f32; 2] {
        match self.pairs {
            true => [f32::from_bits(word << 16), f32::from_bits(word & 0xffff_0000)],
            false => [f32::from_bits(word), 0.0],
        }
    }
}

/// Where the left factor's steps lie.
#[derive(Debug, Clone)]
pub(crate) struct Steps {
    offsets: Vec<u32>,
    /// One more than the largest offset.
    reach: usize,
    /// Whether the steps lie side by side.
    contiguous: bool,
}

impl Steps {
    /// Steps at the given offsets.
    pub(crate) fn new(offsets: Vec<u32>) -> Self {
        let reach = offsets.iter().max().map_or(0, |&largest| largest as usize + 1);
        Self { offsets, reach, contiguous: false }
    }

    /// `count` steps side by side.
    pub(crate) fn contiguous(count: usize) -> Self {
        Self { contiguous: true, ..Self::new((0..count as u32).collect()) }
    }

    /// Number of steps.
    pub(crate) fn len(&self) -> usize {
        self.offsets.len()
    }
}

/// The left factor of one tile.
#[derive(Clone, Copy)]
pub(crate) struct Left<'a> {
    /// The words.
    pub(crate) words: &'a [u32],
    /// Where row 0 starts.
    pub(crate) start: usize,
    /// From one row to the next.
    pub(crate) row_step: usize,
    /// Number of rows.
    pub(crate) rows: usize,
}

/// Where a tile's sums go.
pub(crate) struct Sums<'a> {
    /// Row 0, column 0 onwards.
    pub(crate) values: &'a mut [f32],
    /// From one row to the next.
    pub(crate) row_step: usize,
    /// Whether to add to what is there.
    pub(crate) accumulate: bool,
}

/// One panel of the right factor.
#[derive(Clone, Copy)]
pub(crate) struct Right<'a> {
    /// Step after step of [`Right::width`] vectors.
    pub(crate) words: &'a [u32],
    /// Vectors of a step.
    pub(crate) width: usize,
    /// Columns whose sums are wanted. Those that fill the last vector may be written or left as they are.
    pub(crate) columns: usize,
    /// What will be wanted next, asked for tile by tile: weights come from far away, and whoever shares the last-level cache
    /// may have driven them out of it.
    pub(crate) ahead: &'a [u32],
}

/// left · right into `sums`.
///
/// # Panics
/// When a slice is too short: a mistake in this crate.
pub(crate) fn multiply(arithmetic: Arithmetic, left: Left<'_>, steps: &Steps, right: Right<'_>, sums: &mut Sums<'_>) {
    if left.rows == 0 {
        return;
    }
    let (last, width) = (left.rows - 1, right.width);
    assert!(left.start + last * left.row_step + steps.reach <= left.words.len());
    assert!(steps.len() * width * LANES <= right.words.len());
    assert!(last * sums.row_step + width * LANES <= sums.values.len());
    let pointers = Pointers {
        left: left.words[left.start..].as_ptr(),
        left_step: left.row_step,
        offsets: &steps.offsets,
        right: right.words.as_ptr(),
        sums: sums.values.as_mut_ptr(),
        sums_step: sums.row_step,
        accumulate: sums.accumulate,
        ahead: right.ahead,
    };
    #[cfg(target_arch = "x86_64")]
    if arithmetic.level == Level::Avx2 && width == 1 {
        return rows_avx2(pointers, left.rows, right.columns, steps.contiguous);
    }
    match width {
        1 => rows::<1>(arithmetic, pointers, left.rows),
        2 => rows::<2>(arithmetic, pointers, left.rows),
        3 => rows::<3>(arithmetic, pointers, left.rows),
        _ => unreachable!("panels are at most {WIDEST} vectors wide"),
    }
}

/// What [`multiply`] has checked.
#[derive(Clone, Copy)]
struct Pointers<'a> {
    left: *const u32,
    left_step: usize,
    offsets: &'a [u32],
    right: *const u32,
    sums: *mut f32,
    sums_step: usize,
    accumulate: bool,
    ahead: &'a [u32],
}

impl Pointers<'_> {
    /// Asks for the next part of what comes ahead, of as many parts as `rows` rows make tiles.
    #[inline(always)]
    fn look_ahead(&mut self, rows: usize, per_tile: usize) {
        if self.ahead.is_empty() {
            return;
        }
        let (now, later) = self.ahead.split_at(self.ahead.len().div_ceil(rows.div_ceil(per_tile)));
        fetch_early(now);
        self.ahead = later;
    }
}

/// Runs tiles of 8, then 4, 2 and 1 rows; 16 for the narrowest panel, which would wait for its own sums, where rows are
/// neighbours, so that sixteen addresses need no registers.
#[allow(unsafe_code)]
fn rows<const WIDTH: usize>(arithmetic: Arithmetic, mut pointers: Pointers<'_>, mut left: usize) {
    while left > 0 {
        pointers.look_ahead(left, 8);
        // SAFETY: `multiply` checked the bounds of all rows, and `Arithmetic` was made from the machine's level.
        let done = unsafe {
            match left {
                16.. if WIDTH == 1 && pointers.left_step == 1 => tile::<16, WIDTH>(arithmetic, pointers),
                8.. => tile::<8, WIDTH>(arithmetic, pointers),
                4.. => tile::<4, WIDTH>(arithmetic, pointers),
                2.. => tile::<2, WIDTH>(arithmetic, pointers),
                _ => tile::<1, WIDTH>(arithmetic, pointers),
            }
        };
        left -= done;
        // One past the last row at most, and not read there.
        pointers.left = pointers.left.wrapping_add(done * pointers.left_step);
        pointers.sums = pointers.sums.wrapping_add(done * pointers.sums_step);
    }
}

/// Left factors of any rows and steps, of neighbouring rows, of steps that lie side by side.
#[cfg(target_arch = "x86_64")]
const ANYWHERE: u8 = 0;
#[cfg(target_arch = "x86_64")]
const NEIGHBOURS: u8 = 1;
#[cfg(target_arch = "x86_64")]
const SIDE_BY_SIDE: u8 = 2;

/// The same for AVX2, whose registers hold 6 rows of one vector, or 8 of half a one.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
fn rows_avx2(pointers: Pointers<'_>, left: usize, columns: usize, contiguous: bool) {
    let half = columns <= LANES / 2;
    // SAFETY: `multiply` checked the bounds of all rows, and the level was found on this machine.
    unsafe {
        match (half, contiguous, pointers.left_step) {
            (true, true, _) => x86::tiles_avx2::<1, SIDE_BY_SIDE>(pointers, left),
            (true, false, 1) => x86::tiles_avx2::<1, NEIGHBOURS>(pointers, left),
            (true, false, _) => x86::tiles_avx2::<1, ANYWHERE>(pointers, left),
            (false, true, _) => x86::tiles_avx2::<2, SIDE_BY_SIDE>(pointers, left),
            (false, false, 1) => x86::tiles_avx2::<2, NEIGHBOURS>(pointers, left),
            (false, false, _) => x86::tiles_avx2::<2, ANYWHERE>(pointers, left),
        }
    }
}

/// Rows of the next tile when `left` are left: 6, but no step of 1 or 2 at the end, which would wait for its own sums.
#[cfg(target_arch = "x86_64")]
fn next_rows(left: usize) -> usize {
    match left {
        0..=6 => left,
        7 | 8 => 4,
        9 => 5,
        _ => 6,
    }
}

/// # Safety
/// All rows lie inside their slices and the machine has the instructions.
#[allow(unsafe_code)]
#[inline(always)]
unsafe fn tile<const ROWS: usize, const WIDTH: usize>(arithmetic: Arithmetic, pointers: Pointers<'_>) -> usize {
    // SAFETY: the caller's promise.
    unsafe {
        match arithmetic.level {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16 | Level::Amx if arithmetic.pairs => x86::tile_bf16::<ROWS, WIDTH>(pointers),
            #[cfg(target_arch = "x86_64")]
            Level::Amx | Level::Avx512Bf16 | Level::Avx512 => x86::tile_avx512::<ROWS, WIDTH>(pointers),
            _ => tile_plain::<ROWS, WIDTH, false>(pointers),
        }
    }
    ROWS
}

/// The tile in plain Rust, vector by vector: the reference, and what machines without vector instructions run.
///
/// # Safety
/// All rows lie inside their slices.
#[allow(unsafe_code)]
#[inline(always)]
unsafe fn tile_plain<const ROWS: usize, const WIDTH: usize, const FUSED: bool>(pointers: Pointers<'_>) {
    for row in 0..ROWS {
        for column in 0..WIDTH {
            // SAFETY: the caller's promise.
            unsafe {
                let out = pointers.sums.add(row * pointers.sums_step + column * LANES).cast::<[f32; LANES]>();
                let mut total = if pointers.accumulate { out.read_unaligned() } else { [0.0; LANES] };
                for (step, &offset) in pointers.offsets.iter().enumerate() {
                    let left = f32::from_bits(*pointers.left.add(row * pointers.left_step + offset as usize));
                    let right = pointers.right.add((step * WIDTH + column) * LANES).cast::<[f32; LANES]>();
                    let right = right.read_unaligned();
                    for lane in 0..LANES {
                        total[lane] = crate::simd::multiply_add::<FUSED>(left, right[lane], total[lane]);
                    }
                }
                out.write_unaligned(total);
            }
        }
    }
}
