//! Router files of HarmoniCa (arXiv 2410.01723) and Learning-to-Cache (arXiv 2406.01733): PyTorch archives whose entry
//! `routers` maps `"{row}.prob"` to the logits of one respaced timestep, attention and feed-forward alternating.
//!
//! Both flavours share one layout and mean different things. HarmoniCa uses every row, the first denoising step (the
//! last row) frozen at logit 5. Learning-to-Cache computes odd rows in full and trained only the even ones; its last row
//! is noise. Reading one as the other gives nonsense, so the frozen row decides whether the flag can be right.

use std::path::Path;

use super::{Flavour, ImportError, Schedule, SiteKind, archive::Archive};

/// Score at or below which HarmoniCa and Learning-to-Cache reuse (`--thres 0.1` of both).
pub const PUBLISHED_THRESHOLD: f32 = 0.1;
/// Logit of HarmoniCa's frozen first denoising step.
const FROZEN_LOGIT: f32 = 5.0;
/// Rows and columns past any published model: a guard against hostile archives.
const MOST_ROWS: usize = 4_096;
const MOST_SITES: usize = 4_096;

/// Reads the logits `[row][site]`, row 0 the last denoising step, as the archive stores them. Nothing is executed.
///
/// # Errors
/// A file that is no PyTorch archive, or whose `routers` are not rows of equal, even length numbered from 0.
pub fn read(path: &Path) -> Result<Vec<Vec<f32>>, ImportError> {
    rows(path).map_err(|reason| ImportError::Archive { path: path.into(), reason })
}

fn rows(path: &Path) -> Result<Vec<Vec<f32>>, String> {
    let mut archive = Archive::open(path)?;
    let root = archive.pickle.root();
    // Learning-to-Cache's U-ViT routers are the state dict itself.
    let routers = archive.pickle.entry(root, "routers").unwrap_or(root);
    let mut found = Vec::new();
    while let Some(tensor) = archive.pickle.entry(routers, &format!("{}.prob", found.len())) {
        found.push(tensor);
        if found.len() > MOST_ROWS {
            return Err(format!("more than {MOST_ROWS} rows"));
        }
    }
    if found.is_empty() {
        return Err("it holds no \"routers\" with rows \"0.prob\", \"1.prob\", …".to_owned());
    }
    let mut rows = Vec::with_capacity(found.len());
    for (row, tensor) in found.into_iter().enumerate() {
        rows.push(archive.vector(tensor).map_err(|reason| format!("{row}.prob: {reason}"))?);
    }
    check_shape(&rows)?;
    Ok(rows)
}

fn check_shape(rows: &[Vec<f32>]) -> Result<(), String> {
    let width = rows.first().map_or(0, Vec::len);
    if width == 0 || !width.is_multiple_of(2) || width > MOST_SITES {
        return Err(format!(
            "{width} logits a row, expected an even number (attention and feed-forward of each block)"
        ));
    }
    for (row, values) in rows.iter().enumerate() {
        if values.len() != width {
            return Err(format!("row {row} has {} logits, row 0 has {width}", values.len()));
        }
        if let Some(site) = values.iter().position(|value| !value.is_finite()) {
            return Err(format!("row {row}, logit {site} is not finite"));
        }
    }
    Ok(())
}

