//! Several named series over one axis: losses of a training, drift over steps.

use super::chart::{Axis, Chart, Frame, LegendEntry, Mark};
use super::surface::{Point, Surface};
use super::{Plot, WIDTH, plot_error, theme};
use crate::MediaError;

const HEIGHT: f64 = 460.0;
/// Long series are drawn by the lowest and highest value of this many intervals.
const INTERVALS: usize = 800;
/// A series of more points than this is drawn pale, under the line of its averages.
const MANY: usize = 400;
const AVERAGES: usize = 150;

/// One line.
#[derive(Debug, Clone)]
pub struct Series {
    /// The name in the legend.
    pub name: String,
    /// (x, y), x growing. A value that is not finite (or not above 0 on a logarithmic axis) leaves a gap.
    pub points: Vec<(f64, f64)>,
}

/// The plot.
#[derive(Debug, Clone)]
pub struct Curves {
    /// Heading.
    pub title: String,
    /// What x is, with its unit.
    pub x_name: String,
    /// What y is, with its unit.
    pub y_name: String,
    /// Whether y is logarithmic.
    pub logarithmic: bool,
    /// The lines, in the legend's order.
    pub series: Vec<Series>,
}

impl Curves {
    fn usable(&self, &(x, y): &Point) -> bool {
        x.is_finite() && y.is_finite() && (!self.logarithmic || y > 0.0)
    }

    fn points(&self) -> impl Iterator<Item = &Point> {
        self.series.iter().flat_map(|series| &series.points).filter(|point| self.usable(point))
    }
}

impl Plot for Curves {
    fn size(&self) -> (f64, f64) {
        (WIDTH, HEIGHT)
    }

    fn title(&self) -> String {
        self.title.clone()
    }

    fn check(&self) -> Result<(), MediaError> {
        if self.points().next().is_none() { Err(plot_error("there are no finite values")) } else { Ok(()) }
    }

    fn draw(&self, surface: &mut dyn Surface) {
        let start = ((f64::MAX, f64::MAX), (f64::MIN, f64::MIN));
        let (low, high) = self
            .points()
            .fold(start, |(low, high), &(x, y)| ((low.0.min(x), low.1.min(y)), (high.0.max(x), high.1.max(y))));
        let y = if self.logarithmic { Axis::logarithmic(low.1, high.1) } else { Axis::linear(low.1, high.1, 6) };
        let colour = |index: usize| theme::SERIES[index % theme::SERIES.len()];
        let entry = |(index, series): (usize, &Series)| LegendEntry {
            name: series.name.clone(),
            colour: colour(index),
            mark: Mark::Line,
        };
        let legend: Vec<LegendEntry> = self.series.iter().enumerate().map(entry).collect();
        let frame =
            Frame { title: &self.title, x_name: &self.x_name, y_name: &self.y_name, legend: &legend, height: HEIGHT };
        let chart = Chart::draw(surface, &frame, Axis::linear(low.0, high.0, 8), y);
        let place = |run: Vec<Point>| -> Vec<Point> { run.into_iter().map(|point| chart.place(point)).collect() };
        let runs = |series: &'_ Series| -> Vec<Vec<Point>> {
            series
                .points
                .split(|point| !self.usable(point))
                .map(<[Point]>::to_vec)
                .filter(|run| !run.is_empty())
                .collect()
        };
        // First what is noisy, then the lines that should be followed.
        for (index, series) in self.series.iter().enumerate() {
            for run in runs(series).iter().filter(|run| run.len() > MANY) {
                surface.line(&place(thinned(run)), 1.0, theme::lightened(colour(index)));
            }
        }
        for (index, series) in self.series.iter().enumerate() {
            for run in runs(series) {
                let places = place(if run.len() > MANY { averaged(&run) } else { run });
                match places.as_slice() {
                    [only] => surface.circle(*only, 2.5, colour(index)),
                    _ => surface.line(&places, 2.0, colour(index)),
                }
            }
        }
    }
}

/// The mean of each of [`AVERAGES`] parts, in x and in y.
fn averaged(run: &[Point]) -> Vec<Point> {
    let mean = |part: &[Point]| {
        let count = part.len() as f64;
        (part.iter().map(|point| point.0 / count).sum(), part.iter().map(|point| point.1 / count).sum())
    };
    run.chunks(run.len().div_ceil(AVERAGES)).map(mean).collect()
}

/// Keeps the look of a long series: per interval its lowest and highest point, in their order.
fn thinned(run: &[Point]) -> Vec<Point> {
    if run.len() <= 2 * INTERVALS {
        return run.to_vec();
    }
    let mut kept = Vec::with_capacity(2 * INTERVALS);
    for part in run.chunks(run.len().div_ceil(INTERVALS)) {
        let by_y = |left: &(usize, &Point), right: &(usize, &Point)| left.1.1.total_cmp(&right.1.1);
        let lowest = part.iter().enumerate().min_by(by_y);
        let highest = part.iter().enumerate().max_by(by_y);
        if let (Some(lowest), Some(highest)) = (lowest, highest) {
            let (first, second) = if lowest.0 <= highest.0 { (lowest, highest) } else { (highest, lowest) };
            kept.push(*first.1);
            if first.0 != second.0 {
                kept.push(*second.1);
            }
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curves(points: Vec<Point>, logarithmic: bool) -> Curves {
        let series = vec![Series { name: "loss".into(), points }];
        Curves { title: "t".into(), x_name: "step".into(), y_name: "loss".into(), logarithmic, series }
    }

    #[test]
    fn gaps_and_single_values() {
        let svg = curves(vec![(0.0, 1.0), (1.0, f64::NAN), (2.0, 0.5), (3.0, 0.4)], false).to_svg().unwrap();
        assert!(svg.contains("<circle") && !svg.contains("NaN"));
        assert!(curves(vec![(0.0, f64::NAN)], false).to_svg().is_err());
        assert!(curves(vec![(0.0, 0.0), (1.0, -1.0)], true).to_svg().is_err());
        assert!(curves(vec![(0.0, 0.0)], false).to_svg().is_ok());
        assert!(curves(vec![(0.0, 1e-3), (1.0, 1e3)], true).to_svg().is_ok());
    }

    #[test]
    fn a_long_series_is_thinned_without_losing_its_extremes() {
        let mut points: Vec<Point> =
            (0..100_000).map(|index| (f64::from(index), (f64::from(index) * 0.01).sin())).collect();
        points[77_777].1 = 9.0;
        let thin = thinned(&points);
        assert!(thin.len() <= 2 * INTERVALS && thin.contains(&(77_777.0, 9.0)));
        assert!(thin.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }
}
