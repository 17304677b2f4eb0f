//! Two pixels in one character: the upper half block, its ink above and its paper below.

use super::Colours;
use crate::{Picture, Rgb};
use std::fmt::Write as _;

/// Shades for terminals without colours, from dark to light; each stands for a cell of two pixels.
const SHADES: [char; 5] = [' ', '░', '▒', '▓', '█'];
const RESET: &str = "\x1b[0m";

/// Draws every pixel; the last line of an odd height has the terminal's own paper below.
pub(super) fn draw(picture: &Picture, colours: Colours) -> String {
    let mut text = String::new();
    for top in (0..picture.height()).step_by(2) {
        let mut last = None;
        for x in 0..picture.width() {
            let ink = picture.pixel(x, top);
            let paper = (top + 1 < picture.height()).then(|| picture.pixel(x, top + 1));
            if colours == Colours::None {
                text.push(shade(ink, paper));
                continue;
            }
            // Neighbours are often alike, above all in 256 colours: name a colour only where it changes.
            let codes = (code(ink, colours), paper.map(|paper| code(paper, colours)));
            if last != Some(codes) {
                let _ = write!(text, "\x1b[38;{}", codes.0);
                if let Some(paper) = codes.1 {
                    let _ = write!(text, ";48;{paper}");
                }
                text.push('m');
                last = Some(codes);
            }
            text.push('▀');
        }
        if colours != Colours::None {
            text.push_str(RESET);
        }
        text.push('\n');
    }
    text
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Code {
    True(Rgb),
    Palette(u8),
}

impl std::fmt::Display for Code {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::True([red, green, blue]) => write!(formatter, "2;{red};{green};{blue}"),
            Self::Palette(index) => write!(formatter, "5;{index}"),
        }
    }
}

fn code(colour: Rgb, colours: Colours) -> Code {
    if colours == Colours::True { Code::True(colour) } else { Code::Palette(palette_index(colour)) }
}

/// The nearest entry of xterm's palette: the 6x6x6 cube at 16, the 24 greys at 232. The first 16 are the user's to change.
pub(crate) fn palette_index(colour: Rgb) -> u8 {
    const LEVELS: [u8; 6] = [0, 95, 135, 175, 215, 255];
    let level = |value: u8| (0u8..6).min_by_key(|&index| LEVELS[usize::from(index)].abs_diff(value)).unwrap_or(0);
    let [red, green, blue] = colour.map(level);
    let cube = [red, green, blue].map(|index| LEVELS[usize::from(index)]);
    let mean = colour.iter().map(|&value| u32::from(value)).sum::<u32>() / 3;
    let step = (mean.saturating_sub(3) / 10).min(23) as u8;
    let grey = [8 + 10 * step; 3];
    if distance(grey, colour) < distance(cube, colour) { 232 + step } else { 16 + 36 * red + 6 * green + blue }
}

fn distance(left: Rgb, right: Rgb) -> u32 {
    left.iter().zip(right).map(|(a, b)| u32::from(a.abs_diff(b)).pow(2)).sum()
}

fn shade(ink: Rgb, paper: Option<Rgb>) -> char {
    let luma = |[red, green, blue]: Rgb| (299 * u32::from(red) + 587 * u32::from(green) + 114 * u32::from(blue)) / 1000;
    let value = (luma(ink) + luma(paper.unwrap_or(ink))) / 2;
    SHADES[(value as usize * SHADES.len() / 256).min(SHADES.len() - 1)]
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Removes escape sequences.
    pub(crate) fn plain(bytes: &[u8]) -> String {
        let text = std::str::from_utf8(bytes).unwrap();
        let mut pieces = text.split("\x1b[");
        let mut result = pieces.next().unwrap().to_owned();
        for piece in pieces {
            result.push_str(piece.split_once('m').unwrap().1);
        }
        result
    }

    fn picture() -> Picture {
        Picture::from_rgb8(2, 3, vec![255, 0, 0, 255, 0, 0, 0, 0, 255, 0, 0, 255, 255, 255, 255, 0, 0, 0]).unwrap()
    }

    #[test]
    fn snapshots() {
        assert_eq!(
            draw(&picture(), Colours::True),
            "\x1b[38;2;255;0;0;48;2;0;0;255m▀▀\x1b[0m\n\x1b[38;2;255;255;255m▀\x1b[38;2;0;0;0m▀\x1b[0m\n"
        );
        assert_eq!(
            draw(&picture(), Colours::Palette256),
            "\x1b[38;5;196;48;5;21m▀▀\x1b[0m\n\x1b[38;5;231m▀\x1b[38;5;16m▀\x1b[0m\n"
        );
        assert_eq!(draw(&picture(), Colours::None), "░░\n█ \n");
    }

    /// Reads 24-bit half blocks back into pixels.
    fn decode(text: &str) -> Vec<Vec<Rgb>> {
        let mut rows = Vec::new();
        for line in text.lines() {
            let (mut upper, mut lower, mut ink, mut paper) = (Vec::new(), Vec::new(), [0; 3], None);
            for piece in line.split("\x1b[").skip(1) {
                let (codes, blocks) = piece.split_once('m').unwrap();
                let numbers: Vec<u8> = codes.split(';').map(|number| number.parse().unwrap()).collect();
                if let [38, 2, red, green, blue, rest @ ..] = numbers.as_slice() {
                    ink = [*red, *green, *blue];
                    paper = if let [48, 2, red, green, blue] = rest { Some([*red, *green, *blue]) } else { None };
                }
                for _ in blocks.chars() {
                    upper.push(ink);
                    lower.extend(paper);
                }
            }
            rows.push(upper);
            if !lower.is_empty() {
                rows.push(lower);
            }
        }
        rows
    }

    #[test]
    fn every_pixel_is_there() {
        let pixels = (0..7 * 5 * 3).map(|i| (i * 41 % 256) as u8).collect();
        let picture = Picture::from_rgb8(7, 5, pixels).unwrap();
        let rows = decode(&draw(&picture, Colours::True));
        assert_eq!(rows.concat().concat(), picture.pixels());
    }

    #[test]
    fn the_palette_is_near() {
        for colour in [[0, 0, 0], [255, 255, 255], [128, 128, 128], [8, 8, 8], [95, 135, 175], [250, 120, 30]] {
            let index = palette_index(colour);
            assert!(index >= 16, "{colour:?}");
        }
        assert_eq!(palette_index([8; 3]), 232);
        assert_eq!(palette_index([238; 3]), 255);
        assert_eq!(palette_index([95, 135, 175]), 67);
    }
}
