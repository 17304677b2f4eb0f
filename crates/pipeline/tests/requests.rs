//! Requests at the edges: sizes, steps, prompts, latents; and that a picture depends on nothing but its request.

mod support;

use std::ops::ControlFlow;

use candle_core::Tensor;
use refrain_cache::Context;
use refrain_pipeline::{GeneratedImage, ImageRequest, Noise, Pipeline, ignore};
use refrain_samplers::noise::counter;
use support::{TestResult, fixture, load};

fn tiny() -> refrain_pipeline::Result<Pipeline> {
    load(&fixture("pixart-plain"))
}

fn small() -> ImageRequest {
    ImageRequest { prompt: "cat".to_owned(), width: Some(8), height: Some(8), steps: 2, ..ImageRequest::default() }
}

fn generate(pipeline: &Pipeline, request: &ImageRequest) -> refrain_pipeline::Result<GeneratedImage> {
    pipeline.generate(request, &mut Context::off(), &mut ignore)
}

#[track_caller]
fn refused(request: &ImageRequest, expected: &str) -> TestResult {
    let message = generate(&tiny()?, request).err().map(|error| error.to_string()).unwrap_or_default();
    assert!(message.contains(expected) && !message.contains('\n'), "{message:?} lacks {expected:?}");
    Ok(())
}

fn pixels(picture: &GeneratedImage) -> candle_core::Result<Vec<f32>> {
    picture.image.flatten_all()?.to_vec1()
}

#[test]
fn impossible_sizes_are_refused() -> TestResult {
    for side in [0, 7, 9, 1 << 40] {
        refused(&ImageRequest { width: Some(side), ..small() }, &format!("width {side} is not possible"))?;
        refused(&ImageRequest { height: Some(side), ..small() }, &format!("height {side} is not possible"))?;
    }
    Ok(())
}

#[test]
fn impossible_steps_and_guidance_are_refused() -> TestResult {
    refused(&ImageRequest { steps: 0, ..small() }, "steps must be between 1 and 1000")?;
    refused(&ImageRequest { steps: 1001, ..small() }, "steps must be between 1 and 1000")?;
    refused(&ImageRequest { guidance_scale: f32::NAN, ..small() }, "guidance scale is NaN")
}

#[test]
fn foreign_latents_are_refused() -> TestResult {
    let latents = |latents: Tensor| ImageRequest { noise: Noise::Latents(latents), ..small() };
    refused(&latents(counter(1, &[1, 4, 8, 8])?), "latents have shape [1, 4, 8, 8] (f32), expected [1, 5, 8, 8]")?;
    let broken = (counter(1, &[1, 5, 8, 8])? * f64::NAN)?;
    refused(&latents(broken), "not finite")?;
    // Latents that blow up within the run name the step.
    let huge = (counter(1, &[1, 5, 8, 8])? * 1e38)?;
    refused(&latents(huge), "step 1 of 2")
}

#[test]
fn any_text_is_a_prompt() -> TestResult {
    let pipeline = tiny()?;
    let long = "a red cat ".repeat(1024);
    for prompt in ["", " \t\n", "🦊🌈👩‍👩‍👧", "\u{0}\u{1}\u{1b}[31m\u{7f}", "ИСПАНСКИЙ ﬁ Ａ", long.as_str()]
    {
        let tokens = pipeline.text_encoder().ok_or("no text encoder")?.tokens(prompt)?;
        assert!((1..=120).contains(&tokens.len()), "{} tokens", tokens.len());
        let picture = generate(&pipeline, &ImageRequest { prompt: prompt.to_owned(), ..small() })?;
        assert!(pixels(&picture)?.iter().all(|value| (0.0..=1.0).contains(value)));
    }
    Ok(())
}

#[test]
fn a_picture_depends_on_its_request_alone() -> TestResult {
    let pipeline = tiny()?;
    let of = |prompt: &str, seed: u64| {
        let noise = Noise::Seed { seed, kind: refrain_samplers::NoiseKind::Counter };
        generate(&pipeline, &ImageRequest { prompt: prompt.to_owned(), noise, ..small() })
    };
    let first = pixels(&of("cat", 3)?)?;
    assert_ne!(pixels(&of("cat", 4)?)?, first);
    assert_ne!(pixels(&of("dog on the sea", 3)?)?, first);
    assert_eq!(pixels(&of("cat", 3)?)?, first);
    let fresh = generate(
        &tiny()?,
        &ImageRequest { noise: Noise::Seed { seed: 3, kind: refrain_samplers::NoiseKind::Counter }, ..small() },
    )?;
    assert_eq!(pixels(&fresh)?, first);
    Ok(())
}

#[test]
fn an_observer_sees_every_step_and_can_stop() -> TestResult {
    let (pipeline, mut seen) = (tiny()?, Vec::new());
    let stopped = pipeline.generate(&ImageRequest { steps: 5, ..small() }, &mut Context::off(), &mut |progress| {
        seen.push(progress.step.index);
        if seen.len() == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!(seen, [0, 1, 2]);
    assert!(stopped.err().is_some_and(|error| error.is_stopped()));
    Ok(())
}

#[test]
fn costs_and_fingerprints_are_told() -> TestResult {
    let pipeline = tiny()?;
    let (height, width) = pipeline.default_size();
    assert_eq!((height, width, pipeline.size_multiple()), (64, 64, 2));
    let sites = pipeline.sites(height, width, 20)?;
    let names: Vec<String> = sites.iter().map(|site| site.site.to_string()).collect();
    assert_eq!(names, ["0.attention", "0.cross-attention", "0.feed-forward"]);
    // 1024 tokens of width 36: two products of the feed-forward, four times as wide inside.
    assert_eq!(sites.last().map(|site| site.flops), Some(2 * 2 * 1024 * 36 * 144));
    let fingerprint = pipeline.fingerprint()?;
    assert_eq!(fingerprint.len(), 64);
    assert_eq!(fingerprint, tiny()?.fingerprint()?);
    assert_ne!(fingerprint, load(&fixture("pixart-patch1"))?.fingerprint()?);
    let header = pipeline.run_header(&small())?;
    assert_eq!((header.steps, header.sampler.as_str(), header.dtype.as_str()), (2, "ddim", "f32"));
    Ok(())
}

#[test]
fn parameters_are_counted_by_component() -> TestResult {
    let pipeline = load(&support::repository("weights/emoji"))?;
    let names: Vec<_> = pipeline.parameters().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["text_encoder", "transformer", "vae"]);
    // What is not cacheable is a few percent.
    let shape = pipeline.latent_shape(128, 128, 20)?;
    let sites: u64 = pipeline.sites(128, 128, 20)?.iter().map(|site| site.flops).sum();
    let all = pipeline.denoiser().flops(&shape);
    assert!(sites < all && sites > all * 95 / 100, "{sites} of {all}");
    Ok(())
}
