//! MP4, WebM and Matroska out.

use super::graph::{Chain, Shape};
use super::{Container, av};
use crate::sequence::output::Output;
use crate::sequence::{FrameRate, FrameSink, NO_FRAMES, check_size};
use crate::{MediaError, Picture};
use av::encoder::{self, video::Encoder};
use av::format::Pixel;
use av::format::context::{self, StreamIo};
use av::frame::Video;
use av::{Codec, Dictionary, Error, Packet, Rational, codec, color, format};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Encoders in order of preference, with their settings for pictures that look untouched.
type Encoders = &'static [(&'static str, &'static [(&'static str, &'static str)])];

const H264: Encoders = &[
    ("libx264", &[("preset", "fast"), ("crf", "18")]),
    ("libopenh264", &[("b", "4000000")]),
    ("mpeg4", &[("b", "8000000")]),
];
const VP9: Encoders = &[
    ("libvpx-vp9", &[("crf", "20"), ("b", "0"), ("deadline", "good"), ("cpu-used", "5"), ("row-mt", "1")]),
    ("libvpx", &[("crf", "8"), ("b", "8000000"), ("deadline", "good"), ("cpu-used", "4")]),
];

impl Container {
    fn muxer(self) -> &'static str {
        match self {
            Self::Mp4 => "mp4",
            Self::WebM => "webm",
            Self::Matroska => "matroska",
        }
    }

    fn encoders(self) -> Encoders {
        match self {
            Self::Mp4 | Self::Matroska => H264,
            Self::WebM => VP9,
        }
    }
}

/// Writes a file; its encoder begins with the first frame, which says how large they are.
pub(super) struct FfmpegSink {
    file: SharedOutput,
    container: Container,
    codec: Codec,
    settings: &'static [(&'static str, &'static str)],
    rate: FrameRate,
    running: Option<Running>,
    number: u64,
}

struct Running {
    muxer: context::Output,
    encoder: Encoder,
    chain: Chain,
    size: (u32, u32),
}

impl FfmpegSink {
    pub(super) fn create(path: &Path, container: Container, rate: FrameRate) -> Result<Self, MediaError> {
        let known = |&&(name, _): &&(&str, _)| encoder::find_by_name(name).is_some();
        let found = container.encoders().iter().find(known);
        let chosen = found.and_then(|&(name, settings)| Some((encoder::find_by_name(name)?, settings)));
        let Some((codec, settings)) = chosen else {
            let names: Vec<&str> = container.encoders().iter().map(|(name, _)| *name).collect();
            let reason = format!("this ffmpeg has none of the encoders {}", names.join(", "));
            return Err(MediaError::sequence(&path.display().to_string(), None, reason));
        };
        let file = SharedOutput::new(Output::create(path)?);
        Ok(Self { file, container, codec, settings, rate, running: None, number: 0 })
    }

    fn begin(&self, (width, height): (u32, u32)) -> Result<Running, Error> {
        let time_base = Rational(to_i32(self.rate.denominator()), to_i32(self.rate.numerator()));
        let target = self.pixel_format(width, height);
        let shape = Shape { width, height, format: Pixel::RGB24 };
        // High-definition colours, as players expect where nothing else is said, and as the file says.
        let filters = format!(
            "scale=flags=bicubic+accurate_rnd+full_chroma_int:in_range=full:out_color_matrix=bt709:out_range=limited,format={}",
            target.descriptor().map_or("yuv420p", |descriptor| descriptor.name())
        );
        let chain = Chain::new(shape, time_base, Rational(1, 1), &filters)?;
        let io = StreamIo::from_write_seek(self.file.clone())?;
        let mut muxer = format::output_to_stream(io, None, Some(self.container.muxer()))?;
        let mut settings = codec::Context::new_with_codec(self.codec).encoder().video()?;
        settings.set_width(width);
        settings.set_height(height);
        settings.set_format(target);
        settings.set_time_base(time_base);
        settings.set_frame_rate(Some(Rational(time_base.denominator(), time_base.numerator())));
        settings.set_colorspace(color::Space::BT709);
        settings.set_color_primaries(color::Primaries::BT709);
        settings.set_color_transfer_characteristic(color::TransferCharacteristic::BT709);
        settings.set_color_range(color::Range::MPEG);
        if muxer.format().flags().contains(format::Flags::GLOBAL_HEADER) {
            settings.set_flags(codec::Flags::GLOBAL_HEADER);
        }
        let options: Dictionary<'_> = self.settings.iter().copied().collect();
        let encoder = settings.open_with(options)?;
        let mut stream = muxer.add_stream(self.codec)?;
        stream.set_parameters(&encoder);
        stream.set_time_base(time_base);
        stream.set_avg_frame_rate(Rational(time_base.denominator(), time_base.numerator()));
        muxer.write_header()?;
        Ok(Running { muxer, encoder, chain, size: (width, height) })
    }

