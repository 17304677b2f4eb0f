//! The built-in weights against diffusers: goldens of `tests/goldens`, made by `weights/recipes/make_goldens.py`.

mod support;

use std::ops::ControlFlow;

use candle_core::{D, Tensor};
use refrain_cache::Context;
use refrain_models::Conditions;
use refrain_pipeline::{ImageRequest, Noise, Pipeline};
use support::{TestResult, assert_close, load, repository, tensors};

/// A golden's `case.json`.
struct Case {
    prompts: Vec<String>,
    request: ImageRequest,
}

fn case(name: &str) -> Result<Case, Box<dyn std::error::Error>> {
    let text = std::fs::read_to_string(repository(&format!("tests/goldens/{name}/case.json")))?;
    let fields: serde_json::Value = serde_json::from_str(&text)?;
    let text = |field: &str| fields[field].as_str().unwrap_or_default().to_owned();
    Ok(Case {
        prompts: serde_json::from_value(fields["prompts"].clone())?,
        request: ImageRequest {
            negative_prompt: text("negative"),
            steps: serde_json::from_value(fields["steps"].clone())?,
            guidance_scale: serde_json::from_value(fields["cfg"].clone())?,
            sampler: Some(text("sampler").parse()?),
            ..ImageRequest::default()
        },
    })
}

fn emoji() -> refrain_pipeline::Result<Pipeline> {
    load(&repository("weights/emoji"))
}

fn emoji_unet() -> refrain_pipeline::Result<Pipeline> {
    load(&repository("weights/emoji-unet"))
}

/// Every picture of a golden: latents after each step (if known), final latents, pixels (if known).
fn check_pictures(pipeline: &Pipeline, name: &str) -> TestResult {
    let folder = repository("tests/goldens").join(name);
    let noise = tensors(&folder.join("latents.safetensors"))?;
    let expected = tensors(&folder.join("expected.safetensors"))?;
    let case = case(name)?;
    for (index, prompt) in case.prompts.iter().enumerate() {
        let request = ImageRequest {
            prompt: prompt.clone(),
            noise: Noise::Latents(noise["latents"].narrow(0, index, 1)?),
            ..case.request.clone()
        };
        let mut trajectory = Vec::new();
        let picture = pipeline.generate(&request, &mut Context::off(), &mut |progress| {
            trajectory.push(progress.step.latents.clone());
            ControlFlow::Continue(())
        })?;
        if let Some(steps) = expected.get("trajectory") {
            for (step, latents) in trajectory.iter().enumerate() {
                let reference = steps.get(step)?.narrow(0, index, 1)?;
                assert_close(&format!("{name} {prompt}: step {step}"), &reference, latents, 1e-4)?;
            }
        }
        let reference = |key: &str| expected[key].narrow(0, index, 1);
        assert_close(&format!("{name} {prompt}: latents"), &reference("latents")?, &picture.latents, 1e-4)?;
        if expected.contains_key("image") {
            assert_close(&format!("{name} {prompt}: image"), &reference("image")?, &picture.image, 1e-3)?;
        }
    }
    Ok(())
}

#[test]
fn ddim_with_guidance_agrees() -> TestResult {
    check_pictures(&emoji()?, "emoji-ddim20")
}

#[test]
fn dpm_solver_with_guidance_agrees() -> TestResult {
    check_pictures(&emoji()?, "emoji-dpm12")
}

#[test]
fn ddim_without_guidance_agrees() -> TestResult {
    check_pictures(&emoji()?, "emoji-nocfg")
}

#[test]
fn the_unet_agrees() -> TestResult {
    check_pictures(&emoji_unet()?, "emoji-unet-ddim10")
}

/// The states of real tokens agree, though ours were never padded.
#[test]
fn text_states_agree() -> TestResult {
    let expected = tensors(&repository("tests/goldens/emoji-ddim20/expected.safetensors"))?;
    let pipeline = emoji()?;
    let text = pipeline.text_encoder().ok_or("no text encoder")?;
    for (index, prompt) in case("emoji-ddim20")?.prompts.iter().enumerate() {
        let states = text.encode(prompt)?;
        let tokens = states.dim(1)?;
        let mask: Vec<f32> = expected["prompt_mask"].get(index)?.to_vec1()?;
        assert_eq!(mask.iter().filter(|keep| **keep == 1.0).count(), tokens);
        let reference = expected["prompt_embeds"].narrow(0, index, 1)?.narrow(1, 0, tokens)?;
        assert_close(&format!("states of {prompt}"), &reference, &states, 1e-4)?;
    }
    Ok(())
}

/// The transformer's output at the first step, both halves of guidance.
#[test]
fn first_output_agrees() -> TestResult {
    let folder = repository("tests/goldens/emoji-ddim20");
    let noise = &tensors(&folder.join("latents.safetensors"))?["latents"];
    let expected = &tensors(&folder.join("expected.safetensors"))?["first_output"];
    let (pipeline, case) = (emoji()?, case("emoji-ddim20")?);
    let pictures = case.prompts.len();
    for (index, prompt) in case.prompts.iter().enumerate() {
        let request = ImageRequest { prompt: prompt.clone(), ..case.request.clone() };
        let timestep = pipeline.schedule(&request)?.step(0).timestep;
        let latents = noise.narrow(0, index, 1)?;
        let both = Tensor::cat(&[&latents, &latents], 0)?;
        let conditions = pipeline.conditions(&request)?;
        let output = pipeline.denoiser().denoise(&mut Context::off(), &both, &[timestep], &conditions)?;
        let rows = Tensor::new(&[index as u32, (pictures + index) as u32], latents.device())?;
        assert_close(prompt, &expected.index_select(&rows, 0)?, &output, 1e-4)?;
    }
    Ok(())
}

/// Padding a text changes its prediction by rounding alone: so texts are never padded to the model's limit.
#[test]
fn padding_changes_nothing() -> TestResult {
    let pipeline = emoji()?;
    let request = ImageRequest { prompt: "pizza".to_owned(), guidance_scale: 1.0, ..ImageRequest::default() };
    let latents = refrain_samplers::noise::counter(7, &[1, 32, 16, 16])?;
    let denoise = |conditions: &Conditions, rows: &Tensor| {
        pipeline.denoiser().denoise(&mut Context::off(), rows, &[500.0], conditions)
    };
    let alone = denoise(&pipeline.conditions(&request)?, &latents)?;
    let long = ImageRequest {
        negative_prompt: "a long text about a red fox on a blue background".to_owned(),
        guidance_scale: 4.0,
        ..request
    };
    let both = denoise(&pipeline.conditions(&long)?, &Tensor::cat(&[&latents, &latents], 0)?)?;
    assert_eq!(both.dim(D::Minus1)?, 16);
    assert_close("padded", &alone, &both.narrow(0, 1, 1)?, 1e-6)
}
