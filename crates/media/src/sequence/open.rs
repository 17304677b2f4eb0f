//! Which reader or writer a name asks for. What is read is told by its first bytes, what is written by its ending.

use super::animation::AnimationSource;
use super::apng::ApngSink;
use super::folder::{FolderSink, FolderSource};
use super::gif::GifSink;
use super::y4m::{Chroma, Y4mSink, Y4mSource};
use super::{FrameRate, FrameSink, FrameSource, RawSink, RawSource, SequenceInfo};
use crate::MediaError;
use crate::decode::MAX_FILE_BYTES;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

/// A container that frames can be written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SequenceFormat {
    /// YUV4MPEG2, lossy only by colour conversion; files and pipes.
    Y4m,
    /// Headerless RGB24; files and pipes.
    RawVideo,
    /// 256 colours a frame.
    Gif,
    /// Lossless.
    Apng,
    /// A folder of PNGs.
    Folder,
}

impl SequenceFormat {
    /// The format that a name asks for: `.y4m`, `.rgb`/`.raw`, `.gif`, `.png`/`.apng`; `-` is a y4m pipe; a name without
    /// an ending, or that of a folder, is a folder of PNGs.
    ///
    /// # Errors
    /// [`MediaError::UnknownSequence`].
    pub fn from_path(path: &Path) -> Result<Self, MediaError> {
        if path.as_os_str() == "-" {
            return Ok(Self::Y4m);
        }
        if path.is_dir() {
            return Ok(Self::Folder);
        }
        let extension = path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
        match extension.as_deref() {
            None => Ok(Self::Folder),
            Some("y4m") => Ok(Self::Y4m),
            Some("rgb" | "raw") => Ok(Self::RawVideo),
            Some("gif") => Ok(Self::Gif),
            Some("png" | "apng") => Ok(Self::Apng),
            Some(other) => Err(MediaError::UnknownSequence { path: path.to_owned(), extension: other.to_owned() }),
        }
    }
}

/// How to write a clip.
#[derive(Debug, Clone, Copy)]
pub struct SinkOptions {
    /// Frames per second.
    pub rate: FrameRate,
    /// The container; none lets the name decide.
    pub format: Option<SequenceFormat>,
    /// Chroma of y4m.
    pub chroma: Chroma,
}

impl SinkOptions {
    /// The name's format at a rate, y4m as 4:2:0, which everything can play.
    pub fn at(rate: FrameRate) -> Self {
        Self { rate, format: None, chroma: Chroma::C420 }
    }
}

/// Begins a clip. A file appears under its name only when finished.
///
/// # Errors
/// [`MediaError::UnknownSequence`], [`MediaError::Write`], [`MediaError::StdoutIsTerminal`];
/// [`MediaError::Sequence`] for a format that cannot go through a pipe.
pub fn create_sink(path: &Path, options: SinkOptions) -> Result<Box<dyn FrameSink>, MediaError> {
    let SinkOptions { rate, chroma, .. } = options;
    let format = options.format.map_or_else(|| SequenceFormat::from_path(path), Ok)?;
    if path.as_os_str() == "-" && matches!(format, SequenceFormat::Apng | SequenceFormat::Folder) {
        return Err(MediaError::sequence("standard output", None, "only y4m, rawvideo and gif go through a pipe"));
    }
    Ok(match format {
        SequenceFormat::Y4m => Box::new(Y4mSink::create(path, rate, chroma)?),
        SequenceFormat::RawVideo => Box::new(RawSink::create(path)?),
        SequenceFormat::Gif => Box::new(GifSink::create(path, rate)?),
        SequenceFormat::Apng => Box::new(ApngSink::create(path, rate)?),
        SequenceFormat::Folder => Box::new(FolderSink::create(path)?),
    })
}

/// What a source cannot know by itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct SourceOptions {
    /// Size of rawvideo frames (width, height); given, the input is rawvideo.
    pub raw_size: Option<(u32, u32)>,
    /// Rate of a folder or rawvideo, or another rate than the clip's own.
    pub rate: Option<FrameRate>,
}

/// Opens a clip: y4m, GIF, APNG or PNG by their first bytes, rawvideo where its size is given, a folder of pictures, or
/// any of the former on standard input for `-`.
///
/// # Errors
/// [`MediaError::Read`], [`MediaError::Sequence`], [`MediaError::UnknownSequence`], [`MediaError::TooLarge`].
pub fn open_source(path: &Path, options: SourceOptions) -> Result<Box<dyn FrameSource>, MediaError> {
    let rate = options.rate.unwrap_or(FrameRate::DEFAULT);
    if path.as_os_str() == "-" {
        return from_bytes(path, "standard input", BufReader::new(io::stdin()), options);
    }
    if path.is_dir() {
        return Ok(Box::new(FolderSource::new(path, rate)?));
    }
    let file = File::open(path).map_err(|source| MediaError::Read { path: path.to_owned(), source })?;
    from_bytes(path, &path.display().to_string(), BufReader::new(file), options)
}

