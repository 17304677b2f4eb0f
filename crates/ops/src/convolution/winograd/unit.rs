//! One unit of work of the minimal filtering: some tiles by some output channels.

use std::ops::Range;

use super::super::engine::{Call, RUN, Segment};
use super::super::packing::PanelBlock;
use super::forms::Form;
use super::transforms::{self, KernelPlace, PanelSums, Plane, Points};
use super::{UNIT_TILES, picture_tiles, tile_size, tiles};
use crate::parallel::{Scratch, Unwritten, aligned, at_least};
use crate::tile::{LANES, Left, Right, Steps, Sums, multiply};
use crate::types::as_words;

/// Tiles whose values of one channel fill a cache line.
pub(super) const CHUNK: usize = LANES;
/// Most channels that are transformed at a time, roughly.
const BLOCK_CHANNELS: usize = 128;
/// Fewest channels that are transformed at a time, where there are so many.
const LEAST_BLOCK_CHANNELS: usize = 32;
/// Parts to aim at when the input of a picture is transformed, so that threads share it.
const PARTS: usize = 4;

/// Transformed values of one chunk of tiles. One channel more than there are: at a distance of a power of two, all points of a
/// channel would fight for the same sets of the nearest cache.
fn chunk_step(channels: usize) -> usize {
    (channels + 1) * CHUNK
}

/// The transformed kernel of one point, likewise.
fn factor_step(channels: usize, lanes: usize) -> usize {
    (channels + 1) * lanes
}

/// Some tiles of a call.
pub(super) struct Unit<'a> {
    pub(super) call: &'a Call<'a>,
    pub(super) form: Form,
    pub(super) segments: &'a [Segment],
    pub(super) tiles: usize,
}

