//! Which model it is: a hash over all that its predictions depend on.

use std::{fs::File, io::Read, path::Path};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::{
    error::{PipelineError, Result},
    source::ModelSource,
};

/// Bytes hashed at once; the parts of a large file are hashed in parallel.
const PART: usize = 4 << 20;

/// Component folders in the order of hashing.
const COMPONENTS: [&str; 6] = ["scheduler", "text_encoder", "tokenizer", "transformer", "unet", "vae"];
/// Files that a picture depends on, besides the tensors.
const CONFIGURATIONS: [&str; 5] =
    ["config.json", "merges.txt", "scheduler_config.json", "tokenizer.json", "vocab.json"];

/// SHA-256 in hexadecimal over the names and contents of the components' configurations and tensors, in a fixed order: the
/// same for a folder and its embedded copy. A file counts by the hashes of its parts of 4 MiB, so that it is quick.
pub(crate) fn fingerprint(source: &ModelSource) -> Result<String> {
    let mut whole = Sha256::new();
    for component in COMPONENTS {
        for name in source.list(component) {
            let tensors = name.ends_with(".safetensors") || name.ends_with(".pt");
            if !CONFIGURATIONS.contains(&name.as_str()) && !tensors {
                continue;
            }
            let path = format!("{component}/{name}");
            let content = source.open(&path, "")?;
            whole.update(path.as_bytes());
            whole.update((content.len() as u64).to_le_bytes());
            let parts: Vec<_> = content.par_chunks(PART).map(Sha256::digest).collect();
            parts.iter().for_each(|part| whole.update(part));
        }
    }
    Ok(whole.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A fingerprint that also depends on a file from elsewhere.
pub(crate) fn with_file(known: &str, path: &Path) -> Result<String> {
    let fail = |source| PipelineError::Io { file: path.display().to_string(), source };
    let mut file = File::open(path).map_err(fail)?;
    let mut whole = Sha256::new();
    whole.update(known.as_bytes());
    let mut part = vec![0; PART];
    loop {
        match file.read(&mut part).map_err(fail)? {
            0 => break,
            count => whole.update(part.get(..count).unwrap_or_default()),
        }
    }
    Ok(whole.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
