//! Policies, plans and reports.

use crate::support::{Folder, pixels, tiny};

/// One of each policy, with options that skip something within six steps.
const POLICIES: [&str; 6] = [
    "interval:n=2",
    "mask:1,1,0,1,0,1",
    "dbcache:threshold=10",
    "taylor:n=2",
    "easycache:threshold=10",
    "interval:n=3",
];

#[test]
fn an_emitted_plan_replays_to_the_same_pixels() {
    let folder = Folder::new();
    tiny(&folder, &["-o", "off.png"]).succeeded();
    let off = pixels(&folder.read("off.png"));
    for policy in POLICIES {
        tiny(&folder, &["--cache", policy, "--emit-plan", "x.plan.safetensors", "-o", "live.png"]).succeeded();
        tiny(&folder, &["--cache", "x.plan.safetensors", "-o", "replayed.png"]).succeeded();
        for spelt in ["plan:x.plan.safetensors", "plan:file=x.plan.safetensors"] {
            tiny(&folder, &["--cache", spelt, "-o", "spelt.png"]).succeeded();
            assert_eq!(folder.read("spelt.png"), folder.read("replayed.png"), "{policy}, {spelt}");
        }
        assert_eq!(pixels(&folder.read("live.png")), pixels(&folder.read("replayed.png")), "{policy}");
        assert_ne!(pixels(&folder.read("live.png")), off, "{policy} skipped nothing");
        // The picture carries its plan: the file is not needed to make it again.
        std::fs::remove_file(folder.path("x.plan.safetensors")).unwrap();
        let model = crate::support::tiny_model();
        let line = ["gen", "image", "--from", "replayed.png", "-o", "again.png", "-m", model.to_str().unwrap()];
        folder.run(&line).succeeded();
        assert_eq!(folder.read("again.png"), folder.read("replayed.png"), "{policy}");
    }
}

#[test]
fn a_policy_that_never_skips_changes_nothing() {
    let folder = Folder::new();
    tiny(&folder, &["-o", "off.png"]).succeeded();
    let off = pixels(&folder.read("off.png"));
    for policy in ["off", "auto", "interval:n=1", "easycache:threshold=0"] {
        tiny(&folder, &["--cache", policy, "-o", "x.png"]).succeeded();
        assert_eq!(pixels(&folder.read("x.png")), off, "{policy}");
    }
}

#[test]
fn options_are_spelled_apart_or_together() {
    let folder = Folder::new();
    tiny(&folder, &["--cache", "taylor:n=3+order=2", "-o", "a.png"]).succeeded();
    tiny(&folder, &["--cache", "taylor", "--cache-option", "n=3,order=2", "-o", "b.png"]).succeeded();
    tiny(&folder, &["--cache", "taylor", "--cache-option", "n=3", "--cache-option", "order=2", "-o", "c.png"])
        .succeeded();
    assert_eq!(folder.read("a.png"), folder.read("b.png"));
    assert_eq!(folder.read("a.png"), folder.read("c.png"));
}

#[test]
fn the_report_says_what_was_skipped() {
    let folder = Folder::new();
    let made = tiny(&folder, &["--cache", "interval:n=2", "--cache-report", "-o", "x.png"]).succeeded();
    for word in ["computed", "reused", "attention", "feed-forward", "predicted", "features"] {
        assert!(made.stderr.contains(word), "{word}: {}", made.stderr);
    }
    let made = tiny(&folder, &["--cache", "dbcache:threshold=0", "-o", "x.png"]).succeeded();
    assert!(made.stderr.contains("inert"), "{}", made.stderr);
}

#[test]
fn checks_measure_the_error_and_fall_back_beyond_the_budget() {
    let folder = Folder::new();
    let line = ["--cache", "interval:n=5", "--steps", "12", "-o", "x.png"];
    let made = tiny(&folder, &[&line[..], &["--cache-check=4"]].concat()).succeeded();
    assert!(made.stderr.contains("checked") && made.stderr.contains("relative error"), "{}", made.stderr);
    let strict = ["--cache-check=4", "--cache-budget", "0.000001"];
    let made = tiny(&folder, &[&line[..], &strict[..]].concat()).succeeded();
    assert!(made.stderr.contains("full compute"), "{}", made.stderr);
}

#[test]
fn a_plan_for_another_run_is_refused() {
    let folder = Folder::new();
    tiny(&folder, &["--cache", "taylor", "--emit-plan", "p.safetensors", "-o", "x.png"]).succeeded();
    let line = tiny(&folder, &["--cache", "p.safetensors", "--steps", "7", "-o", "y.png"]);
    assert!(line.refused(2).contains("steps is 6 in the plan and 7 here"), "{}", line.stderr);
    let line = tiny(&folder, &["--cache", "p.safetensors", "--sampling-method", "euler", "-o", "y.png"]);
    assert!(line.refused(2).contains("sampler is ddim in the plan and euler here"), "{}", line.stderr);
    let line = folder.run(&["gen", "image", "-p", "fox", "--steps", "6", "--cache", "p.safetensors", "-o", "y.png"]);
    assert!(line.refused(2).contains("model"), "{}", line.stderr);
    assert_eq!(folder.names(), ["p.safetensors", "x.png"]);
}

#[test]
fn a_plan_serves_weights_of_any_precision() {
    let folder = Folder::new();
    tiny(&folder, &["--cache", "taylor", "--emit-plan", "p.safetensors", "-o", "x.png"]).succeeded();
    for dtype in ["bf16", "int8"] {
        tiny(&folder, &["--cache", "taylor", "--dtype", dtype, "-o", "live.png"]).succeeded();
        tiny(&folder, &["--cache", "p.safetensors", "--dtype", dtype, "-o", "planned.png"]).succeeded();
        assert_eq!(pixels(&folder.read("planned.png")), pixels(&folder.read("live.png")), "{dtype}");
    }
}
