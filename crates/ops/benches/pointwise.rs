//! Norms, sums, activations and measures of the layers they come from, beside what a copy of the same bytes reaches by all
//! threads.
//!
//! `cargo bench -p refrain-ops --bench pointwise`; rates are in bytes read and written.
#![allow(missing_docs, clippy::unwrap_used, reason = "a bench has no users")]

#[path = "shared/bandwidth.rs"]
mod bandwidth;

use std::hint::black_box;
use std::time::Duration;

use candle_core::{Device, Tensor};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use refrain_ops::{Activation, GroupNorm, TimestepEmbeddingOptions};

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
        let ceiling = bandwidth::measure(input.elem_count());
        println!("{name}: a copy of {shape:?} by {} threads, {ceiling:.1} GB/s", rayon::current_num_threads());
        bench(&mut group, "layer-norm", (&input, 2), |input| {
            refrain_ops::layer_norm(input, Some(&weight), Some(&weight), 1e-6).unwrap()
        });
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
        bench(&mut group, "add", (&input, 3), |input| refrain_ops::add(input, input).unwrap());
        bench(&mut group, "blend-of-two-rows", (&input, 4), |input| {
            let one = input.narrow(0, 0, 1).unwrap();
            refrain_ops::blend_rows(input, &one, &one, &[[0.6, 0.2, 0.2]; 2], true).unwrap()
        });
        bench(&mut group, "relative-l2", (&input, 2), |input| refrain_ops::relative_l2(input, input).unwrap());
        bench(&mut group, "relative-l1", (&input, 2), |input| refrain_ops::relative_l1(input, input).unwrap());
        bench(&mut group, "health", (&input, 1), |input| refrain_ops::health(input).unwrap());
        bench(&mut group, "gelu-tanh", (&input, 2), |input| refrain_ops::gelu_tanh(input).unwrap());
        bench(&mut group, "gelu", (&input, 2), |input| refrain_ops::gelu(input).unwrap());
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

/// Operations that only one family needs.
fn others(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("others");
    group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(400));
    // Three latent frames of 30 by 52 patches, 12 heads of 128: 22 pairs turn with the frame, 42 with the place.
    let (input, frames, places) = (random(&[3, 1560, 1536]), random(&[3, 22, 2]), random(&[1560, 42, 2]));
    bench(&mut group, "wan/rotate-pairs", (&input, 2), |input| {
        refrain_ops::rotate_pairs(input, &frames, &places).unwrap()
    });
    let (picture, weight) = (random(&[1, 96, 128, 128]), random(&[96]));
    bench(&mut group, "wan/decoder-channel-rms-norm-96-at-128", (&picture, 2), |picture| {
        refrain_ops::channel_rms_norm(picture, &weight).unwrap()
    });
    let options = TimestepEmbeddingOptions::default();
    let timesteps = random(&[28, 256]);
    bench(&mut group, "dit-xl-2/timestep-embedding", (&timesteps, 1), |_| {
        refrain_ops::timestep_embedding(&[500.0; 28], 256, &options).unwrap()
    });
    group.finish();
}

criterion_group!(benches, rows, pictures, others);
criterion_main!(benches);
