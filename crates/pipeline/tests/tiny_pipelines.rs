//! Tiny random pipelines against diffusers: every dimension differs (`fixtures/make_tiny_pipelines.py` tells which).

mod support;

use std::{collections::HashMap, path::Path};

use candle_core::Tensor;
use refrain_cache::Context;
use refrain_models::Conditions;
use refrain_pipeline::{ImageRequest, Noise, Pipeline};
use support::{TestResult, assert_close, fixture, load, tensors};

const LIMIT: f32 = 1e-4;

fn request(folder: &Path) -> Result<ImageRequest, Box<dyn std::error::Error>> {
    let case: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(folder.join("case.json"))?)?;
    let text = |field: &str| case[field].as_str().unwrap_or_default().to_owned();
    let count = |field: &str| case[field].as_u64().map(|value| value as usize);
    Ok(ImageRequest {
        prompt: text("prompt"),
        negative_prompt: text("negative"),
        class_label: count("label").map(|label| label as u32),
        height: count("height"),
        width: count("width"),
        steps: count("steps").ok_or("no steps")?,
        guidance_scale: case["scale"].as_f64().ok_or("no scale")? as f32,
        ..ImageRequest::default()
    })
}

fn autoencoder_agrees(pipeline: &Pipeline, expected: &HashMap<String, Tensor>) -> TestResult {
    let autoencoder = pipeline.autoencoder();
    let latents = (&expected["latents_in"] * autoencoder.config().scaling_factor)?;
    // The pictures of a pipeline are clamped to 0..1.
    let reference = expected["decoded"].affine(0.5, 0.5)?.clamp(0f32, 1f32)?;
    assert_close("decoded", &reference, &autoencoder.decode(&latents)?, LIMIT)?;
    let reference = (&expected["encoded"] * autoencoder.config().scaling_factor)?;
    let picture = expected["picture"].affine(0.5, 0.5)?;
    assert_close("encoded", &reference, &autoencoder.encode(&picture)?, LIMIT)
}

/// Two rows at different timesteps.
fn transformer_agrees(pipeline: &Pipeline, expected: &HashMap<String, Tensor>, conditions: &Conditions) -> TestResult {
    let timesteps: Vec<f32> = expected["timesteps"].to_vec1()?;
    let output = pipeline.denoiser().denoise(&mut Context::off(), &expected["sample"], &timesteps, conditions)?;
    // A learned variance, the second half of the channels, is dropped.
    let channels = pipeline.denoiser().facts().latent_channels;
    assert_close("transformer", &expected["output"].narrow(1, 0, channels)?, &output, LIMIT)
}

fn pictures_agree(pipeline: &Pipeline, expected: &HashMap<String, Tensor>, request: ImageRequest) -> TestResult {
    let request = ImageRequest { noise: Noise::Latents(expected["noise"].clone()), ..request };
    let picture = pipeline.generate(&request, &mut Context::off(), &mut refrain_pipeline::ignore)?;
    assert_close("latents", &expected["latents"], &picture.latents, LIMIT)?;
    assert_close("image", &expected["image"], &picture.image, LIMIT)
}

fn text_pipeline_agrees(name: &str) -> TestResult {
    let folder = fixture(name);
    let (pipeline, expected) = (load(&folder)?, tensors(&folder.join("expected.safetensors"))?);
    let request = request(&folder)?;
    let text = pipeline.text_encoder().ok_or("no text encoder")?;
    for (row, prompt) in [&request.negative_prompt, &request.prompt].into_iter().enumerate() {
        let states = text.encode(prompt)?;
        let reference = expected["text_states"].narrow(0, row, 1)?.narrow(1, 0, states.dim(1)?)?;
        assert_close(&format!("states of {prompt:?}"), &reference, &states, LIMIT)?;
        let tokens: f32 = expected["text_mask"].get(row)?.sum_all()?.to_scalar()?;
        assert_eq!(tokens as usize, states.dim(1)?);
    }
    let guided = ImageRequest { guidance_scale: 2.0, ..request.clone() };
    transformer_agrees(&pipeline, &expected, &pipeline.conditions(&guided)?)?;
    autoencoder_agrees(&pipeline, &expected)?;
    pictures_agree(&pipeline, &expected, request)
}

#[test]
fn learned_sigma_and_relu_t5() -> TestResult {
    text_pipeline_agrees("pixart-learned-sigma")
}

#[test]
fn single_pixel_patches_and_shards() -> TestResult {
    text_pipeline_agrees("pixart-patch1")
}

#[test]
fn size_conditions_and_attentive_levels() -> TestResult {
    text_pipeline_agrees("pixart-conditions")
}

#[test]
fn single_level_autoencoder_without_guidance() -> TestResult {
    text_pipeline_agrees("pixart-plain")
}

/// The layout of Stable Diffusion 1.5.
#[test]
fn unet_with_epsilon_and_old_tokenizer() -> TestResult {
    text_pipeline_agrees("unet-epsilon")
}

/// The layout of Stable Diffusion 2.1.
#[test]
fn unet_with_velocity() -> TestResult {
    text_pipeline_agrees("unet-velocity")
}

#[test]
fn unet_with_odd_sides() -> TestResult {
    text_pipeline_agrees("unet-odd")
}

/// Every layer of Stable Diffusion 1.5, narrower.
#[test]
fn unet_with_the_layers_of_stable_diffusion() -> TestResult {
    text_pipeline_agrees("unet-sd15")
}

fn class_pipeline_agrees(name: &str) -> TestResult {
    let folder = fixture(name);
    let (pipeline, expected) = (load(&folder)?, tensors(&folder.join("expected.safetensors"))?);
    let request = request(&folder)?;
    let guided = ImageRequest { guidance_scale: 2.0, ..request.clone() };
    transformer_agrees(&pipeline, &expected, &pipeline.conditions(&guided)?)?;
    autoencoder_agrees(&pipeline, &expected)?;
    pictures_agree(&pipeline, &expected, request)
}

/// The pipeline itself ran here: its null class is 1000.
#[test]
fn dit_with_learned_sigma() -> TestResult {
    class_pipeline_agrees("dit-learned-sigma")
}

#[test]
fn dit_with_few_classes() -> TestResult {
    class_pipeline_agrees("dit-few-classes")
}

#[test]
fn dit_with_large_patches_and_without_guidance() -> TestResult {
    class_pipeline_agrees("dit-patch4")
}

#[test]
fn classes_go_by_number_or_name() -> TestResult {
    let pipeline = load(&fixture("dit-learned-sigma"))?;
    let classes = pipeline.classes().ok_or("no classes")?;
    for text in ["207", "golden retriever", " Golden Retriever", "dog"] {
        assert_eq!(classes.find(text)?, 207);
    }
    for (text, expected) in [("1000", "beyond"), ("-1", "unknown"), ("retriever", "did you mean golden retriever?")] {
        let message = classes.find(text).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(message.contains(expected), "{message}");
    }
    assert!(pipeline.conditions(&ImageRequest::default()).is_err());
    Ok(())
}
