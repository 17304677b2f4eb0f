//! `morph`: what must hold of its frames whatever the model.

use refrain_media::{Picture, save_picture};

use crate::support::{Folder, Outcome, pixels, tiny_model};

/// Two pictures that differ, in the tiny model's size.
pub(crate) fn pictures(folder: &Folder) {
    let paint = |name: &str, colour: fn(u32, u32) -> [u8; 3]| {
        let mut picture = Picture::filled(16, 16, [0; 3]);
        for y in 0..16 {
            for x in 0..16 {
                picture.set_pixel(x, y, colour(x, y));
            }
        }
        save_picture(&folder.path(name), &picture).unwrap();
    };
    paint("a.png", |x, y| [x as u8 * 16, y as u8 * 16, 40]);
    paint("b.png", |x, y| if (x / 4 + y / 4) % 2 == 0 { [250, 240, 20] } else { [10, 30, 200] });
    paint("c.png", |x, _| [255 - x as u8 * 8, 128, 90]);
}

pub(crate) fn morph(folder: &Folder, arguments: &[&str]) -> Outcome {
    let model = tiny_model();
    let mut line = vec!["morph", "-m", model.to_str().unwrap(), "--steps", "6", "-q"];
    if !arguments.contains(&"--frames") {
        line.extend(["--frames", "7"]);
    }
    line.extend(arguments);
    folder.run(&line)
}

/// Pixels of the frames of a folder.
pub(crate) fn frames(folder: &Folder, name: &str, count: usize) -> Vec<Vec<u8>> {
    (1..=count).map(|number| pixels(&folder.read(&format!("{name}/frame-{number:06}.png")))).collect()
}

fn largest_difference(first: &[Vec<u8>], second: &[Vec<u8>]) -> u8 {
    assert_eq!(first.len(), second.len());
    let pairs = first.iter().flatten().zip(second.iter().flatten());
    pairs.map(|(first, second)| first.abs_diff(*second)).max().unwrap()
}

#[test]
fn frames_lead_from_the_first_picture_to_the_last() {
    let folder = Folder::new();
    pictures(&folder);
    morph(&folder, &["a.png", "b.png", "-o", "out"]).succeeded();
    let made = frames(&folder, "out", 7);
    assert_eq!(made[0], pixels(&folder.read("a.png")));
    assert_eq!(made[6], pixels(&folder.read("b.png")));
    assert!(made.windows(2).all(|pair| pair[0] != pair[1]));
    assert!(folder.names().contains(&"out-sheet.png".to_owned()), "{:?}", folder.names());
}

#[test]
fn without_weight_every_bit_is_that_of_no_injection() {
    let folder = Folder::new();
    pictures(&folder);
    let made = |name: &str, arguments: &[&str]| {
        morph(&folder, &[&["a.png", "b.png", "-o", name], arguments].concat()).succeeded();
        frames(&folder, name, 7)
    };
    // A transformer has no residual blocks: nothing is ever injected.
    let none = made("none", &["--inject-parts", "residual"]);
    assert_eq!(made("zero", &["--inject", "0"]), none);
    for mode in ["residual", "convex", "renorm"] {
        assert_ne!(made(mode, &["--inject", "0.4", "--inject-mode", mode]), none, "{mode}");
    }
}

#[test]
fn equal_pictures_give_constant_frames() {
    let folder = Folder::new();
    pictures(&folder);
    std::fs::copy(folder.path("a.png"), folder.path("same.png")).unwrap();
    let outcome = morph(&folder, &["a.png", "same.png", "-o", "out", "--reconstruct-ends"]).succeeded();
    assert!(outcome.stderr.contains("are the same picture"), "{}", outcome.stderr);
    let made = frames(&folder, "out", 7);
    for frame in &made {
        assert!(largest_difference(&made[..1], std::slice::from_ref(frame)) <= 1);
    }
}

#[test]
fn swapped_pictures_give_the_frames_in_reverse() {
    let folder = Folder::new();
    pictures(&folder);
    morph(&folder, &["a.png", "b.png", "-o", "there", "--anchor", "red", "-p", "dog", "-p", "cat"]).succeeded();
    morph(&folder, &["b.png", "a.png", "-o", "back", "--anchor", "red", "-p", "cat", "-p", "dog"]).succeeded();
    let mut back = frames(&folder, "back", 7);
    back.reverse();
    assert!(largest_difference(&frames(&folder, "there", 7), &back) <= 1);
}

