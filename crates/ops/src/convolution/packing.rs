//! Weights of a convolution, laid out for the tile's inner loop.

use crate::elementary::bf16_pair;
use crate::matmul;
use crate::parallel::aligned;
use crate::simd::multiversion;
use crate::tile::{Arithmetic, LANES, Steps};
use crate::types::{Precision, as_values};

/// Steps of the inner loop in one block of channels: a panel of them stays in the first-level cache.
const STEPS_PER_BLOCK: usize = 288;

/// One kernel: the plain one, or one of the four that a kernel turns into behind an enlargement by two.
#[derive(Debug)]
pub(crate) struct TapSet {
    /// (row, column) of each tap in the padded input.
    pub(crate) taps: Vec<(usize, usize)>,
    /// Row and column of the result's pixel among those that share an input pixel.
    pub(crate) phase: (usize, usize),
    /// Block by block of channels, panel by panel, step by step; of a narrow weight, two steps in bf16 in one word. Empty
    /// for matrix tiles.
    words: Vec<u32>,
    /// For matrix tiles: the depth is tap after tap, in each the channels up to whole runs.
    pub(crate) tiled: Option<matmul::Packed>,
}

/// Channels of a tap in the weight of matrix tiles: whole runs of 16 pairs.
pub(crate) fn tiled_channels(channels: usize) -> usize {
    channels.next_multiple_of(2 * LANES)
}

/// Packed weights of a convolution.
#[derive(Debug)]
pub(crate) struct Packed {
    pub(crate) arithmetic: Arithmetic,
    pub(crate) in_channels: usize,
    pub(crate) out_channels: usize,
    pub(crate) sets: Vec<TapSet>,
    /// Vectors in each panel of output channels.
    pub(crate) panels: Vec<usize>,
    /// Steps over all channels, for one tap.
    pub(crate) channel_steps: usize,
    /// Steps over the channels of one block.
    pub(crate) block_steps: usize,
}

/// The words of one block of channels for one panel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PanelBlock {
    /// Channel step that the block starts at.
    pub(crate) first: usize,
    /// Column that the panel starts at.
    pub(crate) column: usize,
    /// Vectors of the panel.
    pub(crate) width: usize,
}

/// A weight `[out, in, kernel, kernel]`.
#[derive(Clone, Copy)]
pub(crate) struct Weight<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) out: usize,
    pub(crate) input: usize,
    pub(crate) kernel: usize,
}

impl Weight<'_> {
    fn at(&self, out: usize, input: usize, row: usize, column: usize) -> f32 {
        self.values[((out * self.input + input) * self.kernel + row) * self.kernel + column]
    }
}

/// Widths of the panels of a weight for matrix tiles: whole ones, and what is left.
fn tiled_widths(columns: usize) -> Vec<usize> {
    let vectors = columns.div_ceil(LANES);
    let whole = matmul::TILE_COLUMNS / LANES;
    (0..vectors).step_by(whole).map(|first| whole.min(vectors - first)).collect()
}

impl Packed {
    /// The kernel as it is.
    pub(crate) fn plain(weight: Weight<'_>, arithmetic: Arithmetic) -> Self {
        let taps: Vec<_> =
            (0..weight.kernel * weight.kernel).map(|tap| (tap / weight.kernel, tap % weight.kernel)).collect();
        let mut packed = Self::empty(weight, arithmetic, taps.len());
        let value = |out, input, tap: usize| weight.at(out, input, taps[tap].0, taps[tap].1);
        let (words, tiled) = packed.factors(taps.len(), value);
        packed.sets.push(TapSet { taps, phase: (0, 0), words, tiled });
        packed
    }

