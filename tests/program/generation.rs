//! Pictures: what a call writes, and that neither the batch nor the threads change a bit of it.

use crate::support::{Folder, class_model, pixels, tensor, tiny, tiny_model};

#[test]
fn the_built_in_model_needs_no_flag_and_says_where_the_picture_is() {
    let folder = Folder::new();
    let made = folder.run(&["gen", "image", "-p", "a red fox on a blue background", "--steps", "2"]).succeeded();
    let name = "a-red-fox-on-a-blue-background.png";
    assert_eq!(folder.names(), [name]);
    assert!(made.text().starts_with(name), "{}", made.text());
    assert!(made.stderr.contains("seed"), "{}", made.stderr);
    assert_eq!(pixels(&folder.read(name)).len(), 128 * 128 * 3);
}

#[test]
fn a_picture_of_a_batch_equals_the_picture_alone() {
    let folder = Folder::new();
    tiny(&folder, &["-b", "3", "-o", "batch-%d.png"]).succeeded();
    for (seed, name) in [("7", "batch-1.png"), ("8", "batch-2.png"), ("9", "batch-3.png")] {
        tiny(&folder, &["-s", seed, "-o", "alone.png"]).succeeded();
        assert_eq!(folder.read("alone.png"), folder.read(name), "{name}");
    }
}

#[test]
fn several_prompts_are_one_batch() {
    let folder = Folder::new();
    tiny(&folder, &["-p", "dog", "-p", "cat", "-o", "x.png"]).succeeded();
    assert_eq!(folder.names(), ["x-001.png", "x-002.png"]);
    tiny(&folder, &["-p", "cat", "-s", "8", "-o", "cat.png"]).succeeded();
    assert_eq!(folder.read("cat.png"), folder.read("x-002.png"));
}

#[test]
fn prompts_come_from_files_and_standard_input() {
    let folder = Folder::new();
    folder.write("prompts.txt", "# two\ndog\n\ncat\n");
    tiny(&folder, &["-p", "dog", "-p", "cat", "-o", "a.png"]).succeeded();
    let model = tiny_model();
    let base = ["gen", "image", "-m", model.to_str().unwrap(), "-s", "7", "--steps", "6"];
    folder.run(&[&base[..], &["--prompt-file", "prompts.txt", "-o", "b.png"]].concat()).succeeded();
    folder.run_with_stdin(&[&base[..], &["-p", "-", "-o", "c.png"]].concat(), "dog\ncat\n").succeeded();
    for number in ["001", "002"] {
        let wanted = folder.read(&format!("a-{number}.png"));
        assert_eq!(folder.read(&format!("b-{number}.png")), wanted);
        assert_eq!(folder.read(&format!("c-{number}.png")), wanted);
    }
}

#[test]
fn threads_change_nothing() {
    let folder = Folder::new();
    for dtype in ["f32", "bf16", "int8"] {
        for threads in ["1", "2", "3"] {
            let name = format!("{dtype}-{threads}.png");
            tiny(&folder, &["-t", threads, "--dtype", dtype, "--cache", "taylor", "-o", &name]).succeeded();
            assert_eq!(folder.read(&name), folder.read(&format!("{dtype}-1.png")), "{name}");
        }
    }
    for threads in ["1", "3"] {
        let line = ["gen", "image", "-p", "pizza", "-s", "1", "--steps", "2", "-t", threads, "-o"];
        folder.run(&[&line[..], &[&format!("built-in-{threads}.png")]].concat()).succeeded();
    }
    assert_eq!(folder.read("built-in-1.png"), folder.read("built-in-3.png"));
}

#[test]
fn noise_in_and_tensors_out() {
    let folder = Folder::new();
    tiny(&folder, &["-b", "2", "-o", "seeded.safetensors"]).succeeded();
    let seeded = folder.read("seeded.safetensors");
    let (shape, latents) = tensor(&seeded, "latents");
    assert_eq!(shape, [2, 4, 8, 8]);
    let (shape, image) = tensor(&seeded, "image");
    assert_eq!(shape, [2, 3, 16, 16]);
    assert!(image.iter().all(|value| (0.0..=1.0).contains(value)));

    let noise: Vec<f32> = [7, 8].iter().flat_map(|&seed| noise(seed)).collect();
    let bytes: Vec<u8> = noise.iter().flat_map(|value| value.to_le_bytes()).collect();
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![2, 4, 8, 8], &bytes).unwrap();
    folder.write("noise.safetensors", safetensors::serialize([("latents", view)], None).unwrap());
    tiny(&folder, &["-b", "2", "--latents", "noise.safetensors", "-o", "given.safetensors"]).succeeded();
    assert_eq!(tensor(&folder.read("given.safetensors"), "latents").1, latents);

    let line = tiny(&folder, &["-b", "3", "--latents", "noise.safetensors", "-o", "x.png"]);
    assert!(line.refused(2).contains("holds 2 latents"), "{}", line.stderr);
}

