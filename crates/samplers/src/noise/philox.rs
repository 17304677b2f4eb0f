//! Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) and normals made from it.

use std::f64::consts::TAU;

use rayon::prelude::*;

const ROUNDS: usize = 10;
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// Added to the key after every round: the golden ratio and the square root of three, as fractions of 2^32.
const KEY_STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Pairs that a thread computes at a time.
const PAIRS: usize = 1 << 14;

/// Four random words from a counter and a key.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let wide =
            [u64::from(MULTIPLIERS[0]) * u64::from(counter[0]), u64::from(MULTIPLIERS[1]) * u64::from(counter[2])];
        let (high, low) = (wide.map(|product| (product >> 32) as u32), wide.map(|product| product as u32));
        counter = [high[1] ^ counter[1] ^ key[0], low[1], high[0] ^ counter[3] ^ key[1], low[0]];
        key = [key[0].wrapping_add(KEY_STEPS[0]), key[1].wrapping_add(KEY_STEPS[1])];
    }
    counter
}

/// `count` normal numbers of draw `draw`; two neighbours share one counter value.
pub(super) fn normal(seed: u64, draw: u64, count: usize) -> Vec<f32> {
    let mut values = vec![0.0f32; count];
    values.par_chunks_mut(2 * PAIRS).enumerate().for_each(|(chunk, values)| {
        for (place, pair) in values.chunks_mut(2).enumerate() {
            let normals = normal_pair(seed, draw, (chunk * PAIRS + place) as u64);
            pair.iter_mut().zip(normals).for_each(|(value, normal)| *value = normal);
        }
    });
    values
}

/// Box and Muller's transform in f64 of two 53-bit uniform numbers, rounded to f32 at the very end.
fn normal_pair(seed: u64, draw: u64, pair: u64) -> [f32; 2] {
    let words = |value: u64| [value as u32, (value >> 32) as u32];
    let ([a, b], [c, d]) = (words(pair), words(draw));
    let [w0, w1, w2, w3] = philox([a, b, c, d], words(seed));
    let fraction = |high: u32, low: u32| (u64::from(high) << 32 | u64::from(low)) >> 11;
    let unit = 1.0 / (1u64 << 53) as f64;
    // The first lies in (0, 1], so that its logarithm is finite.
    let (first, second) = ((fraction(w0, w1) + 1) as f64 * unit, fraction(w2, w3) as f64 * unit);
    let radius = (-2.0 * libm::log(first)).sqrt();
    let (sine, cosine) = libm::sincos(TAU * second);
    [(radius * cosine) as f32, (radius * sine) as f32]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_known_answers_of_its_authors() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let (counter, key) = ([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]);
        assert_eq!(philox(counter, key), [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    #[test]
    fn places_do_not_depend_on_how_many_are_drawn() {
        let long = normal(7, 0, 4 * PAIRS + 3);
        assert_eq!(normal(7, 0, 5), long[..5]);
        assert_ne!(normal(7, 1, 5), long[..5]);
        assert_ne!(normal(8, 0, 5), long[..5]);
    }

    #[test]
    fn moments_are_those_of_the_normal_distribution() {
        let values = normal(42, 0, 200_000);
        let mean_power =
            |power| values.iter().map(|&value| f64::from(value).powi(power)).sum::<f64>() / values.len() as f64;
        for (power, expected, tolerance) in [(1, 0.0, 0.01), (2, 1.0, 0.01), (3, 0.0, 0.03), (4, 3.0, 0.06)] {
            assert!((mean_power(power) - expected).abs() < tolerance, "moment {power}: {}", mean_power(power));
        }
    }
}
