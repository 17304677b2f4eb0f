//! What the tests of several operations share.

use candle_core::{Device, Tensor, Var};

/// Deterministic values in [-1, 1).
pub(crate) fn random(shape: &[usize], seed: u32) -> Tensor {
    let mut state = u64::from(seed) * 2 + 1;
    let values: Vec<f32> = (0..shape.iter().product::<usize>())
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / 8_388_608.0 - 1.0
        })
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// The values of a tensor, row-major.
pub(crate) fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Fails when the relative L2 distance exceeds `tolerance`.
#[track_caller]
pub(crate) fn assert_close(ours: &Tensor, reference: &Tensor, tolerance: f32) {
    assert_eq!(ours.dims(), reference.dims());
    let distance = crate::relative_l2(reference, ours).unwrap();
    assert!(distance <= tolerance, "relative l2 {distance}, allowed {tolerance}");
}

/// Fails unless the gradients of the operation and of its twin towards every input agree.
#[track_caller]
pub(crate) fn assert_gradients(
    inputs: &[Tensor],
    ours: impl Fn(&[Tensor]) -> Tensor,
    twin: impl Fn(&[Tensor]) -> Tensor,
) {
    let gradients = |operation: &dyn Fn(&[Tensor]) -> Tensor| {
        let variables: Vec<Tensor> = inputs.iter().map(|input| Var::from_tensor(input).unwrap().into_inner()).collect();
        let output = operation(&variables);
        let weight = random(output.dims(), 99);
        let store = (output * weight).unwrap().sum_all().unwrap().backward().unwrap();
        variables.iter().map(|input| store.get(input).expect("a gradient").clone()).collect::<Vec<_>>()
    };
    for (ours, twin) in gradients(&ours).iter().zip(gradients(&twin)) {
        assert_close(ours, &twin, 1e-5);
    }
}

/// Runs `work` on a pool of `threads`.
pub(crate) fn on_threads<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}
