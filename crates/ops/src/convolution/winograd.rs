//! The 3×3 convolution with fewer products: Winograd's minimal filtering (arXiv 1509.09308).
//!
//! A tile of 2×2 result pixels sees 4×4 input pixels. Input and kernel are each transformed into 16 points, in which the
//! convolution is a product point by point: 16 products for 4 pixels instead of 36. Tiles of 4×4 pixels take 36 for 16. Each
//! point is then a matrix product of its own, channels by tiles, through the tile's inner loop. The kernel is transformed
//! block by block of channels in working memory, so that weights take no more room than they do for the plain way.
//!
//! Convolutions with stride 2 and behind an enlargement have forms of their own (module `forms`).
//!
//! In f32 results are as close as the plain way's or nearly (the sums of a point are shorter). With factors rounded to bf16
//! behind the transforms they would not be: where products of bf16 pairs exist (AVX512-BF16), tiles of 4×4 pixels with many
//! channels take a kernel kept in bf16 and compute in f32, half as many products at a time but a quarter of them; matrix tiles
//! are too fast for that.

mod forms;
mod transforms;
mod unit;

use std::cell::Cell;

use super::engine::{Call, Geometry, Segment};
use super::packing::Packed;
use crate::parallel::{aligned, for_parts, for_units, with_scratch, written};
pub(super) use forms::Form;
use unit::{CHUNK, Unit};

/// Most tiles in one unit of work: the kernel is transformed for all of them.
const UNIT_TILES: usize = 128;
/// Fewest tiles in one unit, where a call has them.
const LEAST_UNIT_TILES: usize = 64;
/// Values of a unit's transformed input, roughly, which should stay at hand while the panels pass.
const UNIT_VALUES: usize = 1 << 21;
/// Most values of transformed input that several units share.
const SHARED_VALUES: usize = 9 << 19;
/// Units to aim at, so that threads finish together.
const UNITS: usize = 8;
/// Fewest channels, in and out, for which the transforms pay.
const LEAST_CHANNELS: usize = 16;
/// The same where products of pairs are twice as many at a time. Reckoned from the rates of f32 on Zen 3, not timed.
const LEAST_PAIR_CHANNELS: usize = 128;
/// Fewest tiles of a picture for which it pays to transform the kernel.
const LEAST_TILES: usize = 16;
/// Fewest tiles of a picture times output channels: below, a call has too few units to share out.
const LEAST_RESULTS: usize = 1 << 10;

/// The form that a call takes, if it gains by one. The number of pictures has no say, as it must change no bit.
pub(super) fn form(packed: &Packed, geometry: &Geometry) -> Option<Form> {
    let kernel = packed.sets.len() == 1 && packed.sets.iter().all(|set| set.taps.len() == 9 && set.tiled.is_none());
    let pairs = packed.arithmetic.per_step() > 1;
    let least = if pairs { LEAST_PAIR_CHANNELS } else { LEAST_CHANNELS };
    if !kernel || packed.in_channels.min(packed.out_channels) < least {
        return None;
    }
    let pays = |form: &Form| {
        let tiles = picture_tiles(*form, geometry);
        tiles >= LEAST_TILES && tiles * packed.out_channels >= LEAST_RESULTS
    };
    let products = |form: &Form| picture_tiles(*form, geometry) * form.side().pow(2);
    let forms: &[Form] = match (geometry.factor, geometry.stride) {
        // No other form has less than half of the products that pairs would take.
        (1, 1) if pairs => &[Form::FourByFour],
        _ if pairs => &[],
        (1, 1) => &[Form::FourByFour, Form::TwoByTwo],
        (1, 2) => &[Form::EveryOther],
        (2, 1) => &[Form::Enlarged],
        _ => &[],
    };
    forms.iter().filter(|form| pays(form)).min_by_key(|form| products(form)).copied()
}

