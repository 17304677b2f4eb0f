//! The stream header: `YUV4MPEG2 W640 H480 F30:1 Ip A1:1 C420jpeg XCOLORRANGE=LIMITED`.

use crate::sequence::FrameRate;
use std::fmt::Write as _;

/// The magic word that a stream begins with.
pub(crate) const MAGIC: &str = "YUV4MPEG2";

/// Longer header lines are garbage, not headers.
pub(crate) const LONGEST_LINE: usize = 1024;

/// Longest side that is read, in pixels, as for pictures.
const MAX_SIDE: u32 = 16_384;

/// How chroma is sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chroma {
    /// Half width and height (any siting), rounded up for odd sizes.
    C420,
    /// Half width.
    C422,
    /// Full.
    C444,
    /// None: grey.
    Mono,
}

impl Chroma {
    /// Size of one chroma plane of a frame of this size; (0, 0) where there is none.
    pub fn plane(self, width: u32, height: u32) -> (u32, u32) {
        match self {
            Self::C420 => (width.div_ceil(2), height.div_ceil(2)),
            Self::C422 => (width.div_ceil(2), height),
            Self::C444 => (width, height),
            Self::Mono => (0, 0),
        }
    }

    /// Pixels that share one chroma sample: (across, down).
    pub(crate) fn step(self) -> (u32, u32) {
        match self {
            Self::C420 => (2, 2),
            Self::C422 => (2, 1),
            Self::C444 | Self::Mono => (1, 1),
        }
    }

    fn tag(self) -> &'static str {
        match self {
            Self::C420 => "420jpeg",
            Self::C422 => "422",
            Self::C444 => "444",
            Self::Mono => "mono",
        }
    }

    fn parse(tag: &str) -> Result<Self, String> {
        match tag {
            "420" | "420jpeg" | "420mpeg2" | "420paldv" => Ok(Self::C420),
            "422" => Ok(Self::C422),
            "444" => Ok(Self::C444),
            "mono" => Ok(Self::Mono),
            // 420p10, 422p12, 444p16, mono9, mono16 …
            deep if tag_depth(deep).is_some_and(|bits| bits > 8) => {
                Err(format!("colour format C{tag} has more than 8 bits; convert it with ffmpeg -pix_fmt yuv420p"))
            }
            _ => Err(format!(
                "colour format C{tag} is not supported (C420, C422, C444 and Cmono are); convert it with ffmpeg -pix_fmt yuv420p"
            )),
        }
    }
}

fn tag_depth(tag: &str) -> Option<u32> {
    let digits = tag.strip_prefix("mono").or_else(|| tag.split_once('p').map(|(_, bits)| bits))?;
    digits.parse().ok()
}

/// Which codes carry black and white.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// 16 to 235 (luma), 16 to 240 (chroma): video.
    Limited,
    /// 0 to 255: JPEG.
    Full,
}

/// What the first line says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Width in pixels, 1 to 16 384.
    pub width: u32,
    /// Height in pixels, 1 to 16 384.
    pub height: u32,
    /// Frames per second.
    pub rate: FrameRate,
    /// Chroma sampling.
    pub chroma: Chroma,
    /// Meaning of the codes.
    pub range: Range,
}