    /// Chroma at half size, as every player can show; at full size where a side is odd and the encoder takes no such.
    fn pixel_format(&self, width: u32, height: u32) -> Pixel {
        let mut formats = self.codec.video().ok().and_then(|video| video.formats());
        let full = formats.as_mut().is_some_and(|formats| formats.any(|known| known == Pixel::YUV444P));
        let odd = !(width.is_multiple_of(2) && height.is_multiple_of(2));
        if odd && full { Pixel::YUV444P } else { Pixel::YUV420P }
    }

    /// What the disk said counts for more than what FFmpeg made of it.
    fn fail(&self, error: &Error) -> MediaError {
        let frame = (self.number > 0).then_some(self.number);
        let (problem, name) = self.file.problem();
        problem.unwrap_or_else(|| MediaError::sequence(&name, frame, error))
    }
}

impl FrameSink for FfmpegSink {
    fn write_frame(&mut self, frame: &Picture) -> Result<(), MediaError> {
        self.number += 1;
        let size = (frame.width(), frame.height());
        if self.running.is_none() {
            self.running = Some(self.begin(size).map_err(|error| self.fail(&error))?);
        }
        let first = self.running.as_ref().map_or(size, |running| running.size);
        check_size(&self.file.problem().1, self.number, first, size)?;
        let written = self.running.as_mut().map_or(Ok(()), |running| running.write(frame, self.number - 1));
        written.map_err(|error| self.fail(&error))
    }

    fn finish(mut self: Box<Self>) -> Result<(), MediaError> {
        let Some(mut running) = self.running.take() else {
            return Err(MediaError::sequence(&self.file.problem().1, None, NO_FRAMES));
        };
        running.finish().map_err(|error| self.fail(&error))?;
        // The muxer hands its last bytes on when it goes.
        drop(running);
        let (problem, name) = self.file.problem();
        let unfinished = || MediaError::sequence(&name, None, "its muxer did not let go of it");
        problem.map_or_else(|| self.file.into_output().ok_or_else(unfinished)?.finish(), Err)
    }
}

impl Running {
    fn write(&mut self, picture: &Picture, index: u64) -> Result<(), Error> {
        let (width, height) = self.size;
        let mut frame = Video::new(Pixel::RGB24, width, height);
        let (stride, row) = (frame.stride(0).max(1), width as usize * 3);
        for (line, pixels) in frame.data_mut(0).chunks_mut(stride).zip(picture.pixels().chunks(row.max(1))) {
            if let Some(line) = line.get_mut(..pixels.len()) {
                line.copy_from_slice(pixels);
            }
        }
        frame.set_pts(i64::try_from(index).ok());
        self.chain.push(Some(&frame))?;
        self.encode()
    }

    /// Encodes what the chain has ready.
    fn encode(&mut self) -> Result<(), Error> {
        while let Some(mut converted) = self.chain.pull()? {
            // The encoder decides which frames are keys.
            converted.set_kind(av::picture::Type::None);
            self.encoder.send_frame(&converted)?;
            self.mux()?;
        }
        Ok(())
    }

    /// Writes the packets that the encoder has ready.
    fn mux(&mut self) -> Result<(), Error> {
        let from = self.encoder.time_base();
        let to = self.muxer.stream(0).map_or(from, |stream| stream.time_base());
        loop {
            let mut packet = Packet::empty();
            match self.encoder.receive_packet(&mut packet) {
                Ok(()) => {}
                Err(Error::Other { errno: av::error::EAGAIN } | Error::Eof) => return Ok(()),
                Err(error) => return Err(error),
            }
            packet.set_stream(0);
            packet.set_duration(1);
            packet.rescale_ts(from, to);
            packet.write_interleaved(&mut self.muxer)?;
        }
    }

    fn finish(&mut self) -> Result<(), Error> {
        self.chain.push(None)?;
        self.encode()?;
        self.encoder.send_eof()?;
        self.mux()?;
        self.muxer.write_trailer()
    }
}

/// The output that a muxer writes to, and that is ours again when it is done; it remembers the first thing that went wrong.
#[derive(Clone)]
struct SharedOutput(Arc<Mutex<(Output, Option<io::Error>)>>);

impl SharedOutput {
    fn new(output: Output) -> Self {
        Self(Arc::new(Mutex::new((output, None))))
    }

    fn lock(&self) -> MutexGuard<'_, (Output, Option<io::Error>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What went wrong with the file, if anything, and its name.
    fn problem(&self) -> (Option<MediaError>, String) {
        let mut held = self.lock();
        let problem = held.1.take();
        (problem.map(|source| held.0.error(source)), held.0.name())
    }

    /// The output itself, once nobody else holds it.
    fn into_output(self) -> Option<Output> {
        let held = Arc::into_inner(self.0)?;
        Some(held.into_inner().unwrap_or_else(PoisonError::into_inner).0)
    }

    fn attempt<T>(&self, act: impl FnOnce(&mut Output) -> io::Result<T>) -> io::Result<T> {
        let mut held = self.lock();
        let done = act(&mut held.0);
        if let Err(error) = &done {
            let copy = error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error);
            held.1.get_or_insert(copy);
        }
        done
    }
}

impl Write for SharedOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.attempt(|output| output.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.attempt(Write::flush)
    }
}

impl Seek for SharedOutput {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.attempt(|output| output.seek(to))
    }
}

fn to_i32(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
