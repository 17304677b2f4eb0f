//! A palette for one picture by median cut: the box of colours with the widest side is halved at its median until there are enough.
//! (P. Heckbert, "Color image quantization for frame buffer display", 1982.)

use crate::{Picture, Rgb};
use std::collections::BTreeMap;

/// A palette and, for every pixel, its index there.
pub(super) struct Quantised {
    pub(super) palette: Vec<Rgb>,
    pub(super) indices: Vec<u8>,
}

/// Reduces a picture to at most `most` (up to 256) colours; one with fewer keeps them exactly.
pub(super) fn quantise(picture: &Picture, most: usize) -> Quantised {
    let mut counts: BTreeMap<Rgb, u32> = BTreeMap::new();
    for pixel in picture.pixels().as_chunks::<3>().0 {
        *counts.entry(*pixel).or_default() += 1;
    }
    let mut boxes = vec![ColourBox::new(counts.into_iter().collect())];
    while boxes.len() < most.clamp(1, 256) {
        let Some(widest) = (0..boxes.len()).max_by_key(|&index| boxes[index].weight()) else { break };
        if boxes[widest].range == 0 {
            break;
        }
        let half = boxes[widest].split();
        boxes.push(half);
    }
    let mut index_of = BTreeMap::new();
    for (index, colours) in boxes.iter().enumerate() {
        index_of.extend(colours.entries.iter().map(|&(colour, _)| (colour, index as u8)));
    }
    let indices =
        picture.pixels().as_chunks::<3>().0.iter().map(|pixel| index_of.get(pixel).copied().unwrap_or(0)).collect();
    Quantised { palette: boxes.iter().map(ColourBox::mean).collect(), indices }
}

struct ColourBox {
    entries: Vec<(Rgb, u32)>,
    channel: usize,
    range: u8,
}

impl ColourBox {
    fn new(entries: Vec<(Rgb, u32)>) -> Self {
        let range = |channel: usize| {
            let values = || entries.iter().map(|(colour, _)| colour[channel]);
            values().max().unwrap_or(0) - values().min().unwrap_or(0)
        };
        // Green first among equals: the eye is keenest there.
        let channel = [1, 0, 2].into_iter().rev().max_by_key(|&channel| range(channel)).unwrap_or(1);
        Self { channel, range: range(channel), entries }
    }

    /// Boxes that are wide and hold many pixels are halved first.
    fn weight(&self) -> u64 {
        u64::from(self.range) * u64::from(self.total())
    }

    fn total(&self) -> u32 {
        self.entries.iter().map(|(_, count)| count).sum()
    }

    /// Keeps the lower half and gives the upper; both have at least one colour, as the range is not 0.
    fn split(&mut self) -> Self {
        let channel = self.channel;
        let mut entries = std::mem::take(&mut self.entries);
        entries.sort_by_key(|(colour, _)| colour[channel]);
        let half = entries.iter().map(|(_, count)| count).sum::<u32>() / 2;
        let mut seen = 0;
        let cut = entries.iter().position(|(_, count)| {
            seen += count;
            seen > half
        });
        let upper = entries.split_off(cut.unwrap_or(1).clamp(1, entries.len() - 1));
        *self = Self::new(entries);
        Self::new(upper)
    }

    fn mean(&self) -> Rgb {
        let total = u64::from(self.total()).max(1);
        [0, 1, 2].map(|channel| {
            let sum: u64 =
                self.entries.iter().map(|(colour, count)| u64::from(colour[channel]) * u64::from(*count)).sum();
            ((sum + total / 2) / total) as u8
        })
    }
}
