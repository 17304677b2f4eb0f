//! `gen video`: clips of tiny Wan pipelines against diffusers, in every format, causal ones; calls and files that do not fit.

use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView};

use crate::support::{Folder, Outcome, pixels, tensor};

fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/pipeline/tests/fixtures").join(name)
}

/// `gen video` on a fixture with these further arguments.
fn make(folder: &Folder, name: &str, arguments: &[&str]) -> Outcome {
    let model = model(name);
    let mut line = vec!["gen", "video", "-m", model.to_str().unwrap()];
    line.extend(arguments);
    folder.run(&line)
}

/// A small clip of the first fixture.
const SMALL: [&str; 14] =
    ["-p", "a red fox", "-W", "32", "-H", "16", "--frames", "5", "--steps", "3", "--cfg-scale", "2", "-s", "3"];

fn small(folder: &Folder, arguments: &[&str]) -> Outcome {
    let mut line: Vec<&str> = SMALL.to_vec();
    // A flag of the caller's replaces the one here.
    for flag in arguments.iter().filter(|argument| argument.starts_with('-')) {
        if let Some(at) = line.iter().position(|known| known == flag) {
            line.drain(at..at + 2);
        }
    }
    line.extend(arguments);
    make(folder, "wan-unipc", &line)
}

fn write_latents(folder: &Folder, name: &str, (shape, values): &(Vec<usize>, Vec<f32>)) {
    let bytes: Vec<u8> = values.iter().copied().flat_map(f32::to_le_bytes).collect();
    let view = TensorView::new(Dtype::F32, shape.clone(), &bytes).unwrap();
    folder.write(name, safetensors::serialize([("latents", view)], None).unwrap());
}

#[track_caller]
fn close(what: &str, wanted: &(Vec<usize>, Vec<f32>), found: &(Vec<usize>, Vec<f32>)) {
    assert_eq!(wanted.0, found.0, "{what}");
    let square = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v) * f64::from(v)).sum::<f64>();
    let miss = square(&mut wanted.1.iter().zip(&found.1).map(|(a, b)| a - b));
    let relative = (miss / square(&mut wanted.1.iter().copied())).sqrt();
    assert!(relative <= 1e-4, "{what}: {relative}");
}

/// UniPC and flow-matching Euler, guided, from given noise: what diffusers makes of it.
#[test]
fn clips_agree_with_diffusers() {
    for name in ["wan-unipc", "wan-euler", "wan-deep-patch"] {
        let folder = Folder::new();
        let case: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(model(name).join("case.json")).unwrap()).unwrap();
        let expected = std::fs::read(model(name).join("expected.safetensors")).unwrap();
        write_latents(&folder, "noise.safetensors", &tensor(&expected, "noise"));
        let text = |field: &str| case[field].as_str().unwrap().to_owned();
        let number = |field: &str| case[field].to_string();
        let (prompt, negative) = (text("prompt"), text("negative"));
        let numbers = ["width", "height", "frames", "steps", "scale"].map(number);
        let [width, height, frames, steps, scale] = &numbers;
        let line = [
            "-p",
            &prompt,
            "-n",
            &negative,
            "-W",
            width,
            "-H",
            height,
            "--frames",
            frames,
            "--steps",
            steps,
            "--cfg-scale",
            scale,
            "--latents",
            "noise.safetensors",
            "-o",
            "clip.safetensors",
        ];
        make(&folder, name, &line).succeeded();
        let made = folder.read("clip.safetensors");
        close(&format!("{name}: latents"), &tensor(&expected, "latents"), &tensor(&made, "latents"));
        close(&format!("{name}: image"), &tensor(&expected, "image"), &tensor(&made, "image"));
    }
}

