//! Distances between features and the health of one, each in one pass over memory.

use candle_core::{DType, Result, Tensor};
use rayon::prelude::*;

use crate::differentiable::{Values, is_plain};
use crate::parallel::WORTH_VALUES;
use crate::simd::multiversion;
use crate::types::OpsError;

/// Lanes of a sum: fixed, so that every machine adds in one order.
const LANES: usize = 16;
/// Values summed in f32 lanes before they are gathered in f64; also one unit of work.
const PART: usize = 4096;

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
/// measure. 0 when both are equal, infinite when only `previous` is zero everywhere.
///
/// # Errors
/// When shapes differ.
pub fn relative_l1(previous: &Tensor, current: &Tensor) -> Result<f32> {
    let [difference, size] = over_both("relative l1", previous, current, absolute_part)?;
    Ok(ratio(difference, size))
}

/// ‖value − reference‖ / ‖reference‖. 0 when both are equal, infinite when only `reference` is zero everywhere.
///
/// # Errors
/// When shapes differ.
pub fn relative_l2(reference: &Tensor, value: &Tensor) -> Result<f32> {
    let [difference, size] = over_both("relative l2", reference, value, square_part)?;
    Ok(ratio(difference.sqrt(), size.sqrt()))
}

/// Whether all values are finite, with their mean and standard deviation.
///
/// # Errors
/// When the tensor is not of a float dtype.
pub fn health(tensor: &Tensor) -> Result<Health> {
    let plain = plain(tensor)?;
    let values = Values::of(&plain)?;
    let count = values.len().max(1) as f64;
    // Deviations from a value of the tensor: squares of a large mean would swallow them.
    let origin = values.first().copied().filter(|value| value.is_finite()).unwrap_or(0.0);
    let [sum, squares] = gather(&values, &values, |part, _| deviation_part(part, origin));
    let mean = sum / count;
    let variance = (squares / count - mean * mean).max(0.0);
    // What is not finite makes the sum of squares so, unless finite squares overflowed: then look at each value.
    let finite = squares.is_finite() || values.iter().all(|value| value.is_finite());
    Ok(Health { finite, mean: (f64::from(origin) + mean) as f32, std: variance.sqrt() as f32 })
}

/// The sums of a part, over all parts in order, for two tensors of one shape.
fn over_both(
    operation: &'static str,
    first: &Tensor,
    second: &Tensor,
    part: fn(&[f32], &[f32]) -> [f64; 2],
) -> Result<[f64; 2]> {
    if first.dims() != second.dims() {
        let (found, expected) = (second.dims().to_vec(), format!("{:?}", first.dims()));
        return Err(OpsError::Shape { operation, argument: "second tensor", found, expected }.into());
    }
    let (first, second) = (plain(first)?, plain(second)?);
    let (first, second) = (Values::of(&first)?, Values::of(&second)?);
    Ok(gather(&first, &second, part))
}

/// Contiguous f32 on the CPU.
fn plain(tensor: &Tensor) -> Result<Tensor> {
    if is_plain(tensor) {
        return tensor.contiguous();
    }
    tensor.to_device(&candle_core::Device::Cpu)?.to_dtype(DType::F32)?.contiguous()
}

/// Adds up the sums of the parts, always in order.
fn gather(first: &[f32], second: &[f32], part: impl Fn(&[f32], &[f32]) -> [f64; 2] + Sync) -> [f64; 2] {
    let add = |total: [f64; 2], part: [f64; 2]| [total[0] + part[0], total[1] + part[1]];
    if first.len() < WORTH_VALUES {
        return first
            .chunks(PART)
            .zip(second.chunks(PART))
            .map(|(first, second)| part(first, second))
            .fold([0.0; 2], add);
    }
    let parts = first.par_chunks(PART).zip(second.par_chunks(PART)).with_min_len(8);
    let parts: Vec<[f64; 2]> = parts.map(|(first, second)| part(first, second)).collect();
    parts.into_iter().fold([0.0; 2], add)
}

fn ratio(difference: f64, size: f64) -> f32 {
    if difference == 0.0 { 0.0 } else { (difference / size) as f32 }
}

