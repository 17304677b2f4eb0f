//! Running the program in a folder of its own.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// A call's outcome.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Outcome {
    /// Standard output as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.stdout.clone()).unwrap()
    }

    /// The call must have succeeded.
    #[track_caller]
    pub(crate) fn succeeded(self) -> Self {
        assert_eq!(self.code, 0, "stderr: {}", self.stderr);
        self
    }

    /// The call must have failed with this code and one line on stderr, which is given back.
    #[track_caller]
    pub(crate) fn refused(&self, code: i32) -> &str {
        assert_eq!(self.code, code, "stderr: {}", self.stderr);
        let line = self.stderr.strip_suffix('\n').unwrap_or(&self.stderr);
        assert!(line.starts_with("refrain: "), "{line:?}");
        assert!(!line.contains('\n') && !line.chars().any(char::is_control), "not one clean line: {line:?}");
        assert!(!line.contains("panicked"), "{line}");
        line
    }

    /// The events of `--json`.
    #[track_caller]
    pub(crate) fn events(&self) -> Vec<Value> {
        self.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// A folder that goes away with the test, in which the program runs.
pub(crate) struct Folder {
    folder: tempfile::TempDir,
}

impl Folder {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    #[track_caller]
    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}; there are {:?}", self.names()))
    }

    /// Names of all entries, hidden ones too, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Runs the program here.
    pub(crate) fn run(&self, arguments: &[&str]) -> Outcome {
        self.run_with_stdin(arguments, "")
    }

    /// Runs the program here with something on its standard input.
    pub(crate) fn run_with_stdin(&self, arguments: &[&str], stdin: &str) -> Outcome {
        let output = assert_cmd::Command::new(assert_cmd::cargo::cargo_bin!("refrain"))
            .current_dir(self.folder.path())
            .env_remove("REFRAIN_LOG")
            .args(arguments)
            .write_stdin(stdin)
            .output()
            .unwrap();
        Outcome {
            code: output.status.code().unwrap_or(-1),
            stdout: output.stdout,
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Copies a folder with everything in it.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_folder(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

/// A random text-to-image pipeline of 340 kB, 16x16 pictures; every call of it takes milliseconds.
pub(crate) fn tiny_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/pipeline/tests/fixtures/pixart-learned-sigma")
}

/// A tiny class-conditional pipeline.
pub(crate) fn class_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/pipeline/tests/fixtures/dit-few-classes")
}

/// `gen image` on the tiny model with these further arguments.
pub(crate) fn tiny(folder: &Folder, arguments: &[&str]) -> Outcome {
    let model = tiny_model();
    let mut line = vec!["gen", "image", "-m", model.to_str().unwrap(), "-p", "a red fox", "-s", "7", "--steps", "6"];
    // A flag of the caller's replaces the one here.
    for flag in arguments.iter().filter(|argument| argument.starts_with('-')) {
        if let Some(at) = line.iter().skip(2).position(|known| known == flag) {
            line.drain(at + 2..at + 4);
        }
    }
    line.extend(arguments);
    folder.run(&line)
}

/// Pixels of a PNG file.
pub(crate) fn pixels(bytes: &[u8]) -> Vec<u8> {
    refrain_media::decode_picture("test", bytes, &refrain_media::LoadOptions::default()).unwrap().pixels().to_vec()
}

/// One tensor of a safetensors file: shape and values.
pub(crate) fn tensor(bytes: &[u8], name: &str) -> (Vec<usize>, Vec<f32>) {
    let file = safetensors::SafeTensors::deserialize(bytes).unwrap();
    let view = file.tensor(name).unwrap();
    let values = view.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
    (view.shape().to_vec(), values.collect())
}
