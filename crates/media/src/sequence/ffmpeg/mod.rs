//! Containers, codecs and cameras of FFmpeg's libraries, which this build links (feature `ffmpeg`).
//!
//! Files are read and written through Rust's own handles: what FFmpeg opens is what was named, a playlist cannot make it open
//! anything else, and a file appears under its name only when finished, as with every other format.

mod graph;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

use super::open::Bytes;
use super::{FrameRate, FrameSink, FrameSource, SourceOptions};
use crate::MediaError;
use ffmpeg_next as av;
use reader::{FfmpegSource, Live};
use std::path::Path;
use std::sync::Once;
use writer::FfmpegSink;

/// Whether this build reads and writes what FFmpeg does.
pub(super) const AVAILABLE: bool = true;

/// What is written through FFmpeg.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Container {
    Mp4,
    WebM,
    Matroska,
}

/// Opens a file or a pipe. `name` is for messages.
pub(super) fn open(name: &str, bytes: Bytes) -> Result<Box<dyn FrameSource>, MediaError> {
    start();
    Ok(Box::new(FfmpegSource::from_bytes(name, bytes)?))
}

/// Opens `/dev/videoN`, for text `N` or nothing, through Video4Linux2.
pub(super) fn open_camera(number: &str, options: SourceOptions) -> Result<Box<dyn FrameSource>, MediaError> {
    start();
    let number = if number.is_empty() { "0" } else { number };
    let (name, path) = (format!("webcam:{number}"), format!("/dev/video{number}"));
    let live = Live { format: "video4linux2", path, rate: options.rate };
    Ok(Box::new(FfmpegSource::from_device(&name, &live)?))
}

/// Opens a source filter of libavfilter, such as `testsrc2=size=320x240:rate=30`.
pub(super) fn open_graph(source: &str, _: SourceOptions) -> Result<Box<dyn FrameSource>, MediaError> {
    start();
    let live = Live { format: "lavfi", path: source.to_owned(), rate: None };
    Ok(Box::new(FfmpegSource::from_device(&format!("lavfi:{source}"), &live)?))
}

/// Begins a file.
pub(super) fn create(path: &Path, container: Container, rate: FrameRate) -> Result<Box<dyn FrameSink>, MediaError> {
    start();
    Ok(Box::new(FfmpegSink::create(path, container, rate)?))
}

/// Registers devices once, and keeps the libraries from writing to standard error: what matters comes back as an error.
fn start() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // It cannot fail: it registers, and fills the table of messages.
        let _ = av::init();
        av::log::set_level(av::log::Level::Quiet);
    });
}
