//! The loops around the tiles: blocks for the caches, tasks for the threads.

use std::cell::Cell;
use std::ops::Range;

use super::{Buffer, Operand, Packed, RowScratch, RowSource, TILE_COLUMNS, TILE_ROWS, TILE_SUMS, Tile};

/// Steps of a panel that stay in the second-level cache while the rows of a block pass: 288 KiB.
const BLOCK_STEPS: usize = 1152;
/// Most rows of a block.
const BLOCK_ROWS: usize = 32 * TILE_ROWS;
/// Most bytes of a block's rows.
const BLOCK_BYTES: usize = 2 << 20;
/// Multiply-adds below which waking another thread costs more than it saves.
const SERIAL: usize = 1 << 20;

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
    pub(crate) sums: &'a [f32; TILE_SUMS],
    /// The tile [`Product::pair`] panels on, or the same tile again.
    pub(crate) paired: &'a [f32; TILE_SUMS],
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
pub(crate) struct Product<'a, Rows, Out> {
    /// The rows.
    pub(crate) rows: &'a Rows,
    /// The weight.
    pub(crate) packed: &'a Packed,
    /// Where tiles go.
    pub(crate) sink: &'a Out,
    /// For gated layers: only panels below this number lead, each paired with the one this many panels on.
    pub(crate) pair: Option<usize>,
}

/// A part of a product: row tiles by panels.
struct Task {
    row_tiles: Range<usize>,
    panels: Range<usize>,
}

/// A stretch of depth that is summed before the next row tile: taps by steps.
struct DepthBlock {
    taps: Range<usize>,
    steps: Range<usize>,
}

thread_local! {
    /// Taken while in use, so that a product within a product gets its own.
    static SCRATCH: Cell<RowScratch> = Cell::default();
}

