//! GIF out: 256 colours a frame, repeated for ever.

use super::output::Output;
use super::{FrameRate, FrameSink, check_size};
use crate::{MediaError, Picture};
use gif::{Encoder, EncodingError, Repeat};
use std::io;
use std::path::Path;

/// Speed of the colour quantiser, 1 (best) to 30.
const QUANTISER_SPEED: i32 = 10;

/// Writes an animated GIF.
pub(super) struct GifSink {
    name: String,
    rate: FrameRate,
    state: State,
    size: Option<(u32, u32)>,
    number: u64,
}

/// The encoder wants the size, which the first frame brings.
enum State {
    Waiting(Output),
    Writing(Encoder<Output>),
    Broken,
}

impl GifSink {
    pub(super) fn create(path: &Path, rate: FrameRate) -> Result<Self, MediaError> {
        let output = Output::create(path)?;
        Ok(Self { name: output.name(), rate, state: State::Waiting(output), size: None, number: 0 })
    }

    fn fail(&self, error: EncodingError) -> MediaError {
        match error {
            EncodingError::Io(source) => self.io_error(source),
            other => MediaError::sequence(&self.name, Some(self.number), other),
        }
    }

    fn io_error(&self, source: io::Error) -> MediaError {
        if self.name == super::output::STDOUT {
            return MediaError::Stdout { source };
        }
        MediaError::Write { path: self.name.clone().into(), source }
    }

    fn begin(&mut self, width: u16, height: u16) -> Result<(), EncodingError> {
        let State::Waiting(output) = std::mem::replace(&mut self.state, State::Broken) else { return Ok(()) };
        let mut encoder = Encoder::new(output, width, height, &[])?;
        encoder.set_repeat(Repeat::Infinite)?;
        self.state = State::Writing(encoder);
        Ok(())
    }

    /// GIF counts hundredths of a second; differences of rounded times keep the average rate exact.
    fn delay(&self) -> u16 {
        let index = self.number - 1;
        let hundredths = self.rate.ticks(index + 1, 100) - self.rate.ticks(index, 100);
        // Browsers slow frames shorter than 20 ms down to 100 ms.
        u16::try_from(hundredths.max(2)).unwrap_or(u16::MAX)
    }
}

impl FrameSink for GifSink {
    fn write_frame(&mut self, frame: &Picture) -> Result<(), MediaError> {
        self.number += 1;
        let size = (frame.width(), frame.height());
        check_size(&self.name, self.number, *self.size.get_or_insert(size), size)?;
        let (Ok(width), Ok(height)) = (u16::try_from(size.0), u16::try_from(size.1)) else {
            return Err(MediaError::sequence(&self.name, None, "a GIF has at most 65535 pixels a side"));
        };
        if matches!(self.state, State::Waiting(_)) {
            self.begin(width, height).map_err(|error| self.fail(error))?;
        }
        let mut quantised = gif::Frame::from_rgb_speed(width, height, frame.pixels(), QUANTISER_SPEED);
        quantised.delay = self.delay();
        let State::Writing(encoder) = &mut self.state else {
            return Err(MediaError::sequence(&self.name, Some(self.number), "the file could not be begun"));
        };
        let written = encoder.write_frame(&quantised);
        written.map_err(|error| self.fail(error))
    }

    fn finish(mut self: Box<Self>) -> Result<(), MediaError> {
        let State::Writing(encoder) = std::mem::replace(&mut self.state, State::Broken) else {
            return Err(MediaError::sequence(&self.name, None, super::NO_FRAMES));
        };
        encoder.into_inner().map_err(|error| self.fail(error))?.finish()
    }
}
