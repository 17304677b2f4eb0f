//! The report as text for a terminal.

use std::fmt;

use super::{Group, Report};

const HEAD: [&str; 9] =
    ["part", "sites", "computed", "reused", "forecast", "covered", "drift p50/p90/p99", "saved s", "predicted s"];

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = 100.0 * self.computed_share;
        writeln!(out, "cache {}: {share:.1} % computed in {} of {} steps", self.policy, self.steps_done, self.steps)?;
        let rows: Vec<[String; 9]> =
            std::iter::once(HEAD.map(String::from)).chain(self.groups.iter().map(row)).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: [usize; 9] = std::array::from_fn(width);
        for row in &rows {
            let mut line = format!("  {:<width$}", row[0], width = widths[0]);
            for (cell, width) in row.iter().zip(widths).skip(1) {
                line.push_str(&format!("  {cell:>width$}"));
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        let (saved, predicted, overhead) = (self.seconds_saved, self.seconds_predicted, self.seconds_overhead);
        writeln!(out, "  saved {saved:.3} s of {predicted:.3} s predicted; the cache itself took {overhead:.3} s")?;
        write!(out, "  features: {} at most", bytes(self.bytes_peak))?;
        if self.bytes_measuring > 0 {
            write!(out, ", and {} to measure drift", bytes(self.bytes_measuring))?;
        }
        writeln!(out)?;
        let injected: Vec<String> = self
            .groups
            .iter()
            .filter(|group| group.injected > 0)
            .map(|group| format!("{} at {} visits", group.part, group.injected))
            .collect();
        if !injected.is_empty() {
            writeln!(out, "  injected: {}", injected.join(", "))?;
        }
        if self.guarded > 0 {
            writeln!(out, "  guard: computed at {} visits that the policy would have skipped", self.guarded)?;
        }
        self.write_checks(out)?;
        if let Some(reason) = &self.fallback {
            writeln!(out, "  full compute: {reason}")?;
        }
        self.warnings.iter().try_for_each(|warning| writeln!(out, "  warning: {warning}"))
    }
}

impl Report {
    fn write_checks(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(worst) = self.checks.iter().max_by(|a, b| a.error.total_cmp(&b.error)) else { return Ok(()) };
        let mean = self.checks.iter().map(|check| f64::from(check.error)).sum::<f64>() / self.checks.len() as f64;
        let (count, site, step) = (self.checks.len(), worst.site, worst.step + 1);
        let noun = if count == 1 { "site" } else { "sites" };
        writeln!(
            out,
            "  checked {count} cached {noun}: relative error {mean:.4} on average, at most {:.4} ({site} at step {step})",
            worst.error
        )
    }
}

fn row(group: &Group) -> [String; 9] {
    let drift = match group.drift {
        Some(drift) => format!("{:.3} / {:.3} / {:.3}", drift.p50, drift.p90, drift.p99),
        None => "-".to_string(),
    };
    [
        group.part.to_string(),
        group.sites.to_string(),
        group.computed.to_string(),
        group.reused.to_string(),
        group.forecast.to_string(),
        group.covered.to_string(),
        drift,
        format!("{:.3}", group.seconds_saved),
        format!("{:.3}", group.seconds_predicted),
    ]
}

/// A number of bytes in binary units.
fn bytes(count: usize) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let (mut value, mut unit) = (count as f64 / 1024.0, UNITS[0]);
    for next in &UNITS[1..] {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    format!("{value:.1} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Site;
    use crate::check::Checked;
    use crate::report::Percentiles;

    #[test]
    fn bytes_have_binary_units() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(3 << 30), "3.0 GiB");
    }

    #[test]
    fn a_full_report_reads_well() {
        let drift = Some(Percentiles { p50: 0.0512, p90: 0.1204, p99: 0.3 });
        let attention = Group {
            part: "attention",
            sites: 12,
            computed: 132,
            reused: 108,
            drift,
            seconds_predicted: 0.21,
            seconds_saved: 0.2004,
            ..Group::default()
        };
        let feed_forward = Group { part: "feed-forward", sites: 12, computed: 240, ..Group::default() };
        let report = Report {
            policy: "interval:n=2+feed-forward=1".to_string(),
            steps: 20,
            steps_done: 20,
            computed_share: 0.775,
            groups: vec![attention, feed_forward],
            seconds_predicted: 0.21,
            seconds_saved: 0.19,
            seconds_overhead: 0.02,
            bytes_peak: 1_572_864,
            bytes_measuring: 4096,
            guarded: 12,
            checks_wanted: 3,
            checks: vec![
                Checked { site: Site::attention(3), step: 4, error: 0.05 },
                Checked { site: Site::attention(5), step: 6, error: 0.1 },
            ],
            warnings: vec!["2 of 3 checks done, for want of skips to check".to_string()],
            ..Report::default()
        };
        insta::assert_snapshot!(report.to_string());
    }
}
