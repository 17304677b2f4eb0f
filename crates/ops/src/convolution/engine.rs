//! The convolution itself: pictures are cut into segments of pixels, a padded copy of a segment's input is packed for one
//! block of channels at a time (never the nine-fold im2col), and the tile's inner loop reads it through offsets.

use std::ops::Range;

use super::packing::{Packed, PanelBlock};
#[cfg(target_arch = "x86_64")]
use super::tiled;
use super::winograd;
use crate::elementary::activated;
use crate::parallel::{Scratch, Unwritten, WORTH_FLOPS, at_least, for_units, with_scratch, written};
use crate::profile::{self, Kind};
use crate::simd::multiversion;
use crate::tile::{LANES, Left, Right, Steps, Sums, multiply};
use crate::transpose::transpose;
use crate::types::Activation;

/// Result pixels in one unit of work.
const UNIT_PIXELS: usize = 128;
/// The same where all weights come from afar for each unit.
const STREAMED_UNIT_PIXELS: usize = 256;
/// The same for matrix tiles, whose weights stream faster.
const TILED_UNIT_PIXELS: usize = 512;
/// Output channels in one unit of work, roughly.
const UNIT_COLUMNS: usize = 384;
/// Units to aim at, so that threads finish together.
const UNITS: usize = 16;
/// Tiles whose rows lie side by side for a kernel that sees one pixel.
const CHUNK_TILES: usize = 2;
/// Pixels that are transposed at a time.
pub(super) const RUN: usize = 64;

/// Sizes of one call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Geometry {
    pub(crate) batch: usize,
    pub(crate) in_height: usize,
    pub(crate) in_width: usize,
    /// Result rows and columns before the enlargement.
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) stride: usize,
    pub(crate) padding: usize,
    /// Result pixels for each of those in each direction: 2 behind an enlargement.
    pub(crate) factor: usize,
}

/// What is added to and done with the sums.
#[derive(Clone, Copy)]
pub(crate) struct Finish<'a> {
    pub(crate) bias: Option<&'a [f32]>,
    /// `[batch, out]`.
    pub(crate) shift: Option<&'a [f32]>,
    pub(crate) activation: Activation,
    pub(crate) residual: Option<&'a [f32]>,
}

/// Pixels of one picture, before the enlargement.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub(super) picture: usize,
    pub(super) rows: Range<usize>,
    pub(super) columns: Range<usize>,
}

impl Segment {
    pub(super) fn pixels(&self) -> usize {
        self.rows.len() * self.columns.len()
    }
}

/// Everything that the units of one call share.
pub(super) struct Call<'a> {
    pub(super) packed: &'a Packed,
    pub(super) geometry: Geometry,
    pub(super) input: &'a [f32],
    finish: Finish<'a>,
    /// Extent of the taps in both directions.
    pub(super) extent: usize,
    /// Pixels that lie side by side where the kernel sees one pixel only: whole tiles of rows.
    pub(super) chunk: Option<usize>,
}

/// The convolution of `[batch, in, in_height, in_width]` values.
pub(crate) fn convolve(packed: &Packed, geometry: Geometry, input: &[f32], finish: Finish<'_>) -> Vec<f32> {
    let _timed = profile::timed(Kind::Convolution);
    let taps = packed.sets.iter().flat_map(|set| &set.taps);
    let extent = taps.map(|tap| tap.0 + 1).max().unwrap_or(1);
    let flat = extent == 1 && geometry.stride == 1 && geometry.padding == 0;
    let geometry = if flat { geometry.flattened() } else { geometry };
    let chunk = (flat && !packed.arithmetic.is_tiled()).then(|| CHUNK_TILES * packed.arithmetic.tile_rows());
    let call = Call { packed, geometry, input, finish, extent, chunk };
    let pixels = geometry.batch * geometry.height * geometry.width * geometry.factor.pow(2);
    let products: usize = packed.sets.iter().map(|set| set.taps.len()).sum::<usize>() * packed.in_channels;
    let flops = 2 * geometry.batch * geometry.height * geometry.width * products * packed.out_channels;
    let worth = flops >= WORTH_FLOPS;
    if let Some(form) = winograd::form(packed, &geometry) {
        return winograd::convolve(&call, form, worth);
    }
    let unit_pixels = match packed.arithmetic.is_tiled() {
        true => TILED_UNIT_PIXELS,
        false if packed.is_streamed() => STREAMED_UNIT_PIXELS,
        false => UNIT_PIXELS,
    };
    let segments = segments(geometry, unit_pixels, chunk.unwrap_or(8));
    let per_unit =
        segments.first().map_or(1, |first| (unit_pixels / (first.pixels() * geometry.factor.pow(2)).max(1)).max(1));
    let groups: Vec<&[Segment]> = segments.chunks(per_unit).collect();
    let panels = packed.panel_groups(UNIT_COLUMNS, UNITS.div_ceil(groups.len().max(1)));
    #[cfg(target_arch = "x86_64")]
    let interleaved = packed.arithmetic.is_tiled().then(|| tiled::Interleaved::new(&call, worth));
    // SAFETY: the units cover every segment and every panel once, and `unit` writes all of both.
    #[allow(unsafe_code)]
    unsafe {
        written(pixels * packed.out_channels, |output| {
            for_units(groups.len() * panels.len(), worth, |index| {
                let (group, panel) = (groups[index / panels.len()], &panels[index % panels.len()]);
                with_scratch(|scratch| {
                    #[cfg(target_arch = "x86_64")]
                    if let Some(interleaved) = &interleaved {
                        return call.tiled_unit(interleaved, group, panel, scratch, output);
                    }
                    call.unit(group, panel, scratch, output);
                });
            });
        })
    }
}

