//! Matrix products of the layers they come from, beside what the machine's multipliers can do at most.
//!
//! `cargo bench -p refrain-ops --bench products`; rates are in elements per second, an element being one floating-point
//! operation.
#![allow(missing_docs, clippy::unwrap_used, reason = "a bench has no users")]

#[path = "shared/ceiling.rs"]
mod ceiling;

use std::hint::black_box;
use std::time::Duration;

use candle_core::{Device, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use refrain_ops::{Activation, Linear, Precision};

/// The binary's allocator: large results come and go at every product.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Name, rows, inputs, outputs; a classifier-free-guidance step has two pictures.
const LAYERS: [(&str, usize, usize, usize); 14] = [
    ("dit-xl-2/qkv", 512, 1152, 3456),
    ("dit-xl-2/projection", 512, 1152, 1152),
    ("dit-xl-2/feed-forward-in", 512, 1152, 4608),
    ("dit-xl-2/feed-forward-out", 512, 4608, 1152),
    ("dit-xl-2/modulation", 2, 1152, 6912),
    ("sd-1.5/64x64-query", 8192, 320, 320),
    ("sd-1.5/64x64-feed-forward-out", 8192, 1280, 320),
    ("sd-1.5/32x32-feed-forward-in", 2048, 640, 5120),
    ("sd-1.5/16x16-feed-forward-in", 512, 1280, 10240),
    ("sd-1.5/16x16-feed-forward-out", 512, 5120, 1280),
    ("built-in/qkv", 128, 256, 768),
    ("built-in/projection", 128, 256, 256),
    ("built-in/feed-forward-in", 128, 256, 1024),
    ("built-in/feed-forward-out", 128, 1024, 256),
];

fn tensor(shape: (usize, usize)) -> Tensor {
    Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()
}

fn products(criterion: &mut Criterion) {
    refrain_ops::memory::keep_pages();
    for (name, bf16) in [("f32", false), ("bf16", true)] {
        if let Some(rate) = ceiling::measure(bf16) {
            println!("ceiling of {} threads in {name}: {rate:.0} GFLOP/s", rayon::current_num_threads());
        }
    }
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        let mut group = criterion.benchmark_group(precision.to_string());
        group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(600));
        for (name, rows, inputs, outputs) in LAYERS {
            let layer = Linear::new(&tensor((outputs, inputs)), None, precision).unwrap();
            let input = tensor((rows, inputs));
            group.throughput(Throughput::Elements(layer.flops(rows)));
            group.bench_function(name, |bencher| {
                // Inside the pool, as the binary runs: no hand-over between threads at every product.
                rayon::scope(|_| bencher.iter(|| layer.forward(black_box(&input)).unwrap()));
            });
        }
        group.finish();
    }
}

fn ends(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("dit-xl-2/feed-forward-in/ends");
    group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(600));
    let layer = Linear::new(&tensor((4608, 1152)), None, Precision::Bf16).unwrap();
    let input = tensor((512, 1152));
    group.throughput(Throughput::Elements(layer.flops(512)));
    for activation in [Activation::None, Activation::GeluTanh, Activation::Gelu, Activation::Silu] {
        group.bench_function(format!("{activation:?}"), |bencher| {
            rayon::scope(|_| bencher.iter(|| layer.forward_activated(black_box(&input), activation).unwrap()));
        });
    }
    group.bench_function("Gated", |bencher| {
        rayon::scope(|_| bencher.iter(|| layer.forward_geglu(black_box(&input)).unwrap()));
    });
    group.finish();
}

criterion_group!(benches, products, ends);
criterion_main!(benches);
