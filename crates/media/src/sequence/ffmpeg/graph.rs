//! Frames through a chain of filters: colours, pixel format, shape.

use super::av;
use av::filter::{self, Graph};
use av::frame::Video;
use av::{Error, Rational};

/// Names of the ends of the chain.
const ENTRANCE: &str = "in";
const EXIT: &str = "out";

/// What enters a chain: every frame of it is like this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) format: av::format::Pixel,
}

impl Shape {
    pub(super) fn of(frame: &Video) -> Self {
        Self { width: frame.width(), height: frame.height(), format: frame.format() }
    }
}

/// A chain of filters in use.
pub(super) struct Chain {
    graph: Graph,
    shape: Shape,
}

impl Chain {
    /// A chain by its description, for frames of `shape` with timestamps in `time_base` and pixels of `aspect`.
    pub(super) fn new(shape: Shape, time_base: Rational, aspect: Rational, description: &str) -> Result<Self, Error> {
        let mut graph = Graph::new();
        let pixel_format = av::ffi::AVPixelFormat::from(shape.format) as i32;
        let aspect = if aspect.numerator() > 0 && aspect.denominator() > 0 { aspect } else { Rational(1, 1) };
        let arguments = format!(
            "video_size={}x{}:pix_fmt={pixel_format}:time_base={}/{}:pixel_aspect={}/{}",
            shape.width,
            shape.height,
            time_base.numerator(),
            time_base.denominator(),
            aspect.numerator(),
            aspect.denominator(),
        );
        let find = |name| filter::find(name).ok_or(Error::FilterNotFound);
        graph.add(&find("buffer")?, ENTRANCE, &arguments)?;
        graph.add(&find("buffersink")?, EXIT, "")?;
        graph.output(ENTRANCE, 0)?.input(EXIT, 0)?.parse(description)?;
        graph.validate()?;
        Ok(Self { graph, shape })
    }

    /// What the frames that enter are like.
    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    /// Hands a frame in; `None` says that no more come.
    pub(super) fn push(&mut self, frame: Option<&Video>) -> Result<(), Error> {
        let mut entrance = self.graph.get(ENTRANCE).ok_or(Error::FilterNotFound)?;
        match frame {
            Some(frame) => entrance.source().add(frame),
            None => entrance.source().flush(),
        }
    }

    /// Takes a frame out, if one is ready.
    pub(super) fn pull(&mut self) -> Result<Option<Video>, Error> {
        let mut exit = self.graph.get(EXIT).ok_or(Error::FilterNotFound)?;
        let mut frame = Video::empty();
        match exit.sink().frame(&mut frame) {
            Ok(()) => Ok(Some(frame)),
            Err(Error::Other { errno: av::error::EAGAIN } | Error::Eof) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
