//! A folder of frames that another call can go on with.

use std::path::{Path, PathBuf};

use refrain_media::{Picture, save_picture};
use serde_json::Value;

use crate::errors::{resources, usage, usage_because};
use crate::output;

/// What the folder was made with.
const RECIPE: &str = "morph.json";
/// Largest recipe that is read.
const LARGEST_RECIPE: u64 = 1 << 20;

/// Makes the folder, or takes one without frames; with `resume` one with frames.
///
/// # Errors
/// A folder that cannot be made or written (exit 3), or that holds frames of an earlier call (exit 2).
pub(super) fn prepare(folder: &Path, resume: bool) -> anyhow::Result<()> {
    let shown = folder.display();
    if folder.exists() && !folder.is_dir() {
        return Err(usage(format!("{shown}: is a file, expected a folder for the frames")));
    }
    std::fs::create_dir_all(folder).map_err(|error| resources(format!("cannot make folder {shown}: {error}")))?;
    output::prepare_file(&folder.join(RECIPE))?;
    if !resume && frame(folder, 0).exists() {
        return Err(usage(format!("{shown}: already holds frames; go on with --resume, or name another folder")));
    }
    Ok(())
}

/// File of a frame.
fn frame(folder: &Path, index: usize) -> PathBuf {
    folder.join(format!("frame-{:06}.png", index + 1))
}

/// Frames of a folder, written one by one.
pub(super) struct FrameFolder {
    folder: PathBuf,
}

impl FrameFolder {
    /// Notes what the frames are made with; an unfinished folder must have been made with the same.
    ///
    /// # Errors
    /// Another recipe (exit 2), or a disk that refuses.
    pub(super) fn open(folder: &Path, recipe: &Value, resume: bool) -> anyhow::Result<Self> {
        let path = folder.join(RECIPE);
        if resume && path.is_file() {
            let shown = path.display();
            if std::fs::metadata(&path)?.len() > LARGEST_RECIPE {
                return Err(usage(format!("{shown}: too large for what --resume reads")));
            }
            let text = std::fs::read_to_string(&path).map_err(|error| usage(format!("{shown}: {error}")))?;
            let before: Value = serde_json::from_str(&text).map_err(usage_because)?;
            if before != *recipe {
                return Err(usage(format!("{shown}: made with other settings: {}", difference(&before, recipe))));
            }
        }
        output::write_file(&path, serde_json::to_string_pretty(recipe)?.as_bytes())?;
        Ok(Self { folder: folder.to_path_buf() })
    }

    /// The frame, if an earlier call finished it.
    pub(super) fn finished(&self, index: usize) -> Option<Picture> {
        refrain_media::load_picture(&frame(&self.folder, index), &refrain_media::LoadOptions::default()).ok()
    }

    /// Writes a frame whole or not at all.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub(super) fn write(&self, index: usize, picture: &Picture) -> anyhow::Result<()> {
        Ok(save_picture(&frame(&self.folder, index), picture)?)
    }
}

/// The first setting that differs.
fn difference(before: &Value, now: &Value) -> String {
    let keys = now.as_object().into_iter().flat_map(|object| object.keys());
    keys.filter(|key| before.get(key) != now.get(key))
        .map(|key| {
            let shown = |value: Option<&Value>| value.map_or_else(|| "nothing".to_owned(), Value::to_string);
            format!("{key} was {} and is {}", shown(before.get(key)), shown(now.get(key)))
        })
        .next()
        .unwrap_or_else(|| "something that is not given now".to_owned())
}
