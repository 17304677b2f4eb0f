//! The one pixel buffer of the project: 8-bit sRGB, row by row.

use crate::MediaError;
use image::imageops::FilterType;

/// A colour, 8 bits per channel.
pub type Rgb = [u8; 3];

/// An RGB8 picture of shape `[height, width, 3]`, without padding.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    width: u32,
    height: u32,
    pixels: Vec<u8>,
}

impl Picture {
    /// A picture of one colour. A side of 0 is made 1: a picture is never empty.
    pub fn filled(width: u32, height: u32, colour: Rgb) -> Self {
        let (width, height) = (width.max(1), height.max(1));
        Self { width, height, pixels: colour.repeat(width as usize * height as usize) }
    }

    /// Takes bytes `[height, width, 3]`.
    ///
    /// # Errors
    /// [`MediaError::Shape`] when the length does not fit or a side is 0.
    pub fn from_rgb8(width: u32, height: u32, pixels: Vec<u8>) -> Result<Self, MediaError> {
        check_length(width, height, pixels.len())?;
        Ok(Self { width, height, pixels })
    }

    /// Rounds values `[3, height, width]` in 0..1, as a decoder of latents gives them, to bytes.
    /// Values outside are clamped; a NaN becomes 0.
    ///
    /// # Errors
    /// [`MediaError::Shape`] when the length does not fit or a side is 0.
    pub fn from_planar_unit(width: u32, height: u32, values: &[f32]) -> Result<Self, MediaError> {
        check_length(width, height, values.len())?;
        let plane = values.len() / 3;
        let mut pixels = vec![0; values.len()];
        for (channel, source) in values.chunks_exact(plane).enumerate() {
            for (pixel, &value) in pixels.chunks_exact_mut(3).zip(source) {
                pixel[channel] = unit_to_byte(value);
            }
        }
        Ok(Self { width, height, pixels })
    }

    /// The pixels as `[3, height, width]` in 0..1.
    pub fn to_planar_unit(&self) -> Vec<f32> {
        (0..3)
            .flat_map(|channel| self.pixels.iter().skip(channel).step_by(3))
            .map(|&byte| f32::from(byte) / 255.0)
            .collect()
    }

    /// The pixels as `[height, width, 3]` in 0..1.
    pub fn to_unit(&self) -> Vec<f32> {
        self.pixels.iter().map(|&byte| f32::from(byte) / 255.0).collect()
    }

    /// Width in pixels, at least 1.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height in pixels, at least 1.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The bytes `[height, width, 3]`.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The rows from top to bottom, each `[width, 3]`.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.pixels.chunks_exact(self.width as usize * 3)
    }

    /// The colour at a place; outside, that of the nearest edge.
    pub fn pixel(&self, x: u32, y: u32) -> Rgb {
        let at = self.offset(x.min(self.width - 1), y.min(self.height - 1));
        [self.pixels[at], self.pixels[at + 1], self.pixels[at + 2]]
    }

    /// Sets a pixel; outside, does nothing.
    pub fn set_pixel(&mut self, x: u32, y: u32, colour: Rgb) {
        if x < self.width && y < self.height {
            let at = self.offset(x, y);
            self.pixels[at..at + 3].copy_from_slice(&colour);
        }
    }

    /// Copies `other` over this picture with its upper left corner at (x, y); what lies outside is cut off.
    pub fn paste(&mut self, other: &Self, x: u32, y: u32) {
        if x >= self.width {
            return;
        }
        let bytes = other.width.min(self.width - x) as usize * 3;
        for (row, line) in (y..self.height).zip(other.rows()) {
            let at = self.offset(x, row);
            self.pixels[at..at + bytes].copy_from_slice(&line[..bytes]);
        }
    }

    /// Scales to exactly this size (a side of 0 is made 1): averaging when smaller, bilinear when larger.
    pub fn resized(&self, width: u32, height: u32) -> Self {
        let (width, height) = (width.max(1), height.max(1));
        if (width, height) == (self.width, self.height) {
            return self.clone();
        }
        let Some(source) = image::RgbImage::from_raw(self.width, self.height, self.pixels.clone()) else {
            return Self::filled(width, height, [0; 3]);
        };
        let scaled = image::imageops::resize(&source, width, height, FilterType::Triangle);
        Self { width, height, pixels: scaled.into_raw() }
    }

    /// The part of this size whose upper left corner is at (x, y); what lies outside takes the nearest edge's colour.
    pub fn cropped(&self, x: u32, y: u32, width: u32, height: u32) -> Self {
        let mut part = Self::filled(width, height, [0; 3]);
        for row in 0..part.height {
            for column in 0..part.width {
                part.set_pixel(column, row, self.pixel(x.saturating_add(column), y.saturating_add(row)));
            }
        }
        part
    }

    /// Scales so that the picture covers this size, and cuts what stands out evenly on both sides.
    pub fn covering(&self, width: u32, height: u32) -> Self {
        let (width, height) = (width.max(1), height.max(1));
        let scale = (f64::from(width) / f64::from(self.width)).max(f64::from(height) / f64::from(self.height));
        let side = |length: u32, least: u32| ((f64::from(length) * scale).round() as u32).max(least);
        let scaled = self.resized(side(self.width, width), side(self.height, height));
        scaled.cropped((scaled.width - width) / 2, (scaled.height - height) / 2, width, height)
    }

    /// The largest size with this picture's aspect that fits into the box; both sides are at least 1.
    pub fn size_within(&self, width: u32, height: u32) -> (u32, u32) {
        let scale = (f64::from(width) / f64::from(self.width)).min(f64::from(height) / f64::from(self.height));
        let side = |length: u32, limit: u32| ((f64::from(length) * scale).round() as u32).clamp(1, limit.max(1));
        (side(self.width, width), side(self.height, height))
    }

    fn offset(&self, x: u32, y: u32) -> usize {
        (y as usize * self.width as usize + x as usize) * 3
    }
}

