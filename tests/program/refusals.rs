//! Bad input: one clear line on stderr, the right exit code, no partial file.

use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::support::{Folder, copy_folder, tiny, tiny_model};

const WEIGHTS: &str = "transformer/diffusion_pytorch_model.safetensors";

#[test]
fn prompts_that_ask_for_nothing_or_could_do_harm() {
    let folder = Folder::new();
    for (prompt, expected) in [("", "empty"), (" \n", "empty"), ("a\u{1b}[31mfox", "U+001B"), ("fox\u{7}", "U+0007")] {
        let line = tiny(&folder, &["-p", prompt]);
        assert!(line.refused(2).contains(expected), "{}", line.stderr);
    }
    let line = tiny(&folder, &["-n", "a\u{8}"]);
    assert!(line.refused(2).contains("negative prompt"), "{}", line.stderr);
    let line = folder.run(&["gen", "image"]);
    assert!(line.refused(2).contains("-p"), "{}", line.stderr);
    folder.write("latin1.txt", b"caf\xe9\n");
    let line = folder.run(&["gen", "image", "--prompt-file", "latin1.txt"]);
    assert!(line.refused(2).contains("UTF-8"), "{}", line.stderr);
    assert_eq!(folder.names(), ["latin1.txt"]);
}

#[test]
fn prompts_that_the_model_reads_in_part_are_drawn_with_a_warning() {
    let folder = Folder::new();
    for prompt in ["fox ".repeat(2500), "\u{1F98A}\u{1F355}".to_owned()] {
        let made = tiny(&folder, &["-p", &prompt, "-o", "x.png"]).succeeded();
        let warnings = made.stderr.lines().filter(|line| line.starts_with("refrain: warning: ")).count();
        assert_eq!(warnings, 1, "{}", made.stderr);
    }
}

#[test]
fn numbers_that_make_no_sense() {
    let folder = Folder::new();
    for (arguments, expected) in [
        (&["--steps", "0"][..], "--steps"),
        (&["--steps", "1001"], "1000"),
        (&["--steps", "-3"], "--steps"),
        (&["-W", "0"], "--width"),
        (&["-W", "17"], "multiple"),
        (&["-H", "6"], "multiple"),
        (&["-W", "1000000"], "width"),
        (&["--cfg-scale", "nan"], "--cfg-scale"),
        (&["--cfg-scale", "-1"], "--cfg-scale"),
        (&["--eta", "2"], "--eta"),
        (&["-b", "0"], "--batch-count"),
        (&["-b", "99999999"], "--batch-count"),
        (&["-t", "0"], "--threads"),
        (&["-s", "9223372036854775807", "-b", "2"], "--seed"),
        (&["--device", "cuda"], "cpu"),
        (&["--sampling-method", "euler_flow"], "flow"),
        (&["--preview", "proj", "--preview-interval", "0"], "--preview-interval"),
        (&["--preview-path", "x.png"], "--preview"),
        (&["--cache-check"], "--cache"),
        (&["--json", "-o", "-"], "--json"),
    ] {
        let line = tiny(&folder, arguments);
        assert!(line.refused(2).contains(expected), "{arguments:?}: {}", line.stderr);
    }
    assert_eq!(folder.names(), Vec::<String>::new());
}

#[test]
fn policies_and_options_that_do_not_exist() {
    let folder = Folder::new();
    folder.write("text.plan.safetensors", "no plan");
    for (cache, code, expected) in [
        ("tailor", 2, "taylor"),
        ("taylor:m=2", 2, "n"),
        ("taylor:n=zero", 2, "n"),
        ("missing.safetensors", 2, "missing.safetensors"),
        ("text.plan.safetensors", 1, "not a valid plan"),
    ] {
        let line = tiny(&folder, &["--cache", cache]);
        assert!(line.refused(code).contains(expected), "{cache}: {}", line.stderr);
    }
    assert_eq!(folder.names(), ["text.plan.safetensors"]);
}

