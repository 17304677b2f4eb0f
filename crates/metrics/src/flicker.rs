//! How much a clip changes from frame to frame.

use crate::{MetricsError, mean_squared_error};

/// Root mean square of the differences between neighbouring frames, each `[height, width, 3]` in 0..1; 0 for a still clip or
/// a single frame. A restyled clip that flickers lies above the clip of its exact targets.
///
/// # Errors
/// [`MetricsError::Empty`], [`MetricsError::SizeMismatch`] when frames differ in size.
pub fn flicker<'a>(frames: impl IntoIterator<Item = &'a [f32]>) -> Result<f64, MetricsError> {
    let mut frames = frames.into_iter();
    let mut before = frames.next().ok_or(MetricsError::Empty)?;
    let (mut sum, mut pairs) = (0.0, 0_u32);
    for frame in frames {
        sum += mean_squared_error(before, frame)?;
        pairs += 1;
        before = frame;
    }
    Ok(if pairs == 0 { 0.0 } else { (sum / f64::from(pairs)).sqrt() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stillness_is_zero_and_blinking_is_the_amplitude() {
        let (dark, light) = ([0.25_f32; 12], [0.75_f32; 12]);
        assert_eq!(flicker([&dark[..], &dark[..]]).unwrap(), 0.0);
        assert_eq!(flicker([&dark[..]]).unwrap(), 0.0);
        assert!((flicker([&dark[..], &light[..], &dark[..]]).unwrap() - 0.5).abs() < 1e-9);
        assert!(flicker(std::iter::empty()).is_err());
        assert!(flicker([&dark[..], &light[..6]]).is_err());
    }
}
