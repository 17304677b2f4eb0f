//! Checkpoints of the original DiT project: the same predictions as diffusers on the same weights, and clear words for
//! archives that are none. Made by `fixtures/make_original_dit.py`.

mod support;

use std::{fs, path::Path};

use refrain_cache::Context;
use refrain_models::Conditions;
use support::{TestResult, assert_close, fixture, load, tensors};

/// A pipeline folder with `archive` as its transformer.
fn folder_with(archive: &[u8]) -> std::io::Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    let copy = |from: &Path, to: &str| -> std::io::Result<()> {
        let to = folder.path().join(to);
        fs::create_dir_all(to.parent().unwrap_or(Path::new(".")))?;
        fs::copy(from, to).map(drop)
    };
    let pipeline = fixture("dit-learned-sigma");
    for name in ["model_index.json", "scheduler/scheduler_config.json", "vae/config.json"] {
        copy(&pipeline.join(name), name)?;
    }
    copy(&pipeline.join("vae/diffusion_pytorch_model.safetensors"), "vae/diffusion_pytorch_model.safetensors")?;
    copy(&fixture("dit-original/transformer/config.json"), "transformer/config.json")?;
    fs::write(folder.path().join("transformer/DiT-tiny.pt"), archive)?;
    Ok(folder)
}

fn agrees(archive: &str) -> TestResult {
    let folder = folder_with(&fs::read(fixture(archive))?)?;
    let pipeline = load(folder.path())?;
    let expected = tensors(&fixture("dit-original/expected.safetensors"))?;
    let timesteps: Vec<f32> = expected["timesteps"].to_vec1()?;
    let conditions = Conditions::Classes(vec![9, 3]);
    let output = pipeline.denoiser().denoise(&mut Context::off(), &expected["sample"], &timesteps, &conditions)?;
    assert_close("prediction", &expected["output"].narrow(1, 0, 4)?, &output, 1e-5)?;
    // Shared embedders count once, as they are stored.
    let stored: usize = pipeline.parameters().iter().filter(|(part, _)| *part == "transformer").map(|(_, n)| n).sum();
    assert!(stored > 10_000 && stored < 25_000, "{stored}");
    Ok(())
}

#[test]
fn predicts_what_diffusers_predicts() -> TestResult {
    agrees("dit-original/transformer/DiT-tiny.pt")
}

#[test]
fn averaged_weights_are_found_beside_others() -> TestResult {
    agrees("dit-original/training.pt")
}

#[test]
fn damaged_archives_get_one_line() -> TestResult {
    let whole = fs::read(fixture("dit-original/transformer/DiT-tiny.pt"))?;
    let cut = |length: usize| whole.get(..length).unwrap_or_default().to_vec();
    let mut cases = vec![Vec::new(), b"no archive".to_vec(), cut(1000), cut(whole.len() / 2), cut(whole.len() - 1)];
    // The pickle's own bytes, each spoilt in turn.
    for place in (64..1400).step_by(67) {
        let mut spoilt = whole.clone();
        if let Some(byte) = spoilt.get_mut(place) {
            *byte ^= 0x5a;
        }
        cases.push(spoilt);
    }
    for (number, bytes) in cases.iter().enumerate() {
        match load(folder_with(bytes)?.path()) {
            Ok(_) => assert!(number >= 5, "case {number} is damaged beyond doubt"),
            Err(error) => {
                let line = error.to_string();
                assert!(line.contains("DiT-tiny.pt") || line.contains("transformer"), "{line}");
                assert!(!line.contains('\n'), "{line}");
            }
        }
    }
    Ok(())
}

#[test]
fn two_archives_are_one_too_many() -> TestResult {
    let bytes = fs::read(fixture("dit-original/transformer/DiT-tiny.pt"))?;
    let folder = folder_with(&bytes)?;
    fs::write(folder.path().join("transformer/other.pt"), &bytes)?;
    let error = load(folder.path()).err().ok_or("took one of two")?.to_string();
    assert!(error.contains("second .pt"), "{error}");
    Ok(())
}
