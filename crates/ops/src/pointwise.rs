//! Sums, gates and activations, each in one pass over memory.

use candle_core::{Result, Tensor};

use crate::differentiable::{Values, is_plain, tied, tied_by};
use crate::elementary::{activated, slope};
use crate::norm::{by_rows, of_batch};
use crate::parallel::{WORTH_VALUES, written_chunks};
use crate::profile::{self, Kind};
use crate::simd::{multiply_add, multiversion};
use crate::types::{Activation, OpsError};

/// Values in one unit of work.
const UNIT_VALUES: usize = 1 << 15;

/// `hidden` + `gate`·`value` for `hidden`, `value` `[b, n, c]` and `gate` `[b, c]` (or `[1, c]` for all rows).
///
/// # Errors
/// When shapes disagree.
pub fn gate_residual(hidden: &Tensor, gate: &Tensor, value: &Tensor) -> Result<Tensor> {
    let (batch, count, columns) = hidden.dims3()?;
    if value.dims() != hidden.dims() {
        return Err(shape_error("gated residual", "value", value, format!("{:?}", hidden.dims())));
    }
    if gate.dims() != [batch, columns] && gate.dims() != [1, columns] {
        return Err(shape_error("gated residual", "gate", gate, format!("[{batch} or 1, {columns}]")));
    }
    if ![hidden, gate, value].into_iter().all(is_plain) {
        return gate_residual_reference(hidden, gate, value);
    }
    let (plain_hidden, plain_gate, plain_value) = (hidden.contiguous()?, gate.contiguous()?, value.contiguous()?);
    let output = {
        let (hidden, gate, value) = (Values::of(&plain_hidden)?, Values::of(&plain_gate)?, Values::of(&plain_value)?);
        let _timed = profile::timed(Kind::Pointwise);
        by_rows(&hidden, columns, |row, hidden, output| {
            gate_row(hidden, of_batch(&gate, row / count, columns), &value[row * columns..][..output.len()], output);
        })
    };
    if gate.track_op() {
        return tied(output, hidden.shape(), &[hidden, gate, value], |inputs| {
            gate_residual_reference(&inputs[0], &inputs[1], &inputs[2])
        });
    }
    let gate = gate.clone();
    tied_by(output, hidden.shape(), &[hidden, value], move |_, gradient| {
        Ok(vec![Some(gradient.clone()), Some(gradient.broadcast_mul(&gate.unsqueeze(1)?)?)])
    })
}

multiversion! {
    fn gate_row(hidden: &[f32], gate: &[f32], value: &[f32], output: &mut [f32]) {
        for (((output, hidden), gate), value) in output.iter_mut().zip(hidden).zip(gate).zip(value) {
            *output = multiply_add::<FUSED>(*gate, *value, *hidden);
        }
    }
}

/// The plain twin of [`gate_residual`].
///
/// # Errors
/// As [`gate_residual`].
pub fn gate_residual_reference(hidden: &Tensor, gate: &Tensor, value: &Tensor) -> Result<Tensor> {
    hidden + value.broadcast_mul(&gate.unsqueeze(1)?)?
}

/// The sum of two tensors of one shape.
///
/// # Errors
/// When shapes differ.
pub fn add(left: &Tensor, right: &Tensor) -> Result<Tensor> {
    linear_combination(&[(1.0, left), (1.0, right)])
}

