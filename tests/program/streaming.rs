//! `stream`: clips and pipes in another style; broken input, closed pipes.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use crate::support::{Folder, pixels};

const SIDE: usize = 32;

/// A y4m clip of moving stripes.
fn clip(width: usize, height: usize, frames: usize) -> Vec<u8> {
    let mut bytes = format!("YUV4MPEG2 W{width} H{height} F20:1 Ip C444\n").into_bytes();
    for frame in 0..frames {
        bytes.extend(b"FRAME\n");
        bytes.extend((0..width * height).map(|at| if ((at % width + frame) / 4).is_multiple_of(2) { 60 } else { 200 }));
        bytes.extend(std::iter::repeat_n(128, 2 * width * height));
    }
    bytes
}

/// Frames of a y4m stream.
fn count_frames(y4m: &[u8]) -> usize {
    y4m.windows(6).filter(|window| window == b"FRAME\n").count()
}

/// A call on small pictures; flags of the caller come after.
fn line<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    let mut line = vec!["stream", "-W", "32", "-H", "32", "-p", "pencil sketch"];
    line.extend(arguments);
    line
}

#[test]
fn a_clip_is_answered_frame_by_frame() {
    let folder = Folder::new();
    folder.write("in.y4m", clip(SIDE, SIDE, 4));
    for output in ["out.y4m", "out.gif", "out.png", "frames"] {
        let made = folder.run(&line(&["-i", "in.y4m", "-o", output])).succeeded();
        assert!(made.stderr.contains("4 frames in") && made.stderr.contains("p99"), "{}", made.stderr);
    }
    assert_eq!(count_frames(&folder.read("out.y4m")), 4);
    assert!(folder.read("out.y4m").starts_with(b"YUV4MPEG2 W32 H32 F20:1 "));
    assert_eq!(folder.names(), ["frames", "in.y4m", "out.gif", "out.png", "out.y4m"]);
    // What was written can be read again, and the lossless ones agree.
    folder.run(&line(&["-i", "out.gif", "-o", "again.gif"])).succeeded();
    assert_eq!(pixels(&folder.read("frames/frame-000001.png")), pixels(&folder.read("out.png")));
}

#[test]
fn the_same_call_gives_the_same_frames_whatever_the_threads() {
    let folder = Folder::new();
    folder.write("in.y4m", clip(SIDE, SIDE, 4));
    let made = |arguments: &[&str]| {
        let mut all = vec!["-i", "in.y4m", "-o", "-"];
        all.extend(arguments);
        folder.run(&line(&all)).succeeded().stdout
    };
    let reference = made(&[]);
    assert_eq!(count_frames(&reference), 4);
    // Not `assert_eq!`, which would print the clips.
    assert!(made(&["-t", "1"]) == reference);
    // Rows of one batch, or one after the other: the same frames, as long as no chunk's noise depends on what is in flight.
    assert!(made(&["--batch"]) == reference);
    let switched = made(&["--prompt-at", "2:sepia"]);
    let frame = SIDE * SIDE * 3 / 2 + 6;
    let header = reference.len() - 4 * frame;
    assert!(switched[..header + 2 * frame] == reference[..header + 2 * frame]);
    assert!(switched[header + 2 * frame..] != reference[header + 2 * frame..]);
}

#[test]
fn a_still_picture_is_computed_once_under_motion() {
    let folder = Folder::new();
    let mut still = clip(SIDE, SIDE, 1);
    let frame = still[still.len() - SIDE * SIDE * 3 - 6..].to_vec();
    (0..3).for_each(|_| still.extend(&frame));
    folder.write("in.y4m", still);
    let cached = line(&["-i", "in.y4m", "-o", "out.y4m", "--cache", "motion", "--no-noise-control", "--json"]);
    let report = folder.run(&cached).succeeded().events().pop().unwrap();
    assert_eq!((&report["event"], &report["report"]["frames"]), (&"stream".into(), &4.into()));
    assert!(report["report"]["computed_share"].as_f64().unwrap() < 0.5, "{report}");
}

