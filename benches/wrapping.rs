//! What asking the cache costs: one guided evaluation of the built-in model's denoiser with the context off, and under a
//! policy that never skips, against each other.
//!
//! A context that is off adds one branch per site, so its time *is* that of the plain forward pass; the policy that
//! computes everything shows what decisions, timing and storage add when they do happen.

#![allow(clippy::unwrap_used, reason = "a bench that cannot go on fails")]
#![allow(missing_docs, reason = "criterion's macros make public functions")]

use std::hint::black_box;
use std::time::Duration;

use candle_core::Tensor;
use criterion::{Criterion, criterion_group, criterion_main};
use refrain_cache::{Context, Guard, Site, Step, policies};
use refrain_pipeline::{ImageRequest, LoadOptions, ModelSource, Pipeline};
use refrain_samplers::noise;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn wrapping(criterion: &mut Criterion) {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/emoji");
    let pipeline = Pipeline::load(&ModelSource::Folder(folder), LoadOptions::default()).unwrap();
    let request = ImageRequest { prompt: "a red fox".into(), ..ImageRequest::default() };
    let conditions = pipeline.conditions(&request).unwrap();
    let header = pipeline.run_header(&request).unwrap();
    let latents = noise::counter(0, &[1, pipeline.denoiser().facts().latent_channels, 16, 16]).unwrap();
    let both = Tensor::cat(&[&latents, &latents], 0).unwrap();

    let mut group = criterion.benchmark_group("wrapping");
    group.sample_size(40).measurement_time(Duration::from_secs(8));
    let evaluate =
        |cache: &mut Context| pipeline.denoiser().denoise(cache, black_box(&both), &[500.0], &conditions).unwrap();
    group.bench_function("context off", |bencher| {
        let mut cache = Context::off();
        bencher.iter(|| evaluate(&mut cache));
    });
    group.bench_function("policy that always computes", |bencher| {
        let policy = policies::parse("interval:n=1").unwrap().policy();
        let mut cache = Context::new(policy, Guard::default(), header.clone()).unwrap();
        let mut index = 0;
        bencher.iter(|| {
            cache.begin_step(Step { index: index % header.steps, count: header.steps, timestep: 500.0, sigma: 1.0 });
            index += 1;
            let output = evaluate(&mut cache);
            cache.end_step(&latents).unwrap();
            output
        });
    });
    group.finish();

    // What the first figure above has over a forward pass without any context: as many questions as an evaluation asks,
    // with nothing to compute.
    let sites = 3 * pipeline.denoiser().facts().blocks;
    criterion.bench_function("asking every site of a context that is off", |bencher| {
        let mut cache = Context::off();
        bencher.iter(|| {
            for block in 0..sites {
                black_box(cache.run(Site::attention(block), |_| Ok(latents.clone())).unwrap());
            }
        });
    });
}

criterion_group!(benches, wrapping);
criterion_main!(benches);
