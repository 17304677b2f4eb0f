//! Draws every kind of plot from made-up but life-like values, to look at:
//! `cargo run -p refrain-media --example plots -- FOLDER`

use refrain_media::plot::{
    Caption, Cell, Curves, HeatMap, HeatRow, Plot, PolicyFamily, PolicyPoint, Series, SpeedHarmPlot, TextStyle,
    contact_sheet,
};
use refrain_media::terminal::Colours;
use refrain_media::{MediaError, Picture, save_picture};
use std::path::{Path, PathBuf};

fn main() -> Result<(), MediaError> {
    let folder = std::env::args().nth(1).map(PathBuf::from).unwrap_or_default();
    for (name, plot) in plots() {
        plot.save(&folder.join(name).with_extension("png"))?;
        plot.save(&folder.join(name).with_extension("svg"))?;
    }
    save_sheet(&folder.join("sheet.png"))?;
    let small = heat_map(4, 20, 2);
    print!("{}", small.to_text(TextStyle::default()));
    print!("{}", small.to_text(TextStyle { colours: Colours::True, columns: 60 }));
    Ok(())
}

fn plots() -> Vec<(&'static str, Box<dyn Plot>)> {
    vec![
        ("heat", Box::new(heat_map(12, 20, 3))),
        ("heat-large", Box::new(heat_map(28, 250, 2))),
        ("speed-harm", Box::new(speed_harm())),
        ("speed-harm-dense", Box::new(dense())),
        ("curves", Box::new(curves(false))),
        ("curves-log", Box::new(curves(true))),
    ]
}

fn heat_map(blocks: usize, steps: usize, parts: usize) -> HeatMap {
    let names = ["attention", "cross-attention", "feed-forward"];
    let cell = |block: usize, part: usize, step: usize| match (step * 7 + block * 3 + part * 5) % 11 {
        _ if step < 2 || step + 1 == steps => Cell::Compute,
        _ if step % 6 == 5 && block > 1 && block < blocks - 2 => Cell::Covered,
        0..=2 => Cell::Compute,
        3 | 4 => Cell::Forecast,
        _ => Cell::Reuse,
    };
    let row = |block: usize, part: usize| HeatRow {
        label: format!("{block}.{}", names[part % names.len()]),
        group: block,
        cells: (0..steps).map(|step| cell(block, part, step)).collect(),
    };
    let rows = (0..blocks)
        .flat_map(|block| (0..parts).map(move |part| (block, part)))
        .map(|(block, part)| row(block, part))
        .collect();
    HeatMap { title: format!("taylor:n=3+order=1, {steps} steps, emoji"), rows }
}

fn speed_harm() -> SpeedHarmPlot {
    let family = |name: &str, points: &[(&str, f64, f64)]| PolicyFamily {
        name: name.to_owned(),
        points: points
            .iter()
            .map(|&(label, speedup, psnr)| PolicyPoint { label: label.to_owned(), speedup, psnr })
            .collect(),
    };
    SpeedHarmPlot {
        title: "Speed and harm of each policy, 16 prompts, 20 steps".to_owned(),
        families: vec![
            family("off", &[("off", 1.0, f64::INFINITY)]),
            family("interval", &[("n=2", 1.82, 28.1), ("n=3", 2.49, 24.6), ("n=4", 3.02, 22.4)]),
            family(
                "dbcache",
                &[("threshold=0.05", 1.12, 41.3), ("threshold=0.1", 1.41, 33.8), ("threshold=0.2", 1.86, 28.9)],
            ),
            family("taylor", &[("n=2", 1.78, 31.7), ("n=3", 2.41, 27.5), ("n=4", 2.93, 24.9)]),
            family("easycache", &[("threshold=0.02", 1.34, 34.6), ("threshold=0.05", 1.9, 29.4)]),
            family(
                "fewer steps",
                &[("steps:15", 1.31, 27.2), ("steps:10", 1.93, 24.1), ("steps:8", 2.38, 22.9), ("steps:6", 3.1, 20.8)],
            ),
        ],
    }
}

/// More policies, with longer names, than anyone should compare in one plot.
fn dense() -> SpeedHarmPlot {
    let families = (0..9).map(|family| PolicyFamily {
        name: format!("family number {family}"),
        points: (0..5)
            .map(|point| PolicyPoint {
                label: format!("threshold={:.2}+warmup={family}", 0.05 * f64::from(point + 1)),
                speedup: 1.1 + 0.35 * f64::from(point) + 0.03 * f64::from(family * 7 % 9),
                psnr: if family == 3 && point == 0 {
                    f64::INFINITY
                } else {
                    42.0 - 4.0 * f64::from(point) - 0.9 * f64::from(family * 5 % 9)
                },
            })
            .collect(),
    });
    SpeedHarmPlot { title: "A crowd".to_owned(), families: families.collect() }
}

fn curves(logarithmic: bool) -> Curves {
    let series = |name: &str, rate: f64, floor: f64| Series {
        name: name.to_owned(),
        points: (0..3000u32)
            .map(|step| {
                let noise = f64::from(step.wrapping_mul(2_654_435_761) >> 16) / 65536.0 - 0.5;
                (f64::from(step * 10), (floor + (1.0 - floor) * (-f64::from(step) * rate).exp()) * (1.0 + 0.15 * noise))
            })
            .collect(),
    };
    Curves {
        title: "Router training".to_owned(),
        x_name: "training step".to_owned(),
        y_name: "loss".to_owned(),
        logarithmic,
        series: vec![
            series("image-error proxy", 0.004, 0.08),
            series("routing cost", 0.0015, 0.2),
            series("total", 0.002, 0.03),
        ],
    }
}

fn save_sheet(path: &Path) -> Result<(), MediaError> {
    let prompts = [
        "a red fox on a blue background",
        "ein Bär mit Hut",
        "лиса",
        "a very long prompt with many words, which has to be cut somewhere",
        "🦊 fox",
        "",
    ];
    let items: Vec<Caption> = prompts
        .iter()
        .enumerate()
        .map(|(index, text)| {
            let colour = [40 * index as u8, 120, 255 - 40 * index as u8];
            Caption {
                picture: Picture::filled(128, if index == 1 { 96 } else { 128 }, colour),
                text: (*text).to_owned(),
            }
        })
        .collect();
    save_picture(path, &contact_sheet("interval:n=2", &items, 4, 160)?)
}