#[test]
fn pipes_carry_y4m_and_raw_video() {
    let folder = Folder::new();
    let mut child = Command::new(assert_cmd::cargo::cargo_bin!("refrain"))
        .args(line(&["-i", "-", "--no-drop", "-o", "-", "--raw-output", "--raw-size", "20x10", "-q"]))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&[90; 20 * 10 * 3 * 3]).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(output.stdout.len(), SIDE * SIDE * 3 * 3);
    assert!(folder.names().is_empty());
}

#[test]
fn a_reader_that_leaves_ends_the_stream_cleanly() {
    let folder = Folder::new();
    folder.write("in.y4m", clip(SIDE, SIDE, 400));
    let mut child = Command::new(assert_cmd::cargo::cargo_bin!("refrain"))
        .args(line(&["-i", folder.path("in.y4m").to_str().unwrap(), "-o", "-", "-q"]))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 100]).unwrap();
    drop(stdout);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn broken_input_is_one_line_and_finished_frames_stay() {
    let folder = Folder::new();
    let whole = clip(SIDE, SIDE, 3);
    folder.write("cut.y4m", &whole[..whole.len() - 10]);
    let cut = folder.run(&line(&["-i", "cut.y4m", "-o", "out.y4m", "-q"]));
    assert!(cut.refused(1).contains("frame 3: cut off after"), "{}", cut.stderr);
    assert_eq!(count_frames(&folder.read("out.y4m")), 2);
    std::fs::remove_file(folder.path("out.y4m")).unwrap();
    let headers: [(&[u8], &str); 7] = [
        (b"", "empty"),
        (b"YUV4MPEG2 W32 H32 C420p10\n", "more than 8 bits"),
        (b"YUV4MPEG2 W32 H32 It\n", "interlaced"),
        (b"YUV4MPEG2 W32\n", "height"),
        (b"YUV4MPEG2 W32 H32\n", "no frames"),
        (b"GIF89a", "broken.y4m"),
        (b"YUV4MPEG2 W32 H3", "cut off"),
    ];
    for (bytes, expected) in headers {
        folder.write("broken.y4m", bytes);
        let outcome = folder.run(&line(&["-i", "broken.y4m", "-o", "out.y4m", "-q"]));
        assert!(outcome.refused(1).contains(expected), "{}", outcome.stderr);
    }
    assert_eq!(folder.names(), ["broken.y4m", "cut.y4m"]);
}

#[test]
fn odd_sizes_and_single_frames_are_in_order() {
    let folder = Folder::new();
    for (width, height) in [(33, 17), (1, 1)] {
        folder.write("in.y4m", clip(width, height, 1));
        let made = folder.run(&line(&["-i", "in.y4m", "-o", "-"])).succeeded();
        assert_eq!(count_frames(&made.stdout), 1);
    }
}

#[test]
fn calls_that_make_no_sense() {
    let folder = Folder::new();
    folder.write("in.y4m", clip(SIDE, SIDE, 1));
    for (arguments, expected) in [
        (&["-o", "out.mpg"][..], "unknown video format"),
        (&["-o", "out.y4m", "-i", "webcam:x"], "/dev/videoN"),
        (&["-o", "out.y4m", "--steps", "5"], "--steps"),
        (&["-o", "out.y4m", "--strength", "0"], "--strength"),
        (&["-o", "out.y4m", "--prompt-at", "x"], "FRAME:TEXT"),
        (&["-o", "out.y4m", "--raw-size", "0x3"], "--raw-size"),
        (&["-o", "out.y4m", "--fps", "0"], "--fps"),
        (&["-o", "out.y4m", "--kv", "none"], "relative"),
        (&["-o", "out.y4m", "--window", "2", "--sinks", "2"], "sinks"),
        (&["-o", "out.y4m", "--cache", "teacache"], "motion"),
        (&["-o", "out.y4m", "-m", "nowhere"], "no such folder"),
        (&["-o", "-", "--json"], "--json"),
    ] {
        let mut all = vec!["stream", "-p", "sepia"];
        if !arguments.contains(&"-i") {
            all.extend(["-i", "in.y4m"]);
        }
        all.extend(arguments);
        let outcome = folder.run(&all);
        assert!(outcome.refused(2).contains(expected), "{}", outcome.stderr);
    }
    assert_eq!(folder.names(), ["in.y4m"]);
}

