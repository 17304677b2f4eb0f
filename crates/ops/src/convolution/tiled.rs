//! The convolution by matrix tiles: 16 neighbouring pixels are the rows of a tile, read where they lie in a padded copy of
//! the input with channels innermost, once for each tap and 32 channels.
#![allow(unsafe_code, reason = "the tiles read through raw addresses")]

use std::cell::Cell;

use super::engine::{Call, Segment};
use super::packing::tiled_channels;
use crate::amx::{self, Block, Numbers, ROWS, Tiles};
use crate::matmul::{Buffer, TILE_COLUMNS};
use crate::parallel::{Scratch, Unwritten, aligned, at_least, for_units};
use crate::simd::multiversion;
use crate::tile::LANES;
use crate::transpose::transpose;

/// Runs of 32 channels that one panel goes through before the next pixels come: 72 KiB for each two of its tiles.
const RUNS: usize = 36;

thread_local! {
    /// Kept between calls, as it need not be cleared.
    static MEMORY: Cell<Buffer> = Cell::default();
}

/// A padded copy of the input in `bf16`, `[picture][row][column][channel]`.
pub(super) struct Interleaved {
    memory: Buffer,
    /// Words of one pixel.
    pixel: usize,
    /// Pixels of a row.
    width: usize,
    /// Rows of a picture.
    height: usize,
}

impl Interleaved {
    /// Copies the input of `call`.
    pub(super) fn new(call: &Call<'_>, worth: bool) -> Self {
        let geometry = call.geometry;
        let (height, width) = (geometry.in_height + 2 * geometry.padding, geometry.in_width + 2 * geometry.padding);
        let pixel = tiled_channels(call.packed.in_channels) / 2;
        let mut memory = MEMORY.take();
        // A tile's rows beyond the last pixel are read, and their sums dropped.
        let beyond = ROWS * geometry.stride;
        memory.reserve((geometry.batch * height * width + beyond) * pixel * 4);
        let row_words = width * pixel;
        let rows = Rows { start: memory.words_mut().as_mut_ptr(), words: row_words };
        let plane = geometry.in_height * geometry.in_width;
        let channels = call.packed.in_channels;
        for_units(geometry.batch * height, worth, |index| {
            // SAFETY: every row once, each inside the memory reserved above.
            let row = unsafe { rows.row(index) };
            let inside = (index % height).checked_sub(geometry.padding).filter(|y| *y < geometry.in_height);
            let Some(y) = inside else { return row.fill(0) };
            let picture = &call.input[index / height * channels * plane..][..channels * plane];
            let source =
                Line { picture, plane, start: y * geometry.in_width, width: geometry.in_width, channels, pixel };
            row[..geometry.padding * pixel].fill(0);
            row[(geometry.padding + geometry.in_width) * pixel..].fill(0);
            interleave(&source, &mut row[geometry.padding * pixel..][..geometry.in_width * pixel]);
        });
        Self { memory, pixel, width, height }
    }

    /// Words before a pixel.
    fn at(&self, picture: usize, row: usize, column: usize) -> usize {
        ((picture * self.height + row) * self.width + column) * self.pixel
    }
}

impl Drop for Interleaved {
    fn drop(&mut self) {
        MEMORY.set(std::mem::take(&mut self.memory));
    }
}

/// Rows that several threads write, each its own.
struct Rows {
    start: *mut u32,
    words: usize,
}

// SAFETY: threads reach the memory only through `row`, whose caller asks for each row once.
unsafe impl Sync for Rows {}
// SAFETY: as above.
unsafe impl Send for Rows {}

impl Rows {
    /// # Safety
    /// The row lies inside the memory, and nobody else holds it.
    #[allow(clippy::mut_from_ref)]
    unsafe fn row(&self, index: usize) -> &mut [u32] {
        // SAFETY: by the caller; any bits are a u32.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(index * self.words), self.words) }
    }
}

/// One row of a picture.
struct Line<'a> {
    picture: &'a [f32],
    plane: usize,
    start: usize,
    width: usize,
    channels: usize,
    pixel: usize,
}

