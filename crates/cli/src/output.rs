//! Where results go: reading `-o`, names for pictures that were given none, and finding out early that a folder cannot
//! be written.
//!
//! Every file is there whole or not at all (`refrain_media::write_bytes_atomically`).

use std::fs;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use refrain_media::{Format as PictureFormat, OutputPattern, write_bytes_atomically, write_stdout};

use crate::errors::{resources, usage, usage_because};

/// Longest name made from a prompt; longer ones stop at a word.
const LONGEST_NAME: usize = 60;

/// Kinds of result file, told by the extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// A picture with metadata.
    Picture(PictureFormat),
    /// `latents` and `image` as tensors.
    Safetensors,
}

/// Where the pictures of a call go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Destination {
    /// PNG on standard output.
    Stdout,
    /// Named after the prompt, in this folder, and numbered rather than written over anything.
    Folder(PathBuf),
    /// These names, whatever is there; several pictures are numbered, one safetensors file holds all pictures.
    Named(OutputPattern, Format),
}

impl Destination {
    /// Reads `-o`.
    ///
    /// # Errors
    /// An unknown extension, a malformed pattern, a terminal as the target of `-` (exit 2).
    pub(crate) fn parse(output: Option<&Path>) -> anyhow::Result<Self> {
        let Some(output) = output else { return Ok(Self::Folder(PathBuf::from("."))) };
        if output == Path::new("-") {
            if io::stdout().is_terminal() {
                return Err(usage("-o - would print a picture to the terminal: redirect it or name a file"));
            }
            return Ok(Self::Stdout);
        }
        if output.is_dir() || output.to_string_lossy().ends_with(std::path::is_separator) {
            return Ok(Self::Folder(output.to_path_buf()));
        }
        let (output, format) = with_format(output)?;
        Ok(Self::Named(OutputPattern::parse(&output).map_err(usage_because)?, format))
    }

    /// Whether one file holds all pictures of the call.
    pub(crate) fn holds_all(&self) -> bool {
        matches!(self, Self::Named(pattern, Format::Safetensors) if !pattern.is_numbered())
    }

    /// What is written.
    pub(crate) fn format(&self) -> Format {
        match self {
            Self::Named(_, format) => *format,
            _ => Format::Picture(PictureFormat::Png),
        }
    }

    /// Finds out before the work begins that its result could not be written.
    ///
    /// # Errors
    /// A folder that cannot be made or written (exit 3), a name that is a folder's (exit 2).
    pub(crate) fn prepare(&self, count: usize) -> anyhow::Result<()> {
        match self {
            Self::Stdout if count > 1 => {
                Err(usage("-o - takes one picture: name files with a pattern such as -o fox-%03d.png"))
            }
            Self::Stdout => Ok(()),
            Self::Folder(folder) => prepare_folder(folder),
            Self::Named(pattern, _) => prepare_file(&pattern.path(0, if self.holds_all() { 1 } else { count })),
        }
    }

    /// Writes picture `index` of `count`, whole or not at all, and says under which name.
    ///
    /// # Errors
    /// Whatever the disk says (exit 3).
    pub(crate) fn write(&self, index: usize, count: usize, prompt: &str, bytes: &[u8]) -> anyhow::Result<PathBuf> {
        match self {
            Self::Stdout => {
                write_stdout(bytes)?;
                Ok(PathBuf::from("-"))
            }
            Self::Folder(folder) => write_fresh(&folder.join(format!("{}.png", name_of(prompt))), bytes),
            Self::Named(pattern, _) => {
                let path = pattern.path(index, if self.holds_all() { 1 } else { count });
                write_file(&path, bytes)?;
                Ok(path)
            }
        }
    }
}

/// Writes a file in one piece over whatever is there.
///
/// # Errors
/// Whatever the disk says (exit 3); nothing is left behind.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    write_bytes_atomically(path, bytes).map_err(|error| resources(error.to_string()))
}

/// Makes sure that a file can be written later, making its folder if need be.
///
/// # Errors
/// A folder that cannot be made or written (exit 3), a name that is a folder's (exit 2).
pub(crate) fn prepare_file(path: &Path) -> anyhow::Result<()> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Err(usage(format!("cannot write {}: it is a folder", path.display()))),
        // A device or a pipe: it is written in place, its folder does not matter.
        Ok(found) if !found.is_file() => Ok(()),
        _ => prepare_folder(path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))),
    }
}

fn prepare_folder(folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder)
        .and_then(|()| temporary_in(folder))
        .map(drop)
        .map_err(|error| resources(format!("cannot write into folder {}: {}", folder.display(), reason(&error))))
}

