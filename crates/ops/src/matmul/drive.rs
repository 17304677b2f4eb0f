//! The loops around the tiles: blocks for the caches, tasks for the threads.

use std::cell::Cell;
use std::ops::Range;

use super::{Buffer, Operand, Packed, RowScratch, Rows, TILE_COLUMNS, TILE_ROWS, Tile};

/// Steps of a panel that stay in the second-level cache while the rows of a block pass: 288 KiB.
const BLOCK_STEPS: usize = 1152;
/// Most rows of a block.
const BLOCK_ROWS: usize = 32 * TILE_ROWS;
/// Most bytes of a block's rows.
const BLOCK_BYTES: usize = 2 << 20;
/// Most rows of a block of matrix tiles.
const TILED_BLOCK_ROWS: usize = 512;
/// Most bytes of such a block's rows: half the second-level cache of the machines that have them.
const TILED_BLOCK_BYTES: usize = 1 << 20;
/// Steps of a panel that pass a block of matrix tiles at a time.
const TILED_STEPS: usize = 576;
/// Bytes of a weight that passes from the second-level cache.
const SMALL_WEIGHT: usize = 1 << 20;
/// Multiply-adds below which waking another thread costs more than it saves.
const SERIAL: usize = 1 << 20;
/// The same for matrix tiles, which do five times as many meanwhile; to wake a virtual processor takes longer still.
const TILED_SERIAL: usize = 1 << 26;

/// A finished tile.
#[derive(Debug)]
pub(crate) struct Finished<'a> {
    /// Its first row in the product.
    pub(crate) first_row: usize,
    /// Rows that count.
    pub(crate) rows: usize,
    /// Its first column in the product.
    pub(crate) first_column: usize,
    /// Columns that count.
    pub(crate) columns: usize,
    /// Row after row of [`TILE_COLUMNS`].
    pub(crate) sums: &'a [f32],
    /// The tile [`Product::pair`] panels on, or the same tile again.
    pub(crate) paired: &'a [f32],
}

/// What becomes of finished tiles. Each tile comes once; tiles of different threads come at the same time.
pub(crate) trait Sink: Sync {
    /// A tile of `rows` from `first_row` on and of a panel from `first_column` on will be stored soon: a sink may ask for
    /// the output's cache lines, which takes as long as the tile's sums.
    fn expect(&self, _first_row: usize, _rows: usize, _first_column: usize) {}

    /// Takes a tile.
    fn store(&self, tile: &Finished<'_>);
}

/// Rows by a packed weight into a sink.
pub(crate) struct Product<'a, Out> {
    /// The rows.
    pub(crate) rows: Rows<'a>,
    /// The weight.
    pub(crate) packed: &'a Packed,
    /// Where tiles go.
    pub(crate) sink: &'a Out,
    /// For gated layers: only panels below this number lead, each paired with the one this many panels on.
    pub(crate) pair: Option<usize>,
}

thread_local! {
    /// Taken while in use, so that a product within a product gets its own.
    static SCRATCH: Cell<RowScratch> = Cell::default();
}

/// Part `index` of `range` cut into `parts` as equal as can be.
pub(super) fn part(range: &Range<usize>, parts: usize, index: usize) -> Range<usize> {
    range.start + range.len() * index / parts..range.start + range.len() * (index + 1) / parts
}

