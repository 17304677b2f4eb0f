//! Procedural styles: what a perfect restyler would make of a frame, so that the harm of a real one can be measured.
//!
//! Each style is a fixed formula of one frame, continuous in its pixels (soft thresholds, soft staircases), so that two
//! implementations agree and a network can learn it. `weights/recipes/video/styles.py` is the same in Python, from which
//! the built-in video model was trained; a committed fixture holds both together.

mod drawing;
mod filters;
mod painting;
mod planes;
mod toning;

use crate::MetricsError;
use planes::Planes;

/// A procedural style.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Style {
    /// The frame as it is.
    Plain,
    /// Brown toning.
    Sepia,
    /// Graphite on warm paper: a dodge of the luma over its surroundings.
    Pencil,
    /// Black outlines and shadows on white.
    Ink,
    /// Flat, saturated areas in four steps, with outlines.
    Cartoon,
    /// Brush strokes (two passes of a soft Kuwahara filter) under warm varnish.
    Oil,
    /// A heat map of the luma.
    Thermal,
    /// Green phosphor with scan lines.
    Night,
    /// White lines and a grid on blue.
    Blueprint,
    /// Cells of eight pixels in five steps a channel.
    Pixel,
}

impl Style {
    /// All styles.
    pub const ALL: [Self; 10] = [
        Self::Plain,
        Self::Sepia,
        Self::Pencil,
        Self::Ink,
        Self::Cartoon,
        Self::Oil,
        Self::Thermal,
        Self::Night,
        Self::Blueprint,
        Self::Pixel,
    ];

    /// The prompt that asks the built-in video model for it.
    pub fn prompt(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Sepia => "sepia",
            Self::Pencil => "pencil sketch",
            Self::Ink => "ink edges",
            Self::Cartoon => "posterised cartoon",
            Self::Oil => "oil painting",
            Self::Thermal => "thermal camera",
            Self::Night => "night vision",
            Self::Blueprint => "blueprint",
            Self::Pixel => "pixel art",
        }
    }

    /// The style of a prompt's exact words.
    pub fn from_prompt(prompt: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|style| style.prompt() == prompt)
    }

    /// The frame `[height, width, 3]` in 0..1 in this style, in the same layout and range.
    ///
    /// # Errors
    /// [`MetricsError::Empty`] without pixels, [`MetricsError::SizeMismatch`] when the length does not fit.
    pub fn apply(self, frame: &[f32], width: usize, height: usize) -> Result<Vec<f32>, MetricsError> {
        let planes = Planes::from_interleaved(frame, width, height)?;
        Ok(self.render(&planes).to_interleaved())
    }

    fn render(self, frame: &Planes) -> Planes {
        match self {
            Self::Plain => frame.clone(),
            Self::Sepia => toning::sepia(frame),
            Self::Pencil => drawing::pencil(frame),
            Self::Ink => drawing::ink(frame),
            Self::Cartoon => painting::cartoon(frame),
            Self::Oil => painting::oil(frame),
            Self::Thermal => toning::thermal(frame),
            Self::Night => toning::night(frame),
            Self::Blueprint => drawing::blueprint(frame),
            Self::Pixel => painting::pixel_art(frame),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIDE: usize = 24;
    /// Made by `weights/recipes/video/styles_golden.py`: the source frame, then every style of it, `[11, 24, 24, 3]` f32.
    const GOLDEN: &[u8] = include_bytes!("golden.f32");

    fn golden() -> Vec<Vec<f32>> {
        let values: Vec<f32> =
            GOLDEN.chunks_exact(4).map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])).collect();
        values.chunks_exact(SIDE * SIDE * 3).map(<[f32]>::to_vec).collect()
    }

    #[test]
    fn every_style_agrees_with_its_python_twin() {
        let pictures = golden();
        for (style, expected) in Style::ALL.into_iter().zip(&pictures[1..]) {
            let made = style.apply(&pictures[0], SIDE, SIDE).unwrap();
            let worst = made.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 2e-4, "{style:?}: {worst}");
        }
    }

    #[test]
    fn values_stay_in_range_at_any_size() {
        for (width, height) in [(1, 1), (3, 2), (17, 9)] {
            let frame: Vec<f32> = (0..width * height * 3).map(|i| (i as f32 * 0.7).sin().abs()).collect();
            for style in Style::ALL {
                let made = style.apply(&frame, width, height).unwrap();
                assert_eq!(made.len(), frame.len());
                assert!(made.iter().all(|value| (0.0..=1.0).contains(value)), "{style:?}");
            }
        }
        assert!(Style::Sepia.apply(&[0.0; 5], 2, 1).is_err());
        assert!(Style::Sepia.apply(&[], 0, 0).is_err());
    }

    #[test]
    fn prompts_name_their_style() {
        for style in Style::ALL {
            assert_eq!(Style::from_prompt(style.prompt()), Some(style));
        }
        assert_eq!(Style::from_prompt("a red fox"), None);
    }
}
