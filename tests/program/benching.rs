//! `bench cache`: its table, plot and refusals.

use crate::support::{Folder, pixels, tiny_model};

#[test]
fn a_bench_writes_its_table_plot_and_pictures() {
    let folder = Folder::new();
    folder.write("prompts.txt", "red fox\nblue moon\n");
    let model = tiny_model();
    let policies = "off,interval:n=2,dbcache:threshold=0.1+warmup=2,taylor:n=2,easycache,steps:3";
    let line =
        ["bench", "cache", "--prompt-file", "prompts.txt", "--policies", policies, "--seeds", "2", "--steps", "6"];
    let made = folder.run(&[&line[..], &["-m", model.to_str().unwrap(), "-o", "out"]].concat()).succeeded();
    assert!(made.text().contains("| taylor:n=2 |"), "{}", made.text());
    let table: serde_json::Value = serde_json::from_slice(&folder.read("out/table.json")).unwrap();
    let rows = table["rows"].as_array().unwrap();
    let names: Vec<&str> = rows.iter().map(|row| row["policy"].as_str().unwrap()).collect();
    for policy in policies.split(',') {
        assert!(names.contains(&policy), "{policy}: {names:?}");
    }
    for row in rows {
        for key in
            ["seconds_per_image", "speedup", "computed_share", "flops_share", "psnr", "ssim", "rel_l2", "feature_bytes"]
        {
            assert!(row[key].is_number(), "{key}: {row}");
        }
        assert_eq!(row["images"], 4);
    }
    let row = |name: &str| rows.iter().find(|row| row["policy"] == name).unwrap();
    assert_eq!((row("off")["psnr"].as_f64(), row("off")["ssim"].as_f64()), (Some(100.0), Some(1.0)));
    assert_eq!(row("off")["flops_share"], 1.0);
    assert_eq!(row("steps:3")["flops_share"], 0.5);
    assert!(row("interval:n=2")["flops_share"].as_f64().unwrap() < 0.9);
    assert!(row("taylor:n=2")["feature_bytes"].as_u64().unwrap() > 0);
    assert_eq!(folder.read("out/table.csv").iter().filter(|&&byte| byte == b'\n').count(), rows.len() + 1);
    assert!(String::from_utf8(folder.read("out/table.md")).unwrap().contains("2 prompts"));
    assert!(pixels(&folder.read("out/plot.png")).len() > 100_000);
    assert!(pixels(&folder.read("out/pictures.png")).len() > 100_000);
}

#[test]
fn a_bench_that_makes_no_sense_is_refused() {
    let folder = Folder::new();
    for (arguments, expected) in [
        (&["--policies", "nonsense"][..], "nonsense"),
        (&["--policies", "steps:0"], "steps:0"),
        (&["--policies", "off,,"], "empty"),
        (&["--seeds", "0"], "--seeds"),
        (&["--device", "cuda"], "cpu"),
    ] {
        let line = folder.run(&[&["bench", "cache", "-p", "fox"][..], arguments].concat());
        assert!(line.refused(2).contains(expected), "{}", line.stderr);
    }
    assert!(folder.run(&["bench", "cache"]).refused(2).contains("--prompt-file"));
}
