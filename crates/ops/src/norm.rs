//! Layer norm and RMS norm over the last dimension, in one pass over memory per row.

use candle_core::{D, Result, Tensor};

use crate::differentiable::{Values, is_plain, tied, tied_by};
use crate::parallel::{WORTH_VALUES, written_chunks};
use crate::profile::{self, Kind};
use crate::simd::{multiply_add, multiversion};
use crate::types::OpsError;

/// Lanes of a sum: fixed, so that every machine adds in one order.
const LANES: usize = 16;
/// Values in one unit of work.
const UNIT_VALUES: usize = 1 << 15;

/// Layer norm (arXiv 1607.06450) over the last dimension of `[.., c]`, with optional `weight` and `bias` `[c]` (frozen).
///
/// # Errors
/// When the weight or bias has another length than the last dimension.
pub fn layer_norm(input: &Tensor, weight: Option<&Tensor>, bias: Option<&Tensor>, epsilon: f64) -> Result<Tensor> {
    let columns = columns(input)?;
    for (argument, tensor) in [("weight", weight), ("bias", bias)] {
        if let Some(tensor) = tensor.filter(|tensor| tensor.dims() != [columns]) {
            return Err(shape_error("layer norm", argument, tensor, format!("[{columns}]")));
        }
    }
    let frozen = [weight, bias].into_iter().flatten().all(|tensor| is_plain(tensor) && !tensor.track_op());
    if !is_plain(input) || !frozen {
        return layer_norm_reference(input, weight, bias, epsilon);
    }
    let contiguous = |tensor: Option<&Tensor>| tensor.map(Tensor::contiguous).transpose();
    let (plain, plain_weight, plain_bias) = (input.contiguous()?, contiguous(weight)?, contiguous(bias)?);
    let weight_values = plain_weight.as_ref().map(Values::of).transpose()?;
    let bias_values = plain_bias.as_ref().map(Values::of).transpose()?;
    let (weight, bias) = (weight_values.as_deref(), bias_values.as_deref());
    let values = Values::of(&plain)?;
    let timed = profile::timed(Kind::Norm);
    let output = by_rows(&values, columns, |_, input, output| match (weight, bias) {
        (None, None) => layer_norm_row(input, output, Affine::None, epsilon as f32),
        (weight, None) => layer_norm_row(input, output, Affine::Scale(weight.unwrap_or(&[])), epsilon as f32),
        (None, Some(bias)) => layer_norm_row(input, output, Affine::Shift(bias), epsilon as f32),
        (Some(weight), Some(bias)) => layer_norm_row(input, output, Affine::Both(weight, bias, 0.0), epsilon as f32),
    });
    drop((weight_values, bias_values, timed));
    tied(output, input.shape(), &[input], move |inputs| {
        layer_norm_reference(&inputs[0], plain_weight.as_ref(), plain_bias.as_ref(), epsilon)
    })
}

/// Adaptive layer norm (arXiv 2212.09748): norm(`input`)·(1 + `scale`) + `shift`, for `input` `[b, n, c]` and `shift`,
/// `scale` `[b, c]` (or `[1, c]` for all rows).
///
/// # Errors
/// When shapes disagree.
pub fn layer_norm_modulate(input: &Tensor, shift: &Tensor, scale: &Tensor, epsilon: f64) -> Result<Tensor> {
    let (batch, count, columns) = input.dims3()?;
    for (argument, tensor) in [("shift", shift), ("scale", scale)] {
        if tensor.dims() != [batch, columns] && tensor.dims() != [1, columns] {
            return Err(shape_error("layer norm", argument, tensor, format!("[{batch} or 1, {columns}]")));
        }
    }
    if ![input, shift, scale].into_iter().all(is_plain) {
        return layer_norm_modulate_reference(input, shift, scale, epsilon);
    }
    let (plain, plain_shift, plain_scale) = (input.contiguous()?, shift.contiguous()?, scale.contiguous()?);
    let output = {
        let (values, shift, scale) = (Values::of(&plain)?, Values::of(&plain_shift)?, Values::of(&plain_scale)?);
        let _timed = profile::timed(Kind::Norm);
        by_rows(&values, columns, |row, input, output| {
            let (shift, scale) = (of_batch(&shift, row / count, columns), of_batch(&scale, row / count, columns));
            layer_norm_row(input, output, Affine::Both(scale, shift, 1.0), epsilon as f32);
        })
    };
    if shift.track_op() || scale.track_op() {
        return tied(output, input.shape(), &[input, shift, scale], move |inputs| {
            layer_norm_modulate_reference(&inputs[0], &inputs[1], &inputs[2], epsilon)
        });
    }
    tied_by(output, input.shape(), &[input], move |inputs, gradient| {
        Ok(vec![Some(modulated_gradient(inputs[0], &plain_scale, gradient, epsilon as f32)?)])
    })
}

