//! The loops around kernels that take a panel strip by strip (AVX2).
//!
//! A strip's part of some hundred steps stays in the first-level cache while all rows of a block pass, and the rows' part
//! of the same steps in the second-level cache while a group of panels passes. Sums wait in scratch between the parts of the
//! depth, exactly as they are, so that results do not notice.

use std::ops::Range;

use super::drive::Place;
use super::kernel::{StripRun, Strips};
use super::{Product, RowScratch, STRIP_COLUMNS, Sink, TILE_COLUMNS, TILE_ROWS};

/// Most rows of a block.
pub(super) const BLOCK_ROWS: usize = 32 * TILE_ROWS;
/// Steps of a widened strip that stay in the first-level cache: 24 KiB, and each row's part of 1.5 KiB beside them.
const PART_STEPS: usize = 384;
/// Panels that pass a part of the rows before the next part comes.
const GROUP_PANELS: usize = 8;

/// A block of rows, loaded.
struct Block<'a> {
    row_tiles: &'a Range<usize>,
    first: usize,
    count: usize,
}

impl<Out: Sink> Product<'_, Out> {
    /// A block of rows, loaded once, by a part of the panels.
    pub(super) fn run_block_of_strips(
        &self,
        strips: &Strips,
        row_tiles: &Range<usize>,
        panels: &Range<usize>,
        scratch: &mut RowScratch,
    ) {
        let first = row_tiles.start * TILE_ROWS;
        let count = (row_tiles.end * TILE_ROWS).min(self.rows.len()) - first;
        let block = Block { row_tiles, first, count };
        self.rows.load(first, count, &self.packed.kernel, scratch);
        let widened = strips.widening();
        let parts = (self.packed.steps * widened).div_ceil(PART_STEPS).max(1);
        let (mut sums, mut strip) = (std::mem::take(&mut scratch.sums), std::mem::take(&mut scratch.strip));
        let per_tile = if self.pair.is_some() { 2 } else { 1 };
        let group = GROUP_PANELS.min(panels.len());
        sums.reserve(group * row_tiles.len() * per_tile * TILE_ROWS * TILE_COLUMNS * 4);
        strip.reserve(self.packed.steps.div_ceil(parts) * widened * STRIP_COLUMNS * 4);
        for first_panel in panels.clone().step_by(group) {
            let group = first_panel..(first_panel + group).min(panels.end);
            for part in 0..parts {
                let steps = super::drive::part(&(0..self.packed.steps), parts, part);
                for panel in group.clone() {
                    let slot = (panel - first_panel) * row_tiles.len() * per_tile;
                    let work = Work { panel, slot, per_tile, steps: steps.clone(), last: part + 1 == parts };
                    self.run_panel(strips, &block, &work, scratch, (&mut sums, &mut strip));
                }
            }
        }
        (scratch.sums, scratch.strip) = (sums, strip);
    }

    /// Some steps of a panel, and of the one paired with it, for all rows of a block.
    fn run_panel(
        &self,
        strips: &Strips,
        block: &Block<'_>,
        work: &Work,
        scratch: &RowScratch,
        (sums, widened): (&mut super::Buffer, &mut super::Buffer),
    ) {
        let mut passes: Vec<(usize, usize, usize)> = Vec::with_capacity(2 * TILE_COLUMNS / STRIP_COLUMNS);
        for (pair, panel) in self.panels_of(work.panel).enumerate() {
            let columns = (self.packed.shape.outputs - panel * TILE_COLUMNS).min(TILE_COLUMNS);
            passes.extend((0..columns.div_ceil(STRIP_COLUMNS)).map(|strip| (pair, panel, strip)));
        }
        for (index, &(pair, panel, strip)) in passes.iter().enumerate() {
            let source = self.packed.strip(panel, strip, &work.steps);
            let (source, steps) = strips.widen(source, work.steps.len(), widened);
            let finishes = work.last && index + 1 == passes.len();
            let offset = work.steps.start * self.packed.kernel.operand.row_step_bytes();
            let lies_at = |row: usize| self.rows.pointer(row, block.first, scratch).wrapping_add(offset);
            let tile_sums = TILE_ROWS * TILE_COLUMNS;
            let (first, sums_from) = ((work.slot + pair) * tile_sums, strip * STRIP_COLUMNS);
            let last_tile = first + (block.row_tiles.len() - 1) * work.per_tile * tile_sums;
            assert!((last_tile + tile_sums) * 4 <= sums.bytes(), "a tile lies outside the scratch");
            let run = StripRun {
                rows: lies_at(block.first),
                stride: self.rows.stride(scratch),
                count: block.count,
                steps,
                strip: source,
                sums: sums.as_mut_ptr().cast::<f32>().wrapping_add(first + sums_from),
                tile_step: work.per_tile * tile_sums,
                accumulate: work.steps.start > 0,
            };
            #[allow(unsafe_code, reason = "the kernels read through raw addresses")]
            // SAFETY: rows were loaded for this kernel, the strip has the steps of its weight, sums were reserved.
            let multiply = |run: &StripRun| unsafe { strips.run(run) };
            if !finishes {
                multiply(&run);
                continue;
            }
            for (tile_index, tile) in block.row_tiles.clone().enumerate() {
                let first_row = tile * TILE_ROWS;
                let place = Place {
                    first: block.first,
                    first_row,
                    index: tile_index,
                    rows: (block.first + block.count - first_row).min(TILE_ROWS),
                    panel: work.panel,
                    slot: work.slot + tile_index * work.per_tile,
                    next: None,
                };
                self.sink.expect(first_row, place.rows, work.panel * TILE_COLUMNS);
                multiply(&StripRun {
                    rows: lies_at(first_row),
                    count: place.rows,
                    sums: run.sums.wrapping_add(tile_index * run.tile_step),
                    ..run
                });
                self.finish(&place, scratch, sums);
            }
        }
    }
}

/// What is done with a panel at a time.
struct Work {
    panel: usize,
    /// Where the sums of its first tile wait.
    slot: usize,
    /// Slots of a tile.
    per_tile: usize,
    steps: Range<usize>,
    /// Whether these steps are the last.
    last: bool,
}