/// Σ factor·tensor in one pass over tensors of one shape: forecasts, blends, sampler updates.
///
/// # Errors
/// When there is no term or shapes differ.
pub fn linear_combination(terms: &[(f32, &Tensor)]) -> Result<Tensor> {
    let Some((_, first)) = terms.first() else {
        return Err(no_terms());
    };
    for (_, tensor) in terms {
        if tensor.dims() != first.dims() {
            return Err(shape_error("linear combination", "term", tensor, format!("{:?}", first.dims())));
        }
    }
    // Any number of inputs: more than a tied operation takes.
    if terms.iter().any(|(_, tensor)| !is_plain(tensor) || tensor.track_op()) {
        return linear_combination_reference(terms);
    }
    let plain: Vec<Tensor> = terms.iter().map(|(_, tensor)| tensor.contiguous()).collect::<Result<_>>()?;
    let values: Vec<Values> = plain.iter().map(Values::of).collect::<Result<_>>()?;
    let length = first.elem_count();
    // SAFETY: `combine` writes the whole chunk for the first term.
    #[allow(unsafe_code)]
    let output = unsafe {
        let _timed = profile::timed(Kind::Pointwise);
        written_chunks(length, UNIT_VALUES, length * terms.len() >= WORTH_VALUES, |chunk, output| {
            combine(terms, &values, chunk * UNIT_VALUES, output);
        })
    };
    Tensor::from_vec(output, first.shape(), first.device())
}

