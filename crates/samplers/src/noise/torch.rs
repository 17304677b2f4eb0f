//! PyTorch's CPU generator: the Mersenne twister (Matsumoto & Nishimura, 1998) and the two ways in which
//! `torch.randn` makes normals of it.

use std::f64::consts::TAU;

use super::cephes::{log, sine_cosine};

const WORDS: usize = 624;
const SHIFT: usize = 397;
/// From this many elements on, numbers are made in blocks of this size.
const BLOCK: usize = 16;

/// A seeded `torch.Generator("cpu")`.
#[derive(Debug, Clone)]
pub(super) struct Generator {
    state: [u32; WORDS],
    next: usize,
    /// Second number of the last scalar pair.
    kept: Option<f64>,
}

impl Generator {
    pub(super) fn new(seed: u64) -> Self {
        let mut state = [seed as u32; WORDS];
        for index in 1..WORDS {
            let before = state[index - 1];
            state[index] = 1_812_433_253u32.wrapping_mul(before ^ (before >> 30)).wrapping_add(index as u32);
        }
        Self { state, next: WORDS, kept: None }
    }

    /// The next `torch.randn` of `count` elements in f32.
    pub(super) fn normal(&mut self, count: usize) -> Vec<f32> {
        if count < BLOCK {
            return (0..count).map(|_| self.scalar_normal() as f32).collect();
        }
        let mut values: Vec<f32> = (0..count).map(|_| self.uniform_f32()).collect();
        let (blocks, rest) = values.as_chunks_mut::<BLOCK>();
        blocks.iter_mut().for_each(fill_block);
        if !rest.is_empty() {
            // The last sixteen are made anew, over the end of the last whole block.
            let mut tail: [f32; BLOCK] = std::array::from_fn(|_| self.uniform_f32());
            fill_block(&mut tail);
            values[count - BLOCK..].copy_from_slice(&tail);
        }
        values
    }

    /// 24 bits of one word, as fraction of one.
    fn uniform_f32(&mut self) -> f32 {
        (self.word() & 0x00FF_FFFF) as f32 * (1.0 / (1u32 << 24) as f32)
    }

    /// 53 bits of two words, as fraction of one.
    fn uniform_f64(&mut self) -> f64 {
        let (high, low) = (u64::from(self.word()), u64::from(self.word()));
        ((high << 32 | low) & ((1 << 53) - 1)) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    fn scalar_normal(&mut self) -> f64 {
        if let Some(kept) = self.kept.take() {
            return kept;
        }
        let (turn, height) = (self.uniform_f64(), self.uniform_f64());
        let radius = (-2.0 * libm::log1p(-height)).sqrt();
        let (sine, cosine) = libm::sincos(TAU * turn);
        self.kept = Some(radius * sine);
        radius * cosine
    }

    fn word(&mut self) -> u32 {
        if self.next == WORDS {
            self.refill();
        }
        let mut word = self.state[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9D2C_5680;
        word ^= (word << 15) & 0xEFC6_0000;
        word ^ (word >> 18)
    }

    fn refill(&mut self) {
        for index in 0..WORDS {
            let joined = (self.state[index] & 0x8000_0000) | (self.state[(index + 1) % WORDS] & 0x7FFF_FFFF);
            let twist = if joined & 1 == 1 { 0x9908_B0DF } else { 0 };
            self.state[index] = self.state[(index + SHIFT) % WORDS] ^ (joined >> 1) ^ twist;
        }
        self.next = 0;
    }
}

/// Box and Muller's transform of sixteen uniform numbers: the first eight give radii, the last eight angles.
fn fill_block(block: &mut [f32; BLOCK]) {
    let (radii, angles) = block.split_at_mut(BLOCK / 2);
    for (first, second) in radii.iter_mut().zip(angles) {
        let radius = (-2.0 * log(1.0 - *first)).sqrt();
        let (sine, cosine) = sine_cosine(std::f32::consts::TAU * *second);
        (*first, *second) = (radius * cosine, radius * sine);
    }
}
