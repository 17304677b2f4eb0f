//! Clips in and out, one frame at a time: nothing here holds more of a clip than it must.
//!
//! A [`FrameSource`] gives pictures until the clip ends, a [`FrameSink`] takes them; both know their frame rate. Y4M and
//! rawvideo also go through standard input and output, so any program that speaks them is a camera, a file format or a
//! screen: `ffmpeg -i clip.mp4 -f yuv4mpegpipe - | refrain stream --input - --output - -p sepia | ffplay -`.
//!
//! With the feature `ffmpeg` FFmpeg's libraries read and write mp4, webm and whatever else they know, and cameras. Which
//! reader or writer a name means is decided in one table each ([`open_source`], [`create_sink`]).
//!
//! A file appears under its name only once it is finished; a sink that is dropped before [`FrameSink::finish`] leaves
//! nothing. What went to a pipe or into a folder of PNGs is there frame by frame.

mod animation;
mod apng;
#[cfg(feature = "ffmpeg")]
mod ffmpeg;
#[cfg(not(feature = "ffmpeg"))]
#[path = "ffmpeg_absent.rs"]
mod ffmpeg;
mod folder;
mod formats;
mod gif;
mod open;
mod output;
mod rate;
mod raw;
#[cfg(test)]
mod tests;
pub mod y4m;

pub use folder::FolderSink;
pub use formats::{SequenceFormat, SinkOptions, create_sink};
pub use open::{Pace, SourceOptions, input_pace, open_source};
pub use rate::FrameRate;
pub use raw::{RawSink, RawSource};

use crate::{MediaError, Picture};

/// What a format says that needs at least one frame.
pub(crate) const NO_FRAMES: &str = "no frames were made, so there is no clip to write";

/// What is known of a clip before its first frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SequenceInfo {
    /// Width of every frame in pixels.
    pub width: u32,
    /// Height of every frame in pixels.
    pub height: u32,
    /// Frames per second.
    pub rate: FrameRate,
    /// Number of frames, where the container says it.
    pub frames: Option<u64>,
}

/// Gives the frames of a clip in order.
pub trait FrameSource: Send {
    /// Size and rate of the clip.
    fn info(&self) -> SequenceInfo;

    /// The next frame, of the size that [`FrameSource::info`] gives; `None` at the clean end of the clip.
    ///
    /// # Errors
    /// [`MediaError::Sequence`] with the frame's number: cut off, of another size, garbled.
    fn next_frame(&mut self) -> Result<Option<Picture>, MediaError>;
}

/// Takes the frames of a clip in order.
pub trait FrameSink: Send {
    /// Appends a frame.
    ///
    /// # Errors
    /// [`MediaError::Sequence`] for a frame of another size than the first, [`MediaError::Write`], [`MediaError::Stdout`].
    fn write_frame(&mut self, frame: &Picture) -> Result<(), MediaError>;

    /// Completes the clip: from here on it is there under its name, whole.
    ///
    /// # Errors
    /// [`MediaError::Write`], [`MediaError::Stdout`]; [`MediaError::Sequence`] where a format cannot hold zero frames.
    fn finish(self: Box<Self>) -> Result<(), MediaError>;
}

/// Refuses a frame whose size differs from that of the clip.
pub(crate) fn check_size(name: &str, number: u64, wanted: (u32, u32), found: (u32, u32)) -> Result<(), MediaError> {
    if wanted == found {
        return Ok(());
    }
    let reason = format!(
        "is {}x{}, but the clip is {}x{}; all frames of a clip have one size",
        found.0, found.1, wanted.0, wanted.1
    );
    Err(MediaError::sequence(name, Some(number), reason))
}
