//! `--cache auto`, the default: which router it takes, what it says, and how pictures made with it are made again.

use refrain_media::{Format, Metadata, REFRAIN_KEY, encode_picture};
use serde_json::Value;

use crate::support::{Folder, Outcome, pixels, tiny, tiny_model};

/// Few steps of the built-in model, for which there are routers.
const RUN: [&str; 9] = ["gen", "image", "-p", "pizza", "-s", "1", "--steps", "10", "-o"];

fn built_in(folder: &Folder, name: &str, arguments: &[&str]) -> Outcome {
    folder.run(&[&RUN[..], &[name], arguments].concat())
}

fn recipe(folder: &Folder, name: &str) -> Value {
    serde_json::from_str(&folder.run(&["info", "--json", name]).succeeded().text()).unwrap()
}

#[test]
fn the_default_is_the_router_proven_harmless_and_off_is_off() {
    let folder = Folder::new();
    let said = built_in(&folder, "x.png", &[]).succeeded().stderr;
    assert!(said.contains("cache router:budget=") && said.contains("held-out pictures: median"), "{said}");
    let named = built_in(&folder, "auto.png", &["--cache", "auto"]).succeeded();
    assert_eq!(said, named.stderr);
    assert_eq!(folder.read("x.png"), folder.read("auto.png"));
    let off = built_in(&folder, "off.png", &["--cache", "off"]).succeeded();
    assert!(off.stderr.contains("cache off") && !off.stderr.contains("router"), "{}", off.stderr);
    let (with, without) = (pixels(&folder.read("x.png")), pixels(&folder.read("off.png")));
    assert_ne!(with, without);
    let squares = with.iter().zip(&without).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2));
    let decibels = 10.0 * (255.0f64.powi(2) * with.len() as f64 / squares.sum::<f64>()).log10();
    assert!(decibels > 30.0, "{decibels} dB is visible");
    // The picture names the router itself: whatever `auto` comes to later, this is how it was made.
    let spelling = recipe(&folder, "x.png").to_string();
    assert!(spelling.contains("router:budget="), "{spelling}");
    folder.run(&["gen", "image", "--from", "x.png", "-o", "again.png"]).succeeded();
    assert_eq!(folder.read("x.png"), folder.read("again.png"));
}

#[test]
fn where_no_router_was_validated_all_is_computed() {
    let folder = Folder::new();
    let said = tiny(&folder, &["-o", "x.png"]).succeeded().stderr;
    assert!(said.contains("cache off") && !said.contains("router"), "{said}");
    let said = tiny(&folder, &["-o", "auto.png", "--cache", "auto"]).succeeded().stderr;
    assert!(said.contains("no router was validated"), "{said}");
    assert_eq!(folder.read("x.png"), folder.read("auto.png"));
    // A settings file says which cache, so that it means the same once another default is wanted.
    let text = tiny(&folder, &["-o", "x.png", "--dump-config"]).succeeded().text();
    assert!(text.contains("cache = \"auto\""), "{text}");
}

#[test]
fn a_router_is_moved_to_another_number_of_steps() {
    let folder = Folder::new();
    let run = ["gen", "image", "-p", "pizza", "-s", "1", "--steps", "8", "--cache", "auto:transfer"];
    let made = folder.run(&[&run[..], &["-o", "x.png", "--emit-plan", "x.plan.safetensors"]].concat()).succeeded();
    let said = &made.stderr;
    assert!(said.contains("transferred from 10 to 8 steps by log-SNR") && said.contains("not measured"), "{said}");
    let plan = folder.run(&["inspect", "x.plan.safetensors", "--json"]).succeeded().text();
    let plan: Value = serde_json::from_str(&plan).unwrap();
    let share = plan["computed_share"].as_f64().unwrap();
    assert!(share > 0.4 && share < 0.9, "{share}");
    folder.run(&["gen", "image", "--from", "x.png", "-o", "again.png"]).succeeded();
    assert_eq!(folder.read("x.png"), folder.read("again.png"));
    let said = tiny(&folder, &["-o", "y.png", "--cache", "auto:transfer"]).succeeded().stderr;
    assert!(said.contains("no router was validated"), "{said}");
    for (mode, word) in
        [("auto:budget=0.5", "router:budget"), ("auto:transfer+budget=2", "budget"), ("router:transfer", "budget")]
    {
        let line = tiny(&folder, &["--cache", mode]);
        assert!(line.refused(2).contains(word), "{mode}: {}", line.stderr);
    }
}

