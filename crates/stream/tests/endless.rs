//! Streams: batch against sequential, prompt switches, and ten thousand frames.

mod support;

use candle_core::Tensor;
use refrain_cache::{Context, Guard, RunHeader, policies};
use refrain_models::wan::WanTransformer;
use refrain_samplers::noise::counter;
use refrain_stream::{
    ChunkNoise, FewSteps, Incoming, KvOptions, KvPolicy, KvShape, Mode, Outgoing, SinkRefresh, StreamOptions,
    VideoStream,
};
use support::{Made, TINY, TestResult, Tiny, distance, text, wan};

const SIDE: usize = 4;

fn options(steps: usize, mode: Mode, policy: KvPolicy) -> Made<StreamOptions> {
    Ok(StreamOptions {
        kv: KvOptions { length: 4, sinks: 1, policy },
        steps: FewSteps::video_to_video(steps)?,
        mode,
        prediction: refrain_stream::Prediction::Velocity,
        copy_first_chunk: false,
        clean_pass: false,
    })
}

fn incoming(model: &WanTransformer, chunk: u64, frames: usize, level: usize) -> Made<Incoming> {
    let channels = model.config().out_channels;
    let level = FewSteps::video_to_video(1)?.at(700.0 - level as f32);
    let condition = model.config().in_channels - channels;
    let condition = (condition > 0).then(|| counter(900 + chunk, &[1, condition, frames, SIDE, SIDE])).transpose()?;
    Ok(Incoming { latents: counter(50 + chunk, &[1, channels, frames, SIDE, SIDE])?, level, condition })
}

fn run(model: &WanTransformer, options: StreamOptions, chunks: u64) -> Made<Vec<Outgoing>> {
    let text = text(model, 5)?;
    let mut noise = ChunkNoise { seed: 9 };
    let mut stream = VideoStream::new(model, options, (SIDE, SIDE))?;
    let mut out = Vec::new();
    let cx = &mut Context::off();
    for chunk in 0..chunks {
        // The first chunk has two latents; the noise controller moves the first level from chunk to chunk.
        let frames = if chunk == 0 { 2 } else { 1 };
        out.extend(stream.push(cx, incoming(model, chunk, frames, (chunk % 5) as usize * 20)?, &text, &mut noise)?);
    }
    while let Some(last) = stream.flush(cx, &text, &mut noise)? {
        out.push(last);
    }
    Ok(out)
}

#[test]
fn batch_and_sequential_give_the_same_frames() -> TestResult {
    let model = wan(Tiny { condition: 2, ..TINY })?;
    for policy in [
        KvPolicy::Relative { refresh: Some(SinkRefresh { threshold: 0.5, cool_down: 2 }) },
        KvPolicy::Sdv2 { threshold: Some(0.2), position_reset: Some(6) },
        KvPolicy::Shift,
    ] {
        for steps in 1..=4 {
            let batch = run(&model, options(steps, Mode::Batch, policy)?, 11)?;
            let sequential = run(&model, options(steps, Mode::Sequential, policy)?, 11)?;
            assert_eq!((batch.len(), sequential.len()), (11, 11));
            for (index, (batch, sequential)) in batch.iter().zip(&sequential).enumerate() {
                assert_eq!((batch.chunk, batch.frame), (sequential.chunk, sequential.frame));
                assert_eq!(batch.chunk, index as u64, "chunks leave in order");
                assert_eq!(distance(&batch.latents, &sequential.latents)?, 0.0, "{policy:?}, {steps} steps");
            }
        }
    }
    Ok(())
}