fn noise(seed: u64) -> Vec<f32> {
    let noise = refrain_samplers::noise::counter(seed, &[1, 4, 8, 8]).unwrap();
    noise.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn the_torch_generator_makes_another_picture() {
    let folder = Folder::new();
    tiny(&folder, &["-o", "ours.png"]).succeeded();
    tiny(&folder, &["--rng", "torch", "-o", "torch.png"]).succeeded();
    assert_ne!(pixels(&folder.read("ours.png")), pixels(&folder.read("torch.png")));
}

#[test]
fn a_picture_goes_to_standard_output_unharmed() {
    let folder = Folder::new();
    let made = tiny(&folder, &["-o", "-"]).succeeded();
    tiny(&folder, &["-o", "file.png"]).succeeded();
    assert_eq!(made.stdout, folder.read("file.png"));
    assert!(made.stderr.contains("seed 7"), "{}", made.stderr);
}

#[test]
fn nothing_is_written_over_without_being_named() {
    let folder = Folder::new();
    for _ in 0..3 {
        tiny(&folder, &[]).succeeded();
    }
    assert_eq!(folder.names(), ["a-red-fox-2.png", "a-red-fox-3.png", "a-red-fox.png"]);
    tiny(&folder, &["-o", "new/folder/"]).succeeded();
    tiny(&folder, &["-o", "new/folder"]).succeeded();
    assert!(folder.path("new/folder/a-red-fox-2.png").exists());
}

#[test]
fn a_random_seed_is_printed_and_makes_the_same_picture_again() {
    let folder = Folder::new();
    let made = tiny(&folder, &["-s", "-1", "-o", "random.png"]).succeeded();
    let (_, rest) = made.stderr.split_once("seed ").unwrap();
    let seed: String = rest.chars().take_while(char::is_ascii_digit).collect();
    tiny(&folder, &["-s", &seed, "-o", "again.png"]).succeeded();
    assert_eq!(folder.read("random.png"), folder.read("again.png"));
}

#[test]
fn previews_are_kept_in_a_file() {
    let folder = Folder::new();
    for mode in ["proj", "vae"] {
        tiny(&folder, &["--preview", mode, "--preview-path", "preview.png", "-o", "x.png"]).succeeded();
        assert!(pixels(&folder.read("preview.png")).len() >= 128 * 128 * 3, "{mode}");
    }
    tiny(&folder, &["-o", "plain.png"]).succeeded();
    assert_eq!(folder.read("x.png"), folder.read("plain.png"));
}

#[cfg(unix)]
#[test]
fn ctrl_c_keeps_what_is_finished() {
    use std::io::{BufRead as _, BufReader};
    let folder = Folder::new();
    let model = tiny_model();
    let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin!("refrain"))
        .current_dir(folder.path(""))
        .args(["gen", "image", "-p", "dog", "-b", "10000", "--json", "-o", "%d.png", "-m"])
        .arg(&model)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.by_ref().map(Result::unwrap).find(|line| line.contains("\"event\":\"image\"")).unwrap();
    let id = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(rest.last().unwrap().contains("\"exit_code\":130"), "{rest:?}");
    let names = folder.names();
    assert!(names.contains(&"1.png".to_owned()) && names.len() < 10_000, "{names:?}");
    assert!(names.iter().all(|name| !name.starts_with('.')), "{names:?}");
    names.iter().for_each(|name| assert_eq!(pixels(&folder.read(name)).len(), 16 * 16 * 3));
}

#[test]
fn classes_by_number_and_name_are_one_batch() {
    let folder = Folder::new();
    let model = class_model();
    let base = ["gen", "image", "-m", model.to_str().unwrap(), "--steps", "3", "-s", "4"];
    folder.run(&[&base[..], &["--class", "3,Golden Retriever", "-o", "d-%d.png"]].concat()).succeeded();
    let (number, name) = (folder.read("d-1.png"), folder.read("d-2.png"));
    // The fixture calls class 3 a golden retriever; the second picture has the next seed.
    folder.run(&[&base[..4], &["--steps", "3", "-s", "5", "--class", "3", "-o", "e.png"]].concat()).succeeded();
    assert_eq!(pixels(&name), pixels(&folder.read("e.png")));
    assert_ne!(pixels(&number), pixels(&name));
    folder.run(&["gen", "image", "-m", base[3], "--from", "d-2.png", "-o", "again.png"]).succeeded();
    assert_eq!(name, folder.read("again.png"));
    for (class, words) in [("9", "beyond"), ("retriever", "did you mean golden retriever"), ("3,", "--class is empty")]
    {
        let outcome = folder.run(&[&base[..], &["--class", class, "-o", "x.png"]].concat());
        assert!(outcome.refused(2).contains(words), "{class}: {}", outcome.stderr);
    }
    let outcome = folder.run(&["gen", "image", "--class", "3", "-o", "x.png"]);
    assert!(outcome.refused(2).contains("-p"), "{}", outcome.stderr);
}