/// Lengths of clips that are their own edge.
#[test]
fn short_streams_in_every_mode() {
    let folder = Folder::new();
    folder.write("none.y4m", clip(SIDE, SIDE, 0));
    folder.write("one.y4m", clip(SIDE, SIDE, 1));
    for mode in [&[][..], &["--batch"], &["--batch", "--steps", "4"], &["--cache", "motion"], &["--live"]] {
        let made = folder.run(&line(&[&["-i", "one.y4m", "-o", "-"], mode].concat())).succeeded();
        assert_eq!(count_frames(&made.stdout), 1, "{mode:?}");
        let none = folder.run(&line(&[&["-i", "none.y4m", "-o", "out.y4m", "-q"], mode].concat()));
        assert!(none.refused(1).contains("no frames"), "{}", none.stderr);
    }
    folder.write("empty.y4m", "");
    assert!(folder.run(&line(&["-i", "empty.y4m", "-o", "x.gif", "-q"])).refused(1).contains("the clip is empty"));
    let nothing = folder.run_with_stdin(&line(&["-i", "-", "-o", "x.gif", "-q"]), "");
    assert!(nothing.refused(1).contains("standard input: the clip is empty"), "{}", nothing.stderr);
    assert_eq!(folder.names(), ["empty.y4m", "none.y4m", "one.y4m"]);
}

/// A folder and a clip whose frames change their size in the middle: what came before stays whole.
#[test]
fn frames_of_another_size_end_the_stream() {
    let folder = Folder::new();
    let picture = |width: u32| {
        let picture = refrain_media::Picture::filled(width, 16, [90, 120, 60]);
        refrain_media::encode_picture(&picture, refrain_media::Format::Png, &refrain_media::Metadata::new()).unwrap()
    };
    for (number, width) in [24, 24, 16].into_iter().enumerate() {
        folder.write(&format!("in/{number}.png"), picture(width));
    }
    let outcome = folder.run(&line(&["-i", "in", "-o", "out.y4m", "-q"]));
    assert!(outcome.refused(1).contains("frame 3: is 16x16, but the clip is 24x16"), "{}", outcome.stderr);
    assert_eq!(count_frames(&folder.read("out.y4m")), 2);
    // A frame of y4m has no size of its own: other sizes show as a frame that does not begin as one.
    let mut joined = clip(SIDE, SIDE, 1);
    joined.extend(clip(SIDE, SIDE / 2, 1));
    folder.write("joined.y4m", joined);
    let outcome = folder.run(&line(&["-i", "joined.y4m", "-o", "next.y4m", "-q"]));
    assert!(outcome.refused(1).contains("frame 2: does not begin with FRAME"), "{}", outcome.stderr);
    assert_eq!(count_frames(&folder.read("next.y4m")), 1);
}

