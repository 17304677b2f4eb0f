//! The cache on whole pipelines: what is off changes nothing, what was executed can be replayed.

mod support;

use refrain_cache::{
    Context, Guard,
    policies::{self, Replay},
};
use refrain_pipeline::{GeneratedImage, ImageRequest, Pipeline, ignore};
use support::{TestResult, fixture, load};

const PIPELINES: [&str; 2] = ["pixart-conditions", "dit-few-classes"];

fn request() -> ImageRequest {
    ImageRequest {
        prompt: "red cat".to_owned(),
        class_label: Some(2),
        steps: 8,
        guidance_scale: 2.0,
        width: Some(16),
        height: Some(16),
        ..ImageRequest::default()
    }
}

fn generate(pipeline: &Pipeline, cache: &mut Context) -> refrain_pipeline::Result<GeneratedImage> {
    pipeline.generate(&request(), cache, &mut ignore)
}

fn pixels(picture: &GeneratedImage) -> candle_core::Result<Vec<f32>> {
    picture.image.flatten_all()?.to_vec1()
}

/// Every policy: it skips something (unless it is off), a second run on the same context and a replay of the executed plan
/// give the same bits.
#[test]
fn executed_plans_replay_to_the_same_pixels() -> TestResult {
    for name in PIPELINES {
        let pipeline = load(&fixture(name))?;
        let header = pipeline.run_header(&request())?;
        let plain = pixels(&generate(&pipeline, &mut Context::off())?)?;
        for spelling in ["off", "interval", "taylor", "dbcache:threshold=0.5", "easycache"] {
            let policy = policies::parse(spelling)?.policy();
            let mut cache = Context::new(policy, Guard::default(), header.clone())?;
            let first = generate(&pipeline, &mut cache)?;
            let share = first.report.computed_share;
            println!("{name} {spelling}: {share:.2} computed");
            assert_eq!(pixels(&generate(&pipeline, &mut cache)?)?, pixels(&first)?, "{name} {spelling}: again");
            let replay = Box::new(Replay::new(first.plan.clone()));
            let replayed = generate(&pipeline, &mut Context::new(replay, Guard::default(), header.clone())?)?;
            assert_eq!(pixels(&replayed)?, pixels(&first)?, "{name} {spelling}: replayed");
            if spelling == "off" {
                assert_eq!(pixels(&first)?, plain, "{name}: a context that computes all changes bits");
            }
            if ["interval", "taylor"].contains(&spelling) {
                assert!(share < 0.9 && pixels(&first)? != plain, "{name} {spelling}: nothing skipped");
            }
        }
    }
    Ok(())
}
