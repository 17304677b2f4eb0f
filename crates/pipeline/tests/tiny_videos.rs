//! Tiny random video pipelines against diffusers; `fixtures/make_tiny_videos.py` made them.

mod support;

use std::{ops::ControlFlow, path::Path};

use candle_core::Tensor;
use refrain_cache::{Branch, Context, Guard, RunHeader, Site, policies};
use refrain_models::{
    taehv::{TaehvDecoder, TaehvEncoder},
    wan::WanTransformer,
};
use refrain_ops::Precision;
use refrain_pipeline::{
    LoadOptions, ModelSource, Noise, Pipeline, VideoPipeline, VideoRequest, ignore, open_tensor_file, wan_from_file,
};
use support::{TestResult, assert_close, fixture, tensors};

const CASES: [&str; 3] = ["wan-unipc", "wan-euler", "wan-deep-patch"];
/// Relative L2 that f32 rounding alone explains.
const LIMIT: f32 = 1e-4;

fn load(name: &str) -> refrain_pipeline::Result<VideoPipeline> {
    VideoPipeline::load(&ModelSource::Folder(fixture(name)), LoadOptions::default())
}

type Expected = std::collections::HashMap<String, Tensor>;

fn expected(name: &str) -> candle_core::Result<Expected> {
    tensors(&fixture(name).join("expected.safetensors"))
}

fn request(name: &str, noise: &Tensor) -> Result<VideoRequest, Box<dyn std::error::Error>> {
    let fields: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(fixture(name).join("case.json"))?)?;
    let number = |field: &str| serde_json::from_value::<usize>(fields[field].clone());
    Ok(VideoRequest {
        prompt: fields["prompt"].as_str().unwrap_or_default().to_owned(),
        negative_prompt: fields["negative"].as_str().unwrap_or_default().to_owned(),
        noise: Noise::Latents(noise.clone()),
        width: number("width")?,
        height: number("height")?,
        frames: number("frames")?,
        steps: number("steps")?,
        guidance_scale: serde_json::from_value(fields["scale"].clone())?,
        sampler: None,
    })
}

/// Both rows of the transformer's golden, with its own text states.
fn transformer_agrees(what: &str, model: &WanTransformer, expected: &Expected) -> TestResult {
    let text = model.prepare_text(&expected["text_states"])?;
    let timesteps: Vec<f32> = expected["timesteps"].to_vec1()?;
    let output = model.forward(&mut Context::off(), &expected["sample"], &timesteps, &text)?;
    assert_close(what, &expected["output"], &output, LIMIT)
}

#[test]
fn transformers_agree() -> TestResult {
    for name in CASES {
        transformer_agrees(name, load(name)?.transformer(), &expected(name)?)?;
    }
    Ok(())
}

#[test]
fn text_states_agree() -> TestResult {
    for name in CASES {
        let (pipeline, expected) = (load(name)?, expected(name)?);
        let request = request(name, &expected["noise"])?;
        for (row, text) in [&request.negative_prompt, &request.prompt].into_iter().enumerate() {
            let states = pipeline.text_encoder().encode(text)?;
            assert_close(
                &format!("{name}: states of {text:?}"),
                &expected["text_states"].narrow(0, row, 1)?,
                &states,
                LIMIT,
            )?;
        }
    }
    Ok(())
}

#[test]
fn autoencoders_agree_on_whole_clips() -> TestResult {
    for name in CASES {
        let (pipeline, expected) = (load(name)?, expected(name)?);
        let autoencoder = pipeline.autoencoder();
        let encoded = autoencoder.encoder.forward(&expected["clip"], &mut autoencoder.encoder.begin())?;
        assert_close(&format!("{name}: encoded"), &expected["encoded"], &encoded.ok_or("no latents")?, LIMIT)?;
        let decoded = autoencoder.decoder.forward(&expected["latents_in"], &mut autoencoder.decoder.begin())?;
        assert_close(&format!("{name}: decoded"), &expected["decoded"], &decoded, LIMIT)?;
    }
    Ok(())
}

fn bits(tensor: &Tensor) -> candle_core::Result<Vec<u32>> {
    Ok(tensor.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f32::to_bits).collect())
}

