//! Plots of plain tables: [`HeatMap`] of decisions, [`SpeedHarmPlot`] of policies, [`Curves`] over an x axis, [`contact_sheet`] of pictures.
//!
//! A plot draws itself on a [`Surface`], of which there are two, an SVG writer and an anti-aliased bitmap. Both use the same embedded
//! font and real-valued coordinates, so that a label that fits in one fits in the other. The general plotting crates either
//! place text by whole pixels with other metrics per output, or need the system's fonts.
//!
//! Colours are from Okabe and Ito's palette ("Color universal design", 2008), told apart by colour-blind readers; families of points
//! differ in shape as well.

mod bitmap;
mod chart;
mod contact_sheet;
mod curves;
mod font;
mod heat_map;
mod heat_text;
mod labels;
mod speed_harm;
mod surface;
mod svg;
mod ticks;

pub use contact_sheet::{Caption, contact_sheet};
pub use curves::{Curves, Series};
pub use heat_map::{Cell, HeatMap, HeatRow};
pub use heat_text::TextStyle;
pub use speed_harm::{PolicyFamily, PolicyPoint, SpeedHarmPlot};
pub use surface::{Anchor, Point, Rect, Surface, Words};

use crate::{MediaError, Picture, Rgb, atomic::write_bytes_atomically, save_picture};
use std::path::Path;

/// Width of the charts in logical pixels, which are also SVG's units.
const WIDTH: f64 = 900.0;
/// Bitmaps are drawn this much finer, for screens of today and for zooming in.
const FILE_SCALE: f64 = 2.0;

/// Something that can be drawn.
pub trait Plot {
    /// Width and height in logical pixels.
    fn size(&self) -> (f64, f64);

    /// What a reader who cannot see the plot is told (SVG's title).
    fn title(&self) -> String;

    /// Draws onto a surface of [`Plot::size`].
    fn draw(&self, surface: &mut dyn Surface);

    /// Refuses tables that cannot be drawn.
    ///
    /// # Errors
    /// [`MediaError::Plot`].
    fn check(&self) -> Result<(), MediaError>;

    /// The plot as a bitmap, `scale` pixels per logical pixel.
    ///
    /// # Errors
    /// [`MediaError::Plot`] for a table that cannot be drawn.
    fn to_picture(&self, scale: f64) -> Result<Picture, MediaError> {
        self.check()?;
        let mut surface = bitmap::Bitmap::new(self.size(), scale)?;
        self.draw(&mut surface);
        Ok(surface.into_picture())
    }

    /// The plot as an SVG document.
    ///
    /// # Errors
    /// [`MediaError::Plot`] for a table that cannot be drawn.
    fn to_svg(&self) -> Result<String, MediaError> {
        self.check()?;
        let mut surface = svg::Svg::new(self.size(), &self.title());
        self.draw(&mut surface);
        Ok(surface.finish())
    }

    /// Writes the plot to a file, whole or not at all: `.svg`, or a bitmap of twice the logical size by its ending.
    ///
    /// # Errors
    /// [`MediaError::Plot`], or as [`save_picture`].
    fn save(&self, path: &Path) -> Result<(), MediaError> {
        if path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("svg")) {
            return write_bytes_atomically(path, self.to_svg()?.as_bytes());
        }
        save_picture(path, &self.to_picture(FILE_SCALE)?)
    }
}

/// The colours of axes and words.
mod theme {
    use super::Rgb;

    pub(super) const PAPER: Rgb = [255; 3];
    pub(super) const INK: Rgb = [34, 38, 46];
    pub(super) const QUIET: Rgb = [96, 102, 114];
    pub(super) const GRID: Rgb = [228, 231, 236];
    pub(super) const AXIS: Rgb = [150, 156, 168];

    /// Okabe and Ito's colours, without yellow (too pale on white) and with black last; in an order where neighbours differ most.
    pub(super) const SERIES: [Rgb; 7] =
        [[0, 114, 178], [213, 94, 0], [0, 158, 115], [204, 121, 167], [230, 159, 0], [86, 180, 233], [60, 60, 60]];

    /// For lines that stand back behind marks or other lines.
    pub(super) fn lightened(colour: Rgb) -> Rgb {
        mixed(colour, PAPER, 0.45)
    }

    /// For small words, which need more contrast than a mark.
    pub(super) fn darkened(colour: Rgb) -> Rgb {
        mixed(colour, INK, 0.45)
    }

    fn mixed(colour: Rgb, other: Rgb, share: f64) -> Rgb {
        let mix = |from: u8, to: u8| (f64::from(from) * (1.0 - share) + f64::from(to) * share).round() as u8;
        [mix(colour[0], other[0]), mix(colour[1], other[1]), mix(colour[2], other[2])]
    }

    pub(super) const TITLE: f64 = 18.0;
    pub(super) const TEXT: f64 = 13.0;
    pub(super) const SMALL: f64 = 12.0;
}

fn plot_error(reason: impl Into<String>) -> MediaError {
    MediaError::Plot { reason: reason.into() }
}