fn from_bytes(
    path: &Path,
    name: &str,
    mut input: impl BufRead + Send + 'static,
    options: SourceOptions,
) -> Result<Box<dyn FrameSource>, MediaError> {
    if let Some((width, height)) = options.raw_size {
        let rate = options.rate.unwrap_or(FrameRate::DEFAULT);
        let info = SequenceInfo { width, height, rate, frames: None };
        return Ok(Box::new(RawSource::new(name, input, info)));
    }
    let fail = |source| MediaError::Read { path: path.to_owned(), source };
    let start = input.fill_buf().map_err(fail)?;
    if start.is_empty() {
        return Err(MediaError::sequence(name, None, "the clip is empty"));
    }
    let is_gif = start.starts_with(b"GIF8");
    if is_gif || start.starts_with(b"\x89PNG") {
        let mut bytes = Vec::new();
        input.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(fail)?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            let limit = format!("{} MiB", MAX_FILE_BYTES >> 20);
            return Err(MediaError::TooLarge { name: name.to_owned(), what: "the file".to_owned(), limit });
        }
        return Ok(Box::new(AnimationSource::new(name, bytes, is_gif)?));
    }
    let extension = path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
    if path.as_os_str() == "-" || start.starts_with(b"YUV4") || extension.as_deref() == Some("y4m") {
        return Ok(Box::new(Y4mSource::new(name, input)?));
    }
    Err(MediaError::UnknownSequence { path: path.to_owned(), extension: extension.unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Picture;

    fn frames() -> Vec<Picture> {
        (0..5u8)
            .map(|frame| {
                let pixels = (0..12 * 8).flat_map(|i| [i as u8, frame * 40, 255 - i as u8]).collect();
                Picture::from_rgb8(12, 8, pixels).unwrap()
            })
            .collect()
    }

    fn write(path: &Path) {
        let mut sink = create_sink(path, SinkOptions::at(FrameRate::new(20, 1).unwrap())).unwrap();
        for frame in frames() {
            sink.write_frame(&frame).unwrap();
            assert!(path.extension().is_none() || !path.exists(), "an unfinished file must not be seen");
        }
        sink.finish().unwrap();
    }

    fn read(path: &Path) -> (SequenceInfo, Vec<Picture>) {
        let mut source = open_source(path, SourceOptions::default()).unwrap();
        let mut frames = Vec::new();
        while let Some(frame) = source.next_frame().unwrap() {
            frames.push(frame);
        }
        (source.info(), frames)
    }

    #[test]
    fn every_format_gives_its_frames_back() {
        let folder = tempfile::tempdir().unwrap();
        for (name, tolerance) in [("a.y4m", 90), ("a.gif", 12), ("a.png", 0), ("folder", 0)] {
            let path = folder.path().join(name);
            write(&path);
            let (info, found) = read(&path);
            assert_eq!((info.width, info.height, found.len()), (12, 8, 5), "{name}");
            if name != "folder" {
                assert!((info.rate.per_second() - 20.0).abs() < 1e-9, "{name}");
            }
            for (read, written) in found.iter().zip(frames()) {
                let pairs = read.pixels().iter().zip(written.pixels());
                let worst = pairs.map(|(a, b)| a.abs_diff(*b)).max().unwrap();
                assert!(worst <= tolerance, "{name}: {worst}");
            }
        }
    }

    #[test]
    fn an_unfinished_clip_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.y4m", "a.gif", "a.png", "a.rgb"] {
            let mut sink = create_sink(&folder.path().join(name), SinkOptions::at(FrameRate::DEFAULT)).unwrap();
            sink.write_frame(&frames()[0]).unwrap();
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn clips_without_frames_and_unknown_names_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.y4m", "a.gif", "a.png"] {
            let sink = create_sink(&folder.path().join(name), SinkOptions::at(FrameRate::DEFAULT)).unwrap();
            assert!(sink.finish().unwrap_err().to_string().contains("no frames"), "{name}");
        }
        let says = |error: MediaError, part: &str| assert!(error.to_string().contains(part), "{error}");
        let sink = |name: &str| create_sink(name.as_ref(), SinkOptions::at(FrameRate::DEFAULT)).err().unwrap();
        says(sink("a.mp4"), "yuv4mpegpipe");
        says(sink("a.txt"), "use .y4m, .gif, .png (APNG) or a folder");
        let path = folder.path().join("a.mp4");
        std::fs::write(&path, b"\0\0\0\x20ftypisom").unwrap();
        says(open_source(&path, SourceOptions::default()).err().unwrap(), "yuv4mpegpipe");
        std::fs::write(&path, b"").unwrap();
        says(open_source(&path, SourceOptions::default()).err().unwrap(), "the clip is empty");
        says(open_source("none.y4m".as_ref(), SourceOptions::default()).err().unwrap(), "no such file");
    }

    #[test]
    fn garbled_animations_end_with_an_error_not_a_panic() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.gif", "a.png"] {
            let path = folder.path().join(name);
            write(&path);
            let bytes = std::fs::read(&path).unwrap();
            for cut in [6, 20, bytes.len() / 2, bytes.len() - 9] {
                std::fs::write(&path, &bytes[..cut]).unwrap();
                let Ok(mut source) = open_source(&path, SourceOptions::default()) else { continue };
                while let Ok(Some(_)) = source.next_frame() {}
            }
        }
    }
}
