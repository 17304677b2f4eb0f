//! Styles that change colours: sepia, thermal, night vision.

use super::filters::blur;
use super::planes::{Plane, Planes};

/// Rows of the usual sepia matrix.
const SEPIA: [[f32; 3]; 3] = [[0.393, 0.769, 0.189], [0.349, 0.686, 0.168], [0.272, 0.534, 0.131]];

/// Cold to hot, evenly spaced.
const HEAT: [[f32; 3]; 6] =
    [[0.0, 0.0, 0.12], [0.25, 0.0, 0.55], [0.75, 0.1, 0.45], [0.98, 0.45, 0.1], [1.0, 0.85, 0.25], [1.0, 1.0, 0.9]];

pub(super) fn sepia(frame: &Planes) -> Planes {
    let [red, green, blue] = &frame.0;
    Planes(SEPIA.map(|[r, g, b]| {
        let warm = red.zip(green, |x, y| r * x + g * y);
        warm.zip(blue, |sum, z| (sum + b * z).clamp(0.0, 1.0))
    }))
}

pub(super) fn thermal(frame: &Planes) -> Planes {
    let heat = blur(&frame.luma(), 1);
    let channel = |channel: usize| {
        heat.map(|value| {
            let at = value.clamp(0.0, 1.0) * (HEAT.len() - 1) as f32;
            let near = |index: usize| (1.0 - (at - index as f32).abs()).max(0.0);
            HEAT.iter().enumerate().map(|(index, stop)| near(index) * stop[channel]).sum()
        })
    };
    Planes([channel(0), channel(1), channel(2)])
}

pub(super) fn night(frame: &Planes) -> Planes {
    let glow = blur(&frame.luma(), 1).map(|value| 0.08 + 0.92 * value.max(1e-6).sqrt());
    let lit = Plane::from_fn(glow.width, glow.height, |_, y| if y % 4 < 2 { 1.0 } else { 0.88 });
    let glow = glow.zip(&lit, |value, line| (value * line).clamp(0.0, 1.0));
    Planes([glow.map(|value| 0.25 * value * value), glow.clone(), glow.map(|value| 0.3 * value * value)])
}
