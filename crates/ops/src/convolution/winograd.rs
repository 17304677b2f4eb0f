//! The 3×3 convolution with fewer products: Winograd's minimal filtering F(2×2, 3×3) (arXiv 1509.09308, §4.1).
//!
//! A tile of 2×2 result pixels sees 4×4 input pixels. Input and kernel are each transformed into 16 points, in which the
//! convolution is a product point by point: 16 products for 4 pixels instead of 36. Each point is then a matrix product of
//! its own, channels by tiles, through the tile's inner loop. The kernel is transformed block by block of channels in working
//! memory, so that weights take no more room than they do for the plain way.
//!
//! With stride 2 a tile sees 5×5 pixels. In each direction, two taps fall on every other pixel and one between them: the
//! first are a filter F(2, 2) of three products, the other takes two, which makes 25 points.
//!
//! The transforms add and subtract values of like size, so in f32 results are as close as the plain way's (the sums of a point
//! are shorter); with factors rounded to bf16 behind the transforms they would not be, so machines with products of bf16 pairs
//! do without.

mod transforms;

use std::ops::Range;

use super::engine::{Call, Geometry, Segment};
use super::packing::Packed;
use crate::parallel::{Scratch, Unwritten, aligned, at_least, for_units, with_scratch, written};
use crate::tile::{LANES, Left, Right, Steps, Sums, multiply};
use crate::types::{as_values, as_words};
use transforms::{KernelPlace, PanelSums, Plane, Points};

/// Result pixels of a tile in each direction.
const TILE: usize = 2;
/// Most tiles in one unit of work: the kernel is transformed for all of them, and their transformed input should stay at hand.
const UNIT_TILES: usize = 128;
/// Fewest tiles in one unit, where a call has them.
const LEAST_UNIT_TILES: usize = 64;
/// Tiles whose values of one channel fill a cache line.
const CHUNK: usize = LANES;
/// Channels that are transformed at a time, roughly.
const BLOCK_CHANNELS: usize = 128;
/// Output channels in one unit of work, roughly: the input is transformed once for all of them.
const UNIT_COLUMNS: usize = 640;
/// Units to aim at, so that threads finish together.
const UNITS: usize = 8;
/// Fewest panels in a unit, where a call has them: to transform the input takes as long as the products of one.
const LEAST_PANELS: usize = 8;
/// Fewest channels, in and out, for which the transforms pay.
const LEAST_CHANNELS: usize = 32;
/// Fewest tiles of a picture for which it pays to transform the kernel.
const LEAST_TILES: usize = 16;
/// Fewest tiles of a picture times output channels: below, a call has too few units to share out.
const LEAST_RESULTS: usize = 1 << 13;

/// Points of a tile in each direction, and as many input pixels that it sees.
const fn side(stride: usize) -> usize {
    stride + 3
}

/// Whether a call has this form and gains by it. The number of pictures has no say, as it must change no bit.
pub(super) fn pays(packed: &Packed, geometry: &Geometry) -> bool {
    let tiles = picture_tiles(geometry);
    let plain = packed.factor == 1 && packed.arithmetic.per_step() == 1 && (1..=2).contains(&geometry.stride);
    let kernel = packed.sets.iter().all(|set| set.taps.len() == 9 && set.tiled.is_none());
    let large = tiles >= LEAST_TILES && tiles * packed.out_channels >= LEAST_RESULTS;
    plain && kernel && large && packed.in_channels.min(packed.out_channels) >= LEAST_CHANNELS
}

/// The convolution of `call`, for which it [`pays`].
pub(super) fn convolve(call: &Call<'_>, worth: bool) -> Vec<f32> {
    let (geometry, packed) = (&call.geometry, call.packed);
    let most = (packed.panels.len() / LEAST_PANELS).max(1);
    let unit_tiles = (geometry.batch * picture_tiles(geometry) * most / UNITS).clamp(LEAST_UNIT_TILES, UNIT_TILES);
    let segments = tile_segments(geometry, unit_tiles);
    let per_unit = segments.first().map_or(1, |first| (unit_tiles / tiles(first).max(1)).max(1));
    let groups: Vec<&[Segment]> = segments.chunks(per_unit).collect();
    let panels = packed.panel_groups(UNIT_COLUMNS, UNITS.div_ceil(groups.len().max(1)).min(most));
    let length = geometry.batch * geometry.height * geometry.width * packed.out_channels;
    // SAFETY: the units cover every segment and every panel once, and `run` writes all of both.
    #[allow(unsafe_code)]
    unsafe {
        written(length, |output| {
            for_units(groups.len() * panels.len(), worth, |index| {
                let (segments, panels) = (groups[index / panels.len()], &panels[index % panels.len()]);
                let unit = Unit { call, segments, tiles: segments.iter().map(tiles).sum() };
                with_scratch(|scratch| unit.run(panels, scratch, output));
            });
        })
    }
}