#[test]
fn every_format_holds_the_frames() {
    let folder = Folder::new();
    let made = small(&folder, &["-o", "clip.png", "--json", "--fps", "8"]).succeeded();
    let events = made.events();
    assert_eq!((&events[0]["event"], &events[0]["pictures"]), (&"start".into(), &5.into()));
    assert_eq!(events.iter().filter(|event| event["event"] == "step").count(), 3);
    assert_eq!(events.last().unwrap()["event"], "done");
    for output in ["clip.gif", "frames", "clip.y4m", "clip.safetensors"] {
        let made = small(&folder, &["-o", output]).succeeded();
        assert!(made.text().contains(output) && made.stderr.contains("unipc"), "{}{}", made.text(), made.stderr);
    }
    assert!(folder.read("clip.y4m").starts_with(b"YUV4MPEG2 W32 H16 F16:1 "));
    let (shape, values) = tensor(&folder.read("clip.safetensors"), "image");
    assert_eq!(shape, [5, 3, 16, 32]);
    assert!(values.iter().all(|value| (0.0..=1.0).contains(value)));
    // The lossless ones agree, and the seed decides.
    assert_eq!(pixels(&folder.read("frames/frame-000001.png")), pixels(&folder.read("clip.png")));
    small(&folder, &["-o", "again.safetensors", "-t", "1"]).succeeded();
    assert!(tensor(&folder.read("again.safetensors"), "image") == (shape, values));
    small(&folder, &["-o", "other.safetensors", "-s", "4"]).succeeded();
    assert!(tensor(&folder.read("again.safetensors"), "image") != tensor(&folder.read("other.safetensors"), "image"));
}

#[test]
fn caches_work_as_for_pictures() {
    let folder = Folder::new();
    small(&folder, &["-o", "off.safetensors"]).succeeded();
    let cached = ["-o", "cached.safetensors", "--cache", "interval:n=2", "--cache-report", "--emit-plan"];
    let report = small(&folder, &[&cached[..], &["run.plan.safetensors"]].concat()).succeeded();
    assert!(report.stderr.contains("interval") && report.stderr.contains("plan: run.plan"), "{}", report.stderr);
    assert!(folder.read("off.safetensors") != folder.read("cached.safetensors"));
    small(&folder, &["-o", "replayed.safetensors", "--cache", "run.plan.safetensors"]).succeeded();
    let image = |name: &str| tensor(&folder.read(name), "image");
    assert!(image("cached.safetensors") == image("replayed.safetensors"));
    folder.run(&["inspect", "run.plan.safetensors"]).succeeded();
    // A plan for other steps, or another model, is another run's.
    let other = small(&folder, &["-o", "x.gif", "--cache", "run.plan.safetensors", "--steps", "4"]);
    assert!(other.refused(2).contains("steps is 3 in the plan and 4 here"), "{}", other.stderr);
    assert!(!folder.names().contains(&"x.gif".to_owned()));
}

/// A causal clip is the beginning of a longer one; a cache with room for everything is one without end.
#[test]
fn causal_clips_grow_at_their_end() {
    let folder = Folder::new();
    let causal = |output: &str, latents: &str, frames: &str, more: &[&str]| {
        let line = ["-p", "a fox", "-W", "32", "-H", "16", "--causal", "--steps", "2", "-s", "5"];
        let chunk = if more.contains(&"--chunk-frames") { &[][..] } else { &["--chunk-frames", "1"] };
        let files = ["--frames", frames, "--latents", latents, "-o", output];
        make(&folder, "wan-unipc", &[&line[..], chunk, &files[..], more].concat()).succeeded();
        tensor(&folder.read(output), "image")
    };
    let expected = std::fs::read(model("wan-unipc").join("expected.safetensors")).unwrap();
    let (shape, noise) = tensor(&expected, "noise");
    let [_, channels, frames, height, width] = shape[..] else { panic!("{shape:?}") };
    assert_eq!(frames, 3);
    let plane = height * width;
    let first: Vec<f32> = (0..channels).flat_map(|c| noise[c * frames * plane..][..2 * plane].to_vec()).collect();
    write_latents(&folder, "long.safetensors", &(shape.clone(), noise.clone()));
    write_latents(&folder, "short.safetensors", &(vec![1, channels, 2, height, width], first));
    let long = causal("a.safetensors", "long.safetensors", "9", &[]);
    assert_eq!(long.0, [9, 3, 16, 32]);
    let short = causal("b.safetensors", "short.safetensors", "5", &[]);
    assert!(short.1 == long.1[..short.1.len()]);
    assert!(causal("c.safetensors", "long.safetensors", "9", &["--window", "3"]) == long);
    assert!(causal("d.safetensors", "long.safetensors", "9", &["--window", "2"]) != long);
    assert!(causal("e.safetensors", "long.safetensors", "9", &["-t", "1"]) == long);
    assert!(causal("f.safetensors", "long.safetensors", "9", &["--no-clean-pass"]) != long);
    let cached = causal("g.safetensors", "long.safetensors", "9", &["--cache", "motion:spike=9", "--cache-report"]);
    assert!(cached != long);
    // Chunks of several latent frames, the last one shorter.
    assert_eq!(causal("h.safetensors", "long.safetensors", "9", &["--chunk-frames", "2"]).0, long.0);
}

