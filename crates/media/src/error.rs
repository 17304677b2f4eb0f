//! The crate's one error type. Every message is a single lower-case line that says what to do.

use std::io;
use std::path::PathBuf;

/// What can go wrong with pictures and files.
#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    /// A file could not be read.
    #[error("cannot read {}: {}", path.display(), io_reason(source))]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file could not be written; nothing of it was left behind.
    #[error("cannot write {}: {}", path.display(), io_reason(source))]
    Write {
        /// The file that was wanted (not the temporary one).
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Standard output could not be written.
    #[error("cannot write to standard output: {}", io_reason(source))]
    Stdout {
        /// What the system said.
        source: io::Error,
    },
    /// Standard output is a terminal, and bytes of a picture would garble it.
    #[error("standard output is a terminal: redirect it (> picture.png) or name a file with -o")]
    StdoutIsTerminal,
    /// The ending of a file name names no picture format that can be written.
    #[error("{}: unknown picture format{}; use .png, .jpg or .webp", path.display(), ending(extension))]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// Its ending, without the dot; empty when there is none.
        extension: String,
    },
    /// The bytes are no picture that can be read.
    #[error("{name}: {reason}; png, jpeg, webp and gif can be read")]
    Decode {
        /// Where the bytes came from.
        name: String,
        /// What the decoder found, in one line.
        reason: String,
    },
    /// The picture or file is larger than this program wants to hold.
    #[error("{name}: {what} is over the limit of {limit}; scale the picture down first")]
    TooLarge {
        /// Where the bytes came from.
        name: String,
        /// What was found, with its unit.
        what: String,
        /// The limit, with its unit.
        limit: String,
    },
    /// An encoder refused.
    #[error("cannot encode the picture as {format}: {reason}")]
    Encode {
        /// The format.
        format: &'static str,
        /// What the encoder said, in one line.
        reason: String,
    },
    /// A pixel buffer does not have the length that its size asks for.
    #[error("a picture of {width}x{height} needs {expected} values, but {found} were given")]
    Shape {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Values needed.
        expected: usize,
        /// Values given.
        found: usize,
    },
    /// An output name with an unusable `%` pattern.
    #[error("output name {pattern:?}: {reason}")]
    Pattern {
        /// The name as given.
        pattern: String,
        /// What is wrong and what to write instead.
        reason: String,
    },
    /// A generation setting that the `parameters` text cannot carry.
    #[error("cannot write the metadata text: {reason}")]
    Parameters {
        /// What is wrong.
        reason: String,
    },
    /// The ending of a file name names no sequence of frames that can be read or written.
    #[error("{}: unknown video format{}; use .y4m, .gif, .png (APNG), a folder of PNGs or, with ffmpeg, .mp4, .webm, .mkv", path.display(), ending(extension))]
    UnknownSequence {
        /// The file.
        path: PathBuf,
        /// Its ending, without the dot; empty when there is none.
        extension: String,
    },
    /// A container or a camera that this build cannot read or write.
    #[error(
        "{name}: needs ffmpeg, which this build has not: build it with `cargo build --release --features ffmpeg` (packages: \
         README, Stream), or pipe it: ffmpeg -i FILE -f yuv4mpegpipe - | refrain stream -i - …, refrain stream -o - … | \
         ffmpeg -i - FILE"
    )]
    NeedsFfmpeg {
        /// What was to be read or written.
        name: String,
    },
    /// A sequence of frames that cannot be read or written further.
    #[error("{name}: {}{reason}", frame_number(frame))]
    Sequence {
        /// Where the frames come from or go to.
        name: String,
        /// The frame, counted from 1; none for the whole.
        frame: Option<u64>,
        /// What is wrong and, where there is one, the way out.
        reason: String,
    },
    /// A table that cannot be drawn.
    #[error("cannot draw the plot: {reason}")]
    Plot {
        /// What is wrong.
        reason: String,
    },
}

impl MediaError {
    /// Whether the machine ran out of something (disk, memory, a size limit): exit code 3 rather than 1.
    pub fn is_resource(&self) -> bool {
        match self {
            Self::Read { source, .. } | Self::Write { source, .. } | Self::Stdout { source } => matches!(
                source.kind(),
                io::ErrorKind::StorageFull
                    | io::ErrorKind::QuotaExceeded
                    | io::ErrorKind::FileTooLarge
                    | io::ErrorKind::OutOfMemory
            ),
            Self::TooLarge { .. } => true,
            _ => false,
        }
    }

    /// Whether the reader of our output went away (`refrain … | head`), which is no failure of ours.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Stdout { source } if source.kind() == io::ErrorKind::BrokenPipe)
    }

    pub(crate) fn decode(name: &str, reason: impl std::fmt::Display) -> Self {
        Self::Decode { name: name.to_owned(), reason: one_line(&reason.to_string()) }
    }

    pub(crate) fn sequence(name: &str, frame: Option<u64>, reason: impl std::fmt::Display) -> Self {
        Self::Sequence { name: name.to_owned(), frame, reason: one_line(&reason.to_string()) }
    }

    pub(crate) fn needs_ffmpeg(name: &str) -> Self {
        Self::NeedsFfmpeg { name: name.to_owned() }
    }

    pub(crate) fn encode(format: &'static str, reason: impl std::fmt::Display) -> Self {
        Self::Encode { format, reason: one_line(&reason.to_string()) }
    }
}

/// Joins the lines of another library's message, and bounds it: file contents may be quoted in it.
pub(crate) fn one_line(text: &str) -> String {
    const LONGEST: usize = 200;
    let joined = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if joined.chars().count() <= LONGEST {
        return joined;
    }
    joined.chars().take(LONGEST).chain(['…']).collect()
}

fn frame_number(frame: &Option<u64>) -> String {
    frame.map(|number| format!("frame {number}: ")).unwrap_or_default()
}

fn ending(extension: &str) -> String {
    if extension.is_empty() { " (no ending)".to_owned() } else { format!(" \".{extension}\"") }
}

/// The system's reason in plain words, with advice for the usual cases.
fn io_reason(error: &io::Error) -> String {
    use io::ErrorKind as Kind;
    let advice = match error.kind() {
        Kind::NotFound => "no such file or folder",
        Kind::PermissionDenied => "permission denied",
        Kind::StorageFull => "the disk is full; free some space or choose another folder",
        Kind::QuotaExceeded => "the disk quota is used up; free some space or choose another folder",
        Kind::ReadOnlyFilesystem => "the file system is read-only; choose another folder",
        Kind::IsADirectory => "it is a folder; name a file in it",
        Kind::NotADirectory => "a part of the path is a file, not a folder",
        Kind::BrokenPipe => "the reader closed the pipe",
        _ => return one_line(&error.to_string()),
    };
    advice.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_one_line_with_the_path() {
        let full = MediaError::Write { path: "out/fox.png".into(), source: io::ErrorKind::StorageFull.into() };
        says(&full, "cannot write out/fox.png: the disk is full; free some space or choose another folder");
        assert!(full.is_resource());
        let unknown = MediaError::UnknownFormat { path: "fox.bmp".into(), extension: "bmp".into() };
        says(&unknown, "fox.bmp: unknown picture format \".bmp\"; use .png, .jpg or .webp");
        let garbage = MediaError::decode("x.png", "first\n  second line\t third");
        says(&garbage, "x.png: first second line third; png, jpeg, webp and gif can be read");
        assert!(MediaError::decode("x", "y".repeat(10_000)).to_string().len() < 300);
    }

    fn says(error: &MediaError, expected: &str) {
        assert_eq!(error.to_string(), expected);
    }
}
