//! Where a sequence's bytes go: a file that appears when finished, or standard output.

use crate::MediaError;
use crate::atomic::PendingFile;
use std::io::{self, IsTerminal, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// How standard output is called in messages.
pub(crate) const STDOUT: &str = "standard output";

/// A sink of bytes with errors that name it.
pub(crate) enum Output {
    File {
        path: PathBuf,
        pending: PendingFile,
    },
    Stdout,
    #[cfg(test)]
    Memory(std::sync::Arc<std::sync::Mutex<Vec<u8>>>),
}

impl Output {
    /// A file, or standard output for `-`.
    pub(crate) fn create(path: &Path) -> Result<Self, MediaError> {
        if path.as_os_str() == "-" {
            if io::stdout().is_terminal() {
                return Err(MediaError::StdoutIsTerminal);
            }
            return Ok(Self::Stdout);
        }
        let pending = PendingFile::create(path).map_err(|source| write_error(path, source))?;
        Ok(Self::File { path: path.to_owned(), pending })
    }

    pub(crate) fn name(&self) -> String {
        match self {
            Self::File { path, .. } => path.display().to_string(),
            Self::Stdout => STDOUT.to_owned(),
            #[cfg(test)]
            Self::Memory(_) => "memory".to_owned(),
        }
    }

    pub(crate) fn error(&self, source: io::Error) -> MediaError {
        match self {
            Self::File { path, .. } => write_error(path, source),
            Self::Stdout => MediaError::Stdout { source },
            #[cfg(test)]
            Self::Memory(_) => MediaError::Stdout { source },
        }
    }

    /// Hands what was written to the reader of a pipe at once; a file is flushed when finished.
    pub(crate) fn end_of_frame(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout => io::stdout().flush(),
            _ => Ok(()),
        }
    }

    /// Replaces bytes that were written before.
    pub(crate) fn overwrite(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.seek(SeekFrom::Start(at))?;
        self.write_all(bytes)?;
        self.seek(SeekFrom::End(0)).map(|_| ())
    }

    pub(crate) fn finish(self) -> Result<(), MediaError> {
        match self {
            Self::File { path, pending } => pending.commit().map_err(|source| write_error(&path, source)),
            Self::Stdout => io::stdout().flush().map_err(|source| MediaError::Stdout { source }),
            #[cfg(test)]
            Self::Memory(_) => Ok(()),
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File { pending, .. } => pending.writer.write(bytes),
            Self::Stdout => io::stdout().write(bytes),
            #[cfg(test)]
            Self::Memory(memory) => memory.lock().unwrap().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::File { pending, .. } => pending.writer.flush(),
            Self::Stdout => io::stdout().flush(),
            #[cfg(test)]
            Self::Memory(_) => Ok(()),
        }
    }
}

/// Files only: a pipe cannot be gone back in.
impl Seek for Output {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match self {
            Self::File { pending, .. } => pending.writer.seek(to),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

fn write_error(path: &Path, source: io::Error) -> MediaError {
    MediaError::Write { path: path.to_owned(), source }
}
