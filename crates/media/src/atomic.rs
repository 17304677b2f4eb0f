//! Files that are there whole or not at all.
//!
//! The bytes go to a temporary name in the same folder (a rename across file systems would be a copy), are flushed to
//! the disk, and take the wanted name in one step. An error, a panic or a full disk leaves the old file, if any, as it was.

use crate::MediaError;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// The writer that [`write_atomically`] lends.
pub type AtomicWriter = BufWriter<File>;

/// Writes `path` through `write`, whole or not at all. A link is followed; a device such as `/dev/null` is written directly.
///
/// A closure with another error type wraps it: `io::Error::other(error)`.
///
/// # Errors
/// [`MediaError::Write`] with the path that was wanted.
///
/// ```no_run
/// # use std::io::Write;
/// refrain_media::write_atomically("table.csv".as_ref(), |writer| writeln!(writer, "policy,seconds"))?;
/// # Ok::<(), refrain_media::MediaError>(())
/// ```
pub fn write_atomically<T>(
    path: &Path,
    write: impl FnOnce(&mut AtomicWriter) -> io::Result<T>,
) -> Result<T, MediaError> {
    place(path, write).map_err(|source| MediaError::Write { path: path.to_owned(), source })
}

/// [`write_atomically`] for bytes that are ready.
///
/// # Errors
/// [`MediaError::Write`].
pub fn write_bytes_atomically(path: &Path, bytes: &[u8]) -> Result<(), MediaError> {
    write_atomically(path, |writer| writer.write_all(bytes))
}

fn place<T>(path: &Path, write: impl FnOnce(&mut AtomicWriter) -> io::Result<T>) -> io::Result<T> {
    let mut pending = PendingFile::create(path)?;
    let value = write(&mut pending.writer)?;
    pending.commit()?;
    Ok(value)
}

/// A file under way: dropped before [`PendingFile::commit`], it leaves nothing and the old file as it was.
pub(crate) struct PendingFile {
    /// Where the bytes go.
    pub(crate) writer: AtomicWriter,
    /// The temporary name and the wanted one; none for a device or a pipe, which is written directly.
    place: Option<(tempfile::TempPath, PathBuf)>,
}

impl PendingFile {
    /// Begins `path` under a temporary name in the same folder. A link is followed.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let target = match path.metadata() {
            Ok(found) if found.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
            // Renaming over a device or a pipe would replace it.
            Ok(found) if !found.is_file() => {
                let file = File::options().write(true).open(path)?;
                return Ok(Self { writer: BufWriter::new(file), place: None });
            }
            Ok(_) => path.canonicalize()?,
            Err(_) => path.to_owned(),
        };
        let folder = folder_of(&target);
        let Some(name) = target.file_name() else { return Err(io::ErrorKind::IsADirectory.into()) };
        let mut prefix = std::ffi::OsString::from(".");
        prefix.push(name);
        let (file, temporary) = builder(&prefix).tempfile_in(&folder).map_err(without_path)?.into_parts();
        Ok(Self { writer: BufWriter::new(file), place: Some((temporary, target)) })
    }

    /// Flushes, and gives the file its wanted name in one step.
    pub(crate) fn commit(self) -> io::Result<()> {
        let Self { mut writer, place } = self;
        writer.flush()?;
        let Some((temporary, target)) = place else { return Ok(()) };
        let file = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        drop(file);
        temporary.persist(&target).map_err(|failure| failure.error)?;
        // The new name itself reaches the disk with the folder; not every system can open one, so this is best effort.
        if let Ok(folder) = File::open(folder_of(&target)) {
            let _ = folder.sync_all();
        }
        Ok(())
    }
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Temporary files are private by default; the finished one should have what the user's umask says.
fn builder<'a>(prefix: &'a std::ffi::OsStr) -> tempfile::Builder<'a, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix).suffix(".tmp");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder
}

/// `tempfile` adds the temporary path to its errors, which would only confuse; the kind says enough.
fn without_path(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::Other => error,
        kind => kind.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn replaces_the_old_file_and_leaves_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        write_bytes_atomically(&path, b"old").unwrap();
        write_bytes_atomically(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["a.txt"]);
    }

    #[test]
    fn a_failed_write_keeps_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        write_bytes_atomically(&path, b"old").unwrap();
        let error = write_atomically(&path, |writer| {
            writer.write_all(b"half")?;
            Err::<(), _>(io::ErrorKind::StorageFull.into())
        })
        .unwrap_err();
        assert!(error.is_resource());
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["a.txt"]);
    }

    #[test]
    fn a_panic_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        let result =
            std::panic::catch_unwind(|| write_atomically(&path, |_| -> io::Result<()> { panic!("in the middle") }));
        assert!(result.is_err());
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn errors_name_the_wanted_path_in_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("no/such/a.txt");
        let message = write_bytes_atomically(&missing, b"").unwrap_err().to_string();
        assert_eq!(message, format!("cannot write {}: no such file or folder", missing.display()));
        let message = write_bytes_atomically(folder.path(), b"").unwrap_err().to_string();
        assert!(message.ends_with("it is a folder; name a file in it"), "{message}");
        std::fs::write(folder.path().join("file"), b"").unwrap();
        let message = write_bytes_atomically(&folder.path().join("file/a.txt"), b"").unwrap_err().to_string();
        assert!(message.ends_with("a part of the path is a file, not a folder"), "{message}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_one_clear_line() {
        let error = write_bytes_atomically("/dev/full".as_ref(), b"x").unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot write /dev/full: the disk is full; free some space or choose another folder"
        );
        assert!(error.is_resource());
    }

    #[cfg(unix)]
    #[test]
    fn follows_links_and_obeys_the_umask() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (plain, link, usual) =
            (folder.path().join("plain"), folder.path().join("link"), folder.path().join("usual"));
        write_bytes_atomically(&plain, b"1").unwrap();
        std::os::unix::fs::symlink(&plain, &link).unwrap();
        write_bytes_atomically(&link, b"2").unwrap();
        assert!(link.symlink_metadata().unwrap().is_symlink());
        assert_eq!(std::fs::read(&plain).unwrap(), b"2");
        std::fs::write(&usual, b"").unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&plain), mode(&usual));
    }
}
