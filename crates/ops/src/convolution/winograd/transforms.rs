//! The transforms of input, kernel and sums: the matrices of arXiv 1509.09308, §4.1, written out.

use std::ops::Range;

use super::super::engine::Segment;
use super::{TILE, UNIT_TILES, side};
use crate::simd::multiversion;

/// Most points of a tile, and most input pixels that it sees, in each direction.
const MOST: usize = side(2);
/// Input columns that a unit's row of tiles sees at most.
const LINE: usize = line_length(2, UNIT_TILES);

/// Input columns that a row of `tiles` sees.
const fn line_length(stride: usize, tiles: usize) -> usize {
    (TILE * tiles - 1) * stride + 3
}

/// One channel of a picture, and where a segment's input begins in it.
pub(super) struct Plane<'a> {
    pub(super) values: &'a [f32],
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) top: isize,
    pub(super) left: isize,
}

impl Plane<'_> {
    /// A row of the padded plane from the segment's left end on.
    #[inline(always)]
    fn line(&self, row: usize, line: &mut [f32]) {
        let y = self.top + row as isize;
        if y < 0 || y as usize >= self.height {
            return line.fill(0.0);
        }
        let start = (-self.left).clamp(0, line.len() as isize) as usize;
        let end = (self.width as isize - self.left).clamp(start as isize, line.len() as isize) as usize;
        let from = y as usize * self.width + (self.left + start as isize).max(0) as usize;
        line[..start].fill(0.0);
        line[start..end].copy_from_slice(&self.values[from..from + end - start]);
        line[end..].fill(0.0);
    }
}

/// `B^T d` in one direction: the points of what a tile sees.
#[inline(always)]
fn transform<const STRIDE: usize>(seen: [f32; MOST]) -> [f32; MOST] {
    let [first, second, third, fourth, fifth] = seen;
    match STRIDE {
        1 => [first - third, second + third, third - second, second - fourth, 0.0],
        _ => [first - third, third, fifth - third, second, fourth],
    }
}

/// What a channel's tiles are transformed in.
pub(super) struct Points {
    /// Rows of the padded input.
    lines: [[f32; LINE]; MOST],
    /// `[point][tile]`.
    pub(super) values: [[f32; UNIT_TILES]; MOST * MOST],
}

impl Points {
    pub(super) const NONE: Self = Self { lines: [[0.0; LINE]; MOST], values: [[0.0; UNIT_TILES]; MOST * MOST] };

    /// The points `B^T d B` of the tiles of a segment, `across` in a row, at `places`.
    #[inline(always)]
    fn transform_tiles<const STRIDE: usize>(&mut self, source: &Plane<'_>, across: usize, places: Range<usize>) {
        let length = line_length(STRIDE, across);
        for (row, place) in places.step_by(across).enumerate() {
            for (index, line) in self.lines.iter_mut().enumerate().take(side(STRIDE)) {
                source.line(TILE * STRIDE * row + index, &mut line[..length]);
            }
            let [first, second, third, fourth, fifth] = &mut self.lines;
            let upper = first[..length].iter_mut().zip(&mut second[..length]).zip(&mut third[..length]);
            let lower = fourth[..length].iter_mut().zip(&mut fifth[..length]);
            for (((first, second), third), (fourth, fifth)) in upper.zip(lower) {
                [*first, *second, *third, *fourth, *fifth] =
                    transform::<STRIDE>([*first, *second, *third, *fourth, *fifth]);
            }
            for (line, points) in self.lines.iter().zip(self.values.chunks_exact_mut(side(STRIDE))) {
                transform_line::<STRIDE>(&line[..length], points, place..place + across);
            }
        }
    }
}

