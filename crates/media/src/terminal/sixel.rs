//! DEC Sixel: bands of six rows; within a band, each colour of the palette draws its pixels from the left, one character per column.
//! (VT330/VT340 Programmer Reference Manual, chapter 14.)

use super::palette::{Quantised, quantise};
use crate::Picture;
use std::fmt::Write as _;

/// What every Sixel terminal has.
const COLOURS: usize = 256;
const BAND: usize = 6;

/// Encodes at the picture's own size.
pub(super) fn encode(picture: &Picture) -> Vec<u8> {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let Quantised { palette, indices } = quantise(picture, COLOURS);
    // "0;1" : pixels that are not drawn stay as they were. Then the raster: aspect 1:1 and the size.
    let mut text = format!("\x1bP0;1q\"1;1;{width};{height}");
    for (index, colour) in palette.iter().enumerate() {
        let [red, green, blue] = colour.map(|value| (u32::from(value) * 100 + 127) / 255);
        let _ = write!(text, "#{index};2;{red};{green};{blue}");
    }
    for band in indices.chunks(width * BAND) {
        let mut used = [false; COLOURS];
        for &index in band {
            used[usize::from(index)] = true;
        }
        for colour in (0..palette.len()).filter(|&colour| used[colour]) {
            let _ = write!(text, "#{colour}");
            let columns = (0..width).map(|x| {
                let rows = band.iter().skip(x).step_by(width).enumerate();
                rows.fold(0u8, |bits, (row, &index)| bits | u8::from(usize::from(index) == colour) << row)
            });
            push_runs(&mut text, columns);
            // Back to the left edge, for the next colour.
            text.push('$');
        }
        text.push('-');
    }
    text.push_str("\x1b\\");
    text.into_bytes()
}

/// Runs of more than three equal columns are written as `!count`; empty columns at the end are left out.
fn push_runs(text: &mut String, columns: impl Iterator<Item = u8>) {
    let mut run: Option<(u8, usize)> = None;
    let mut push = |bits: u8, count: usize| {
        let letter = char::from(b'?' + bits);
        if count > 3 {
            let _ = write!(text, "!{count}{letter}");
        } else {
            text.extend(std::iter::repeat_n(letter, count));
        }
    };
    for bits in columns {
        run = match run {
            Some((last, count)) if last == bits => Some((last, count + 1)),
            Some((last, count)) => {
                push(last, count);
                Some((bits, 1))
            }
            None => Some((bits, 1)),
        };
    }
    if let Some((bits, count)) = run
        && bits != 0
    {
        push(bits, count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rgb;

    /// A Sixel reader of its own making, as a terminal would do it.
    fn decode(bytes: &[u8]) -> Picture {
        let text = std::str::from_utf8(bytes).unwrap();
        let body = text.strip_prefix("\x1bP0;1q\"1;1;").unwrap().strip_suffix("\x1b\\").unwrap();
        let (size, _) = body.split_once('#').unwrap();
        let (width, height) = size.split_once(';').unwrap();
        let mut picture = Picture::filled(width.parse().unwrap(), height.parse().unwrap(), [255, 0, 255]);
        let mut palette = vec![[0u8; 3]; 256];
        let (mut x, mut band, mut colour, mut repeat) = (0u32, 0u32, 0usize, 1u32);
        let mut rest = &body[size.len()..];
        let number = |rest: &mut &str| {
            let end = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
            let (digits, after) = rest.split_at(end);
            *rest = after;
            digits.parse::<u32>().unwrap()
        };
        while let Some(letter) = rest.chars().next() {
            rest = &rest[1..];
            match letter {
                '#' => {
                    colour = number(&mut rest) as usize;
                    if let Some(after) = rest.strip_prefix(";2;") {
                        rest = after;
                        let mut values: Rgb = [0; 3];
                        for (index, value) in values.iter_mut().enumerate() {
                            *value = (number(&mut rest) * 255 / 100) as u8;
                            if index < 2 {
                                rest = rest.strip_prefix(';').unwrap();
                            }
                        }
                        palette[colour] = values;
                    }
                }
                '!' => repeat = number(&mut rest),
                '$' => x = 0,
                '-' => (x, band) = (0, band + 1),
                '?'..='~' => {
                    for _ in 0..std::mem::replace(&mut repeat, 1) {
                        for row in (0..6).filter(|row| (letter as u8 - b'?') >> row & 1 == 1) {
                            picture.set_pixel(x, band * 6 + row, palette[colour]);
                        }
                        x += 1;
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        picture
    }

    fn worst(left: &Picture, right: &Picture) -> u8 {
        left.pixels().iter().zip(right.pixels()).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
    }

    #[test]
    fn few_colours_come_back_exactly_but_for_the_percent_scale() {
        let pixels = (0..13 * 17)
            .flat_map(|i| [[255, 0, 0], [0, 255, 255], [10, 20, 30], [250, 240, 5]][i % 4 * (i / 40 % 2)])
            .collect();
        let picture = Picture::from_rgb8(13, 17, pixels).unwrap();
        assert!(worst(&decode(&encode(&picture)), &picture) <= 3);
    }

    #[test]
    fn a_smooth_picture_comes_back_nearly() {
        let pixels = (0..96 * 64)
            .flat_map(|i| [(i % 96 * 2) as u8, (i / 96 * 4) as u8, ((i % 96 + i / 96) % 160) as u8])
            .collect();
        let picture = Picture::from_rgb8(96, 64, pixels).unwrap();
        let read = decode(&encode(&picture));
        let error: f64 =
            read.pixels().iter().zip(picture.pixels()).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2)).sum();
        let psnr = 10.0 * (255.0f64.powi(2) / (error / (96.0 * 64.0 * 3.0))).log10();
        assert!(psnr > 28.0, "{psnr}");
    }

    #[test]
    fn the_smallest_picture() {
        let bytes = encode(&Picture::filled(1, 1, [255; 3]));
        assert_eq!(bytes, b"\x1bP0;1q\"1;1;1;1#0;2;100;100;100#0@$-\x1b\\");
    }
}
