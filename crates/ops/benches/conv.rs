//! Convolutions of the layers they come from, beside what the machine's multipliers can do at most.
//!
//! `cargo bench -p refrain-ops --bench conv`; rates are in floating-point operations per second.
#![allow(missing_docs, clippy::unwrap_used, reason = "a bench has no users")]

#[path = "shared/ceiling.rs"]
mod ceiling;

use std::hint::black_box;
use std::time::Duration;

use candle_core::{Device, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use refrain_ops::{Activation, Conv2d, ConvEpilogue, Precision};

/// The binary's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Name, batch, channels in and out, size, kernel, stride.
const LAYERS: [(&str, usize, usize, usize, usize, usize, usize); 12] = [
    ("built-in/decoder-96-at-16", 1, 96, 96, 16, 3, 1),
    ("built-in/decoder-64-at-32", 1, 64, 64, 32, 3, 1),
    ("built-in/decoder-32-at-64", 1, 32, 32, 64, 3, 1),
    ("built-in/decoder-16-at-128", 1, 16, 16, 128, 3, 1),
    ("built-in/decoder-out-at-128", 1, 16, 3, 128, 3, 1),
    ("sd-1.5/320-at-64", 2, 320, 320, 64, 3, 1),
    ("sd-1.5/640-at-32", 2, 640, 640, 32, 3, 1),
    ("sd-1.5/1280-at-16", 2, 1280, 1280, 16, 3, 1),
    ("sd-1.5/1280-at-8", 2, 1280, 1280, 8, 3, 1),
    ("sd-1.5/shrink-320-at-64", 2, 320, 320, 64, 3, 2),
    ("sd-1.5/shortcut-960-to-320-at-64", 2, 960, 320, 64, 1, 1),
    ("sd-1.5/projection-1280-at-8", 2, 1280, 1280, 8, 1, 1),
];

fn random(shape: &[usize]) -> Tensor {
    Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()
}

fn convolutions(criterion: &mut Criterion) {
    refrain_ops::memory::keep_pages();
    for (name, bf16) in [("f32", false), ("bf16", true)] {
        if let Some(rate) = ceiling::measure(bf16) {
            println!("ceiling of {} threads in {name}: {rate:.0} GFLOP/s", rayon::current_num_threads());
        }
    }
    for precision in [Precision::F32, Precision::Bf16] {
        let mut group = criterion.benchmark_group(precision.to_string());
        group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(600));
        for (name, batch, input, out, size, kernel, stride) in LAYERS {
            let weight = random(&[out, input, kernel, kernel]);
            let layer = Conv2d::new(&weight, Some(&random(&[out])), stride, kernel / 2, precision).unwrap();
            let picture = random(&[batch, input, size, size]);
            group.throughput(Throughput::Elements(batch as u64 * layer.flops(size, size)));
            group.bench_function(name, |bencher| {
                rayon::scope(|_| bencher.iter(|| layer.forward(black_box(&picture)).unwrap()));
            });
        }
        group.finish();
    }
}

/// What the ends cost, and what enlarging by folded kernels saves (its rate counts the products of the enlarged picture).
fn ends(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("built-in/decoder-64-at-32/ends");
    group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(600));
    let layer = Conv2d::new(&random(&[64, 64, 3, 3]), Some(&random(&[64])), 1, 1, Precision::Bf16).unwrap();
    let picture = random(&[1, 64, 32, 32]);
    group.throughput(Throughput::Elements(layer.flops(32, 32)));
    let silu = ConvEpilogue { activation: Activation::Silu, ..Default::default() };
    let residual = ConvEpilogue { residual: Some(&picture), ..Default::default() };
    for (name, epilogue) in [("none", ConvEpilogue::default()), ("silu", silu), ("residual", residual)] {
        group.bench_function(name, |bencher| {
            rayon::scope(|_| bencher.iter(|| layer.forward_with(black_box(&picture), &epilogue).unwrap()));
        });
    }
    group.throughput(Throughput::Elements(layer.flops(64, 64)));
    group.bench_function("enlarged", |bencher| {
        rayon::scope(|_| bencher.iter(|| layer.forward_upsampled(black_box(&picture)).unwrap()));
    });
    group.finish();
}

criterion_group!(benches, convolutions, ends);
criterion_main!(benches);