/// One evaluation a chunk, whatever the number of steps; a chunk leaves `steps - 1` chunks after it came.
#[test]
fn a_stream_batch_is_one_forward_a_chunk() -> TestResult {
    let model = wan(TINY)?;
    let mut stream = VideoStream::new(&model, options(3, Mode::Batch, KvPolicy::Shift)?, (SIDE, SIDE))?;
    let (text, mut noise, cx) = (text(&model, 5)?, ChunkNoise { seed: 1 }, &mut Context::off());
    let mut left = Vec::new();
    for chunk in 0..8 {
        let out = stream.push(cx, incoming(&model, chunk, 1, 0)?, &text, &mut noise)?;
        left.push(out.map(|out| out.chunk));
    }
    assert_eq!(left, [Some(0), None, None, Some(1), Some(2), Some(3), Some(4), Some(5)]);
    assert_eq!((stream.evaluations(), stream.in_flight()), (3 + 7, 2));
    let wide = Incoming { latents: counter(1, &[1, TINY.channels, 2, SIDE, SIDE])?, ..incoming(&model, 0, 1, 0)? };
    assert!(stream.push(cx, wide, &text, &mut noise).is_err(), "another shape in a batch");
    Ok(())
}

/// After StreamDiffusionV2's first chunk every row holds the last step's keys; without, each row its own.
#[test]
fn copying_the_first_chunk_changes_the_second() -> TestResult {
    let model = wan(TINY)?;
    let plain = options(2, Mode::Sequential, KvPolicy::from_name("sdv2")?)?;
    let copied = StreamOptions { copy_first_chunk: true, ..plain.clone() };
    let (own, same) = (run(&model, plain, 2)?, run(&model, copied, 2)?);
    assert_eq!(distance(&own[0].latents, &same[0].latents)?, 0.0);
    assert!(distance(&own[1].latents, &same[1].latents)? > 1e-4);
    Ok(())
}

/// A clean pass: what later chunks see does not depend on the levels that a chunk passed, only on how it came out.
#[test]
fn a_clean_pass_leaves_clean_keys() -> TestResult {
    let model = wan(TINY)?;
    let with = |clean_pass| -> Made<Vec<Outgoing>> {
        run(&model, StreamOptions { clean_pass, ..options(2, Mode::Sequential, KvPolicy::Shift)? }, 3)
    };
    let (clean, noisy) = (with(true)?, with(false)?);
    assert_eq!(distance(&clean[0].latents, &noisy[0].latents)?, 0.0);
    assert!(distance(&clean[1].latents, &noisy[1].latents)? > 1e-4);
    let both = StreamOptions { clean_pass: true, ..options(2, Mode::Batch, KvPolicy::Shift)? };
    assert!(VideoStream::new(&model, both, (SIDE, SIDE)).is_err());
    Ok(())
}

/// One token a frame, one block, one head: what a frame costs here is the bookkeeping.
fn smallest() -> Made<WanTransformer> {
    wan(Tiny { heads: 1, head_width: 6, layers: 1, channels: 1, condition: 0, patch: SIDE })
}

/// Pages of memory that the process has in use, where the system says so.
fn resident() -> Option<usize> {
    std::fs::read_to_string("/proc/self/statm").ok()?.split_whitespace().nth(1)?.parse().ok()
}

/// Sinks that are replaced and prompts that change make features of before worthless: a policy that would reuse everything
/// computes anew.
#[test]
fn a_replaced_sink_makes_everything_compute() -> TestResult {
    let model = wan(TINY)?;
    let text = text(&model, 5)?;
    let computed = |policy: KvPolicy| -> Made<f64> {
        let spec = policies::parse("motion:n=4+still=0+spike=1e6+refresh=100000")?;
        let guard = Guard { compute_last: false, ..Guard::default() };
        let mut cx = Context::new(spec.policy(), guard, RunHeader { steps: 1, ..RunHeader::default() })?;
        let mut noise = ChunkNoise { seed: 2 };
        let mut stream = VideoStream::new(&model, options(1, Mode::Sequential, policy)?, (SIDE, SIDE))?;
        for chunk in 0..24 {
            stream.push(&mut cx, incoming(&model, chunk, 1, 0)?, &text, &mut noise)?;
        }
        assert_eq!(stream.kv().refreshes() > 0, policy != KvPolicy::Relative { refresh: None });
        Ok(cx.report().computed_share)
    };
    let kept = computed(KvPolicy::Relative { refresh: None })?;
    let replaced = computed(KvPolicy::Relative { refresh: Some(SinkRefresh { threshold: 1.0, cool_down: 1 }) })?;
    assert!(replaced > kept + 0.2, "{kept} {replaced}");
    Ok(())
}

