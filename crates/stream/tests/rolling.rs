//! The rolling cache against full recomputation, and what skipped blocks owe.

mod support;

use std::ops::Range;

use candle_core::Tensor;
use refrain_cache::{Action, Ask, Branch, CacheError, Context, Guard, Part, Policy, RunHeader, Site, Step};
use refrain_models::wan::{FrameMemory, WanText, WanTransformer, WholeClip};
use refrain_samplers::noise::counter;
use refrain_stream::{KvOptions, KvPolicy, KvShape, RollingKv, RowChunk, SinkRefresh};
use support::{Made, TINY, TestResult, Tiny, distance, text, wan};

const SIDE: usize = 4;

fn rolling(model: &WanTransformer, length: usize, sinks: usize, policy: KvPolicy) -> Made<RollingKv> {
    Ok(RollingKv::new(KvShape::of(model, SIDE, SIDE)?, KvOptions { length, sinks, policy }, 1)?)
}

/// Latents of a chunk by the number of its first frame.
fn latents(frame: u64, frames: usize) -> Made<Tensor> {
    Ok(counter(77 + frame, &[1, TINY.channels, frames, SIDE, SIDE])?)
}

/// Runs chunks through a cache, one call each; timesteps differ from frame to frame.
fn stream(model: &WanTransformer, text: &WanText, kv: &mut RollingKv, chunks: &[usize]) -> Made<Vec<Tensor>> {
    let mut frame = 0;
    let mut outputs = Vec::new();
    for &frames in chunks {
        kv.begin(&[RowChunk { row: 0, frame }], frames)?;
        let timesteps = timesteps(frame, frames);
        let input = latents(frame, frames)?;
        outputs.push(model.forward_causal(&mut Context::off(), &input, &timesteps, (text, kv))?);
        frame += frames as u64;
    }
    Ok(outputs)
}

fn timesteps(frame: u64, frames: usize) -> Vec<f32> {
    (frame..frame + frames as u64).map(|frame| 900.0 - 37.0 * (frame % 7) as f32).collect()
}

#[test]
fn a_window_that_covers_everything_is_full_block_causal_recomputation() -> TestResult {
    let model = wan(TINY)?;
    let text = text(&model, 5)?;
    for chunks in [vec![2, 1, 1, 1, 1, 1], vec![1; 6], vec![3, 3, 3]] {
        let total: usize = chunks.iter().sum();
        let mut inputs = Vec::new();
        let (mut frame, mut times) = (0, Vec::new());
        for &frames in &chunks {
            inputs.push(latents(frame, frames)?);
            times.extend(timesteps(frame, frames));
            frame += frames as u64;
        }
        let mut clip = WholeClip::block_causal(model.rope(SIDE, SIDE)?, &chunks, model.attention_options())?;
        let whole = Tensor::cat(&inputs, 2)?;
        let expected = model.forward_causal(&mut Context::off(), &whole, &times, (&text, &mut clip))?;
        for policy in [
            KvPolicy::Sdv2 { threshold: Some(0.2), position_reset: Some(50) },
            KvPolicy::Shift,
            KvPolicy::Relative { refresh: Some(SinkRefresh { threshold: 0.9, cool_down: 0 }) },
        ] {
            let mut kv = rolling(&model, total, 1, policy)?;
            let streamed = Tensor::cat(&stream(&model, &text, &mut kv, &chunks)?, 2)?;
            let far = distance(&expected, &streamed)?;
            assert!(far <= 1e-5, "{policy:?} {chunks:?}: {far:e}");
        }
    }
    Ok(())
}

/// One block sees nothing but what is held: the rolling result is that of the sinks and the window alone, at their ranks.
#[test]
fn a_short_window_sees_sinks_and_the_newest_at_their_ranks() -> TestResult {
    let model = wan(Tiny { layers: 1, ..TINY })?;
    let text = text(&model, 5)?;
    let mut kv = rolling(&model, 4, 1, KvPolicy::Relative { refresh: None })?;
    let outputs = stream(&model, &text, &mut kv, &[1; 12])?;
    let held = [0, 9, 10, 11];
    let inputs = held.iter().map(|&frame| latents(frame, 1)).collect::<Made<Vec<_>>>()?;
    let times: Vec<f32> = held.iter().flat_map(|&frame| timesteps(frame, 1)).collect();
    let mut clip = WholeClip::block_causal(model.rope(SIDE, SIDE)?, &[1; 4], model.attention_options())?;
    let whole = model.forward_causal(&mut Context::off(), &Tensor::cat(&inputs, 2)?, &times, (&text, &mut clip))?;
    let far = distance(&whole.narrow(2, 3, 1)?, &outputs[11])?;
    assert!(far <= 1e-5, "{far:e}");
    Ok(())
}

