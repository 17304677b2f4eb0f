//! The cache on whole pipelines: what is off changes nothing, what was executed can be replayed.

mod support;

use refrain_cache::{
    Context, Guard, Site,
    policies::{self, Replay},
};
use refrain_pipeline::{GeneratedImage, ImageRequest, Pipeline, ignore};
use support::{TestResult, fixture, load};

const PIPELINES: [&str; 5] = ["pixart-conditions", "dit-few-classes", "unet-epsilon", "unet-velocity", "unet-odd"];

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

/// Keys and values of the text do not change over steps: computed once per prompt, they give the bits that computing them at
/// every step gives.
#[test]
fn texts_prepared_once_serve_all_steps() -> TestResult {
    use refrain_samplers::{NoiseKind, NoiseStream, sample};
    for name in ["unet-epsilon", "unet-velocity", "pixart-conditions"] {
        let (pipeline, request) = (load(&fixture(name))?, request());
        let schedule = pipeline.schedule(&request)?;
        let mut noise = NoiseStream::new(NoiseKind::Counter, 0);
        let side = 16 / pipeline.autoencoder().config().factor();
        let unit_noise = noise.normal(&[1, pipeline.denoiser().facts().latent_channels, side, side])?;
        let latents = schedule.initial_latents(&unit_noise)?;
        let anew = sample(
            &mut |latents, step| {
                let conditions = pipeline.conditions(&request)?;
                let guided = (&conditions, request.guidance_scale);
                Ok(pipeline.predict(&mut Context::off(), latents, step.timestep, guided)?)
            },
            latents,
            &schedule,
            &mut noise,
            &mut refrain_samplers::ignore,
        )?;
        let once = generate(&pipeline, &mut Context::off())?.latents;
        let bits = |latents: &candle_core::Tensor| latents.flatten_all()?.to_vec1::<f32>();
        assert_eq!(bits(&anew)?, bits(&once)?, "{name}");
    }
    Ok(())
}

/// Stages nest: an inner one that is left out covers what lies inside it, and the outermost layers always run.
#[test]
fn deepcache_covers_what_lies_below_its_branch() -> TestResult {
    let pipeline = load(&fixture("unet-epsilon"))?;
    let header = pipeline.run_header(&request())?;
    let mut last = 1.0;
    // Five units of the way down: branches 0 to 7 of eight skip connections, the deepest hides the least.
    for branch in (0..8).rev() {
        let policy = policies::parse(&format!("deepcache:n=4+branch={branch}"))?.policy();
        let picture = generate(&pipeline, &mut Context::new(policy, Guard::default(), header.clone())?)?;
        let share = picture.report.computed_share;
        assert!(share < last, "branch {branch} computes {share}, the one below it {last}");
        last = share;
        let plan = &picture.plan;
        let letters = |site: Site| plan.column_of(site).map(|column| plan.letters(column)).unwrap_or_default();
        assert_eq!(letters(Site::stage(branch)), "CRRRCRRC", "branch {branch}");
        assert_eq!(letters(Site::stage(7)), if branch == 7 { "CRRRCRRC" } else { "C---C--C" });
    }
    Ok(())
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
        for spelling in ["off", "interval", "taylor", "dbcache:threshold=0.5", "easycache", "deepcache:n=2"] {
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
            let skips: &[&str] = if name.starts_with("unet") {
                &["interval", "taylor", "dbcache:threshold=0.5", "deepcache:n=2"]
            } else {
                &["interval", "taylor"]
            };
            if skips.contains(&spelling) {
                assert!(share < 0.9 && pixels(&first)? != plain, "{name} {spelling}: nothing skipped");
            }
        }
    }
    Ok(())
}
