//! Imports point down only: cli → {train, stream, morph} → pipeline → {models, samplers} → cache → ops; media and metrics are leaves.

use std::collections::BTreeMap;

/// What each crate of ours may depend on, directly.
const ALLOWED: [(&str, &[&str]); 11] = [
    ("refrain-ops", &[]),
    ("refrain-media", &[]),
    ("refrain-metrics", &[]),
    ("refrain-cache", &["refrain-ops"]),
    ("refrain-samplers", &["refrain-ops"]),
    ("refrain-models", &["refrain-cache", "refrain-ops"]),
    ("refrain-pipeline", &["refrain-models", "refrain-samplers", "refrain-cache", "refrain-ops"]),
    ("refrain-stream", &["refrain-pipeline", "refrain-models", "refrain-samplers", "refrain-cache", "refrain-ops"]),
    (
        "refrain-train",
        &["refrain-pipeline", "refrain-models", "refrain-samplers", "refrain-cache", "refrain-ops", "refrain-metrics"],
    ),
    (
        "refrain-morph",
        &["refrain-pipeline", "refrain-models", "refrain-samplers", "refrain-cache", "refrain-ops", "refrain-metrics"],
    ),
    (
        "refrain",
        &[
            "refrain-morph",
            "refrain-train",
            "refrain-stream",
            "refrain-pipeline",
            "refrain-models",
            "refrain-samplers",
            "refrain-cache",
            "refrain-ops",
            "refrain-media",
            "refrain-metrics",
        ],
    ),
];

fn metadata() -> serde_json::Value {
    let output = std::process::Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn dependencies_point_down_only() {
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.into_iter().collect();
    let metadata = metadata();
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        let may = allowed.get(name).unwrap_or_else(|| panic!("{name} is not placed: add it to ALLOWED"));
        let ours = package["dependencies"].as_array().unwrap().iter().filter(|dependency| dependency["kind"].is_null());
        for dependency in ours.filter_map(|dependency| dependency["name"].as_str()) {
            let upward = dependency.starts_with("refrain") && !may.contains(&dependency);
            assert!(!upward, "{name} depends on {dependency}, which lies beside or above it");
        }
    }
}

#[test]
fn no_file_is_longer_than_a_person_wants_to_read() {
    const LONGEST: usize = 500;
    let mut folders = vec![std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("crates")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let lines = std::fs::read_to_string(&path).unwrap().lines().count();
                assert!(lines <= LONGEST, "{} has {lines} lines", path.display());
            }
        }
    }
}
