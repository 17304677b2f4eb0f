//! Colour differences as people see them: sRGB to CIE L*a*b* (D65), then ΔE.
//!
//! CIE76 is the plain distance; CIEDE2000 (CIE 142-2001; G. Sharma, W. Wu, E. Dalal, "The CIEDE2000 color-difference formula", 2005)
//! corrects its faults in saturated and dark colours.

use crate::error::{MetricsError, check_pair, check_picture};

/// Which formula.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColourDifference {
    /// Distance in L*a*b*.
    Cie76,
    /// The weighted formula of 2000.
    Ciede2000,
}

impl ColourDifference {
    /// ΔE of two colours (L*, a*, b*).
    pub fn between(self, reference: [f64; 3], value: [f64; 3]) -> f64 {
        match self {
            Self::Cie76 => reference.iter().zip(value).map(|(left, right)| (left - right).powi(2)).sum::<f64>().sqrt(),
            Self::Ciede2000 => ciede2000(reference, value),
        }
    }
}

/// Mean ΔE over the pixels of two sRGB pictures `[height, width, 3]` in 0..1.
///
/// # Errors
/// [`MetricsError::SizeMismatch`], [`MetricsError::Empty`], or [`MetricsError::Shape`] when the length is no multiple of 3.
pub fn delta_e(reference: &[f32], value: &[f32], formula: ColourDifference) -> Result<f64, MetricsError> {
    check_pair(reference, value)?;
    let (left, right) = (reference.as_chunks::<3>(), value.as_chunks::<3>());
    check_picture(left.0.len(), 1, reference.len())?;
    let total: f64 = left
        .0
        .iter()
        .zip(right.0)
        .map(|(&left, &right)| formula.between(lab_from_srgb(left), lab_from_srgb(right)))
        .sum();
    Ok(total / left.0.len() as f64)
}

