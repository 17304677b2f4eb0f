//! Many pictures on one page, each with its caption.

use super::bitmap::Bitmap;
use super::surface::{Anchor, Surface, Words};
use super::{font, plot_error, theme};
use crate::{MediaError, Picture};

const GAP: f64 = 14.0;
const LINE: f64 = 15.0;
const CAPTION_LINES: usize = 3;
/// A line may end after any of these.
const BREAKS: [char; 5] = [' ', '+', ':', ',', '/'];
const WIDEST: f64 = 8192.0;

/// A picture and the words below it, of at most three lines; line feeds are kept.
#[derive(Debug, Clone)]
pub struct Caption {
    /// The picture, scaled to fit its tile.
    pub picture: Picture,
    /// The words; long ones are shortened.
    pub text: String,
}

/// Lays pictures out in rows from the upper left, `columns` beside each other (at least 1), each within a square of `tile` pixels.
/// Without any caption no room is kept for them.
///
/// # Errors
/// [`MediaError::Plot`] for no pictures, or a sheet beyond what can be drawn.
pub fn contact_sheet(title: &str, items: &[Caption], columns: usize, tile: u32) -> Result<Picture, MediaError> {
    if items.is_empty() {
        return Err(plot_error("there are no pictures"));
    }
    let columns = columns.clamp(1, items.len());
    let side = f64::from(tile.max(16));
    let lines = items.iter().map(|item| wrap(&item.text, side).len()).max().unwrap_or(0);
    let caption = if lines == 0 { 0.0 } else { 6.0 + lines as f64 * LINE };
    let width = GAP + columns as f64 * (side + GAP);
    let top = if title.is_empty() { GAP } else { 44.0 };
    let rows = items.len().div_ceil(columns);
    let height = top + rows as f64 * (side + caption + GAP);
    if width > WIDEST {
        return Err(plot_error(format!("{columns} pictures of {tile} pixels beside each other are too wide")));
    }
    let mut sheet = Bitmap::new((width, height), 1.0)?;
    if !title.is_empty() {
        let shown = font::shorten(title, theme::TITLE, true, width - 2.0 * GAP);
        sheet.words(&Words::new(&shown, (GAP, 30.0), theme::TITLE, theme::INK).bold());
    }
    let mut pasted = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let x = GAP + (index % columns) as f64 * (side + GAP);
        let y = top + (index / columns) as f64 * (side + caption + GAP);
        let (width, height) = item.picture.size_within(side as u32, side as u32);
        let (dx, dy) = ((side as u32 - width) / 2, (side as u32 - height) / 2);
        pasted.push((item.picture.resized(width, height), x as u32 + dx, y as u32 + dy));
        for (line, text) in wrap(&item.text, side).iter().enumerate() {
            let at = (x + side / 2.0, y + side + 4.0 + LINE * (line as f64 + 0.8));
            sheet.words(&Words::new(text, at, theme::SMALL, theme::INK).anchored(Anchor::Middle));
        }
    }
    let mut sheet = sheet.into_picture();
    for (picture, x, y) in &pasted {
        sheet.paste(picture, *x, *y);
    }
    Ok(sheet)
}

/// Breaks words into lines of at most `width`; the last one takes the rest, shortened.
fn wrap(text: &str, width: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for paragraph in text.lines().map(str::trim).filter(|paragraph| !paragraph.is_empty()) {
        let mut fresh = true;
        for piece in paragraph.split_inclusive(BREAKS) {
            let full = lines.len() == CAPTION_LINES;
            match lines.last_mut() {
                Some(line) if full && fresh => *line = format!("{} {piece}", line.trim_end()),
                Some(line) if full || (!fresh && fits(&format!("{line}{piece}"), width)) => line.push_str(piece),
                _ => lines.push(piece.to_owned()),
            }
            fresh = false;
        }
    }
    lines.iter().map(|line| font::shorten(line.trim_end(), theme::SMALL, false, width)).collect()
}

fn fits(line: &str, width: f64) -> bool {
    font::width(line.trim_end(), theme::SMALL, false) <= width
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(width: u32, height: u32, text: &str) -> Caption {
        Caption { picture: Picture::filled(width, height, [200, 0, 0]), text: text.to_owned() }
    }

    #[test]
    fn captions_wrap_and_fit() {
        let lines =
            wrap("a very long prompt about a red fox that jumps over everything in its way, and then some", 128.0);
        assert_eq!(lines.len(), CAPTION_LINES);
        assert!(lines[CAPTION_LINES - 1].ends_with('…'));
        assert!(lines.iter().all(|line| font::width(line, theme::SMALL, false) <= 128.0));
        assert!(wrap(" \n ", 100.0).is_empty());
        assert_eq!(
            wrap("dbcache:threshold=0.1+warmup=2\n1.4x", 128.0),
            ["dbcache:", "threshold=0.1+", "warmup=2 1.4x"]
        );
        assert_eq!(wrap("off\n1.0x, 30 dB", 128.0), ["off", "1.0x, 30 dB"]);
    }

    #[test]
    fn pictures_keep_their_aspect_and_place() {
        let sheet = contact_sheet("", &[item(64, 32, ""), item(32, 64, ""), item(64, 64, "")], 2, 64).unwrap();
        assert_eq!((sheet.width(), sheet.height()), (14 + 2 * 78, 14 + 2 * 78));
        assert_eq!(sheet.pixel(14, 14), [255; 3]);
        assert_eq!(sheet.pixel(14, 14 + 16), [200, 0, 0]);
        assert_eq!(sheet.pixel(14, 14 + 78), [200, 0, 0]);
        assert!(contact_sheet("", &[], 2, 64).is_err());
        assert!(contact_sheet("", &vec![item(1, 1, ""); 100], 100, 1000).is_err());
    }
}
