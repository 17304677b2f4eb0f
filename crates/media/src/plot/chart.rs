//! The frame that charts with two axes share: title, legend, grid, ticks, and the way from values to pixels.

use super::surface::{Anchor, Point, Rect, Surface, Words};
use super::ticks::{self, Ticks};
use super::{WIDTH, font, theme};
use crate::Rgb;

const LEFT: f64 = 64.0;
const RIGHT: f64 = 28.0;
const BOTTOM: f64 = 58.0;
const LEGEND_LINE: f64 = 22.0;
const LEGEND_GAP: f64 = 22.0;
const SWATCH: f64 = 26.0;
/// Labels of ticks closer than this would touch.
const LABEL_PITCH: f64 = 15.0;

/// One direction of a chart.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    ends: (f64, f64),
    ticks: Vec<(f64, String)>,
    logarithmic: bool,
    pixels: (f64, f64),
}

impl Axis {
    pub(super) fn linear(low: f64, high: f64, wanted: usize) -> Self {
        // A single value still needs a width.
        let (low, high) = if high > low { (low, high) } else { (low - 0.5, high + 0.5) };
        let Ticks { low, high, values, decimals } = ticks::linear(low, high, wanted);
        let ticks = values.into_iter().map(|tick| (tick, format!("{:.decimals$}", tick + 0.0))).collect();
        Self { ends: (low, high), ticks, logarithmic: false, pixels: (0.0, 1.0) }
    }

    /// Both ends must be above 0.
    pub(super) fn logarithmic(low: f64, high: f64) -> Self {
        let Ticks { low, high, values, .. } = ticks::logarithmic(low, high.max(low * 1.01));
        let ticks = values.into_iter().map(|tick| (tick, ticks::short(tick))).collect();
        Self { ends: (low, high), ticks, logarithmic: true, pixels: (0.0, 1.0) }
    }

    /// Makes room above for values beyond all others, under a tick of their own.
    pub(super) fn beyond(mut self, label: &str) -> Self {
        self.ends.1 += (self.ends.1 - self.ends.0) * 0.12;
        self.ticks.push((self.ends.1, label.to_owned()));
        self
    }

    fn on(mut self, from: f64, to: f64) -> Self {
        self.pixels = (from, to);
        self
    }

    /// Where a value lies; values beyond an end lie at it.
    pub(super) fn place(&self, value: f64) -> f64 {
        let shape = |value: f64| if self.logarithmic { value.max(f64::MIN_POSITIVE).ln() } else { value };
        let (low, high) = (shape(self.ends.0), shape(self.ends.1));
        let share = if high > low { (shape(value.clamp(self.ends.0, self.ends.1)) - low) / (high - low) } else { 0.5 };
        self.pixels.0 + share * (self.pixels.1 - self.pixels.0)
    }
}

/// How an entry shows in the legend.
#[derive(Debug, Clone, Copy)]
pub(super) enum Mark {
    Line,
    Shape(Shape),
    Square,
}

/// One entry of a legend.
#[derive(Debug, Clone)]
pub(super) struct LegendEntry {
    pub(super) name: String,
    pub(super) colour: Rgb,
    pub(super) mark: Mark,
}

/// Words around a chart.
pub(super) struct Frame<'a> {
    pub(super) title: &'a str,
    pub(super) x_name: &'a str,
    pub(super) y_name: &'a str,
    pub(super) legend: &'a [LegendEntry],
    pub(super) height: f64,
}

/// A drawn frame, ready for data.
pub(super) struct Chart {
    pub(super) plot: Rect,
    pub(super) x: Axis,
    pub(super) y: Axis,
}

impl Chart {
    /// Draws the frame and the grid.
    pub(super) fn draw(surface: &mut dyn Surface, frame: &Frame<'_>, x: Axis, y: Axis) -> Self {
        surface.rect(Rect::new(0.0, 0.0, WIDTH, frame.height), theme::PAPER);
        let mut top = title(surface, frame.title, 20.0);
        top = legend(surface, frame.legend, (20.0, top + 8.0), WIDTH - 40.0);
        surface.words(&Words::new(frame.y_name, (20.0, top + 18.0), theme::TEXT, theme::QUIET));
        top += 34.0;
        let plot = Rect::new(LEFT, top, WIDTH - LEFT - RIGHT, frame.height - top - BOTTOM);
        let chart = Self { x: x.on(plot.x, plot.right()), y: y.on(plot.bottom(), plot.y), plot };
        chart.draw_grid(surface);
        let below = (plot.x + plot.width / 2.0, frame.height - 16.0);
        surface.words(&Words::new(frame.x_name, below, theme::TEXT, theme::QUIET).anchored(Anchor::Middle));
        chart
    }

