//! Linear layers against the plain product.

use candle_core::{Device, Var};
use proptest::prelude::*;
use rayon::ThreadPoolBuilder;

use super::*;
use crate::matmul::tests::noise;

const PRECISIONS: [Precision; 3] = [Precision::F32, Precision::Bf16, Precision::Int8];

fn tensor(seed: u64, shape: &[usize]) -> Tensor {
    Tensor::from_vec(noise(seed, shape.iter().product()), shape, &Device::Cpu).unwrap()
}

/// The plain reference: candle's own product.
fn reference(input: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    let product = input.broadcast_matmul(&weight.t().unwrap().contiguous().unwrap()).unwrap();
    bias.map_or(product.clone(), |bias| product.broadcast_add(bias).unwrap())
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().map(|value| value.to_bits()).collect()
}

/// Largest difference over the root mean square of the reference.
fn distance(found: &Tensor, expected: &Tensor) -> f32 {
    assert_eq!(found.dims(), expected.dims());
    if found.elem_count() == 0 {
        return 0.0;
    }
    let largest = (found - expected).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap();
    let scale = expected.sqr().unwrap().mean_all().unwrap().sqrt().unwrap();
    largest.to_scalar::<f32>().unwrap() / scale.to_scalar::<f32>().unwrap().max(0.1)
}

