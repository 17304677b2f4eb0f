//! Structural similarity (Wang, Bovik, Sheikh, Simoncelli, IEEE TIP 13(4), 2004).
//!
//! As in the paper and in scikit-image's `structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
//! data_range=1, channel_axis=-1)`: a Gaussian window of 11x11, only where it lies wholly inside the picture, then the mean over
//! places and over the three channels of sRGB values.

use crate::error::{MetricsError, check_pair, check_picture};

const RADIUS: usize = 5;
const WINDOW: usize = 2 * RADIUS + 1;
const SIGMA: f64 = 1.5;
/// (0.01 · peak)² and (0.03 · peak)², which keep flat regions from dividing by zero.
const C1: f64 = 0.01 * 0.01;
const C2: f64 = 0.03 * 0.03;

/// Mean SSIM of two pictures `[height, width, 3]` in 0..1; 1 for identical ones, at least −1.
///
/// # Errors
/// [`MetricsError::SizeMismatch`], [`MetricsError::Empty`], [`MetricsError::Shape`], and [`MetricsError::TooSmall`] below 11 pixels a side.
pub fn ssim(reference: &[f32], value: &[f32], width: usize, height: usize) -> Result<f64, MetricsError> {
    check_pair(reference, value)?;
    check_picture(width, height, reference.len())?;
    if width < WINDOW || height < WINDOW {
        return Err(MetricsError::TooSmall { measure: "ssim", needed: WINDOW, width, height });
    }
    let plane = |picture: &[f32], channel: usize| -> Vec<f64> {
        picture.iter().skip(channel).step_by(3).map(|&value| f64::from(value)).collect()
    };
    let total: f64 = (0..3).map(|channel| plane_ssim(&plane(reference, channel), &plane(value, channel), width)).sum();
    Ok(total / 3.0)
}

/// [`ssim`] of 8-bit pictures `[height, width, 3]`.
///
/// # Errors
/// As [`ssim`].
pub fn ssim_rgb8(reference: &[u8], value: &[u8], width: usize, height: usize) -> Result<f64, MetricsError> {
    let unit = |picture: &[u8]| -> Vec<f32> { picture.iter().map(|&byte| f32::from(byte) / 255.0).collect() };
    ssim(&unit(reference), &unit(value), width, height)
}

fn plane_ssim(left: &[f64], right: &[f64], width: usize) -> f64 {
    let product = |a: &[f64], b: &[f64]| -> Vec<f64> { a.iter().zip(b).map(|(a, b)| a * b).collect() };
    let blurred = |plane: &[f64]| blur(plane, width);
    let (mean_left, mean_right) = (blurred(left), blurred(right));
    let squares = (blurred(&product(left, left)), blurred(&product(right, right)), blurred(&product(left, right)));
    let count = mean_left.len();
    let total: f64 = (0..count)
        .map(|at| {
            let (left, right) = (mean_left[at], mean_right[at]);
            let variances = squares.0[at] - left * left + squares.1[at] - right * right;
            let covariance = squares.2[at] - left * right;
            let luminance = (2.0 * left * right + C1) / (left * left + right * right + C1);
            luminance * (2.0 * covariance + C2) / (variances + C2)
        })
        .sum();
    total / count as f64
}

/// Gaussian average where the window fits: `[height, width]` to `[height - 10, width - 10]`, along rows and then columns.
fn blur(plane: &[f64], width: usize) -> Vec<f64> {
    let weights = weights();
    let weigh = |values: &mut dyn Iterator<Item = f64>| -> f64 {
        values.zip(weights).map(|(value, weight)| value * weight).sum()
    };
    let rows: Vec<f64> = plane
        .chunks_exact(width)
        .flat_map(|row| row.windows(WINDOW))
        .map(|window| weigh(&mut window.iter().copied()))
        .collect();
    let narrow = width - 2 * RADIUS;
    let height = rows.len() / narrow - 2 * RADIUS;
    let places = (0..height).flat_map(|y| (0..narrow).map(move |x| y * narrow + x));
    places.map(|at| weigh(&mut rows.iter().skip(at).step_by(narrow).take(WINDOW).copied())).collect()
}

fn weights() -> [f64; WINDOW] {
    let mut weights = [0.0; WINDOW];
    for (index, weight) in weights.iter_mut().enumerate() {
        let distance = index as f64 - RADIUS as f64;
        *weight = (-distance * distance / (2.0 * SIGMA * SIGMA)).exp();
    }
    let sum: f64 = weights.iter().sum();
    weights.map(|weight| weight / sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::psnr;
    use proptest::prelude::*;

    /// The pictures of `fixtures/reference.py`: smooth waves, and the same with pseudo-random noise.
    fn pair(width: usize, height: usize, noise: f64) -> (Vec<f32>, Vec<f32>) {
        let mut state = 12345u32;
        let (mut reference, mut value) = (Vec::new(), Vec::new());
        for y in 0..height {
            for x in 0..width {
                for channel in 0..3 {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let random = f64::from(state >> 8) / f64::from(1 << 24) - 0.5;
                    let wave =
                        (0.07 * (channel + 1) as f64 * x as f64).sin() * (0.05 * y as f64 + channel as f64).cos();
                    let base = 0.5 + 0.4 * wave;
                    reference.push(base as f32);
                    value.push((base + noise * random) as f32);
                }
            }
        }
        (reference, value)
    }

    #[test]
    fn agrees_with_scikit_image() {
        for &(width, height, noise, expected_ssim, expected_psnr) in REFERENCE {
            let (reference, value) = pair(width, height, noise);
            let found = ssim(&reference, &value, width, height).unwrap();
            assert!((found - expected_ssim).abs() < 1e-6, "{width}x{height} {noise}: {found} {expected_ssim}");
            let found = psnr(&reference, &value).unwrap();
            assert!((found - expected_psnr).abs() < 1e-4, "{width}x{height} {noise}: {found} {expected_psnr}");
        }
    }

    /// (width, height, noise, SSIM, PSNR), printed by `fixtures/reference.py` with scikit-image 0.26.
    const REFERENCE: &[(usize, usize, f64, f64, f64)] = &[
        (11, 11, 0.2, 0.550730645, 25.108514),
        (24, 17, 0.05, 0.935677909, 36.872400),
        (64, 48, 0.01, 0.997218555, 50.824963),
        (64, 48, 0.3, 0.362846219, 21.282537),
        (33, 40, 1.5, 0.027445171, 7.309083),
    ];

    #[test]
    fn sizes_are_checked() {
        assert!(matches!(ssim(&[0.0; 300], &[0.0; 300], 10, 10), Err(MetricsError::TooSmall { needed: 11, .. })));
        assert!(matches!(ssim(&[0.0; 300], &[0.0; 300], 11, 11), Err(MetricsError::Shape { expected: 363, .. })));
        assert!(matches!(ssim(&[0.0; 300], &[0.0; 3], 10, 10), Err(MetricsError::SizeMismatch { .. })));
        assert!(ssim(&[0.0; 3], &[0.0; 3], usize::MAX, 2).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn identical_is_one_and_order_does_not_matter(noise in 0.0f64..1.0, width in 11usize..20, height in 11usize..20) {
            let (reference, value) = pair(width, height, noise);
            prop_assert!((ssim(&reference, &reference, width, height).unwrap() - 1.0).abs() < 1e-12);
            let found = ssim(&reference, &value, width, height).unwrap();
            prop_assert!((-1.0..=1.0).contains(&found));
            prop_assert!((found - ssim(&value, &reference, width, height).unwrap()).abs() < 1e-12);
        }
    }
}
