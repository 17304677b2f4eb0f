//! The bitmap surface: every shape is a distance to its edge, and a pixel is covered by how far its centre lies inside.

use super::font;
use super::plot_error;
use super::surface::{Point, Rect, Surface, Words};
use crate::{MediaError, Picture, Rgb};

/// Beyond this a plot is a mistake.
const MOST_PIXELS: f64 = 100e6;

pub(super) struct Bitmap {
    picture: Picture,
    scale: f64,
}

impl Bitmap {
    pub(super) fn new((width, height): (f64, f64), scale: f64) -> Result<Self, MediaError> {
        let (width, height) = ((width * scale).ceil(), (height * scale).ceil());
        if !(width * height <= MOST_PIXELS && width >= 1.0 && height >= 1.0) {
            return Err(plot_error(format!("a bitmap of {width} by {height} pixels is too large or empty")));
        }
        Ok(Self { picture: Picture::filled(width as u32, height as u32, super::theme::PAPER), scale })
    }

    pub(super) fn into_picture(self) -> Picture {
        self.picture
    }

    fn scaled(&self, (x, y): Point) -> Point {
        (x * self.scale, y * self.scale)
    }

    /// Blends a colour over one pixel; outside the picture, does nothing.
    fn blend(&mut self, x: i64, y: i64, colour: Rgb, coverage: f64) {
        let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y)) else { return };
        if coverage <= 0.0 || x >= self.picture.width() || y >= self.picture.height() {
            return;
        }
        let coverage = coverage.min(1.0);
        let mut mixed = self.picture.pixel(x, y);
        for (value, ink) in mixed.iter_mut().zip(colour) {
            *value = (f64::from(*value) + (f64::from(ink) - f64::from(*value)) * coverage).round() as u8;
        }
        self.picture.set_pixel(x, y, mixed);
    }

    /// Paints all pixels of a box (grown by one) by `coverage` of their centres.
    fn paint(&mut self, (left, top): Point, (right, bottom): Point, colour: Rgb, coverage: impl Fn(Point) -> f64) {
        let clip = |value: f64, limit: u32| value.clamp(0.0, f64::from(limit)) as i64;
        let (width, height) = (self.picture.width(), self.picture.height());
        for y in clip(top.floor() - 1.0, height)..clip(bottom.ceil() + 1.0, height) {
            for x in clip(left.floor() - 1.0, width)..clip(right.ceil() + 1.0, width) {
                self.blend(x, y, colour, coverage((x as f64 + 0.5, y as f64 + 0.5)));
            }
        }
    }
}

impl Surface for Bitmap {
    fn rect(&mut self, rect: Rect, colour: Rgb) {
        let (left, top) = self.scaled((rect.x, rect.y));
        let (right, bottom) = self.scaled((rect.right(), rect.bottom()));
        // The share of the pixel's side that lies between two edges: exact for upright edges.
        let share = |centre: f64, low: f64, high: f64| ((centre + 0.5).min(high) - (centre - 0.5).max(low)).max(0.0);
        self.paint((left, top), (right, bottom), colour, |(x, y)| share(x, left, right) * share(y, top, bottom));
    }

    fn line(&mut self, points: &[Point], width: f64, colour: Rgb) {
        let points: Vec<Point> = points.iter().map(|&point| self.scaled(point)).collect();
        let radius = (width * self.scale / 2.0).max(0.5);
        // Pixels near several segments would be blended several times, so the largest coverage is collected first.
        let mut covered = std::collections::BTreeMap::<(i64, i64), f64>::new();
        for pair in points.windows(2) {
            let &[from, to] = pair else { continue };
            let reach = radius + 1.0;
            let span = |low: f64, high: f64| (low - reach).floor() as i64..=(high + reach).ceil() as i64;
            for y in span(from.1.min(to.1), from.1.max(to.1)) {
                for x in span(from.0.min(to.0), from.0.max(to.0)) {
                    let coverage = radius + 0.5 - distance_to_segment((x as f64 + 0.5, y as f64 + 0.5), from, to);
                    if coverage > 0.0 {
                        let most = covered.entry((x, y)).or_default();
                        *most = most.max(coverage);
                    }
                }
            }
        }
        for ((x, y), coverage) in covered {
            self.blend(x, y, colour, coverage);
        }
    }

