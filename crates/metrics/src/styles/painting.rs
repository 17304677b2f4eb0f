//! Styles made of areas: cartoon, oil, pixel art.

use super::filters::{edges, kuwahara, smoothstep, stairs};
use super::planes::{Plane, Planes};

/// Colour of the varnish over an oil painting.
const VARNISH: [f32; 3] = [1.08, 0.96, 0.76];

/// Side of a pixel-art cell, in pixels.
const CELL: usize = 8;

fn contrast(planes: &Planes, amount: f32) -> Planes {
    planes.map(|plane| plane.map(|value| (0.5 + amount * (value - 0.5)).clamp(0.0, 1.0)))
}

pub(super) fn cartoon(frame: &Planes) -> Planes {
    let line = edges(&frame.luma()).map(|edge| 1.0 - 0.8 * smoothstep(edge, 0.45, 1.0));
    let flat = kuwahara(frame, 3).saturated(1.6);
    flat.map(|plane| plane.zip(&line, |value, line| stairs(value, 4) * line))
}

pub(super) fn oil(frame: &Planes) -> Planes {
    let strokes = kuwahara(&kuwahara(frame, 4), 4);
    let Planes(mut channels) = contrast(&strokes, 1.35).saturated(1.7);
    for (plane, tint) in channels.iter_mut().zip(VARNISH) {
        *plane = plane.map(|value| (value * tint).clamp(0.0, 1.0));
    }
    Planes(channels)
}

pub(super) fn pixel_art(frame: &Planes) -> Planes {
    let (width, height) = (frame.width(), frame.height());
    let means = frame.map(cell_means);
    let inked = contrast(&means, 1.3).saturated(1.6).map(|plane| plane.map(|value| stairs(value, 5)));
    inked.map(|cells| Plane::from_fn(width, height, |x, y| cells.values[y / CELL * cells.width + x / CELL]))
}

/// One value a cell; a cell cut off by the edge counts the edge's pixels on.
fn cell_means(plane: &Plane) -> Plane {
    Plane::from_fn(plane.width.div_ceil(CELL), plane.height.div_ceil(CELL), |x, y| {
        let mut sum = 0.0;
        for j in 0..CELL {
            for i in 0..CELL {
                sum += plane.clamped((x * CELL + i) as isize, (y * CELL + j) as isize);
            }
        }
        sum / (CELL * CELL) as f32
    })
}
