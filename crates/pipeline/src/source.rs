//! Where a pipeline's files are: a folder on disk, or the binary itself.

use std::{
    fmt,
    ops::Deref,
    path::{Path, PathBuf},
    sync::Arc,
};

use refrain_ops::mapped::MappedFile;

use crate::{
    error::{PipelineError, Result},
    single_file::{self, SingleFile},
};

/// A file inside the binary.
#[derive(Debug, Clone, Copy)]
pub struct EmbeddedFile {
    /// Path within the pipeline folder, with `/`: `transformer/config.json`.
    pub path: &'static str,
    /// Its content.
    pub bytes: &'static [u8],
}

/// A diffusers pipeline folder.
#[derive(Debug, Clone)]
pub enum ModelSource {
    /// A folder on disk, the one that holds `model_index.json`.
    Folder(PathBuf),
    /// Files inside the binary.
    Embedded(&'static [EmbeddedFile]),
    /// One file with all tensors; see [`SingleFile`].
    SingleFile(Arc<SingleFile>),
}

/// Content of a file: in the binary, or mapped into memory.
#[derive(Clone)]
pub(crate) enum Content {
    Embedded(&'static [u8]),
    Mapped(Arc<MappedFile>),
    Made(Arc<[u8]>),
}

impl Deref for Content {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Embedded(bytes) => bytes,
            Self::Mapped(file) => file,
            Self::Made(bytes) => bytes,
        }
    }
}

/// Configuration files are small; a larger one is not read into memory as text.
const LARGEST_TEXT: usize = 256 << 20;

impl ModelSource {
    /// The file's name in messages.
    pub(crate) fn label(&self, path: &str) -> String {
        match self {
            Self::Folder(folder) => folder.join(path).display().to_string(),
            Self::SingleFile(file) => match file.document(path) {
                Some(_) if !file.overrides(path) => format!("{} ({path})", file.path().display()),
                _ => file.beside(path).display().to_string(),
            },
            Self::Embedded(_) => format!("(built-in model)/{path}"),
        }
    }

    /// Whether there is such a file.
    pub(crate) fn has(&self, path: &str) -> bool {
        match self {
            Self::Folder(folder) => folder.join(path).is_file(),
            Self::SingleFile(file) => file.document(path).is_some() || file.beside(path).is_file(),
            Self::Embedded(files) => files.iter().any(|file| file.path == path),
        }
    }

    /// Opens a file without reading it.
    pub(crate) fn open(&self, path: &str, advice: &str) -> Result<Content> {
        let missing = || PipelineError::MissingFile { file: self.label(path), advice: advice.to_owned() };
        match self {
            Self::Embedded(files) => {
                let file = files.iter().find(|file| file.path == path).ok_or_else(missing)?;
                Ok(Content::Embedded(file.bytes))
            }
            Self::SingleFile(file) if path == single_file::LISTED => Ok(file.content()),
            Self::SingleFile(file) => match file.document(path) {
                Some(text) if !file.overrides(path) => Ok(Content::Made(text.as_bytes().into())),
                _ => Self::Folder(file.beside("")).open(path, advice),
            },
            Self::Folder(folder) => {
                let path = folder.join(path);
                let metadata = std::fs::metadata(&path).map_err(|source| match source.kind() {
                    std::io::ErrorKind::NotFound => missing(),
                    _ => self.io_error(&path, source),
                })?;
                if !metadata.is_file() {
                    return Err(missing());
                }
                // An empty file cannot be mapped everywhere.
                if metadata.len() == 0 {
                    return Ok(Content::Embedded(&[]));
                }
                let mapped = MappedFile::open(&path)
                    .map_err(|error| self.io_error(&path, std::io::Error::other(error.to_string())))?;
                Ok(Content::Mapped(Arc::new(mapped)))
            }
        }
    }

    /// A small text file.
    pub(crate) fn text(&self, path: &str, advice: &str) -> Result<String> {
        let content = self.open(path, advice)?;
        let invalid = |problem: &str| PipelineError::Io {
            file: self.label(path),
            source: std::io::Error::new(std::io::ErrorKind::InvalidData, problem.to_owned()),
        };
        if content.len() > LARGEST_TEXT {
            return Err(invalid("too large for a text file"));
        }
        String::from_utf8(content.to_vec()).map_err(|_| invalid("not UTF-8 text"))
    }

    /// Names of the files in a component's folder, sorted.
    pub(crate) fn list(&self, component: &str) -> Vec<String> {
        let mut names: Vec<String> = match self {
            Self::Embedded(files) => files
                .iter()
                .filter_map(|file| file.path.strip_prefix(component)?.strip_prefix('/'))
                .filter(|name| !name.contains('/'))
                .map(str::to_owned)
                .collect(),
            Self::SingleFile(file) => file.list(component),
            Self::Folder(folder) => std::fs::read_dir(folder.join(component))
                .into_iter()
                .flatten()
                .flatten()
                .filter(|entry| entry.path().is_file())
                .filter_map(|entry| entry.file_name().into_string().ok())
                .collect(),
        };
        names.sort();
        names
    }

    fn io_error(&self, path: &Path, source: std::io::Error) -> PipelineError {
        PipelineError::Io { file: path.display().to_string(), source }
    }
}

impl fmt::Display for ModelSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => write!(formatter, "{}", folder.display()),
            Self::SingleFile(file) => write!(formatter, "{}", file.path().display()),
            Self::Embedded(_) => formatter.write_str("(built-in model)"),
        }
    }
}