/// Where a stream starts counting changes nothing but rounding in a cache of absolute times that holds all it has seen.
#[test]
fn shift_and_relative_agree_until_the_window_moves() -> TestResult {
    let model = wan(TINY)?;
    let text = text(&model, 5)?;
    let run = |policy| -> Made<Vec<Tensor>> { stream(&model, &text, &mut rolling(&model, 4, 0, policy)?, &[1; 9]) };
    let (shift, relative) = (run(KvPolicy::Shift)?, run(KvPolicy::Relative { refresh: None })?);
    // Without sinks the whole window shifts alike, and rotations depend on distances alone.
    for (shift, relative) in shift.iter().zip(&relative) {
        assert!(distance(shift, relative)? <= 2e-5);
    }
    Ok(())
}

#[test]
fn a_reset_leaves_nothing_behind() -> TestResult {
    let model = wan(TINY)?;
    let text = text(&model, 5)?;
    for policy in [
        KvPolicy::Sdv2 { threshold: Some(0.2), position_reset: Some(6) },
        KvPolicy::Relative { refresh: Some(SinkRefresh { threshold: 0.9, cool_down: 1 }) },
    ] {
        let mut kv = rolling(&model, 4, 2, policy)?;
        let chunks = [2, 1, 1, 1, 1, 1, 1, 1];
        let fresh = stream(&model, &text, &mut kv, &chunks)?;
        kv.reset();
        assert_eq!(kv.residents(), refrain_stream::Residents::default());
        for (fresh, again) in fresh.iter().zip(stream(&model, &text, &mut kv, &chunks)?) {
            assert_eq!(distance(fresh, &again)?, 0.0);
        }
    }
    Ok(())
}

/// Skips the sites of one kind from the second step on.
struct Skip(Part);

impl Policy for Skip {
    fn name(&self) -> String {
        "skip".to_owned()
    }
    fn start(&mut self, _: &RunHeader) -> Result<(), CacheError> {
        Ok(())
    }
    fn decide(&mut self, ask: &Ask<'_>) -> Action {
        if ask.step.index > 0 && ask.site.part.group() == self.0.group() { Action::Reuse } else { Action::Compute }
    }
    fn history_depth(&self, site: Site, _: Step) -> usize {
        usize::from(site.part.group() == self.0.group())
    }
    fn spans(&self, _: Branch, blocks: Range<usize>) -> Vec<Range<usize>> {
        match self.0 {
            Part::Span { .. } => std::iter::once(blocks).collect(),
            _ => Vec::new(),
        }
    }
}

/// Counts what a model asks of its memory.
struct Counted<'a> {
    kv: &'a mut RollingKv,
    writes: usize,
    reads: usize,
}

impl FrameMemory for Counted<'_> {
    fn outlives_call(&self) -> bool {
        true
    }
    fn write(&mut self, block: usize, key: &Tensor, value: &Tensor) -> candle_core::Result<()> {
        self.writes += 1;
        self.kv.write(block, key, value)
    }
    fn attend(&mut self, block: usize, query: &Tensor) -> candle_core::Result<Tensor> {
        self.reads += 1;
        self.kv.attend(block, query)
    }
    fn settle(&mut self) -> candle_core::Result<()> {
        self.kv.settle()
    }
}