impl Geometry {
    /// The same pixels as one row, for a kernel that sees one pixel only.
    fn flattened(self) -> Self {
        let pixels = self.height * self.width;
        Self { in_height: 1, in_width: pixels, height: 1, width: pixels, ..self }
    }

    /// All pictures in segments of `down` rows and `across` columns, fewer at the ends.
    pub(super) fn cut(&self, down: usize, across: usize) -> Vec<Segment> {
        let mut segments = Vec::new();
        for picture in 0..self.batch {
            for row in (0..self.height).step_by(down) {
                for column in (0..self.width).step_by(across) {
                    let rows = row..(row + down).min(self.height);
                    segments.push(Segment { picture, rows, columns: column..(column + across).min(self.width) });
                }
            }
        }
        segments
    }
}

/// Cuts the pictures into segments of about `unit_pixels` result pixels: whole rows where they are short.
fn segments(geometry: Geometry, unit_pixels: usize, whole: usize) -> Vec<Segment> {
    let factor = geometry.factor;
    let room = unit_pixels / factor;
    let parts = geometry.width.div_ceil(room).max(1);
    // Tiles stay whole.
    let across = geometry.width.div_ceil(parts).next_multiple_of(whole).min(geometry.width).max(1);
    geometry.cut((room / factor / across).max(1), across)
}

