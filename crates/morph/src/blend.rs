//! Interpolation: spherical for noise and features, linear for text states.

use candle_core::{Result, Tensor};
use refrain_ops::linear_combination;

/// Above this cosine the two directions are one, and the sines of the angle carry no digits.
const ALMOST_PARALLEL: f64 = 0.9995;

/// Angle between two tensors seen as vectors, in radians; `None` where slerp is lerp: (almost) parallel, opposite, or a
/// vector without length.
pub(crate) fn angle(first: &Tensor, second: &Tensor) -> Result<Option<f64>> {
    let (a, b) = (first.flatten_all()?.to_vec1::<f32>()?, second.flatten_all()?.to_vec1::<f32>()?);
    let (mut dot, mut first, mut second) = (0.0, 0.0, 0.0);
    for (&a, &b) in a.iter().zip(&b) {
        let (a, b) = (f64::from(a), f64::from(b));
        dot += a * b;
        first += a * a;
        second += b * b;
    }
    let norms = (first * second).sqrt();
    if norms <= 0.0 || !norms.is_finite() {
        return Ok(None);
    }
    let cosine = (dot / norms).clamp(-1.0, 1.0);
    Ok((cosine.abs() <= ALMOST_PARALLEL).then(|| cosine.acos()))
}

/// Factors of the two ends at `alpha` in 0..1: `sin((1 - alpha) θ) / sin θ` and `sin(alpha θ) / sin θ`; those of lerp
/// without an angle.
pub(crate) fn slerp_factors(angle: Option<f64>, alpha: f64) -> (f64, f64) {
    match angle {
        Some(angle) => (((1.0 - alpha) * angle).sin() / angle.sin(), (alpha * angle).sin() / angle.sin()),
        None => (1.0 - alpha, alpha),
    }
}

/// Spherical interpolation of two tensors of one shape, over the whole tensor.
///
/// # Errors
/// When shapes differ.
pub fn slerp(first: &Tensor, second: &Tensor, alpha: f64) -> Result<Tensor> {
    let (a, b) = slerp_factors(angle(first, second)?, alpha);
    linear_combination(&[(a as f32, first), (b as f32, second)])
}

/// Linear interpolation of two tensors of one shape.
///
/// # Errors
/// When shapes differ.
pub fn lerp(first: &Tensor, second: &Tensor, alpha: f64) -> Result<Tensor> {
    linear_combination(&[((1.0 - alpha) as f32, first), (alpha as f32, second)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn slerp_keeps_the_length_and_meets_the_ends() -> Result<()> {
        let first = Tensor::new(&[3f32, 0.0, 0.0], &Device::Cpu)?;
        let second = Tensor::new(&[0f32, 3.0, 0.0], &Device::Cpu)?;
        for alpha in [0.0, 0.25, 0.5, 1.0] {
            let middle = slerp(&first, &second, alpha)?.to_vec1::<f32>()?;
            let length = middle.iter().map(|value| value * value).sum::<f32>().sqrt();
            assert!((length - 3.0).abs() < 1e-5);
            let swapped = slerp(&second, &first, 1.0 - alpha)?.to_vec1::<f32>()?;
            assert_eq!(middle, swapped);
        }
        assert_eq!(slerp(&first, &second, 0.0)?.to_vec1::<f32>()?, [3.0, 0.0, 0.0]);
        Ok(())
    }

    #[test]
    fn parallel_opposite_and_empty_vectors_are_interpolated_linearly() -> Result<()> {
        let one = Tensor::new(&[1f32, 2.0], &Device::Cpu)?;
        for other in [&one * 2.0, &one * -1.0, &one * 0.0] {
            let middle = slerp(&one, &other?, 0.5)?.to_vec1::<f32>()?;
            assert!(middle.iter().all(|value| value.is_finite()));
        }
        Ok(())
    }
}