/// Two sums of `map` over pairs of values, in 16 lanes.
#[inline(always)]
fn lane_sums(first: &[f32], second: &[f32], map: impl Fn(f32, f32) -> [f32; 2]) -> [f64; 2] {
    let mut lanes = [[0.0f32; LANES]; 2];
    let (whole, rest) = first.as_chunks::<LANES>();
    let (whole_second, rest_second) = second.as_chunks::<LANES>();
    for (first, second) in whole.iter().zip(whole_second) {
        for lane in 0..LANES {
            let [left, right] = map(first[lane], second[lane]);
            lanes[0][lane] += left;
            lanes[1][lane] += right;
        }
    }
    for (lane, (first, second)) in rest.iter().zip(rest_second).enumerate() {
        let [left, right] = map(*first, *second);
        lanes[0][lane] += left;
        lanes[1][lane] += right;
    }
    lanes.map(|lanes| lanes.iter().map(|lane| f64::from(*lane)).sum())
}

multiversion! {
    fn absolute_part(previous: &[f32], current: &[f32]) -> [f64; 2] {
        lane_sums(previous, current, |previous, current| [(previous - current).abs(), previous.abs()])
    }
}

multiversion! {
    fn square_part(reference: &[f32], value: &[f32]) -> [f64; 2] {
        lane_sums(reference, value, |reference, value| {
            let difference = value - reference;
            [difference * difference, reference * reference]
        })
    }
}

multiversion! {
    fn deviation_part(values: &[f32], origin: f32) -> [f64; 2] {
        lane_sums(values, values, |value, _| [value - origin, (value - origin) * (value - origin)])
    }
}

/// The plain twin of [`relative_l1`].
///
/// # Errors
/// As [`relative_l1`].
pub fn relative_l1_reference(previous: &Tensor, current: &Tensor) -> Result<f32> {
    let difference = (previous - current)?.abs()?.to_dtype(DType::F64)?.sum_all()?.to_scalar::<f64>()?;
    let size = previous.abs()?.to_dtype(DType::F64)?.sum_all()?.to_scalar::<f64>()?;
    Ok(ratio(difference, size))
}

/// The plain twin of [`relative_l2`].
///
/// # Errors
/// As [`relative_l2`].
pub fn relative_l2_reference(reference: &Tensor, value: &Tensor) -> Result<f32> {
    let difference = (value - reference)?.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>()?;
    let size = reference.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>()?;
    Ok(ratio(difference.sqrt(), size.sqrt()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{on_threads, random, values};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn measures_agree_with_their_twins(rows in 0usize..70, columns in 0usize..300, shift in -50f64..50.0) {
            let first = (random(&[rows, columns], 1) + shift).unwrap();
            let second = random(&[columns, rows], 2).t().unwrap();
            let close = |ours: f32, twin: f32| (ours - twin).abs() <= 1e-5 * twin.abs();
            prop_assert!(close(relative_l1(&first, &second).unwrap(), relative_l1_reference(&first, &second).unwrap()));
            prop_assert!(close(relative_l2(&first, &second).unwrap(), relative_l2_reference(&first, &second).unwrap()));
            let health = health(&first).unwrap();
            let all: Vec<f64> = values(&first).into_iter().map(f64::from).collect();
            let count = all.len().max(1) as f64;
            let mean = all.iter().sum::<f64>() / count;
            let std = (all.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count).sqrt();
            prop_assert!((f64::from(health.mean) - mean).abs() <= 1e-5 * (1.0 + mean.abs()));
            prop_assert!((f64::from(health.std) - std).abs() <= 1e-4 * (std + 1e-3));
            prop_assert!(health.finite);
        }
    }

    #[test]
    fn nothing_and_broken_values() {
        let zero = Tensor::zeros(7, DType::F32, &candle_core::Device::Cpu).unwrap();
        let one = zero.ones_like().unwrap();
        assert_eq!(relative_l1(&zero, &zero).unwrap(), 0.0);
        assert_eq!(relative_l1(&zero, &one).unwrap(), f32::INFINITY);
        assert_eq!(relative_l2(&one, &zero).unwrap(), 1.0);
        let broken = |value: f32, at: usize| {
            let mut values = vec![1.0; 100];
            values[at] = value;
            health(&Tensor::new(values, &candle_core::Device::Cpu).unwrap()).unwrap().finite
        };
        for at in [0, 50, 99] {
            assert!(!broken(f32::NAN, at) && !broken(f32::INFINITY, at) && !broken(f32::NEG_INFINITY, at));
            assert!(broken(3e38, at));
        }
        assert!(relative_l2(&one, &Tensor::new(&[1f32], one.device()).unwrap()).is_err());
    }

    #[test]
    fn threads_change_no_bit() {
        let (first, second) = (random(&[700_001], 1), random(&[700_001], 2));
        let run = |threads| on_threads(threads, || (relative_l1(&first, &second).unwrap(), health(&first).unwrap()));
        assert_eq!(run(1), run(3));
    }
}
