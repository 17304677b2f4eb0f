//! Pictures in the terminal, for previews while a run goes on.
//!
//! [`detect`] reads the environment and chooses a [`Protocol`]; [`render`] gives the bytes to print and how many lines they take, so that
//! the caller can move the cursor back up and print the next preview over the old one.

mod blocks;
mod detect;
mod graphics;
mod palette;
mod sixel;

pub(crate) use blocks::palette_index;
pub use detect::{Colours, Protocol, detect};

use crate::{MediaError, Picture};

/// Pixels of one character cell where the terminal does not tell: the usual 1 : 2 shape.
const CELL: (u32, u32) = (8, 16);
/// No preview needs more; it bounds the bytes whatever the terminal claims to be.
const MOST_CELLS: u32 = 300;

/// The space that a preview may take.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Columns of characters, at least 1.
    pub columns: u32,
    /// Lines of characters, at least 1.
    pub rows: u32,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { columns: 48, rows: 16 }
    }
}

/// A preview, ready to print. It ends with a line feed, at the start of a fresh line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    /// Escape sequences and text.
    pub bytes: Vec<u8>,
    /// Lines that the cursor moved down; for Sixel, which counts in pixels, an estimate for cells of 8 by 16 pixels.
    pub rows: u32,
}

/// Draws a picture within the bounds, keeping its aspect; the graphics protocols never enlarge it beyond the bounds either.
///
/// # Errors
/// [`MediaError::Encode`] where a protocol carries a PNG.
pub fn render(picture: &Picture, protocol: Protocol, bounds: Bounds) -> Result<Preview, MediaError> {
    let columns = bounds.columns.clamp(1, MOST_CELLS);
    let rows = bounds.rows.clamp(1, MOST_CELLS);
    let (width, height) = picture.size_within(columns * CELL.0, rows * CELL.1);
    let cells = Cells { columns: width.div_ceil(CELL.0), rows: height.div_ceil(CELL.1) };
    let mut bytes = match protocol {
        Protocol::Kitty => graphics::kitty(picture, cells)?,
        Protocol::Iterm2 => graphics::iterm2(picture, cells)?,
        Protocol::Sixel => sixel::encode(&picture.resized(width, height)),
        Protocol::Blocks(colours) => {
            let (width, height) = picture.size_within(columns, rows * 2);
            let text = blocks::draw(&picture.resized(width, height), colours);
            let rows = height.div_ceil(2);
            return Ok(Preview { bytes: text.into_bytes(), rows });
        }
        Protocol::None => return Ok(Preview { bytes: Vec::new(), rows: 0 }),
    };
    bytes.push(b'\n');
    Ok(Preview { bytes, rows: cells.rows })
}

#[derive(Debug, Clone, Copy)]
struct Cells {
    columns: u32,
    rows: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_protocol_stays_within_bounds(width in 1u32..40, height in 1u32..40, columns in 0u32..30, rows in 0u32..20) {
            let picture = Picture::filled(width, height, [10, 200, 90]);
            for protocol in [Protocol::Kitty, Protocol::Iterm2, Protocol::Sixel, Protocol::Blocks(Colours::True), Protocol::Blocks(Colours::None), Protocol::None] {
                let preview = render(&picture, protocol, Bounds { columns, rows }).unwrap();
                prop_assert!(preview.rows <= rows.max(1));
                let feeds = preview.bytes.iter().filter(|&&byte| byte == b'\n').count();
                if let Protocol::Blocks(_) = protocol {
                    prop_assert_eq!(feeds as u32, preview.rows);
                    let widest = blocks::tests::plain(&preview.bytes).lines().map(|line| line.chars().count()).max().unwrap();
                    prop_assert!(widest as u32 <= columns.max(1));
                }
            }
        }
    }
}
