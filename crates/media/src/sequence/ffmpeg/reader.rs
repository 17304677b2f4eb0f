//! Clips and cameras in.

use super::av;
use super::graph::{Chain, Shape};
use crate::decode::LoadOptions;
use crate::sequence::open::Bytes;
use crate::sequence::{FrameRate, FrameSource, SequenceInfo, check_size};
use crate::{MediaError, Picture};
use av::format::context::{Input, StreamIo};
use av::frame::Video;
use av::util::color::{Range, Space};
use av::{Dictionary, Error, Packet, Rational, codec, decoder, format, media};
use std::io::Seek;

/// Broken frames in a row after which a camera counts as broken; many begin with one or two.
const PATIENCE: usize = 60;

/// A source of FFmpeg's that stands for a camera.
pub(super) struct Live {
    /// Name of the input format.
    pub(super) format: &'static str,
    /// What it opens.
    pub(super) path: String,
    /// The rate to ask for.
    pub(super) rate: Option<FrameRate>,
}

/// The frames of a clip or a camera, upright, with square pixels, as RGB.
pub(super) struct FfmpegSource {
    name: String,
    input: Input,
    stream: usize,
    decoder: decoder::Video,
    chain: Option<Chain>,
    plan: Plan,
    /// Frames that came out of the decoder.
    decoded: u64,
    timestamp: i64,
    /// Whether the decoder has been told that the input is at its end, and has given all.
    ended: (bool, bool),
    first: Option<Picture>,
    info: SequenceInfo,
    number: u64,
}

/// What to do with decoded frames, as far as the container says it.
struct Plan {
    time_base: Rational,
    /// Quarter turns clockwise.
    turns: u8,
    /// A constant rate to bring frames of varying distance to.
    even: Option<FrameRate>,
    /// Broken frames are left out, and no frame is held back.
    live: bool,
}

impl FfmpegSource {
    /// Opens a file or a pipe.
    pub(super) fn from_bytes(name: &str, bytes: Bytes) -> Result<Self, MediaError> {
        let fail = |error: Error| MediaError::sequence(name, None, unreadable(&error));
        let io = match bytes {
            Bytes::File(mut file) => {
                // What had been looked at was not taken out of the reader; FFmpeg begins at the beginning.
                file.rewind().map_err(|source| MediaError::Read { path: name.into(), source })?;
                StreamIo::from_read_seek(file)
            }
            Bytes::Pipe(pipe) => StreamIo::from_read(pipe),
        };
        let mut options = Dictionary::new();
        // A playlist or a reference inside the file must not open other files or addresses.
        options.set("protocol_whitelist", "none");
        let input = format::input_from_stream(io.map_err(fail)?, None, Some(options)).map_err(fail)?;
        Self::from_input(name, input, false)
    }

    /// Opens a camera, or what stands for one.
    pub(super) fn from_device(name: &str, live: &Live) -> Result<Self, MediaError> {
        let fail = |reason: String| MediaError::sequence(name, None, reason);
        let devices = av::device::input::video();
        let found = devices.into_iter().find(|device| device.name().split(',').any(|known| known == live.format));
        let Some(device) = found else {
            return Err(fail(format!("this ffmpeg has no {}", live.format)));
        };
        let mut options = Dictionary::new();
        if let Some(rate) = live.rate {
            options.set("framerate", &format!("{}/{}", rate.numerator(), rate.denominator()));
        }
        let opened = format::open_with(&live.path, &device, options);
        let input = opened.map_err(|error| fail(format!("cannot open {}: {error}", live.path)))?;
        Self::from_input(name, input.input(), true)
    }

