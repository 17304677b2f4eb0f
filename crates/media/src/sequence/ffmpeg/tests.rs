//! What FFmpeg reads and writes, whole, cut and odd; sources of libavfilter make every kind of picture.

use super::*;
use crate::Picture;
use crate::sequence::{Pace, SequenceInfo, SinkOptions, create_sink, input_pace, open_source};
use std::fs;

fn all(path: &Path) -> Result<(SequenceInfo, Vec<Picture>), MediaError> {
    let mut source = open_source(path, SourceOptions::default())?;
    let mut frames = Vec::new();
    while let Some(frame) = source.next_frame()? {
        frames.push(frame);
        assert!(frames.len() <= 64, "no end");
    }
    Ok((source.info(), frames))
}

fn write(path: &Path, frames: &[Picture]) {
    let mut sink = create_sink(path, SinkOptions::at(FrameRate::new(30000, 1001).unwrap())).unwrap();
    frames.iter().for_each(|frame| sink.write_frame(frame).unwrap());
    sink.finish().unwrap();
}

/// Smooth colours that move: what encoders are made for.
fn smooth(width: u32, height: u32, count: usize) -> Vec<Picture> {
    let frame = |number: usize| {
        let pixels = (0..height).flat_map(|y| {
            (0..width).flat_map(move |x| {
                let wave = |scale: f32, at: u32| (128.0 + 100.0 * ((at + number as u32) as f32 / scale).sin()) as u8;
                [wave(19.0, x), wave(31.0, y), wave(43.0, x + y)]
            })
        });
        Picture::from_rgb8(width, height, pixels.collect()).unwrap()
    };
    (0..count).map(frame).collect()
}

#[test]
fn colours_rate_and_count_survive() {
    let folder = tempfile::tempdir().unwrap();
    for (name, width, height) in [("a.mp4", 64, 48), ("odd.mp4", 63, 47), ("a.webm", 64, 48), ("odd.webm", 63, 47)] {
        let (path, frames) = (folder.path().join(name), smooth(width, height, 9));
        write(&path, &frames);
        let (info, found) = all(&path).unwrap();
        assert_eq!((info.width, info.height, found.len()), (width, height, 9), "{name}");
        assert!((info.rate.per_second() - 29.97).abs() < 0.01, "{name}: {}", info.rate);
        for (number, (read, written)) in found.iter().zip(&frames).enumerate() {
            let pairs = read.pixels().iter().zip(written.pixels());
            let mean = pairs.map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / read.pixels().len() as f64;
            // A wrong matrix or range would be off by ten and more.
            assert!(mean < 3.0, "{name}, frame {number}: {mean}");
        }
    }
}

#[test]
fn a_cut_file_ends_or_says_so() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.mp4", "a.webm", "a.mkv"] {
        let path = folder.path().join(name);
        write(&path, &smooth(64, 48, 9));
        let bytes = fs::read(&path).unwrap();
        for cut in [1, 7, 40, bytes.len() / 3, bytes.len() / 2, bytes.len() - 20] {
            fs::write(&path, &bytes[..cut]).unwrap();
            match all(&path) {
                Ok((_, frames)) => assert!(frames.len() <= 9),
                Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
            }
        }
        let mut garbled = bytes.clone();
        garbled.iter_mut().skip(50).step_by(7).for_each(|byte| *byte ^= 0x55);
        fs::write(&path, garbled).unwrap();
        let _ = all(&path);
    }
    // The index of an mp4 comes last: without it nothing is known.
    let path = folder.path().join("b.mp4");
    write(&path, &smooth(64, 48, 9));
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let error = all(&path).unwrap_err().to_string();
    assert!(error.contains("b.mp4") && error.contains("cut off, damaged"), "{error}");
}

#[test]
fn odd_pictures_come_out_as_rgb() {
    for (filters, size) in [
        ("format=yuv420p10le", (32, 20)),
        ("format=gray", (32, 20)),
        ("format=yuv444p,interlace", (32, 20)),
        ("setsar=2", (64, 20)),
        ("format=rgba64le", (32, 20)),
    ] {
        let name = format!("lavfi:testsrc2=size=32x20:rate=10:duration=0.5,{filters}");
        let (info, frames) = all(name.as_ref()).unwrap();
        assert_eq!((info.width, info.height), size, "{filters}");
        assert!(!frames.is_empty() && frames.iter().all(|frame| (frame.width(), frame.height()) == size), "{filters}");
    }
    let red = all("lavfi:color=c=red:size=16x16:rate=5:duration=1".as_ref()).unwrap();
    assert_eq!((red.0.rate, red.1.len()), (FrameRate::new(5, 1).unwrap(), 5));
    let [r, g, b] = red.1[0].pixel(8, 8);
    assert!(r > 250 && g < 5 && b < 5, "{r} {g} {b}");
    assert_eq!(input_pace("lavfi:color".as_ref()).unwrap(), Pace::Played);
    assert_eq!(input_pace("webcam:3".as_ref()).unwrap(), Pace::Arriving);
}

#[test]
fn what_is_no_video_is_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |name: &str, bytes: &[u8], expected: &str| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        let error = all(&path).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(expected) && !error.contains('\n'), "{error}");
    };
    refused("noise.mp4", &[0x5a; 3000], "no video that can be read");
    let mut sound =
        b"RIFF\x24\x08\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x44\xac\0\0\x88\x58\x01\0\x02\0\x10\0data\0\x08\0\0".to_vec();
    sound.extend([0; 2048]);
    refused("sound.wav", &sound, "holds no video");
    // A playlist must not open what was not named, here a clip that is there.
    write(&folder.path().join("secret.webm"), &smooth(16, 16, 2));
    let secret = folder.path().join("secret.webm");
    let list = format!("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n", secret.display());
    refused("list.m3u8", list.as_bytes(), "list.m3u8");
    refused(
        "list.ffconcat",
        format!("ffconcat version 1.0\nfile '{}'\n", secret.display()).as_bytes(),
        "list.ffconcat",
    );
    for device in ["lavfi:nosuchfilter", "lavfi:color=size=70000x70000", "webcam:250"] {
        let error = open_source(device.as_ref(), SourceOptions::default()).err().unwrap().to_string();
        assert!(error.contains(device) && !error.contains('\n'), "{error}");
    }
}

#[test]
fn a_full_disk_and_another_size_are_errors_of_ours() {
    let folder = tempfile::tempdir().unwrap();
    let frames = smooth(32, 32, 2);
    let path = folder.path().join("a.mp4");
    let mut sink = create_sink(&path, SinkOptions::at(FrameRate::DEFAULT)).unwrap();
    sink.write_frame(&frames[0]).unwrap();
    let error = sink.write_frame(&smooth(16, 16, 1)[0]).unwrap_err().to_string();
    assert!(error.contains("is 16x16, but the clip is 32x32"), "{error}");
    // What came before stays valid.
    sink.finish().unwrap();
    assert_eq!(all(&path).unwrap().1.len(), 1);
    #[cfg(target_os = "linux")]
    {
        let full =
            SinkOptions { format: Some(crate::sequence::SequenceFormat::WebM), ..SinkOptions::at(FrameRate::DEFAULT) };
        let mut sink = create_sink("/dev/full".as_ref(), full).unwrap();
        let written = frames.iter().try_for_each(|frame| sink.write_frame(frame));
        let error = written.and_then(|()| sink.finish()).unwrap_err();
        assert!(error.is_resource(), "{error}");
    }
}
