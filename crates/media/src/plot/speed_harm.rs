//! Speed against harm: each policy a point, x its speed-up, y its PSNR to the uncached picture; a line joins a family.
//!
//! Labels stand beside their points. Where there is no room for all, points are numbered, and a key follows below.

use super::chart::{Axis, Chart, Frame, LegendEntry, Mark, Shape};
use super::labels::{self, Obstacles, Placed, Wanted};
use super::surface::{Anchor, Nowhere, Point, Rect, Surface, Words};
use super::{Plot, WIDTH, font, plot_error, theme};
use crate::{MediaError, Rgb};

const HEIGHT: f64 = 560.0;
const MARK: f64 = 5.5;
const LABEL_LINE: f64 = 15.0;
const LONGEST_LABEL: f64 = 220.0;
const KEY_COLUMNS: usize = 3;
const KEY_LINE: f64 = 18.0;
const KEY_LEFT: f64 = 28.0;

/// One measured policy.
#[derive(Debug, Clone)]
pub struct PolicyPoint {
    /// What tells it from the others of its family: `n=2`.
    pub label: String,
    /// Seconds of the uncached run over its seconds, above 0.
    pub speedup: f64,
    /// In dB; infinity for pictures that are identical, drawn at the upper edge.
    pub psnr: f64,
}

/// Policies of one kind.
#[derive(Debug, Clone)]
pub struct PolicyFamily {
    /// The name in the legend.
    pub name: String,
    /// Its points, in any order.
    pub points: Vec<PolicyPoint>,
}

/// The plot.
#[derive(Debug, Clone)]
pub struct SpeedHarmPlot {
    /// Heading.
    pub title: String,
    /// The families, in the legend's order.
    pub families: Vec<PolicyFamily>,
}

impl SpeedHarmPlot {
    fn points(&self) -> impl Iterator<Item = &PolicyPoint> {
        self.families.iter().flat_map(|family| &family.points)
    }

    fn axes(&self) -> (Axis, Axis) {
        let bounds = |values: &mut dyn Iterator<Item = f64>| {
            values.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)))
        };
        let (slow, fast) = bounds(&mut self.points().map(|point| point.speedup));
        let finite = &mut self.points().map(|point| point.psnr).filter(|psnr| psnr.is_finite());
        let (worst, best) = bounds(finite);
        let (worst, best) = if worst <= best { (worst, best) } else { (20.0, 40.0) };
        // Room for marks and labels.
        let margin = (best - worst).max(1.0) * 0.06;
        let side = (fast - slow).max(0.1) * 0.04;
        let x = Axis::linear(slow.min(1.0) - if slow < 1.0 { side } else { 0.0 }, fast + side, 8);
        let y = Axis::linear(worst - margin, best + margin, 7);
        let identical = self.points().any(|point| point.psnr.is_infinite());
        (x, if identical { y.beyond("∞") } else { y })
    }

    fn legend(&self) -> Vec<LegendEntry> {
        let entry = |(index, family): (usize, &PolicyFamily)| LegendEntry {
            name: family.name.clone(),
            colour: colour(index),
            mark: Mark::Shape(shape(index)),
        };
        self.families.iter().enumerate().map(entry).collect()
    }
}

fn colour(family: usize) -> Rgb {
    theme::SERIES[family % theme::SERIES.len()]
}

fn shape(family: usize) -> Shape {
    Shape::ALL[family % Shape::ALL.len()]
}

impl Plot for SpeedHarmPlot {
    fn size(&self) -> (f64, f64) {
        let layout = self.lay_out(&self.draw_frame(&mut Nowhere));
        (WIDTH, if layout.numbered { HEIGHT + key_height(layout.drawn.len()) } else { HEIGHT })
    }

    fn title(&self) -> String {
        self.title.clone()
    }