/// The points of one line's tiles. Written out, so that the compiler sees neighbours.
#[inline(always)]
fn transform_line<const STRIDE: usize>(line: &[f32], points: &mut [[f32; UNIT_TILES]], places: Range<usize>) {
    match points {
        [first, second, third, fourth] => {
            let (now, next) = (line.as_chunks::<2>().0, line[2..].as_chunks::<2>().0);
            let (first, second) = (&mut first[places.clone()], &mut second[places.clone()]);
            let (third, fourth) = (&mut third[places.clone()], &mut fourth[places]);
            for (tile, ([a, b], [c, d])) in now.iter().zip(next).enumerate().take(first.len()) {
                [first[tile], second[tile], third[tile], fourth[tile], _] = transform::<STRIDE>([*a, *b, *c, *d, 0.0]);
            }
        }
        [first, second, third, fourth, fifth] => {
            let (now, next) = (line.as_chunks::<4>().0, line[1..].as_chunks::<4>().0);
            let (first, second) = (&mut first[places.clone()], &mut second[places.clone()]);
            let (third, fourth, fifth) = (&mut third[places.clone()], &mut fourth[places.clone()], &mut fifth[places]);
            for (tile, ([a, b, c, d], [.., e])) in now.iter().zip(next).enumerate().take(first.len()) {
                [first[tile], second[tile], third[tile], fourth[tile], fifth[tile]] =
                    transform::<STRIDE>([*a, *b, *c, *d, *e]);
            }
        }
        _ => unreachable!("a direction has four or five points"),
    }
}

multiversion! {
    /// Transforms the tiles of a segment in one channel, `across` in a row, and puts them at `places`.
    pub(super) fn transform_input_plane(stride: usize, points: &mut Points, source: &Plane<'_>, across: usize, places: Range<usize>) {
        match stride {
            1 => points.transform_tiles::<1>(source, across, places),
            _ => points.transform_tiles::<2>(source, across, places),
        }
    }
}

/// Columns that are transformed together.
const VECTOR: usize = 8;

/// Some values of a row. (Closures would not be compiled for the vector instructions of the function around them.)
#[inline(always)]
fn vector(values: &[f32], start: usize) -> [f32; VECTOR] {
    let mut vector = [0.0; VECTOR];
    vector.copy_from_slice(&values[start..start + VECTOR]);
    vector
}

/// `G g` in one direction: the points of three taps.
#[inline(always)]
fn transform_taps<const STRIDE: usize>(taps: [[f32; VECTOR]; 3]) -> [[f32; VECTOR]; MOST] {
    let mut transformed = [[0.0; VECTOR]; MOST];
    for lane in 0..VECTOR {
        let [first, second, third] = [taps[0][lane], taps[1][lane], taps[2][lane]];
        let points = match STRIDE {
            1 => {
                let (outer, inner) = (0.5 * (first + third), 0.5 * second);
                [first, outer + inner, outer - inner, third, 0.0]
            }
            _ => [first, first + third, third, second, second],
        };
        for (transformed, point) in transformed.iter_mut().zip(points) {
            transformed[lane] = point;
        }
    }
    transformed
}

/// Where a transformed kernel goes, `[point][channel][column]`.
pub(super) struct KernelPlace {
    /// Columns of a channel.
    pub(super) lanes: usize,
    /// From one point to the next.
    pub(super) point_step: usize,
    /// The first channel.
    pub(super) place: usize,
}

/// The points `G g G^T` of channels that lie as `[channel][tap][column]`.
#[inline(always)]
fn transform_channels<const STRIDE: usize>(values: &[f32], kernel: &KernelPlace, factors: &mut [f32]) {
    let KernelPlace { lanes, point_step, place } = *kernel;
    for (channel, values) in values.chunks_exact(9 * lanes).enumerate() {
        for lane in (0..lanes).step_by(VECTOR) {
            let mut columns = [[[0.0; VECTOR]; MOST]; 3];
            for (column, transformed) in columns.iter_mut().enumerate() {
                let first = column * lanes + lane;
                let taps = [first, first + 3 * lanes, first + 6 * lanes];
                *transformed = transform_taps::<STRIDE>([
                    vector(values, taps[0]),
                    vector(values, taps[1]),
                    vector(values, taps[2]),
                ]);
            }
            let [first, second, third] = &columns;
            for (row, ((first, second), third)) in first.iter().zip(second).zip(third).enumerate().take(side(STRIDE)) {
                let transformed = transform_taps::<STRIDE>([*first, *second, *third]);
                for (column, values) in transformed.iter().enumerate().take(side(STRIDE)) {
                    let start = (side(STRIDE) * row + column) * point_step + (place + channel) * lanes + lane;
                    factors[start..start + VECTOR].copy_from_slice(values);
                }
            }
        }
    }
}