multiversion! {
    /// Writes a row's channels side by side, rounded to `bf16`, 16 pairs of channels of 16 pixels at a time.
    fn interleave(line: &Line<'_>, target: &mut [u32]) {
        let mut pairs = [0u32; LANES * LANES];
        let mut turned = [0u32; LANES * LANES];
        for step in (0..line.pixel).step_by(LANES) {
            for column in (0..line.width).step_by(LANES) {
                let present = LANES.min(line.width - column);
                for (pair, words) in pairs.chunks_exact_mut(LANES).enumerate() {
                    let channel = 2 * (step + pair);
                    let values = |channel: usize| &line.picture[channel * line.plane + line.start + column..][..present];
                    if channel + 1 < line.channels {
                        for ((word, first), second) in words.iter_mut().zip(values(channel)).zip(values(channel + 1)) {
                            *word = crate::elementary::bf16_pair(*first, *second);
                        }
                    } else if channel < line.channels {
                        for (word, first) in words.iter_mut().zip(values(channel)) {
                            *word = crate::elementary::bf16_pair(*first, 0.0);
                        }
                    } else {
                        words.fill(0);
                    }
                }
                transpose(&pairs, LANES, LANES, &mut turned, LANES);
                for (pixel, words) in turned.chunks_exact(LANES).enumerate().take(present) {
                    target[(column + pixel) * line.pixel + step..][..LANES].copy_from_slice(words);
                }
            }
        }
    }
}

/// Up to 16 pixels of a segment.
struct Strip {
    /// Words before the first pixel's input at the first tap.
    start: usize,
    /// Row and column in the segment of each pixel that counts; others come with them where a row of pixels is short.
    pixels: Vec<(usize, usize)>,
    /// Whether the pixels are 16 neighbours.
    whole: bool,
}

impl Call<'_> {
    /// All of `segments` for the panels from column `panels.0` on.
    pub(super) fn tiled_unit(
        &self,
        input: &Interleaved,
        segments: &[Segment],
        panels: &(usize, &[usize]),
        scratch: &mut Scratch,
        output: &Unwritten,
    ) {
        let factor = self.geometry.factor;
        let (first_column, widths) = *panels;
        let columns = widths.iter().sum::<usize>() * LANES;
        let pixels: usize = segments.iter().map(Segment::pixels).sum::<usize>() * factor * factor;
        let Scratch { sums, rows, .. } = scratch;
        // Tiles are stored line by line: those should be the cache's.
        let sums = aligned(sums, pixels * columns);
        let tiles = Tiles::shape();
        let mut before = 0;
        for segment in segments {
            let length = segment.pixels() * factor * factor * columns;
            let unit = Unit { call: self, input, first_column, widths, columns };
            unit.products(segment, &mut sums[before..before + length], rows);
            before += length;
        }
        drop(tiles);
        let mut before = 0;
        for segment in segments {
            let rows = at_least(rows, LANES * super::engine::RUN);
            self.finish(segment, (first_column, columns), &sums[before..], rows, output);
            before += segment.pixels() * factor * factor * columns;
        }
    }
}

/// What the products of a unit share.
struct Unit<'a> {
    call: &'a Call<'a>,
    input: &'a Interleaved,
    first_column: usize,
    widths: &'a [usize],
    columns: usize,
}

