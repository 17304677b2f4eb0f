//! Tensors of a component: one safetensors file, or shards with an index.

use std::{collections::HashMap, sync::Arc};

use candle_core::{DType, Device, Tensor};
use refrain_models::{TensorSource, Weights};
use safetensors::{
    Dtype, SafeTensors,
    tensor::{Metadata, SafeTensorError},
};

use crate::{
    error::{PipelineError, Result},
    original_dit::OriginalDit,
    source::{Content, ModelSource},
};

/// Bytes before a safetensors header: its length.
const LENGTH: usize = 8;
/// Longest header that the format allows.
const LONGEST_HEADER: u64 = 100_000_000;

/// One safetensors file with its parsed header.
pub(crate) struct Shard {
    file: String,
    content: Content,
    /// Where the tensors' bytes begin.
    data: usize,
    header: Metadata,
}

impl Shard {
    fn open(source: &ModelSource, path: &str) -> Result<Self> {
        let advice = "the pipeline needs the component's weights as safetensors";
        Self::parse(source.label(path), source.open(path, advice)?)
    }

    /// Reads the header of a file.
    pub(crate) fn parse(file: String, content: Content) -> Result<Self> {
        let (header_bytes, header) =
            read_header(&content).map_err(|problem| PipelineError::Safetensors { file: file.clone(), problem })?;
        Ok(Self { file, content, data: LENGTH + header_bytes, header })
    }

    /// The file's name in messages.
    pub(crate) fn file(&self) -> &str {
        &self.file
    }

    /// Names of its tensors.
    pub(crate) fn names(&self) -> Vec<String> {
        self.header.tensors().into_keys().collect()
    }

    /// Shape and type of a tensor.
    pub(crate) fn info(&self, name: &str) -> Option<(Vec<usize>, std::result::Result<DType, String>)> {
        let info = self.header.info(name)?;
        Some((info.shape.clone(), candle_dtype(info.dtype)))
    }

    /// A tensor in its stored type.
    pub(crate) fn read(&self, name: &str) -> candle_core::Result<Tensor> {
        let damaged = || candle_core::Error::Msg(format!("{}: tensor `{name}` cannot be read", self.file));
        let info = self.header.info(name).ok_or_else(damaged)?;
        let (start, end) = info.data_offsets;
        let bytes = self.content.get(self.data + start..self.data + end).ok_or_else(damaged)?;
        let dtype = candle_dtype(info.dtype).map_err(|_| damaged())?;
        Tensor::from_raw_buffer(bytes, dtype, &info.shape, &Device::Cpu)
    }
}

/// Parses and checks the header: lengths first, so that a hostile one is refused before it is read.
fn read_header(bytes: &[u8]) -> std::result::Result<(usize, Metadata), String> {
    let Some(length) = bytes.first_chunk::<LENGTH>().map(|length| u64::from_le_bytes(*length)) else {
        return Err(format!("it has {} bytes, too few for a header", bytes.len()));
    };
    if length > LONGEST_HEADER {
        return Err(format!("its header claims {length} bytes, the format allows {LONGEST_HEADER}"));
    }
    if length > (bytes.len() - LENGTH) as u64 {
        return Err(format!("its header claims {length} bytes, the file has {}", bytes.len()));
    }
    SafeTensors::read_metadata(bytes).map_err(|error| match error {
        SafeTensorError::MetadataIncompleteBuffer => match expected_length(bytes, length as usize) {
            Some(expected) if expected > bytes.len() => {
                format!("truncated, its header tells of {expected} bytes, the file has {}", bytes.len())
            }
            _ => "its length is not what its header tells".to_owned(),
        },
        other => other.to_string(),
    })
}

/// Length of the whole file by its header.
fn expected_length(bytes: &[u8], header: usize) -> Option<usize> {
    let header_text = bytes.get(LENGTH..LENGTH + header)?;
    let fields: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(header_text).ok()?;
    let ends = fields.values().filter_map(|tensor| tensor.get("data_offsets")?.get(1)?.as_u64());
    Some(LENGTH + header + usize::try_from(ends.max()?).ok()?)
}

fn candle_dtype(dtype: Dtype) -> std::result::Result<DType, String> {
    DType::try_from(dtype).map_err(|_| format!("{dtype:?}"))
}

/// All shards of a component.
struct Checkpoint {
    shards: Vec<Shard>,
    /// Which shard holds a tensor.
    places: HashMap<String, usize>,
    /// The file to name when a tensor is missing.
    main_file: String,
}

impl Checkpoint {
    fn find(&self, name: &str) -> Option<&Shard> {
        self.shards.get(*self.places.get(name)?)
    }
}