multiversion! {
    /// Transforms a kernel whose channels lie as `[channel][tap][column]`.
    pub(super) fn transform_kernel(stride: usize, values: &[f32], kernel: &KernelPlace, factors: &mut [f32]) {
        match stride {
            1 => transform_channels::<1>(values, kernel, factors),
            _ => transform_channels::<2>(values, kernel, factors),
        }
    }
}

/// `A^T m` in one direction: the pixels of a tile's points.
#[inline(always)]
fn pixels<const STRIDE: usize>(points: [[f32; VECTOR]; MOST]) -> [[f32; VECTOR]; TILE] {
    let mut pixels = [[0.0; VECTOR]; TILE];
    for lane in 0..VECTOR {
        let [first, second, third, fourth, fifth] =
            [points[0][lane], points[1][lane], points[2][lane], points[3][lane], points[4][lane]];
        (pixels[0][lane], pixels[1][lane]) = match STRIDE {
            1 => (first + second + third, second - third - fourth),
            _ => (first + second + fourth, second + third + fifth),
        };
    }
    pixels
}

/// The sums of one panel, `[point][tile][lane]`.
pub(super) struct PanelSums<'a> {
    pub(super) values: &'a [f32],
    /// From one point to the next.
    pub(super) point_step: usize,
    /// Tiles before a segment's.
    pub(super) before: usize,
    pub(super) lanes: usize,
}

/// The pixels `A^T m A` of a segment whose tiles are in `sums`, as `[row][column][lane]`.
#[inline(always)]
fn transform_segment_back<const STRIDE: usize>(segment: &Segment, sums: &PanelSums<'_>, target: &mut [f32]) {
    let (lanes, side) = (sums.lanes, side(STRIDE));
    let (down, across) = (segment.rows.len(), segment.columns.len());
    let per_row = across.div_ceil(TILE);
    for tile in 0..down.div_ceil(TILE) * per_row {
        let (row, column) = (tile / per_row * TILE, tile % per_row * TILE);
        for lane in (0..lanes).step_by(VECTOR) {
            let first = (sums.before + tile) * lanes + lane;
            let mut columns = [[[0.0; VECTOR]; TILE]; MOST];
            for (column, transformed) in columns.iter_mut().enumerate().take(side) {
                let mut points = [[0.0; VECTOR]; MOST];
                for (row, point) in points.iter_mut().enumerate().take(side) {
                    *point = vector(sums.values, first + (side * row + column) * sums.point_step);
                }
                *transformed = pixels::<STRIDE>(points);
            }
            for below in 0..TILE.min(down - row) {
                let mut points = [[0.0; VECTOR]; MOST];
                for (point, column) in points.iter_mut().zip(&columns) {
                    *point = column[below];
                }
                for (beside, values) in pixels::<STRIDE>(points).iter().enumerate().take(across - column) {
                    let start = ((row + below) * across + column + beside) * lanes + lane;
                    target[start..start + VECTOR].copy_from_slice(values);
                }
            }
        }
    }
}

multiversion! {
    /// Transforms the sums of a segment's tiles back into pixels, `[row][column][lane]`.
    pub(super) fn transform_back(stride: usize, segment: &Segment, sums: &PanelSums<'_>, target: &mut [f32]) {
        match stride {
            1 => transform_segment_back::<1>(segment, sums, target),
            _ => transform_segment_back::<2>(segment, sums, target),
        }
    }
}
