//! The SVG surface.

use super::font::FAMILY;
use super::surface::{Anchor, Point, Rect, Surface, Words};
use crate::Rgb;
use std::fmt::Write as _;

pub(super) struct Svg {
    text: String,
}

impl Svg {
    pub(super) fn new((width, height): (f64, f64), title: &str) -> Self {
        let (width, height) = (Number(width), Number(height));
        let text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
             font-family=\"{FAMILY}\" role=\"img\">\n<title>{}</title>\n",
            escape(title)
        );
        Self { text }
    }

    pub(super) fn finish(mut self) -> String {
        self.text.push_str("</svg>\n");
        self.text
    }
}

impl Surface for Svg {
    fn rect(&mut self, rect: Rect, colour: Rgb) {
        let (x, y, width, height) = (Number(rect.x), Number(rect.y), Number(rect.width), Number(rect.height));
        let _ = writeln!(
            self.text,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"{}\"/>",
            Colour(colour)
        );
    }

    fn line(&mut self, points: &[Point], width: f64, colour: Rgb) {
        let _ = writeln!(
            self.text,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{}\" stroke-linecap=\"round\" stroke-linejoin=\"round\"/>",
            Points(points),
            Colour(colour),
            Number(width)
        );
    }

    fn polygon(&mut self, corners: &[Point], colour: Rgb) {
        let _ = writeln!(self.text, "<polygon points=\"{}\" fill=\"{}\"/>", Points(corners), Colour(colour));
    }

    fn circle(&mut self, centre: Point, radius: f64, colour: Rgb) {
        let (x, y, radius) = (Number(centre.0), Number(centre.1), Number(radius));
        let _ = writeln!(self.text, "<circle cx=\"{x}\" cy=\"{y}\" r=\"{radius}\" fill=\"{}\"/>", Colour(colour));
    }

    fn words(&mut self, words: &Words<'_>) {
        let anchor = match words.anchor {
            Anchor::Start => "",
            Anchor::Middle => " text-anchor=\"middle\"",
            Anchor::End => " text-anchor=\"end\"",
        };
        let weight = if words.bold { " font-weight=\"bold\"" } else { "" };
        let _ = writeln!(
            self.text,
            "<text x=\"{}\" y=\"{}\" font-size=\"{}\" fill=\"{}\"{anchor}{weight}>{}</text>",
            Number(words.at.0),
            Number(words.at.1),
            Number(words.size),
            Colour(words.colour),
            escape(words.text)
        );
    }
}

/// Two decimals at most, without trailing zeros.
struct Number(f64);

impl std::fmt::Display for Number {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Adding 0 turns -0 into 0.
        write!(formatter, "{}", (self.0 * 100.0).round() / 100.0 + 0.0)
    }
}

struct Colour(Rgb);

impl std::fmt::Display for Colour {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [red, green, blue] = self.0;
        write!(formatter, "#{red:02x}{green:02x}{blue:02x}")
    }
}

struct Points<'a>(&'a [Point]);

impl std::fmt::Display for Points<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, &(x, y)) in self.0.iter().enumerate() {
            let space = if index == 0 { "" } else { " " };
            write!(formatter, "{space}{},{}", Number(x), Number(y))?;
        }
        Ok(())
    }
}

/// Escapes mark-up, and drops control characters, which XML forbids even escaped.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars().filter(|letter| !letter.is_control() && !matches!(letter, '\u{fffe}' | '\u{ffff}')) {
        match letter {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_words_stay_words() {
        let mut svg = Svg::new((10.0, 5.5), "a <b> & \"c\"");
        svg.words(&Words::new("</text><script>\0\u{1b}", (1.005, -0.0), 12.0, [255, 0, 16]));
        let text = svg.finish();
        assert!(text.contains("<title>a &lt;b&gt; &amp; &quot;c&quot;</title>"));
        assert!(
            text.contains("x=\"1\" y=\"0\" font-size=\"12\" fill=\"#ff0010\">&lt;/text&gt;&lt;script&gt;</text>"),
            "{text}"
        );
    }
}
