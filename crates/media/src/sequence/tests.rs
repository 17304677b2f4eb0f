//! Every format there and back; names and files that are none.

use super::*;
use std::path::Path;

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
    // What a video encoder makes of loud colours in so small a frame is no matter of this crate's.
    let coded = [("a.mp4", 120), ("a.webm", 120), ("a.mkv", 120)].into_iter().filter(|_| ffmpeg::AVAILABLE);
    for (name, tolerance) in [("a.y4m", 90), ("a.gif", 12), ("a.png", 0), ("folder", 0)].into_iter().chain(coded) {
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
    let coded = ["a.mp4", "a.webm"].into_iter().filter(|_| ffmpeg::AVAILABLE);
    for name in ["a.y4m", "a.gif", "a.png", "a.rgb"].into_iter().chain(coded) {
        let mut sink = create_sink(&folder.path().join(name), SinkOptions::at(FrameRate::DEFAULT)).unwrap();
        sink.write_frame(&frames()[0]).unwrap();
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn clips_without_frames_and_unknown_names_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let coded = ["a.mp4"].into_iter().filter(|_| ffmpeg::AVAILABLE);
    for name in ["a.y4m", "a.gif", "a.png"].into_iter().chain(coded) {
        let sink = create_sink(&folder.path().join(name), SinkOptions::at(FrameRate::DEFAULT)).unwrap();
        assert!(sink.finish().unwrap_err().to_string().contains("no frames"), "{name}");
    }
    let says = |error: MediaError, part: &str| assert!(error.to_string().contains(part), "{error}");
    let sink = |name: &str| create_sink(name.as_ref(), SinkOptions::at(FrameRate::DEFAULT)).err().unwrap();
    says(sink("a.txt"), "use .y4m, .gif, .png (APNG), a folder of PNGs or, with ffmpeg, .mp4");
    let path = folder.path().join("a.mp4");
    std::fs::write(&path, b"").unwrap();
    says(open_source(&path, SourceOptions::default()).err().unwrap(), "the clip is empty");
    says(open_source("none.y4m".as_ref(), SourceOptions::default()).err().unwrap(), "no such file");
    says(input_pace("webcam:x".as_ref()).unwrap_err(), "/dev/videoN");
    says(input_pace("lavfi:".as_ref()).unwrap_err(), "lavfi:SOURCE");
    assert_eq!(input_pace("clip.mp4".as_ref()).unwrap(), Pace::Stored);
    assert_eq!(input_pace("-".as_ref()).unwrap(), Pace::Arriving);
}

#[cfg(not(feature = "ffmpeg"))]
#[test]
fn without_ffmpeg_one_line_says_how_to_get_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.mp4");
    std::fs::write(&path, b"\0\0\0\x20ftypisom").unwrap();
    let says = |error: MediaError| {
        let text = error.to_string();
        assert!(text.contains("--features ffmpeg") && text.contains("yuv4mpegpipe") && !text.contains('\n'), "{text}");
    };
    says(open_source(&path, SourceOptions::default()).err().unwrap());
    says(create_sink(&path, SinkOptions::at(FrameRate::DEFAULT)).err().unwrap());
    says(input_pace("webcam".as_ref()).unwrap_err());
    says(open_source("webcam:0".as_ref(), SourceOptions::default()).err().unwrap());
    says(open_source("lavfi:testsrc2".as_ref(), SourceOptions::default()).err().unwrap());
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
