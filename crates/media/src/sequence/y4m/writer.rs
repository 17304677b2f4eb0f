//! Y4M out.

use super::colour::to_planes;
use super::header::{Chroma, Header, Range};
use crate::sequence::output::Output;
use crate::sequence::{FrameRate, FrameSink, NO_FRAMES, check_size};
use crate::{MediaError, Picture};
use std::io::Write;
use std::path::Path;

/// Writes frames as they come, to a file or a pipe. The header goes out with the first frame, which sets the size.
pub struct Y4mSink {
    output: Output,
    rate: FrameRate,
    chroma: Chroma,
    header: Option<Header>,
    planes: Vec<u8>,
    number: u64,
}

impl Y4mSink {
    /// A file, or standard output for `-`.
    ///
    /// # Errors
    /// [`MediaError::Write`], [`MediaError::StdoutIsTerminal`].
    pub fn create(path: &Path, rate: FrameRate, chroma: Chroma) -> Result<Self, MediaError> {
        Ok(Self::over(Output::create(path)?, rate, chroma))
    }

    pub(crate) fn over(output: Output, rate: FrameRate, chroma: Chroma) -> Self {
        Self { output, rate, chroma, header: None, planes: Vec::new(), number: 0 }
    }
}

impl FrameSink for Y4mSink {
    fn write_frame(&mut self, frame: &Picture) -> Result<(), MediaError> {
        self.number += 1;
        let size = (frame.width(), frame.height());
        self.planes.clear();
        let header = match self.header {
            Some(header) => header,
            None => {
                let header = Header {
                    width: size.0,
                    height: size.1,
                    rate: self.rate,
                    chroma: self.chroma,
                    range: Range::Limited,
                };
                self.planes.extend(header.to_line().bytes());
                self.planes.push(b'\n');
                *self.header.insert(header)
            }
        };
        check_size(&self.output.name(), self.number, (header.width, header.height), size)?;
        self.planes.extend(b"FRAME\n");
        to_planes(&header, frame, &mut self.planes);
        let written = self.output.write_all(&self.planes).and_then(|()| self.output.end_of_frame());
        written.map_err(|source| self.output.error(source))
    }

    fn finish(self: Box<Self>) -> Result<(), MediaError> {
        if self.number == 0 {
            return Err(MediaError::sequence(&self.output.name(), None, NO_FRAMES));
        }
        self.output.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sequence::FrameSource;
    use crate::sequence::y4m::Y4mSource;
    use proptest::prelude::*;
    use std::sync::{Arc, Mutex};

    fn round_trip(picture: &Picture, chroma: Chroma) -> Picture {
        let memory = Arc::new(Mutex::new(Vec::new()));
        let mut sink = Y4mSink::over(Output::Memory(Arc::clone(&memory)), FrameRate::DEFAULT, chroma);
        sink.write_frame(picture).unwrap();
        sink.write_frame(picture).unwrap();
        Box::new(sink).finish().unwrap();
        let bytes = memory.lock().unwrap().clone();
        let mut source = Y4mSource::new("x", bytes.as_slice()).unwrap();
        let first = source.next_frame().unwrap().unwrap();
        assert_eq!(source.next_frame().unwrap().as_ref(), Some(&first));
        assert!(source.next_frame().unwrap().is_none());
        first
    }

    proptest! {
        #[test]
        fn any_size_comes_back_nearly(width in 1u32..9, height in 1u32..9, colour: [u8; 3]) {
            let picture = Picture::filled(width, height, colour);
            for chroma in [Chroma::C420, Chroma::C422, Chroma::C444] {
                let read = round_trip(&picture, chroma);
                prop_assert_eq!((read.width(), read.height()), (width, height));
                let worst = read.pixels().iter().zip(picture.pixels()).map(|(a, b)| a.abs_diff(*b)).max();
                // Limited range has 219 steps for 256 values, and chroma is rounded besides.
                prop_assert!(worst <= Some(3), "{:?}", worst);
            }
        }
    }

    #[test]
    fn frames_of_another_size_are_refused() {
        let mut sink = Y4mSink::over(Output::Memory(Arc::default()), FrameRate::DEFAULT, Chroma::C420);
        sink.write_frame(&Picture::filled(4, 4, [0; 3])).unwrap();
        let error = sink.write_frame(&Picture::filled(4, 5, [0; 3])).unwrap_err().to_string();
        assert_eq!(error, "memory: frame 2: is 4x5, but the clip is 4x4; all frames of a clip have one size");
    }
}
