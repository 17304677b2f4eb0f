//! The measures for tensors `[n, 3, height, width]`: one number per picture.

use crate::{ColourDifference, MetricsError};
use candle_core::{DType, Tensor};

/// A batch as one slice `[height, width, 3]` per picture.
struct Pictures {
    width: usize,
    height: usize,
    pictures: Vec<Vec<f32>>,
}

impl Pictures {
    fn read(tensor: &Tensor) -> Result<Self, MetricsError> {
        let (count, channels, height, width) = match *tensor.dims() {
            [count, channels, height, width] => (count, channels, height, width),
            _ => return Err(MetricsError::NotPictures { shape: tensor.dims().to_vec() }),
        };
        if channels != 3 {
            return Err(MetricsError::NotPictures { shape: tensor.dims().to_vec() });
        }
        let tensor = tensor.to_dtype(DType::F32)?.permute((0, 2, 3, 1))?;
        let pictures: Result<Vec<_>, _> =
            (0..count).map(|index| tensor.get(index)?.flatten_all()?.to_vec1::<f32>()).collect();
        Ok(Self { width, height, pictures: pictures? })
    }
}

/// Applies a measure of slices to each picture of two batches.
fn each(
    reference: &Tensor,
    value: &Tensor,
    measure: impl Fn(&[f32], &[f32], usize, usize) -> Result<f64, MetricsError>,
) -> Result<Vec<f64>, MetricsError> {
    if reference.dims() != value.dims() {
        let shape = |tensor: &Tensor| format!("{:?}", tensor.dims());
        return Err(MetricsError::SizeMismatch { reference: shape(reference), value: shape(value) });
    }
    let (reference, value) = (Pictures::read(reference)?, Pictures::read(value)?);
    let pairs = reference.pictures.iter().zip(&value.pictures);
    pairs.map(|(left, right)| measure(left, right, reference.width, reference.height)).collect()
}

/// [`psnr`](crate::psnr) of each picture.
///
/// # Errors
/// [`MetricsError::SizeMismatch`], [`MetricsError::NotPictures`], [`MetricsError::Empty`], [`MetricsError::Tensor`].
pub fn psnr(reference: &Tensor, value: &Tensor) -> Result<Vec<f64>, MetricsError> {
    each(reference, value, |left, right, _, _| crate::psnr(left, right))
}

/// [`ssim`](crate::ssim) of each picture.
///
/// # Errors
/// As [`psnr`], and [`MetricsError::TooSmall`] below 11 pixels a side.
pub fn ssim(reference: &Tensor, value: &Tensor) -> Result<Vec<f64>, MetricsError> {
    each(reference, value, crate::ssim)
}

/// [`delta_e`](crate::delta_e) of each picture.
///
/// # Errors
/// As [`psnr`].
pub fn delta_e(reference: &Tensor, value: &Tensor, formula: ColourDifference) -> Result<Vec<f64>, MetricsError> {
    each(reference, value, |left, right, _, _| crate::delta_e(left, right, formula))
}

/// [`relative_l2`](crate::relative_l2) over the whole of two tensors of any one shape (latents, for instance).
///
/// # Errors
/// [`MetricsError::SizeMismatch`], [`MetricsError::Empty`], [`MetricsError::Tensor`].
pub fn relative_l2(reference: &Tensor, value: &Tensor) -> Result<f64, MetricsError> {
    if reference.dims() != value.dims() {
        let shape = |tensor: &Tensor| format!("{:?}", tensor.dims());
        return Err(MetricsError::SizeMismatch { reference: shape(reference), value: shape(value) });
    }
    let flat = |tensor: &Tensor| tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
    crate::relative_l2(&flat(reference)?, &flat(value)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn waves(count: usize, phase: f32) -> Tensor {
        let values: Vec<f32> =
            (0..count * 3 * 12 * 13).map(|index| 0.5 + 0.4 * (index as f32 * 0.37 + phase).sin()).collect();
        Tensor::from_vec(values, (count, 3, 12, 13), &Device::Cpu).unwrap()
    }

    #[test]
    fn each_picture_is_measured_alone() {
        let (reference, value) = (waves(2, 0.0), waves(2, 0.1));
        let both = psnr(&reference, &value).unwrap();
        let second = psnr(&reference.narrow(0, 1, 1).unwrap(), &value.narrow(0, 1, 1).unwrap()).unwrap();
        assert_eq!((both.len(), both[1]), (2, second[0]));
        assert_eq!(psnr(&reference, &reference).unwrap(), [f64::INFINITY; 2]);
        assert!(ssim(&reference, &reference).unwrap().iter().all(|ssim| (ssim - 1.0).abs() < 1e-12));
        assert_eq!(delta_e(&reference, &reference, ColourDifference::Ciede2000).unwrap(), [0.0; 2]);
        assert_eq!(relative_l2(&reference, &reference).unwrap(), 0.0);
    }

    #[test]
    fn channels_become_the_last_axis() {
        let reference = Tensor::zeros((1, 3, 12, 13), DType::F32, &Device::Cpu).unwrap();
        // White against black is ΔE 100 only when the three channels of a pixel stay together.
        let difference = delta_e(&reference, &reference.ones_like().unwrap(), ColourDifference::Cie76).unwrap();
        assert!((difference[0] - 100.0).abs() < 0.02, "{difference:?}");
    }

    #[test]
    fn shapes_are_checked() {
        let (reference, fewer) = (waves(2, 0.0), waves(1, 0.0));
        let error = psnr(&reference, &fewer).unwrap_err().to_string();
        assert!(error.contains("[2, 3, 12, 13]") && error.contains("[1, 3, 12, 13]"), "{error}");
        let flat = reference.flatten_all().unwrap();
        assert!(matches!(psnr(&flat, &flat), Err(MetricsError::NotPictures { .. })));
        assert!(relative_l2(&flat, &flat).is_ok());
    }
}
