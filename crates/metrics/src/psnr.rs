//! Differences value by value.

use crate::error::{MetricsError, check_pair};

/// What an infinite PSNR counts as where a finite number is needed. 8-bit pictures that differ in a single value of 4096² pixels
/// reach 125 dB, and 48 dB is an error of one 8-bit step everywhere: nothing of interest lies above.
pub const PSNR_CAP: f64 = 100.0;

/// Mean of the squared differences.
///
/// # Errors
/// [`MetricsError::SizeMismatch`], [`MetricsError::Empty`].
pub fn mean_squared_error(reference: &[f32], value: &[f32]) -> Result<f64, MetricsError> {
    check_pair(reference, value)?;
    Ok(squared_distance(reference, value) / reference.len() as f64)
}

/// Peak signal-to-noise ratio in dB for values in 0..1: −10 log₁₀ of the mean squared error over all channels.
/// Infinity for identical pictures, NaN when a value is NaN.
///
/// # Errors
/// [`MetricsError::SizeMismatch`], [`MetricsError::Empty`].
pub fn psnr(reference: &[f32], value: &[f32]) -> Result<f64, MetricsError> {
    // Adding 0 turns the -0 of an error of exactly 1 into 0.
    Ok(-10.0 * mean_squared_error(reference, value)?.log10() + 0.0)
}

/// A PSNR for JSON, which has no infinity: `None` (null) means identical.
pub fn psnr_for_json(psnr: f64) -> Option<f64> {
    psnr.is_finite().then_some(psnr)
}

/// A PSNR for means and axes: at most [`PSNR_CAP`].
pub fn psnr_capped(psnr: f64) -> f64 {
    // Not `min`, which would turn NaN into the cap.
    if psnr > PSNR_CAP { PSNR_CAP } else { psnr }
}

/// Norm of the difference over the norm of the reference. A reference of zeros gives 0 if the value is zeros too, else infinity.
///
/// # Errors
/// [`MetricsError::SizeMismatch`], [`MetricsError::Empty`].
pub fn relative_l2(reference: &[f32], value: &[f32]) -> Result<f64, MetricsError> {
    check_pair(reference, value)?;
    let difference = squared_distance(reference, value);
    let norm: f64 = reference.iter().map(|&value| f64::from(value).powi(2)).sum();
    if difference == 0.0 {
        return Ok(0.0);
    }
    Ok((difference / norm).sqrt())
}

fn squared_distance(left: &[f32], right: &[f32]) -> f64 {
    left.iter().zip(right).map(|(&left, &right)| (f64::from(left) - f64::from(right)).powi(2)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_values() {
        assert!((psnr(&[0.0; 12], &[0.1; 12]).unwrap() - 20.0).abs() < 1e-5);
        assert_eq!(psnr(&[0.0], &[1.0]).unwrap().to_bits(), 0.0f64.to_bits());
        assert!((relative_l2(&[3.0, 4.0], &[3.0, 3.0]).unwrap() - 0.2).abs() < 1e-12);
    }

    #[test]
    fn the_ends_of_the_scale() {
        assert_eq!(psnr(&[0.5; 3], &[0.5; 3]).unwrap(), f64::INFINITY);
        assert_eq!(psnr_for_json(f64::INFINITY), None);
        assert_eq!(psnr_for_json(31.5), Some(31.5));
        assert_eq!(psnr_capped(f64::INFINITY), PSNR_CAP);
        assert!(psnr_capped(f64::NAN).is_nan() && psnr(&[f32::NAN], &[0.0]).unwrap().is_nan());
        assert_eq!(relative_l2(&[0.0; 3], &[0.0; 3]).unwrap(), 0.0);
        assert_eq!(relative_l2(&[0.0; 3], &[1.0; 3]).unwrap(), f64::INFINITY);
        assert!(matches!(psnr(&[0.0; 3], &[0.0; 6]), Err(MetricsError::SizeMismatch { .. })));
        assert!(matches!(relative_l2(&[], &[]), Err(MetricsError::Empty)));
    }

    proptest! {
        #[test]
        fn psnr_is_symmetric_and_falls_with_noise(values in proptest::collection::vec((0.0f32..1.0, 0.001f32..0.2), 1..50)) {
            let reference: Vec<f32> = values.iter().map(|(value, _)| *value).collect();
            let near: Vec<f32> = values.iter().map(|(value, noise)| value + noise).collect();
            let far: Vec<f32> = values.iter().map(|(value, noise)| value + 2.0 * noise).collect();
            let near_psnr = psnr(&reference, &near).unwrap();
            prop_assert_eq!(near_psnr, psnr(&near, &reference).unwrap());
            prop_assert!(psnr(&reference, &far).unwrap() < near_psnr);
        }
    }
}
