//! The input of a unit of work, copied for one block of channels at a time as the tile's inner loop reads it.

use std::ops::Range;

use super::engine::{Call, Geometry, Segment};
use crate::parallel::at_least;
use crate::simd::{fetch, multiversion};
use crate::tile::{Arithmetic, LANES};
use crate::types::as_words;

/// Channels of a pixel's line that are asked for before they are copied: planes lie far apart.
const AHEAD: usize = 4;

impl Call<'_> {
    /// Columns of a packed row: the input columns that a segment's row sees, and a few more where rows an even number of
    /// cache lines apart would share a few of the cache's sets. For a kernel that sees one pixel, a row is a few pixels.
    fn packed_width(&self, segment: &Segment) -> usize {
        if let Some(chunk) = self.chunk {
            return chunk;
        }
        let width = (segment.columns.len() - 1) * self.geometry.stride + self.extent;
        if width.is_multiple_of(32) { width + LANES } else { width }
    }

    /// Packs each segment's padded input for the channel steps `steps`, as `[row][step][column]`; gives where each lies.
    pub(super) fn pack(&self, segments: &[Segment], steps: Range<usize>, words: &mut Vec<u32>) -> Vec<Part> {
        let height = |segment: &Segment| match self.chunk {
            Some(chunk) => segment.columns.len().div_ceil(chunk),
            None => (segment.rows.len() - 1) * self.geometry.stride + self.extent,
        };
        let mut parts = Vec::with_capacity(segments.len());
        let (mut total, mut before) = (0, 0);
        for segment in segments {
            let width = self.packed_width(segment);
            parts.push(Part { start: total, width, before });
            total += height(segment) * steps.len() * width;
            before += segment.pixels();
        }
        let words = at_least(words, total);
        let Geometry { in_height, in_width, stride, padding, .. } = self.geometry;
        let plane = in_height * in_width;
        for (segment, &Part { start, width, .. }) in segments.iter().zip(&parts) {
            let picture =
                &self.input[segment.picture * self.packed.in_channels * plane..][..self.packed.in_channels * plane];
            let source = Source {
                picture,
                plane,
                in_height,
                in_width,
                channels: self.packed.in_channels,
                top: (segment.rows.start * stride) as isize - padding as isize,
                left: (segment.columns.start * stride) as isize - padding as isize,
                height: height(segment),
                width,
            };
            match self.chunk {
                Some(_) => {
                    pack_chunks(&source, segment.columns.len(), self.packed.arithmetic, &steps, &mut words[start..])
                }
                None => pack(&source, self.packed.arithmetic, &steps, &mut words[start..]),
            }
        }
        parts
    }
}

/// A segment's padded input in working memory.
pub(super) struct Part {
    pub(super) start: usize,
    /// Columns of a row.
    pub(super) width: usize,
    /// Pixels of the segments before it.
    pub(super) before: usize,
}

/// The input of one segment with its padding.
struct Source<'a> {
    picture: &'a [f32],
    plane: usize,
    in_height: usize,
    in_width: usize,
    channels: usize,
    top: isize,
    left: isize,
    height: usize,
    width: usize,
}

multiversion! {
    fn pack(source: &Source<'_>, arithmetic: Arithmetic, steps: &Range<usize>, words: &mut [u32]) {
        // Columns of the padded row that lie in the picture.
        let inside = |left: isize| (left.max(0) as usize).min(source.width);
        let start = inside(-source.left);
        let end = inside(source.in_width as isize - source.left).max(start);
        let from = (source.left + start as isize).max(0) as usize;
        let mut rows = words.chunks_exact_mut(source.width);
        for row in 0..source.height {
            let y = source.top + row as isize;
            let filled = y >= 0 && (y as usize) < source.in_height && end > start;
            for (step, target) in steps.clone().zip(&mut rows) {
                if !filled {
                    target.fill(0);
                    continue;
                }
                let line = |channel: usize| {
                    &source.picture[channel * source.plane + y as usize * source.in_width + from..][..end - start]
                };
                if (step + AHEAD) * arithmetic.per_step() < source.channels {
                    fetch(line((step + AHEAD) * arithmetic.per_step()));
                }
                target[..start].fill(0);
                target[end..].fill(0);
                let target = &mut target[start..end];
                let channel = step * arithmetic.per_step();
                if arithmetic.per_step() == 1 {
                    for (target, value) in target.iter_mut().zip(line(channel)) {
                        *target = value.to_bits();
                    }
                } else if channel + 1 < source.channels {
                    for ((target, first), second) in target.iter_mut().zip(line(channel)).zip(line(channel + 1)) {
                        *target = crate::elementary::bf16_pair(*first, *second);
                    }
                } else {
                    for (target, first) in target.iter_mut().zip(line(channel)) {
                        *target = crate::elementary::bf16_pair(*first, 0.0);
                    }
                }
            }
        }
    }
}

/// Copies chunk by chunk, most of which are `LENGTH` long: a copy of unknown length is a call for each.
#[inline(always)]
fn copy_chunks<'a, const LENGTH: usize>(
    sources: impl Iterator<Item = &'a [u32]>,
    targets: impl Iterator<Item = &'a mut [u32]>,
) {
    for (source, target) in sources.zip(targets) {
        match (source.first_chunk::<LENGTH>(), target.first_chunk_mut::<LENGTH>()) {
            (Some(source), Some(target)) if LENGTH > 1 => *target = *source,
            _ => target[..source.len()].copy_from_slice(source),
        }
    }
}

multiversion! {
    /// The same for a kernel that sees one pixel: `[chunk][step][pixel]`, as the tiles of a chunk read it, one step behind
    /// the other. In one long row the steps would lie so far apart that a tile had all of them fetched anew.
    fn pack_chunks(source: &Source<'_>, pixels: usize, arithmetic: Arithmetic, steps: &Range<usize>, words: &mut [u32]) {
        let line = |channel: usize| &source.picture[channel * source.plane + source.left as usize..][..pixels];
        let chunk = steps.len() * source.width;
        for (index, step) in steps.clone().enumerate() {
            let channel = step * arithmetic.per_step();
            if channel + AHEAD * arithmetic.per_step() < source.channels {
                fetch(line(channel + AHEAD * arithmetic.per_step()));
            }
            let targets = words[index * source.width..].chunks_mut(chunk);
            if arithmetic.per_step() == 1 {
                let lines = as_words(line(channel)).chunks(source.width);
                match source.width {
                    12 => copy_chunks::<12>(lines, targets),
                    16 => copy_chunks::<16>(lines, targets),
                    _ => copy_chunks::<1>(lines, targets),
                }
                continue;
            }
            let second = (channel + 1 < source.channels).then(|| line(channel + 1));
            for (number, (target, values)) in targets.zip(line(channel).chunks(source.width)).enumerate() {
                for (place, (target, first)) in target.iter_mut().zip(values).enumerate() {
                    let second = second.map_or(0.0, |second| second[number * source.width + place]);
                    *target = crate::elementary::bf16_pair(*first, second);
                }
            }
        }
    }
}
