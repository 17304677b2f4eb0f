//! Steps computation masks of the cache-dit project: one entry a step, 1 = compute, for the whole model.
//!
//! Read are the list itself (`1,1,0,1`, spaces or nothing between the digits, or JSON `[1, 1, 0, 1]`), and JSON objects
//! with `steps_computation_mask` (a list), or with `compute_bins` and `cache_bins`: lengths of the runs of computed and
//! of cached steps, in turn.

use serde::Deserialize;

use super::{ImportError, Schedule, SiteKind};

/// Past any sampler: a hostile bin must not size an allocation.
const MOST_STEPS: usize = 10_000;

#[derive(Deserialize)]
#[serde(untagged)]
enum Mask {
    List(Vec<u8>),
    Named { steps_computation_mask: Vec<u8> },
    Bins { compute_bins: Vec<usize>, cache_bins: Vec<usize> },
}

/// Parses a mask.
///
/// # Errors
/// Text that is none of the forms, an empty mask, one that skips the first step.
pub fn parse(text: &str) -> Result<Schedule, ImportError> {
    let broken = |reason: String| ImportError::Mask { reason };
    let text = text.trim();
    let mask = if text.starts_with(['[', '{']) {
        let mask: Mask = serde_json::from_str(text).map_err(|_| {
            broken(
                "its JSON is neither a list, nor has it steps_computation_mask, nor compute_bins and cache_bins".into(),
            )
        })?;
        match mask {
            Mask::List(list) | Mask::Named { steps_computation_mask: list } => digits(&list).map_err(broken)?,
            Mask::Bins { compute_bins, cache_bins } => bins(&compute_bins, &cache_bins).map_err(broken)?,
        }
    } else {
        let letters = text.chars().filter(|letter| *letter != ',' && !letter.is_whitespace());
        let list = letters.map(|letter| letter.to_digit(10).map(|digit| digit as u8)).collect::<Option<Vec<u8>>>();
        digits(&list.ok_or_else(|| broken("it holds letters other than 0, 1 and commas".into()))?).map_err(broken)?
    };
    if mask.is_empty() || mask.len() > MOST_STEPS {
        return Err(broken(format!("{} steps, expected 1 to {MOST_STEPS}", mask.len())));
    }
    if mask.first() == Some(&false) {
        return Err(broken("it skips the first step, when nothing is remembered yet".into()));
    }
    Ok(Schedule { sites: vec![SiteKind::Model], compute: mask.into_iter().map(|compute| vec![compute]).collect() })
}

fn digits(list: &[u8]) -> Result<Vec<bool>, String> {
    match list.iter().find(|&&digit| digit > 1) {
        Some(digit) => Err(format!("it holds {digit}, expected 0 (skip) or 1 (compute)")),
        None => Ok(list.iter().map(|&digit| digit == 1).collect()),
    }
}

fn bins(compute: &[usize], cache: &[usize]) -> Result<Vec<bool>, String> {
    if compute.len() != cache.len() && compute.len() != cache.len() + 1 {
        return Err(format!("{} compute bins do not alternate with {} cache bins", compute.len(), cache.len()));
    }
    let mut mask = Vec::new();
    for (index, &computed) in compute.iter().enumerate() {
        let cached = cache.get(index).copied().unwrap_or(0);
        if computed > MOST_STEPS || cached > MOST_STEPS || mask.len() > MOST_STEPS {
            return Err(format!("bins of more than {MOST_STEPS} steps"));
        }
        mask.resize(mask.len() + computed, true);
        mask.resize(mask.len() + cached, false);
    }
    Ok(mask)
}

/// Writes a schedule whose steps compute as a whole or not at all; `None` for any other.
pub fn write(schedule: &Schedule) -> Option<String> {
    let step = |row: &Vec<bool>| {
        let first = row.first().copied().unwrap_or(true);
        row.iter().all(|&compute| compute == first).then_some(if first { "1" } else { "0" })
    };
    Some(schedule.compute.iter().map(step).collect::<Option<Vec<_>>>()?.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms_say_the_same() {
        let expected = parse("1,1,0,0,1,0,1").unwrap();
        assert_eq!(expected.reused(), 3);
        for text in [
            "1100101\n",
            "1 1 0 0 1 0 1",
            "[1, 1, 0, 0, 1, 0, 1]",
            r#"{"steps_computation_mask": [1,1,0,0,1,0,1], "cache_type": "dynamic"}"#,
            r#"{"compute_bins": [2,1,1], "cache_bins": [2,1]}"#,
        ] {
            assert_eq!(parse(text).unwrap(), expected, "{text}");
        }
        assert_eq!(write(&expected).unwrap(), "1,1,0,0,1,0,1");
    }

    #[test]
    fn the_published_bins_have_28_steps() {
        let mask = parse(r#"{"compute_bins": [8,3,3,2,1,1], "cache_bins": [1,2,2,2,3]}"#).unwrap();
        assert_eq!((mask.compute.len(), mask.reused()), (28, 10));
    }

    #[test]
    fn bad_masks_say_what_is_wrong() {
        for (text, word) in [
            ("", "0 steps"),
            ("1,2", "holds 2"),
            ("0,1", "first step"),
            ("fast", "letters"),
            ("[1, -1]", "neither"),
            (r#"{"compute_bins": [1], "cache_bins": [1,1]}"#, "alternate"),
            (r#"{"compute_bins": [1], "cache_bins": [99999999999]}"#, "more than"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "[\\[\\]{}:,01 \"a-z-]{0,80}") {
            let _ = parse(&text);
        }
    }
}
