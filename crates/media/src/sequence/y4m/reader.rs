//! Y4M in.

use super::colour::to_picture;
use super::header::{Header, LONGEST_LINE};
use crate::sequence::{FrameSource, SequenceInfo};
use crate::{MediaError, Picture};
use std::io::{self, BufRead, Read};

/// Reads frames as they arrive, from a file or a pipe.
pub struct Y4mSource<R> {
    name: String,
    input: R,
    header: Header,
    planes: Vec<u8>,
    number: u64,
}

impl<R: BufRead> Y4mSource<R> {
    /// Reads the header. `name` is for messages.
    ///
    /// # Errors
    /// [`MediaError::Sequence`] for anything but an 8-bit progressive y4m header.
    pub fn new(name: &str, mut input: R) -> Result<Self, MediaError> {
        let fail = |reason: String| MediaError::sequence(name, None, reason);
        let line = match read_line(&mut input).map_err(|error| fail(error.to_string()))? {
            Line::Whole(line) => line,
            Line::End => return Err(fail("the stream is empty".to_owned())),
            Line::Cut => return Err(fail("the y4m header is cut off".to_owned())),
            Line::Long => return Err(fail("no y4m stream: it does not begin with YUV4MPEG2".to_owned())),
        };
        let header = Header::parse(&line).map_err(fail)?;
        Ok(Self { name: name.to_owned(), input, header, planes: Vec::new(), number: 0 })
    }

    /// What the stream's first line said.
    pub fn header(&self) -> Header {
        self.header
    }

    fn fail(&self, reason: impl std::fmt::Display) -> MediaError {
        MediaError::sequence(&self.name, Some(self.number), reason)
    }

    /// Reads the frame's planes; never more memory than bytes that really came.
    fn read_planes(&mut self) -> Result<(), MediaError> {
        let wanted = self.header.frame_bytes();
        self.planes.clear();
        let read = io::Read::take(&mut self.input, wanted as u64).read_to_end(&mut self.planes);
        read.map_err(|error| self.fail(error))?;
        if self.planes.len() < wanted {
            return Err(self.fail(format!("cut off after {} of {wanted} bytes", self.planes.len())));
        }
        Ok(())
    }
}

impl<R: BufRead + Send> FrameSource for Y4mSource<R> {
    fn info(&self) -> SequenceInfo {
        let Header { width, height, rate, .. } = self.header;
        SequenceInfo { width, height, rate, frames: None }
    }

    fn next_frame(&mut self) -> Result<Option<Picture>, MediaError> {
        self.number += 1;
        let line = match read_line(&mut self.input).map_err(|error| self.fail(error))? {
            Line::End => return Ok(None),
            Line::Whole(line) => line,
            Line::Cut => return Err(self.fail("the frame's header is cut off")),
            Line::Long => return Err(self.fail("does not begin with FRAME")),
        };
        let mut words = line.split(|&byte| byte == b' ');
        if words.next() != Some(b"FRAME") {
            return Err(self.fail("does not begin with FRAME"));
        }
        self.read_planes()?;
        to_picture(&self.header, &self.planes).map(Some)
    }
}

enum Line {
    Whole(Vec<u8>),
    Cut,
    Long,
    End,
}

fn read_line(input: &mut impl BufRead) -> io::Result<Line> {
    let mut line = Vec::new();
    io::Read::take(&mut *input, LONGEST_LINE as u64).read_until(b'\n', &mut line)?;
    Ok(match line.last() {
        None => Line::End,
        Some(b'\n') => {
            line.pop();
            Line::Whole(line)
        }
        Some(_) if line.len() >= LONGEST_LINE => Line::Long,
        Some(_) => Line::Cut,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_all(bytes: &[u8]) -> Result<Vec<Picture>, MediaError> {
        let mut source = Y4mSource::new("x.y4m", bytes)?;
        let mut frames = Vec::new();
        while let Some(frame) = source.next_frame()? {
            frames.push(frame);
        }
        Ok(frames)
    }

    #[test]
    fn limited_range_black_white_and_red() {
        let mut bytes = b"YUV4MPEG2 W3 H1 F25:1 C444\nFRAME Ip\n".to_vec();
        // Codes of ITU-R BT.601: black 16, white 235, red (81, 90, 240).
        bytes.extend([16, 235, 81, 128, 128, 90, 128, 128, 240]);
        let frames = read_all(&bytes).unwrap();
        assert_eq!(frames[0].pixel(0, 0), [0; 3]);
        assert_eq!(frames[0].pixel(1, 0), [255; 3]);
        let [red, green, blue] = frames[0].pixel(2, 0);
        assert!(red >= 253 && green <= 1 && blue <= 1, "{red} {green} {blue}");
    }

    #[test]
    fn a_truncated_clip_names_the_frame_and_the_bytes() {
        let mut bytes = b"YUV4MPEG2 W2 H2 C420\nFRAME\n".to_vec();
        bytes.extend([0; 6]);
        assert_eq!(read_all(&bytes).unwrap().len(), 1);
        bytes.extend(b"FRAME\n\x01\x02");
        assert_eq!(read_all(&bytes).unwrap_err().to_string(), "x.y4m: frame 2: cut off after 2 of 6 bytes");
        bytes.truncate(bytes.len() - 4);
        assert!(read_all(&bytes).unwrap_err().to_string().contains("header is cut off"));
    }

    #[test]
    fn empty_streams_and_clips_without_frames() {
        assert_eq!(read_all(b"").unwrap_err().to_string(), "x.y4m: the stream is empty");
        assert!(read_all(b"YUV4MPEG2 W2 H2\n").unwrap().is_empty());
        assert!(read_all(b"YUV4MPEG2 W2 H2\nFRAMES\n......").unwrap_err().to_string().contains("FRAME"));
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(start in 0usize..3, bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let prefixes: [&[u8]; 3] = [b"", b"YUV4MPEG2 W5 H3 ", b"YUV4MPEG2 W5 H3 C422\nFRAME\n"];
            let mut all = prefixes[start].to_vec();
            all.extend(bytes);
            if let Err(error) = read_all(&all) {
                prop_assert!(!error.to_string().contains('\n'));
            }
        }
    }
}
