//! The two protocols that carry a PNG in base64: Kitty's and iTerm2's. The terminal scales it to the cells that we name.
//!
//! <https://sw.kovidgoyal.net/kitty/graphics-protocol/>, <https://iterm2.com/documentation-images.html>

use super::Cells;
use crate::{Format, MediaError, Metadata, Picture, encode_picture};

/// The longest payload of one Kitty escape sequence.
const CHUNK: usize = 4096;

/// `a=T` transmit and show, `f=100` PNG, `q=2` no answers (nobody reads them), `C=1` leave the cursor: we move it ourselves.
pub(super) fn kitty(picture: &Picture, cells: Cells) -> Result<Vec<u8>, MediaError> {
    let payload = base64(&encode_picture(picture, Format::Png, &Metadata::new())?);
    let mut bytes = Vec::with_capacity(payload.len() + payload.len() / CHUNK * 16 + 64);
    let mut chunks = payload.as_bytes().chunks(CHUNK).peekable();
    let mut first = true;
    while let Some(chunk) = chunks.next() {
        let more = u8::from(chunks.peek().is_some());
        let keys = if first {
            format!("a=T,f=100,q=2,C=1,c={},r={},m={more}", cells.columns, cells.rows)
        } else {
            format!("m={more}")
        };
        first = false;
        bytes.extend_from_slice(b"\x1b_G");
        bytes.extend_from_slice(keys.as_bytes());
        bytes.push(b';');
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\x1b\\");
    }
    // The caller's line feed is the last of these moves.
    bytes.extend(std::iter::repeat_n(b'\n', cells.rows.saturating_sub(1) as usize));
    Ok(bytes)
}

/// The cursor ends on the picture's last line by itself.
pub(super) fn iterm2(picture: &Picture, cells: Cells) -> Result<Vec<u8>, MediaError> {
    let png = encode_picture(picture, Format::Png, &Metadata::new())?;
    let header = format!(
        "\x1b]1337;File=inline=1;size={};width={};height={};preserveAspectRatio=1:",
        png.len(),
        cells.columns,
        cells.rows
    );
    Ok([header.as_bytes(), base64(&png).as_bytes(), b"\x07"].concat())
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let at = |index: usize| u32::from(group.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for digit in 0..4 {
            let value = (bits >> (18 - 6 * digit) & 63) as usize;
            text.push(if digit <= group.len() { char::from(ALPHABET[value]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LoadOptions, decode_picture};

    fn unbase64(text: &str) -> Vec<u8> {
        let digit = |byte: u8| match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            other => panic!("{other}"),
        };
        let mut bytes = Vec::new();
        for group in text.trim_end_matches('=').as_bytes().chunks(4) {
            let bits =
                group.iter().enumerate().fold(0u32, |bits, (at, &byte)| bits | u32::from(digit(byte)) << (18 - 6 * at));
            bytes.extend(bits.to_be_bytes().iter().skip(1).take(group.len() - 1));
        }
        bytes
    }

    fn noise() -> Picture {
        let mut state = 1u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let pixels = (0..64 * 48 * 3).map(|_| random()).collect();
        Picture::from_rgb8(64, 48, pixels).unwrap()
    }

    #[test]
    fn base64_of_the_rfc() {
        for (plain, coded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(plain.as_bytes()), coded);
            assert_eq!(unbase64(coded), plain.as_bytes());
        }
    }

    #[test]
    fn kitty_decodes_back() {
        let bytes = kitty(&noise(), Cells { columns: 8, rows: 3 }).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let mut payload = String::new();
        let commands: Vec<&str> = text.split("\x1b_G").skip(1).collect();
        assert!(commands.len() > 1, "the test picture should need several chunks");
        assert!(commands[0].starts_with("a=T,f=100,q=2,C=1,c=8,r=3,m=1;"));
        for (index, command) in commands.iter().enumerate() {
            let (keys, rest) = command.split_once(';').unwrap();
            let (data, _) = rest.split_once("\x1b\\").unwrap();
            assert!(data.len() <= CHUNK);
            assert!(keys.ends_with(if index + 1 < commands.len() { "m=1" } else { "m=0" }));
            payload.push_str(data);
        }
        assert_eq!(decode_picture("x", &unbase64(&payload), &LoadOptions::default()).unwrap(), noise());
        assert!(text.ends_with("\x1b\\\n\n"));
    }

    #[test]
    fn iterm2_decodes_back() {
        let text = String::from_utf8(iterm2(&noise(), Cells { columns: 8, rows: 3 }).unwrap()).unwrap();
        let (header, rest) = text.split_once(':').unwrap();
        let png = unbase64(rest.strip_suffix('\x07').unwrap());
        assert_eq!(
            header,
            format!("\x1b]1337;File=inline=1;size={};width=8;height=3;preserveAspectRatio=1", png.len())
        );
        assert_eq!(decode_picture("x", &png, &LoadOptions::default()).unwrap(), noise());
    }
}
