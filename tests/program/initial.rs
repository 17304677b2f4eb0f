//! Pictures that start from a picture.

use refrain_media::{Format, Metadata, Picture, encode_picture};

use crate::support::{Folder, pixels, tiny, tiny_model};

/// A picture of two colours.
fn halves(width: u32, height: u32) -> Vec<u8> {
    let mut picture = Picture::filled(width, height, [230, 120, 40]);
    picture.paste(&Picture::filled(width / 2, height, [30, 90, 160]), 0, 0);
    encode_picture(&picture, Format::Png, &Metadata::new()).unwrap()
}

#[test]
fn the_strength_is_the_share_of_the_steps_that_run() {
    let folder = Folder::new();
    folder.write("a.png", halves(16, 16));
    for (strength, steps) in [("0.5", 3), ("0.34", 2), ("1", 6)] {
        let line = ["-i", "a.png", "--strength", strength, "--json", "-o", "x.png"];
        let events = tiny(&folder, &line).succeeded().events();
        assert_eq!(events.iter().filter(|event| event["event"] == "step").count(), steps, "{strength}");
    }
    // Without a strength it is 0.75: four of six steps.
    let events = tiny(&folder, &["-i", "a.png", "--json", "-o", "x.png"]).succeeded().events();
    assert_eq!(events.iter().filter(|event| event["event"] == "step").count(), 4);
}

#[test]
fn a_picture_started_from_another_is_made_again_byte_for_byte() {
    let folder = Folder::new();
    folder.write("a.png", halves(20, 11));
    folder.write("b.png", halves(11, 20));
    let line = ["--init-img", "a.png", "--strength", "0.6", "--cache", "interval", "--sampling-method", "dpm++2m"];
    tiny(&folder, &[&line[..], &["-o", "x.png"]].concat()).succeeded();
    let info: serde_json::Value =
        serde_json::from_str(&folder.run(&["info", "--json", "x.png"]).succeeded().text()).unwrap();
    assert_eq!(info["refrain"]["strength"], 0.6);
    assert_eq!(info["refrain"]["init_hash"].as_str().unwrap().len(), 64);
    assert_eq!(info["parameters"]["settings"]["Denoising strength"], "0.6");
    let model = tiny_model();
    let again = ["gen", "image", "--from", "x.png", "-m", model.to_str().unwrap(), "-o", "y.png"];
    for other in [&[][..], &["-i", "b.png"]] {
        let refused = folder.run(&[&again[..], other].concat());
        assert!(refused.refused(2).contains("--init-img"), "{}", refused.stderr);
    }
    folder.run(&[&again[..], &["-i", "a.png"]].concat()).succeeded();
    assert_eq!(folder.read("x.png"), folder.read("y.png"));
}

#[test]
fn the_result_has_the_shape_of_the_picture_unless_told_otherwise() {
    let folder = Folder::new();
    folder.write("wide.png", halves(400, 100));
    let size = |arguments: &[&str]| {
        tiny(&folder, &[&["-i", "wide.png", "-o", "x.png"], arguments].concat()).succeeded();
        let picture = refrain_media::decode_picture("x", &folder.read("x.png"), &Default::default()).unwrap();
        (picture.width(), picture.height())
    };
    // The tiny model's own 16x16 pixels, in the shape 4:1.
    assert_eq!(size(&[]), (32, 8));
    assert_eq!(size(&["-W", "16"]), (16, 4));
    assert_eq!(size(&["-W", "16", "-H", "16"]), (16, 16));
}

#[test]
fn the_built_in_model_keeps_what_the_strength_leaves() {
    let folder = Folder::new();
    folder.run(&["gen", "image", "-p", "red fox", "-s", "1", "--steps", "4", "-o", "fox.png"]).succeeded();
    let fox = pixels(&folder.read("fox.png"));
    let distances = ["0.2", "1"].map(|strength| {
        let line = ["gen", "image", "-p", "pizza", "-s", "2", "--steps", "5", "-i", "fox.png", "-o", "x.png"];
        folder.run(&[&line[..], &["--strength", strength]].concat()).succeeded();
        let changed = pixels(&folder.read("x.png"));
        fox.iter().zip(&changed).map(|(&a, &b)| f64::from(a.abs_diff(b))).sum::<f64>() / fox.len() as f64
    });
    assert!(distances[0] > 0.0 && 2.0 * distances[0] < distances[1], "{distances:?}");
}

#[test]
fn what_is_no_picture_or_no_strength_is_one_line() {
    let folder = Folder::new();
    folder.write("a.png", halves(16, 16));
    folder.write("text.png", "no picture");
    folder.write("empty.png", "");
    std::fs::create_dir(folder.path("folder.png")).unwrap();
    for (arguments, expected) in [
        (&["-i", "missing.png"][..], "missing.png"),
        (&["-i", "text.png"], "text.png"),
        (&["-i", "empty.png"], "empty"),
        (&["-i", "folder.png"], "folder.png"),
        (&["-i", "a.png", "--strength", "1.5"], "--strength must be between 0 and 1"),
        (&["-i", "a.png", "--strength", "nan"], "--strength must be between 0 and 1"),
        (&["-i", "a.png", "--strength", "0.1"], "leaves none of 6 steps"),
        (&["-i", "a.png", "-W", "17"], "multiple"),
        (&["-i", "a.png", "-W", "1000000"], "is not possible with this model"),
        (&["--strength", "0.5"], "--init-img"),
    ] {
        let refused = tiny(&folder, &[arguments, &["-o", "x.png"]].concat());
        assert!(refused.refused(2).contains(expected), "{arguments:?}: {}", refused.stderr);
    }
    assert!(!folder.path("x.png").exists());
}
