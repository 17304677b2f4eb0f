//! Scores and weighted values by matrix tiles.

use crate::amx::{self, Block, COLUMNS, Numbers, ROWS};
use crate::tile::{Left, Sums};

/// Runs of 16 steps in one call.
const RUNS: usize = 32;
/// Words of a row in one run.
const RUN_WORDS: usize = amx::ROW_BYTES / 4;

/// Steps of a row lie side by side.
const OFFSETS: [u32; RUNS] = {
    let mut offsets = [0; RUNS];
    let mut run = 0;
    while run < RUNS {
        offsets[run] = (run * amx::ROW_BYTES) as u32;
        run += 1;
    }
    offsets
};

/// left · right into `sums`, over `runs` runs of 16 steps; `columns` of the panel count. The thread has shaped its tiles.
/// Rows of left and sums are read and written in whole tiles of 16.
///
/// # Panics
/// When a slice is too short: a mistake in this crate.
pub(super) fn multiply(left: Left<'_>, runs: usize, right: &[u32], columns: usize, sums: &mut Sums<'_>) {
    let last = left.rows.next_multiple_of(ROWS).max(1) - 1;
    assert!(left.rows <= 2 * ROWS && columns <= COLUMNS);
    assert!(left.start + last * left.row_step + runs * RUN_WORDS <= left.words.len());
    assert!(runs * ROWS * COLUMNS <= right.len());
    assert!(last * sums.row_step + columns.next_multiple_of(ROWS) <= sums.values.len());
    let rows = left.words[left.start..].as_ptr();
    let start = sums.values.as_mut_ptr();
    for first in (0..runs).step_by(RUNS) {
        let rows = rows.wrapping_add(first * RUN_WORDS);
        let panel = right[first * ROWS * COLUMNS..].as_ptr().cast();
        let block = Block {
            rows: (rows.cast(), (left.rows > ROWS).then(|| rows.wrapping_add(ROWS * left.row_step).cast())),
            stride: left.row_step * 4,
            offsets: &OFFSETS[..RUNS.min(runs - first)],
            panel,
            // All keys and values are at hand.
            ahead: panel,
            columns,
            sums: (start, start.wrapping_add(ROWS * sums.row_step)),
            sums_step: sums.row_step,
            accumulate: sums.accumulate || first > 0,
        };
        #[allow(unsafe_code, reason = "the tiles read through raw addresses")]
        // SAFETY: the assertions hold all that is read and written.
        unsafe {
            amx::multiply(Numbers::Bf16, &block);
        }
    }
}