/// Tiles of a picture.
fn picture_tiles(geometry: &Geometry) -> usize {
    geometry.height.div_ceil(TILE) * geometry.width.div_ceil(TILE)
}

/// Cuts the pictures into segments of whole tiles, at most `unit_tiles` each: whole rows where they are short.
fn tile_segments(geometry: &Geometry, unit_tiles: usize) -> Vec<Segment> {
    let across = geometry.width.div_ceil(TILE);
    let across = across.div_ceil(across.div_ceil(unit_tiles).max(1)).max(1);
    geometry.cut(TILE * (unit_tiles / across).max(1), TILE * across)
}

/// Tiles of a segment, those that stick out over its end counted in.
fn tiles(segment: &Segment) -> usize {
    segment.rows.len().div_ceil(TILE) * segment.columns.len().div_ceil(TILE)
}

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
struct Unit<'a> {
    call: &'a Call<'a>,
    segments: &'a [Segment],
    tiles: usize,
}

impl Unit<'_> {
    /// All tiles for the panels from column `panels.0` on.
    fn run(&self, panels: &(usize, &[usize]), scratch: &mut Scratch, output: &Unwritten) {
        let packed = self.call.packed;
        let (first_column, widths) = *panels;
        let columns = widths.iter().sum::<usize>() * LANES;
        let Scratch { transformed, sums, rows, panel, factors, .. } = scratch;
        let block = self.block_channels();
        let transformed = aligned(transformed, self.points() * self.chunks() * chunk_step(block));
        let sums = aligned(sums, self.points() * self.sums_step(columns));
        let widest = widths.iter().max().map_or(0, |width| width * LANES);
        let factors = aligned(factors, self.points() * factor_step(block, widest));
        for first in (0..packed.channel_steps).step_by(block) {
            let channels = first..(first + block).min(packed.channel_steps);
            self.transform_input(&channels, transformed);
            let steps = Steps::new((0..channels.len()).map(|channel| (channel * CHUNK) as u32).collect());
            let mut column = 0;
            for (place, &width) in widths.iter().enumerate() {
                self.transform_kernel(&channels, (first_column + column, width), panel, factors);
                let next = first_column + column + width * LANES;
                let ahead = match widths.get(place + 1) {
                    Some(&width) if packed.is_streamed() => self.stored(&channels, (next, width)),
                    _ => Vec::new(),
                };
                let sums = &mut sums[self.points() * self.sums_step(column)..];
                let factors = Factors { transformed, steps: &steps, kernel: factors, width, ahead: &ahead };
                self.products(&factors, first > 0, sums);
                column += width * LANES;
            }
        }
        let mut column = 0;
        for &width in widths {
            let sums = &sums[self.points() * self.sums_step(column)..];
            self.finish((first_column + column, width * LANES), sums, rows, output);
            column += width * LANES;
        }
    }

    /// Points of a tile.
    fn points(&self) -> usize {
        side(self.call.geometry.stride).pow(2)
    }

    /// Lines of tiles whose values of one channel lie side by side.
    fn chunks(&self) -> usize {
        self.tiles.div_ceil(CHUNK)
    }

    /// Sums of one point for some columns. One tile more than there are, as below.
    fn sums_step(&self, lanes: usize) -> usize {
        (self.tiles + 1) * lanes
    }

    /// Channels that are transformed at a time: whole blocks of the packed kernel, about the same number each time.
    fn block_channels(&self) -> usize {
        let (all, packed) = (self.call.packed.channel_steps, self.call.packed.block_steps);
        let blocks = all.div_ceil(packed);
        let times = (blocks * packed).div_ceil(BLOCK_CHANNELS.next_multiple_of(packed)).max(1);
        blocks.div_ceil(times) * packed
    }

    /// Transforms the input of some channels: `[point][chunk][channel][tile]`.
    fn transform_input(&self, channels: &Range<usize>, transformed: &mut [f32]) {
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
                let across = segment.columns.len().div_ceil(TILE);
                transforms::transform_input_plane(
                    stride,
                    &mut points,
                    &source,
                    across,
                    before..before + tiles(segment),
                );
                before += tiles(segment);
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
        (column, width): (usize, usize),
        room: &mut Vec<u32>,
        factors: &mut [f32],
    ) {
        let packed = self.call.packed;
        let Some(set) = packed.sets.first() else { return };
        for first in channels.clone().step_by(packed.block_steps) {
            let count = packed.block_steps.min(channels.end - first);
            let words = packed.panel(set, first, column, width, room);
            let place = first - channels.start;
            let (values, lanes) = (as_values(&words[..count * 9 * width * LANES]), width * LANES);
            let kernel = KernelPlace { lanes, point_step: factor_step(channels.len(), lanes), place };
            transforms::transform_kernel(self.call.geometry.stride, values, &kernel, factors);
        }
    }

    /// The kernel of some channels for one panel as it is stored, block by block.
    fn stored(&self, channels: &Range<usize>, (column, width): (usize, usize)) -> Vec<&[u32]> {
        let packed = self.call.packed;
        let blocks = channels.clone().step_by(packed.block_steps);
        let sets = packed.sets.iter().take(1);
        sets.flat_map(|set| blocks.clone().map(|first| packed.stored(set, first, column, width))).collect()
    }

    /// The products of each point, `[point][tile][column]`, added to what `sums` holds if `accumulate` says so.
    fn products(&self, factors: &Factors<'_>, accumulate: bool, sums: &mut [f32]) {
        let (channels, width, lanes) = (factors.steps.len(), factors.width, factors.width * LANES);
        let calls = (self.points() * self.chunks()).div_ceil(factors.ahead.len().max(1));
        let mut ahead = factors.ahead.iter().flat_map(|words| words.chunks(words.len().div_ceil(calls).max(1)));
        for point in 0..self.points() {
            let words = &factors.kernel[point * factor_step(channels, lanes)..][..channels * lanes];
            for chunk in 0..self.chunks() {
                let start = (point * self.chunks() + chunk) * chunk_step(channels);
                let rows = CHUNK.min(self.tiles - chunk * CHUNK);
                let left = Left { words: as_words(factors.transformed), start, row_step: 1, rows };
                let right =
                    Right { words: as_words(words), width, columns: lanes, ahead: ahead.next().unwrap_or_default() };
                let values = &mut sums[point * self.sums_step(lanes) + chunk * CHUNK * lanes..];
                let mut sums = Sums { values, row_step: lanes, accumulate };
                multiply(self.call.packed.arithmetic, left, factors.steps, right, &mut sums);
            }
        }
    }

    /// Transforms the sums of one panel back into pixels, and finishes them into the result.
    fn finish(&self, columns: (usize, usize), sums: &[f32], rows: &mut Vec<f32>, output: &Unwritten) {
        let lanes = columns.1;
        let room = TILE * TILE * UNIT_TILES * lanes;
        let rows = at_least(rows, room + LANES * super::engine::RUN);
        let (pixels, rows) = rows.split_at_mut(room);
        let mut before = 0;
        for segment in self.segments {
            transforms::transform_back(
                self.call.geometry.stride,
                segment,
                &PanelSums { values: sums, point_step: self.sums_step(lanes), before, lanes },
                pixels,
            );
            self.call.finish(segment, columns, pixels, rows, output);
            before += tiles(segment);
        }
    }
}

/// What is multiplied for one panel.
struct Factors<'a> {
    /// The transformed input, `[point][chunk][channel][tile]`.
    transformed: &'a [f32],
    /// Where the channels of a chunk lie.
    steps: &'a Steps,
    /// The transformed kernel, `[point][channel][column]`.
    kernel: &'a [f32],
    /// Vectors of a channel of the kernel.
    width: usize,
    /// The next panel's kernel as it is stored.
    ahead: &'a [&'a [u32]],
}