/// Pieces of any length, down to a frame at a time, give the bits of the whole clip.
#[test]
fn a_streamed_clip_is_the_whole_clip_bit_for_bit() -> TestResult {
    for name in CASES {
        let (pipeline, expected) = (load(name)?, expected(name)?);
        let autoencoder = pipeline.autoencoder();
        let (encoder, decoder) = (&autoencoder.encoder, &autoencoder.decoder);
        let clip = &expected["clip"];
        let whole = encoder.forward(clip, &mut encoder.begin())?.ok_or("no latents")?;
        for pieces in [vec![1; 9], vec![1, 4, 4], vec![2, 3, 1, 3], vec![5, 4], vec![8, 1]] {
            let (mut cache, mut latents, mut start) = (encoder.begin(), Vec::new(), 0);
            for frames in pieces {
                latents.extend(encoder.forward(&clip.narrow(2, start, frames)?, &mut cache)?);
                start += frames;
            }
            assert_eq!(bits(&Tensor::cat(&latents, 2)?)?, bits(&whole)?, "{name}");
        }
        let latents = &expected["latents_in"];
        let whole = decoder.forward(latents, &mut decoder.begin())?;
        let mut held = Vec::new();
        for pieces in [vec![1, 1, 1], vec![2, 1], vec![1, 2]] {
            let (mut cache, mut clip, mut start) = (decoder.begin(), Vec::new(), 0);
            for frames in pieces {
                clip.push(decoder.forward(&latents.narrow(2, start, frames)?, &mut cache)?);
                start += frames;
            }
            assert_eq!(bits(&Tensor::cat(&clip, 2)?)?, bits(&whole)?, "{name}");
            held.push(cache.bytes());
        }
        assert!(held.iter().all(|&bytes| bytes == held[0] && bytes > 0), "what is remembered is bounded: {held:?}");
    }
    Ok(())
}

#[test]
fn whole_pipelines_agree_step_by_step() -> TestResult {
    for name in CASES {
        let (pipeline, expected) = (load(name)?, expected(name)?);
        let request = request(name, &expected["noise"])?;
        let mut trajectory = Vec::new();
        let video = pipeline.generate(&request, &mut Context::off(), &mut |progress| {
            trajectory.push(progress.step.latents.clone());
            ControlFlow::Continue(())
        })?;
        assert_eq!(trajectory.len(), request.steps);
        for (step, latents) in trajectory.iter().enumerate() {
            assert_close(&format!("{name}: step {step}"), &expected["trajectory"].get(step)?, latents, LIMIT)?;
        }
        assert_close(&format!("{name}: latents"), &expected["latents"], &video.latents, LIMIT)?;
        assert_close(&format!("{name}: frames"), &expected["image"], &video.frames, LIMIT)?;
    }
    Ok(())
}

/// The halves of guidance are branches of their own: a cache that reuses everything keeps them apart, and every block is
/// asked about its three parts.
#[test]
fn caches_ask_both_halves_of_guidance() -> TestResult {
    let (pipeline, expected) = (load("wan-unipc")?, expected("wan-unipc")?);
    let request = request("wan-unipc", &expected["noise"])?;
    let plain = pipeline.generate(&request, &mut Context::off(), &mut ignore)?;
    let context = |policy: &str| -> Result<Context, Box<dyn std::error::Error>> {
        let header = RunHeader { steps: request.steps, ..RunHeader::default() };
        Ok(Context::new(policies::parse(policy)?.policy(), Guard::default(), header)?)
    };
    let off = pipeline.generate(&request, &mut context("off")?, &mut ignore)?;
    assert_eq!(bits(&plain.latents)?, bits(&off.latents)?);
    let cached = pipeline.generate(&request, &mut context("interval:2")?, &mut ignore)?;
    assert!(bits(&plain.latents)? != bits(&cached.latents)?);
    assert!(cached.report.computed_share < 1.0);
    for branch in [Branch::CONDITIONAL, Branch::UNCONDITIONAL] {
        for site in [Site::attention(1), Site::cross_attention(1), Site::feed_forward(1)] {
            assert!(cached.plan.sites().contains(&site.with_branch(branch)), "{site}");
        }
    }
    Ok(())
}

#[test]
fn published_archives_load_by_their_original_names() -> TestResult {
    let model = wan_from_file(&fixture("wan-archive").join("model.pt"), Precision::F32)?;
    transformer_agrees("archive", &model, &expected("wan-unipc")?)?;
    let pipeline = load("wan-unipc")?.with_transformer(model)?;
    assert_eq!(pipeline.transformer().config().layers, 2);
    let other = wan_from_file(&fixture("wan-archive").join("model.pt"), Precision::F32)?;
    assert!(load("wan-euler")?.with_transformer(other).is_err(), "another number of channels");
    Ok(())
}

