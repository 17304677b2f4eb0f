//! Single files of tensors: safetensors, and PyTorch's `.pt` and `.pth` archives as StreamDiffusionV2, Self-Forcing and
//! CausVid publish them.
//!
//! A `.pt` file is a zip of raw tensors and a pickle that names them. The pickle is interpreted as data: its few opcodes
//! build names, shapes and offsets, nothing it says is called.

use std::{path::Path, sync::Arc};

use candle_core::{DType, Tensor, pickle::PthTensors};
use refrain_models::{
    ConfigFile, TensorSource, Weights,
    wan::{WanConfig, WanTransformer},
};
use refrain_ops::Precision;

use crate::{
    checkpoint::open_file,
    error::{PipelineError, Result},
    source::ModelSource,
};

/// Entries under which training frameworks keep a generator, the averaged one first.
const ENTRIES: [&str; 4] = ["generator_ema", "generator", "state_dict", "model"];

struct Archive {
    file: String,
    tensors: PthTensors,
}

impl TensorSource for Archive {
    fn file(&self, _: &str) -> String {
        self.file.clone()
    }

    fn info(&self, name: &str) -> Option<(Vec<usize>, std::result::Result<DType, String>)> {
        let info = self.tensors.tensor_infos().get(name)?;
        Some((info.layout.dims().to_vec(), Ok(info.dtype)))
    }

    fn read(&self, name: &str) -> candle_core::Result<Tensor> {
        let missing = || candle_core::Error::Msg(format!("{}: tensor `{name}` cannot be read", self.file));
        self.tensors.get(name)?.ok_or_else(missing)
    }

    fn names(&self) -> Vec<String> {
        self.tensors.tensor_infos().keys().cloned().collect()
    }
}

/// Opens a file of tensors by its ending: `.safetensors`, `.pt`, `.pth` or `.bin`. Only headers are read here.
///
/// # Errors
/// Names the file and what is wrong with it.
pub fn open_tensor_file(path: &Path) -> Result<Weights> {
    let file = path.display().to_string();
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_lowercase();
    match ending.as_str() {
        "safetensors" => {
            let folder = path.parent().map(Path::to_owned).unwrap_or_default();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            open_file(&ModelSource::Folder(folder), name)
        }
        "pt" | "pth" | "bin" => open_archive(path, file),
        _ => {
            let problem = "the ending is none of .safetensors, .pt, .pth and .bin".to_owned();
            Err(PipelineError::TorchArchive { file, problem })
        }
    }
}

fn open_archive(path: &Path, file: String) -> Result<Weights> {
    if !path.is_file() {
        let advice = "a file of tensors was expected".to_owned();
        return Err(PipelineError::MissingFile { file, advice });
    }
    let problem = |problem: String| PipelineError::TorchArchive { file: file.clone(), problem };
    // The entry is not announced anywhere: the first that holds tensors is taken, else the whole dictionary.
    let nested = ENTRIES.iter().filter_map(|entry| PthTensors::new(path, Some(entry)).ok());
    let found = nested.into_iter().find(|tensors| !tensors.tensor_infos().is_empty());
    let tensors = match found {
        Some(tensors) => tensors,
        None => PthTensors::new(path, None).map_err(|error| problem(error.to_string()))?,
    };
    if tensors.tensor_infos().is_empty() {
        return Err(problem("it holds no tensors".to_owned()));
    }
    Ok(Weights::new(Arc::new(Archive { file, tensors })))
}

/// A Wan transformer from a single file. Its dimensions are those of `config.json` beside it where there is one, else
/// those that its tensors show; the width of a head, which none shows, is then the published 128.
///
/// # Errors
/// Names the file, the field or the tensor.
pub fn wan_from_file(path: &Path, precision: Precision) -> Result<WanTransformer> {
    let weights = open_tensor_file(path)?;
    let beside = path.with_file_name("config.json");
    let config = if beside.is_file() {
        let file = beside.display().to_string();
        let text =
            std::fs::read_to_string(&beside).map_err(|source| PipelineError::Io { file: file.clone(), source })?;
        WanConfig::from_json(&ConfigFile::parse(&file, &text)?)?
    } else {
        WanConfig::from_tensors(&weights)?
    };
    Ok(WanTransformer::load(&weights, &config, precision)?)
}