    pub(super) fn place(&self, (x, y): Point) -> Point {
        (self.x.place(x), self.y.place(y))
    }

    fn draw_grid(&self, surface: &mut dyn Surface) {
        let plot = self.plot;
        let mut free_above = f64::MAX;
        for (tick, label) in &self.y.ticks {
            let y = self.y.place(*tick);
            if y > free_above {
                continue;
            }
            free_above = y - LABEL_PITCH;
            surface.line(&[(plot.x, y), (plot.right(), y)], 1.0, theme::GRID);
            let words = Words::new(label, (plot.x - 8.0, y), theme::SMALL, theme::QUIET).anchored(Anchor::End);
            surface.words(&words.centred_vertically());
        }
        let mut free_from = f64::MIN;
        for (tick, label) in &self.x.ticks {
            let x = self.x.place(*tick);
            surface.line(&[(x, plot.y), (x, plot.bottom())], 1.0, theme::GRID);
            let at = (x, plot.bottom() + 18.0);
            let words = Words::new(label, at, theme::SMALL, theme::QUIET).anchored(Anchor::Middle);
            if words.left() > free_from {
                free_from = words.left() + words.width() + 6.0;
                surface.words(&words);
            }
        }
        surface.line(&[(plot.x, plot.bottom()), (plot.right(), plot.bottom())], 1.2, theme::AXIS);
    }
}

/// Draws the title with its upper edge at `top`, shortened to fit, and gives where it ends.
pub(super) fn title(surface: &mut dyn Surface, text: &str, left: f64) -> f64 {
    if text.is_empty() {
        return 8.0;
    }
    let text = font::shorten(text, theme::TITLE, true, WIDTH - 2.0 * left);
    surface.words(&Words::new(&text, (left, 32.0), theme::TITLE, theme::INK).bold());
    40.0
}

/// Draws entries from left to right, in as many lines as they need, and gives where they end.
pub(super) fn legend(surface: &mut dyn Surface, entries: &[LegendEntry], (left, top): Point, width: f64) -> f64 {
    let (mut x, mut y) = (left, top);
    for entry in entries {
        let name = font::shorten(&entry.name, theme::TEXT, false, width - SWATCH);
        let needed = SWATCH + font::width(&name, theme::TEXT, false);
        if x > left && x + needed > left + width {
            (x, y) = (left, y + LEGEND_LINE);
        }
        let middle = y + LEGEND_LINE / 2.0;
        match entry.mark {
            Mark::Line => surface.line(&[(x + 1.0, middle), (x + 18.0, middle)], 2.5, entry.colour),
            Mark::Shape(shape) => shape.draw(surface, (x + 10.0, middle), 5.5, entry.colour),
            Mark::Square => surface.rect(Rect::new(x + 3.0, middle - 7.0, 14.0, 14.0), entry.colour),
        }
        let words = Words::new(&name, (x + SWATCH, middle), theme::TEXT, theme::INK);
        surface.words(&words.centred_vertically());
        x += needed + LEGEND_GAP;
    }
    if entries.is_empty() { top } else { y + LEGEND_LINE }
}

/// Marks that differ in form, for readers who cannot rely on colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Circle,
    Square,
    Triangle,
    Diamond,
    Down,
}

impl Shape {
    pub(super) const ALL: [Self; 5] = [Self::Circle, Self::Square, Self::Triangle, Self::Diamond, Self::Down];

    /// Draws the mark with a rim of paper, so that marks on top of each other stay countable.
    pub(super) fn draw(self, surface: &mut dyn Surface, centre: Point, radius: f64, colour: Rgb) {
        self.fill(surface, centre, radius + 1.5, theme::PAPER);
        self.fill(surface, centre, radius, colour);
    }

    fn fill(self, surface: &mut dyn Surface, (x, y): Point, radius: f64, colour: Rgb) {
        // Sizes chosen for equal areas.
        let corners: Vec<Point> = match self {
            Self::Circle => return surface.circle((x, y), radius, colour),
            Self::Square => [(-0.89, -0.89), (0.89, -0.89), (0.89, 0.89), (-0.89, 0.89)].to_vec(),
            Self::Triangle => [(0.0, -1.3), (1.2, 0.85), (-1.2, 0.85)].to_vec(),
            Self::Diamond => [(0.0, -1.25), (1.25, 0.0), (0.0, 1.25), (-1.25, 0.0)].to_vec(),
            Self::Down => [(0.0, 1.3), (1.2, -0.85), (-1.2, -0.85)].to_vec(),
        };
        let corners: Vec<Point> = corners.iter().map(|&(dx, dy)| (x + dx * radius, y + dy * radius)).collect();
        surface.polygon(&corners, colour);
    }
}