/// A router learned on a clip is a plan that streams follow, and that no other run takes.
#[test]
fn a_router_is_learned_from_a_clip() {
    let folder = Folder::new();
    // It brightens slowly: neither still nor a spike of motion.
    let mut slow = clip(SIDE, SIDE, 0);
    for frame in 0..6u8 {
        slow.extend(b"FRAME\n");
        slow.extend((0..SIDE * SIDE).map(|at| 60 + 3 * frame + (at % SIDE) as u8));
        slow.extend(std::iter::repeat_n(128, 2 * SIDE * SIDE));
    }
    folder.write("in.y4m", slow);
    let train = ["train", "router", "--stream", "in.y4m", "--trials", "1", "--frames", "2", "--moves", "1"];
    let budgets = ["--steps", "1", "--budgets", "0.7,0.4", "-p", "sepia", "-o", "r-{budget}.plan.safetensors"];
    let made = folder.run(&[&train[..], &budgets[..]].concat()).succeeded();
    assert!(made.stderr.contains("wrote r-0.4.plan.safetensors"), "{}", made.stderr);
    let share = |arguments: &[&str]| {
        let flags = ["-i", "in.y4m", "-o", "out.y4m", "--steps", "1", "--json"];
        let report = folder.run(&line(&[&flags[..], arguments].concat())).succeeded().events().pop().unwrap();
        (report["report"]["computed_share"].as_f64().unwrap(), folder.read("out.y4m"))
    };
    let (full, reference) = share(&[]);
    let (dear, _) = share(&["--cache", "r-0.7.plan.safetensors"]);
    let (thrifty, frames) = share(&["--cache", "r-0.4.plan.safetensors"]);
    assert!(full == 1.0 && thrifty < dear && dear < 1.0, "{dear} {thrifty}");
    assert!(frames != reference && count_frames(&frames) == 6);
    let inspected = folder.run(&["inspect", "r-0.4.plan.safetensors", "--json"]).succeeded();
    assert!(inspected.text().contains("\"repeats\""), "{}", inspected.text());
    folder.run(&["inspect", "r-0.4.plan.safetensors", "-o", "map.png"]).succeeded();
    let other = folder.run(&line(&["-i", "in.y4m", "-o", "x.y4m", "--cache", "r-0.4.plan.safetensors"]));
    assert!(other.refused(2).contains("steps is 1 in the plan and 2 here"), "{}", other.stderr);
    let batch = ["-i", "in.y4m", "-o", "x.y4m", "--steps", "1", "--batch", "--cache", "r-0.4.plan.safetensors"];
    assert!(folder.run(&line(&batch)).refused(2).contains("stream-batch"));
    for (arguments, expected) in [
        (&["--stream", "none.y4m"][..], "none.y4m"),
        (&["--stream", "in.y4m", "--steps", "5"], "--steps"),
        (&["--stream", "in.y4m", "--frames", "1"], "--frames"),
        (&["--stream", "in.y4m", "--method", "harmonica"], "--stream"),
        (&["--stream", "in.y4m", "--prompt-file", "x"], "--stream"),
    ] {
        let outcome = folder.run(&[&["train", "router", "-o", "x.plan.safetensors"], arguments].concat());
        assert!(outcome.code != 0 && outcome.stderr.contains(expected), "{}", outcome.stderr);
    }
    assert!(!folder.names().iter().any(|name| name.starts_with('x')), "{:?}", folder.names());
}

#[cfg(not(feature = "ffmpeg"))]
#[test]
fn without_ffmpeg_one_line_says_how_to_get_it() {
    let folder = Folder::new();
    folder.write("in.y4m", clip(SIDE, SIDE, 1));
    folder.write("in.mp4", b"\0\0\0\x20ftypisom\0\0\0\0");
    for (arguments, code) in [
        (&["-i", "in.y4m", "-o", "out.mp4"][..], 2),
        (&["-i", "webcam", "-o", "out.y4m"], 2),
        (&["-i", "lavfi:testsrc2", "-o", "out.y4m"], 2),
        (&["-i", "in.mp4", "-o", "out.y4m"], 1),
    ] {
        let outcome = folder.run(&line(arguments));
        assert!(outcome.refused(code).contains("--features ffmpeg"), "{}", outcome.stderr);
    }
    assert_eq!(folder.names(), ["in.mp4", "in.y4m"]);
}

#[cfg(feature = "ffmpeg")]
mod with_ffmpeg {
    use super::*;

    /// Frames that the program itself reads back.
    fn frames(folder: &Folder, name: &str) -> usize {
        let mut source = refrain_media::sequence::open_source(&folder.path(name), Default::default()).unwrap();
        std::iter::from_fn(|| source.next_frame().unwrap()).count()
    }

