//! Stands where FFmpeg would be in a build without the feature `ffmpeg`: everything that needs it is one clear line.

use super::open::Bytes;
use super::{FrameRate, FrameSink, FrameSource, SourceOptions};
use crate::MediaError;
use std::path::Path;

/// Whether this build reads and writes what FFmpeg does.
pub(super) const AVAILABLE: bool = false;

/// What would be written through FFmpeg.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Container {
    Mp4,
    WebM,
    Matroska,
}

pub(super) fn open(name: &str, _: Bytes) -> Result<Box<dyn FrameSource>, MediaError> {
    Err(MediaError::needs_ffmpeg(name))
}

pub(super) fn open_camera(_: &str, _: SourceOptions) -> Result<Box<dyn FrameSource>, MediaError> {
    Err(MediaError::needs_ffmpeg("webcam"))
}

pub(super) fn open_graph(_: &str, _: SourceOptions) -> Result<Box<dyn FrameSource>, MediaError> {
    Err(MediaError::needs_ffmpeg("lavfi"))
}

pub(super) fn create(path: &Path, _: Container, _: FrameRate) -> Result<Box<dyn FrameSink>, MediaError> {
    Err(MediaError::needs_ffmpeg(&path.display().to_string()))
}
