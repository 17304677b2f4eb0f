//! The list of pairs.

use std::path::{Path, PathBuf};

use candle_core::Tensor;
use refrain_media::{LoadOptions, load_picture};

use crate::errors::usage;
use crate::morph::{of_picture, tensor};

/// Two pictures and what is said of them.
pub(super) struct Pair {
    pictures: [PathBuf; 2],
    pub(super) prompts: [String; 2],
    pub(super) anchor: Option<String>,
}

/// Both pictures in this size, `[2, 3, height, width]` in 0..1.
///
/// # Errors
/// A file that is no picture (exit 2).
pub(super) fn pictures(pair: &Pair, (width, height): (usize, usize)) -> anyhow::Result<Tensor> {
    let load = |path: &Path| -> anyhow::Result<_> {
        let picture = load_picture(path, &LoadOptions::default()).map_err(of_picture)?;
        Ok(picture.resized(width as u32, height as u32))
    };
    tensor(&[load(&pair.pictures[0])?, load(&pair.pictures[1])?])
}

/// The list; paths are relative to its folder.
///
/// # Errors
/// A list that cannot be read, or without pairs (exit 2).
pub(super) fn read(path: &Path) -> anyhow::Result<Vec<Pair>> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| usage(format!("{shown}: {error}")))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut pairs = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'))
    {
        let mut cells = line.split('\t').map(str::trim);
        let mut cell = || cells.next().unwrap_or_default().to_owned();
        let (first, second, prompt, other, anchor) = (cell(), cell(), cell(), cell(), cell());
        if first.is_empty() || second.is_empty() {
            return Err(usage(format!("{shown}: line {}: expected two pictures, separated by a tab", number + 1)));
        }
        pairs.push(Pair {
            pictures: [folder.join(first), folder.join(second)],
            prompts: [prompt, other],
            anchor: Some(anchor).filter(|anchor| !anchor.is_empty()),
        });
    }
    if pairs.is_empty() {
        return Err(usage(format!("{shown}: holds no pairs")));
    }
    Ok(pairs)
}
