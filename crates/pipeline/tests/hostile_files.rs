//! Folders that are wrong in one place each: one line that names the file and what was expected, and never a panic.

mod support;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use proptest::prelude::*;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use support::{TestResult, fixture, load};
use tempfile::TempDir;

const TRANSFORMER: &str = "transformer/diffusion_pytorch_model.safetensors";

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// A copy of a tiny pipeline, to be spoilt.
fn copy(name: &str) -> std::io::Result<TempDir> {
    fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let target = to.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                copy_folder(&entry.path(), &target)?;
            } else {
                fs::copy(entry.path(), target)?;
            }
        }
        Ok(())
    }
    let folder = tempfile::tempdir()?;
    copy_folder(&fixture(name), folder.path())?;
    Ok(folder)
}

/// The message of loading the folder; a failure if it loads, or says more than a line.
#[track_caller]
fn complaint(folder: &Path) -> String {
    let message = load(folder).err().map(|error| error.to_string()).unwrap_or_default();
    assert!(!message.is_empty(), "it loads");
    assert!(!message.contains('\n') && message.len() < 600, "{message}");
    println!("{message}");
    message
}

/// Spoils one file's bytes and checks that the complaint has all of `expected`.
#[track_caller]
fn spoilt(path: &str, spoil: impl FnOnce(Vec<u8>) -> Vec<u8>, expected: &[&str]) -> TestResult {
    let folder = copy("pixart-plain")?;
    let file = folder.path().join(path);
    fs::write(&file, spoil(fs::read(&file)?))?;
    let message = complaint(folder.path());
    for part in [&[path][..], expected].concat() {
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
    Ok(())
}

/// Spoils the tensors of the transformer.
#[track_caller]
fn spoilt_tensors(spoil: impl FnOnce(&mut Tensors), expected: &[&str]) -> TestResult {
    let change = |bytes: Vec<u8>| rewritten(&bytes, spoil).unwrap_or_default();
    spoilt(TRANSFORMER, change, expected)
}

fn rewritten(bytes: &[u8], spoil: impl FnOnce(&mut Tensors)) -> Result<Vec<u8>, safetensors::SafeTensorError> {
    let mut tensors: Tensors = SafeTensors::deserialize(bytes)?
        .iter()
        .map(|(name, view)| (name.to_owned(), (view.dtype(), view.shape().to_vec(), view.data().to_vec())))
        .collect();
    spoil(&mut tensors);
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, data))| Ok((name.clone(), TensorView::new(*dtype, shape.clone(), data)?)))
        .collect::<Result<BTreeMap<_, _>, safetensors::SafeTensorError>>()?;
    safetensors::serialize(views, None)
}

/// Replaces one field of a JSON object.
fn with_field(field: &'static str, value: serde_json::Value) -> impl FnOnce(Vec<u8>) -> Vec<u8> {
    move |bytes| {
        let mut fields: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
        fields[field] = value;
        fields.to_string().into_bytes()
    }
}

const QUERY: &str = "transformer_blocks.0.attn1.to_q.weight";

#[test]
fn a_missing_tensor() -> TestResult {
    let spoil = |tensors: &mut Tensors| drop(tensors.remove(QUERY));
    spoilt_tensors(spoil, &[QUERY, "is missing, expected one of shape [36, 36]"])
}

#[test]
fn a_tensor_of_the_wrong_shape() -> TestResult {
    let spoil = |tensors: &mut Tensors| {
        if let Some((_, shape, _)) = tensors.get_mut(QUERY) {
            *shape = vec![18, 72];
        }
    };
    spoilt_tensors(spoil, &[QUERY, "has shape [18, 72], expected [36, 36]"])
}

#[test]
fn a_tensor_of_the_wrong_type() -> TestResult {
    let spoil = |tensors: &mut Tensors| {
        if let Some((dtype, ..)) = tensors.get_mut(QUERY) {
            *dtype = Dtype::I16;
        }
    };
    spoilt_tensors(spoil, &[QUERY, "expected f32, f16, bf16 or f64"])
}

#[test]
fn a_truncated_file() -> TestResult {
    spoilt(TRANSFORMER, |bytes| bytes[..bytes.len() - 1000].to_vec(), &["truncated, its header tells of"])?;
    spoilt(TRANSFORMER, |bytes| bytes[..100].to_vec(), &["its header claims"])?;
    spoilt(TRANSFORMER, |bytes| bytes[..5].to_vec(), &["5 bytes, too few"])?;
    spoilt(TRANSFORMER, |_| Vec::new(), &["0 bytes, too few"])
}

