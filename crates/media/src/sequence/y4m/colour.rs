//! BT.601 between 8-bit RGB and planes of luma and chroma.

use super::header::{Chroma, Header, Range};
use crate::{MediaError, Picture};

/// Offset and span of the codes: luma, then chroma.
fn codes(range: Range) -> (f32, f32, f32) {
    match range {
        Range::Limited => (16.0, 219.0, 224.0),
        Range::Full => (0.0, 255.0, 255.0),
    }
}

/// Planes of one frame, `Header::frame_bytes` long, to pixels.
pub(super) fn to_picture(header: &Header, planes: &[u8]) -> Result<Picture, MediaError> {
    let (width, height) = (header.width as usize, header.height as usize);
    let (across, down) = header.chroma.plane(header.width, header.height);
    let (across, down) = (across as usize, down as usize);
    let (luma, chroma) = planes.split_at(width * height);
    let (blue, red) = chroma.split_at(across * down);
    let (step_x, step_y) = header.chroma.step();
    let (offset, span, chroma_span) = codes(header.range);
    let mut pixels = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        let row = y / step_y as usize * across;
        for x in 0..width {
            let value = (f32::from(luma[y * width + x]) - offset) / span;
            let at = row + x / step_x as usize;
            let (u, v) = match header.chroma {
                Chroma::Mono => (0.0, 0.0),
                _ => ((f32::from(blue[at]) - 128.0) / chroma_span, (f32::from(red[at]) - 128.0) / chroma_span),
            };
            let rgb = [value + 1.402 * v, value - 0.344_136_3 * u - 0.714_136_3 * v, value + 1.772 * u];
            // A float-to-int cast saturates.
            pixels.extend(rgb.map(|channel| (channel * 255.0).round() as u8));
        }
    }
    Picture::from_rgb8(header.width, header.height, pixels)
}

/// Pixels of the header's size to planes, appended to `planes`.
pub(super) fn to_planes(header: &Header, picture: &Picture, planes: &mut Vec<u8>) {
    let (offset, span, chroma_span) = codes(header.range);
    let rgb = |x: u32, y: u32| picture.pixel(x, y).map(|byte| f32::from(byte) / 255.0);
    let luma = |[r, g, b]: [f32; 3]| 0.299 * r + 0.587 * g + 0.114 * b;
    for y in 0..header.height {
        for x in 0..header.width {
            planes.push((luma(rgb(x, y)) * span + offset).round() as u8);
        }
    }
    let (across, down) = header.chroma.plane(header.width, header.height);
    let (step_x, step_y) = header.chroma.step();
    // Blue difference, then red difference.
    for (channel, scale) in [(2, 1.772), (0, 1.402)] {
        for y in 0..down {
            for x in 0..across {
                let mut sum = 0.0;
                for j in 0..step_y {
                    for i in 0..step_x {
                        // Beyond an odd edge, `pixel` repeats it.
                        let colour = rgb(x * step_x + i, y * step_y + j);
                        sum += (colour[channel] - luma(colour)) / scale;
                    }
                }
                let mean = sum / (step_x * step_y) as f32;
                planes.push((mean * chroma_span + 128.0).round() as u8);
            }
        }
    }
}
