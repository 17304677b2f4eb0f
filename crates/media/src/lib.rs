//! Pictures in and out: files and their metadata, terminal previews, plots.
//!
//! This crate knows pixels and plain tables of numbers only; it never sees a tensor, a model or a plan.
//!
//! | to do | call |
//! |---|---|
//! | hold a picture | [`Picture`] |
//! | load a file of the user's | [`load_picture`] (limits, EXIF orientation, alpha over a background) |
//! | write one | [`save_picture`], [`write_picture`], [`encode_picture`], [`write_stdout`] |
//! | write any file whole or not at all | [`write_atomically`] |
//! | name several outputs | [`OutputPattern`] |
//! | say how a picture was made | [`Metadata`], [`Parameters`] |
//! | read or write a clip, frame by frame | [`sequence`] (y4m, rawvideo, GIF, APNG, folders of PNGs, pipes; with the feature `ffmpeg` mp4, webm, cameras) |
//! | look at it in the terminal | [`terminal`] |
//! | draw a table | [`plot`] |

mod atomic;
mod decode;
mod encode;
mod error;
mod exif;
mod metadata;
mod parameters;
mod pattern;
mod picture;
pub mod plot;
pub mod sequence;
pub mod terminal;

pub use atomic::{AtomicWriter, write_atomically, write_bytes_atomically};
pub use decode::{LoadOptions, decode_picture, load_picture};
pub use encode::{Format, encode_picture, save_picture, write_picture, write_stdout};
pub use error::MediaError;
pub use metadata::{Metadata, PARAMETERS_KEY, REFRAIN_KEY};
pub use parameters::{Parameters, RAW_NEGATIVE_PROMPT, RAW_PROMPT};
pub use pattern::OutputPattern;
pub use picture::{Picture, Rgb};