    fn from_input(name: &str, input: Input, live: bool) -> Result<Self, MediaError> {
        let fail = |error: Error| MediaError::sequence(name, None, unreadable(&error));
        let Some(stream) = input.streams().best(media::Type::Video) else {
            return Err(MediaError::sequence(name, None, "holds no video"));
        };
        let side = LoadOptions::default().max_side;
        let mut options = Dictionary::new();
        options.set("max_pixels", &(u64::from(side) * u64::from(side) / 4).to_string());
        let mut context = codec::Context::from_parameters(stream.parameters()).map_err(fail)?.decoder();
        let found = decoder::find(context.id()).ok_or(Error::DecoderNotFound).map_err(fail)?;
        context.set_packet_time_base(stream.time_base());
        let decoder = context.open_as_with(found, options).and_then(decoder::Opened::video).map_err(fail)?;
        let (average, nominal) = (rate_of(stream.avg_frame_rate()), rate_of(stream.rate()));
        let rate = average.or(nominal).unwrap_or(FrameRate::DEFAULT);
        let varies = nominal.is_some_and(|nominal| (nominal.per_second() / rate.per_second() - 1.0).abs() > 0.01);
        let plan = Plan {
            time_base: stream.time_base(),
            turns: quarter_turns(&stream),
            even: (varies && !live).then_some(rate),
            live,
        };
        let frames = u64::try_from(stream.frames()).ok().filter(|&count| count > 0 && plan.even.is_none());
        let (stream, info) = (stream.index(), SequenceInfo { width: 0, height: 0, rate, frames });
        let mut source = Self {
            name: name.to_owned(),
            input,
            stream,
            decoder,
            chain: None,
            plan,
            decoded: 0,
            timestamp: -1,
            ended: (false, false),
            first: None,
            info,
            number: 0,
        };
        // Only the first frame, turned and made square, says how large they are.
        let Some(first) = source.next_picture()? else {
            return Err(MediaError::sequence(name, None, "holds no frames"));
        };
        (source.info.width, source.info.height) = (first.width(), first.height());
        source.first = Some(first);
        Ok(source)
    }

    fn fail(&self, reason: impl std::fmt::Display) -> MediaError {
        MediaError::sequence(&self.name, Some(self.decoded + 1), reason)
    }

    fn next_picture(&mut self) -> Result<Option<Picture>, MediaError> {
        loop {
            let ready = self.chain.as_mut().map_or(Ok(None), Chain::pull);
            if let Some(frame) = ready.map_err(|error| self.fail(unreadable(&error)))? {
                return to_picture(&frame).map(Some);
            }
            if self.ended.1 {
                return Ok(None);
            }
            match self.decode()? {
                Some(frame) => self.filter(frame)?,
                None => {
                    self.ended.1 = true;
                    let closed = self.chain.as_mut().map_or(Ok(()), |chain| chain.push(None));
                    closed.map_err(|error| self.fail(unreadable(&error)))?;
                }
            }
        }
    }