/// What rounding may cost at worst, relative to the root mean square.
fn tolerance(precision: Precision) -> f32 {
    match precision {
        Precision::F32 => 1e-5,
        Precision::Bf16 => 4e-2,
        Precision::Int8 => 8e-2,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn products_agree_with_the_reference(
        batch in 1..4usize, rows in 0..30usize, inputs in 1..150usize, outputs in 1..200usize,
        biased: bool, seed: u64, index in 0..3usize,
    ) {
        let precision = PRECISIONS[index];
        let weight = tensor(seed, &[outputs, inputs]);
        let bias = tensor(seed ^ 1, &[outputs]);
        let bias = biased.then_some(&bias);
        let layer = Linear::new(&weight, bias, precision).unwrap();
        // Not contiguous: the batch was the second dimension.
        let input = tensor(seed ^ 2, &[rows, batch, inputs]).transpose(0, 1).unwrap();
        let expected = reference(&input.contiguous().unwrap(), &weight, bias);
        prop_assert!(distance(&layer.forward(&input).unwrap(), &expected) <= tolerance(precision));
        for activation in [Activation::GeluTanh, Activation::Gelu, Activation::Silu] {
            let expected = activation.reference(&expected).unwrap();
            let found = layer.forward_activated(&input, activation).unwrap();
            prop_assert!(distance(&found, &expected) <= 2.0 * tolerance(precision), "{activation:?}");
        }
    }

    #[test]
    fn residuals_and_gates_agree_with_the_reference(
        batch in 1..4usize, rows in 1..20usize, inputs in 1..80usize, outputs in 1..150usize, seed: u64,
    ) {
        let weight = tensor(seed, &[outputs, inputs]);
        let layer = Linear::new(&weight, None, Precision::F32).unwrap();
        let (input, gate) = (tensor(seed ^ 2, &[batch, rows, inputs]), tensor(seed ^ 3, &[batch, 1, outputs]));
        let residual = tensor(seed ^ 4, &[batch, rows, outputs]);
        let product = reference(&input, &weight, None);
        let expected = (&residual + &product).unwrap();
        let found = layer.forward_residual(&input, None, &residual).unwrap();
        prop_assert!(distance(&found, &expected) <= 1e-5);
        let expected = (&residual + product.broadcast_mul(&gate).unwrap()).unwrap();
        for gate in [&gate, &gate.squeeze(1).unwrap()] {
            let found = layer.forward_residual(&input, Some(gate), &residual).unwrap();
            prop_assert!(distance(&found, &expected) <= 1e-5);
        }
    }

    #[test]
    fn gated_layers_agree_with_the_reference(rows in 0..20usize, inputs in 1..80usize, half in 1..5usize, seed: u64) {
        // Whole panels take the fused way, others the composed one.
        for half in [half * 64, half * 64 - 7] {
            let (weight, bias) = (tensor(seed, &[2 * half, inputs]), tensor(seed ^ 1, &[2 * half]));
            let input = tensor(seed ^ 2, &[rows, inputs]);
            let product = reference(&input, &weight, Some(&bias));
            let gate = product.narrow(1, half, half).unwrap().gelu_erf().unwrap();
            let expected = (product.narrow(1, 0, half).unwrap() * gate).unwrap();
            let found = Linear::new(&weight, Some(&bias), Precision::F32).unwrap().forward_geglu(&input).unwrap();
            prop_assert!(distance(&found, &expected) <= 2e-5);
        }
    }
}

#[test]
fn rows_depend_neither_on_other_rows_nor_on_threads() {
    let (rows, inputs, outputs) = (301, 1601, 384);
    let (weight, bias) = (tensor(1, &[outputs, inputs]), tensor(2, &[outputs]));
    let (input, residual) = (tensor(3, &[rows, inputs]), tensor(4, &[rows, outputs]));
    for precision in PRECISIONS {
        let layer = Linear::new(&weight, Some(&bias), precision).unwrap();
        let run = |start: usize, length: usize, threads: usize| {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let (input, residual) =
                (input.narrow(0, start, length).unwrap(), residual.narrow(0, start, length).unwrap());
            pool.install(|| {
                let gated = layer.forward_residual(&input, Some(&bias), &residual).unwrap();
                let activated = layer.forward_activated(&input, Activation::Gelu).unwrap();
                let geglu = layer.forward_geglu(&input).unwrap();
                [bits(&gated), bits(&activated), bits(&geglu)]
            })
        };
        let whole = run(0, rows, 1);
        for (start, length, threads) in [(0, rows, 2), (0, rows, 3), (5, 1, 2), (7, 13, 3), (100, 201, 2)] {
            for (whole, part) in whole.iter().zip(run(start, length, threads)) {
                let width = whole.len() / rows;
                assert!(whole[start * width..(start + length) * width] == part, "{precision} {start} {threads}");
            }
        }
    }
}

#[test]
fn fused_layers_equal_their_parts() {
    for precision in PRECISIONS {
        let parts: Vec<_> = [(70, 1), (33, 2), (128, 3)].map(|(outputs, seed)| tensor(seed, &[outputs, 50])).into();
        let bias = tensor(9, &[33]);
        let input = tensor(5, &[11, 50]);
        let biased = |index: usize| (index == 1).then_some(&bias);
        let pairs: Vec<_> = parts.iter().enumerate().map(|(index, weight)| (weight, biased(index))).collect();
        let fused = Linear::fused(&pairs, precision).unwrap().forward(&input).unwrap();
        let separate: Vec<_> = pairs
            .iter()
            .map(|(weight, bias)| Linear::new(weight, *bias, precision).unwrap().forward(&input).unwrap())
            .collect();
        assert_eq!(bits(&fused), bits(&Tensor::cat(&separate, 1).unwrap()));
    }
}

#[test]
fn the_harm_of_lower_precision_is_bounded() {
    let (weight, input) = (tensor(1, &[512, 1152]), tensor(2, &[64, 1152]));
    let exact = reference(&input, &weight, None);
    for (precision, most) in [(Precision::F32, 1e-6), (Precision::Bf16, 5e-3), (Precision::Int8, 1e-2)] {
        let found = Linear::new(&weight, None, precision).unwrap().forward(&input).unwrap();
        let error = (found - &exact).unwrap().sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
        let relative = (error / exact.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap()).sqrt();
        assert!(relative <= most, "{precision}: {relative}");
    }
}

#[test]
fn gradients_equal_those_of_the_reference() {
    let (weight, bias) = (tensor(1, &[70, 33]), tensor(2, &[70]));
    let (residual, gate) = (tensor(3, &[2, 5, 70]), tensor(4, &[2, 70]));
    let input = Var::from_tensor(&tensor(5, &[2, 5, 33])).unwrap();
    let gradient = |output: Tensor| {
        let loss = output.sqr().unwrap().sum_all().unwrap();
        loss.backward().unwrap().get(&input).unwrap().clone()
    };
    let product = || reference(input.as_tensor(), &weight, Some(&bias));
    let gated = || (&residual + product().broadcast_mul(&gate.unsqueeze(1).unwrap()).unwrap()).unwrap();
    let value = || product().narrow(2, 0, 35).unwrap();
    let geglu = || (value() * product().narrow(2, 35, 35).unwrap().gelu_erf().unwrap()).unwrap();
    for precision in PRECISIONS {
        let layer = Linear::new(&weight, Some(&bias), precision).unwrap();
        let pairs = [
            (layer.forward(&input).unwrap(), product()),
            (layer.forward_activated(&input, Activation::GeluTanh).unwrap(), product().gelu().unwrap()),
            (layer.forward_residual(&input, Some(&gate), &residual).unwrap(), gated()),
            (layer.forward_geglu(&input).unwrap(), geglu()),
        ];
        for (found, expected) in pairs {
            let error = distance(&gradient(found), &gradient(expected));
            assert!(error <= 3.0 * tolerance(precision), "{precision}: {error}");
        }
    }
}

#[test]
fn gradients_reach_residual_and_gate() {
    let layer = Linear::new(&tensor(1, &[6, 4]), None, Precision::F32).unwrap();
    let (gate, residual) =
        (Var::from_tensor(&tensor(2, &[1, 6])).unwrap(), Var::from_tensor(&tensor(3, &[3, 6])).unwrap());
    let output = layer.forward_residual(&tensor(4, &[3, 4]), Some(&gate), &residual).unwrap();
    let gradients = output.sum_all().unwrap().backward().unwrap();
    assert!(gradients.get(&gate).is_some() && gradients.get(&residual).is_some());
}

#[test]
fn a_value_that_is_no_number_shows() {
    for precision in PRECISIONS {
        let layer = Linear::new(&tensor(1, &[3, 40]), None, precision).unwrap();
        let mut values = noise(2, 80);
        values[45] = f32::NAN;
        let input = Tensor::from_vec(values, (2, 40), &Device::Cpu).unwrap();
        let output = layer.forward(&input).unwrap().to_vec2::<f32>().unwrap();
        assert!(output[0].iter().all(|value| value.is_finite()), "{precision}");
        assert!(output[1].iter().all(|value| !value.is_finite()), "{precision}");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let layer = Linear::new(&tensor(1, &[6, 4]), None, Precision::Bf16).unwrap();
    let input = tensor(2, &[3, 4]);
    assert!(layer.forward(&tensor(2, &[3, 5])).unwrap_err().to_string().contains("[.., 4]"));
    assert!(layer.forward_residual(&input, None, &tensor(3, &[3, 4])).is_err());
    assert!(layer.forward_residual(&input, Some(&tensor(3, &[2, 6])), &tensor(3, &[3, 6])).is_err());
    assert!(Linear::new(&tensor(1, &[7, 4]), None, Precision::F32).unwrap().forward_geglu(&input).is_err());
    assert!(Linear::new(&tensor(1, &[6, 4]), Some(&tensor(1, &[5])), Precision::F32).is_err());
    assert!(Linear::fused(&[], Precision::F32).is_err());
    assert!(Linear::new(&tensor(1, &[0, 4]), None, Precision::F32).is_err());
    assert_eq!((layer.in_features(), layer.out_features(), layer.flops(3)), (4, 6, 144));
}