impl Unit<'_> {
    /// The sums of one segment, `[row][column][output channel]`.
    fn products(&self, segment: &Segment, sums: &mut [f32], spare: &mut Vec<f32>) {
        let strips = self.strips(segment);
        let (whole, parts): (Vec<&Strip>, Vec<&Strip>) = strips.iter().partition(|strip| strip.whole);
        for set in &self.call.packed.sets {
            let Some(packed) = &set.tiled else { continue };
            let offsets = self.offsets(&set.taps);
            if offsets.is_empty() {
                sums.fill(0.0);
            }
            let place = |pixel: (usize, usize)| self.place(segment, set.phase, pixel);
            for (index, vectors) in self.widths.iter().enumerate() {
                let panel = self.first_column / TILE_COLUMNS + index;
                let column = index * TILE_COLUMNS;
                for first in (0..offsets.len()).step_by(RUNS) {
                    let runs = &offsets[first..(first + RUNS).min(offsets.len())];
                    let panel = packed.panel(panel, &(first * LANES..(first + runs.len()) * LANES));
                    for (index, pair) in whole.chunks(2).enumerate() {
                        let targets = pair.iter().map(|strip| &raw mut sums[place(strip.pixels[0]) + column]);
                        let mut targets = targets.collect::<Vec<_>>().into_iter();
                        let (Some(upper), lower) = (targets.next(), targets.next()) else { continue };
                        let target = Target {
                            sums: (upper, lower.unwrap_or(upper)),
                            step: self.call.geometry.factor * self.columns,
                            columns: vectors * LANES,
                            accumulate: first > 0,
                        };
                        // All strips together ask for the part of the weight behind this one.
                        let part = runs.len() * ROWS * TILE_COLUMNS * 4;
                        let ahead = panel.wrapping_add(part + index * amx::ahead_bytes(runs.len()));
                        let factor = Factor { offsets: runs, panel, ahead };
                        self.multiply((pair[0], pair.get(1).copied()), &factor, &target);
                    }
                }
                let panel = packed.panel(panel, &(0..packed.steps));
                for strip in &parts {
                    let sums_of_strip = at_least(spare, ROWS * TILE_COLUMNS);
                    let start = sums_of_strip.as_mut_ptr();
                    let columns = vectors * LANES;
                    let target = Target { sums: (start, start), step: TILE_COLUMNS, columns, accumulate: false };
                    let factor = Factor { offsets: &offsets, panel, ahead: panel };
                    self.multiply((strip, None), &factor, &target);
                    let across = self.input.width;
                    for pixel in &strip.pixels {
                        let first = strip.pixels[0];
                        let row = (pixel.0 - first.0) * across + pixel.1 - first.1;
                        sums[place(*pixel) + column..][..columns]
                            .copy_from_slice(&sums_of_strip[row * TILE_COLUMNS..][..columns]);
                    }
                }
            }
        }
    }

    /// One or two strips by one panel.
    fn multiply(&self, strips: (&Strip, Option<&Strip>), factor: &Factor<'_>, target: &Target) {
        let words = self.input.memory.words();
        let address = |strip: &Strip| words[strip.start..].as_ptr().cast();
        let block = Block {
            rows: (address(strips.0), strips.1.map(address)),
            stride: self.call.geometry.stride * self.input.pixel * 4,
            offsets: factor.offsets,
            panel: factor.panel,
            ahead: factor.ahead,
            columns: target.columns,
            sums: target.sums,
            sums_step: target.step,
            accumulate: target.accumulate,
        };
        // SAFETY: the strips' pixels and taps lie in the padded copy, which goes on for a tile behind its end; the panel
        // has 16 steps for each offset; the targets are 16 rows of sums; the unit has shaped the registers.
        unsafe { amx::multiply(Numbers::Bf16, &block) }
    }

    /// Bytes from a pixel to each tap's and run's channels.
    fn offsets(&self, taps: &[(usize, usize)]) -> Vec<u32> {
        let bytes = |tap: &(usize, usize), run: usize| (self.input.at(0, tap.0, tap.1) + run * LANES) as u32 * 4;
        taps.iter().flat_map(|tap| (0..self.input.pixel / LANES).map(move |run| bytes(tap, run))).collect()
    }

    /// Where the sums of a pixel of a segment begin.
    fn place(&self, segment: &Segment, phase: (usize, usize), pixel: (usize, usize)) -> usize {
        let (factor, across) = (self.call.geometry.factor, segment.columns.len());
        ((pixel.0 * factor + phase.0) * across * factor + pixel.1 * factor + phase.1) * self.columns
    }

    /// Cuts a segment into tiles: row by row, or across the rows and the padding between them where rows are short.
    fn strips(&self, segment: &Segment) -> Vec<Strip> {
        let (rows, across, stride) = (segment.rows.len(), segment.columns.len(), self.call.geometry.stride);
        let start = |row: usize, column: usize| {
            self.input.at(
                segment.picture,
                (segment.rows.start + row) * stride,
                (segment.columns.start + column) * stride,
            )
        };
        if across < ROWS && stride == 1 {
            let width = self.input.width;
            let length = (rows - 1) * width + across;
            let runs = (0..length).step_by(ROWS).map(|first| {
                let positions = first..(first + ROWS).min(length);
                let pixels = positions.map(|position| (position / width, position % width));
                pixels.filter(|pixel| pixel.1 < across).collect::<Vec<_>>()
            });
            let strip = |pixels: Vec<(usize, usize)>| {
                pixels.first().map(|first| start(first.0, first.1)).map(|start| Strip { start, pixels, whole: false })
            };
            return runs.filter_map(strip).collect();
        }
        let columns = (0..across).step_by(ROWS);
        let strip = |(row, column): (usize, usize)| {
            let pixels = (column..(column + ROWS).min(across)).map(|column| (row, column)).collect::<Vec<_>>();
            Strip { start: start(row, column), whole: pixels.len() == ROWS, pixels }
        };
        (0..rows).flat_map(|row| columns.clone().map(move |column| (row, column))).map(strip).collect()
    }
}

/// The part of a panel that passes a block.
struct Factor<'a> {
    /// Where the input of each run of 16 steps lies.
    offsets: &'a [u32],
    panel: *const u8,
    /// What the block asks for meanwhile.
    ahead: *const u8,
}

/// Where a block's sums go.
struct Target {
    sums: (*mut f32, *mut f32),
    /// From one row of sums to the next.
    step: usize,
    columns: usize,
    accumulate: bool,
}
