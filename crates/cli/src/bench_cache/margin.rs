//! How far a contender lies above the best other kind of contender at its own speed.

use super::table::Row;

/// What the bench calls identical to the uncached picture, in decibels.
const IDENTICAL: f64 = 100.0;

/// Decibels above the best of the other kinds at the same speed; `None` for the uncached run and where no other kind is as
/// fast. A kind is a policy under all its settings (or fewer steps); between two of its settings its quality is taken to be
/// linear in the logarithm of the speed, which favours the rivals: only measured points are real.
pub(crate) fn margin(rows: &[Row], row: &Row) -> Option<f64> {
    // Another dtype makes every kind faster: it is no rival of theirs.
    let outside = |name: &str| name == "off" || name == "dtype";
    if outside(kind(row)) {
        return None;
    }
    let mut kinds: Vec<&str> = rows.iter().map(kind).filter(|other| !outside(other) && *other != kind(row)).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let at_speed = |name: &&str| best_at(rows.iter().filter(|other| kind(other) == *name), row.speedup);
    kinds.iter().filter_map(at_speed).max_by(f64::total_cmp).map(|best| row.psnr - best)
}

/// What the row is an instance of: a policy's name; learned plans are one kind, however they are named.
fn kind(row: &Row) -> &str {
    if row.policy.contains(".safetensors") {
        return "router";
    }
    row.policy.split_once(':').map_or(row.policy.as_str(), |(name, _)| name)
}

/// Best quality of the settings at `speed` or faster, interpolated.
fn best_at<'a>(rows: impl Iterator<Item = &'a Row>, speed: f64) -> Option<f64> {
    // A setting that skipped nothing is the uncached run, and no point of the policy's curve.
    let points: Vec<(f64, f64)> =
        rows.filter(|row| row.psnr < IDENTICAL).map(|row| (row.speedup.ln(), row.psnr)).collect();
    let wanted = speed.ln();
    // Neighbours on the curve of the best: a chord over several settings would promise what none of them does.
    let fast = points.iter().filter(|point| point.0 >= wanted).max_by(|a, b| a.1.total_cmp(&b.1))?;
    let slow = points.iter().filter(|point| point.0 < wanted && point.1 > fast.1).max_by(|a, b| a.0.total_cmp(&b.0));
    Some(slow.map_or(fast.1, |slow| slow.1 + (fast.1 - slow.1) * (wanted - slow.0) / (fast.0 - slow.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(policy: &str, speedup: f64, psnr: f64) -> Row {
        Row { policy: policy.into(), speedup, psnr, ..Row::default() }
    }

    #[test]
    fn a_router_is_held_against_the_best_kind_at_its_speed() {
        let rows = [
            row("off", 1.0, 100.0),
            row("steps:10", 2.0, 40.0),
            row("steps:5", 4.0, 30.0),
            row("taylor:n=2", 2.5, 20.0),
            row("router:budget=0.5", 2.0, 50.0),
            row("r.plan.safetensors", 8.0_f64.sqrt(), 44.0),
            row("router:budget=0.1", 9.0, 20.0),
            row("taylor:n=1", 0.99, 100.0),
        ];
        assert_eq!(margin(&rows, &rows[0]), None);
        assert_eq!(margin(&rows, &rows[4]), Some(10.0));
        // Half-way between 2× and 4×: 35 dB.
        assert!((margin(&rows, &rows[5]).unwrap() - 9.0).abs() < 1e-9);
        assert_eq!(margin(&rows, &rows[6]), None);
        // The rivals' own margin is negative: the router is another kind.
        assert!(margin(&rows, &rows[1]).unwrap() < 0.0);
    }
}
