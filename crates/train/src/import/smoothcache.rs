//! SmoothCache schedules (arXiv 2411.10510): JSON whose keys `attn-b` / `mlp-b` (or `attn` / `mlp` for all blocks of a
//! model of one block list) hold one integer a step, 1 = compute, index 0 = the first denoising step.

use std::collections::BTreeMap;

use super::{ImportError, Schedule, SiteKind};

/// Past any model: a hostile key must not size an allocation.
const MOST_BLOCKS: usize = 2_048;

/// Parses one schedule.
///
/// # Errors
/// Text that is no such JSON, unknown keys, rows of unequal length, values other than 0 and 1.
pub fn parse(text: &str) -> Result<Schedule, ImportError> {
    let broken = |reason: String| ImportError::Json { reason };
    let rows: BTreeMap<String, Vec<u8>> = serde_json::from_str(text).map_err(|error| broken(error.to_string()))?;
    let mut columns = rows
        .into_iter()
        .map(|(key, row)| {
            site(&key)
                .map(|site| (site, row))
                .ok_or_else(|| broken(format!("key {key:?} is neither attn-BLOCK nor mlp-BLOCK")))
        })
        .collect::<Result<Vec<_>, _>>()?;
    columns.sort_by_key(|(site, _)| (site.block(), matches!(site, SiteKind::FeedForward(_))));
    let steps = columns.first().map_or(0, |(_, row)| row.len());
    if steps == 0 {
        return Err(broken("the schedule has no steps".into()));
    }
    for (site, row) in &columns {
        if row.len() != steps {
            return Err(broken(format!("{site} has {} steps, the first key has {steps}", row.len())));
        }
        if let Some(value) = row.iter().find(|&&value| value > 1) {
            return Err(broken(format!("{site} holds {value}, expected 0 (reuse) or 1 (compute)")));
        }
        if row.first() == Some(&0) {
            return Err(broken(format!("{site} reuses at the first step, when nothing is remembered yet")));
        }
    }
    let compute = (0..steps).map(|step| columns.iter().map(|(_, row)| row.get(step) == Some(&1)).collect()).collect();
    Ok(Schedule { sites: columns.iter().map(|(site, _)| *site).collect(), compute })
}

/// Writes a schedule as SmoothCache reads it; `None` when it has sites other than attention and feed-forward.
pub fn write(schedule: &Schedule) -> Option<String> {
    let mut rows = BTreeMap::new();
    for (index, site) in schedule.sites.iter().enumerate() {
        let key = match site {
            SiteKind::Attention(block) => format!("attn-{block}"),
            SiteKind::FeedForward(block) => format!("mlp-{block}"),
            SiteKind::Model => return None,
        };
        let row: Vec<u8> = schedule.compute.iter().map(|step| u8::from(step.get(index) != Some(&false))).collect();
        rows.insert(key, row);
    }
    serde_json::to_string(&rows).ok()
}

fn site(key: &str) -> Option<SiteKind> {
    let (part, block) = key.split_once('-')?;
    let block = block.parse().ok().filter(|&block| block < MOST_BLOCKS)?;
    match part {
        "attn" => Some(SiteKind::Attention(block)),
        "mlp" => Some(SiteKind::FeedForward(block)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let text =
            r#"{"attn-0":[1,0,1],"mlp-0":[1,1,0],"attn-10":[1,0,0],"mlp-10":[1,1,1],"attn-2":[1,1,1],"mlp-2":[1,0,1]}"#;
        let schedule = parse(text).unwrap();
        let blocks: Vec<_> = schedule.sites.iter().map(SiteKind::block).collect();
        assert_eq!(blocks, [0, 0, 2, 2, 10, 10]);
        assert_eq!(schedule.reused(), 5);
        assert_eq!(parse(&write(&schedule).unwrap()).unwrap(), schedule);
    }

    #[test]
    fn bad_schedules_say_what_is_wrong() {
        for (text, word) in [
            ("[]", "invalid type"),
            ("{}", "no steps"),
            (r#"{"attn-0":[1,2]}"#, "expected 0"),
            (r#"{"attn-0":[0,1]}"#, "first step"),
            (r#"{"attn-0":[1,1],"mlp-0":[1]}"#, "has 1 steps"),
            (r#"{"attn-99999999999999999999":[1]}"#, "neither"),
            (r#"{"conv-1":[1]}"#, "neither"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    /// A published schedule of DiT-XL/2 at 50 DDIM steps; its facts are known.
    #[test]
    fn published_schedule_has_its_known_counts() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/fixtures/smoothcache_50-N-2-l2c.json");
        let Ok(text) = std::fs::read_to_string(path) else {
            eprintln!("skipped: {path} is not here");
            return;
        };
        let schedule = parse(&text).unwrap();
        assert_eq!((schedule.compute.len(), schedule.sites.len()), (50, 56));
        assert_eq!(schedule.reused(), 664);
        // The router of period two: odd steps of the countdown are computed whole.
        assert!(schedule.compute.iter().step_by(2).all(|step| step.iter().all(|&compute| compute)));
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "[\\[\\]{}:,01 \"a-z-]{0,80}") {
            let _ = parse(&text);
        }
    }
}
