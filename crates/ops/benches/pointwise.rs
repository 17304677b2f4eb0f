//! Norms, sums, activations and measures of the layers they come from, beside what a copy of the same bytes reaches.
//!
//! `cargo bench -p refrain-ops --bench pointwise`; rates are in bytes read and written.
#![allow(missing_docs, clippy::unwrap_used, reason = "a bench has no users")]

use std::hint::black_box;
use std::time::Duration;

use candle_core::{Device, Tensor};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use refrain_ops::{Activation, GroupNorm};

/// The binary's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn random(shape: &[usize]) -> Tensor {
    Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()
}

/// One operation that moves `passes` tensors of `input`'s size.
fn bench<R>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    (input, passes): (&Tensor, usize),
    operation: impl Fn(&Tensor) -> R + Send + Sync,
) {
    group.throughput(Throughput::Bytes((4 * passes * input.elem_count()) as u64));
    group.bench_function(name, |bencher| {
        rayon::scope(|_| bencher.iter(|| operation(black_box(input))));
    });
}

fn rows(criterion: &mut Criterion) {
    refrain_ops::memory::keep_pages();
    for (name, shape) in [("built-in", [2, 64, 256]), ("dit-xl-2", [2, 256, 1152])] {
        let mut group = criterion.benchmark_group(name);
        group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(400));
        let (input, row) = (random(&shape), random(&[shape[0], shape[2]]));
        let weight = random(&[shape[2]]);
        bench(&mut group, "copy", (&input, 2), |input| input.copy().unwrap());
        bench(&mut group, "layer-norm-modulate", (&input, 2), |input| {
            refrain_ops::layer_norm_modulate(input, &row, &row, 1e-6).unwrap()
        });
        bench(&mut group, "rms-norm", (&input, 2), |input| refrain_ops::rms_norm(input, &weight, 1e-6).unwrap());
        bench(&mut group, "gate-residual", (&input, 3), |input| {
            refrain_ops::gate_residual(input, &row, input).unwrap()
        });
        bench(&mut group, "forecast-of-three", (&input, 4), |input| {
            refrain_ops::linear_combination(&[(3.0, input), (-3.0, input), (1.0, input)]).unwrap()
        });
        bench(&mut group, "relative-l1", (&input, 2), |input| refrain_ops::relative_l1(input, input).unwrap());
        bench(&mut group, "health", (&input, 1), |input| refrain_ops::health(input).unwrap());
        bench(&mut group, "gelu-tanh", (&input, 2), |input| refrain_ops::gelu_tanh(input).unwrap());
        bench(&mut group, "silu", (&input, 2), |input| refrain_ops::silu(input).unwrap());
        group.finish();
    }
}

fn pictures(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("group-norm-silu");
    group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(400));
    let layers = [
        ("built-in/decoder-64-at-32", 1, 64, 32, 8),
        ("built-in/decoder-16-at-128", 1, 16, 128, 8),
        ("sd-1.5/320-at-64", 2, 320, 64, 32),
        ("sd-1.5/1280-at-16", 2, 1280, 16, 32),
    ];
    for (name, batch, channels, size, groups) in layers {
        let norm = GroupNorm::new(groups, &random(&[channels]), &random(&[channels]), 1e-5).unwrap();
        let picture = random(&[batch, channels, size, size]);
        bench(&mut group, name, (&picture, 2), |picture| norm.forward(picture, Activation::Silu).unwrap());
    }
    group.finish();
}

criterion_group!(benches, rows, pictures);
criterion_main!(benches);
