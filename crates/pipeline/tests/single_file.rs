//! Stable Diffusion 1.x in one file: the same picture as from the folder, and what is no such file is refused in one line.

mod support;

use std::{collections::HashMap, path::Path, sync::Arc};

use candle_core::{DType, Device, Tensor};
use refrain_cache::Context;
use refrain_pipeline::{ImageRequest, LoadOptions, ModelSource, Pipeline, SingleFile, ignore};
use support::{TestResult, fixture, load};

/// Layers of a level of the fixture's U-Net, with what halves the size; levels of its autoencoder.
const LAYERS: usize = 3;
const LEVELS: usize = 2;

/// The original name of a tensor of the fixture, by the rules of the authors' program.
fn original(component: &str, name: &str) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    let number = |at: usize| parts[at].parse::<usize>().unwrap_or_default();
    let residual = |rest: &str| {
        rest.replace("norm1", "in_layers.0")
            .replace("conv1", "in_layers.2")
            .replace("time_emb_proj", "emb_layers.1")
            .replace("norm2", "out_layers.0")
            .replace("conv2", "out_layers.3")
            .replace("conv_shortcut", "skip_connection")
    };
    let tail = |from: usize| parts[from..].join(".");
    match (component, parts[0]) {
        ("text_encoder", _) if name.starts_with("text_model.") => format!("cond_stage_model.transformer.{name}"),
        ("text_encoder", _) => format!("cond_stage_model.transformer.text_model.{name}"),
        ("unet", "time_embedding") => {
            let at = if parts[1] == "linear_1" { 0 } else { 2 };
            format!("model.diffusion_model.time_embed.{at}.{}", parts[2])
        }
        ("unet", "conv_in") => format!("model.diffusion_model.input_blocks.0.0.{}", parts[1]),
        ("unet", "conv_norm_out") => format!("model.diffusion_model.out.0.{}", parts[1]),
        ("unet", "conv_out") => format!("model.diffusion_model.out.2.{}", parts[1]),
        ("unet", "mid_block") => match parts[1] {
            "attentions" => format!("model.diffusion_model.middle_block.1.{}", tail(3)),
            _ => format!("model.diffusion_model.middle_block.{}.{}", 2 * number(2), residual(&tail(3))),
        },
        ("unet", way) => {
            let (list, first) = if way == "down_blocks" { ("input_blocks", 1) } else { ("output_blocks", 0) };
            let place = |layer: usize| format!("model.diffusion_model.{list}.{}", first + number(1) * LAYERS + layer);
            match parts[2] {
                "resnets" => format!("{}.0.{}", place(number(3)), residual(&tail(4))),
                "attentions" => format!("{}.1.{}", place(number(3)), tail(4)),
                "downsamplers" => format!("{}.0.op.{}", place(LAYERS - 1), parts[5]),
                // The coarsest level of the fixture has no attention in front of it.
                _ => format!("{}.{}.conv.{}", place(LAYERS - 1), 1 + number(1).min(1), parts[5]),
            }
        }
        (_, "quant_conv" | "post_quant_conv") => format!("first_stage_model.{name}"),
        (_, half) => {
            let rest = tail(1)
                .replace("conv_norm_out", "norm_out")
                .replace("conv_shortcut", "nin_shortcut")
                .replace("mid_block.resnets.0", "mid.block_1")
                .replace("mid_block.resnets.1", "mid.block_2")
                .replace("mid_block.attentions.0.group_norm", "mid.attn_1.norm")
                .replace("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out")
                .replace("mid_block.attentions.0.to_", "mid.attn_1.")
                .replace("resnets", "block")
                .replace("downsamplers.0", "downsample")
                .replace("upsamplers.0", "upsample");
            let rest = match rest.strip_prefix("up_blocks.").and_then(|rest| rest.split_once('.')) {
                Some((level, rest)) => format!("up.{}.{rest}", LEVELS - 1 - level.parse::<usize>().unwrap_or_default()),
                None => rest.replace("down_blocks", "down"),
            };
            format!("first_stage_model.{half}.{rest}")
        }
    }
}

