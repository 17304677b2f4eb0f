//! What one picture of the built-in model costs, part by part: loading, text, one guided step, decoding, fingerprint.

#![allow(clippy::unwrap_used, missing_docs, reason = "a bench may stop at the first failure")]

use std::path::Path;

use criterion::{Criterion, criterion_group, criterion_main};
use refrain_cache::Context;
use refrain_ops::Precision;
use refrain_pipeline::{ImageRequest, LoadOptions, ModelSource, Pipeline, ignore};
use refrain_samplers::noise::counter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn source() -> ModelSource {
    ModelSource::Folder(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../weights/emoji"))
}

fn parts(criterion: &mut Criterion) {
    for precision in [Precision::F32, Precision::Bf16] {
        let mut group = criterion.benchmark_group(precision.to_string());
        group.sample_size(20);
        let load = || Pipeline::load(&source(), LoadOptions { precision }).unwrap();
        group.bench_function("load", |bencher| bencher.iter(load));
        let pipeline = load();
        let request = ImageRequest { prompt: "a red fox on a blue background".to_owned(), ..ImageRequest::default() };
        let text = pipeline.text_encoder().unwrap();
        group.bench_function("tokens", |bencher| bencher.iter(|| text.tokens(&request.prompt).unwrap()));
        group.bench_function("conditions, text remembered", |bencher| {
            bencher.iter(|| pipeline.conditions(&request).unwrap());
        });
        let conditions = pipeline.conditions(&request).unwrap();
        let latents = counter(1, &[1, 32, 16, 16]).unwrap();
        group.bench_function("guided step", |bencher| {
            bencher.iter(|| pipeline.predict(&mut Context::off(), &latents, 500.0, (&conditions, 4.0)).unwrap());
        });
        group.bench_function("decode", |bencher| bencher.iter(|| pipeline.autoencoder().decode(&latents).unwrap()));
        group.bench_function("picture of 20 steps", |bencher| {
            bencher.iter(|| pipeline.generate(&request, &mut Context::off(), &mut ignore).unwrap());
        });
        group.finish();
    }
    // Remembered by a pipeline once computed: a fresh one each time.
    criterion.bench_function("load and fingerprint", |bencher| {
        bencher.iter(|| Pipeline::load(&source(), LoadOptions::default()).unwrap().fingerprint().unwrap().len());
    });
}

criterion_group!(benches, parts);
criterion_main!(benches);
