//! The tables of `bench stream`, as Markdown.

use super::measure::{Fidelity, Row};

pub(super) fn contenders(rows: &[Row]) -> String {
    let head = "| contender | ms/frame (p95) | frames/s | speed-up | computed | PSNR to the first, dB (min) | PSNR to the style, dB |\n\
                |---|---|---|---|---|---|---|";
    let line = |row: &Row| {
        format!(
            "\n| {} | {:.1} ({:.1}) | {:.1} | {:.2}× | {:.0} % | {:.1} ({:.1}) | {:.1} |",
            row.name,
            row.seconds_median * 1e3,
            row.seconds_p95 * 1e3,
            row.frames_per_second,
            row.speedup,
            row.computed_share * 100.0,
            row.psnr,
            row.psnr_min,
            row.target_psnr,
        )
    };
    rows.iter().fold(head.to_owned(), |text, row| text + &line(row)) + "\n"
}

pub(super) fn styles(rows: &[Fidelity]) -> String {
    let head = "| style | input to style, dB | restyled to style, dB | gain (least clip) | flicker over the style's (worst clip) |\n\
                |---|---|---|---|---|";
    let line = |row: &Fidelity| {
        let gain = row.psnr - row.input_psnr;
        format!(
            "\n| {} | {:.1} | {:.1} | {gain:+.1} ({:+.1}) | {:.2} |",
            row.style, row.input_psnr, row.psnr, row.gain_min, row.flicker_max
        )
    };
    rows.iter().fold(head.to_owned(), |text, row| text + &line(row)) + "\n"
}
