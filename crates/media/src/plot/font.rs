//! The embedded font: DejaVu Sans, cut down to Latin, Greek and Cyrillic (`fonts/subset.sh`). Missing letters show as a box.

use ab_glyph::{Font, FontRef, Glyph, Point, PxScale, point};
use std::sync::LazyLock;

/// Names for SVG readers: the same face, one of the same widths, any.
pub(super) const FAMILY: &str = "DejaVu Sans, Verdana, sans-serif";
/// Height of a capital letter as a share of the font size.
pub(super) const CAPITAL_HEIGHT: f64 = 0.729;

static REGULAR: LazyLock<Option<Face>> =
    LazyLock::new(|| Face::new(include_bytes!("../../fonts/DejaVuSans.subset.ttf")));
static BOLD: LazyLock<Option<Face>> =
    LazyLock::new(|| Face::new(include_bytes!("../../fonts/DejaVuSans-Bold.subset.ttf")));

struct Face {
    font: FontRef<'static>,
    /// `ab_glyph` scales by ascent plus descent; this makes an em of it.
    height_per_em: f32,
}

impl Face {
    fn new(bytes: &'static [u8]) -> Option<Self> {
        let font = FontRef::try_from_slice(bytes).ok()?;
        let height_per_em = font.height_unscaled() / font.units_per_em()?;
        Some(Self { font, height_per_em })
    }

    /// Places the letters from x = 0 on a base line of y = 0; gives the width too.
    fn lay_out(&self, text: &str, size: f64) -> (Vec<Glyph>, f64) {
        let scale = PxScale::from(size as f32 * self.height_per_em);
        let advance_scale = scale.x / self.font.height_unscaled();
        let mut x = 0.0f32;
        let mut glyphs = Vec::new();
        for letter in text.chars().filter(|letter| !letter.is_control()) {
            let id = self.font.glyph_id(letter);
            glyphs.push(id.with_scale_and_position(scale, point(x, 0.0)));
            x += self.font.h_advance_unscaled(id) * advance_scale;
        }
        (glyphs, f64::from(x))
    }
}

fn face(bold: bool) -> Option<&'static Face> {
    if bold { BOLD.as_ref() } else { REGULAR.as_ref() }
}

/// Width of words in pixels.
pub(super) fn width(text: &str, size: f64, bold: bool) -> f64 {
    face(bold).map_or(0.0, |face| face.lay_out(text, size).1)
}

/// Calls `paint(x, y, coverage)` for each pixel of words that begin at (x, y) on the base line.
pub(super) fn rasterise(text: &str, size: f64, bold: bool, at: (f64, f64), mut paint: impl FnMut(i64, i64, f32)) {
    let Some(face) = face(bold) else { return };
    for mut glyph in face.lay_out(text, size).0 {
        let Point { x, y } = glyph.position;
        glyph.position = point(x + at.0 as f32, y + at.1 as f32);
        if let Some(outline) = face.font.outline_glyph(glyph) {
            let corner = outline.px_bounds().min;
            outline
                .draw(|x, y, coverage| paint(corner.x as i64 + i64::from(x), corner.y as i64 + i64::from(y), coverage));
        }
    }
}

/// Shortens words with "…" so that they are at most `limit` wide.
pub(super) fn shorten(text: &str, size: f64, bold: bool, limit: f64) -> String {
    if width(text, size, bold) <= limit {
        return text.to_owned();
    }
    let letters: Vec<char> = text.chars().collect();
    let cut = |count: usize| letters[..count].iter().collect::<String>().trim_end().to_owned() + "…";
    // The width grows with the letters, so the longest that fits is found by halving.
    let (mut fits, mut too_many) = (0, letters.len());
    while too_many - fits > 1 {
        let middle = (fits + too_many) / 2;
        if width(&cut(middle), size, bold) <= limit { fits = middle } else { too_many = middle }
    }
    cut(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_faces_are_there_and_measure_as_dejavu_does() {
        // DejaVu Sans: "H" is 1540 of 2048 units wide.
        assert!((width("H", 2048.0, false) - 1540.0).abs() < 1.0);
        assert!(width("Hello", 20.0, true) > width("Hello", 20.0, false));
        assert_eq!(width("\n\u{1b}", 20.0, false), 0.0);
    }

    #[test]
    fn shortening_fits() {
        for limit in [0.0, 10.0, 50.0, 99.0, 500.0] {
            let short = shorten("a red fox on a blue background 🦊", 12.0, false, limit);
            assert!(width(&short, 12.0, false) <= limit.max(width("…", 12.0, false)), "{short}");
        }
        assert_eq!(shorten("fox", 12.0, false, 100.0), "fox");
    }
}