/// The gradient of a modulated norm's input. With x̂ the normed row and d = gradient·(1 + scale), it is
/// (d − mean(d) − x̂·mean(d·x̂)) / σ.
fn modulated_gradient(input: &Tensor, scale: &Tensor, gradient: &Tensor, epsilon: f32) -> Result<Tensor> {
    let (_, count, columns) = input.dims3()?;
    let (input, gradient) = (input.contiguous()?, gradient.contiguous()?);
    let (values, scale, gradients) = (Values::of(&input)?, Values::of(scale)?, Values::of(&gradient)?);
    let output = by_rows(&values, columns, |row, values, output| {
        let gradient = &gradients[row * columns..][..columns];
        modulated_gradient_row(values, of_batch(&scale, row / count, columns), (gradient, epsilon), output);
    });
    Tensor::from_vec(output, input.shape(), input.device())
}

multiversion! {
    fn modulated_gradient_row(input: &[f32], scale: &[f32], rest: (&[f32], f32), output: &mut [f32]) {
        let (gradient, epsilon) = rest;
        let count = input.len() as f32;
        let mean = input.iter().sum::<f32>() / count;
        let variance = input.iter().map(|value| (value - mean) * (value - mean)).sum::<f32>() / count;
        let inverse = 1.0 / (variance + epsilon).sqrt();
        let (mut plain, mut along) = (0.0, 0.0);
        for (((output, value), scale), gradient) in output.iter_mut().zip(input).zip(scale).zip(gradient) {
            let steep = multiply_add::<FUSED>(*gradient, *scale, *gradient);
            plain += steep;
            along = multiply_add::<FUSED>(steep, (value - mean) * inverse, along);
            *output = steep;
        }
        let (plain, along) = (plain / count, along / count);
        for (output, value) in output.iter_mut().zip(input) {
            *output = inverse * (*output - plain - (value - mean) * inverse * along);
        }
    }
}

/// RMS norm (arXiv 1910.07467) over the last dimension of `[.., c]`, with `weight` `[c]` (frozen).
///
/// # Errors
/// When the weight has another length than the last dimension.
pub fn rms_norm(input: &Tensor, weight: &Tensor, epsilon: f64) -> Result<Tensor> {
    let columns = columns(input)?;
    if weight.dims() != [columns] {
        return Err(shape_error("rms norm", "weight", weight, format!("[{columns}]")));
    }
    if !is_plain(input) || !is_plain(weight) || weight.track_op() {
        return rms_norm_reference(input, weight, epsilon);
    }
    let (plain, weight) = (input.contiguous()?, weight.contiguous()?);
    let output = {
        let (values, weight) = (Values::of(&plain)?, Values::of(&weight)?);
        let _timed = profile::timed(Kind::Norm);
        by_rows(&values, columns, |_, input, output| rms_norm_row(input, output, &weight, epsilon as f32))
    };
    tied(output, input.shape(), &[input], move |inputs| rms_norm_reference(&inputs[0], &weight, epsilon))
}

/// The row of `[b, c]` for a batch index, or the only one.
pub(crate) fn of_batch(values: &[f32], batch: usize, columns: usize) -> &[f32] {
    if values.len() == columns { values } else { &values[batch * columns..][..columns] }
}

