//! Learned routers: trained, shipped and refused.

use crate::support::{Folder, pixels, tiny, tiny_model};

#[test]
fn a_built_in_router_computes_its_budget_and_is_made_again() {
    let folder = Folder::new();
    let line = ["gen", "image", "-p", "pizza", "-s", "1", "--steps", "10", "-o", "x.png"];
    let routed =
        [&line[..], &["--cache", "router", "--cache-option", "budget=0.6", "--emit-plan", "x.plan.safetensors"]];
    folder.run(&routed.concat()).succeeded();
    let plan = folder.run(&["inspect", "x.plan.safetensors", "--json"]).succeeded().text();
    let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
    assert_eq!(plan["computed_share"].as_f64().unwrap(), 0.6);
    folder.run(&["gen", "image", "--from", "x.png", "-o", "again.png"]).succeeded();
    assert_eq!(folder.read("x.png"), folder.read("again.png"));
}

#[test]
fn a_run_without_router_says_which_there_are() {
    let folder = Folder::new();
    let outcome = tiny(&folder, &["--cache", "router", "-o", "x.png"]);
    let line = outcome.refused(2);
    assert!(line.contains("none was trained") && line.contains("ddim 20 steps"), "{line}");
    let outcome = tiny(&folder, &["--cache", "router", "--cache-option", "budget=2", "-o", "x.png"]);
    assert!(outcome.refused(2).contains("budget"));
    assert!(folder.names().is_empty(), "{:?}", folder.names());
}

#[test]
fn both_methods_train_plans_that_replay() {
    let folder = Folder::new();
    let model = tiny_model();
    let model = model.to_str().unwrap();
    let run = ["-m", model, "--steps", "6", "--cfg-scale", "2"];
    let train = [&["train", "router", "-p", "a", "-p", "b c", "-o", "r-{budget}.plan.safetensors"][..], &run].concat();
    for (options, names) in [
        (&["--budgets", "0.7,0.5"][..], &["r-0.7.plan.safetensors", "r-0.5.plan.safetensors"][..]),
        (&["--budget", "0.6", "--method", "harmonica", "--iterations", "10"], &["r-0.6.plan.safetensors"]),
    ] {
        folder.run(&[&train[..], options].concat()).succeeded();
        for name in names {
            let line = [&["gen", "image", "-p", "x", "-s", "0", "--cache", name, "-o", "x.png"][..], &run].concat();
            folder.run(&line).succeeded();
            pixels(&folder.read("x.png"));
        }
    }
    let again = std::fs::read(folder.path("r-0.5.plan.safetensors")).unwrap();
    folder.run(&[&train[..], &["--budgets", "0.7,0.5"]].concat()).succeeded();
    assert_eq!(again, folder.read("r-0.5.plan.safetensors"), "training is deterministic");
}

#[test]
fn training_refuses_before_it_works() {
    let folder = Folder::new();
    for (arguments, word) in [
        (&["--budget", "0"][..], "--budget"),
        (&["--budget", "1.5"], "--budget"),
        (&["--budgets", "0.5,0.6", "-o", "one.plan.safetensors"], "{budget}"),
        (&["--proxy", "telescope", "--method", "harmonica"], "telescoping"),
        (&["--forecast", "3"], "forecast"),
        (&["--steps", "0"], "steps"),
    ] {
        let line = [&["train", "router", "-p", "x"][..], arguments].concat();
        let outcome = folder.run(&line);
        let line = outcome.refused(2);
        assert!(line.contains(word), "{line}");
    }
    assert!(folder.names().is_empty(), "{:?}", folder.names());
}
