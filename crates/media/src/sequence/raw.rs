//! Raw RGB24 frames, one after the other, with no header: `ffmpeg -f rawvideo -pix_fmt rgb24`.

use super::output::Output;
use super::{FrameSink, FrameSource, SequenceInfo, check_size};
use crate::{MediaError, Picture};
use std::io::{Read, Write};
use std::path::Path;

/// Reads RGB24 frames of a size that the caller knows.
pub struct RawSource<R> {
    name: String,
    input: R,
    info: SequenceInfo,
    number: u64,
}

impl<R: Read> RawSource<R> {
    /// Frames of `info`'s size from `input`. `name` is for messages.
    pub fn new(name: &str, input: R, info: SequenceInfo) -> Self {
        Self { name: name.to_owned(), input, info, number: 0 }
    }
}

impl<R: Read + Send> FrameSource for RawSource<R> {
    fn info(&self) -> SequenceInfo {
        self.info
    }

    fn next_frame(&mut self) -> Result<Option<Picture>, MediaError> {
        self.number += 1;
        let SequenceInfo { width, height, .. } = self.info;
        let wanted = u64::from(width) * u64::from(height) * 3;
        let mut pixels = Vec::new();
        let fail = |reason: String| MediaError::sequence(&self.name, Some(self.number), reason);
        Read::take(&mut self.input, wanted).read_to_end(&mut pixels).map_err(|error| fail(error.to_string()))?;
        if pixels.is_empty() {
            return Ok(None);
        }
        if (pixels.len() as u64) < wanted {
            let reason = format!("cut off after {} of {wanted} bytes (rgb24, {width}x{height})", pixels.len());
            return Err(fail(reason));
        }
        Picture::from_rgb8(width, height, pixels).map(Some)
    }
}

/// Writes RGB24 frames.
pub struct RawSink {
    output: Output,
    size: Option<(u32, u32)>,
    number: u64,
}

impl RawSink {
    /// A file, or standard output for `-`.
    ///
    /// # Errors
    /// [`MediaError::Write`], [`MediaError::StdoutIsTerminal`].
    pub fn create(path: &Path) -> Result<Self, MediaError> {
        Ok(Self { output: Output::create(path)?, size: None, number: 0 })
    }
}

impl FrameSink for RawSink {
    fn write_frame(&mut self, frame: &Picture) -> Result<(), MediaError> {
        self.number += 1;
        let size = (frame.width(), frame.height());
        check_size(&self.output.name(), self.number, *self.size.get_or_insert(size), size)?;
        let written = self.output.write_all(frame.pixels()).and_then(|()| self.output.end_of_frame());
        written.map_err(|source| self.output.error(source))
    }

    fn finish(self: Box<Self>) -> Result<(), MediaError> {
        self.output.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sequence::FrameRate;

    #[test]
    fn frames_end_cleanly_or_with_the_missing_bytes() {
        let info = SequenceInfo { width: 2, height: 1, rate: FrameRate::DEFAULT, frames: None };
        let bytes = [1, 2, 3, 4, 5, 6, 7];
        let mut source = RawSource::new("x", &bytes[..6], info);
        assert_eq!(source.next_frame().unwrap().unwrap().pixels(), &bytes[..6]);
        assert!(source.next_frame().unwrap().is_none());
        let mut source = RawSource::new("x", &bytes[..], info);
        source.next_frame().unwrap();
        let message = source.next_frame().unwrap_err().to_string();
        assert_eq!(message, "x: frame 2: cut off after 1 of 6 bytes (rgb24, 2x1)");
    }
}