    /// A 3×3 kernel behind a nearest-neighbour enlargement by two: each of the four pixels made from an input pixel sees
    /// only 2×2 input pixels, so taps that fall on the same one are added beforehand and 4/9 of the products remain.
    pub(crate) fn enlarged(weight: Weight<'_>, arithmetic: Arithmetic) -> Self {
        let mut packed = Self::empty(weight, arithmetic, 4);
        for phase in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let taps: Vec<_> = (0..4).map(|tap| (phase.0 + tap / 2, phase.1 + tap % 2)).collect();
            // Kernel rows that fall on the first and the second input row of a phase.
            let rows = |phase: usize, second: usize| match (phase, second) {
                (0, 0) => 0..1,
                (0, _) => 1..3,
                (_, 0) => 0..2,
                _ => 2..3,
            };
            let (words, tiled) = packed.factors(4, |out, input, tap: usize| {
                let columns = rows(phase.1, tap % 2);
                let sum = |row: usize| columns.clone().map(|column| weight.at(out, input, row, column)).sum::<f32>();
                rows(phase.0, tap / 2).map(sum).sum()
            });
            packed.sets.push(TapSet { taps, phase, words, tiled });
        }
        packed
    }

    fn empty(weight: Weight<'_>, arithmetic: Arithmetic, taps: usize) -> Self {
        let channel_steps = arithmetic.steps(weight.input);
        Self {
            arithmetic,
            in_channels: weight.input,
            out_channels: weight.out,
            sets: Vec::new(),
            panels: if arithmetic.is_tiled() { tiled_widths(weight.out) } else { arithmetic.panel_widths(weight.out) },
            channel_steps,
            block_steps: (STEPS_PER_BLOCK / taps.max(1)).clamp(1, channel_steps.max(1)),
        }
    }

    /// Output channels with those that fill the last panel.
    fn columns(&self) -> usize {
        self.panels.iter().sum::<usize>() * LANES
    }

    /// Neighbouring panels (first column, widths) that one unit of work computes: `unit_columns` or fewer, in at least
    /// `groups` groups if there are so many panels.
    pub(super) fn panel_groups(&self, unit_columns: usize, groups: usize) -> Vec<(usize, &[usize])> {
        let wanted = self.columns().div_ceil(unit_columns).max(groups).max(1);
        let per_group = self.panels.len().div_ceil(wanted).max(1);
        let mut column = 0;
        let mut groups = Vec::new();
        for widths in self.panels.chunks(per_group) {
            groups.push((column, widths));
            column += widths.iter().sum::<usize>() * LANES;
        }
        groups
    }

    /// The weight of a set, for matrix tiles or for the tile's inner loop.
    fn factors(
        &self,
        taps: usize,
        weight: impl Fn(usize, usize, usize) -> f32 + Sync,
    ) -> (Vec<u32>, Option<matmul::Packed>) {
        if !self.arithmetic.is_tiled() {
            return (self.words(taps, weight), None);
        }
        let channels = tiled_channels(self.in_channels);
        let shape = matmul::PackedShape { outputs: self.out_channels, depth: taps * channels };
        let packed = matmul::Packed::new(shape, Precision::Bf16, |out, depth| match depth % channels {
            input if input < self.in_channels => weight(out, input, depth / channels),
            _ => 0.0,
        });
        (Vec::new(), Some(packed))
    }

    fn words(&self, taps: usize, weight: impl Fn(usize, usize, usize) -> f32) -> Vec<u32> {
        let per_step = self.arithmetic.per_step();
        let value = |out: usize, input: usize, tap: usize| match out < self.out_channels && input < self.in_channels {
            true => weight(out, input, tap),
            false => 0.0,
        };
        let mut words = Vec::with_capacity(self.stored_steps(self.channel_steps * taps) * self.columns());
        let mut panel = Vec::new();
        for first in (0..self.channel_steps).step_by(self.block_steps) {
            let mut column = 0;
            for width in &self.panels {
                panel.clear();
                for step in first..(first + self.block_steps).min(self.channel_steps) {
                    for tap in 0..taps {
                        panel.extend((column..column + width * LANES).map(|out| {
                            let input = step * per_step;
                            self.arithmetic.word(value(out, input, tap), value(out, input + 1, tap))
                        }));
                    }
                }
                if self.arithmetic.is_narrow() {
                    words.extend(panel.chunks(2 * width * LANES).flat_map(|pair| narrowed(pair, width * LANES)));
                } else {
                    words.extend_from_slice(&panel);
                }
                column += width * LANES;
            }
        }
        words
    }

    /// Steps of words that hold `steps` steps of the inner loop.
    fn stored_steps(&self, steps: usize) -> usize {
        if self.arithmetic.is_narrow() { steps.div_ceil(2) } else { steps }
    }

    /// The weight `[out, in, kernel, kernel]` that a plain kernel's words stand for.
    pub(crate) fn weight(&self) -> Vec<f32> {
        let Some(set) = self.sets.first() else { return Vec::new() };
        let (taps, per_step) = (set.taps.len(), self.arithmetic.per_step());
        if let Some(tiled) = &set.tiled {
            let channels = tiled_channels(self.in_channels);
            let value = |index: usize| {
                let (pair, tap) = (index / taps, index % taps);
                tiled.value(pair / self.in_channels, tap * channels + pair % self.in_channels)
            };
            return (0..self.out_channels * self.in_channels * taps).map(value).collect();
        }
        let mut values = vec![0.0; self.out_channels * self.in_channels * taps];
        let mut room = Vec::new();
        for first in (0..self.channel_steps).step_by(self.block_steps) {
            let mut before = 0;
            for &width in &self.panels {
                let panel = self.panel(set, PanelBlock { first, column: before, width }, &mut room);
                let steps = self.block_steps.min(self.channel_steps - first) * taps;
                for (row, words) in panel.chunks_exact(width * LANES).enumerate().take(steps) {
                    let (step, tap) = (first + row / taps, row % taps);
                    for (column, &word) in words.iter().enumerate() {
                        for (part, value) in self.arithmetic.values(word).into_iter().enumerate().take(per_step) {
                            let (out, input) = (before + column, step * per_step + part);
                            if out < self.out_channels && input < self.in_channels {
                                values[(out * self.in_channels + input) * taps + tap] = value;
                            }
                        }
                    }
                }
                before += width * LANES;
            }
        }
        values
    }

    /// Whether the words are so many that they come from afar for each unit of work. Measured on Zen 3: larger units and
    /// looking ahead bring 2 to 20 % from 14 MB on, and cost 3 % at 4 MB.
    pub(crate) fn is_streamed(&self) -> bool {
        const WORDS_AT_HAND: usize = 1 << 20;
        self.sets.iter().map(|set| set.words.len()).sum::<usize>() > WORDS_AT_HAND
    }

    /// Bytes of the packed words.
    pub(crate) fn bytes(&self) -> usize {
        self.sets.iter().map(|set| set.words.len() * 4 + set.tiled.as_ref().map_or(0, matmul::Packed::bytes)).sum()
    }

    /// A block of a panel as it is stored.
    pub(super) fn stored<'a>(&self, set: &'a TapSet, block: PanelBlock) -> &'a [u32] {
        let PanelBlock { first, column, width } = block;
        let taps = set.taps.len();
        let steps = self.stored_steps(self.block_steps.min(self.channel_steps - first) * taps);
        // Blocks before this one are whole.
        let before = first / self.block_steps * self.stored_steps(self.block_steps * taps);
        let start = before * self.columns() + steps * column;
        &set.words[start..start + steps * width * LANES]
    }

    /// The same, widened into `room` if it is narrow.
    pub(crate) fn panel<'a>(&self, set: &'a TapSet, block: PanelBlock, room: &'a mut Vec<u32>) -> &'a [u32] {
        let words = self.stored(set, block);
        if !self.arithmetic.is_narrow() {
            return words;
        }
        let room = aligned(room, 2 * words.len());
        widen(words, block.width * LANES, room);
        room
    }

    /// The same as values of the kernel, `[channel][tap][column]`, whatever the products are made of.
    pub(crate) fn kernel<'a>(&self, set: &'a TapSet, block: PanelBlock, room: &'a mut Vec<u32>) -> &'a [f32] {
        if self.arithmetic.per_step() == 1 {
            return as_values(self.panel(set, block, room));
        }
        // Both channels of a pair lie in one word for each tap.
        let words = self.stored(set, block);
        let room = aligned(room, 2 * words.len());
        widen(words, set.taps.len() * block.width * LANES, room);
        as_values(room)
    }

    /// Channels of one block.
    pub(crate) fn block_channels(&self) -> usize {
        self.block_steps * self.arithmetic.per_step()
    }

    /// Where the steps of a block of `channels` channel steps lie in a padded input whose rows are `[channels][width]`.
    pub(crate) fn steps(&self, set: &TapSet, channels: usize, width: usize) -> Steps {
        let offset = |channel: usize, tap: &(usize, usize)| ((tap.0 * channels + channel) * width + tap.1) as u32;
        Steps::new((0..channels).flat_map(|channel| set.taps.iter().map(move |tap| offset(channel, tap))).collect())
    }
}

/// One step of words in bf16 from two steps of f32 of `columns` words each; the second may be missing.
fn narrowed(pair: &[u32], columns: usize) -> impl Iterator<Item = u32> + '_ {
    let (first, second) = pair.split_at(columns);
    let second = second.iter().copied().chain(std::iter::repeat(0));
    first.iter().zip(second).map(|(first, second)| bf16_pair(f32::from_bits(*first), f32::from_bits(second)))
}

multiversion! {
    /// The opposite of [`narrowed`]: groups of `columns` words in bf16 to two groups in f32, of their lower and upper halves.
    fn widen(words: &[u32], columns: usize, target: &mut [u32]) {
        for (words, target) in words.chunks_exact(columns).zip(target.chunks_exact_mut(2 * columns)) {
            let (first, second) = target.split_at_mut(columns);
            for ((word, first), second) in words.iter().zip(first).zip(second) {
                *first = word << 16;
                *second = word & 0xffff_0000;
            }
        }
    }
}
