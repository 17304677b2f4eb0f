use candle_core::Device;
use proptest::prelude::*;

use super::*;
use crate::simd::{Level, pretend};
use crate::testing::{assert_close, assert_gradients, on_threads, random, values};

fn tolerance(precision: Precision) -> f32 {
    if precision == Precision::F32 { 3e-6 } else { 8e-3 }
}

/// A mask over keys that keeps about three quarters, key 0 always.
fn key_mask(batch: usize, keys: usize) -> Tensor {
    let kept = values(&random(&[batch, 1, 1, keys], 8));
    let mask: Vec<f32> = kept
        .iter()
        .enumerate()
        .map(|(index, value)| if *value > -0.5 || index % keys == 0 { 0.0 } else { f32::NEG_INFINITY })
        .collect();
    Tensor::from_vec(mask, (batch, 1, 1, keys), &Device::Cpu).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn agrees_with_its_twin(
        (batch, heads, width) in (1usize..3, 1usize..4, 1usize..161),
        (queries, keys) in (0usize..70, 1usize..300),
        (kind, bf16, transposed) in (0usize..4, any::<bool>(), any::<bool>()),
    ) {
        let precision = if bf16 { Precision::Bf16 } else { Precision::F32 };
        let options = AttentionOptions::new(heads).with_precision(precision);
        let tensor = |count: usize, seed| match transposed {
            true => random(&[count, batch, heads * width], seed).transpose(0, 1).unwrap(),
            false => random(&[batch, count, heads * width], seed),
        };
        let (query, key, value) = (tensor(queries, 1), tensor(keys, 2), tensor(keys, 3));
        let bias = match kind {
            0 => None,
            1 => Some(key_mask(batch, keys)),
            2 => Some(random(&[1, heads, queries, keys], 4)),
            _ => Some(random(&[batch, 1, queries, 1], 4)),
        };
        let ours = attention(&query, &key, &value, bias.as_ref(), &options).unwrap();
        if queries == 0 {
            prop_assert_eq!(ours.dims(), &[batch, 0, heads * width]);
        } else {
            let twin = attention_reference(&query, &key, &value, bias.as_ref(), &options).unwrap();
            assert_close(&ours, &twin, tolerance(precision));
        }
    }

    #[test]
    fn ring_agrees_with_attention_over_what_it_holds(
        chunks in prop::collection::vec((1usize..40, 0usize..40), 1..8), bf16: bool,
    ) {
        let precision = if bf16 { Precision::Bf16 } else { Precision::F32 };
        let options = AttentionOptions::new(2).with_precision(precision);
        let (batch, width, keep) = (2, 2 * 24, 3);
        let mut ring = KeyValueRing::new(batch, 2, 24, 100, precision);
        let mut held: Vec<(Tensor, Tensor)> = Vec::new();
        for (index, (count, evicted)) in chunks.into_iter().enumerate() {
            let (key, value) = (random(&[batch, count, width], 2 * index as u32), random(&[batch, count, width], 77 + index as u32));
            if ring.append(&key, &value).is_ok() {
                held.extend((0..count).map(|row| (key.narrow(1, row, 1).unwrap(), value.narrow(1, row, 1).unwrap())));
            } else {
                prop_assert!(held.len() + count > 100);
            }
            prop_assert_eq!(ring.len(), held.len());
            let joined = |part: &dyn Fn(&(Tensor, Tensor)) -> Tensor| {
                Tensor::cat(&held.iter().map(part).collect::<Vec<_>>(), 1).unwrap()
            };
            let query = random(&[batch, 9, width], 5);
            let twin = attention_reference(&query, &joined(&|pair| pair.0.clone()), &joined(&|pair| pair.1.clone()), None, &options);
            assert_close(&ring.attend(&query, &options).unwrap(), &twin.unwrap(), tolerance(precision));
            let end = (keep + evicted).min(held.len());
            held.drain(keep.min(end)..end);
            ring.evict(keep, evicted);
        }
    }
}