impl Call<'_> {
    /// All of `segments` for the panels from column `panels.0` on.
    fn unit(&self, segments: &[Segment], panels: &(usize, &[usize]), scratch: &mut Scratch, output: &Unwritten) {
        let packed = self.packed;
        let factor = self.geometry.factor;
        let (first_column, widths) = *panels;
        let columns = widths.iter().sum::<usize>() * LANES;
        let pixels: usize = segments.iter().map(Segment::pixels).sum::<usize>() * factor * factor;
        let Scratch { words, sums, rows, panel, .. } = scratch;
        let sums = at_least(sums, pixels * columns);
        if packed.channel_steps == 0 {
            sums[..pixels * columns].fill(0.0);
        }
        for first in (0..packed.channel_steps).step_by(packed.block_steps) {
            let channels = packed.block_steps.min(packed.channel_steps - first);
            let parts = self.pack(segments, first..first + channels, words);
            for (number, set) in packed.sets.iter().enumerate() {
                let steps: Vec<Steps> = parts.iter().map(|part| packed.steps(set, channels, part.width)).collect();
                let mut column = 0;
                for (place, &vectors) in widths.iter().enumerate() {
                    let block = PanelBlock { first, column: first_column + column, width: vectors };
                    let ahead = match widths.get(place + 1) {
                        _ if !packed.is_streamed() => &[],
                        Some(&width) => {
                            packed.stored(set, PanelBlock { column: block.column + vectors * LANES, width, ..block })
                        }
                        None => self.next_panel(number, first, (first_column, widths[0])),
                    };
                    let right = packed.panel(set, block, panel);
                    let present = (vectors * LANES).min(packed.out_channels - first_column - column);
                    let right = Right { words: right, width: vectors, columns: present, ahead };
                    for ((segment, part), steps) in segments.iter().zip(&parts).zip(&steps) {
                        let at = part.before * factor * factor * columns + column;
                        let place = Place {
                            words,
                            start: part.start,
                            width: part.width,
                            channels,
                            columns,
                            at,
                            phase: set.phase,
                            accumulate: first > 0,
                        };
                        self.panel(segment, &place, steps, right, sums);
                    }
                    column += vectors * LANES;
                }
            }
        }
        let mut before = 0;
        for segment in segments {
            let sums = &sums[before * factor * factor * columns..];
            self.finish(segment, (first_column, columns), sums, at_least(rows, LANES * RUN), output);
            before += segment.pixels();
        }
    }

    /// What follows the last panel of a set: the next set's, or the next block's first panel.
    fn next_panel(&self, set: usize, first: usize, (column, width): (usize, usize)) -> &[u32] {
        let packed = self.packed;
        let (set, first) = match set + 1 < packed.sets.len() {
            true => (set + 1, first),
            false => (0, first + packed.block_steps),
        };
        let first = if first < packed.channel_steps { first } else { 0 };
        packed.sets.get(set).map_or(&[], |set| packed.stored(set, PanelBlock { first, column, width }))
    }

    /// One panel for all rows of a segment.
    fn panel(&self, segment: &Segment, place: &Place<'_>, steps: &Steps, right: Right<'_>, sums: &mut [f32]) {
        let (factor, stride) = (self.geometry.factor, self.geometry.stride);
        let across = segment.columns.len();
        // Pixels in a row of the packed input.
        let together = self.chunk.unwrap_or(across).max(1);
        let calls = segment.rows.len() * across.div_ceil(together);
        let mut ahead = right.ahead.chunks(right.ahead.len().div_ceil(calls).max(1));
        for row in 0..segment.rows.len() {
            for column in (0..across).step_by(together) {
                let pixel = (row * factor + place.phase.0) * across * factor + place.phase.1 + column * factor;
                let start = place.start + (row * stride * place.width + column) * place.channels;
                let rows = together.min(across - column);
                let left = Left { words: place.words, start, row_step: stride, rows };
                let values = &mut sums[place.at + pixel * place.columns..];
                let mut sums = Sums { values, row_step: factor * place.columns, accumulate: place.accumulate };
                let right = Right { ahead: ahead.next().unwrap_or_default(), ..right };
                multiply(self.packed.arithmetic, left, steps, right, &mut sums);
            }
        }
    }

    /// Turns a segment's sums round (channels outermost) and finishes them into the result.
    pub(super) fn finish(
        &self,
        segment: &Segment,
        (first_column, columns): (usize, usize),
        sums: &[f32],
        rows: &mut [f32],
        output: &Unwritten,
    ) {
        let factor = self.geometry.factor;
        let (height, width) = (self.geometry.height * factor, self.geometry.width * factor);
        let across = segment.columns.len() * factor;
        let down = segment.rows.len() * factor;
        // Whole rows lie side by side in the result and are finished as one.
        let (down, across) = if across == width { (1, down * across) } else { (down, across) };
        let channels = first_column..(first_column + columns).min(self.packed.out_channels);
        for row in 0..down {
            let origin = (segment.rows.start * factor + row) * width + segment.columns.start * factor;
            for run in (0..across).step_by(RUN) {
                let length = RUN.min(across - run);
                for channel in channels.clone().step_by(LANES) {
                    let source = &sums[(row * across + run) * columns + channel - first_column..];
                    transpose(source, columns, length, rows, RUN);
                    let group = channel..(channel + LANES).min(channels.end);
                    for (row, channel) in rows.chunks(RUN).zip(group) {
                        let plane = segment.picture * self.packed.out_channels + channel;
                        let start = plane * height * width + origin + run;
                        // SAFETY: the pixels of this segment in this channel, which no other unit touches.
                        #[allow(unsafe_code)]
                        let target = unsafe { output.part(start, length) };
                        let added = self.finish.bias.map_or(0.0, |bias| bias[channel])
                            + self.finish.shift.map_or(0.0, |shift| shift[plane]);
                        let residual = self.finish.residual.map(|residual| &residual[start..start + length]);
                        finish_row(target, &row[..length], added, self.finish.activation, residual);
                    }
                }
            }
        }
    }
}

/// Where a panel's left factor and sums lie.
struct Place<'a> {
    words: &'a [u32],
    start: usize,
    /// Columns of a row of the packed input.
    width: usize,
    channels: usize,
    columns: usize,
    at: usize,
    phase: (usize, usize),
    accumulate: bool,
}

multiversion! {
    fn finish_row(target: &mut [f32], sums: &[f32], added: f32, activation: Activation, residual: Option<&[f32]>) {
        match (activation, residual) {
            (Activation::None, None) => {
                for (target, sum) in target.iter_mut().zip(sums) {
                    *target = sum + added;
                }
            }
            (Activation::None, Some(residual)) => {
                for ((target, sum), residual) in target.iter_mut().zip(sums).zip(residual) {
                    *target = sum + added + residual;
                }
            }
            (Activation::Silu, None) => {
                for (target, sum) in target.iter_mut().zip(sums) {
                    *target = activated::<FUSED>(sum + added, Activation::Silu);
                }
            }
            (activation, residual) => {
                for (index, (target, sum)) in target.iter_mut().zip(sums).enumerate() {
                    *target = activated::<FUSED>(sum + added, activation) + residual.map_or(0.0, |row| row[index]);
                }
            }
        }
    }
}
