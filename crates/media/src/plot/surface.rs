//! What a plot may draw: filled shapes, lines and words, in logical pixels with y downwards.

use super::font;
use crate::Rgb;

/// A point (x, y).
pub type Point = (f64, f64);

/// A rectangle by its upper left corner.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rect {
    /// Left edge.
    pub x: f64,
    /// Upper edge.
    pub y: f64,
    /// Width.
    pub width: f64,
    /// Height.
    pub height: f64,
}

impl Rect {
    pub(super) fn new(x: f64, y: f64, width: f64, height: f64) -> Self {
        Self { x, y, width, height }
    }

    pub(super) fn right(&self) -> f64 {
        self.x + self.width
    }

    pub(super) fn bottom(&self) -> f64 {
        self.y + self.height
    }

    /// The area that two rectangles share.
    pub(super) fn overlap(&self, other: &Self) -> f64 {
        let width = self.right().min(other.right()) - self.x.max(other.x);
        let height = self.bottom().min(other.bottom()) - self.y.max(other.y);
        width.max(0.0) * height.max(0.0)
    }
}

/// Which point of the words is at the given place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    /// Their left end.
    Start,
    /// Their middle.
    Middle,
    /// Their right end.
    End,
}

/// Words on one line.
#[derive(Debug, Clone)]
pub struct Words<'a> {
    /// What is written.
    pub text: &'a str,
    /// Place of the anchor, on the base line.
    pub at: Point,
    /// Size of the font (its em) in logical pixels.
    pub size: f64,
    /// Whether in bold.
    pub bold: bool,
    /// Which point is at `at`.
    pub anchor: Anchor,
    /// Colour.
    pub colour: Rgb,
}

impl<'a> Words<'a> {
    pub(super) fn new(text: &'a str, at: Point, size: f64, colour: Rgb) -> Self {
        Self { text, at, size, bold: false, anchor: Anchor::Start, colour }
    }

    pub(super) fn bold(mut self) -> Self {
        self.bold = true;
        self
    }

    pub(super) fn anchored(mut self, anchor: Anchor) -> Self {
        self.anchor = anchor;
        self
    }

    /// Moves the base line so that capital letters are centred on `at`.
    pub(super) fn centred_vertically(mut self) -> Self {
        self.at.1 += self.size * font::CAPITAL_HEIGHT / 2.0;
        self
    }

    pub(super) fn width(&self) -> f64 {
        font::width(self.text, self.size, self.bold)
    }

    /// Where the words begin.
    pub(super) fn left(&self) -> f64 {
        let shift = match self.anchor {
            Anchor::Start => 0.0,
            Anchor::Middle => 0.5,
            Anchor::End => 1.0,
        };
        self.at.0 - shift * self.width()
    }
}

/// Something to draw on.
pub trait Surface {
    /// Fills a rectangle.
    fn rect(&mut self, rect: Rect, colour: Rgb);
    /// Draws a line through the points, with round ends.
    fn line(&mut self, points: &[Point], width: f64, colour: Rgb);
    /// Fills a convex polygon.
    fn polygon(&mut self, corners: &[Point], colour: Rgb);
    /// Fills a circle.
    fn circle(&mut self, centre: Point, radius: f64, colour: Rgb);
    /// Writes words.
    fn words(&mut self, words: &Words<'_>);
}

/// A surface that shows nothing, for finding out where things would be.
pub(super) struct Nowhere;

impl Surface for Nowhere {
    fn rect(&mut self, _: Rect, _: Rgb) {}
    fn line(&mut self, _: &[Point], _: f64, _: Rgb) {}
    fn polygon(&mut self, _: &[Point], _: Rgb) {}
    fn circle(&mut self, _: Point, _: f64, _: Rgb) {}
    fn words(&mut self, _: &Words<'_>) {}
}