#[test]
fn stored_filed_and_recomputed_features_give_the_same_frames() {
    let folder = Folder::new();
    pictures(&folder);
    let made = |storage: &str, inverter: &str| {
        let name = format!("{storage}-{inverter}");
        let flags = ["a.png", "b.png", "-o", &name, "--cache-storage", storage, "--inverter", inverter];
        morph(&folder, &flags).succeeded();
        frames(&folder, &name, 7)
    };
    for inverter in ["ddim", "belm"] {
        let exact = made("f32", inverter);
        assert_eq!(made("recompute", inverter), exact, "{inverter}");
        assert_eq!(made("file", inverter), exact, "{inverter}");
        for storage in ["bf16", "int8", "int8-stride2"] {
            assert_ne!(made(storage, inverter), Vec::<Vec<u8>>::new());
        }
    }
}

#[test]
fn frames_depend_neither_on_their_batch_nor_on_threads() {
    let folder = Folder::new();
    pictures(&folder);
    morph(&folder, &["a.png", "b.png", "-o", "all", "--cache", "interval:2"]).succeeded();
    morph(&folder, &["a.png", "b.png", "-o", "one", "--cache", "interval:2", "--batch", "1", "-t", "1"]).succeeded();
    assert_eq!(frames(&folder, "all", 7), frames(&folder, "one", 7));
}

#[test]
fn several_pictures_share_the_frames_by_their_seconds_and_may_loop() {
    let folder = Folder::new();
    pictures(&folder);
    morph(&folder, &["a.png", "b.png", "c.png", "-o", "out", "--seconds", "2", "1"]).succeeded();
    let made = frames(&folder, "out", 7);
    assert_eq!((&made[4], &made[6]), (&pixels(&folder.read("b.png")), &pixels(&folder.read("c.png"))));
    morph(&folder, &["a.png", "b.png", "c.png", "-o", "round", "--loop", "--frames", "6"]).succeeded();
    let round = frames(&folder, "round", 6);
    assert_eq!(round[4], pixels(&folder.read("c.png")));
    assert!(!folder.path("round/frame-000007.png").exists());
}

#[test]
fn an_unfinished_folder_is_gone_on_with_by_the_same_settings_only() {
    let folder = Folder::new();
    pictures(&folder);
    morph(&folder, &["a.png", "b.png", "-o", "out"]).succeeded();
    let whole = frames(&folder, "out", 7);
    for number in [3, 4, 6] {
        std::fs::remove_file(folder.path(&format!("out/frame-{number:06}.png"))).unwrap();
    }
    let again = morph(&folder, &["a.png", "b.png", "-o", "out", "--resume"]);
    again.succeeded();
    assert_eq!(frames(&folder, "out", 7), whole);
    let other = morph(&folder, &["a.png", "b.png", "-o", "out", "--resume", "--inject", "0.1"]);
    assert!(other.refused(2).contains("weight was"), "{}", other.stderr);
    assert!(morph(&folder, &["a.png", "b.png", "-o", "out"]).refused(2).contains("--resume"));
}

#[test]
fn clips_go_into_one_file_by_its_ending() {
    let folder = Folder::new();
    pictures(&folder);
    for name in ["clip.gif", "clip.png", "clip.y4m"] {
        morph(&folder, &["a.png", "b.png", "-o", name, "--frames", "4"]).succeeded();
        assert!(folder.read(name).len() > 100, "{name}");
    }
}

#[test]
fn memory_is_told_before_and_held_to() {
    let folder = Folder::new();
    pictures(&folder);
    let report = |arguments: &[&str]| {
        let _ = std::fs::remove_dir_all(folder.path("out"));
        let outcome = morph(&folder, &[&["a.png", "b.png", "-o", "out", "--json"], arguments].concat()).succeeded();
        let events = outcome.events();
        events.iter().find(|event| event["event"] == "report").unwrap()["report"].clone()
    };
    let mut last = u64::MAX;
    for storage in ["f32", "bf16", "int8", "int8-stride2"] {
        let report = report(&["--cache-storage", storage]);
        assert_eq!(report["feature_bytes"], report["feature_bytes_predicted"], "{storage}");
        let bytes = report["feature_bytes"].as_u64().unwrap();
        assert!(bytes < last, "{storage}: {bytes}");
        last = bytes;
        let chosen = |limit: u64| self::chosen(&folder, limit);
        assert_eq!(chosen(bytes), storage);
    }
    assert_eq!(chosen(&folder, last - 1), "file");
}

/// The storage that a limit leads to.
fn chosen(folder: &Folder, limit: u64) -> String {
    let _ = std::fs::remove_dir_all(folder.path("out"));
    let limit = limit.to_string();
    let outcome = morph(folder, &["a.png", "b.png", "-o", "out", "--json", "--cache-memory", &limit]).succeeded();
    let events = outcome.events();
    events.iter().find(|event| event["event"] == "report").unwrap()["report"]["storage"].as_str().unwrap().to_owned()
}

