//! The models inside the binary: a text-to-image pipeline of 36 MB, so that the first picture needs no download, no path
//! and no network, its U-Net sister that morphs, and a restyler of 7 MB. Their card is `weights/README.md`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use refrain_pipeline::{EmbeddedFile, ModelSource, SingleFile};

use crate::errors::usage;

/// Name of the built-in model on the command line and in metadata.
pub(crate) const NAME: &str = "builtin";

/// Name of the built-in U-Net, which `morph` takes unless told otherwise.
pub(crate) const UNET: &str = "builtin-unet";

/// The files of a folder below `weights/`, all of which hold the same ones.
macro_rules! embedded {
    ($folder:literal) => {
        embedded!(
            $folder,
            "model_index.json",
            "scheduler/scheduler_config.json",
            "text_encoder/config.json",
            "text_encoder/model.safetensors",
            "tokenizer/tokenizer.json",
            "tokenizer/tokenizer_config.json",
            "transformer/config.json",
            "transformer/diffusion_pytorch_model.safetensors",
            "vae/config.json",
            "vae/diffusion_pytorch_model.safetensors"
        )
    };
    ($folder:literal, $($path:literal),+) => {
        &[$(EmbeddedFile {
            path: $path,
            bytes: include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/weights/", $folder, "/", $path)),
        }),+]
    };
}

/// Restyles the frames of a stream.
static RESTYLER: &[EmbeddedFile] = embedded!("style-video");

static FILES: &[EmbeddedFile] = embedded!("emoji");

/// Its autoencoder is that of `emoji`, bit for bit.
static UNET_FILES: &[EmbeddedFile] = embedded!(
    "emoji-unet",
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors"
);

/// A model with the name that metadata knows it by.
#[derive(Debug, Clone)]
pub(crate) struct NamedModel {
    /// Where its files are.
    pub(crate) source: ModelSource,
    /// `builtin`, or the last part of the folder's path: no user's folders go into metadata.
    pub(crate) name: String,
}

impl NamedModel {
    /// The model of `-m`; the built-in one without it.
    ///
    /// # Errors
    /// A path that is neither a folder nor a file of one piece (exit 2), or a damaged file (exit 1).
    pub(crate) fn find(path: Option<&Path>) -> anyhow::Result<Self> {
        Self::find_or(path, (NAME, FILES))
    }

    /// The morphing model of `-m`; the built-in U-Net without it.
    ///
    /// # Errors
    /// As [`NamedModel::find`].
    pub(crate) fn find_morpher(path: Option<&Path>) -> anyhow::Result<Self> {
        match path {
            Some(_) => Self::find(path),
            None => Ok(Self { source: ModelSource::Embedded(UNET_FILES), name: UNET.to_owned() }),
        }
    }

    /// Whether its names and captions are those of the emoji that both built-in models learned.
    pub(crate) fn knows_emoji(&self) -> bool {
        self.name == NAME || self.name == UNET
    }

    /// The restyling model of `-m`; the built-in one without it.
    ///
    /// # Errors
    /// As [`NamedModel::find`].
    pub(crate) fn find_restyler(path: Option<&Path>) -> anyhow::Result<Self> {
        Self::find_or(path, (NAME, RESTYLER))
    }

    fn find_or(path: Option<&Path>, (name, files): (&'static str, &'static [EmbeddedFile])) -> anyhow::Result<Self> {
        let built_in = |name: &str, files| Ok(Self { source: ModelSource::Embedded(files), name: name.to_owned() });
        let path = match path {
            None => return built_in(name, files),
            Some(path) if path == Path::new(NAME) => return built_in(NAME, files),
            Some(path) if path == Path::new(UNET) => return built_in(UNET, UNET_FILES),
            Some(path) => path,
        };
        let shown = path.display();
        if !path.exists() {
            return Err(usage(format!("model {shown}: no such folder; leave -m out for the built-in model")));
        }
        if path.is_file() && path.extension().is_some_and(|ending| ending == "safetensors") {
            let file = SingleFile::open(path).with_context(|| format!("model {shown}"))?;
            return Ok(Self { source: ModelSource::SingleFile(Arc::new(file)), name: last_part(path) });
        }
        if !path.is_dir() {
            return Err(usage(format!(
                "model {shown}: not a folder; give a pipeline folder with a model_index.json, or a .safetensors file of Stable Diffusion 1.x"
            )));
        }
        Ok(Self { source: ModelSource::Folder(path.to_path_buf()), name: last_part(path) })
    }
}

fn last_part(path: &Path) -> String {
    let resolved = path.canonicalize().unwrap_or_else(|_| PathBuf::from(path));
    resolved.file_name().map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}