/// Calls `work` with each row's index, values and place in the result.
pub(crate) fn by_rows(
    input: &[f32],
    columns: usize,
    work: impl Fn(usize, &[f32], &mut [f32]) + Sync + Send,
) -> Vec<f32> {
    let rows = (UNIT_VALUES / columns.max(1)).max(1);
    // SAFETY: every row of every chunk is handed to `work`, and all of our row functions write each value.
    #[allow(unsafe_code)]
    unsafe {
        written_chunks(input.len(), rows * columns, input.len() >= WORTH_VALUES, |chunk, output| {
            for (row, output) in output.chunks_mut(columns.max(1)).enumerate() {
                let row = chunk * rows + row;
                work(row, &input[row * columns..][..output.len()], output);
            }
        })
    }
}

fn columns(input: &Tensor) -> Result<usize> {
    input.dims().last().copied().ok_or_else(|| shape_error("norm", "input", input, "[.., c]".into()))
}

fn shape_error(
    operation: &'static str,
    argument: &'static str,
    tensor: &Tensor,
    expected: String,
) -> candle_core::Error {
    OpsError::Shape { operation, argument, found: tensor.dims().to_vec(), expected }.into()
}

/// What follows the norm of a row.
#[derive(Clone, Copy)]
enum Affine<'a> {
    None,
    Scale(&'a [f32]),
    Shift(&'a [f32]),
    /// value·(first + third) + second.
    Both(&'a [f32], &'a [f32], f32),
}

/// The sum of `map` over a row, in 16 lanes.
#[inline(always)]
fn lane_sum(row: &[f32], map: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (whole, rest) = row.as_chunks::<LANES>();
    for chunk in whole {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += map(*value);
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane += map(*value);
    }
    lanes.iter().sum()
}

multiversion! {
    fn layer_norm_row(input: &[f32], output: &mut [f32], affine: Affine<'_>, epsilon: f32) {
        let count = input.len() as f32;
        let mean = lane_sum(input, |value| value) / count;
        // Around the mean: the shortcut by squares loses everything when the mean is large.
        let variance = lane_sum(input, |value| (value - mean) * (value - mean)) / count;
        let factor = 1.0 / (variance + epsilon).sqrt();
        let rows = output.iter_mut().zip(input);
        match affine {
            Affine::None => rows.for_each(|(output, value)| *output = (value - mean) * factor),
            Affine::Scale(scale) => {
                rows.zip(scale).for_each(|((output, value), scale)| *output = (value - mean) * factor * scale);
            }
            Affine::Shift(shift) => rows
                .zip(shift)
                .for_each(|((output, value), shift)| *output = multiply_add::<FUSED>(value - mean, factor, *shift)),
            Affine::Both(scale, shift, one) => rows.zip(scale).zip(shift).for_each(|(((output, value), scale), shift)| {
                *output = multiply_add::<FUSED>((value - mean) * factor, scale + one, *shift);
            }),
        }
    }
}

multiversion! {
    fn rms_norm_row(input: &[f32], output: &mut [f32], weight: &[f32], epsilon: f32) {
        let square = lane_sum(input, |value| value * value) / input.len() as f32;
        let factor = 1.0 / (square + epsilon).sqrt();
        for ((output, value), weight) in output.iter_mut().zip(input).zip(weight) {
            *output = value * factor * weight;
        }
    }
}

/// The plain twin of [`layer_norm`]: candle's own layer norm silently severs the gradient, these operations keep it.
///
/// # Errors
/// As [`layer_norm`].
pub fn layer_norm_reference(
    input: &Tensor,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    epsilon: f64,
) -> Result<Tensor> {
    let centred = input.broadcast_sub(&input.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let mut output = centred.broadcast_div(&(variance + epsilon)?.sqrt()?)?;
    if let Some(weight) = weight {
        output = output.broadcast_mul(weight)?;
    }
    if let Some(bias) = bias {
        output = output.broadcast_add(bias)?;
    }
    Ok(output)
}

/// The plain twin of [`layer_norm_modulate`].
///
/// # Errors
/// As [`layer_norm_modulate`].
pub fn layer_norm_modulate_reference(input: &Tensor, shift: &Tensor, scale: &Tensor, epsilon: f64) -> Result<Tensor> {
    let normed = layer_norm_reference(input, None, None, epsilon)?;
    normed.broadcast_mul(&(scale.unsqueeze(1)? + 1.0)?)?.broadcast_add(&shift.unsqueeze(1)?)
}

/// The plain twin of [`rms_norm`].
///
/// # Errors
/// As [`rms_norm`].
pub fn rms_norm_reference(input: &Tensor, weight: &Tensor, epsilon: f64) -> Result<Tensor> {
    let square = input.sqr()?.mean_keepdim(D::Minus1)?;
    input.broadcast_div(&(square + epsilon)?.sqrt()?)?.broadcast_mul(weight)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{assert_close, assert_gradients, on_threads, random, values};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn rows_agree_with_their_twins(
            (batch, count, columns) in (0usize..3, 0usize..40, 1usize..200),
            (weighted, biased, transposed, one) in any::<(bool, bool, bool, bool)>(),
        ) {
            let input = match transposed {
                true => random(&[count, batch, columns], 1).transpose(0, 1).unwrap(),
                false => random(&[batch, count, columns], 1),
            };
            let input = input.affine(3.0, 5.0).unwrap();
            let (weight, bias) = (random(&[columns], 2), random(&[columns], 3));
            let rows = if one { 1 } else { batch };
            let (shift, scale) = (random(&[rows, columns], 4), random(&[rows, columns], 5));
            let (weighted, biased) = (weighted.then_some(&weight), biased.then_some(&bias));
            let ours = [
                layer_norm(&input, weighted, biased, 1e-6).unwrap(),
                layer_norm_modulate(&input, &shift, &scale, 1e-6).unwrap(),
                rms_norm(&input, &weight, 1e-6).unwrap(),
            ];
            if input.elem_count() == 0 {
                prop_assert!(ours.iter().all(|output| output.dims() == input.dims()));
            } else {
                assert_close(&ours[0], &layer_norm_reference(&input, weighted, biased, 1e-6).unwrap(), 1e-5);
                assert_close(&ours[1], &layer_norm_modulate_reference(&input, &shift, &scale, 1e-6).unwrap(), 1e-5);
                assert_close(&ours[2], &rms_norm_reference(&input, &weight, 1e-6).unwrap(), 1e-5);
            }
        }
    }

    #[test]
    fn gradients_arrive() {
        let (weight, bias) = (random(&[12], 2), random(&[12], 3));
        let input = [random(&[2, 5, 12], 1), random(&[2, 12], 4), random(&[1, 12], 5)];
        assert_gradients(
            &input[..1],
            |inputs| layer_norm(&inputs[0], Some(&weight), Some(&bias), 1e-6).unwrap(),
            |inputs| layer_norm_reference(&inputs[0], Some(&weight), Some(&bias), 1e-6).unwrap(),
        );
        assert_gradients(
            &input[..1],
            |inputs| rms_norm(&inputs[0], &weight, 1e-6).unwrap(),
            |inputs| rms_norm_reference(&inputs[0], &weight, 1e-6).unwrap(),
        );
        assert_gradients(
            &input,
            |inputs| layer_norm_modulate(&inputs[0], &inputs[1], &inputs[2], 1e-6).unwrap(),
            |inputs| layer_norm_modulate_reference(&inputs[0], &inputs[1], &inputs[2], 1e-6).unwrap(),
        );
        for scale in [random(&[2, 12], 5), random(&[1, 12], 5)] {
            assert_gradients(
                &input[..1],
                |inputs| layer_norm_modulate(&inputs[0], &input[1], &scale, 1e-6).unwrap(),
                |inputs| layer_norm_modulate_reference(&inputs[0], &input[1], &scale, 1e-6).unwrap(),
            );
        }
    }

    #[test]
    fn threads_and_batch_change_no_bit() {
        let (input, shift, scale) = (random(&[3, 300, 300], 1), random(&[3, 300], 2), random(&[3, 300], 3));
        let run = |threads| on_threads(threads, || values(&layer_norm_modulate(&input, &shift, &scale, 1e-6).unwrap()));
        let one = run(1);
        assert_eq!(one, run(3));
        let row = |tensor: &Tensor| tensor.narrow(0, 1, 1).unwrap();
        let alone = values(&layer_norm_modulate(&row(&input), &row(&shift), &row(&scale), 1e-6).unwrap());
        assert_eq!(one[alone.len()..2 * alone.len()], alone);
    }
}