    fn check(&self) -> Result<(), MediaError> {
        if self.points().next().is_none() {
            return Err(plot_error("there are no points"));
        }
        let bad = self.points().find(|point| {
            !(point.speedup.is_finite() && point.speedup > 0.0)
                || point.psnr.is_nan()
                || point.psnr == f64::NEG_INFINITY
        });
        match bad {
            Some(point) => Err(plot_error(format!(
                "point {:?} has speed-up {} and PSNR {}",
                point.label, point.speedup, point.psnr
            ))),
            None => Ok(()),
        }
    }

    fn draw(&self, surface: &mut dyn Surface) {
        let (_, height) = self.size();
        surface.rect(Rect::new(0.0, 0.0, WIDTH, height), theme::PAPER);
        let chart = self.draw_frame(surface);
        let layout = self.lay_out(&chart);
        for (index, line) in layout.lines.iter().enumerate() {
            surface.line(line, 1.6, theme::lightened(colour(index)));
        }
        for drawn in &layout.drawn {
            shape(drawn.family).draw(surface, drawn.at, MARK, colour(drawn.family));
        }
        for ((drawn, text), placed) in layout.drawn.iter().zip(&layout.texts).zip(&layout.placed) {
            write_label(surface, drawn, text, placed);
        }
        if layout.numbered {
            write_key(surface, &layout.drawn);
        }
    }
}

/// A point with its place.
struct Drawn<'a> {
    point: &'a PolicyPoint,
    family: usize,
    at: Point,
}

/// Where everything goes.
struct Layout<'a> {
    /// In the order of families and of speed.
    drawn: Vec<Drawn<'a>>,
    /// One per family.
    lines: Vec<Vec<Point>>,
    texts: Vec<String>,
    placed: Vec<Placed>,
    /// Whether the texts are numbers, which a key below the chart explains.
    numbered: bool,
}

impl SpeedHarmPlot {
    fn draw_frame(&self, surface: &mut dyn Surface) -> Chart {
        let (x, y) = self.axes();
        let legend = self.legend();
        let frame = Frame {
            title: &self.title,
            x_name: "speed-up over the uncached run (×)",
            y_name: "PSNR to the uncached picture (dB), higher is less harm",
            legend: &legend,
            height: HEIGHT,
        };
        Chart::draw(surface, &frame, x, y)
    }

    fn lay_out(&self, chart: &Chart) -> Layout<'_> {
        let mut lines = Vec::new();
        let mut drawn = Vec::new();
        for (family, PolicyFamily { points, .. }) in self.families.iter().enumerate() {
            let mut points: Vec<&PolicyPoint> = points.iter().collect();
            points.sort_by(|left, right| left.speedup.total_cmp(&right.speedup));
            let place = |point: &PolicyPoint| chart.place((point.speedup, point.psnr));
            // No line leads to infinity.
            lines.push(points.iter().filter(|point| point.psnr.is_finite()).map(|point| place(point)).collect());
            drawn.extend(points.into_iter().map(|point| Drawn { point, family, at: place(point) }));
        }
        let marks: Vec<Point> = drawn.iter().map(|drawn| drawn.at).collect();
        let obstacles = Obstacles { within: chart.plot, points: &marks, radius: MARK + 2.0, lines: &lines };
        let mut texts: Vec<String> = drawn.iter().map(|drawn| drawn.point.text()).collect();
        let mut placed = labels::place(&wanted(&drawn, &texts), &obstacles);
        let numbered = !labels::is_clear(&placed, &obstacles);
        if numbered {
            texts = (1..=drawn.len()).map(|number| number.to_string()).collect();
            placed = labels::place(&wanted(&drawn, &texts), &obstacles);
        }
        Layout { drawn, lines, texts, placed, numbered }
    }
}

impl PolicyPoint {
    fn text(&self) -> String {
        let label = font::shorten(&self.label, theme::SMALL, false, LONGEST_LABEL);
        if self.psnr.is_infinite() { format!("{label} (identical)") } else { label }
    }
}