/// Turns stored rows into a schedule in denoising order, after checking that the flavour can be the right one.
///
/// # Errors
/// The frozen row proves the other flavour.
pub fn schedule(rows: &[Vec<f32>], flavour: Flavour, threshold: f32) -> Result<Schedule, ImportError> {
    let frozen = rows.last().is_some_and(|row| row.iter().all(|&logit| logit == FROZEN_LOGIT));
    match (flavour, frozen) {
        (Flavour::HarmoniCa, false) => {
            return Err(ImportError::Flavour {
                asked: flavour,
                evidence: "its first denoising step is not frozen at logit 5",
            });
        }
        (Flavour::LearningToCache, true) => {
            return Err(ImportError::Flavour {
                asked: flavour,
                evidence: "its first denoising step is frozen at logit 5",
            });
        }
        _ => {}
    }
    let width = rows.first().map_or(0, Vec::len);
    let sites = (0..width)
        .map(|index| if index % 2 == 0 { SiteKind::Attention(index / 2) } else { SiteKind::FeedForward(index / 2) });
    let compute = rows.iter().enumerate().rev().map(|(row, logits)| {
        let whole = flavour == Flavour::LearningToCache && row % 2 == 1;
        logits.iter().map(|&logit| whole || 1.0 / (1.0 + (-logit).exp()) > threshold).collect()
    });
    Ok(Schedule { sites: sites.collect(), compute: compute.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn harmonica() -> Vec<Vec<f32>> {
        vec![vec![-3.0, 1.0, -5.0, 0.0], vec![4.0, -2.5, 0.0, -2.0], vec![5.0; 4]]
    }

    #[test]
    fn every_row_of_harmonica_counts_and_time_runs_forward() {
        let schedule = schedule(&harmonica(), Flavour::HarmoniCa, PUBLISHED_THRESHOLD).unwrap();
        assert_eq!(schedule.sites[3], SiteKind::FeedForward(1));
        // sigmoid(-2.5) = 0.076 reuses, sigmoid(-2) = 0.119 computes.
        assert_eq!(schedule.compute, [vec![true; 4], vec![true, false, true, true], vec![false, true, false, true]]);
    }

    #[test]
    fn learning_to_cache_computes_odd_rows_whole() {
        let mut rows = harmonica();
        rows[2] = vec![0.3, -4.0, 1.0, 0.2];
        let schedule = schedule(&rows, Flavour::LearningToCache, PUBLISHED_THRESHOLD).unwrap();
        assert_eq!(schedule.compute, [vec![true, false, true, true], vec![true; 4], vec![false, true, false, true]]);
    }

    #[test]
    fn the_wrong_flavour_is_refused() {
        let refused = schedule(&harmonica(), Flavour::LearningToCache, PUBLISHED_THRESHOLD);
        assert!(refused.unwrap_err().to_string().contains("frozen"));
        let mut rows = harmonica();
        rows[2][1] = 0.7;
        assert!(schedule(&rows, Flavour::HarmoniCa, PUBLISHED_THRESHOLD).is_err());
    }

    #[test]
    fn crooked_rows_are_named() {
        assert!(check_shape(&[vec![0.0; 3]]).unwrap_err().contains("even"));
        assert!(check_shape(&[vec![0.0; 2], vec![0.0; 4]]).unwrap_err().contains("row 1"));
        assert!(check_shape(&[vec![0.0, f32::NAN]]).unwrap_err().contains("not finite"));
    }

    fn fixture(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
    }

    /// As `make_routers.py` makes them.
    fn expected(row: usize) -> Vec<f32> {
        (0..6).map(|site| (((7 * row + 3 * site) % 11) as f32 - 5.0) * 0.9).collect()
    }

    #[test]
    fn archives_of_both_projects_are_read_to_the_last_bit() {
        for name in ["l2c.pt", "l2c-state-dict.pth", "harmonica.pt"] {
            let mut rows: Vec<Vec<f32>> = (0..4).map(expected).collect();
            if name == "harmonica.pt" {
                rows[3] = vec![5.0; 6];
            }
            let close = |(a, b): (&Vec<f32>, &Vec<f32>)| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
            let read = read(&fixture(name)).unwrap();
            assert!(read.len() == 4 && read.iter().zip(&rows).all(close), "{name}: {read:?}");
        }
        let rows = read(&fixture("harmonica.pt")).unwrap();
        assert!(schedule(&rows, Flavour::HarmoniCa, PUBLISHED_THRESHOLD).is_ok());
        assert!(schedule(&rows, Flavour::LearningToCache, PUBLISHED_THRESHOLD).is_err());
    }

    /// Cut, changed and filled with noise, an archive is refused or read: it neither panics nor asks for much memory.
    #[test]
    fn hostile_archives_are_refused() {
        use proptest::prelude::*;
        let bytes = std::fs::read(fixture("harmonica.pt")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hostile.pt");
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let changes = prop::collection::vec((0..bytes.len(), any::<u8>()), 1..6);
        runner
            .run(&(changes, 0..2 * bytes.len()), |(changes, end)| {
                let mut hostile = bytes.clone();
                changes.into_iter().for_each(|(place, byte)| hostile[place] = byte);
                hostile.truncate(end.max(1));
                std::fs::write(&path, &hostile).unwrap();
                if let Err(error) = read(&path) {
                    let text = error.to_string();
                    prop_assert!(!text.contains('\n'), "{text}");
                }
                Ok(())
            })
            .unwrap();
    }
}