/// Writes the fixture's tensors into one file in `folder`, beside its configurations and its tokenizer.
fn write_single(folder: &Path) -> Result<std::path::PathBuf, Box<dyn std::error::Error>> {
    let from = fixture("unet-epsilon");
    let mut all = HashMap::new();
    for (component, file) in
        [("unet", "diffusion_pytorch_model"), ("vae", "diffusion_pytorch_model"), ("text_encoder", "model")]
    {
        let tensors =
            candle_core::safetensors::load(from.join(component).join(format!("{file}.safetensors")), &Device::Cpu)?;
        for (name, tensor) in tensors.into_iter().filter(|(_, tensor)| tensor.dtype().is_float()) {
            let name = original(component, &name);
            let as_convolution = name.contains("mid.attn_1") && tensor.rank() == 2;
            let tensor = if as_convolution { tensor.unsqueeze(2)?.unsqueeze(3)? } else { tensor };
            all.insert(name, tensor);
        }
    }
    // What a published file holds besides.
    all.insert("model_ema.decay".to_owned(), Tensor::zeros(1, DType::F32, &Device::Cpu)?);
    let path = folder.join("tiny.safetensors");
    candle_core::safetensors::save(&all, &path)?;
    for name in [
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "scheduler/scheduler_config.json",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
        "tokenizer/tokenizer_config.json",
    ] {
        std::fs::create_dir_all(folder.join(name).parent().ok_or("no parent")?)?;
        std::fs::copy(from.join(name), folder.join(name))?;
    }
    Ok(path)
}

fn load_single(path: &Path) -> refrain_pipeline::Result<Pipeline> {
    Pipeline::load(&ModelSource::SingleFile(Arc::new(SingleFile::open(path)?)), LoadOptions::default())
}

#[test]
fn a_single_file_makes_the_picture_of_the_folder() -> TestResult {
    let folder = tempfile::tempdir()?;
    let (single, whole) = (load_single(&write_single(folder.path())?)?, load(&fixture("unet-epsilon"))?);
    let request = ImageRequest {
        prompt: "red fox".to_owned(),
        height: Some(16),
        width: Some(16),
        steps: 2,
        guidance_scale: 2.0,
        ..ImageRequest::default()
    };
    let pixels = |pipeline: &Pipeline| -> Result<Vec<f32>, Box<dyn std::error::Error>> {
        Ok(pipeline.generate(&request, &mut Context::off(), &mut ignore)?.image.flatten_all()?.to_vec1()?)
    };
    assert_eq!(pixels(&single)?, pixels(&whole)?);
    assert_eq!(single.parameters(), whole.parameters());
    assert_eq!(single.fingerprint()?.len(), 64);
    Ok(())
}

#[test]
fn what_is_missing_is_named() -> TestResult {
    let folder = tempfile::tempdir()?;
    let path = write_single(folder.path())?;
    std::fs::remove_file(folder.path().join("tokenizer/vocab.json"))?;
    let told = |path: &Path| load_single(path).err().map(|error| error.to_string()).unwrap_or_default();
    assert!(told(&path).contains("tokenizer"), "{}", told(&path));
    let other = folder.path().join("other.safetensors");
    candle_core::safetensors::save(&HashMap::from([("weight", Tensor::zeros(2, DType::F32, &Device::Cpu)?)]), &other)?;
    assert!(told(&other).contains("not a Stable Diffusion 1.x model"), "{}", told(&other));
    for (name, bytes) in [("empty.safetensors", &b""[..]), ("text.safetensors", b"no tensors at all")] {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes)?;
        assert!(told(&path).contains(name) && !told(&path).contains('\n'), "{}", told(&path));
    }
    assert!(told(&folder.path().join("missing.safetensors")).contains("missing.safetensors"));
    Ok(())
}