#[test]
fn a_picture_made_with_another_router_is_not_made_again() {
    let folder = Folder::new();
    built_in(&folder, "x.png", &["--cache", "router:budget=0.6"]).succeeded();
    let metadata = Metadata::load(&folder.path("x.png")).unwrap();
    let mut recipe: Value = serde_json::from_str(metadata.get(REFRAIN_KEY).unwrap()).unwrap();
    recipe["plan_hash"] = Value::String("0123456789abcdef".into());
    let picture = refrain_media::load_picture(&folder.path("x.png"), &refrain_media::LoadOptions::default()).unwrap();
    let metadata = Metadata::new().with(REFRAIN_KEY, recipe.to_string());
    folder.write("old.png", encode_picture(&picture, Format::Png, &metadata).unwrap());
    let from = ["gen", "image", "--from", "old.png", "-o", "y.png"];
    let outcome = folder.run(&from);
    let line = outcome.refused(2);
    for word in ["old.png", "another router", "0123456789", "--cache off"] {
        assert!(line.contains(word), "{word}: {line}");
    }
    assert_eq!(folder.names(), ["old.png", "x.png"]);
    // What changes the plan anyway is no promise broken.
    for change in [&["--cache", "off"][..], &["--steps", "5", "--cache", "auto"]] {
        folder.run(&[&from[..], change].concat()).succeeded();
        std::fs::remove_file(folder.path("y.png")).unwrap();
    }
}

#[test]
fn a_plan_carries_its_measured_harm() {
    let folder = Folder::new();
    let model = tiny_model();
    let model = model.to_str().unwrap();
    let train = ["train", "router", "-p", "a", "-p", "b c", "-m", model, "--steps", "6", "--pictures", "2"];
    let train =
        [&train[..], &["--cfg-scale", "2", "--budgets", "0.7,0.5", "-o", "r-{budget}.plan.safetensors"]].concat();
    folder.run(&train).succeeded();
    folder.write("held-out.txt", "a dog\na red fox\n");
    let plans = ["r-0.7.plan.safetensors", "r-0.5.plan.safetensors"];
    let validate = ["plan", "validate", "-m", model, "--prompt-file", "held-out.txt"];
    let text = folder.run(&[&validate[..], &plans].concat()).succeeded().text();
    assert!(text.lines().count() == 2 && text.contains("2 pictures, median"), "{text}");
    let harm = |name: &str| {
        let json = folder.run(&["inspect", name, "--json"]).succeeded().text();
        serde_json::from_str::<Value>(&json).unwrap()["header"]["validation"].clone()
    };
    let (more, less) = (harm(plans[0]), harm(plans[1]));
    assert_eq!(more["pictures"], 2);
    for harm in [&more, &less] {
        let value = |key: &str| harm[key].as_f64().unwrap();
        assert!(value("worst") <= value("fifth_percentile") && value("fifth_percentile") <= value("median"), "{harm}");
        assert!(value("worst") > 0.0 && value("median") < 100.0, "{harm}");
    }
    assert!(folder.run(&["inspect", plans[1]]).succeeded().text().contains("held-out pictures"));
    // Figures decide nothing: the plan replays as before.
    let replay = [
        "gen",
        "image",
        "-m",
        model,
        "-p",
        "x",
        "-s",
        "0",
        "--steps",
        "6",
        "--cfg-scale",
        "2",
        "--cache",
        plans[1],
        "-o",
        "x.png",
    ];
    folder.run(&replay).succeeded();

    let before = folder.read(plans[0]);
    let line = folder.run(&["plan", "validate", "--prompt-file", "held-out.txt", plans[0]]);
    assert!(line.refused(2).contains("model"), "{}", line.stderr);
    folder.write("bad.plan.safetensors", "no plan");
    folder.run(&[&validate[..], &[plans[0], "bad.plan.safetensors"]].concat()).refused(1);
    folder.run(&[&validate[..], &["missing.plan.safetensors"]].concat()).refused(2);
    assert_eq!(folder.read(plans[0]), before);
}
