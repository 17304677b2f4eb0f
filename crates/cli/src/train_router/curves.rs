//! A training's curves: a table for programs, a drawing, and lines of blocks for the terminal.

use std::fmt::Write as _;
use std::path::Path;

use refrain_media::plot::{Curves, Plot as _, Series};
use refrain_train::sdt::Progress;

use crate::errors::usage_because;
use crate::output;

/// Columns of a line of blocks.
const COLUMNS: usize = 48;
const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A value of the curves.
type Value = fn(&Progress) -> f64;
/// The curves with their names; the table has them all.
const VALUES: [(&str, Value); 7] = [
    ("loss", |point| point.loss),
    ("squared_error", |point| point.error),
    ("lambda", |point| point.lambda),
    ("beta", |point| point.beta),
    ("score_share", |point| point.score_share),
    ("computed_share", |point| point.computed_share),
    ("cache_usage_ratio", |point| point.reused_entries),
];
/// Those that are drawn.
const DRAWN: [(&str, &str, Value); 4] = [
    ("loss", "loss", |point| point.loss),
    ("lambda", "λ, mean", |point| point.lambda),
    ("beta", "β", |point| point.beta),
    ("CUR", "cache usage ratio", |point| point.reused_entries),
];

/// The curves of one router.
pub(super) struct Named<'a> {
    pub(super) title: &'a str,
    pub(super) points: &'a [Progress],
}

impl Named<'_> {
    /// Comma-separated values, one line a trajectory.
    fn csv(&self) -> String {
        let mut text = String::from("iteration");
        VALUES.iter().for_each(|(name, _)| text.extend([",", name]));
        for point in self.points {
            let _ = write!(text, "\n{}", point.iteration);
            VALUES.iter().for_each(|(_, value)| text.extend([",", &value(point).to_string()]));
        }
        text.push('\n');
        text
    }

    fn drawing(&self) -> Curves {
        let series = DRAWN.iter().map(|(_, name, value)| Series {
            name: (*name).to_owned(),
            points: self.points.iter().map(|point| (point.iteration as f64, value(point))).collect(),
        });
        Curves {
            title: self.title.to_owned(),
            x_name: "optimiser steps".to_owned(),
            y_name: "value, logarithmic".to_owned(),
            logarithmic: true,
            series: series.collect(),
        }
    }

    /// Writes table and drawing. A training that stopped before its first trajectory has nothing to draw.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub(super) fn save(&self, csv: &Path, drawing: &Path) -> anyhow::Result<()> {
        output::write_file(csv, self.csv().as_bytes())?;
        let curves = self.drawing();
        if curves.check().is_ok() {
            curves.save(drawing).map_err(usage_because)?;
        }
        Ok(())
    }

    /// One line a curve: its course in blocks, and where it began and ended.
    pub(super) fn lines(&self) -> Vec<String> {
        let width = DRAWN.iter().map(|(name, ..)| name.len()).max().unwrap_or(0);
        let line = |(name, _, value): &(&str, &str, Value)| {
            let values: Vec<f64> = self.points.iter().map(value).collect();
            let (first, last) = (values.first().copied().unwrap_or(0.0), values.last().copied().unwrap_or(0.0));
            format!("{name:width$} {} {first:.3e} → {last:.3e}", blocks(&values))
        };
        DRAWN.iter().map(line).collect()
    }
}

/// Averages of equal parts as blocks between the lowest and the highest.
fn blocks(values: &[f64]) -> String {
    let part = values.len().div_ceil(COLUMNS).max(1);
    let means: Vec<f64> = values.chunks(part).map(|part| part.iter().sum::<f64>() / part.len() as f64).collect();
    let low = means.iter().copied().fold(f64::INFINITY, f64::min);
    let high = means.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let height = |mean: &f64| {
        let share = if high > low { (mean - low) / (high - low) } else { 0.0 };
        BLOCKS[((share * 7.0).round() as usize).min(7)]
    };
    means.iter().map(height).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points() -> Vec<Progress> {
        let point = |index: usize| Progress {
            iteration: 19 * (index + 1),
            loss: 1.0 / (index + 1) as f64,
            computed_share: 0.5,
            ..Progress::default()
        };
        (0..200).map(point).collect()
    }

    #[test]
    fn the_table_has_a_line_a_trajectory() {
        let points = points();
        let csv = Named { title: "t", points: &points }.csv();
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines.len(), 201);
        assert_eq!(lines[0].split(',').count(), lines[1].split(',').count());
        assert!(lines[2].starts_with("38,0.5,"), "{}", lines[2]);
    }

    #[test]
    fn blocks_fall_with_the_values_and_fit_the_line() {
        let points = points();
        let lines = Named { title: "t", points: &points }.lines();
        assert!(lines[0].contains('█') && lines[0].contains("▁ 1.000e0 → 5.000e-3"), "{}", lines[0]);
        assert!(blocks(&[1.0; 500]).chars().count() <= COLUMNS);
        assert_eq!(blocks(&[]), "");
    }
}