#[test]
fn a_header_of_two_gigabytes() -> TestResult {
    for length in [2_u64 << 30, u64::MAX, 100_000_000] {
        let spoil = |bytes: Vec<u8>| [&length.to_le_bytes()[..], &bytes[8..]].concat();
        spoilt(TRANSFORMER, spoil, &["its header claims", &length.to_string()])?;
    }
    Ok(())
}

#[test]
fn garbage_for_json() -> TestResult {
    for path in ["model_index.json", "transformer/config.json", "vae/config.json", "text_encoder/config.json"] {
        spoilt(path, |_| b"{\"a\": [".to_vec(), &["not a JSON object"])?;
    }
    spoilt("tokenizer/tokenizer.json", |_| b"{}".to_vec(), &["not a readable tokenizer"])?;
    spoilt("transformer/config.json", |_| vec![0xff; 64], &["not UTF-8"])?;
    let folder = copy("pixart-plain")?;
    fs::write(folder.path().join("scheduler/scheduler_config.json"), "[]")?;
    assert!(complaint(folder.path()).contains("scheduler_config.json"));
    Ok(())
}

#[test]
fn a_missing_file() -> TestResult {
    for path in
        ["model_index.json", "transformer/config.json", TRANSFORMER, "tokenizer/tokenizer.json", "vae/config.json"]
    {
        let folder = copy("pixart-plain")?;
        fs::remove_file(folder.path().join(path))?;
        let message = complaint(folder.path());
        assert!(message.contains(path) && message.contains("no such file"), "{message}");
    }
    assert!(complaint(&PathBuf::from("/nonexistent")).contains("diffusers layout"));
    Ok(())
}

#[test]
fn an_index_of_something_else() -> TestResult {
    let known = "PixArtAlphaPipeline, PixArtSigmaPipeline, DiTPipeline";
    spoilt("model_index.json", with_field("_class_name", "FluxPipeline".into()), &["`FluxPipeline`", known])?;
    spoilt("model_index.json", with_field("_class_name", 3.into()), &["no `_class_name`", known])?;
    spoilt("model_index.json", with_field("vae", serde_json::Value::Null), &["`vae`", "AutoencoderKL"])?;
    let other = serde_json::json!(["diffusers", "AutoencoderTiny"]);
    spoilt("model_index.json", with_field("vae", other), &["`AutoencoderTiny`", "AutoencoderKL"])
}

#[test]
fn absurd_dimensions_allocate_nothing() -> TestResult {
    let config = "transformer/config.json";
    spoilt(config, with_field("num_layers", (1_u64 << 60).into()), &["`num_layers`", "1 to 1024"])?;
    spoilt(config, with_field("num_attention_heads", 0.into()), &["`num_attention_heads`"])?;
    spoilt(config, with_field("attention_head_dim", 4096.into()), &["`cross_attention_dim`"])?;
    spoilt(config, with_field("sample_size", "big".into()), &["`sample_size`"])?;
    // Possible dimensions that the tensors deny.
    let folder = copy("pixart-plain")?;
    let file = folder.path().join(config);
    fs::write(&file, with_field("num_layers", 1024.into())(fs::read(&file)?))?;
    assert!(complaint(folder.path()).contains("tensor `transformer_blocks."));
    Ok(())
}

#[test]
fn components_of_different_models() -> TestResult {
    let folder = copy("pixart-plain")?;
    let other = fixture("pixart-conditions");
    for file in ["config.json", "model.safetensors"] {
        fs::copy(other.join("text_encoder").join(file), folder.path().join("text_encoder").join(file))?;
    }
    let message = complaint(folder.path());
    assert!(message.contains("transformer and text_encoder do not fit"), "{message}");
    Ok(())
}

#[test]
fn shards_stay_in_their_folder() -> TestResult {
    let folder = copy("pixart-patch1")?;
    let index = folder.path().join("transformer/diffusion_pytorch_model.safetensors.index.json");
    fs::write(&index, r#"{"weight_map": {"a": "../../../etc/passwd.safetensors"}}"#)?;
    assert!(complaint(folder.path()).contains("is no shard's file name"));
    fs::write(&index, r#"{"weight_map": {"a": "absent.safetensors"}}"#)?;
    assert!(complaint(folder.path()).contains("absent.safetensors: no such file"));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Any change to a header is refused or harmless, and never a panic.
    #[test]
    fn changed_headers_never_panic(changes in prop::collection::vec((0_usize..4000, any::<u8>()), 1..6)) {
        let folder = copy("pixart-plain")?;
        let file = folder.path().join("vae/diffusion_pytorch_model.safetensors");
        let mut bytes = fs::read(&file)?;
        for (place, byte) in changes {
            if let Some(target) = bytes.get_mut(place) {
                *target = byte;
            }
        }
        fs::write(&file, bytes)?;
        if let Err(error) = load(folder.path()) {
            prop_assert!(!error.to_string().contains('\n'));
        }
    }
}
