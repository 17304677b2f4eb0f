//! Speed against harm: each policy a point, x its speed-up, y its PSNR to the uncached picture; a line joins a family.

use super::chart::{Axis, Chart, Frame, LegendEntry, Mark, Shape};
use super::labels::{self, Obstacles, Placed, Wanted};
use super::surface::{Anchor, Point, Surface, Words};
use super::{Plot, WIDTH, font, plot_error, theme};
use crate::{MediaError, Rgb};

const HEIGHT: f64 = 560.0;
const MARK: f64 = 5.5;
const LABEL_LINE: f64 = 15.0;
const LONGEST_LABEL: f64 = 220.0;

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

/// A point with the look of its family and its place.
struct Drawn<'a> {
    point: &'a PolicyPoint,
    at: Point,
    colour: Rgb,
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
        (WIDTH, HEIGHT)
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
        let (x, y) = self.axes();
        let legend = self.legend();
        let frame = Frame {
            title: &self.title,
            x_name: "speed-up over the uncached run (×)",
            y_name: "PSNR to the uncached picture (dB), higher is less harm",
            legend: &legend,
            height: HEIGHT,
        };
        let chart = Chart::draw(surface, &frame, x, y);
        let mut lines = Vec::new();
        let mut drawn = Vec::new();
        for (index, family) in self.families.iter().enumerate() {
            let mut points: Vec<&PolicyPoint> = family.points.iter().collect();
            points.sort_by(|left, right| left.speedup.total_cmp(&right.speedup));
            let places: Vec<Point> = points.iter().map(|point| chart.place((point.speedup, point.psnr))).collect();
            // No line leads to infinity.
            let finite = points.iter().zip(&places).filter(|(point, _)| point.psnr.is_finite());
            let joined: Vec<Point> = finite.map(|(_, &place)| place).collect();
            surface.line(&joined, 1.6, theme::lightened(colour(index)));
            drawn.extend(points.iter().zip(&places).map(|(&point, &at)| Drawn { point, at, colour: colour(index) }));
            lines.push(places);
        }
        for (index, places) in lines.iter().enumerate() {
            for &at in places {
                shape(index).draw(surface, at, MARK, colour(index));
            }
        }
        write_labels(surface, &chart, &drawn, &lines);
    }
}

fn write_labels(surface: &mut dyn Surface, chart: &Chart, drawn: &[Drawn<'_>], lines: &[Vec<Point>]) {
    let texts: Vec<String> = drawn
        .iter()
        .map(|drawn| {
            let label = font::shorten(&drawn.point.label, theme::SMALL, false, LONGEST_LABEL);
            if drawn.point.psnr.is_infinite() { format!("{label} (identical)") } else { label }
        })
        .collect();
    let wanted: Vec<Wanted> = drawn
        .iter()
        .zip(&texts)
        .map(|(drawn, text)| Wanted {
            point: drawn.at,
            width: font::width(text, theme::SMALL, false) + 2.0,
            height: LABEL_LINE,
        })
        .collect();
    let points: Vec<Point> = drawn.iter().map(|drawn| drawn.at).collect();
    let obstacles = Obstacles { within: chart.plot, points: &points, radius: MARK + 2.0, lines };
    let placed = labels::place(&wanted, &obstacles);
    for ((drawn, text), Placed { rect, far }) in drawn.iter().zip(&texts).zip(placed) {
        if far {
            let edge = (drawn.at.0.clamp(rect.x, rect.right()), drawn.at.1.clamp(rect.y, rect.bottom()));
            surface.line(&[drawn.at, edge], 0.8, theme::AXIS);
        }
        let at = (rect.x + rect.width / 2.0, rect.y + rect.height / 2.0);
        let words = Words::new(text, at, theme::SMALL, theme::darkened(drawn.colour)).anchored(Anchor::Middle);
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
}
