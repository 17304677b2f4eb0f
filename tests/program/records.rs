//! Metadata, `info`, `--from`, settings files, events.

use crate::support::{Folder, tiny, tiny_model};

#[test]
fn a_picture_says_how_it_was_made_and_is_made_again_byte_for_byte() {
    let folder = Folder::new();
    let prompt = "a \"fox\", red: 100 %\nwith\ttabs \u{1F98A} \u{e9}";
    let line = ["-p", prompt, "-n", "blue", "--cache", "taylor:n=2", "--dtype", "bf16", "--cfg-scale", "3.3"];
    tiny(&folder, &[&line[..], &["--sampling-method", "euler", "-H", "32", "--rng", "torch", "-o", "x.png"]].concat())
        .succeeded();
    let model = tiny_model();
    let again = ["gen", "image", "--from", "x.png", "-m", model.to_str().unwrap(), "-t", "1"];
    folder.run(&[&again[..], &["-o", "y.png"]].concat()).succeeded();
    assert_eq!(folder.read("x.png"), folder.read("y.png"));
    // Flags win over the picture.
    folder.run(&[&again[..], &["-s", "8", "-o", "z.png"]].concat()).succeeded();
    assert_ne!(folder.read("x.png"), folder.read("z.png"));
}

#[test]
fn the_built_in_model_reproduces_its_pictures_from_anywhere() {
    let (folder, elsewhere) = (Folder::new(), Folder::new());
    folder.run(&["gen", "image", "-p", "pizza", "--steps", "2", "-o", "x.png"]).succeeded();
    let from = folder.path("x.png");
    elsewhere.run(&["gen", "image", "--from", from.to_str().unwrap(), "-o", "y.png"]).succeeded();
    assert_eq!(folder.read("x.png"), elsewhere.read("y.png"));
}

#[test]
fn jpeg_and_webp_carry_their_recipe_too() {
    let folder = Folder::new();
    let model = tiny_model();
    for name in ["x.jpg", "x.webp"] {
        tiny(&folder, &["-o", name]).succeeded();
        let again = format!("again-{name}");
        folder.run(&["gen", "image", "--from", name, "-m", model.to_str().unwrap(), "-o", &again]).succeeded();
        assert_eq!(folder.read(name), folder.read(&again));
    }
}

#[test]
fn a_picture_of_another_model_is_not_made_again_silently() {
    let folder = Folder::new();
    tiny(&folder, &["-o", "x.png"]).succeeded();
    let line = folder.run(&["gen", "image", "--from", "x.png", "-o", "y.png"]);
    assert!(line.refused(2).contains("-m"), "{}", line.stderr);
    let line = folder.run(&["gen", "image", "--from", "x.png", "-m", "builtin", "-o", "y.png"]);
    assert!(line.refused(2).contains("another model"), "{}", line.stderr);
    assert_eq!(folder.names(), ["x.png"]);
}

#[test]
fn info_reads_the_metadata() {
    let folder = Folder::new();
    tiny(&folder, &["-o", "x.png"]).succeeded();
    let text = folder.run(&["info", "x.png"]).succeeded().text();
    for expected in ["a red fox", "seed            7", "sampler         ddim", "pixart-learned-sigma"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&folder.run(&["info", "--json", "x.png"]).succeeded().text()).unwrap();
    assert_eq!(json["refrain"]["seed"], 7);
    assert_eq!(json["parameters"]["settings"]["Steps"], "6");
    assert_eq!(json["parameters"]["prompt"], "a red fox");
    let kept = json["refrain"].as_object().unwrap();
    assert!(
        kept.keys().all(|key| !key.contains("time") && !key.contains("thread") && !key.contains("path")),
        "{kept:?}"
    );
    folder.write("note.txt", "no picture");
    folder.run(&["info", "note.txt"]).refused(2);
    folder.run(&["info", "missing.png"]).refused(2);
}

#[test]
fn a_dumped_settings_file_reproduces_the_call() {
    let folder = Folder::new();
    let dumped =
        tiny(&folder, &["-s", "-1", "--cache", "taylor", "--cfg-scale", "2.5", "-o", "x.png", "--dump-config"])
            .succeeded();
    assert_eq!(folder.names(), Vec::<String>::new(), "a dump makes nothing");
    folder.write("c.toml", dumped.text());
    folder.run(&["gen", "image", "--config", "c.toml"]).succeeded();
    folder.run(&["gen", "image", "--config", "c.toml", "-o", "y.png"]).succeeded();
    assert_eq!(folder.read("x.png"), folder.read("y.png"));
    let again = folder.run(&["gen", "image", "--config", "c.toml", "--dump-config"]).succeeded();
    assert_eq!(again.text(), dumped.text());
    // Flags win over the file.
    let other = folder.run(&["gen", "image", "--config", "c.toml", "--dump-config", "--steps", "9"]).succeeded();
    assert!(other.text().contains("steps = 9"), "{}", other.text());
}

#[test]
fn a_settings_file_with_an_unknown_key_is_refused() {
    let folder = Folder::new();
    folder.write("c.toml", "prompt = \"fox\"\n\nstep = 3\n");
    let line = folder.run(&["gen", "image", "--config", "c.toml"]);
    assert!(line.refused(2).contains("line 3") && line.stderr.contains("step"), "{}", line.stderr);
}

#[test]
fn events_are_one_json_object_a_line() {
    let folder = Folder::new();
    let made =
        tiny(&folder, &["-b", "2", "--json", "--cache", "interval", "--cache-report", "-o", "x.png"]).succeeded();
    let events = made.events();
    let names: Vec<&str> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!((names[0], names[names.len() - 1]), ("start", "done"));
    let count = |name: &str| names.iter().filter(|other| **other == name).count();
    assert_eq!((count("step"), count("image"), count("report")), (12, 2, 2));
    assert_eq!(events[0]["seed"], 7);
    assert_eq!(events[0]["steps"], 6);
    let failed = tiny(&folder, &["--json", "-W", "17", "-o", "y.png"]);
    assert_eq!(failed.events().last().unwrap()["exit_code"], 2);
    failed.refused(2);
}