/// Runs two chunks under a policy that skips in the second; gives writes and reads of the second.
fn skip_second(model: &WanTransformer, kv: &mut RollingKv, part: Part) -> Made<(usize, usize)> {
    let text = text(model, 5)?;
    let guard = Guard { compute_last: false, ..Guard::default() };
    let mut cx = Context::new(Box::new(Skip(part)), guard, RunHeader::default())?;
    let mut counts = (0, 0);
    for frame in 0..2 {
        cx.begin_step(Step { index: frame as usize, count: 9, timestep: 500.0, sigma: 0.5 });
        kv.begin(&[RowChunk { row: 0, frame }], 1)?;
        let mut counted = Counted { kv, writes: 0, reads: 0 };
        model.forward_causal(&mut cx, &latents(frame, 1)?, &[500.0], (&text, &mut counted))?;
        counts = (counted.writes, counted.reads);
    }
    Ok(counts)
}

/// What a third chunk sees, nothing skipped.
fn third(model: &WanTransformer, kv: &mut RollingKv) -> Made<Tensor> {
    kv.begin(&[RowChunk { row: 0, frame: 2 }], 1)?;
    let text = text(model, 5)?;
    Ok(model.forward_causal(&mut Context::off(), &latents(2, 1)?, &[500.0], (&text, kv))?)
}

#[test]
fn a_skipped_attention_still_writes_its_keys_and_values() -> TestResult {
    // In the first block keys follow from the input alone, so that one block tells computed from reused.
    let model = wan(Tiny { layers: 1, ..TINY })?;
    let relative = KvPolicy::Relative { refresh: None };
    let mut kv = rolling(&model, 4, 1, relative)?;
    assert_eq!(skip_second(&model, &mut kv, Part::Attention)?, (1, 0));
    let after_skip = third(&model, &mut kv)?;
    assert_eq!(kv.carried(), 0);

    let mut kv = rolling(&model, 4, 1, relative)?;
    assert_eq!(skip_second(&model, &mut kv, Part::Residual)?, (1, 1));
    assert_eq!(distance(&third(&model, &mut kv)?, &after_skip)?, 0.0);
    Ok(())
}

#[test]
fn blocks_inside_a_skipped_span_or_model_repeat_the_frame_before() -> TestResult {
    let model = wan(TINY)?;
    for part in [Part::Span { end: 2 }, Part::Model] {
        let mut kv = rolling(&model, 4, 1, KvPolicy::Relative { refresh: None })?;
        assert_eq!(skip_second(&model, &mut kv, part)?, (0, 0), "{part:?}");
        assert_eq!(kv.carried(), 2, "one for each block");
        assert_eq!(kv.slot_map(0, 1).map(|map| map.frames()), Some(vec![0, 1]));
        let owed = third(&model, &mut kv)?;

        // The same stream whose second frame is the first one again.
        let text = text(&model, 5)?;
        let mut twice = rolling(&model, 4, 1, KvPolicy::Relative { refresh: None })?;
        twice.begin(&[RowChunk { row: 0, frame: 0 }], 1)?;
        model.forward_causal(&mut Context::off(), &latents(0, 1)?, &[500.0], (&text, &mut twice))?;
        twice.begin(&[RowChunk { row: 0, frame: 1 }], 1)?;
        twice.settle()?;
        assert_eq!(distance(&third(&model, &mut twice)?, &owed)?, 0.0);
    }
    Ok(())
}

#[test]
fn what_does_not_fit_is_refused() -> TestResult {
    let model = wan(TINY)?;
    let text = text(&model, 5)?;
    let mut kv = rolling(&model, 4, 2, KvPolicy::Relative { refresh: None })?;
    assert!(kv.begin(&[RowChunk { row: 1, frame: 0 }], 1).is_err(), "no such row");
    assert!(kv.begin(&[RowChunk { row: 0, frame: 0 }], 5).is_err(), "longer than the cache");
    assert!(kv.begin(&[RowChunk { row: 0, frame: 3 }], 3).is_err(), "longer than the window");
    kv.begin(&[RowChunk { row: 0, frame: 0 }], 1)?;
    let two = latents(0, 2)?;
    assert!(model.forward_causal(&mut Context::off(), &two, &[500.0], (&text, &mut kv)).is_err());
    let odd = counter(1, &[1, TINY.channels, 1, SIDE, 3])?;
    assert!(model.forward_causal(&mut Context::off(), &odd, &[500.0], (&text, &mut kv)).is_err());
    let one = latents(0, 1)?;
    assert!(model.forward_causal(&mut Context::off(), &one, &[1.0, 2.0], (&text, &mut kv)).is_err());
    Ok(())
}
