//! `plan import` and `plan export`.

use std::path::Path;

use crate::support::{Folder, tiny_model};

const SCHEDULE: &str = r#"{"attn-0":[1,0,1,0],"mlp-0":[1,1,0,0],"attn-1":[1,0,0,0],"mlp-1":[1,1,1,1]}"#;

fn fixture(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/train/tests/fixtures").join(name).display().to_string()
}

fn counts(folder: &Folder, plan: &str) -> (u64, u64) {
    let text = folder.run(&["inspect", plan, "--json"]).succeeded().text();
    let plan: serde_json::Value = serde_json::from_str(&text).unwrap();
    (plan["counts"]["reuse"].as_u64().unwrap(), plan["counts"]["entries"].as_u64().unwrap())
}

#[test]
fn schedules_of_other_projects_become_plans_and_go_back() {
    let folder = Folder::new();
    folder.write("s.json", SCHEDULE);
    folder.write("mask", "1,1,0,1\n");
    let (harmonica, l2c) = (fixture("harmonica.pt"), fixture("l2c.pt"));
    // By hand: entries of make_routers.py at or below sigmoid^-1(0.1) = -2.197, without the frozen or whole rows.
    for (format, file, expected) in [
        ("smoothcache", "s.json", (7, 16)),
        ("scm", "mask", (1, 4)),
        ("harmonica", harmonica.as_str(), (5, 24)),
        ("l2c", l2c.as_str(), (3, 24)),
    ] {
        let outcome = folder.run(&["plan", "import", "--format", format, file, "-o", "x.plan.safetensors"]);
        outcome.succeeded();
        assert_eq!(counts(&folder, "x.plan.safetensors"), expected, "{format}");
        if let "smoothcache" | "scm" = format {
            folder.run(&["plan", "export", "x.plan.safetensors", "--format", format, "-o", "back"]).succeeded();
            let (back, there): (String, String) =
                (String::from_utf8(folder.read("back")).unwrap(), String::from_utf8(folder.read(file)).unwrap());
            let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap_or_default();
            assert!(back.trim() == there.trim() || json(&back) == json(&there), "{back}");
        } else {
            folder.run(&["plan", "export", "x.plan.safetensors", "--format", "scm", "-o", "back"]).refused(2);
        }
    }
}

#[test]
fn an_imported_plan_replays_on_its_model() {
    let folder = Folder::new();
    folder.write("s.json", SCHEDULE);
    let model = tiny_model();
    let model = model.to_str().unwrap();
    let line = ["plan", "import", "--format", "smoothcache", "s.json", "-o", "x.plan.safetensors"];
    let run = ["-m", model, "--cfg-scale", "2"];
    folder.run(&[&line[..], &run].concat()).succeeded();
    let make = ["gen", "image", "-p", "x", "-s", "0", "--steps", "4", "-o", "x.png"];
    let replay = ["--cache", "x.plan.safetensors", "--emit-plan", "done.plan.safetensors"];
    folder.run(&[&make[..], &run, &replay].concat()).succeeded();
    // What the plan says is what happened: the last step too.
    let text = folder.run(&["inspect", "done.plan.safetensors", "--json"]).succeeded().text();
    let done: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(done["counts"]["reuse"], 7, "{text}");
    // Without a model, it is for none.
    folder.run(&line).succeeded();
    let outcome = folder.run(&[&make[..], &run, &replay].concat());
    assert!(outcome.refused(2).contains("model is none in the plan"), "{}", outcome.stderr);
}

#[test]
fn what_is_no_such_file_is_refused() {
    let folder = Folder::new();
    folder.write("s.json", SCHEDULE);
    folder.write("broken.pt", &std::fs::read(fixture("l2c.pt")).unwrap()[..900]);
    folder.write("blocks.json", r#"{"attn-7":[1,0]}"#);
    let (harmonica, l2c, model) = (fixture("harmonica.pt"), fixture("l2c.pt"), tiny_model());
    for (arguments, code, word) in [
        (&["--format", "harmonica", &l2c][..], 1, "--format l2c"),
        (&["--format", "l2c", &harmonica], 1, "--format harmonica"),
        (&["--format", "harmonica", "broken.pt"], 1, "no router archive"),
        (&["--format", "harmonica", "s.json"], 1, "no router archive"),
        (&["--format", "harmonica", "missing"], 1, "missing"),
        (&["--format", "scm", "s.json"], 1, "no steps computation mask"),
        (&["--format", "smoothcache", "missing"], 2, "cannot read"),
        (&["--format", "smoothcache", "blocks.json", "-m", model.to_str().unwrap()], 2, "attention of block 7"),
        (&["--format", "l2c", &l2c, "--threshold", "2"], 2, "--threshold"),
        (&[&l2c], 2, "--format"),
    ] {
        let line = [&["plan", "import", "-o", "x.plan.safetensors"][..], arguments].concat();
        let outcome = folder.run(&line);
        let line = outcome.refused(code);
        assert!(line.contains(word), "{line}");
    }
    assert_eq!(folder.names(), ["blocks.json", "broken.pt", "s.json"]);
}

/// A published schedule of DiT-XL/2 at 50 DDIM steps: its facts are known.
#[test]
fn a_published_schedule_has_its_known_counts() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/fixtures/smoothcache_50-N-2-l2c.json");
    if !Path::new(path).is_file() {
        eprintln!("skipped: {path} is not here");
        return;
    }
    let folder = Folder::new();
    folder.run(&["plan", "import", "--format", "smoothcache", path, "-o", "x.plan.safetensors"]).succeeded();
    assert_eq!(counts(&folder, "x.plan.safetensors"), (664, 2800));
}
