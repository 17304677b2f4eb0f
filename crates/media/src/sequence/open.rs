//! Which reader a name asks for. Cameras are told by their names, files and pipes by their first bytes.

use super::animation::AnimationSource;
use super::folder::FolderSource;
use super::y4m::Y4mSource;
use super::{FrameRate, FrameSource, RawSource, SequenceInfo, ffmpeg};
use crate::MediaError;
use crate::decode::MAX_FILE_BYTES;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

type Source = Result<Box<dyn FrameSource>, MediaError>;

/// What a source cannot know by itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct SourceOptions {
    /// Size of rawvideo frames (width, height); given, the input is rawvideo.
    pub raw_size: Option<(u32, u32)>,
    /// Rate of a folder or rawvideo, what a camera is asked for, or another rate than the clip's own.
    pub rate: Option<FrameRate>,
}

/// How the frames of an input come, which decides what happens to those that nobody had time for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// They lie ready, as in a file: none need be lost.
    Stored,
    /// They come by themselves, as from a pipe or a camera.
    Arriving,
    /// They could be had at once, but stand for a camera's: whoever reads them waits until each is due.
    Played,
}

/// An input with a name of its own: `name` or `name:rest`.
struct Device {
    name: &'static str,
    pace: Pace,
    /// Opens it by what stands behind the colon.
    open: fn(&str, SourceOptions) -> Source,
    /// What may stand there.
    accepts: fn(&str) -> bool,
    expected: &'static str,
}

const DEVICES: [Device; 2] = [
    Device {
        name: "webcam",
        pace: Pace::Arriving,
        open: ffmpeg::open_camera,
        accepts: |rest| rest.is_empty() || rest.parse::<u8>().is_ok(),
        expected: "webcam or webcam:N, where N is that of /dev/videoN",
    },
    Device {
        name: "lavfi",
        pace: Pace::Played,
        open: ffmpeg::open_graph,
        accepts: |rest| !rest.trim().is_empty(),
        expected: "lavfi:SOURCE, for example lavfi:testsrc2=size=320x240:rate=30",
    },
];

/// How the frames of an input will come, by its name alone.
///
/// # Errors
/// [`MediaError::Sequence`] for a camera's name that is none; [`MediaError::NeedsFfmpeg`] where this build has none.
pub fn input_pace(path: &Path) -> Result<Pace, MediaError> {
    if path.as_os_str() == "-" {
        return Ok(Pace::Arriving);
    }
    let Some((device, rest)) = device(path) else { return Ok(Pace::Stored) };
    let name = path.display().to_string();
    if !(device.accepts)(rest) {
        return Err(MediaError::sequence(&name, None, format!("expected {}", device.expected)));
    }
    if ffmpeg::AVAILABLE { Ok(device.pace) } else { Err(MediaError::needs_ffmpeg(&name)) }
}

/// The device that a name means, and what stands behind the colon.
fn device(path: &Path) -> Option<(&'static Device, &str)> {
    let name = path.to_str()?;
    let (name, rest) = name.split_once(':').unwrap_or((name, ""));
    DEVICES.iter().find(|device| device.name == name).map(|device| (device, rest))
}

/// Opens a clip: y4m, GIF, APNG or PNG by their first bytes, rawvideo where its size is given, a folder of pictures; with
/// ffmpeg whatever that reads, `webcam:N` and `lavfi:SOURCE`; and for `-` what comes on standard input.
///
/// # Errors
/// [`MediaError::Read`], [`MediaError::Sequence`], [`MediaError::NeedsFfmpeg`], [`MediaError::TooLarge`].
pub fn open_source(path: &Path, options: SourceOptions) -> Result<Box<dyn FrameSource>, MediaError> {
    if let Some((device, rest)) = device(path) {
        input_pace(path)?;
        return (device.open)(rest, options);
    }
    if path.as_os_str() == "-" {
        return open_bytes("standard input", path, Bytes::Pipe(BufReader::new(io::stdin())), options);
    }
    if path.is_dir() {
        return Ok(Box::new(FolderSource::new(path, options.rate.unwrap_or(FrameRate::DEFAULT))?));
    }
    let file = File::open(path).map_err(|source| MediaError::Read { path: path.to_owned(), source })?;
    open_bytes(&path.display().to_string(), path, Bytes::File(BufReader::new(file)), options)
}

/// Bytes of a clip: a file can be gone back in, standard input cannot.
pub(super) enum Bytes {
    File(BufReader<File>),
    Pipe(BufReader<io::Stdin>),
}

impl Bytes {
    /// The first bytes, which stay to be read; none at the end of the input.
    fn start(&mut self) -> io::Result<&[u8]> {
        match self {
            Self::File(file) => file.fill_buf(),
            Self::Pipe(pipe) => pipe.fill_buf(),
        }
    }

    fn into_reader(self) -> Box<dyn BufRead + Send> {
        match self {
            Self::File(file) => Box::new(file),
            Self::Pipe(pipe) => Box::new(pipe),
        }
    }
}

/// A format in pure Rust, by what its files begin with, or by an ending that is taken at its word.
struct Reader {
    starts: fn(&[u8]) -> bool,
    ending: Option<&'static str>,
    open: fn(&str, Bytes) -> Source,
}

const READERS: [Reader; 3] = [
    Reader {
        starts: |start| start.starts_with(b"GIF8"),
        ending: None,
        open: |name, bytes| animation(name, bytes, true),
    },
    Reader {
        starts: |start| start.starts_with(b"\x89PNG"),
        ending: None,
        open: |name, bytes| animation(name, bytes, false),
    },
    // A pipe's first piece may be shorter than the word.
    Reader {
        starts: |start| start.iter().zip(b"YUV4").all(|(found, wanted)| found == wanted),
        ending: Some("y4m"),
        open: |name, bytes| Ok(Box::new(Y4mSource::new(name, bytes.into_reader())?)),
    },
];

fn open_bytes(name: &str, path: &Path, mut bytes: Bytes, options: SourceOptions) -> Source {
    if let Some((width, height)) = options.raw_size {
        let rate = options.rate.unwrap_or(FrameRate::DEFAULT);
        let info = SequenceInfo { width, height, rate, frames: None };
        return Ok(Box::new(RawSource::new(name, bytes.into_reader(), info)));
    }
    let start = bytes.start().map_err(|source| MediaError::Read { path: path.to_owned(), source })?;
    if start.is_empty() {
        return Err(MediaError::sequence(name, None, "the clip is empty"));
    }
    let ending = path.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase);
    let named = |reader: &Reader| reader.ending.is_some() && reader.ending == ending.as_deref();
    let found = READERS.iter().find(|reader| (reader.starts)(start));
    match found.or_else(|| READERS.iter().find(|reader| named(reader))) {
        Some(reader) => (reader.open)(name, bytes),
        None => ffmpeg::open(name, bytes),
    }
}

/// GIF and PNG are decoded from memory.
fn animation(name: &str, bytes: Bytes, is_gif: bool) -> Source {
    let mut held = Vec::new();
    let read = bytes.into_reader().take(MAX_FILE_BYTES + 1).read_to_end(&mut held);
    read.map_err(|source| MediaError::Read { path: name.into(), source })?;
    if held.len() as u64 > MAX_FILE_BYTES {
        let limit = format!("{} MiB", MAX_FILE_BYTES >> 20);
        return Err(MediaError::TooLarge { name: name.to_owned(), what: "the file".to_owned(), limit });
    }
    Ok(Box::new(AnimationSource::new(name, held, is_gif)?))
}