/// Stable Diffusion 1.5's layers at 1/80 of their width: its features take 1/80 of the bytes. At 512x512 a step, and over
/// 50 steps, what is held is what was predicted.
#[test]
fn features_of_stable_diffusion_take_the_bytes_that_were_predicted() {
    let folder = Folder::new();
    pictures(&folder);
    let model = tiny_model().with_file_name("unet-sd15");
    let held = |side: &str, steps: &str, more: &[&str]| {
        let _ = std::fs::remove_dir_all(folder.path("out"));
        let mut line = vec!["morph", "a.png", "b.png", "-m", model.to_str().unwrap(), "-W", side, "-H", side];
        line.extend(["--steps", steps, "--frames", "3", "--refinements", "0", "--schedule", "uniform"]);
        line.extend(["-o", "out", "--json"]);
        line.extend(more);
        let outcome = folder.run(&line).succeeded();
        let events = outcome.events();
        let report = events.iter().find(|event| event["event"] == "report").unwrap()["report"].clone();
        assert_eq!(report["feature_bytes"], report["feature_bytes_predicted"], "{side} {steps} {more:?}");
        report["feature_bytes"].as_u64().unwrap()
    };
    // What each of the twelve stages gives to the way up: channels (in 80ths) and side at latents of 64x64.
    let stages = [(4, 64), (4, 64), (8, 64), (8, 32), (8, 32), (16, 32)];
    let below = [(16, 16), (16, 16), (16, 16), (16, 8), (16, 8), (16, 8)];
    let values: u64 = stages.iter().chain(&below).map(|(channels, side)| channels * side * side).sum();
    let stages = ["--inject-parts", "stage", "--cache-storage", "bf16"];
    let (endpoints, bytes) = (2, 2);
    assert_eq!(held("512", "2", &stages), 2 * endpoints * bytes * values);
    assert_eq!(held("64", "50", &stages), 50 * endpoints * bytes * values / 64);
    let all = ["--cache-storage", "f32"];
    assert_eq!(held("64", "50", &all), 25 * held("512", "2", &all) / 64);
}

#[test]
fn frames_are_judged_beside_both_baselines() {
    let folder = Folder::new();
    pictures(&folder);
    morph(&folder, &["a.png", "b.png", "-o", "out"]).succeeded();
    let model = tiny_model();
    let judged =
        folder.run(&["eval", "morph", "out", "--a", "a.png", "--b", "b.png", "-m", model.to_str().unwrap(), "--json"]);
    let judged: serde_json::Value = serde_json::from_str(&judged.succeeded().text()).unwrap();
    assert!(judged["backbone"].as_str().unwrap().contains("DiffSim-style"));
    for sequence in ["frames", "cross-fade", "latent slerp"] {
        let row = &judged["sequences"][sequence];
        let glcs = row["glcs"]["glcs"].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&glcs), "{sequence}: {glcs}");
        assert!(row["path"]["max"].as_f64().unwrap() <= row["path"]["sum"].as_f64().unwrap());
        assert!(row["first_psnr"].is_null() && row["last_psnr"].is_null(), "the ends are the pictures themselves");
    }
    assert_eq!(judged["sequences"]["cross-fade"]["nears_last"], 1.0);
    let few = folder.run(&["eval", "morph", "a.png", "--a", "a.png", "--b", "b.png", "-m", model.to_str().unwrap()]);
    assert!(few.refused(2).contains("at least 3"), "{}", few.stderr);
}

#[test]
fn pairs_are_morphed_judged_and_timed_side_by_side() {
    let folder = Folder::new();
    pictures(&folder);
    folder.write("pairs.tsv", "# two pairs\na.png\tb.png\tred fox\tdog\tcat\nb.png\tc.png\n");
    let model = tiny_model();
    let model = model.to_str().unwrap();
    let bench = |more: &[&str]| {
        let line = ["bench", "morph", "pairs.tsv", "-m", model, "--judge", model, "--steps", "4", "-o", "table.md"];
        folder.run(&[&line, more].concat())
    };
    let found = bench(&["--frames", "4", "--cache", "interval:n=2", "--anchor-gate", "-1"]).succeeded().text();
    assert_eq!(String::from_utf8(folder.read("table.md")).unwrap().trim_end(), found.trim_end());
    for row in [
        "| cross-fade |",
        "| latent slerp, even pace |",
        "| captions, no injection |",
        "| injection convex auto, anchor |",
        "| injection convex auto, interval:n=2 |",
        "| injection convex auto against |",
    ] {
        assert!(found.contains(row), "{row}: {found}");
    }
    assert!(found.contains("2 pairs, 4 frames, 4 steps"), "{found}");
    assert!(bench(&["--frames", "2"]).refused(2).contains("--frames"));
    folder.write("pairs.tsv", "a.png\n");
    assert!(bench(&[]).refused(2).contains("line 1"));
}

