//! What the tests of this crate share.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use candle_core::{Device, Tensor};
use refrain_ops::relative_l2;
use refrain_pipeline::{LoadOptions, ModelSource, Pipeline};

pub type TestResult = Result<(), Box<dyn std::error::Error>>;

/// A path from the root of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// A tiny pipeline of `fixtures/`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// Loads a folder in f32.
pub fn load(folder: &Path) -> refrain_pipeline::Result<Pipeline> {
    Pipeline::load(&ModelSource::Folder(folder.to_owned()), LoadOptions::default())
}

/// The tensors of a golden.
pub fn tensors(path: &Path) -> candle_core::Result<HashMap<String, Tensor>> {
    candle_core::safetensors::load(path, &Device::Cpu)
}

/// Fails unless `value` lies within `limit` of `reference` (relative L2), and tells the distance.
#[track_caller]
pub fn assert_close(what: &str, reference: &Tensor, value: &Tensor, limit: f32) -> TestResult {
    assert_eq!(reference.dims(), value.dims(), "{what}");
    let distance = relative_l2(reference, value)?;
    println!("{what}: {distance:.2e}");
    assert!(distance <= limit, "{what}: relative L2 {distance:.3e}, allowed {limit:.0e}");
    Ok(())
}
