//! The pictures of a bench: speed against harm, and what the harm looks like.

use refrain_media::Picture;
use refrain_media::plot::{Caption, PolicyFamily, PolicyPoint, SpeedHarmPlot, contact_sheet};
use refrain_metrics::PSNR_CAP;

use super::table::Table;

/// Tiles in a row of the contact sheet, and their side.
const COLUMNS: usize = 5;
const TILE: u32 = 192;

/// Each policy a point: x its speed-up, y its PSNR.
pub(crate) fn speed_harm(table: &Table) -> SpeedHarmPlot {
    let mut families: Vec<PolicyFamily> = Vec::new();
    for row in &table.rows {
        let (family, label) = row.policy.split_once(':').unwrap_or((&row.policy, &row.policy));
        let psnr = if row.psnr >= PSNR_CAP { f64::INFINITY } else { row.psnr };
        let point = PolicyPoint { label: label.to_owned(), speedup: row.speedup, psnr };
        let name = if family == "steps" { "fewer steps, no cache" } else { family };
        match families.iter_mut().find(|known| known.name == name) {
            Some(known) => known.points.push(point),
            None => families.push(PolicyFamily { name: name.to_owned(), points: vec![point] }),
        }
    }
    let setting = &table.setting;
    let title = format!(
        "{}, {} {} steps, {}, {} cores",
        setting.model, setting.sampler, setting.steps, setting.dtype, setting.cores
    );
    SpeedHarmPlot { title, families }
}

/// The first picture of every contender, with what it cost and harmed.
///
/// # Errors
/// What drawing says.
pub(crate) fn pictures(table: &Table, samples: Vec<Picture>) -> anyhow::Result<Picture> {
    let captions = table.rows.iter().zip(samples).map(|(row, picture)| Caption {
        picture,
        text: format!("{}\n{:.2}x, {:.1} dB", row.policy, row.speedup, row.psnr),
    });
    let captions: Vec<Caption> = captions.collect();
    Ok(contact_sheet("first prompt and seed", &captions, COLUMNS, TILE)?)
}