    #[test]
    fn clips_come_and_go_as_mp4_and_webm() {
        let folder = Folder::new();
        folder.write("in.y4m", clip(SIDE, SIDE, 6));
        for (input, output) in [("in.y4m", "a.mp4"), ("a.mp4", "b.webm"), ("b.webm", "c.mkv"), ("c.mkv", "d.y4m")] {
            let made = folder.run(&line(&["-i", input, "-o", output])).succeeded();
            assert!(made.stderr.contains("at 20 frames/s") && made.stderr.contains("6 frames in"), "{}", made.stderr);
            assert_eq!(frames(&folder, output), 6, "{output}");
        }
        // Through a pipe, as any format that needs no going back.
        let webm = folder.read("b.webm");
        let mut child = Command::new(assert_cmd::cargo::cargo_bin!("refrain"))
            .args(line(&["-i", "-", "--no-drop", "-o", "-", "-q"]))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&webm).unwrap();
        assert_eq!(count_frames(&child.wait_with_output().unwrap().stdout), 6);
    }

    /// Where no camera is, a source of ffmpeg's stands for one: it plays at its rate, the newest frame wins, and what was
    /// dropped and how late the answers came is said.
    #[test]
    fn a_camera_is_never_queued() {
        let folder = Folder::new();
        let camera = "lavfi:testsrc2=size=64x48:rate=200";
        let line = line(&["-i", camera, "--frames", "60", "-o", "out.mp4", "--json"]);
        let report = folder.run(&line).succeeded().events().pop().unwrap()["report"].clone();
        let number = |key: &str| report[key].as_f64().unwrap();
        assert_eq!(number("frames") + number("dropped"), 60.0, "{report}");
        assert!(number("dropped") > 0.0 && number("frames") >= 1.0, "{report}");
        for key in ["latency_p50_seconds", "latency_p95_seconds", "latency_p99_seconds", "first_frame_seconds"] {
            assert!(number(key) > 0.0, "{key}: {report}");
        }
        // A slot of depth one: nobody waits for longer than the answer to the frame before and its own.
        assert_eq!(frames(&folder, "out.mp4") as f64, number("frames"));
        let all = super::line(&["-i", camera, "--frames", "5", "--no-drop", "-o", "all.y4m"]);
        folder.run(&all).succeeded();
        assert_eq!(count_frames(&folder.read("all.y4m")), 5);
        let none = folder.run(&super::line(&["-i", "webcam:251", "-o", "x.mp4", "-q"]));
        assert!(none.refused(1).contains("cannot open /dev/video251"), "{}", none.stderr);
        let none = folder.run(&super::line(&["-i", "lavfi:nosuchsource", "-o", "x.mp4", "-q"]));
        assert!(none.refused(1).contains("nosuchsource"), "{}", none.stderr);
        assert_eq!(folder.names(), ["all.y4m", "out.mp4"]);
    }

    #[test]
    fn deep_interlaced_and_cut_clips() {
        let folder = Folder::new();
        for filters in ["format=yuv420p10le", "interlace", "format=gray16le", "setsar=3/2"] {
            let source = format!("lavfi:testsrc2=size=50x38:rate=10:duration=0.4,{filters}");
            let made = folder.run(&line(&["-i", &source, "--no-drop", "-o", "-"])).succeeded();
            assert!(count_frames(&made.stdout) >= 2, "{filters}");
        }
        folder.write("in.y4m", clip(SIDE, SIDE, 6));
        folder.run(&line(&["-i", "in.y4m", "-o", "whole.mp4"])).succeeded();
        let whole = folder.read("whole.mp4");
        folder.write("cut.mp4", &whole[..whole.len() / 2]);
        let cut = folder.run(&line(&["-i", "cut.mp4", "-o", "out.mp4", "-q"]));
        assert!(cut.refused(1).contains("cut.mp4"), "{}", cut.stderr);
        assert_eq!(folder.names(), ["cut.mp4", "in.y4m", "whole.mp4"]);
    }
}
