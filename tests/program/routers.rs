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
        (
            &["--budget", "0.6", "--method", "harmonica", "--cost", "flops", "--iterations", "10"],
            &["r-0.6.plan.safetensors"],
        ),
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
        (&["--forecast", "4"], "forecast"),
        (&["--steps", "0"], "steps"),
    ] {
        let line = [&["train", "router", "-p", "x"][..], arguments].concat();
        let outcome = folder.run(&line);
        let line = outcome.refused(2);
        assert!(line.contains(word), "{line}");
    }
    assert!(folder.names().is_empty(), "{:?}", folder.names());
}

/// `train router --method harmonica` on the tiny model with these further arguments.
fn harmonica(folder: &Folder, arguments: &[&str]) -> crate::support::Outcome {
    let model = tiny_model();
    let base = ["train", "router", "--method", "harmonica", "-m", model.to_str().unwrap(), "-p", "a", "-p", "b c"];
    let run = ["--steps", "5", "--cfg-scale", "2", "--cost", "flops", "-o", "r.safetensors"];
    folder.run(&[&base[..], &run, arguments].concat())
}

#[test]
fn a_training_leaves_a_checkpoint_and_curves_and_goes_on_bit_for_bit() {
    let folder = Folder::new();
    let made = harmonica(&folder, &["--iterations", "40", "--forecast", "2", "--budget", "0.6"]).succeeded();
    assert!(made.stderr.contains("budget 0.6 of flops") && made.stderr.contains("CUR"), "{}", made.stderr);
    let expected = folder.read("r.safetensors");
    assert_eq!(
        folder.names(),
        ["r.checkpoint.safetensors", "r.curves.csv", "r.curves.png", "r.safetensors"],
        "no temporary files"
    );
    let table = String::from_utf8(folder.read("r.curves.csv")).unwrap();
    assert!(table.starts_with("iteration,loss,") && table.lines().last().unwrap().starts_with("40,"), "{table}");
    assert!(pixels(&folder.read("r.curves.png")).len() > 10_000);

    let other = Folder::new();
    harmonica(&other, &["--iterations", "17", "--forecast", "2", "--budget", "0.6"]).succeeded();
    let made = harmonica(&other, &["--iterations", "40", "--forecast", "2", "--budget", "0.6", "--resume"]).succeeded();
    assert!(made.stderr.contains("going on after"), "{}", made.stderr);
    assert!(other.read("r.safetensors") == expected, "resumed and uninterrupted routers differ");

    let line = harmonica(&other, &["--iterations", "40", "--budget", "0.5", "--forecast", "2", "--resume"]);
    assert!(line.refused(2).contains("budgets is [0.6], not [0.5]"), "{}", line.stderr);
    other.write("r.checkpoint.safetensors", "no checkpoint");
    harmonica(&other, &["--resume"]).refused(2);
    std::fs::remove_file(other.path("r.checkpoint.safetensors")).unwrap();
    assert!(harmonica(&other, &["--resume"]).refused(2).contains("cannot read"));
    assert!(other.read("r.safetensors") == expected);
}

#[test]
fn one_training_gives_a_plan_for_each_budget() {
    let folder = Folder::new();
    let model = tiny_model();
    let base = ["train", "router", "--method", "harmonica", "-m", model.to_str().unwrap(), "-p", "a", "--steps", "5"];
    let run =
        ["--iterations", "12", "--budgets", "0.8,0.6,0.5", "--cost", "flops", "-o", "r-{budget}.plan.safetensors"];
    folder.run(&[&base[..], &run].concat()).succeeded();
    let shares = ["0.8", "0.6", "0.5"].map(|budget| {
        let plan = folder.run(&["inspect", &format!("r-{budget}.plan.safetensors"), "--json"]).succeeded().text();
        let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
        let provenance = plan["header"]["provenance"].as_str().unwrap();
        assert!(provenance.contains("lambda leave-one-out") && provenance.contains("forecast 1"), "{provenance}");
        plan["computed_share"].as_f64().unwrap()
    });
    assert!(shares[0] > shares[1] && shares[1] > shares[2], "{shares:?}");
}

/// Bytes that a training of the built-in model held at most, as it says itself.
fn peak(said: &str) -> f64 {
    let text = said.split("at most ").nth(1).unwrap();
    let (number, rest) = text.split_once(' ').unwrap();
    number.parse::<f64>().unwrap() * if rest.starts_with("GiB") { 1024.0 } else { 1.0 }
}

#[cfg(target_os = "linux")]
#[test]
fn recomputing_blocks_takes_less_memory_and_decides_the_same() {
    let folder = Folder::new();
    let trained = |name: &str, more: &[&str]| {
        let line = ["train", "router", "--method", "harmonica", "-p", "pizza", "--steps", "4", "--iterations", "3"];
        let rest = ["--proxy", "uniform", "--cost", "flops", "--budget", "0.7", "-o", name];
        let said = folder.run(&[&line[..], &rest, more].concat()).succeeded().stderr;
        let plan = folder.run(&["inspect", name, "--json"]).succeeded().text();
        let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
        let actions: Vec<_> = plan["sites"].as_array().unwrap().iter().map(|site| site["actions"].clone()).collect();
        (peak(&said), actions)
    };
    let (whole, decided) = trained("whole.plan.safetensors", &[]);
    let (less, again) = trained("blocks.plan.safetensors", &["--recompute"]);
    assert_eq!(decided, again);
    assert!(less < 0.8 * whole, "{less} MiB block by block, {whole} MiB with the whole tape");
}

#[test]
fn a_loss_that_is_no_number_is_one_line_and_writes_nothing() {
    let folder = Folder::new();
    folder.write("r.safetensors", "an earlier router");
    let outcome = harmonica(&folder, &["--iterations", "40", "--learning-rate", "1e300", "-q"]);
    assert!(outcome.refused(1).contains("not finite"), "{}", outcome.stderr);
    assert_eq!(folder.read("r.safetensors"), b"an earlier router");
    let outcome = harmonica(&folder, &["--budget", "0.01", "-q"]);
    assert!(outcome.refused(2).contains("out of reach"), "{}", outcome.stderr);
    assert_eq!(folder.names(), ["r.safetensors"]);
}

#[cfg(unix)]
#[test]
fn an_interrupt_keeps_a_checkpoint_that_goes_on() {
    use std::io::{BufRead as _, BufReader, Read as _};
    let folder = Folder::new();
    let model = tiny_model();
    let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin!("refrain"))
        .current_dir(folder.path(""))
        .args(["train", "router", "--method", "harmonica", "-m", model.to_str().unwrap(), "-p", "a", "-p", "b c"])
        .args(["--steps", "5", "--cfg-scale", "2", "--cost", "flops", "--iterations", "1000000", "-o", "r.safetensors"])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains(" of 1000000: loss") {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "training ended by itself");
    }
    let id = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest}");
    assert!(rest.contains("r.checkpoint.safetensors is kept"), "{rest}");
    assert_eq!(folder.names(), ["r.checkpoint.safetensors", "r.curves.csv", "r.curves.png"]);
    harmonica(&folder, &["--iterations", "8", "--resume"]).succeeded();
    assert!(folder.names().contains(&"r.safetensors".to_owned()));
}
