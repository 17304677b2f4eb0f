//! Which writer a name asks for: one table of containers by their endings.

use super::apng::ApngSink;
use super::ffmpeg::{self, Container};
use super::folder::FolderSink;
use super::gif::GifSink;
use super::y4m::{Chroma, Y4mSink};
use super::{FrameRate, FrameSink, RawSink};
use crate::MediaError;
use std::path::Path;

/// A container that frames can be written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SequenceFormat {
    /// YUV4MPEG2, lossy only by colour conversion; files and pipes.
    Y4m,
    /// Headerless RGB24; files and pipes.
    RawVideo,
    /// 256 colours a frame.
    Gif,
    /// Lossless.
    Apng,
    /// A folder of PNGs.
    Folder,
    /// H.264 in MP4, through ffmpeg.
    Mp4,
    /// VP9 in WebM, through ffmpeg.
    WebM,
    /// H.264 in Matroska, through ffmpeg.
    Matroska,
}

/// How to write a clip.
#[derive(Debug, Clone, Copy)]
pub struct SinkOptions {
    /// Frames per second.
    pub rate: FrameRate,
    /// The container; none lets the name decide.
    pub format: Option<SequenceFormat>,
    /// Chroma of y4m.
    pub chroma: Chroma,
}

impl SinkOptions {
    /// The name's format at a rate, y4m as 4:2:0, which everything can play.
    pub fn at(rate: FrameRate) -> Self {
        Self { rate, format: None, chroma: Chroma::C420 }
    }
}

type Sink = Result<Box<dyn FrameSink>, MediaError>;

/// What the table knows of a container.
struct Writer {
    format: SequenceFormat,
    /// Endings of names, without the dot.
    endings: &'static [&'static str],
    /// Whether its frames can be written one after the other, without going back.
    pipes: bool,
    /// Whether this build can write it.
    available: bool,
    create: fn(&Path, &SinkOptions) -> Sink,
}

const WRITERS: [Writer; 8] = [
    Writer {
        format: SequenceFormat::Y4m,
        endings: &["y4m"],
        pipes: true,
        available: true,
        create: |path, options| Ok(Box::new(Y4mSink::create(path, options.rate, options.chroma)?)),
    },
    Writer {
        format: SequenceFormat::RawVideo,
        endings: &["rgb", "raw"],
        pipes: true,
        available: true,
        create: |path, _| Ok(Box::new(RawSink::create(path)?)),
    },
    Writer {
        format: SequenceFormat::Gif,
        endings: &["gif"],
        pipes: true,
        available: true,
        create: |path, options| Ok(Box::new(GifSink::create(path, options.rate)?)),
    },
    Writer {
        format: SequenceFormat::Apng,
        endings: &["png", "apng"],
        pipes: false,
        available: true,
        create: |path, options| Ok(Box::new(ApngSink::create(path, options.rate)?)),
    },
    Writer {
        format: SequenceFormat::Folder,
        endings: &[],
        pipes: false,
        available: true,
        create: |path, _| Ok(Box::new(FolderSink::create(path)?)),
    },
    Writer {
        format: SequenceFormat::Mp4,
        endings: &["mp4", "m4v"],
        pipes: false,
        available: ffmpeg::AVAILABLE,
        create: |path, options| ffmpeg::create(path, Container::Mp4, options.rate),
    },
    Writer {
        format: SequenceFormat::WebM,
        endings: &["webm"],
        pipes: false,
        available: ffmpeg::AVAILABLE,
        create: |path, options| ffmpeg::create(path, Container::WebM, options.rate),
    },
    Writer {
        format: SequenceFormat::Matroska,
        endings: &["mkv"],
        pipes: false,
        available: ffmpeg::AVAILABLE,
        create: |path, options| ffmpeg::create(path, Container::Matroska, options.rate),
    },
];

impl SequenceFormat {
    /// The format that a name asks for: `.y4m`, `.rgb`/`.raw`, `.gif`, `.png`/`.apng`, with ffmpeg `.mp4`/`.m4v`, `.webm`
    /// and `.mkv`; `-` is a y4m pipe; a name without an ending, or that of a folder, is a folder of PNGs.
    ///
    /// # Errors
    /// [`MediaError::UnknownSequence`]; [`MediaError::NeedsFfmpeg`] where this build has none.
    pub fn from_path(path: &Path) -> Result<Self, MediaError> {
        if path.as_os_str() == "-" {
            return Ok(Self::Y4m);
        }
        let Some(ending) = path.extension().filter(|_| !path.is_dir()) else { return Ok(Self::Folder) };
        let ending = ending.to_string_lossy().to_ascii_lowercase();
        match WRITERS.iter().find(|writer| writer.endings.contains(&ending.as_str())) {
            Some(writer) if writer.available => Ok(writer.format),
            Some(_) => Err(MediaError::needs_ffmpeg(&path.display().to_string())),
            None => Err(MediaError::UnknownSequence { path: path.to_owned(), extension: ending }),
        }
    }
}

/// Begins a clip. A file appears under its name only when finished.
///
/// # Errors
/// [`MediaError::UnknownSequence`], [`MediaError::NeedsFfmpeg`], [`MediaError::Write`], [`MediaError::StdoutIsTerminal`];
/// [`MediaError::Sequence`] for a format that cannot go through a pipe.
pub fn create_sink(path: &Path, options: SinkOptions) -> Result<Box<dyn FrameSink>, MediaError> {
    let format = options.format.map_or_else(|| SequenceFormat::from_path(path), Ok)?;
    let unknown = || MediaError::UnknownSequence { path: path.to_owned(), extension: String::new() };
    let writer = WRITERS.iter().find(|writer| writer.format == format).ok_or_else(unknown)?;
    if path.as_os_str() == "-" && !writer.pipes {
        return Err(MediaError::sequence("standard output", None, "only y4m, rawvideo and gif go through a pipe"));
    }
    (writer.create)(path, &options)
}