impl<Out: Sink> Product<'_, Out> {
    /// Computes the product on the current rayon pool.
    pub(crate) fn run(&self) {
        let row_tiles = 0..self.rows.len().div_ceil(self.packed.kernel.rows());
        let panels = 0..self.pair.unwrap_or(self.packed.panels());
        if row_tiles.is_empty() || panels.is_empty() {
            return;
        }
        let (by_rows, by_panels) = self.split(row_tiles.len(), panels.len());
        for_each_task(by_rows * by_panels, &|task| {
            self.run_task(&part(&row_tiles, by_rows, task / by_panels), &part(&panels, by_panels, task % by_panels));
        });
    }

    /// How many tasks to cut rows and panels into.
    fn split(&self, row_tiles: usize, panels: usize) -> (usize, usize) {
        let work = self.rows.len() * self.packed.shape.outputs * self.packed.shape.depth;
        let threads = rayon::current_num_threads();
        let serial = if self.packed.kernel.is_tiled() { TILED_SERIAL } else { SERIAL };
        if work < serial || threads == 1 {
            return (1, 1);
        }
        // Few rows: each thread streams its own panels.
        if row_tiles < 4 * threads {
            let by_panels = threads.min(panels);
            return ((threads / by_panels).clamp(1, row_tiles), by_panels);
        }
        // Whoever has many rows shares them out, as a row is then converted once. More tasks than threads even out what
        // else the machine does, but a task of less than a block would stream the panels for too few rows.
        let rows = row_tiles * self.packed.kernel.rows();
        ((rows / BLOCK_ROWS).clamp(threads, 4 * threads), 1)
    }

    /// A part of the rows by a part of the panels, block of rows after block of rows.
    fn run_task(&self, row_tiles: &Range<usize>, panels: &Range<usize>) {
        let mut scratch = SCRATCH.take();
        #[cfg(target_arch = "x86_64")]
        let _tiles = self.packed.kernel.is_tiled().then(crate::amx::Tiles::shape);
        let blocks = row_tiles.len().div_ceil(self.block_tiles());
        for block in 0..blocks {
            self.run_block(&part(row_tiles, blocks, block), panels, &mut scratch);
        }
        SCRATCH.set(scratch);
    }

    /// Tiles of rows that stay in the caches while the panels pass.
    fn block_tiles(&self) -> usize {
        let kernel = &self.packed.kernel;
        let row_bytes = (self.packed.steps * kernel.operand.row_step_bytes()).max(1);
        if kernel.strips().is_some() {
            return super::strips::BLOCK_ROWS / kernel.rows();
        }
        if kernel.is_tiled() {
            return (TILED_BLOCK_BYTES / row_bytes / kernel.rows()).clamp(2, TILED_BLOCK_ROWS / kernel.rows());
        }
        // A weight that stays in the second-level cache leaves less room for rows, and loses nothing by passing often.
        let most = if self.packed.bytes() <= SMALL_WEIGHT { BLOCK_ROWS / 2 } else { BLOCK_ROWS };
        (BLOCK_BYTES / row_bytes).clamp(4 * TILE_ROWS, most) / TILE_ROWS
    }

    /// A block of rows, loaded once, by a part of the panels.
    fn run_block(&self, row_tiles: &Range<usize>, panels: &Range<usize>, scratch: &mut RowScratch) {
        if let Some(strips) = self.packed.kernel.strips() {
            return self.run_block_of_strips(&strips, row_tiles, panels, scratch);
        }
        let height = self.packed.kernel.rows();
        let first = row_tiles.start * height;
        let count = (row_tiles.end * height).min(self.rows.len()) - first;
        self.rows.load(first, count, &self.packed.kernel, scratch);
        let mut sums = std::mem::take(&mut scratch.sums);
        let (parts, per_tile) = (self.depth_parts(), if self.pair.is_some() { 2 } else { 1 });
        let kept = if parts > 1 { row_tiles.len() } else { 1 };
        sums.reserve(kept * per_tile * self.tile_sums() * 4);
        for panel in panels.clone() {
            let next = if panel + 1 == panels.end { Some(self.rows.lies_at(first + count)) } else { None };
            for depth_part in 0..parts {
                let run = self.packed.kernel.step_multiple();
                let runs = part(&(0..self.packed.steps / run), parts, depth_part);
                let steps = runs.start * run..runs.end * run;
                for (index, tile) in row_tiles.clone().enumerate() {
                    let first_row = tile * height;
                    let place = Place {
                        first,
                        first_row,
                        index,
                        rows: (first + count - first_row).min(height),
                        panel,
                        slot: if kept > 1 { index * per_tile } else { 0 },
                        next: next.and_then(|next| {
                            let offset = (depth_part * row_tiles.len() + index) * steps.len() * 64;
                            (offset < count * self.packed.shape.depth * 4).then(|| next.wrapping_add(offset))
                        }),
                    };
                    let last = depth_part + 1 == parts;
                    if last {
                        self.sink.expect(first_row, place.rows, panel * TILE_COLUMNS);
                    }
                    self.run_tile(&place, &steps, scratch, &mut sums);
                    if last {
                        self.finish(&place, scratch, &mut sums);
                    }
                }
            }
        }
        scratch.sums = sums;
    }

    /// Into how many parts to cut the depth, so that a panel's part stays in the second-level cache while the rows pass.
    /// Results do not notice, as sums are kept exactly in between. An int8 panel is small enough to stay whole.
    fn depth_parts(&self) -> usize {
        match self.packed.kernel.operand {
            _ if self.packed.kernel.is_tiled() => self.packed.steps.div_ceil(TILED_STEPS).max(1),
            Operand::Int8 | Operand::Int8Widened => 1,
            _ => self.packed.steps.div_ceil(BLOCK_STEPS).max(1),
        }
    }

    /// Sums of a tile.
    fn tile_sums(&self) -> usize {
        self.packed.kernel.rows() * TILE_COLUMNS
    }

    /// Some steps of a tile, and of the one paired with it.
    fn run_tile(&self, place: &Place, steps: &Range<usize>, scratch: &RowScratch, sums: &mut Buffer) {
        let offset = steps.start * self.packed.kernel.operand.row_step_bytes();
        let mut pointers = [std::ptr::null(); TILE_ROWS];
        for (row, pointer) in pointers.iter_mut().take(place.rows).enumerate() {
            *pointer = self.rows.pointer(place.first_row + row, place.first, scratch).wrapping_add(offset);
        }
        for (pair, panel) in self.panels_of(place.panel).enumerate() {
            let start = (place.slot + pair) * self.tile_sums() * 4;
            assert!(start + self.tile_sums() * 4 <= sums.bytes(), "a tile lies outside the scratch");
            let columns = (self.packed.shape.outputs - panel * TILE_COLUMNS).min(TILE_COLUMNS);
            let panel = self.packed.panel(panel, steps);
            let tile = Tile {
                rows: place.rows,
                pointers: &pointers,
                stride: scratch.stride,
                columns,
                steps: steps.len(),
                panel,
                ahead: self.ahead(place, panel, steps.len()),
                sums: sums.as_mut_ptr().wrapping_add(start).cast(),
                accumulate: steps.start > 0,
            };
            #[allow(unsafe_code, reason = "the kernels read through raw addresses")]
            // SAFETY: rows were loaded for this kernel, the panel has the steps of its weight, sums were reserved.
            unsafe {
                self.packed.kernel.run(&tile);
            }
        }
    }

    /// What a tile shall fetch for a later one. Matrix tiles are so fast that they would wait for each panel: all tiles of a
    /// block together ask for the part of the weight behind theirs. Others ask for the next block's rows.
    fn ahead(&self, place: &Place, panel: *const u8, steps: usize) -> *const u8 {
        #[cfg(target_arch = "x86_64")]
        if self.packed.kernel.is_tiled() {
            let part = steps * TILE_COLUMNS * 4;
            return panel.wrapping_add(part + place.index * crate::amx::ahead_bytes(steps / crate::amx::ROWS));
        }
        place.next.unwrap_or(panel)
    }

    pub(super) fn panels_of(&self, panel: usize) -> impl Iterator<Item = usize> + use<Out> {
        std::iter::once(panel).chain(self.pair.map(|distance| panel + distance))
    }

    pub(super) fn finish(&self, place: &Place, scratch: &RowScratch, sums: &mut Buffer) {
        if self.packed.kernel.operand.is_int8() {
            for (pair, panel) in self.panels_of(place.panel).enumerate() {
                let start = (place.slot + pair) * self.tile_sums();
                self.scale_sums(place, panel, scratch, &mut sums.words_mut()[start..start + self.tile_sums()]);
            }
        }
        let tile = |slot: usize| {
            let length = self.tile_sums();
            assert!((slot + 1) * length * 4 <= sums.bytes(), "a tile lies outside the scratch");
            #[allow(unsafe_code, reason = "the buffer holds whole tiles of f32, aligned to a cache line")]
            // SAFETY: in bounds by the assertion.
            unsafe {
                std::slice::from_raw_parts(sums.as_ptr().wrapping_add(slot * length * 4).cast::<f32>(), length)
            }
        };
        let first_column = place.panel * TILE_COLUMNS;
        self.sink.store(&Finished {
            first_row: place.first_row,
            rows: place.rows,
            first_column,
            columns: (self.packed.shape.outputs - first_column).min(TILE_COLUMNS),
            sums: tile(place.slot),
            paired: tile(place.slot + usize::from(self.pair.is_some())),
        });
    }

    /// Turns the `i32` sums of an int8 tile into `f32` values.
    fn scale_sums(&self, place: &Place, panel: usize, scratch: &RowScratch, sums: &mut [u32]) {
        let columns = &self.packed.columns[panel * TILE_COLUMNS..];
        let scales = &scratch.scales[place.first_row - place.first..];
        for (row, scale) in sums.chunks_exact_mut(TILE_COLUMNS).zip(scales).take(place.rows) {
            for (sum, column) in row.iter_mut().zip(columns) {
                let units = sum.cast_signed().wrapping_sub(column.offset);
                *sum = (units as f32 * (scale * column.scale)).to_bits();
            }
        }
    }
}

/// Where a tile is.
pub(super) struct Place {
    /// First row of the loaded block.
    pub(super) first: usize,
    /// First row of the tile.
    pub(super) first_row: usize,
    /// Its number in the block.
    pub(super) index: usize,
    /// Its rows that count.
    pub(super) rows: usize,
    /// Its panel.
    pub(super) panel: usize,
    /// Its place in the scratch sums.
    pub(super) slot: usize,
    /// The part of the next block's rows that this tile shall fetch, if any.
    pub(super) next: Option<*const u8>,
}

/// Runs `task(0..tasks)` on the current rayon pool.
fn for_each_task(tasks: usize, task: &(impl Fn(usize) + Sync)) {
    fn halve(range: Range<usize>, task: &(impl Fn(usize) + Sync)) {
        match range.len() {
            0 => {}
            1 => task(range.start),
            length => {
                let middle = range.start + length / 2;
                rayon::join(|| halve(range.start..middle, task), || halve(middle..range.end, task));
            }
        }
    }
    halve(0..tasks, task);
}
