//! The results as Markdown.

use std::fmt::Write as _;

use refrain_metrics::mean;
use refrain_morph::judge::Judgement;

/// Judgements of one kind of sequence, one per pair.
pub(super) struct Row {
    pub(super) name: String,
    pub(super) judged: Vec<Judgement>,
    /// One per pair, of sequences that the network made.
    pub(super) costs: Vec<Cost>,
}

/// What a sequence took.
pub(super) struct Cost {
    /// Seconds of the inversion of both pictures.
    pub(super) inversion: f64,
    /// Seconds of its frames, previews and decoding included.
    pub(super) rendering: f64,
    /// Least PSNR in dB of a frame to the same without a cache.
    pub(super) fidelity: Option<f64>,
}

impl Row {
    fn cell(&self, value: fn(&Judgement) -> f64, digits: usize) -> String {
        let (middle, deviation) = spread(&self.judged.iter().map(value).collect::<Vec<f64>>());
        format!("{middle:.digits$} ± {deviation:.digits$}")
    }
}

/// Mean and standard deviation.
fn spread(values: &[f64]) -> (f64, f64) {
    let middle = mean(values).unwrap_or(f64::NAN);
    let squares: f64 = values.iter().map(|value| (value - middle) * (value - middle)).sum();
    (middle, (squares / (values.len().max(2) - 1) as f64).sqrt())
}

/// Mean ± standard deviation over the pairs.
pub(super) fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| sequence | GLCS | global | local | path | largest step | pixel path | largest pixel step | from A | to B |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let cells = [
            row.cell(|row| 100.0 * row.glcs.glcs, 2),
            row.cell(|row| 100.0 * row.glcs.global, 2),
            row.cell(|row| 100.0 * row.glcs.local, 2),
            row.cell(|row| row.path.sum, 3),
            row.cell(|row| row.path.max, 3),
            row.cell(|row| row.pixel_path.sum, 3),
            row.cell(|row| row.pixel_path.max, 3),
            row.cell(|row| row.leaves_first, 2),
            row.cell(|row| row.nears_last, 2),
        ];
        let _ = writeln!(text, "| {} | {} |", row.name, cells.join(" | "));
    }
    text
}

/// Median seconds, and what caches changed.
pub(super) fn costs(rows: &[Row]) -> String {
    let mut text =
        String::from("| sequence | inversion s | frames s | least PSNR dB to uncached |\n|---|---|---|---|\n");
    for row in rows.iter().filter(|row| !row.costs.is_empty()) {
        let middle = |value: fn(&Cost) -> f64| {
            let mut values: Vec<f64> = row.costs.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
        };
        let (inversion, rendering) = (middle(|cost| cost.inversion), middle(|cost| cost.rendering));
        let fidelity = row.costs.iter().filter_map(|cost| cost.fidelity).min_by(f64::total_cmp);
        let fidelity = fidelity.map_or_else(|| "–".to_owned(), |least| format!("{least:.1}"));
        let _ = writeln!(text, "| {} | {inversion:.2} | {rendering:.2} | {fidelity} |", row.name);
    }
    text
}

/// Differences pair by pair of `subject` to every other row: mean ± standard error, and in how many pairs it is better
/// (a higher GLCS, a smaller largest step).
pub(super) fn differences(subject: &Row, rows: &[Row]) -> String {
    let mut text =
        format!("| {} against | GLCS | better in | largest step | better in |\n|---|---|---|---|---|\n", subject.name);
    for row in rows.iter().filter(|row| row.name != subject.name) {
        let count = subject.judged.len().min(row.judged.len());
        let of = |value: fn(&Judgement) -> f64| -> Vec<f64> {
            subject.judged.iter().zip(&row.judged).map(|(own, other)| value(own) - value(other)).collect()
        };
        let (glcs, step) = (of(|row| 100.0 * row.glcs.glcs), of(|row| row.path.max));
        let shown = |values: &[f64], digits: usize| {
            let (middle, deviation) = spread(values);
            format!("{middle:+.digits$} ± {:.digits$}", deviation / (count.max(1) as f64).sqrt())
        };
        let better = glcs.iter().filter(|difference| **difference > 0.0).count();
        let smaller = step.iter().filter(|difference| **difference < 0.0).count();
        let (glcs, step) = (shown(&glcs, 2), shown(&step, 3));
        let _ = writeln!(text, "| {} | {glcs} | {better} of {count} | {step} | {smaller} of {count} |", row.name);
    }
    text
}
