//! GIF and APNG in. The decoder runs ahead by a few frames in a thread of its own.

use super::{FrameRate, FrameSource, SequenceInfo, check_size};
use crate::decode::{LoadOptions, flatten};
use crate::{MediaError, Picture};
use image::codecs::gif::GifDecoder;
use image::codecs::png::PngDecoder;
use image::{AnimationDecoder, DynamicImage, Frame, Frames, ImageDecoder};
use std::io::Cursor;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

/// Frames decoded ahead of the reader.
const AHEAD: usize = 2;

/// Browsers show frames with a delay under 20 ms for 100 ms.
const SHORTEST_DELAY: f64 = 20.0;

/// An animated GIF or PNG, or a still PNG as a clip of one frame.
pub(super) struct AnimationSource {
    name: String,
    info: SequenceInfo,
    frames: Receiver<Result<Frame, String>>,
    first: Option<Picture>,
    number: u64,
}

impl AnimationSource {
    /// Decodes `bytes` of a GIF, or else of a PNG. `name` is for messages.
    pub(super) fn new(name: &str, bytes: Vec<u8>, is_gif: bool) -> Result<Self, MediaError> {
        let fail = |reason: String| MediaError::sequence(name, None, reason);
        let (width, height) = dimensions(&bytes, is_gif).map_err(|error| fail(error.to_string()))?;
        let limit = LoadOptions::default().max_side;
        if width.max(height) > limit {
            let (what, limit) = (format!("a size of {width}x{height}"), format!("{limit} pixels a side"));
            return Err(MediaError::TooLarge { name: name.to_owned(), what, limit });
        }
        let (sender, frames) = sync_channel(AHEAD);
        thread::spawn(move || {
            let each = |frame: Result<Frame, image::ImageError>| {
                let failed = frame.is_err();
                // An error here means that the reader went away.
                sender.send(frame.map_err(|error| error.to_string())).is_err() || failed
            };
            match decode(bytes, is_gif) {
                Ok(decoded) => {
                    let _ = decoded.into_iter().any(each);
                }
                Err(error) => {
                    let _ = sender.send(Err(error.to_string()));
                }
            }
        });
        let first = match frames.recv() {
            Ok(Ok(frame)) => frame,
            Ok(Err(reason)) => return Err(MediaError::sequence(name, Some(1), reason)),
            Err(_) => return Err(fail("holds no frames".to_owned())),
        };
        let info = SequenceInfo { width, height, rate: rate_of(&first), frames: None };
        let first = Some(opaque(first)?);
        Ok(Self { name: name.to_owned(), info, frames, first, number: 0 })
    }
}

impl FrameSource for AnimationSource {
    fn info(&self) -> SequenceInfo {
        self.info
    }

    fn next_frame(&mut self) -> Result<Option<Picture>, MediaError> {
        self.number += 1;
        let picture = match self.first.take() {
            Some(picture) => picture,
            None => match self.frames.recv() {
                Ok(Ok(frame)) => opaque(frame)?,
                Ok(Err(reason)) => return Err(MediaError::sequence(&self.name, Some(self.number), reason)),
                Err(_) => return Ok(None),
            },
        };
        let wanted = (self.info.width, self.info.height);
        check_size(&self.name, self.number, wanted, (picture.width(), picture.height()))?;
        Ok(Some(picture))
    }
}

fn dimensions(bytes: &[u8], is_gif: bool) -> image::ImageResult<(u32, u32)> {
    if is_gif {
        return Ok(GifDecoder::new(Cursor::new(bytes))?.dimensions());
    }
    Ok(PngDecoder::new(Cursor::new(bytes))?.dimensions())
}

fn decode(bytes: Vec<u8>, is_gif: bool) -> image::ImageResult<Frames<'static>> {
    if is_gif {
        return Ok(GifDecoder::new(Cursor::new(bytes))?.into_frames());
    }
    let decoder = PngDecoder::new(Cursor::new(bytes))?;
    if decoder.is_apng()? {
        return Ok(decoder.apng()?.into_frames());
    }
    let still = DynamicImage::from_decoder(decoder)?.into_rgba8();
    Ok(Frames::new(Box::new(std::iter::once(Ok(Frame::new(still))))))
}

fn opaque(frame: Frame) -> Result<Picture, MediaError> {
    flatten(&DynamicImage::ImageRgba8(frame.into_buffer()), LoadOptions::default().background)
}

/// The rate of the first frame's delay; formats with a delay for each frame rarely use different ones.
fn rate_of(frame: &Frame) -> FrameRate {
    let (numerator, denominator) = frame.delay().numer_denom_ms();
    let milliseconds = f64::from(numerator) / f64::from(denominator.max(1));
    let shown = if milliseconds < SHORTEST_DELAY { 100.0 } else { milliseconds };
    FrameRate::from_milliseconds(shown).unwrap_or(FrameRate::DEFAULT)
}
