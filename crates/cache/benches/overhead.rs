//! What it costs to ask: a stack of blocks through a context that is off, and under the policy
//! `off`, against the same closures called directly.
//!
//! ```text
//! cargo bench -p refrain-cache --bench overhead
//! ```

#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark is no library")]

use std::hint::black_box;

use candle_core::{DType, Device, Result, Tensor};
use criterion::{Criterion, criterion_group, criterion_main};
use refrain_cache::{Context, Guard, RunHeader, Site, Step, policies};

/// The built-in model's transformer: 12 blocks of three sites, tokens 8 x 8 in both halves of
/// guidance, 256 wide.
const BLOCKS: usize = 12;
const SHAPE: (usize, usize, usize) = (2, 64, 256);
/// Values so few that asking is all the work there is: what a site costs shows here.
const TINY: (usize, usize, usize) = (1, 1, 1);

fn part(hidden: &Tensor) -> Result<Tensor> {
    hidden.affine(0.5, 0.25)
}

fn direct(hidden: &Tensor) -> Result<Tensor> {
    let mut hidden = hidden.clone();
    for _ in 0..3 * BLOCKS {
        hidden = part(&hidden)?;
    }
    Ok(hidden)
}

fn through(cx: &mut Context, input: &Tensor) -> Result<Tensor> {
    cx.model(input, |cx| {
        cx.blocks(BLOCKS, input.clone(), |cx, index, hidden| {
            let hidden = cx.run(Site::attention(index), |_| part(&hidden))?;
            let hidden = cx.run(Site::cross_attention(index), |_| part(&hidden))?;
            cx.run(Site::feed_forward(index), |_| part(&hidden))
        })
    })
}

fn overhead(criterion: &mut Criterion) {
    compare(criterion, "36 sites of 2 x 64 x 256", SHAPE);
    compare(criterion, "36 sites of one value", TINY);
}

fn compare(criterion: &mut Criterion, name: &str, shape: (usize, usize, usize)) {
    let input = Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
    let mut group = criterion.benchmark_group(name);
    group.bench_function("direct", |bencher| bencher.iter(|| direct(black_box(&input)).unwrap()));
    let mut cx = Context::off();
    group.bench_function("context off", |bencher| bencher.iter(|| through(&mut cx, black_box(&input)).unwrap()));
    let header = RunHeader { steps: 20, ..RunHeader::default() };
    let mut cx = Context::new(policies::parse("off").unwrap().policy(), Guard::default(), header).unwrap();
    cx.begin_step(Step { index: 1, count: 20, ..Step::default() });
    group.bench_function("policy off", |bencher| bencher.iter(|| through(&mut cx, black_box(&input)).unwrap()));
    group.finish();
}

criterion_group!(benches, overhead);
criterion_main!(benches);
