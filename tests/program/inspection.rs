//! `inspect`: models and plans.

use crate::support::{Folder, pixels, tiny, tiny_model};

#[test]
fn a_model_lists_its_sites_with_their_costs() {
    let folder = Folder::new();
    let text = folder.run(&["inspect", "builtin"]).succeeded().text();
    for expected in ["12 blocks", "0.attention", "11.feed-forward", "3.cross-attention", "cacheable"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    let model = tiny_model();
    let json = folder.run(&["inspect", model.to_str().unwrap(), "--json"]).succeeded().text();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let sites = json["sites"].as_array().unwrap();
    assert_eq!((json["blocks"].as_u64().unwrap(), sites.len()), (2, 6));
    let sum: u64 = sites.iter().map(|site| site["flops"].as_u64().unwrap()).sum();
    assert!(sum > 0 && sum < json["flops"].as_u64().unwrap());
    assert!(sites.iter().all(|site| site["parameters"].as_u64().unwrap() > 0));
}

#[test]
fn a_plan_is_drawn_as_steps_by_sites() {
    let folder = Folder::new();
    tiny(&folder, &["--cache", "taylor:n=2", "--emit-plan", "p.plan.safetensors", "-o", "x.png"]).succeeded();
    let text = folder.run(&["inspect", "p.plan.safetensors"]).succeeded().text();
    for expected in ["taylor", "1.feed-forward", "forecast", "6 evaluations"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    folder.run(&["inspect", "p.plan.safetensors", "-o", "heat.png"]).succeeded();
    assert!(pixels(&folder.read("heat.png")).len() > 10_000);
    folder.run(&["inspect", "p.plan.safetensors", "-o", "heat.svg"]).succeeded();
    assert!(String::from_utf8(folder.read("heat.svg")).unwrap().contains("1.feed-forward"));
    let json = folder.run(&["inspect", "p.plan.safetensors", "--json"]).succeeded().text();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["steps"], 6);
}

#[test]
fn what_is_neither_is_refused() {
    let folder = Folder::new();
    folder.write("text", "neither");
    folder.run(&["inspect", "missing"]).refused(2);
    folder.run(&["inspect", "text"]).refused(1);
    folder.run(&["inspect", "builtin", "-o", "x.png"]).refused(2);
    folder.run(&["inspect", "builtin", "-W", "100"]).refused(2);
}