#[test]
fn published_checkpoints_and_the_fast_decoder_fit_in() {
    let folder = Folder::new();
    let archive = model("wan-archive").join("model.pt");
    small(&folder, &["-o", "own.safetensors"]).succeeded();
    small(&folder, &["-o", "other.safetensors", "--transformer", archive.to_str().unwrap()]).succeeded();
    // The archive holds the fixture's own weights under their original names.
    let image = |name: &str| tensor(&folder.read(name), "image");
    close("archive", &image("own.safetensors"), &image("other.safetensors"));
    let wrong = small(&folder, &["-o", "x.gif", "--transformer", "nowhere.pt"]);
    assert!(wrong.refused(1).contains("nowhere.pt: no such file"), "{}", wrong.stderr);
    // The fast decoder of the fixtures wants five channels, this model has four.
    let taehv = model("taehv").join("taehv.safetensors");
    let fast = small(&folder, &["-o", "x.gif", "--taehv", taehv.to_str().unwrap()]);
    assert!(fast.refused(1).contains("decoder"), "{}", fast.stderr);
    assert!(!folder.names().contains(&"x.gif".to_owned()));
}

#[test]
fn calls_and_files_that_do_not_fit() {
    let folder = Folder::new();
    folder.write("text.safetensors", b"hello");
    write_latents(&folder, "flat.safetensors", &(vec![1, 4, 2, 2], vec![0.0; 16]));
    write_latents(&folder, "small.safetensors", &(vec![1, 4, 1, 2, 2], vec![0.0; 16]));
    let usage: [(&[&str], &str); 17] = [
        (&["-o", "x.mpg"], "unknown video format"),
        (&["-o", "x.gif", "--frames", "4"], "number of frames is 4, expected one more than a multiple"),
        (&["-o", "x.gif", "--frames", "0"], "number of frames is 0"),
        (&["-o", "x.gif", "-W", "20"], "width 20"),
        (&["-o", "x.gif", "--steps", "0"], "--steps"),
        (&["-o", "x.gif", "--fps", "0"], "--fps"),
        (&["-o", "x.gif", "--cfg-scale", "nan"], "--cfg-scale"),
        (&["-o", "x.gif", "-p", " "], "prompt is empty"),
        (&["-o", "x.gif", "--latents", "none.safetensors"], "none.safetensors"),
        (&["-o", "x.gif", "--latents", "text.safetensors"], "not a safetensors file"),
        (&["-o", "x.gif", "--latents", "flat.safetensors"], "expected [1, c, f, h, w]"),
        (&["-o", "x.gif", "--latents", "small.safetensors"], "latents have shape"),
        (&["-o", "x.gif", "--cache", "teacache"], "teacache"),
        (&["-o", "x.gif", "--causal", "--cfg-scale", "3"], "know no guidance"),
        (&["-o", "x.gif", "--causal", "--cfg-scale", "1", "--chunk-frames", "30"], "--chunk-frames"),
        (&["-o", "x.gif", "--causal", "--cfg-scale", "1", "--timestep-shift", "0"], "timestep shift"),
        (&["-o", "-", "--json"], "--json"),
    ];
    for (arguments, expected) in usage {
        let outcome = small(&folder, arguments);
        assert!(outcome.refused(2).contains(expected), "{arguments:?}: {}", outcome.stderr);
    }
    let builtin = folder.run(&["gen", "video", "-p", "dolphin", "-o", "x.gif"]);
    assert!(builtin.refused(2).contains("restyles clips"), "{}", builtin.stderr);
    let picture = model("pixart-plain");
    let outcome = folder.run(&["gen", "video", "-p", "x", "-o", "x.gif", "-m", picture.to_str().unwrap()]);
    assert!(outcome.refused(1).contains("gen image"), "{}", outcome.stderr);
    let deep = ["-p", "x", "-W", "32", "-H", "32", "--frames", "9", "--causal", "-o", "x.gif"];
    let outcome = make(&folder, "wan-deep-patch", &deep);
    assert!(outcome.code == 2, "{}", outcome.stderr);
    assert_eq!(folder.names(), ["flat.safetensors", "small.safetensors", "text.safetensors"]);
}
