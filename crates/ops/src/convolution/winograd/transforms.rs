//! The transforms of input, kernel and sums, for any form of the filtering.

use std::ops::Range;

use super::UNIT_TILES;
use super::forms::Form::{Enlarged, EveryOther, FourByFour, TwoByTwo};
use super::forms::{self, Form, MOST_POINTS, MOST_STEP, Matrices};
use crate::simd::multiversion;

/// Tiles or columns that are transformed together.
const VECTOR: usize = 8;
/// Values of so many.
type Vector = [f32; VECTOR];
/// Tiles that a row of them takes at most, with what the last sees beyond, in whole vectors.
const ROW: usize = UNIT_TILES + 2 * VECTOR;

/// Some values of a row. (Closures would not be compiled for the vector instructions of the function around them.)
#[inline(always)]
fn vector(values: &[f32], start: usize) -> Vector {
    let mut vector = [0.0; VECTOR];
    vector.copy_from_slice(&values[start..start + VECTOR]);
    vector
}

/// `transform` lane by lane.
#[inline(always)]
fn lane_by_lane<const IN: usize, const OUT: usize>(
    values: &[Vector; IN],
    transform: impl Fn([f32; IN]) -> [f32; OUT],
) -> [Vector; OUT] {
    let mut transformed = [[0.0; VECTOR]; OUT];
    for lane in 0..VECTOR {
        let mut one = [0.0; IN];
        for (one, values) in one.iter_mut().zip(values) {
            *one = values[lane];
        }
        for (transformed, value) in transformed.iter_mut().zip(transform(one)) {
            transformed[lane] = value;
        }
    }
    transformed
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
    /// A row from the segment's upper end on, if it is no padding.
    #[inline(always)]
    fn row(&self, row: usize) -> Option<&[f32]> {
        let y = usize::try_from(self.top + row as isize).ok().filter(|y| *y < self.height)?;
        Some(&self.values[y * self.width..(y + 1) * self.width])
    }

    /// Which of `length` columns from the segment's left end on are no padding, and the first of them in a row.
    #[inline(always)]
    fn columns(&self, length: usize) -> (Range<usize>, usize) {
        let start = (-self.left).clamp(0, length as isize) as usize;
        let end = (self.width as isize - self.left).clamp(start as isize, length as isize) as usize;
        (start..end, (self.left + start as isize).max(0) as usize)
    }
}

/// What a channel's tiles are transformed in.
pub(super) struct Points {
    /// A row of the padded input.
    line: [f32; MOST_STEP * ROW],
    /// For each row that a tile sees, and each column from a tile to the next, the pixels of all tiles side by side.
    seen: [[[f32; ROW]; MOST_STEP]; MOST_POINTS],
    /// `[point][tile]`; whole vectors are written, so there is room for the last.
    pub(super) values: [[f32; UNIT_TILES + VECTOR]; MOST_POINTS * MOST_POINTS],
}

impl Points {
    pub(super) const NONE: Self = Self {
        line: [0.0; MOST_STEP * ROW],
        seen: [[[0.0; ROW]; MOST_STEP]; MOST_POINTS],
        values: [[0.0; UNIT_TILES + VECTOR]; MOST_POINTS * MOST_POINTS],
    };