/// Writes under this name or the next free number after it: `fox.png`, `fox-2.png`, … Never over anything, not even a
/// file that another process makes at the same moment.
fn write_fresh(path: &Path, bytes: &[u8]) -> anyhow::Result<PathBuf> {
    let failed = |error: io::Error| resources(format!("cannot write {}: {}", path.display(), reason(&error)));
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut temporary = temporary_in(folder).map_err(failed)?;
    temporary.write_all(bytes).and_then(|()| temporary.as_file().sync_all()).map_err(failed)?;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    for number in 1..=u32::MAX {
        let name = if number == 1 { format!("{stem}.png") } else { format!("{stem}-{number}.png") };
        let candidate = if folder == Path::new(".") { PathBuf::from(name) } else { folder.join(name) };
        match temporary.persist_noclobber(&candidate) {
            Ok(_) => return Ok(candidate),
            Err(refused) if refused.error.kind() == io::ErrorKind::AlreadyExists => temporary = refused.file,
            Err(refused) => return Err(failed(refused.error)),
        }
    }
    Err(resources(format!("cannot write {}: every number is taken", path.display())))
}

fn temporary_in(folder: &Path) -> io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".refrain-").suffix(".tmp");
    // The user's own mask decides, as for any file they make; temporary files are private by default.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}

/// The kind of an error in words: `tempfile` adds a temporary path that would only confuse.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::Other => error.to_string(),
        io::ErrorKind::NotFound => "no file can be made there".to_owned(),
        kind => kind.to_string(),
    }
}

fn with_format(path: &Path) -> anyhow::Result<(PathBuf, Format)> {
    let png = Format::Picture(PictureFormat::Png);
    if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return Ok((path.to_path_buf(), png));
    }
    match path.extension() {
        Some(extension) if extension.eq_ignore_ascii_case("safetensors") => {
            Ok((path.to_path_buf(), Format::Safetensors))
        }
        Some(_) => {
            let format = PictureFormat::from_path(path)
                .map_err(|error| usage(format!("-o {error} (or .safetensors for tensors)")))?;
            Ok((path.to_path_buf(), Format::Picture(format)))
        }
        None => {
            let mut name = path.as_os_str().to_owned();
            name.push(if name.is_empty() { "" } else { ".png" });
            Ok((PathBuf::from(name), png))
        }
    }
}

/// A file name from a prompt: letters and digits of any script, joined by hyphens.
fn name_of(prompt: &str) -> String {
    let lowered = prompt.to_lowercase();
    let words = lowered.split(|character: char| !character.is_alphanumeric()).filter(|word| !word.is_empty());
    let mut name = String::new();
    for word in words {
        let room = LONGEST_NAME.saturating_sub(name.len() + 1);
        if !name.is_empty() && word.len() > room {
            break;
        }
        if !name.is_empty() {
            name.push('-');
        }
        let fits = word.char_indices().take_while(|(start, letter)| start + letter.len_utf8() <= room);
        name.extend(fits.map(|(_, letter)| letter));
    }
    if name.is_empty() { "picture".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::errors::{Exit, exit_of};

    #[test]
    fn names_come_from_the_prompt() {
        assert_eq!(name_of("A red fox, on a blue background!"), "a-red-fox-on-a-blue-background");
        assert_eq!(name_of("../../etc/passwd"), "etc-passwd");
        assert_eq!(name_of("\u{1F98A}"), "picture");
        assert!(name_of(&"word ".repeat(2000)).len() <= LONGEST_NAME);
        assert!(name_of(&"\u{e9}".repeat(2000)).len() <= LONGEST_NAME);
    }

    #[test]
    fn odd_names_are_errors_of_the_call() {
        for odd in ["%d-%d.png", "%s.png", "a.bmp", ""] {
            assert_eq!(exit_of(&Destination::parse(Some(Path::new(odd))).unwrap_err()), Exit::Usage, "{odd}");
        }
    }

    #[test]
    fn a_name_without_extension_is_a_png() {
        let folder = tempfile::tempdir().unwrap();
        let fox = Destination::parse(Some(&folder.path().join("fox"))).unwrap();
        assert_eq!(fox.write(0, 1, "", b"1").unwrap(), folder.path().join("fox.png"));
    }

    #[test]
    fn a_default_name_never_writes_over_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let place = Destination::parse(Some(folder.path())).unwrap();
        assert_eq!(place.write(0, 1, "a fox", b"1").unwrap(), folder.path().join("a-fox.png"));
        assert_eq!(place.write(0, 1, "a fox", b"2").unwrap(), folder.path().join("a-fox-2.png"));
        assert_eq!(fs::read(folder.path().join("a-fox.png")).unwrap(), b"1");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_file_in_the_place_of_a_folder_is_found_out_early() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), b"").unwrap();
        let error = prepare_file(&folder.path().join("file/x.png")).unwrap_err();
        assert_eq!(exit_of(&error), Exit::Resources);
        assert_eq!(exit_of(&prepare_file(folder.path()).unwrap_err()), Exit::Usage);
    }
}