#[test]
fn hostile_archives_run_nothing() -> TestResult {
    let trace = Path::new("/tmp/refrain-archive-was-executed");
    assert!(!trace.exists());
    let said = |path: &Path| open_tensor_file(path).err().map(|error| error.to_string()).unwrap_or_default();
    let hostile = fixture("wan-archive/hostile").join("model.pt");
    let complaint = said(&hostile);
    assert!(complaint.contains("model.pt") && !complaint.contains('\n'), "{complaint}");
    assert!(!trace.exists(), "the archive's command ran");
    let folder = tempfile::tempdir()?;
    let whole = std::fs::read(fixture("wan-archive").join("model.pt"))?;
    for (name, content) in [("cut.pt", &whole[..whole.len() / 2]), ("empty.pt", &[][..]), ("text.pt", b"hello")] {
        let path = folder.path().join(name);
        std::fs::write(&path, content)?;
        assert!(said(&path).contains(name), "{name}: {}", said(&path));
    }
    assert!(said(&folder.path().join("absent.pt")).contains("no such file"));
    assert!(said(&folder.path().join("model.ckpt")).contains("ending"));
    Ok(())
}

/// TAEHV by its published description, whole and in pieces.
#[test]
fn taehv_agrees_and_streams() -> TestResult {
    let weights = open_tensor_file(&fixture("taehv").join("taehv.safetensors"))?;
    let expected = expected("taehv")?;
    let encoder = TaehvEncoder::load(&weights, Precision::F32)?;
    let decoder = TaehvDecoder::load(&weights, 5, Precision::F32)?;
    assert_eq!((encoder.frames_per_latent(), decoder.frames_per_latent()), (4, 4));
    let encoded = encoder.forward(&expected["clip"], &mut encoder.begin())?.ok_or("no latents")?;
    assert_close("encoded", &expected["encoded"], &encoded, LIMIT)?;
    let decoded = decoder.forward(&expected["latents_in"], &mut decoder.begin())?;
    assert_close("decoded", &expected["decoded"], &decoded, LIMIT)?;
    let (mut state, mut latents) = (encoder.begin(), Vec::new());
    for frame in 0..12 {
        latents.extend(encoder.forward(&expected["clip"].narrow(2, frame, 1)?, &mut state)?);
    }
    assert_eq!(bits(&Tensor::cat(&latents, 2)?)?, bits(&encoded)?);
    let (mut state, mut clip) = (decoder.begin(), Vec::new());
    for frame in 0..4 {
        clip.push(decoder.forward(&expected["latents_in"].narrow(2, frame, 1)?, &mut state)?);
    }
    assert_eq!(clip[0].dim(2)?, 1, "the first latent gives one frame");
    assert_eq!(bits(&Tensor::cat(&clip, 2)?)?, bits(&decoded)?);
    Ok(())
}

#[test]
fn requests_and_folders_that_do_not_fit_are_refused() -> TestResult {
    let pipeline = load("wan-unipc")?;
    let good = request("wan-unipc", &expected("wan-unipc")?["noise"])?;
    for (wrong, what) in [
        (VideoRequest { frames: 8, ..good.clone() }, "number of frames is 8"),
        (VideoRequest { frames: 0, ..good.clone() }, "number of frames is 0"),
        (VideoRequest { width: 20, ..good.clone() }, "width 20"),
        (VideoRequest { height: 0, ..good.clone() }, "height 0"),
        (VideoRequest { steps: 0, ..good.clone() }, "steps must be between"),
        (VideoRequest { guidance_scale: f32::NAN, ..good.clone() }, "guidance scale"),
        (VideoRequest { frames: 13, ..good.clone() }, "latents have shape"),
    ] {
        let said = pipeline.generate(&wrong, &mut Context::off(), &mut ignore).err();
        let said = said.map(|error| error.to_string()).unwrap_or_default();
        assert!(said.contains(what), "{what}: {said}");
    }
    let picture = Pipeline::load(&ModelSource::Folder(fixture("wan-unipc")), LoadOptions::default());
    assert!(picture.err().is_some_and(|error| error.to_string().contains("gen video")));
    assert!(load("pixart-plain").err().is_some_and(|error| error.to_string().contains("gen image")));
    Ok(())
}