impl std::fmt::Debug for Picture {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Picture({}x{})", self.width, self.height)
    }
}

/// Rounds halves to even, as numpy (and so diffusers) does in `(image * 255).round()`.
fn unit_to_byte(value: f32) -> u8 {
    // A float-to-int cast saturates, and maps NaN to 0.
    (value * 255.0).round_ties_even() as u8
}

fn check_length(width: u32, height: u32, found: usize) -> Result<(), MediaError> {
    let expected =
        (width as usize).checked_mul(height as usize).and_then(|pixels| pixels.checked_mul(3)).unwrap_or(usize::MAX);
    if expected == 0 || expected != found {
        return Err(MediaError::Shape { width, height, expected, found });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn unit_values_round_and_clamp() {
        let values = [0.0, 1.0, 0.5, -3.0, 2.0, f32::NAN];
        let picture = Picture::from_planar_unit(2, 1, &values).unwrap();
        assert_eq!(picture.pixels(), [0, 128, 255, 255, 0, 0]);
    }

    #[test]
    fn wrong_lengths_are_errors() {
        assert!(matches!(
            Picture::from_rgb8(2, 2, vec![0; 11]),
            Err(MediaError::Shape { expected: 12, found: 11, .. })
        ));
        assert!(Picture::from_rgb8(0, 5, vec![]).is_err());
        assert!(Picture::from_rgb8(u32::MAX, u32::MAX, vec![]).is_err());
    }

    #[test]
    fn pasting_clips() {
        let mut sheet = Picture::filled(3, 3, [0; 3]);
        sheet.paste(&Picture::filled(2, 2, [9; 3]), 2, 2);
        sheet.paste(&Picture::filled(2, 2, [7; 3]), 5, 0);
        assert_eq!(sheet.pixel(2, 2), [9; 3]);
        assert_eq!(sheet.pixels().iter().filter(|&&byte| byte != 0).count(), 3);
    }

    #[test]
    fn sizes_keep_the_aspect() {
        assert_eq!(Picture::filled(200, 100, [0; 3]).size_within(80, 80), (80, 40));
        assert_eq!(Picture::filled(1, 1000, [0; 3]).size_within(10, 10), (1, 10));
        let flat = Picture::filled(64, 32, [10, 200, 30]).resized(7, 5);
        assert!(flat.pixels().chunks(3).all(|pixel| pixel == [10, 200, 30]));
    }

    #[test]
    fn covering_cuts_the_longer_side_evenly() {
        let mut picture = Picture::filled(8, 2, [50; 3]);
        picture.set_pixel(0, 0, [255; 3]);
        let middle = picture.covering(2, 2);
        assert_eq!((middle.width(), middle.height()), (2, 2));
        assert!(middle.pixels().iter().all(|&byte| byte == 50));
        assert_eq!(picture.cropped(0, 0, 2, 1).pixels(), [255, 255, 255, 50, 50, 50]);
        assert_eq!((picture.covering(3, 7).width(), picture.covering(3, 7).height()), (3, 7));
    }

    proptest! {
        #[test]
        fn bytes_survive_the_way_through_floats(width in 1u32..9, height in 1u32..9, seed in any::<u8>()) {
            let bytes: Vec<u8> = (0..width * height * 3).map(|i| (i as u8).wrapping_mul(37).wrapping_add(seed)).collect();
            let picture = Picture::from_rgb8(width, height, bytes).unwrap();
            prop_assert_eq!(&Picture::from_planar_unit(width, height, &picture.to_planar_unit()).unwrap(), &picture);
        }
    }
}