#[test]
fn ten_thousand_frames_hold_no_more_than_the_first() -> TestResult {
    let model = smallest()?;
    let (text, mut noise, cx) = (text(&model, 5)?, ChunkNoise { seed: 1 }, &mut Context::off());
    let refresh = Some(SinkRefresh { threshold: 0.0, cool_down: 6 });
    let kv = KvOptions { length: 6, sinks: 3, policy: KvPolicy::Relative { refresh } };
    let options = StreamOptions { kv, ..options(1, Mode::Sequential, kv.policy)? };
    let bytes = KvShape::of(&model, SIDE, SIDE)?.bytes(6);
    let mut stream = VideoStream::new(&model, options, (SIDE, SIDE))?;
    let frame: Tensor = incoming(&model, 0, 1, 0)?.latents;
    let (mut spread, mut early) = (Vec::new(), 0);
    for chunk in 0..10_000u64 {
        let level = FewSteps::video_to_video(1)?.at(700.0);
        let next = Incoming { latents: frame.clone(), level, condition: None };
        let out = stream.push(cx, next, &text, &mut noise)?.ok_or("no chunk")?;
        assert_eq!((out.chunk, out.frame), (chunk, chunk));
        if chunk == 500 {
            early = resident().unwrap_or(0);
        }
        let held = stream.kv().residents();
        assert_eq!(held.bytes, bytes, "frame {chunk}");
        assert!(held.frames <= 6 && held.latest_time <= 5, "frame {chunk}: {held:?}");
        if [49, 50, 51, 1023, 1024, 1025, 9_999].contains(&chunk) {
            spread.push(out.latents.abs()?.mean_all()?.to_scalar::<f32>()?);
        }
    }
    if let (1.., Some(late)) = (early, resident()) {
        assert!(late <= early + early / 50, "resident memory grew from {early} to {late} pages");
    }
    // The input never changes, so neither may the answer, once the window has filled.
    let (least, largest) = spread.iter().fold((f32::MAX, 0f32), |(low, high), &size| (low.min(size), high.max(size)));
    assert!(largest - least <= 1e-4 * largest, "{spread:?}");
    Ok(())
}

#[test]
fn a_thousand_prompt_switches_leave_no_trace() -> TestResult {
    let model = smallest()?;
    let texts = [text(&model, 5)?, text(&model, 6)?];
    let (mut noise, cx) = (ChunkNoise { seed: 1 }, &mut Context::off());
    let policy = KvPolicy::from_name("sdv2")?;
    let bytes = 2 * KvShape::of(&model, SIDE, SIDE)?.bytes(4);
    let mut stream = VideoStream::new(&model, options(2, Mode::Batch, policy)?, (SIDE, SIDE))?;
    let mut first: Vec<Vec<f32>> = Vec::new();
    for switch in 0..1_000usize {
        // A hard cut every second time: the session must then equal a fresh one.
        let prompt = &texts[switch / 2 % 2];
        if switch % 2 == 0 {
            stream.reset();
        }
        let out = stream.push(cx, incoming(&model, (switch % 2) as u64, 1, 0)?, prompt, &mut noise)?;
        if let Some(out) = out.filter(|_| switch % 2 == 0) {
            first.push(out.latents.flatten_all()?.to_vec1()?);
        }
        assert_eq!(stream.kv().residents().bytes, bytes);
    }
    assert_eq!(first.len(), 500);
    assert!(first.iter().skip(2).zip(&first).all(|(later, earlier)| later == earlier));
    assert!(first[0] != first[1], "the prompt matters");
    Ok(())
}