/// One chunk of the sum, two terms at a time while the chunk is in the cache.
fn combine(terms: &[(f32, &Tensor)], values: &[Values<'_>], start: usize, output: &mut [f32]) {
    let length = output.len();
    let mut pairs = terms.iter().zip(values).map(|((factor, _), values)| (*factor, &values[start..start + length]));
    match (pairs.next(), pairs.next()) {
        (Some(first), Some(second)) => two_terms(first, second, output),
        (Some(first), None) => one_term(first, output),
        _ => output.fill(0.0),
    }
    for (factor, values) in pairs {
        add_term(factor, values, output);
    }
}

multiversion! {
    fn one_term(first: (f32, &[f32]), output: &mut [f32]) {
        for (output, value) in output.iter_mut().zip(first.1) {
            *output = first.0 * value;
        }
    }
}

multiversion! {
    fn two_terms(first: (f32, &[f32]), second: (f32, &[f32]), output: &mut [f32]) {
        for ((output, left), right) in output.iter_mut().zip(first.1).zip(second.1) {
            *output = multiply_add::<FUSED>(second.0, *right, first.0 * left);
        }
    }
}

multiversion! {
    fn add_term(factor: f32, values: &[f32], output: &mut [f32]) {
        for (output, value) in output.iter_mut().zip(values) {
            *output = multiply_add::<FUSED>(factor, *value, *output);
        }
    }
}

/// The plain twin of [`linear_combination`].
///
/// # Errors
/// As [`linear_combination`].
pub fn linear_combination_reference(terms: &[(f32, &Tensor)]) -> Result<Tensor> {
    let Some(((factor, first), rest)) = terms.split_first() else {
        return Err(no_terms());
    };
    let mut total = (*first * f64::from(*factor))?;
    for (factor, tensor) in rest {
        total = (total + (*tensor * f64::from(*factor))?)?;
    }
    Ok(total)
}

/// An activation of each value.
///
/// # Errors
/// When the tensor is not of a float dtype.
pub fn activate(input: &Tensor, activation: Activation) -> Result<Tensor> {
    if !is_plain(input) || activation == Activation::None {
        return activation.reference(input);
    }
    let plain = input.contiguous()?;
    let output = {
        let values = Values::of(&plain)?;
        // An activation computes about as long as eight values take to move.
        let worth = values.len() * 8 >= WORTH_VALUES;
        // SAFETY: `activate_values` writes the whole chunk.
        #[allow(unsafe_code)]
        unsafe {
            let _timed = profile::timed(Kind::Pointwise);
            written_chunks(values.len(), UNIT_VALUES / 2, worth, |chunk, output| {
                activate_values(&values[chunk * (UNIT_VALUES / 2)..][..output.len()], activation, output);
            })
        }
    };
    if activation == Activation::Gelu {
        return tied(output, input.shape(), &[input], move |inputs| activation.reference(&inputs[0]));
    }
    tied_by(output, input.shape(), &[input], move |inputs, gradient| {
        Ok(vec![Some(activation_gradient(inputs[0], gradient, activation)?)])
    })
}

/// `gradient` times the activation's derivative at `input`.
fn activation_gradient(input: &Tensor, gradient: &Tensor, activation: Activation) -> Result<Tensor> {
    let (input, gradient) = (input.contiguous()?, gradient.contiguous()?);
    let (values, gradients) = (Values::of(&input)?, Values::of(&gradient)?);
    let mut output = gradients.to_vec();
    slope_values(&values, activation, &mut output);
    Tensor::from_vec(output, input.shape(), input.device())
}

multiversion! {
    fn slope_values(input: &[f32], activation: Activation, output: &mut [f32]) {
        let values = output.iter_mut().zip(input);
        match activation {
            Activation::Silu => {
                values.for_each(|(output, value)| *output *= slope::<FUSED>(*value, Activation::Silu));
            }
            Activation::GeluTanh => {
                values.for_each(|(output, value)| *output *= slope::<FUSED>(*value, Activation::GeluTanh));
            }
            Activation::None | Activation::Gelu => {}
        }
    }
}

multiversion! {
    fn activate_values(input: &[f32], activation: Activation, output: &mut [f32]) {
        let values = output.iter_mut().zip(input);
        // One loop for each, as a choice inside would keep it from vectorising.
        match activation {
            Activation::None => values.for_each(|(output, value)| *output = *value),
            Activation::Silu => {
                values.for_each(|(output, value)| *output = activated::<FUSED>(*value, Activation::Silu));
            }
            Activation::Gelu => {
                values.for_each(|(output, value)| *output = activated::<FUSED>(*value, Activation::Gelu));
            }
            Activation::GeluTanh => {
                values.for_each(|(output, value)| *output = activated::<FUSED>(*value, Activation::GeluTanh));
            }
        }
    }
}

/// SiLU of each value.
///
/// # Errors
/// As [`activate`].
pub fn silu(input: &Tensor) -> Result<Tensor> {
    activate(input, Activation::Silu)
}

/// GELU (error function) of each value.
///
/// # Errors
/// As [`activate`].
pub fn gelu(input: &Tensor) -> Result<Tensor> {
    activate(input, Activation::Gelu)
}

/// GELU (tanh approximation) of each value.
///
/// # Errors
/// As [`activate`].
pub fn gelu_tanh(input: &Tensor) -> Result<Tensor> {
    activate(input, Activation::GeluTanh)
}

fn no_terms() -> candle_core::Error {
    let (operation, argument) = ("linear combination", "terms");
    OpsError::Value { operation, argument, found: "empty".into(), expected: "at least one".into() }.into()
}

fn shape_error(
    operation: &'static str,
    argument: &'static str,
    tensor: &Tensor,
    expected: String,
) -> candle_core::Error {
    OpsError::Shape { operation, argument, found: tensor.dims().to_vec(), expected }.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{assert_close, assert_gradients, on_threads, random, values};

    const ALL: [Activation; 4] = [Activation::None, Activation::Silu, Activation::Gelu, Activation::GeluTanh];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn sums_agree_with_their_twins(
            (batch, count, columns) in (0usize..3, 0usize..40, 0usize..200),
            factors in prop::collection::vec(-2f32..2.0, 1..6), transposed: bool,
        ) {
            let tensor = |seed| match transposed {
                true => random(&[count, batch, columns], seed).transpose(0, 1).unwrap(),
                false => random(&[batch, count, columns], seed),
            };
            let tensors: Vec<Tensor> = (0..factors.len() as u32).map(tensor).collect();
            let terms: Vec<(f32, &Tensor)> = factors.iter().copied().zip(&tensors).collect();
            assert_close(&linear_combination(&terms).unwrap(), &linear_combination_reference(&terms).unwrap(), 1e-6);
            assert_close(&add(&tensor(1), &tensor(2)).unwrap(), &(tensor(1) + tensor(2)).unwrap(), 0.0);
            let gate = random(&[batch, columns], 9);
            let ours = gate_residual(&tensor(1), &gate, &tensor(2)).unwrap();
            if ours.elem_count() > 0 {
                assert_close(&ours, &gate_residual_reference(&tensor(1), &gate, &tensor(2)).unwrap(), 1e-6);
            }
        }

        #[test]
        fn activations_agree_with_their_twins(count in 0usize..3000, spread in 0.1f64..100.0) {
            let input = (random(&[count], 1) * spread).unwrap();
            for activation in ALL {
                // Where an activation all but vanishes the twin itself cancels: the input is the measure of an error.
                let ours = (activate(&input, activation).unwrap() + &input).unwrap();
                assert_close(&ours, &(activation.reference(&input).unwrap() + &input).unwrap(), 2e-6);
            }
        }
    }

    #[test]
    fn extreme_values_stay_what_they_are() {
        let input =
            Tensor::new(&[f32::MAX, 1e30, 200.0, 0.0, -0.0, -200.0, -1e30, f32::NAN], &candle_core::Device::Cpu);
        for activation in [Activation::Silu, Activation::Gelu, Activation::GeluTanh] {
            let output = values(&activate(input.as_ref().unwrap(), activation).unwrap());
            assert_eq!(output[..7], [f32::MAX, 1e30, 200.0, 0.0, 0.0, 0.0, 0.0], "{activation:?}");
            assert!(output[7].is_nan());
        }
    }

    #[test]
    fn gradients_arrive() {
        let inputs = [random(&[2, 5, 12], 1), random(&[2, 12], 2), random(&[2, 5, 12], 3)];
        assert_gradients(
            &inputs,
            |inputs| gate_residual(&inputs[0], &inputs[1], &inputs[2]).unwrap(),
            |inputs| gate_residual_reference(&inputs[0], &inputs[1], &inputs[2]).unwrap(),
        );
        for gate in [random(&[2, 12], 2), random(&[1, 12], 2)] {
            assert_gradients(
                &[inputs[0].clone(), inputs[2].clone()],
                |inputs| gate_residual(&inputs[0], &gate, &inputs[1]).unwrap(),
                |inputs| gate_residual_reference(&inputs[0], &gate, &inputs[1]).unwrap(),
            );
        }
        let terms = |inputs: &[Tensor]| linear_combination(&[(0.5, &inputs[0]), (-2.0, &inputs[2])]).unwrap();
        let twin = |inputs: &[Tensor]| ((&inputs[0] * 0.5).unwrap() - (&inputs[2] * 2.0).unwrap()).unwrap();
        let pair = [inputs[0].clone(), inputs[0].clone(), inputs[2].clone()];
        let with_all = |run: &dyn Fn(&[Tensor]) -> Tensor, inputs: &[Tensor]| (run(inputs) + &inputs[1]).unwrap();
        assert_gradients(&pair, |inputs| with_all(&terms, inputs), |inputs| with_all(&twin, inputs));
        for activation in ALL {
            assert_gradients(
                &[(&inputs[0] * 3.0).unwrap()],
                |inputs| activate(&inputs[0], activation).unwrap(),
                |inputs| activation.reference(&inputs[0]).unwrap(),
            );
        }
    }

    #[test]
    fn threads_change_no_bit() {
        let input = random(&[3, 300, 300], 1);
        let run = |threads| on_threads(threads, || values(&gelu_tanh(&add(&input, &input).unwrap()).unwrap()));
        assert_eq!(run(1), run(3));
    }

    #[test]
    fn wrong_shapes_are_named() {
        let (tensor, other) = (random(&[1, 2, 3], 1), random(&[1, 2, 4], 1));
        assert!(add(&tensor, &other).unwrap_err().to_string().contains("[1, 2, 4]"));
        assert!(linear_combination(&[]).unwrap_err().to_string().contains("at least one"));
        assert!(gate_residual(&tensor, &random(&[2, 3], 1), &tensor).unwrap_err().to_string().contains("gate"));
    }
}
