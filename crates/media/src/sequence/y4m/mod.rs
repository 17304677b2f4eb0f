//! YUV4MPEG2: a line of text, then for each frame a line `FRAME` and its planes. 8 bits, progressive.
//!
//! Colours are BT.601, as ffmpeg assumes of streams that do not say; `XCOLORRANGE=FULL` is honoured. Chroma is averaged
//! over the pixels it covers when written and repeated over them when read; where exactly it is sited is not modelled.

mod colour;
mod header;
mod reader;
mod writer;

pub use header::{Chroma, Header, Range};
pub use reader::Y4mSource;
pub use writer::Y4mSink;
