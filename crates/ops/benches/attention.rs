//! Attentions of the layers they come from, beside what the machine's multipliers can do at most.
//!
//! `cargo bench -p refrain-ops --bench attention`; rates are in floating-point operations per second of the two products.
#![allow(missing_docs, clippy::unwrap_used, reason = "a bench has no users")]

#[path = "shared/ceiling.rs"]
mod ceiling;

use std::hint::black_box;
use std::time::Duration;

use candle_core::{Device, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use refrain_ops::{AttentionOptions, KeyValueRing, Precision, attention, attention_packed_qkv};

/// The binary's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Name, batch, heads, width of a head, queries, keys.
const LAYERS: [(&str, usize, usize, usize, usize, usize); 7] = [
    ("built-in/self", 2, 4, 64, 64, 64),
    ("built-in/cross", 2, 4, 64, 64, 20),
    ("dit-xl-2/self", 2, 16, 72, 256, 256),
    ("sd-1.5/self-at-64", 2, 8, 40, 4096, 4096),
    ("sd-1.5/self-at-32", 2, 8, 80, 1024, 1024),
    ("sd-1.5/self-at-16", 2, 8, 160, 256, 256),
    ("sd-1.5/cross-at-64", 2, 8, 40, 4096, 77),
];

fn random(shape: &[usize]) -> Tensor {
    Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()
}

fn attentions(criterion: &mut Criterion) {
    refrain_ops::memory::keep_pages();
    for (name, bf16) in [("f32", false), ("bf16", true)] {
        if let Some(rate) = ceiling::measure(bf16) {
            println!("ceiling of {} threads in {name}: {rate:.0} GFLOP/s", rayon::current_num_threads());
        }
    }
    for precision in [Precision::F32, Precision::Bf16] {
        let mut group = criterion.benchmark_group(precision.to_string());
        group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(600));
        for (name, batch, heads, width, queries, keys) in LAYERS {
            let options = AttentionOptions::new(heads).with_precision(precision);
            let tensor = |count: usize| random(&[batch, count, heads * width]);
            let (query, key, value) = (tensor(queries), tensor(keys), tensor(keys));
            group.throughput(Throughput::Elements(4 * (batch * heads * width * queries * keys) as u64));
            group.bench_function(name, |bencher| {
                let run = || attention(black_box(&query), &key, &value, None, &options).unwrap();
                rayon::scope(|_| bencher.iter(run));
            });
        }
        let options = AttentionOptions::new(16).with_precision(precision);
        let packed = random(&[2, 256, 3 * 1152]);
        group.throughput(Throughput::Elements(4 * 2 * 1152 * 256 * 256));
        group.bench_function("dit-xl-2/self-packed", |bencher| {
            rayon::scope(|_| bencher.iter(|| attention_packed_qkv(black_box(&packed), None, &options).unwrap()));
        });
        // A causal video model's chunk of three frames over seven such chunks.
        let options = AttentionOptions::new(12).with_precision(precision);
        let chunk = random(&[1, 512, 12 * 128]);
        let mut ring = KeyValueRing::new(1, 12, 128, 7 * 512, precision);
        (0..7).for_each(|_| ring.append(&chunk, &chunk).unwrap());
        group.throughput(Throughput::Elements(4 * 12 * 128 * 512 * 7 * 512));
        group.bench_function("stream/chunk-over-ring", |bencher| {
            rayon::scope(|_| bencher.iter(|| ring.attend(black_box(&chunk), &options).unwrap()));
        });
        group.finish();
    }
}

criterion_group!(benches, attentions);
criterion_main!(benches);