    /// The points `Bᵀ d B` of the tiles of a segment, `across` in a row, at `places`.
    #[inline(always)]
    fn transform_tiles<F, const FUSED: bool, const POINTS: usize, const PIXELS: usize, const STEP: usize>(
        &mut self,
        source: &Plane<'_>,
        across: usize,
        places: Range<usize>,
    ) where
        F: Matrices<POINTS, PIXELS, STEP>,
    {
        let length = across + (POINTS - 1) / STEP;
        let line = &mut self.line[..STEP * length];
        let (inside, from) = source.columns(line.len());
        line.fill(0.0);
        for (row, place) in places.step_by(across).enumerate() {
            for (index, seen) in self.seen.iter_mut().enumerate().take(POINTS) {
                let Some(values) = source.row(STEP * row + index) else {
                    for seen in &mut seen[..STEP] {
                        seen[..length].fill(0.0);
                    }
                    continue;
                };
                line[inside.clone()].copy_from_slice(&values[from..from + inside.len()]);
                let chunks = line.as_chunks::<STEP>().0;
                for (column, seen) in seen.iter_mut().enumerate().take(STEP) {
                    for (value, chunk) in seen.iter_mut().zip(chunks) {
                        *value = chunk[column];
                    }
                }
            }
            for column in 0..STEP {
                for tile in (0..length).step_by(VECTOR) {
                    let mut values = [[0.0; VECTOR]; POINTS];
                    for (values, seen) in values.iter_mut().zip(&self.seen) {
                        *values = vector(&seen[column], tile);
                    }
                    let points = lane_by_lane(&values, F::of_input::<FUSED>);
                    for (point, seen) in points.iter().zip(&mut self.seen) {
                        seen[column][tile..tile + VECTOR].copy_from_slice(point);
                    }
                }
            }
            for (seen, targets) in self.seen.iter().zip(self.values.chunks_exact_mut(POINTS)).take(POINTS) {
                for tile in (0..across).step_by(VECTOR) {
                    let mut values = [[0.0; VECTOR]; POINTS];
                    for (column, values) in values.iter_mut().enumerate() {
                        *values = vector(&seen[column % STEP], tile + column / STEP);
                    }
                    let points = lane_by_lane(&values, F::of_input::<FUSED>);
                    let place = place + tile;
                    for (point, target) in points.iter().zip(targets.iter_mut()) {
                        target[place..place + VECTOR].copy_from_slice(point);
                    }
                }
            }
        }
    }
}

multiversion! {
    /// Transforms the tiles of a segment in one channel, `across` in a row, and puts them at `places`.
    pub(super) fn transform_input_plane(form: Form, points: &mut Points, source: &Plane<'_>, across: usize, places: Range<usize>) {
        match form {
            TwoByTwo => points.transform_tiles::<forms::TwoByTwo, FUSED, _, _, _>(source, across, places),
            FourByFour => points.transform_tiles::<forms::FourByFour, FUSED, _, _, _>(source, across, places),
            EveryOther => points.transform_tiles::<forms::EveryOther, FUSED, _, _, _>(source, across, places),
            Enlarged => points.transform_tiles::<forms::Enlarged, FUSED, _, _, _>(source, across, places),
        }
    }
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

/// The points `G g Gᵀ` of channels that lie as `[channel][tap][column]`.
#[inline(always)]
fn transform_channels<F, const FUSED: bool, const POINTS: usize, const PIXELS: usize, const STEP: usize>(
    values: &[f32],
    kernel: &KernelPlace,
    factors: &mut [f32],
) where
    F: Matrices<POINTS, PIXELS, STEP>,
{
    let KernelPlace { lanes, point_step, place } = *kernel;
    let channels = values.len() / (9 * lanes);
    assert!((POINTS * POINTS - 1) * point_step + (place + channels) * lanes <= factors.len());
    let factors = factors.as_mut_ptr();
    for (channel, values) in values.chunks_exact(9 * lanes).enumerate() {
        for lane in (0..lanes).step_by(VECTOR) {
            let mut columns = [[[0.0; VECTOR]; POINTS]; 3];
            for (column, transformed) in columns.iter_mut().enumerate() {
                let first = column * lanes + lane;
                let taps = [first, first + 3 * lanes, first + 6 * lanes];
                let taps = [vector(values, taps[0]), vector(values, taps[1]), vector(values, taps[2])];
                *transformed = lane_by_lane(&taps, F::of_taps::<FUSED>);
            }
            let [first, second, third] = &columns;
            for (row, ((first, second), third)) in first.iter().zip(second).zip(third).enumerate() {
                let transformed = lane_by_lane(&[*first, *second, *third], F::of_taps::<FUSED>);
                for (column, values) in transformed.iter().enumerate() {
                    let start = (POINTS * row + column) * point_step + (place + channel) * lanes + lane;
                    // SAFETY: inside by the assertion: the point, the channel and the lane are.
                    #[allow(unsafe_code)]
                    unsafe {
                        factors.add(start).cast::<Vector>().write_unaligned(*values);
                    }
                }
            }
        }
    }
}

multiversion! {
    /// Transforms a kernel whose channels lie as `[channel][tap][column]`.
    pub(super) fn transform_kernel(form: Form, values: &[f32], kernel: &KernelPlace, factors: &mut [f32]) {
        match form {
            TwoByTwo => transform_channels::<forms::TwoByTwo, FUSED, _, _, _>(values, kernel, factors),
            FourByFour => transform_channels::<forms::FourByFour, FUSED, _, _, _>(values, kernel, factors),
            EveryOther => transform_channels::<forms::EveryOther, FUSED, _, _, _>(values, kernel, factors),
            Enlarged => transform_channels::<forms::Enlarged, FUSED, _, _, _>(values, kernel, factors),
        }
    }
}

/// The sums of one panel, `[point][tile][lane]`.
pub(super) struct PanelSums<'a> {
    pub(super) values: &'a [f32],
    /// From one point to the next.
    pub(super) point_step: usize,
    /// Tiles before a segment's.
    pub(super) before: usize,
    pub(super) lanes: usize,
    /// Result pixels of the segment, down and across.
    pub(super) size: (usize, usize),
}

