//! Two shared features blended into the rows of a batch, in one pass over memory.

use candle_core::{DType, Result, Tensor};
use rayon::prelude::*;

use crate::differentiable::Values;
use crate::simd::{multiply_add, multiversion};
use crate::types::OpsError;

/// `row = keep * row + a * first + b * second` for every row of `value` `[rows, ...]`, with `first` and `second`
/// `[1, ...]` and one triple `[keep, a, b]` a row. With `renormalise` each row is then scaled to the norm it had.
/// Inference only: the result carries no gradient.
///
/// # Errors
/// When the shapes or the number of triples disagree.
pub fn blend_rows(
    value: &Tensor,
    first: &Tensor,
    second: &Tensor,
    coefficients: &[[f32; 3]],
    renormalise: bool,
) -> Result<Tensor> {
    let length = check(value, first, second, coefficients)?;
    let plain: Vec<Tensor> = [value, first, second]
        .into_iter()
        .map(|tensor| tensor.detach().to_dtype(DType::F32)?.contiguous())
        .collect::<Result<_>>()?;
    let values: Vec<Values<'_>> = plain.iter().map(Values::of).collect::<Result<_>>()?;
    let mut output = vec![0.0; value.elem_count()];
    output.par_chunks_mut(length.max(1)).zip(coefficients).enumerate().for_each(|(row, (output, coefficients))| {
        let own = &values[0][row * length..][..length];
        blend_row(own, &values[1], &values[2], *coefficients, output);
        if renormalise {
            let (before, after) = (norm(own), norm(output));
            if after > 0.0 {
                let factor = (before / after) as f32;
                output.iter_mut().for_each(|value| *value *= factor);
            }
        }
    });
    Tensor::from_vec(output, value.shape(), value.device())
}

/// The plain twin of [`blend_rows`].
///
/// # Errors
/// As [`blend_rows`].
pub fn blend_rows_reference(
    value: &Tensor,
    first: &Tensor,
    second: &Tensor,
    coefficients: &[[f32; 3]],
    renormalise: bool,
) -> Result<Tensor> {
    check(value, first, second, coefficients)?;
    let mut rows = Vec::with_capacity(coefficients.len());
    for (index, &[keep, a, b]) in coefficients.iter().enumerate() {
        let own = value.narrow(0, index, 1)?;
        let mut row = (((&own * f64::from(keep))? + (first * f64::from(a))?)? + (second * f64::from(b))?)?;
        if renormalise {
            let size = |tensor: &Tensor| tensor.sqr()?.sum_all()?.sqrt()?.to_scalar::<f32>();
            row = (row.clone() * f64::from(size(&own)? / size(&row)?))?;
        }
        rows.push(row);
    }
    Tensor::cat(&rows, 0)
}

/// Values of one row, once everything fits.
fn check(value: &Tensor, first: &Tensor, second: &Tensor, coefficients: &[[f32; 3]]) -> Result<usize> {
    let rows = value.dim(0)?;
    let mut shape = value.dims().to_vec();
    shape[0] = 1;
    for (what, found) in [("first", first), ("second", second)] {
        if found.dims() != shape {
            return Err(error(what, found, format!("{shape:?}")));
        }
    }
    if coefficients.len() != rows {
        return Err(error("value", value, format!("{} rows, as there are blends", coefficients.len())));
    }
    Ok(value.elem_count() / rows.max(1))
}

fn error(argument: &'static str, tensor: &Tensor, expected: String) -> candle_core::Error {
    OpsError::Shape { operation: "blend of rows", argument, found: tensor.dims().to_vec(), expected }.into()
}

/// Norm of a row; its squares overflow no f64.
fn norm(values: &[f32]) -> f64 {
    values.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt()
}

multiversion! {
    fn blend_row(own: &[f32], first: &[f32], second: &[f32], coefficients: [f32; 3], output: &mut [f32]) {
        for (((output, own), first), second) in output.iter_mut().zip(own).zip(first).zip(second) {
            let blended = multiply_add::<FUSED>(coefficients[1], *first, coefficients[0] * own);
            *output = multiply_add::<FUSED>(coefficients[2], *second, blended);
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn rows_are_blended_as_the_plain_twin_does() -> Result<()> {
        let tensor = |shape: &[usize]| Tensor::randn(0f32, 1.0, shape, &Device::Cpu);
        let (value, first, second) = (tensor(&[3, 5, 37])?, tensor(&[1, 5, 37])?, tensor(&[1, 5, 37])?);
        let coefficients = [[1.0, 0.4, 0.0], [0.6, 0.1, 0.3], [0.0, 0.5, 0.5]];
        for renormalise in [false, true] {
            let value = if renormalise { value.narrow(0, 0, 2)? } else { value.clone() };
            let coefficients = &coefficients[..value.dim(0)?];
            let fast = blend_rows(&value, &first, &second, coefficients, renormalise)?;
            let plain = blend_rows_reference(&value, &first, &second, coefficients, renormalise)?;
            assert!(crate::relative_l2(&plain, &fast)? < 1e-6);
        }
        assert!(blend_rows(&value, &value, &second, &coefficients, false).is_err());
        assert!(blend_rows(&value, &first, &second, &coefficients[..2], false).is_err());
        Ok(())
    }
}