impl<Rows: RowSource, Out: Sink> Product<'_, Rows, Out> {
    /// Computes the product on the current rayon pool.
    pub(crate) fn run(&self) {
        let row_tiles = self.rows.rows().div_ceil(TILE_ROWS);
        let panels = self.pair.unwrap_or(self.packed.panels());
        if row_tiles == 0 || panels == 0 {
            return;
        }
        let (by_rows, by_panels) = self.split(row_tiles, panels);
        let part = |count: usize, parts: usize, index: usize| count * index / parts..count * (index + 1) / parts;
        for_each_task(by_rows * by_panels, &|task| {
            self.run_task(&Task {
                row_tiles: part(row_tiles, by_rows, task / by_panels),
                panels: part(panels, by_panels, task % by_panels),
            });
        });
    }

    /// How many tasks to cut rows and panels into.
    fn split(&self, row_tiles: usize, panels: usize) -> (usize, usize) {
        let depth = self.packed.shape.depth * self.packed.shape.taps;
        let work = self.rows.rows() * self.packed.shape.outputs * depth;
        let threads = rayon::current_num_threads();
        if work < SERIAL || threads == 1 {
            return (1, 1);
        }
        // Whoever has many rows shares them out: a row is converted once. Few rows: each thread streams its own panels.
        if row_tiles < 4 * threads {
            return (1, threads.min(panels));
        }
        // A task of less than a block would stream the panels for too few rows.
        ((row_tiles * TILE_ROWS / BLOCK_ROWS).clamp(threads, 4 * threads), 1)
    }

    fn run_task(&self, task: &Task) {
        let mut scratch = SCRATCH.take();
        let row_bytes = self.packed.steps * self.packed.shape.taps * self.packed.kernel.operand.row_step_bytes();
        let block_rows = (BLOCK_BYTES / row_bytes.max(1)).clamp(4 * TILE_ROWS, BLOCK_ROWS) / TILE_ROWS;
        let blocks = task.row_tiles.len().div_ceil(block_rows);
        for block in 0..blocks {
            let (start, count) = (task.row_tiles.start, task.row_tiles.len());
            let row_tiles = start + count * block / blocks..start + count * (block + 1) / blocks;
            self.run_block(row_tiles, &task.panels, &mut scratch);
        }
        SCRATCH.set(scratch);
    }

    /// A block of rows, loaded once, by a range of panels.
    fn run_block(&self, row_tiles: Range<usize>, panels: &Range<usize>, scratch: &mut RowScratch) {
        let first = row_tiles.start * TILE_ROWS;
        let count = (row_tiles.end * TILE_ROWS).min(self.rows.rows()) - first;
        self.rows.load(first, count, &self.packed.kernel, scratch);
        let per_tile = if self.pair.is_some() { 2 } else { 1 };
        let blocks = self.depth_blocks();
        let block_bytes = count * self.packed.shape.taps * self.packed.shape.depth * 4;
        let kept = if blocks.len() > 1 { row_tiles.len() } else { 1 };
        let mut sums = std::mem::take(&mut scratch.sums);
        sums.reserve(kept * per_tile * TILE_SUMS * 4);
        for panel in panels.clone() {
            for (index, block) in blocks.iter().enumerate() {
                for tile in row_tiles.clone() {
                    let slot = if kept > 1 { (tile - row_tiles.start) * per_tile } else { 0 };
                    let rows = (first + count - tile * TILE_ROWS).min(TILE_ROWS);
                    let next = if panel + 1 == panels.end { self.rows.lies_at(first + count) } else { None };
                    let order = index * row_tiles.len() + tile - row_tiles.start;
                    let place =
                        Place { first, first_row: tile * TILE_ROWS, rows, panel, slot, next, order, block_bytes };
                    if index + 1 == blocks.len() {
                        self.sink.expect(place.first_row, rows, panel * TILE_COLUMNS);
                    }
                    self.run_tiles(&place, block, index > 0, scratch, &mut sums);
                    if index + 1 == blocks.len() {
                        self.finish(&place, scratch, &mut sums);
                    }
                }
            }
        }
        scratch.sums = sums;
    }

    /// Cuts the depth so that a panel's part fits the second-level cache. Sums do not notice: they are stored exactly.
    fn depth_blocks(&self) -> Vec<DepthBlock> {
        let (steps, taps) = (self.packed.steps, self.packed.shape.taps);
        if self.packed.kernel.operand == Operand::Int8 || steps * taps <= BLOCK_STEPS {
            return vec![DepthBlock { taps: 0..taps, steps: 0..steps }];
        }
        if steps >= BLOCK_STEPS {
            let parts = steps.div_ceil(BLOCK_STEPS);
            let cut = |tap, part: usize| DepthBlock {
                taps: tap..tap + 1,
                steps: steps * part / parts..steps * (part + 1) / parts,
            };
            return (0..taps).flat_map(|tap| (0..parts).map(move |part| cut(tap, part))).collect();
        }
        let parts = taps.div_ceil(BLOCK_STEPS / steps);
        (0..parts)
            .map(|part| DepthBlock { taps: taps * part / parts..taps * (part + 1) / parts, steps: 0..steps })
            .collect()
    }

    /// One block of depth of a tile, and of the one paired with it.
    fn run_tiles(&self, place: &Place, block: &DepthBlock, accumulate: bool, scratch: &RowScratch, sums: &mut Buffer) {
        let mut pointers = [[std::ptr::null(); TILE_ROWS]; MAX_TAPS];
        let offset = block.steps.start * self.packed.kernel.operand.row_step_bytes();
        for (taps, tap) in block.taps.clone().step_by(MAX_TAPS).enumerate() {
            let count = (block.taps.end - tap).min(MAX_TAPS);
            for (index, pointers) in pointers[..count].iter_mut().enumerate() {
                for (row, pointer) in pointers[..place.rows].iter_mut().enumerate() {
                    let start = self.rows.pointer(place.first_row + row, tap + index, place.first, scratch);
                    *pointer = start.wrapping_add(offset);
                }
            }
            for (pair, panel) in self.panels_of(place.panel).enumerate() {
                let start = (place.slot + pair) * TILE_SUMS * 4;
                assert!(start + TILE_SUMS * 4 <= sums.bytes(), "a tile lies outside the scratch");
                let steps = block.steps.len();
                let start_step = tap * self.packed.steps + block.steps.start;
                let panel = self.packed.panel(panel, start_step);
                let tile = Tile {
                    ahead: place.ahead(count * steps).unwrap_or(panel),
                    rows: place.rows,
                    pointers: &pointers[..count],
                    steps,
                    panel,
                    sums: sums.as_mut_ptr().wrapping_add(start).cast(),
                    accumulate: accumulate || taps > 0,
                };
                #[allow(unsafe_code, reason = "the kernels read through raw addresses")]
                // SAFETY: rows were loaded for this kernel, the panel has the steps of its weight, sums were reserved.
                unsafe {
                    self.packed.kernel.run(&tile);
                }
            }
        }
    }

    fn panels_of(&self, panel: usize) -> impl Iterator<Item = usize> + use<Rows, Out> {
        std::iter::once(panel).chain(self.pair.map(|distance| panel + distance))
    }

    fn finish(&self, place: &Place, scratch: &RowScratch, sums: &mut Buffer) {
        if self.packed.kernel.operand == Operand::Int8 {
            for (pair, panel) in self.panels_of(place.panel).enumerate() {
                let start = (place.slot + pair) * TILE_SUMS;
                self.scale_sums(place, panel, scratch, &mut sums.words_mut()[start..start + TILE_SUMS]);
            }
        }
        let tile = |slot: usize| {
            assert!((slot + 1) * TILE_SUMS * 4 <= sums.bytes(), "a tile lies outside the scratch");
            #[allow(unsafe_code, reason = "the buffer holds whole tiles of f32, aligned to a cache line")]
            // SAFETY: in bounds by the assertion.
            unsafe {
                &*sums.as_ptr().wrapping_add(slot * TILE_SUMS * 4).cast::<[f32; TILE_SUMS]>()
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

/// Taps whose pointers are handed to a kernel at once.
const MAX_TAPS: usize = 9;

/// Where a tile is.
struct Place {
    /// First row of the loaded block.
    first: usize,
    /// First row of the tile.
    first_row: usize,
    /// Its rows that count.
    rows: usize,
    /// Its panel.
    panel: usize,
    /// Where the next block's rows lie, for the tiles of the last panel to fetch.
    next: Option<*const u8>,
    /// Bytes of a block's rows where they lie.
    block_bytes: usize,
    /// How many tiles of its panel came before it.
    order: usize,
    /// Its place in the scratch sums.
    slot: usize,
}

impl Place {
    /// The part of the next block's rows that a tile of so many steps fetches.
    fn ahead(&self, steps: usize) -> Option<*const u8> {
        let offset = self.order * steps * 64;
        self.next.filter(|_| offset < self.block_bytes).map(|next| next.wrapping_add(offset))
    }
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