/// The pixels `Aᵀ m A` of a segment whose tiles are in `sums`, as `[row][column][lane]`.
#[inline(always)]
fn transform_segment_back<F, const FUSED: bool, const POINTS: usize, const PIXELS: usize, const STEP: usize>(
    sums: &PanelSums<'_>,
    target: &mut [f32],
) where
    F: Matrices<POINTS, PIXELS, STEP>,
{
    let (lanes, (down, across)) = (sums.lanes, sums.size);
    let per_row = across.div_ceil(PIXELS);
    for tile in 0..down.div_ceil(PIXELS) * per_row {
        let (row, column) = (tile / per_row * PIXELS, tile % per_row * PIXELS);
        for lane in (0..lanes).step_by(VECTOR) {
            let first = (sums.before + tile) * lanes + lane;
            let mut columns = [[[0.0; VECTOR]; PIXELS]; POINTS];
            for (column, transformed) in columns.iter_mut().enumerate() {
                let mut points = [[0.0; VECTOR]; POINTS];
                for (row, point) in points.iter_mut().enumerate() {
                    *point = vector(sums.values, first + (POINTS * row + column) * sums.point_step);
                }
                *transformed = lane_by_lane(&points, F::of_sums::<FUSED>);
            }
            for below in 0..PIXELS.min(down - row) {
                let mut points = [[0.0; VECTOR]; POINTS];
                for (point, column) in points.iter_mut().zip(&columns) {
                    *point = column[below];
                }
                let pixels = lane_by_lane(&points, F::of_sums::<FUSED>);
                for (beside, values) in pixels.iter().enumerate().take(across - column) {
                    let start = ((row + below) * across + column + beside) * lanes + lane;
                    target[start..start + VECTOR].copy_from_slice(values);
                }
            }
        }
    }
}

multiversion! {
    /// Transforms the sums of a segment's tiles back into pixels, `[row][column][lane]`.
    pub(super) fn transform_back(form: Form, sums: &PanelSums<'_>, target: &mut [f32]) {
        match form {
            TwoByTwo => transform_segment_back::<forms::TwoByTwo, FUSED, _, _, _>(sums, target),
            FourByFour => transform_segment_back::<forms::FourByFour, FUSED, _, _, _>(sums, target),
            EveryOther => transform_segment_back::<forms::EveryOther, FUSED, _, _, _>(sums, target),
            Enlarged => transform_segment_back::<forms::Enlarged, FUSED, _, _, _>(sums, target),
        }
    }
}