/// (L*, a*, b*) of an sRGB colour in 0..1, for the white of D65 (2° observer). Values outside are clamped.
pub fn lab_from_srgb(colour: [f32; 3]) -> [f64; 3] {
    let [red, green, blue] = colour.map(|value| {
        let value = f64::from(value).clamp(0.0, 1.0);
        if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
    });
    let x = (0.412_453 * red + 0.357_580 * green + 0.180_423 * blue) / 0.950_47;
    let y = 0.212_671 * red + 0.715_160 * green + 0.072_169 * blue;
    let z = (0.019_334 * red + 0.119_193 * green + 0.950_227 * blue) / 1.088_83;
    let [x, y, z] = [x, y, z].map(|value| if value > 0.008_856 { value.cbrt() } else { 7.787 * value + 16.0 / 116.0 });
    [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
}

fn ciede2000([l1, a1, b1]: [f64; 3], [l2, a2, b2]: [f64; 3]) -> f64 {
    let seventh = |chroma: f64| (chroma.powi(7) / (chroma.powi(7) + 25f64.powi(7))).sqrt();
    // Step 1: a* is stretched near grey, where the eye is keener for it.
    let stretch = 1.5 - 0.5 * seventh((a1.hypot(b1) + a2.hypot(b2)) / 2.0);
    let (a1, a2) = (a1 * stretch, a2 * stretch);
    let (chroma1, chroma2) = (a1.hypot(b1), a2.hypot(b2));
    let hue = |a: f64, b: f64| if a == 0.0 && b == 0.0 { 0.0 } else { b.atan2(a).to_degrees().rem_euclid(360.0) };
    let (hue1, hue2) = (hue(a1, b1), hue(a2, b2));
    let grey = chroma1 * chroma2 == 0.0;

    // Step 2: differences; that of the hue the short way round the circle.
    let turn = if grey { 0.0 } else { (hue2 - hue1 + 180.0).rem_euclid(360.0) - 180.0 };
    let hue_difference = 2.0 * (chroma1 * chroma2).sqrt() * (turn / 2.0).to_radians().sin();

    // Step 3: weights at the mean colour.
    let (light, chroma) = ((l1 + l2) / 2.0, (chroma1 + chroma2) / 2.0);
    let mean_hue = match (hue1 - hue2).abs() {
        _ if grey => hue1 + hue2,
        apart if apart <= 180.0 => (hue1 + hue2) / 2.0,
        _ if hue1 + hue2 < 360.0 => (hue1 + hue2 + 360.0) / 2.0,
        _ => (hue1 + hue2 - 360.0) / 2.0,
    };
    let cosine = |times: f64, shift: f64| (times * mean_hue + shift).to_radians().cos();
    let t =
        1.0 - 0.17 * cosine(1.0, -30.0) + 0.24 * cosine(2.0, 0.0) + 0.32 * cosine(3.0, 6.0) - 0.20 * cosine(4.0, -63.0);
    let off_middle = (light - 50.0).powi(2);
    let lightness_weight = 1.0 + 0.015 * off_middle / (20.0 + off_middle).sqrt();
    let rotation_angle = 30.0 * (-((mean_hue - 275.0) / 25.0).powi(2)).exp();
    let rotation = -2.0 * seventh(chroma) * (2.0 * rotation_angle).to_radians().sin();

    let lightness = (l2 - l1) / lightness_weight;
    let chroma_term = (chroma2 - chroma1) / (1.0 + 0.045 * chroma);
    let hue_term = hue_difference / (1.0 + 0.015 * chroma * t);
    (lightness.powi(2) + chroma_term.powi(2) + hue_term.powi(2) + rotation * chroma_term * hue_term).max(0.0).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_of_sharma() {
        // From table 1 of the paper: the cases that wrong implementations get wrong.
        for (left, right, expected) in [
            ([50.0, 2.6772, -79.7751], [50.0, 0.0, -82.7485], 2.0425),
            ([50.0, -1.3802, -84.2814], [50.0, 0.0, -82.7485], 1.0000),
            ([50.0, 0.0, 0.0], [50.0, -1.0, 2.0], 2.3669),
            ([50.0, 2.49, -0.001], [50.0, -2.49, 0.0009], 7.1792),
            ([50.0, 2.49, -0.001], [50.0, -2.49, 0.0011], 7.2195),
            ([50.0, 2.5, 0.0], [73.0, 25.0, -18.0], 27.1492),
            ([60.2574, -34.0099, 36.2677], [60.4626, -34.1751, 39.4387], 1.2644),
            ([2.0776, 0.0795, -1.135], [0.9033, -0.0636, -0.5514], 0.9082),
        ] {
            let found = ColourDifference::Ciede2000.between(left, right);
            assert!((found - expected).abs() < 5e-5, "{left:?} {right:?}: {found} {expected}");
            assert!((ColourDifference::Ciede2000.between(right, left) - found).abs() < 1e-9);
        }
    }

    #[test]
    fn agrees_with_scikit_image() {
        for &(colour, lab) in LAB {
            let found = lab_from_srgb(colour);
            assert!(
                found.iter().zip(lab).all(|(left, right)| (left - right).abs() < 2e-3),
                "{colour:?}: {found:?} {lab:?}"
            );
        }
    }

    /// Printed by `fixtures/reference.py`.
    const LAB: &[([f32; 3], [f64; 3])] = &[
        ([0.0, 0.0, 0.0], [0.0000, 0.0000, 0.0000]),
        ([1.0, 1.0, 1.0], [100.0000, -0.0025, 0.0047]),
        ([1.0, 0.0, 0.0], [53.2406, 80.0923, 67.2028]),
        ([0.1, 0.5, 0.9], [53.1712, 10.1118, -59.2277]),
        ([0.02, 0.01, 0.03], [0.9487, 1.3759, -1.6949]),
        ([0.5, 0.5, 0.5], [53.3890, -0.0015, 0.0028]),
    ];

    #[test]
    fn means_and_sizes() {
        assert_eq!(delta_e(&[0.2, 0.4, 0.6], &[0.2, 0.4, 0.6], ColourDifference::Ciede2000).unwrap(), 0.0);
        let black_white = delta_e(&[0.0; 6], &[0.0, 0.0, 0.0, 1.0, 1.0, 1.0], ColourDifference::Cie76).unwrap();
        assert!((black_white - 50.0).abs() < 1e-2, "{black_white}");
        assert!(delta_e(&[0.0; 4], &[0.0; 4], ColourDifference::Cie76).is_err());
    }
}