impl TensorSource for Checkpoint {
    fn file(&self, name: &str) -> String {
        self.find(name).map_or_else(|| self.main_file.clone(), |shard| shard.file.clone())
    }

    fn info(&self, name: &str) -> Option<(Vec<usize>, std::result::Result<DType, String>)> {
        self.find(name)?.info(name)
    }

    fn read(&self, name: &str) -> candle_core::Result<Tensor> {
        self.find(name).ok_or_else(|| candle_core::Error::Msg(format!("no tensor `{name}`")))?.read(name)
    }

    fn names(&self) -> Vec<String> {
        self.places.keys().cloned().collect()
    }
}

/// Opens a DiT: as safetensors, or without these the one `.pt` of the original project in the component's folder.
pub(crate) fn open_dit(source: &ModelSource, component: &str) -> Result<Weights> {
    let names = source.list(component);
    let archives: Vec<&String> = names.iter().filter(|name| name.ends_with(".pt")).collect();
    let safetensors = names.iter().any(|name| name.contains(".safetensors"));
    match (source, &archives[..]) {
        (ModelSource::Folder(folder), [archive]) if !safetensors => {
            Ok(Weights::new(Arc::new(OriginalDit::open(folder.join(component).join(archive))?)))
        }
        (_, [_, other, ..]) if !safetensors => Err(PipelineError::Io {
            file: source.label(&format!("{component}/{other}")),
            source: std::io::Error::new(
                std::io::ErrorKind::InvalidData,
                "a second .pt file beside another: keep the one that is meant",
            ),
        }),
        _ => open_weights(source, component),
    }
}

/// Opens the weights of `component`, whichever of the usual names they have. Only headers are read here.
pub(crate) fn open_weights(source: &ModelSource, component: &str) -> Result<Weights> {
    if let ModelSource::SingleFile(file) = source {
        return Ok(file.weights(component));
    }
    const STEMS: [&str; 2] = ["diffusion_pytorch_model", "model"];
    let found =
        |ending: &str| STEMS.iter().map(|stem| format!("{component}/{stem}{ending}")).find(|path| source.has(path));
    let (main, paths) = if let Some(path) = found(".safetensors").or_else(|| found(".fp16.safetensors")) {
        (path.clone(), vec![path])
    } else if let Some(path) = found(".safetensors.index.json") {
        let shards = shard_names(source, &path)?;
        (path, shards.into_iter().map(|name| format!("{component}/{name}")).collect())
    } else {
        let bin = found(".bin").map_or("", |_| "; PyTorch .bin files are not read, save the pipeline as safetensors");
        return Err(PipelineError::MissingFile {
            file: source.label(&format!("{component}/diffusion_pytorch_model.safetensors")),
            advice: format!("nor model.safetensors, nor an index of shards{bin}"),
        });
    };
    let shards: Vec<Shard> = paths.iter().map(|path| Shard::open(source, path)).collect::<Result<_>>()?;
    let mut places = HashMap::new();
    for (index, shard) in shards.iter().enumerate() {
        places.extend(shard.names().into_iter().map(|name| (name, index)));
    }
    Ok(Weights::new(Arc::new(Checkpoint { shards, places, main_file: source.label(&main) })))
}

/// Opens one safetensors file of a source. Only its header is read here.
pub(crate) fn open_file(source: &ModelSource, path: &str) -> Result<Weights> {
    let shard = Shard::open(source, path)?;
    let places = shard.header.tensors().into_keys().map(|name| (name, 0)).collect();
    Ok(Weights::new(Arc::new(Checkpoint { shards: vec![shard], places, main_file: source.label(path) })))
}

/// Files named in a `*.safetensors.index.json`, each once, sorted.
fn shard_names(source: &ModelSource, path: &str) -> Result<Vec<String>> {
    let text = source.text(path, "it lists the shards of the weights")?;
    let problem = |problem: String| PipelineError::Safetensors { file: source.label(path), problem };
    let index: serde_json::Value = serde_json::from_str(&text).map_err(|error| problem(error.to_string()))?;
    let map = index.get("weight_map").and_then(serde_json::Value::as_object);
    let map = map.ok_or_else(|| problem("it has no `weight_map`".to_owned()))?;
    let mut names: Vec<String> = Vec::new();
    for value in map.values() {
        // A shard lies beside its index; anything else could name any file of the machine.
        match value.as_str().filter(|name| !name.contains(['/', '\\']) && name.ends_with(".safetensors")) {
            Some(name) if names.iter().any(|known| known == name) => {}
            Some(name) => names.push(name.to_owned()),
            None => return Err(problem(format!("{value} is no shard's file name"))),
        }
    }
    names.sort();
    Ok(names)
}