#[test]
fn even_pace_and_calibrated_schedules_lead_to_frames() {
    let folder = Folder::new();
    pictures(&folder);
    let model = tiny_model();
    let line =
        ["morph", "calibrate", "a.png", "b.png", "-m", model.to_str().unwrap(), "--steps", "10", "-o", "cuts.json"];
    folder.run(&line).succeeded();
    let cuts: serde_json::Value = serde_json::from_slice(&folder.read("cuts.json")).unwrap();
    assert!(cuts["early"][1].as_f64().unwrap() <= cuts["middle"][1].as_f64().unwrap());
    morph(&folder, &["a.png", "b.png", "-o", "out", "--inject-schedule", "cuts.json", "--schedule", "even"])
        .succeeded();
    assert_eq!(frames(&folder, "out", 7)[0], pixels(&folder.read("a.png")));
}

#[test]
fn the_chosen_weight_is_one_of_those_tried_and_gives_its_frames() {
    let folder = Folder::new();
    pictures(&folder);
    let outcome = morph(&folder, &["a.png", "b.png", "-o", "chosen", "--json"]).succeeded();
    let events = outcome.events();
    let report = &events.iter().find(|event| event["event"] == "report").unwrap()["report"];
    let weight = report["injection_weight"].as_f64().unwrap() as f32;
    assert!([0.0, 0.3, 0.6].contains(&weight), "{weight}");
    morph(&folder, &["a.png", "b.png", "-o", "given", "--inject", &weight.to_string()]).succeeded();
    assert_eq!(frames(&folder, "chosen", 7), frames(&folder, "given", 7));
    // Without previews there is nothing to choose by.
    morph(&folder, &["a.png", "b.png", "-o", "uniform", "--schedule", "uniform"]).succeeded();
    morph(&folder, &["a.png", "b.png", "-o", "half", "--schedule", "uniform", "--inject", "0.5"]).succeeded();
    assert_eq!(frames(&folder, "uniform", 7), frames(&folder, "half", 7));
}

#[test]
fn a_u_net_morphs_too() {
    let folder = Folder::new();
    pictures(&folder);
    for model in ["unet-epsilon", "unet-velocity"] {
        let path = tiny_model().with_file_name(model);
        let line = [
            "morph",
            "a.png",
            "b.png",
            "-m",
            path.to_str().unwrap(),
            "--steps",
            "5",
            "--frames",
            "4",
            "--inject",
            "0.5",
            "-o",
            model,
            "--json",
        ];
        let outcome = folder.run(&line).succeeded();
        let events = outcome.events();
        let report = &events.iter().find(|event| event["event"] == "report").unwrap()["report"];
        assert_eq!(report["feature_bytes"], report["feature_bytes_predicted"], "{model}");
        let groups = report["cache"]["groups"].as_array().unwrap();
        let injected =
            |part: &str| groups.iter().find(|group| group["part"] == part).unwrap()["injected"].as_u64().unwrap();
        assert!(injected("residual") > 0 && injected("attention") > 0, "{model}");
    }
}

#[test]
#[cfg(unix)]
fn a_captioner_is_any_program_that_prints_a_line() {
    let folder = Folder::new();
    pictures(&folder);
    let outcome = folder.run(&[
        "morph",
        "-m",
        tiny_model().to_str().unwrap(),
        "--steps",
        "4",
        "--frames",
        "3",
        "a.png",
        "b.png",
        "--captioner",
        "echo a picture of",
        "-o",
        "out",
    ]);
    let outcome = outcome.succeeded();
    assert!(outcome.stderr.contains("a picture of a.png"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("captioner"), "{}", outcome.stderr);
}

#[cfg(feature = "ffmpeg")]
#[test]
fn frames_become_a_film() {
    let folder = Folder::new();
    pictures(&folder);
    for name in ["out.mp4", "out.webm"] {
        morph(&folder, &["a.png", "b.png", "-o", name]).succeeded();
        let mut source = refrain_media::sequence::open_source(&folder.path(name), Default::default()).unwrap();
        assert_eq!(std::iter::from_fn(|| source.next_frame().unwrap()).count(), 7, "{name}");
        assert!(source.info().rate.per_second() > 5.0, "{name}");
    }
}