/// The convolution of `call` in a [`form`] that it has.
pub(super) fn convolve(call: &Call<'_>, form: Form, worth: bool) -> Vec<f32> {
    let (geometry, packed) = (&call.geometry, call.packed);
    // Tiles for all units, or else units that share their tiles.
    let wanted = match geometry.batch * picture_tiles(form, geometry) / UNITS {
        few if few < LEAST_UNIT_TILES => UNIT_TILES,
        enough => enough,
    };
    let most = UNIT_VALUES / (form.side().pow(2) * packed.in_channels.max(1));
    let unit_tiles = wanted.min(most).clamp(LEAST_UNIT_TILES, UNIT_TILES) / CHUNK * CHUNK;
    let segments = tile_segments(form, geometry, unit_tiles);
    let count = |segment: &Segment| tiles(form, geometry, segment);
    let per_unit = segments.first().map_or(1, |first| (unit_tiles / count(first).max(1)).max(1));
    let units: Vec<Unit<'_>> = segments
        .chunks(per_unit)
        .map(|segments| Unit { call, form, segments, tiles: segments.iter().map(count).sum() })
        .collect();
    let panels = packed.panel_groups(usize::MAX, UNITS.div_ceil(units.len().max(1)));
    let mut memory = SHARED.take();
    let shared = if panels.len() > 1 { share_input(&units, worth, &mut memory) } else { Vec::new() };
    let pixels = geometry.batch * geometry.height * geometry.width * geometry.factor.pow(2);
    // SAFETY: the units cover every segment and every panel once, and `run` writes all of both.
    #[allow(unsafe_code)]
    let values = unsafe {
        written(pixels * packed.out_channels, |output| {
            for_units(units.len() * panels.len(), worth, |index| {
                let (unit, panels) = (index / panels.len(), panels[index % panels.len()]);
                with_scratch(|scratch| units[unit].run(panels, shared.get(unit).copied(), scratch, output));
            });
        })
    };
    SHARED.set(memory);
    values
}

thread_local! {
    /// Kept between calls, as it need not be cleared.
    static SHARED: Cell<Vec<f32>> = Cell::default();
}

/// The transformed input of each unit, for all that share its tiles; none if that would be so large that it had to come
/// back from afar.
fn share_input<'a>(units: &[Unit<'_>], worth: bool, memory: &'a mut Vec<f32>) -> Vec<&'a [f32]> {
    let length = units.iter().map(Unit::transformed_size).sum();
    if length > SHARED_VALUES {
        return Vec::new();
    }
    let memory = aligned(memory, length);
    let mut parts = Vec::new();
    let mut rest = &mut *memory;
    for unit in units {
        let (own, behind) = rest.split_at_mut(unit.transformed_size());
        parts.extend(unit.parts(own).into_iter().map(|(channels, part)| (unit, channels, part)));
        rest = behind;
    }
    for_parts(parts, worth, |(unit, channels, part)| unit.transform_input(&channels, part));
    let mut rest = &*memory;
    let share = |unit: &Unit<'_>| {
        let (part, behind) = rest.split_at(unit.transformed_size());
        rest = behind;
        part
    };
    units.iter().map(share).collect()
}

/// Pixels of a tile in each direction, before an enlargement.
fn tile_size(form: Form, geometry: &Geometry) -> usize {
    form.pixels() / geometry.factor
}

/// Tiles of a picture.
fn picture_tiles(form: Form, geometry: &Geometry) -> usize {
    let size = tile_size(form, geometry);
    geometry.height.div_ceil(size) * geometry.width.div_ceil(size)
}

/// Cuts the pictures into segments of whole tiles, at most `unit_tiles` each: whole rows where they are short.
fn tile_segments(form: Form, geometry: &Geometry, unit_tiles: usize) -> Vec<Segment> {
    let size = tile_size(form, geometry);
    let across = geometry.width.div_ceil(size);
    let across = across.div_ceil(across.div_ceil(unit_tiles).max(1)).max(1);
    geometry.cut(size * (unit_tiles / across).max(1), size * across)
}

/// Tiles of a segment, those that stick out over its end counted in.
fn tiles(form: Form, geometry: &Geometry, segment: &Segment) -> usize {
    let size = tile_size(form, geometry);
    segment.rows.len().div_ceil(size) * segment.columns.len().div_ceil(size)
}