impl Header {
    /// Reads the line, without its newline.
    ///
    /// # Errors
    /// The reason, in one line: no y4m, a size missing or out of bounds, interlaced, more than 8 bits, unknown colours.
    pub fn parse(line: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(line).map_err(|_| "the header is no text".to_owned())?;
        let mut words = text.split(' ').filter(|word| !word.is_empty());
        if words.next() != Some(MAGIC) {
            return Err(format!("no y4m stream: it does not begin with {MAGIC}"));
        }
        let (mut width, mut height, mut rate) = (None, None, None);
        let (mut chroma, mut range) = (Chroma::C420, Range::Limited);
        for word in words {
            let Some(key) = word.chars().next() else { continue };
            let value = &word[key.len_utf8()..];
            match key {
                'W' => width = Some(side("width", value)?),
                'H' => height = Some(side("height", value)?),
                'F' => rate = Some(value),
                'I' => check_progressive(value)?,
                'C' => chroma = Chroma::parse(value)?,
                'X' if value.eq_ignore_ascii_case("COLORRANGE=FULL") => range = Range::Full,
                // A (pixel aspect) and other X comments change nothing here.
                _ => {}
            }
        }
        let rate = match rate {
            // 0:0 means unknown.
            None | Some("0:0") => FrameRate::DEFAULT,
            Some(text) => FrameRate::parse(text).ok_or_else(|| format!("the frame rate F{text} is no rate"))?,
        };
        let width = width.ok_or_else(|| "the header names no width (W)".to_owned())?;
        let height = height.ok_or_else(|| "the header names no height (H)".to_owned())?;
        Ok(Self { width, height, rate, chroma, range })
    }

    /// The line, without its newline.
    pub fn to_line(self) -> String {
        let Self { width, height, rate, chroma, range } = self;
        let (numerator, denominator) = (rate.numerator(), rate.denominator());
        let mut line = format!("{MAGIC} W{width} H{height} F{numerator}:{denominator} Ip A1:1 C{}", chroma.tag());
        // Writing to a string cannot fail.
        let _ = write!(line, " XCOLORRANGE={}", if range == Range::Full { "FULL" } else { "LIMITED" });
        line
    }

    /// Bytes of one frame: luma and both chroma planes.
    pub fn frame_bytes(self) -> usize {
        let (across, down) = self.chroma.plane(self.width, self.height);
        self.width as usize * self.height as usize + 2 * across as usize * down as usize
    }
}

fn side(what: &str, value: &str) -> Result<u32, String> {
    match value.parse::<u32>() {
        Ok(pixels) if (1..=MAX_SIDE).contains(&pixels) => Ok(pixels),
        _ => Err(format!("the {what} {value:?} is not between 1 and {MAX_SIDE} pixels")),
    }
}

fn check_progressive(value: &str) -> Result<(), String> {
    match value {
        "p" | "?" | "" => Ok(()),
        _ => Err(format!("the stream is interlaced (I{value}); deinterlace it first, with ffmpeg -vf yadif")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_ffmpeg_and_mplayer_are_read() {
        let header =
            Header::parse(b"YUV4MPEG2 W639 H480 F30000:1001 Ip A1:1 C420mpeg2 XYSCSS=420MPEG2 XCOLORRANGE=FULL")
                .unwrap();
        assert_eq!((header.width, header.height, header.range), (639, 480, Range::Full));
        assert_eq!(header.frame_bytes(), 639 * 480 + 2 * 320 * 240);
        let bare = Header::parse(b"YUV4MPEG2 W2 H2").unwrap();
        assert_eq!((bare.chroma, bare.rate), (Chroma::C420, FrameRate::DEFAULT));
        assert_eq!(Header::parse(bare.to_line().as_bytes()), Ok(bare));
    }

    #[test]
    fn what_cannot_be_shown_is_refused_by_name() {
        let says = |line: &str, part: &str| {
            let reason = Header::parse(line.as_bytes()).unwrap_err();
            assert!(reason.contains(part) && !reason.contains('\n'), "{reason}");
        };
        says("YUV4MPEG2 W4 H4 C420p10", "more than 8 bits");
        says("YUV4MPEG2 W4 H4 Cmono16", "more than 8 bits");
        says("YUV4MPEG2 W4 H4 C411", "not supported");
        says("YUV4MPEG2 W4 H4 C444alpha", "not supported");
        says("YUV4MPEG2 W4 H4 It", "interlaced");
        says("YUV4MPEG2 W4 H4 Im", "interlaced");
        says("YUV4MPEG2 W4", "no height");
        says("YUV4MPEG2 W0 H4", "width \"0\"");
        says("YUV4MPEG2 W4 H99999999999", "height");
        says("YUV4MPEG2 W4 H4 F0:1", "no rate");
        says("RIFF W4 H4", "no y4m stream");
    }
}
