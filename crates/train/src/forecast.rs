//! The learned forecast of a reused entry: a few scalars that combine the site's last computed values.
//!
//! All forecasters in use are linear in what they remember (arXiv 2604.26365), so the weights themselves are learned. They
//! are written in differences, `h₀ + s·h₀ + a·(h₀ − h₁) + b·(h₀ − 2h₁ + h₂)` with `h₀` the newest value: zeros hold the
//! value, the scalars are of like size, and where fewer values are remembered the later terms fall away and the others
//! keep their meaning.

use candle_core::{Device, Tensor};

use crate::TrainError;

/// Highest order: three remembered values.
pub const MAX_ORDER: usize = 2;

/// Scalars of an entry: none for plain reuse (order 0), else `s`, `a` and for order 2 `b`.
pub fn parameters(order: usize) -> usize {
    if order == 0 { 0 } else { order.min(MAX_ORDER) + 1 }
}

/// Values that a forecast of this order may remember.
pub fn depth(order: usize) -> usize {
    parameters(order).max(1)
}

/// How each scalar enters the weights of the last three values, newest first.
const TERMS: [[f32; 3]; 3] = [[1.0, 0.0, 0.0], [1.0, -1.0, 0.0], [1.0, -2.0, 1.0]];

/// The weights of the values, newest first, when `remembered` of them are there.
pub fn weights(scalars: &[f32], remembered: usize) -> Vec<f32> {
    let count = scalars.len().min(remembered).min(TERMS.len());
    (0..count)
        .map(|age| {
            let hold = if age == 0 { 1.0 } else { 0.0 };
            hold + scalars.iter().zip(&TERMS).take(count).map(|(scalar, term)| scalar * term[age]).sum::<f32>()
        })
        .collect()
}

/// As [`weights`] for all sites of a step, differentiable: `scalars` `[sites, parameters]` to weights `[sites, count]`
/// for each count of remembered values from 1.
///
/// # Errors
/// If the shapes do not fit.
pub fn weight_tensors(scalars: &Tensor) -> Result<Vec<Tensor>, TrainError> {
    let (_, parameters) = scalars.dims2()?;
    (1..=parameters.min(TERMS.len()))
        .map(|count| {
            let terms: Vec<f32> = TERMS.iter().take(count).flat_map(|term| term.iter().copied().take(count)).collect();
            let terms = Tensor::from_vec(terms, (count, count), &Device::Cpu)?;
            let hold: Vec<f32> = (0..count).map(|age| if age == 0 { 1.0 } else { 0.0 }).collect();
            let hold = Tensor::from_vec(hold, (1, count), &Device::Cpu)?;
            Ok(scalars.narrow(1, 0, count)?.contiguous()?.matmul(&terms)?.broadcast_add(&hold)?)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_hold_and_differences_extrapolate() {
        assert_eq!(weights(&[0.0; 3], 3), [1.0, 0.0, 0.0]);
        assert_eq!(weights(&[0.0, 1.0], 2), [2.0, -1.0]);
        // One step of a parabola through the last three values.
        assert_eq!(weights(&[0.0, 1.0, 1.0], 3), [3.0, -3.0, 1.0]);
        assert_eq!(weights(&[0.1, 1.0, 1.0], 1), [1.1]);
        assert!(weights(&[], 3).is_empty());
    }

    #[test]
    fn tensors_say_the_same() {
        let rows = [[0.1f32, -0.4, 0.25], [0.0, 0.5, -0.125]];
        let tensors = weight_tensors(&Tensor::new(&rows, &Device::Cpu).unwrap()).unwrap();
        assert_eq!(tensors.len(), 3);
        for (index, tensor) in tensors.iter().enumerate() {
            let found: Vec<Vec<f32>> = tensor.to_vec2().unwrap();
            for (row, scalars) in found.iter().zip(&rows) {
                let expected = weights(scalars, index + 1);
                assert!(row.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-6), "{row:?} {expected:?}");
            }
        }
    }
}