    /// The next frame as it was coded; `None` at the end.
    fn decode(&mut self) -> Result<Option<Video>, MediaError> {
        let mut broken = 0;
        loop {
            let mut frame = Video::empty();
            match self.decoder.receive_frame(&mut frame) {
                Ok(()) => return Ok(Some(frame)),
                Err(Error::Eof) => return Ok(None),
                Err(Error::Other { errno: av::error::EAGAIN }) => {}
                Err(error) => return Err(self.fail(unreadable(&error))),
            }
            match self.send() {
                Ok(()) => {}
                Err(_) if self.plan.live && broken < PATIENCE => broken += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Hands the decoder the next packet, or the end.
    fn send(&mut self) -> Result<(), MediaError> {
        let mut packet = Packet::empty();
        loop {
            match packet.read(&mut self.input) {
                Ok(()) if packet.stream() != self.stream => continue,
                Ok(()) if packet.is_corrupt() => return Err(self.fail("the file is cut off or damaged here")),
                Ok(()) => break,
                Err(Error::Eof) if !self.ended.0 => {
                    self.ended.0 = true;
                    return self.decoder.send_eof().map_err(|error| self.fail(unreadable(&error)));
                }
                Err(error) => return Err(self.fail(unreadable(&error))),
            }
        }
        self.decoder.send_packet(&packet).map_err(|error| self.fail(unreadable(&error)))
    }

    fn filter(&mut self, mut frame: Video) -> Result<(), MediaError> {
        let shape = Shape::of(&frame);
        if let Some(chain) = &self.chain {
            let first = chain.shape();
            check_size(&self.name, self.decoded + 1, (first.width, first.height), (shape.width, shape.height))?;
            if shape != first {
                return Err(self.fail(format!("changes from {:?} to {:?}", first.format, shape.format)));
            }
        } else {
            self.check_limits(&frame)?;
            let (time_base, aspect) = (self.plan.time_base, frame.aspect_ratio());
            let chain = Chain::new(shape, time_base, aspect, &self.plan.filters(&frame));
            self.chain = Some(chain.map_err(|error| self.fail(unreadable(&error)))?);
        }
        self.timestamp = frame.timestamp().unwrap_or(self.timestamp + 1);
        frame.set_pts(Some(self.timestamp));
        let pushed = self.chain.as_mut().map_or(Ok(()), |chain| chain.push(Some(&frame)));
        pushed.map_err(|error| self.fail(unreadable(&error)))?;
        self.decoded += 1;
        Ok(())
    }

    /// Pixels that are far from square could make a small frame huge.
    fn check_limits(&self, frame: &Video) -> Result<(), MediaError> {
        let aspect = f64::from(frame.aspect_ratio());
        let stretch = if aspect.is_finite() && aspect > 0.0 { aspect } else { 1.0 };
        let (width, limit) = (f64::from(frame.width()) * stretch, LoadOptions::default().max_side);
        if width.max(f64::from(frame.height())) <= f64::from(limit) && width >= 1.0 {
            return Ok(());
        }
        let what = format!("a size of {width:.0}x{}", frame.height());
        Err(MediaError::TooLarge { name: self.name.clone(), what, limit: format!("{limit} pixels a side") })
    }
}

impl FrameSource for FfmpegSource {
    fn info(&self) -> SequenceInfo {
        self.info
    }

    fn next_frame(&mut self) -> Result<Option<Picture>, MediaError> {
        self.number += 1;
        let next = match self.first.take() {
            Some(first) => Some(first),
            None => self.next_picture()?,
        };
        let Some(picture) = next else { return Ok(None) };
        let wanted = (self.info.width, self.info.height);
        check_size(&self.name, self.number, wanted, (picture.width(), picture.height()))?;
        Ok(Some(picture))
    }
}

impl Plan {
    /// The chain from a coded frame to RGB.
    fn filters(&self, frame: &Video) -> String {
        let mut chain = Vec::new();
        if frame.is_interlaced() && !self.live {
            chain.push("yadif=mode=send_frame:deint=interlaced".to_owned());
        }
        if let Some(rate) = self.even {
            chain.push(format!("fps={}/{}", rate.numerator(), rate.denominator()));
        }
        let matrix = match frame.color_space() {
            Space::BT709 => "bt709",
            Space::BT2020NCL | Space::BT2020CL => "bt2020",
            Space::SMPTE240M => "smpte240m",
            Space::FCC => "fcc",
            _ => "bt601",
        };
        let range = match frame.color_range() {
            Range::JPEG => "full",
            Range::MPEG => "limited",
            Range::Unspecified => "auto",
        };
        chain.push(format!(
            "scale=w='max(1,round(iw*sar))':h=ih:flags=bicubic+accurate_rnd+full_chroma_int:in_color_matrix={matrix}:in_range={range}:out_range=full"
        ));
        chain.push("format=rgb24".to_owned());
        match self.turns {
            1 => chain.push("transpose=clock".to_owned()),
            2 => chain.push("hflip,vflip".to_owned()),
            3 => chain.push("transpose=cclock".to_owned()),
            _ => {}
        }
        chain.join(",")
    }
}

fn rate_of(rate: Rational) -> Option<FrameRate> {
    FrameRate::new(u32::try_from(rate.numerator()).ok()?, u32::try_from(rate.denominator()).ok()?)
}

/// Quarter turns clockwise that a container asks for, as phones do: its display matrix `[a b u; c d v; x y w]` of 32-bit
/// numbers turns by atan2(b, a).
fn quarter_turns(stream: &format::stream::Stream<'_>) -> u8 {
    let matrices = stream.side_data().filter(|data| data.kind() == codec::packet::side_data::Type::DisplayMatrix);
    let number = |bytes: &[u8]| bytes.try_into().map_or(0.0, |bytes| f64::from(i32::from_ne_bytes(bytes)));
    matrices
        .filter_map(|matrix| {
            let mut numbers = matrix.data().chunks_exact(4).map(number);
            let (a, b) = (numbers.next()?, numbers.next()?);
            Some((b.atan2(a) / std::f64::consts::FRAC_PI_2).round().rem_euclid(4.0) as u8)
        })
        .next()
        .unwrap_or(0)
}

fn to_picture(frame: &Video) -> Result<Picture, MediaError> {
    let (width, height, row) = (frame.width(), frame.height(), frame.width() as usize * 3);
    let mut pixels = Vec::with_capacity(row * height as usize);
    for line in frame.data(0).chunks(frame.stride(0).max(1)).take(height as usize) {
        pixels.extend_from_slice(line.get(..row).unwrap_or(line));
    }
    Picture::from_rgb8(width, height, pixels)
}

/// FFmpeg's reason in words that say what to do about it.
fn unreadable(error: &Error) -> String {
    match error {
        Error::InvalidData => "no video that can be read: it is cut off, damaged or of an unknown format".to_owned(),
        Error::DecoderNotFound => "this ffmpeg has no decoder for its codec".to_owned(),
        other => other.to_string(),
    }
}