impl Unit<'_> {
    /// All tiles for the panels from column `panels.0` on. Their input is transformed here, unless it comes with the call.
    pub(super) fn run(
        &self,
        (first_column, widths): (usize, &[usize]),
        shared: Option<&[f32]>,
        scratch: &mut Scratch,
        output: &Unwritten,
    ) {
        let Scratch { transformed, sums, rows, panel: room, factors, .. } = scratch;
        let transformed = match shared {
            Some(shared) => shared,
            None => self.transform_all(aligned(transformed, self.transformed_size())),
        };
        let widest = widths.iter().max().map_or(0, |width| width * LANES);
        let factors = aligned(factors, self.points() * factor_step(self.block_channels(), widest));
        let sums = aligned(sums, self.points() * self.sums_step(widest));
        let mut column = first_column;
        for (place, &width) in widths.iter().enumerate() {
            let panel = Panel { column, width };
            column += width * LANES;
            let next = widths.get(place + 1).map(|&width| Panel { column, width });
            let mut transformed = transformed;
            for channels in self.blocks() {
                self.transform_kernel(&channels, &panel, room, factors);
                let ahead = self.stored(&channels, next.as_ref());
                let (block, behind) = transformed.split_at(self.block_size(&channels));
                let both = Factors { transformed: block, kernel: factors, width, ahead: &ahead };
                self.products(&channels, &both, sums);
                transformed = behind;
            }
            self.finish(&panel, sums, rows, output);
        }
    }

    /// Transforms the input of all channels, block by block.
    fn transform_all<'a>(&self, transformed: &'a mut [f32]) -> &'a [f32] {
        for (channels, part) in self.parts(transformed) {
            self.transform_input(&channels, part);
        }
        transformed
    }

    /// The blocks of channels, each with the part of `transformed` that its input goes to.
    pub(super) fn parts<'a>(&self, transformed: &'a mut [f32]) -> Vec<(Range<usize>, &'a mut [f32])> {
        let mut rest = transformed;
        let mut parts = Vec::new();
        for channels in self.blocks() {
            let (part, behind) = rest.split_at_mut(self.block_size(&channels));
            parts.push((channels, part));
            rest = behind;
        }
        parts
    }

    /// The blocks of channels that are transformed at a time.
    fn blocks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (all, block) = (self.call.packed.in_channels, self.block_channels());
        (0..all).step_by(block).map(move |first| first..(first + block).min(all))
    }

    /// Values of a block's transformed input.
    fn block_size(&self, channels: &Range<usize>) -> usize {
        self.points() * self.chunks() * chunk_step(channels.len())
    }

    /// Values of the transformed input of all channels.
    pub(super) fn transformed_size(&self) -> usize {
        self.blocks().map(|channels| self.block_size(&channels)).sum()
    }

    /// Points of a tile.
    fn points(&self) -> usize {
        self.form.side().pow(2)
    }

    /// Lines of tiles whose values of one channel lie side by side.
    fn chunks(&self) -> usize {
        self.tiles.div_ceil(CHUNK)
    }

    /// Sums of one point for some columns. One tile more than there are, as below.
    fn sums_step(&self, lanes: usize) -> usize {
        (self.tiles + 1) * lanes
    }

    /// Channels that are transformed at a time: whole blocks of the packed kernel, about the same number each time. The
    /// number of pictures has no say, as sums are kept from block to block.
    fn block_channels(&self) -> usize {
        let (all, packed) = (self.call.packed.in_channels, self.call.packed.block_channels());
        let units = picture_tiles(self.form, &self.call.geometry).div_ceil(UNIT_TILES);
        let most = (all * units / PARTS).clamp(LEAST_BLOCK_CHANNELS, BLOCK_CHANNELS).next_multiple_of(packed);
        let blocks = all.div_ceil(packed);
        let times = (blocks * packed).div_ceil(most).max(1);
        blocks.div_ceil(times) * packed
    }

    /// Transforms the input of some channels: `[point][chunk][channel][tile]`.
    pub(super) fn transform_input(&self, channels: &Range<usize>, transformed: &mut [f32]) {
        let geometry = &self.call.geometry;
        let plane = geometry.in_height * geometry.in_width;
        let stride = geometry.stride;
        let mut points = Points::NONE;
        for (index, channel) in channels.clone().enumerate() {
            let mut before = 0;
            for segment in self.segments {
                let start = (segment.picture * self.call.packed.in_channels + channel) * plane;
                let source = Plane {
                    values: &self.call.input[start..start + plane],
                    height: geometry.in_height,
                    width: geometry.in_width,
                    top: (segment.rows.start * stride) as isize - geometry.padding as isize,
                    left: (segment.columns.start * stride) as isize - geometry.padding as isize,
                };
                let across = segment.columns.len().div_ceil(tile_size(self.form, geometry));
                let places = before..before + tiles(self.form, geometry, segment);
                before = places.end;
                transforms::transform_input_plane(self.form, &mut points, &source, across, places);
            }
            for (point, values) in points.values.iter().enumerate().take(self.points()) {
                for (chunk, values) in values.as_chunks::<CHUNK>().0.iter().enumerate().take(self.chunks()) {
                    let start = (point * self.chunks() + chunk) * chunk_step(channels.len()) + index * CHUNK;
                    transformed[start..start + CHUNK].copy_from_slice(values);
                }
            }
        }
    }

    /// Transforms the kernel of some channels for one panel: `[point][channel][column]`.
    fn transform_kernel(
        &self,
        channels: &Range<usize>,
        &Panel { column, width }: &Panel,
        room: &mut Vec<u32>,
        factors: &mut [f32],
    ) {
        let packed = self.call.packed;
        let Some(set) = packed.sets.first() else { return };
        for first in channels.clone().step_by(packed.block_channels()) {
            let count = packed.block_channels().min(channels.end - first);
            let block = PanelBlock { first: first / packed.arithmetic.per_step(), column, width };
            let values = packed.kernel(set, block, room);
            let (place, lanes) = (first - channels.start, width * LANES);
            let values = &values[..count * 9 * lanes];
            let kernel = KernelPlace { lanes, point_step: factor_step(channels.len(), lanes), place };
            transforms::transform_kernel(self.form, values, &kernel, factors);
        }
    }

    /// The kernel of some channels for the next panel as it is stored, block by block, if it has to come from afar.
    fn stored(&self, channels: &Range<usize>, next: Option<&Panel>) -> Vec<&[u32]> {
        let packed = self.call.packed;
        let (Some(panel), Some(set), true) = (next, packed.sets.first(), packed.is_streamed()) else {
            return Vec::new();
        };
        let blocks = channels.clone().step_by(packed.block_channels());
        let (step, &Panel { column, width }) = (packed.arithmetic.per_step(), panel);
        blocks.map(|first| packed.stored(set, PanelBlock { first: first / step, column, width })).collect()
    }

    /// The products of each point, `[point][tile][column]`, added to the sums of the blocks before.
    fn products(&self, channels: &Range<usize>, factors: &Factors<'_>, sums: &mut [f32]) {
        let (count, width, lanes) = (channels.len(), factors.width, factors.width * LANES);
        let steps = Steps::new((0..count).map(|channel| (channel * CHUNK) as u32).collect());
        let calls = (self.points() * self.chunks()).div_ceil(factors.ahead.len().max(1));
        let mut ahead = factors.ahead.iter().flat_map(|words| words.chunks(words.len().div_ceil(calls).max(1)));
        for point in 0..self.points() {
            let words = &factors.kernel[point * factor_step(count, lanes)..][..count * lanes];
            for chunk in 0..self.chunks() {
                let start = (point * self.chunks() + chunk) * chunk_step(count);
                let rows = CHUNK.min(self.tiles - chunk * CHUNK);
                let left = Left { words: as_words(factors.transformed), start, row_step: 1, rows };
                let right =
                    Right { words: as_words(words), width, columns: lanes, ahead: ahead.next().unwrap_or_default() };
                let values = &mut sums[point * self.sums_step(lanes) + chunk * CHUNK * lanes..];
                let mut sums = Sums { values, row_step: lanes, accumulate: channels.start > 0 };
                multiply(self.call.packed.arithmetic.in_f32(), left, &steps, right, &mut sums);
            }
        }
    }

    /// Transforms the sums of one panel back into pixels, and finishes them into the result.
    fn finish(&self, panel: &Panel, sums: &[f32], rows: &mut Vec<f32>, output: &Unwritten) {
        let (lanes, geometry) = (panel.width * LANES, &self.call.geometry);
        let room = self.form.pixels().pow(2) * UNIT_TILES * lanes;
        let rows = at_least(rows, room + LANES * RUN);
        let (pixels, rows) = rows.split_at_mut(room);
        let mut before = 0;
        for segment in self.segments {
            let size = (segment.rows.len() * geometry.factor, segment.columns.len() * geometry.factor);
            let sums = PanelSums { values: sums, point_step: self.sums_step(lanes), before, lanes, size };
            transforms::transform_back(self.form, &sums, pixels);
            self.call.finish(segment, (panel.column, lanes), pixels, rows, output);
            before += tiles(self.form, geometry, segment);
        }
    }
}

/// Some output channels.
struct Panel {
    /// The first.
    column: usize,
    /// Vectors of them.
    width: usize,
}

/// What is multiplied for one panel.
struct Factors<'a> {
    /// The transformed input, `[point][chunk][channel][tile]`.
    transformed: &'a [f32],
    /// The transformed kernel, `[point][channel][column]`.
    kernel: &'a [f32],
    /// Vectors of a channel of the kernel.
    width: usize,
    /// The next panel's kernel as it is stored.
    ahead: &'a [&'a [u32]],
}