fn wanted(drawn: &[Drawn<'_>], texts: &[String]) -> Vec<Wanted> {
    let width = |text: &str| font::width(text, theme::SMALL, false) + 2.0;
    let pairs = drawn.iter().zip(texts);
    pairs.map(|(drawn, text)| Wanted { point: drawn.at, width: width(text), height: LABEL_LINE }).collect()
}

fn write_label(surface: &mut dyn Surface, drawn: &Drawn<'_>, text: &str, &Placed { rect, far }: &Placed) {
    if far {
        let edge = (drawn.at.0.clamp(rect.x, rect.right()), drawn.at.1.clamp(rect.y, rect.bottom()));
        surface.line(&[drawn.at, edge], 0.8, theme::AXIS);
    }
    let at = (rect.x + rect.width / 2.0, rect.y + rect.height / 2.0);
    let words = Words::new(text, at, theme::SMALL, theme::darkened(colour(drawn.family))).anchored(Anchor::Middle);
    surface.words(&words.centred_vertically());
}

fn key_height(points: usize) -> f64 {
    points.div_ceil(KEY_COLUMNS) as f64 * KEY_LINE + 12.0
}

/// Explains the numbers below the chart, column by column.
fn write_key(surface: &mut dyn Surface, drawn: &[Drawn<'_>]) {
    let rows = drawn.len().div_ceil(KEY_COLUMNS);
    let width = (WIDTH - 2.0 * KEY_LEFT) / KEY_COLUMNS as f64;
    for (index, drawn) in drawn.iter().enumerate() {
        let x = KEY_LEFT + (index / rows) as f64 * width;
        let y = HEIGHT + (index % rows) as f64 * KEY_LINE + KEY_LINE / 2.0;
        shape(drawn.family).draw(surface, (x, y), MARK * 0.8, colour(drawn.family));
        let text = format!("{}  {}", index + 1, drawn.point.text());
        let text = font::shorten(&text, theme::SMALL, false, width - 24.0);
        let words = Words::new(&text, (x + 12.0, y), theme::SMALL, theme::darkened(colour(drawn.family)));
        surface.words(&words.centred_vertically());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(label: &str, speedup: f64, psnr: f64) -> PolicyPoint {
        PolicyPoint { label: label.to_owned(), speedup, psnr }
    }

    #[test]
    fn draws_identical_pictures_and_refuses_nonsense() {
        let plot =
            |points| SpeedHarmPlot { title: "t".into(), families: vec![PolicyFamily { name: "f".into(), points }] };
        let svg = plot(vec![point("off", 1.0, f64::INFINITY), point("n=2", 1.8, 31.0)]).to_svg().unwrap();
        assert!(svg.contains("off (identical)") && !svg.contains("NaN") && !svg.contains("inf"));
        assert!(plot(vec![]).to_svg().is_err());
        for bad in
            [point("a", f64::NAN, 1.0), point("a", 0.0, 1.0), point("a", 1.0, f64::NAN), point("a", f64::INFINITY, 1.0)]
        {
            assert!(plot(vec![bad]).to_picture(1.0).is_err());
        }
        assert!(plot(vec![point("only", 1.0, f64::INFINITY)]).to_svg().is_ok());
        assert!(plot(vec![point("only", 3.0, 20.0)]).to_svg().is_ok());
    }

    #[test]
    fn a_crowd_is_numbered() {
        let points: Vec<PolicyPoint> = (0..40)
            .map(|index| point(&format!("threshold=0.{index}+warmup=2"), 2.0 + f64::from(index) * 0.01, 30.0))
            .collect();
        let plot = SpeedHarmPlot { title: "t".into(), families: vec![PolicyFamily { name: "f".into(), points }] };
        let svg = plot.to_svg().unwrap();
        assert!(plot.size().1 > HEIGHT && svg.contains(">40<") && svg.contains(">40  threshold=0.39+warmup=2<"));
    }
}
