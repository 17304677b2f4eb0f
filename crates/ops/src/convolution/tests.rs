use proptest::prelude::*;

use super::winograd::Form;
use super::*;
use crate::simd::{Level, pretend};
use crate::testing::{assert_close, assert_gradients, on_threads, random, values};

fn convolution(out: usize, input: usize, kernel: usize, stride: usize, padding: usize, precision: Precision) -> Conv2d {
    let weight = random(&[out, input, kernel, kernel], 1);
    Conv2d::new(&weight, Some(&random(&[out], 2)), stride, padding, precision).unwrap()
}

fn tolerance(precision: Precision) -> f32 {
    if precision == Precision::F32 { 2e-6 } else { 4e-3 }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn agrees_with_its_twin(
        (batch, input, out) in (0usize..3, 1usize..40, 1usize..70),
        (height, width) in (1usize..20, 1usize..40),
        (kernel, stride, padding) in (1usize..4, 1usize..3, 0usize..2),
        (bf16, transposed, shifted, residual) in any::<(bool, bool, bool, bool)>(),
        activation in prop::sample::select(vec![Activation::None, Activation::Silu, Activation::Gelu, Activation::GeluTanh]),
    ) {
        prop_assume!(height + 2 * padding >= kernel && width + 2 * padding >= kernel);
        let precision = if bf16 { Precision::Bf16 } else { Precision::F32 };
        let layer = convolution(out, input, kernel, stride, padding, precision);
        let picture = match transposed {
            true => random(&[batch, input, width, height], 3).transpose(2, 3).unwrap(),
            false => random(&[batch, input, height, width], 3),
        };
        let (out_height, out_width) = layer.output_size(height, width);
        let (shift, shortcut) = (random(&[batch, out], 4), random(&[batch, out, out_height, out_width], 5));
        let epilogue = ConvEpilogue { shift: shifted.then_some(&shift), activation, residual: residual.then_some(&shortcut) };
        let ours = layer.forward_with(&picture, &epilogue).unwrap();
        if batch == 0 {
            prop_assert_eq!(ours.dims(), &[0, out, out_height, out_width]);
        } else {
            assert_close(&ours, &layer.forward_reference(&picture, &epilogue).unwrap(), tolerance(precision));
        }
    }

    #[test]
    fn enlargement_agrees_with_its_twin(
        (batch, input, out) in (1usize..3, 1usize..40, 1usize..70), (height, width) in (1usize..20, 1usize..70), bf16: bool,
    ) {
        let precision = if bf16 { Precision::Bf16 } else { Precision::F32 };
        let layer = convolution(out, input, 3, 1, 1, precision);
        let picture = random(&[batch, input, height, width], 3);
        let twin = layer.forward_upsampled_reference(&picture).unwrap();
        assert_close(&layer.forward_upsampled(&picture).unwrap(), &twin, 1.5 * tolerance(precision));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn fewer_products_agree_with_the_twin(
        (batch, input, out) in (1usize..3, 32usize..200, 32usize..150),
        (height, width) in (20usize..31, 24usize..70),
        (stride, padding) in (1usize..3, 0usize..3),
        (bf16, shifted, residual) in any::<(bool, bool, bool)>(),
    ) {
        let (height, width) = (height * stride, width * stride);
        let precision = if bf16 { Precision::Bf16 } else { Precision::F32 };
        let layer = convolution(out, input, 3, stride, padding, precision);
        let picture = random(&[batch, input, height, width], 3);
        let (out_height, out_width) = layer.output_size(height, width);
        let (shift, shortcut) = (random(&[batch, out], 4), random(&[batch, out, out_height, out_width], 5));
        let epilogue = ConvEpilogue {
            shift: shifted.then_some(&shift),
            activation: Activation::Silu,
            residual: residual.then_some(&shortcut),
        };
        let ours = layer.forward_with(&picture, &epilogue).unwrap();
        assert_close(&ours, &layer.forward_reference(&picture, &epilogue).unwrap(), tolerance(precision));
    }
}

/// A call in each form with fewer products: (form, stride, enlarged, batch, channels, out, height, width).
type FormCase = (Form, usize, bool, [usize; 5]);

const FORM_CASES: [FormCase; 10] = [
    (Form::FourByFour, 1, false, [1, 64, 64, 4, 600]),
    (Form::FourByFour, 1, false, [1, 65, 70, 13, 515]),
    (Form::FourByFour, 1, false, [3, 300, 64, 16, 16]),
    (Form::FourByFour, 1, false, [2, 131, 128, 16, 19]),
    (Form::TwoByTwo, 1, false, [3, 70, 512, 8, 8]),
    (Form::TwoByTwo, 1, false, [2, 40, 40, 17, 9]),
    (Form::EveryOther, 2, false, [1, 65, 70, 10, 1030]),
    (Form::EveryOther, 2, false, [3, 70, 512, 15, 16]),
    (Form::Enlarged, 1, true, [1, 65, 70, 5, 515]),
    (Form::Enlarged, 1, true, [3, 150, 64, 8, 8]),
];

#[test]
fn each_form_agrees_with_its_twin_whatever_threads_and_batch() {
    for case in FORM_CASES {
        for precision in [Precision::F32, Precision::Bf16] {
            agrees_in_its_form(case, precision);
        }
    }
}

fn agrees_in_its_form((form, stride, enlarged, [batch, channels, out, height, width]): FormCase, precision: Precision) {
    let layer = convolution(out, channels, 3, stride, 1, precision);
    let picture = random(&[batch, channels, height, width], 3);
    let geometry = layer.geometry(&picture).unwrap();
    let geometry = Geometry { factor: if enlarged { 2 } else { 1 }, ..geometry };
    let arithmetic = layer.shared.packed.arithmetic;
    // Products of pairs leave only the form with the fewest products, for many channels; matrix tiles none.
    let expected = match arithmetic.per_step() {
        1 => Some(form),
        _ if arithmetic.is_tiled() || form != Form::FourByFour || channels.min(out) < 128 => None,
        _ => Some(form),
    };
    assert_eq!(winograd::form(&layer.shared.packed, &geometry), expected, "{channels} at {height}x{width}");
    let forward = |picture: &Tensor| match enlarged {
        true => layer.forward_upsampled(picture).unwrap(),
        false => layer.forward(picture).unwrap(),
    };
    let twin = match enlarged {
        true => layer.forward_upsampled_reference(&picture).unwrap(),
        false => layer.forward_reference(&picture, &ConvEpilogue::default()).unwrap(),
    };
    let ours = on_threads(1, || values(&forward(&picture)));
    // Only pairs round what is multiplied with the kernel; an enlargement adds up taps before it rounds them.
    let exact = expected.is_some() || precision == Precision::F32;
    assert_close(&forward(&picture), &twin, if exact { 2e-6 } else { 1.5 * tolerance(precision) });
    assert!(ours == on_threads(3, || values(&forward(&picture))));
    let alone = values(&forward(&picture.narrow(0, batch - 1, 1).unwrap()));
    assert!(ours[ours.len() - alone.len()..] == alone);
}

#[test]
fn what_is_not_a_number_stays_visible() {
    let layer = convolution(64, 64, 3, 1, 1, Precision::F32);
    let mut picture = values(&random(&[1, 64, 24, 24], 3));
    picture[64 * 24 * 24 - 1] = f32::NAN;
    let picture = Tensor::from_vec(picture, (1, 64, 24, 24), &Device::Cpu).unwrap();
    let result = values(&layer.forward(&picture).unwrap());
    assert!(result[24 * 24 - 1].is_nan() && result[0].is_finite());
}

#[test]
fn narrower_machines_agree() {
    for level in [Level::Portable, Level::Avx2, Level::Avx512] {
        pretend(level);
        // A kernel that sees one pixel has a layout of its own, here with several blocks of channels.
        // 240 channels are transformed in several blocks; the last case has too few tiles of 4x4 pixels.
        let cases = [(20, 3, 9), (700, 1, 9), (240, 3, 21), (240, 3, 8)]
            .map(|case| [(Precision::F32, case), (Precision::Bf16, case)]);
        for (precision, (channels, kernel, height)) in cases.into_iter().flatten() {
            let layer = convolution(70, channels, kernel, 1, kernel / 2, precision);
            let picture = random(&[2, channels, height, 21], 3);
            let epilogue = ConvEpilogue { activation: Activation::Silu, ..Default::default() };
            let twin = layer.forward_reference(&picture, &epilogue).unwrap();
            assert_close(&layer.forward_with(&picture, &epilogue).unwrap(), &twin, 2e-6);
        }
    }
}

#[test]
fn threads_and_batch_change_no_bit() {
    // The widest goes by fewer products, in f32.
    for (kernel, out) in [(3, 48), (1, 48), (3, 64)] {
        for precision in [Precision::F32, Precision::Bf16] {
            let layer = convolution(out, 64, kernel, 1, kernel / 2, precision);
            let pictures = random(&[3, 64, 30, 30], 3);
            let forward = |threads| on_threads(threads, || values(&layer.forward(&pictures).unwrap()));
            let one = forward(1);
            assert!(one == forward(2));
            assert!(one == forward(3));
            let alone = values(&layer.forward(&pictures.narrow(0, 1, 1).unwrap()).unwrap());
            assert!(one[alone.len()..2 * alone.len()] == alone);
        }
    }
}

#[test]
fn gradients_arrive() {
    let layer = convolution(6, 5, 3, 1, 1, Precision::F32);
    let inputs = [random(&[2, 5, 6, 7], 3), random(&[2, 6], 4), random(&[2, 6, 6, 7], 5)];
    let epilogue = |inputs: &[Tensor], run: &dyn Fn(&Tensor, &ConvEpilogue) -> Result<Tensor>| {
        let epilogue = ConvEpilogue { shift: inputs.get(1), activation: Activation::Silu, residual: inputs.get(2) };
        run(&inputs[0], &epilogue).unwrap()
    };
    assert_gradients(
        &inputs,
        |inputs| epilogue(inputs, &|input, with| layer.forward_with(input, with)),
        |inputs| epilogue(inputs, &|input, with| layer.forward_reference(input, with)),
    );
    assert_gradients(
        &inputs[..1],
        |inputs| layer.forward_upsampled(&inputs[0]).unwrap(),
        |inputs| layer.forward_upsampled_reference(&inputs[0]).unwrap(),
    );
}

#[test]
fn wrong_shapes_are_named() {
    let layer = convolution(6, 5, 3, 1, 0, Precision::F32);
    for shape in [[1, 4, 8, 8], [1, 5, 2, 8]] {
        let error = layer.forward(&random(&shape, 1)).unwrap_err().to_string();
        assert!(error.contains("expected [b, 5, h, w] of at least 3 × 3"), "{error}");
    }
    let weight = random(&[6, 5, 3, 2], 1);
    assert!(Conv2d::new(&weight, None, 1, 1, Precision::F32).is_err());
}