#[test]
fn outputs_that_cannot_be_written() {
    let folder = Folder::new();
    folder.write("file", "");
    std::fs::create_dir(folder.path("dir.png")).unwrap();
    for (output, code, expected) in [
        ("file/x.png", 3, "file"),
        ("x.bmp", 2, ".bmp"),
        ("%d-%d.png", 2, "%d"),
        ("%s.png", 2, "%d"),
        ("", 2, "--output"),
    ] {
        let line = tiny(&folder, &["-o", output]);
        assert!(line.refused(code).contains(expected), "{output}: {}", line.stderr);
    }
    let line = tiny(&folder, &["-o", "-", "-b", "2"]);
    assert!(line.refused(2).contains("pattern"), "{}", line.stderr);
    assert_eq!(folder.names(), ["dir.png", "file"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_and_an_unwritable_folder() {
    let folder = Folder::new();
    let line = tiny(&folder, &["-o", "/dev/full"]);
    assert!(line.refused(3).contains("full"), "{}", line.stderr);
    let line = tiny(&folder, &["-o", "/proc/x.png"]);
    assert!(line.refused(3).contains("/proc"), "{}", line.stderr);
    tiny(&folder, &["-o", "/dev/null"]).succeeded();
    assert!(!Path::new("/dev/null").is_file());
    assert_eq!(folder.names(), Vec::<String>::new());
}

/// The tiny model in a folder of its own, with one file replaced.
fn broken(folder: &Folder, file: &str, content: Option<Vec<u8>>) -> PathBuf {
    let model = folder.path("model");
    let _ = std::fs::remove_dir_all(&model);
    copy_folder(&tiny_model(), &model);
    let path = model.join(file);
    match content {
        Some(content) => std::fs::write(path, content).unwrap(),
        None => std::fs::remove_file(path).unwrap(),
    }
    model
}

fn refusal(folder: &Folder, file: &str, content: Option<Vec<u8>>) -> String {
    broken(folder, file, content);
    let line = folder.run(&["gen", "image", "-m", "model", "-p", "fox", "--steps", "2", "-o", "x.png"]);
    let text = line.refused(1).to_owned();
    assert_eq!(folder.names(), ["model"]);
    text
}

/// The weights with one tensor changed or left out.
fn with_tensor(change: impl Fn(&str, TensorView<'_>) -> Option<(Dtype, Vec<usize>, Vec<u8>)>) -> (String, Vec<u8>) {
    let bytes = std::fs::read(tiny_model().join(WEIGHTS)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut names: Vec<String> = file.names().into_iter().map(str::to_owned).collect();
    names.sort();
    let victim = names.iter().find(|name| name.ends_with("ff.net.0.proj.weight")).unwrap().clone();
    let mut kept = Vec::new();
    for name in names {
        let view = file.tensor(&name).unwrap();
        if name == victim {
            kept.extend(change(&name, view).map(|changed| (name, changed)));
        } else {
            kept.push((name, (view.dtype(), view.shape().to_vec(), view.data().to_vec())));
        }
    }
    let views =
        kept.iter().map(|(name, (dtype, shape, data))| (name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    (victim, safetensors::serialize(views, None).unwrap())
}

#[test]
fn models_with_a_missing_misshapen_or_mistyped_tensor() {
    let folder = Folder::new();
    let (name, missing) = with_tensor(|_, _| None);
    let line = refusal(&folder, WEIGHTS, Some(missing));
    assert!(line.contains(&name) && line.contains("missing"), "{line}");
    let (name, misshapen) = with_tensor(|_, view| {
        let mut shape = view.shape().to_vec();
        shape.reverse();
        Some((view.dtype(), shape, view.data().to_vec()))
    });
    let line = refusal(&folder, WEIGHTS, Some(misshapen));
    assert!(line.contains(&name) && line.contains("expected"), "{line}");
    let (name, mistyped) = with_tensor(|_, view| Some((Dtype::I16, view.shape().to_vec(), view.data().to_vec())));
    let line = refusal(&folder, WEIGHTS, Some(mistyped));
    assert!(line.contains(&name) && line.to_lowercase().contains("i16"), "{line}");
}

#[test]
fn models_with_damaged_files() {
    let folder = Folder::new();
    let whole = std::fs::read(tiny_model().join(WEIGHTS)).unwrap();
    let mut huge = (2u64 << 30).to_le_bytes().to_vec();
    huge.extend_from_slice(b"{}");
    let mut overflowing = u64::MAX.to_le_bytes().to_vec();
    overflowing.extend_from_slice(b"{}");
    for (what, content) in [
        ("truncated", whole[..whole.len() / 2].to_vec()),
        ("empty", Vec::new()),
        ("header of 2 GB", huge),
        ("header beyond all numbers", overflowing),
        ("pointer of a large file store", b"version https://git-lfs.github.com/spec/v1\n".to_vec()),
    ] {
        let line = refusal(&folder, WEIGHTS, Some(content));
        assert!(line.contains("safetensors"), "{what}: {line}");
    }
    for (file, content) in [
        ("model_index.json", Some(b"{".to_vec())),
        ("model_index.json", None),
        ("transformer/config.json", Some(b"[]".to_vec())),
        ("transformer/config.json", None),
        ("tokenizer/tokenizer.json", Some(b"{}".to_vec())),
        ("scheduler/scheduler_config.json", Some(b"no json".to_vec())),
        ("vae/diffusion_pytorch_model.safetensors", None),
    ] {
        let line = refusal(&folder, file, content);
        let name = file.rsplit('/').next().unwrap();
        assert!(line.contains(name) || line.contains(file.split('/').next().unwrap()), "{file}: {line}");
    }
}

#[test]
fn weights_that_are_no_numbers_name_the_step() {
    let folder = Folder::new();
    let (_, poisoned) = with_tensor(|_, view| {
        // Half-precision NaN, little end first.
        let nan = view.data().chunks_exact(2).flat_map(|_| [0x00, 0x7e]).collect();
        Some((Dtype::F16, view.shape().to_vec(), nan))
    });
    let line = refusal(&folder, WEIGHTS, Some(poisoned));
    assert!(line.contains("not finite") && line.contains("step 1"), "{line}");
}

#[test]
fn models_that_are_not_there() {
    let folder = Folder::new();
    folder.write("file", "");
    for model in ["nowhere", "file"] {
        let line = folder.run(&["gen", "image", "-m", model, "-p", "fox"]);
        assert!(line.refused(2).contains(model), "{}", line.stderr);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn too_little_memory_is_found_out_before_it_is_gone() {
    let folder = Folder::new();
    let program = assert_cmd::cargo::cargo_bin!("refrain");
    let line = "ulimit -v 4194304; exec \"$0\" gen image -p fox -W 8192 -H 8192 -o x.png";
    let output =
        std::process::Command::new("sh").args(["-c", line]).arg(program).current_dir(folder.path("")).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("memory") && stderr.lines().count() == 1, "{stderr}");
    assert_eq!(folder.names(), Vec::<String>::new());
}