    fn polygon(&mut self, corners: &[Point], colour: Rgb) {
        let corners: Vec<Point> = corners.iter().map(|&corner| self.scaled(corner)).collect();
        let low = corners.iter().fold((f64::MAX, f64::MAX), |low, corner| (low.0.min(corner.0), low.1.min(corner.1)));
        let high =
            corners.iter().fold((f64::MIN, f64::MIN), |high, corner| (high.0.max(corner.0), high.1.max(corner.1)));
        let edges: Vec<(Point, Point)> = corners.iter().copied().zip(corners.iter().copied().cycle().skip(1)).collect();
        let turn: f64 = edges.iter().map(|(a, b)| a.0 * b.1 - b.0 * a.1).sum::<f64>().signum();
        self.paint(low, high, colour, |point| {
            let inside = edges.iter().map(|&(a, b)| {
                let (dx, dy) = (b.0 - a.0, b.1 - a.1);
                turn * (dx * (point.1 - a.1) - dy * (point.0 - a.0)) / dx.hypot(dy).max(1e-9)
            });
            inside.fold(f64::MAX, f64::min) + 0.5
        });
    }

    fn circle(&mut self, centre: Point, radius: f64, colour: Rgb) {
        let (x, y) = self.scaled(centre);
        let radius = radius * self.scale;
        self.paint((x - radius, y - radius), (x + radius, y + radius), colour, |point| {
            radius + 0.5 - (point.0 - x).hypot(point.1 - y)
        });
    }

    fn words(&mut self, words: &Words<'_>) {
        let at = self.scaled((words.left(), words.at.1));
        let colour = words.colour;
        font::rasterise(words.text, words.size * self.scale, words.bold, at, |x, y, coverage| {
            self.blend(x, y, colour, f64::from(coverage));
        });
    }
}

fn distance_to_segment(point: Point, from: Point, to: Point) -> f64 {
    let (dx, dy) = (to.0 - from.0, to.1 - from.1);
    let length = dx * dx + dy * dy;
    let along = if length > 0.0 { ((point.0 - from.0) * dx + (point.1 - from.1) * dy) / length } else { 0.0 };
    let along = along.clamp(0.0, 1.0);
    (point.0 - from.0 - along * dx).hypot(point.1 - from.1 - along * dy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ink(bitmap: &Bitmap) -> f64 {
        bitmap.picture.pixels().iter().map(|&byte| 1.0 - f64::from(byte) / 255.0).sum::<f64>() / 3.0
    }

    #[test]
    fn shapes_cover_their_area() {
        let draw = |shape: fn(&mut Bitmap)| {
            let mut bitmap = Bitmap::new((40.0, 40.0), 1.0).unwrap();
            shape(&mut bitmap);
            ink(&bitmap)
        };
        let rect = draw(|bitmap| bitmap.rect(Rect::new(3.25, 4.5, 10.5, 7.25), [0; 3]));
        assert!((rect - 10.5 * 7.25).abs() < 0.5, "{rect}");
        let circle = draw(|bitmap| bitmap.circle((20.3, 19.8), 9.0, [0; 3]));
        assert!((circle - std::f64::consts::PI * 81.0).abs() < 2.0, "{circle}");
        let triangle = draw(|bitmap| bitmap.polygon(&[(5.0, 5.0), (35.0, 5.0), (5.0, 25.0)], [0; 3]));
        assert!((triangle - 300.0).abs() < 3.0, "{triangle}");
        let line = draw(|bitmap| bitmap.line(&[(5.0, 5.0), (25.0, 5.0), (25.0, 30.0)], 3.0, [0; 3]));
        assert!((line - (45.0 * 3.0 + 7.0)).abs() < 6.0, "{line}");
    }

    #[test]
    fn drawing_outside_is_cut_off() {
        let mut bitmap = Bitmap::new((4.0, 4.0), 1.0).unwrap();
        bitmap.rect(Rect::new(-100.0, -100.0, 50.0, 50.0), [0; 3]);
        bitmap.circle((1e9, -1e9), 5.0, [0; 3]);
        bitmap.words(&Words::new("outside", (-500.0, 2.0), 12.0, [0; 3]));
        assert_eq!(ink(&bitmap), 0.0);
        assert!(Bitmap::new((1e9, 1e9), 1.0).is_err() && Bitmap::new((f64::NAN, 1.0), 1.0).is_err());
    }
}