#[test]
fn a_row_without_keys_is_zero() {
    let options = AttentionOptions::new(2);
    let (query, key) = (random(&[1, 3, 16], 1), random(&[1, 150, 16], 2));
    let mask = Tensor::full(f32::NEG_INFINITY, (1, 1, 1, 150), &Device::Cpu).unwrap();
    for attend in [attention, attention_reference] {
        assert!(values(&attend(&query, &key, &key, Some(&mask), &options).unwrap()).iter().all(|value| *value == 0.0));
        let none = key.narrow(1, 0, 0).unwrap();
        assert!(values(&attend(&query, &none, &none, None, &options).unwrap()).iter().all(|value| *value == 0.0));
    }
    let ring = KeyValueRing::new(1, 2, 8, 10, Precision::F32);
    assert!(values(&ring.attend(&query, &options).unwrap()).iter().all(|value| *value == 0.0));
}

#[test]
fn what_is_not_a_number_stays_visible() {
    let broken = (random(&[1, 4, 16], 1) * f64::NAN).unwrap();
    let output = attention(&broken, &broken, &broken, None, &AttentionOptions::new(2)).unwrap();
    assert!(values(&output).iter().all(|value| value.is_nan()));
}

#[test]
fn narrower_machines_agree() {
    for level in [Level::Portable, Level::Avx2, Level::Avx512] {
        pretend(level);
        let options = AttentionOptions::new(2).with_precision(Precision::Bf16);
        let (query, key, value) = (random(&[2, 19, 80], 1), random(&[2, 150, 80], 2), random(&[2, 150, 80], 3));
        let twin = attention_reference(&query, &key, &value, None, &options).unwrap();
        assert_close(&attention(&query, &key, &value, None, &options).unwrap(), &twin, 3e-6);
    }
}

#[test]
fn threads_and_batch_change_no_bit() {
    for precision in [Precision::F32, Precision::Bf16] {
        let options = AttentionOptions::new(4).with_precision(precision);
        let qkv = random(&[3, 200, 3 * 4 * 40], 1);
        let attend = |threads| on_threads(threads, || values(&attention_packed_qkv(&qkv, None, &options).unwrap()));
        let one = attend(1);
        assert_eq!(one, attend(2));
        assert_eq!(one, attend(3));
        let alone = values(&attention_packed_qkv(&qkv.narrow(0, 1, 1).unwrap(), None, &options).unwrap());
        assert_eq!(one[alone.len()..2 * alone.len()], alone);
        let part = |index: usize| qkv.narrow(2, index * 160, 160).unwrap();
        let apart = attention(&part(0), &part(1), &part(2), None, &options).unwrap();
        assert_eq!(one, values(&apart));
    }
}

#[test]
fn gradients_arrive() {
    let options = AttentionOptions::new(2);
    let mask = key_mask(2, 9);
    let inputs = [random(&[2, 5, 16], 1), random(&[2, 9, 16], 2), random(&[2, 9, 16], 3)];
    assert_gradients(
        &inputs,
        |inputs| attention(&inputs[0], &inputs[1], &inputs[2], Some(&mask), &options).unwrap(),
        |inputs| attention_reference(&inputs[0], &inputs[1], &inputs[2], Some(&mask), &options).unwrap(),
    );
    let qkv = [random(&[2, 5, 48], 4)];
    assert_gradients(
        &qkv,
        |inputs| attention_packed_qkv(&inputs[0], None, &options).unwrap(),
        |inputs| packed_reference(&inputs[0], None, &options).unwrap(),
    );
}

#[test]
fn wrong_shapes_are_named() {
    let options = AttentionOptions::new(3);
    let error = attention(&random(&[1, 2, 16], 1), &random(&[1, 2, 16], 1), &random(&[1, 2, 16], 1), None, &options);
    assert!(error.unwrap_err().to_string().contains("3 heads"));
    let short = random(&[1, 1, 1, 4], 1);
    let tensor = random(&[1, 2, 15], 1);
    let error = attention(&tensor, &tensor, &tensor, Some(&short), &options).unwrap_err().to_string();
    assert!(error.contains("bias"), "{error}");
}
