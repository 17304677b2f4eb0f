//! Distances between features and the health of one.

use candle_core::{DType, Result, Tensor};

use crate::types::OpsError;

/// What a tensor looks like as a whole.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Health {
    /// Whether no value is infinite or not a number.
    pub finite: bool,
    /// Mean of the values; 0 for an empty tensor.
    pub mean: f32,
    /// Standard deviation of the values (of the population); 0 for an empty tensor.
    pub std: f32,
}

/// mean|previous − current| / mean|previous|: the drift that first-block caching and TeaCache (arXiv 2411.19108)
/// measure. 0 when both are zero everywhere, infinite when only `previous` is.
///
/// # Errors
/// When shapes differ.
pub fn relative_l1(previous: &Tensor, current: &Tensor) -> Result<f32> {
    check_shapes("relative l1", previous, current)?;
    let difference = (previous - current)?.abs()?.to_dtype(DType::F64)?.sum_all()?.to_scalar::<f64>()?;
    let size = previous.abs()?.to_dtype(DType::F64)?.sum_all()?.to_scalar::<f64>()?;
    Ok(ratio(difference, size))
}

/// ‖value − reference‖ / ‖reference‖. 0 when both are zero everywhere, infinite when only `reference` is.
///
/// # Errors
/// When shapes differ.
pub fn relative_l2(reference: &Tensor, value: &Tensor) -> Result<f32> {
    check_shapes("relative l2", reference, value)?;
    let difference = (value - reference)?.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>()?;
    let size = reference.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>()?;
    Ok(ratio(difference.sqrt(), size.sqrt()))
}

/// Whether all values are finite, with their mean and standard deviation.
///
/// # Errors
/// When the tensor is not of a float dtype.
pub fn health(tensor: &Tensor) -> Result<Health> {
    let values = tensor.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
    let count = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
    let finite = values.iter().all(|value| value.is_finite());
    Ok(Health { finite, mean: mean as f32, std: variance.sqrt() as f32 })
}

fn check_shapes(operation: &'static str, left: &Tensor, right: &Tensor) -> Result<()> {
    if left.dims() == right.dims() {
        return Ok(());
    }
    let (found, expected) = (right.dims().to_vec(), format!("{:?}", left.dims()));
    Err(OpsError::Shape { operation, argument: "second tensor", found, expected }.into())
}

fn ratio(difference: f64, size: f64) -> f32 {
    if difference == 0.0 { 0.0 } else { (difference / size) as f32 }
}
