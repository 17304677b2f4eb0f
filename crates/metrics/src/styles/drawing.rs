//! Styles made of lines: pencil, ink, blueprint.

use super::filters::{blur, edges, smoothstep};
use super::planes::{Plane, Planes};

/// Spacing of the blueprint's grid in pixels.
const GRID: usize = 16;

pub(super) fn pencil(frame: &Planes) -> Planes {
    let luma = frame.luma();
    let dodge = blur(&luma, 1).zip(&blur(&luma, 5), |near, far| (near + 0.02) / (far + 0.02));
    let tone = blur(&luma, 2).map(|value| 0.55 + 0.45 * smoothstep(value, 0.0, 0.6));
    let paper = dodge.zip(&tone, |ratio, tone| smoothstep(ratio, 0.55, 1.0) * tone);
    Planes::between([0.98, 0.97, 0.94], [0.12, 0.12, 0.14], &paper)
}

pub(super) fn ink(frame: &Planes) -> Planes {
    let luma = frame.luma();
    let lit = blur(&luma, 2).map(|value| smoothstep(value, 0.12, 0.24));
    let paper = edges(&luma).zip(&lit, |edge, lit| (1.0 - smoothstep(edge, 0.25, 0.7)) * lit);
    Planes::between([1.0, 1.0, 1.0], [0.03, 0.03, 0.08], &paper)
}

pub(super) fn blueprint(frame: &Planes) -> Planes {
    let luma = frame.luma();
    let shade = blur(&luma, 2);
    let drawn = edges(&luma).zip(&shade, |edge, shade| 0.85 * smoothstep(edge, 0.12, 0.7) + 0.18 * shade);
    let grid = Plane::from_fn(luma.width, luma.height, |x, y| {
        if x.is_multiple_of(GRID) || y.is_multiple_of(GRID) { 0.12 } else { 0.0 }
    });
    let chalk = drawn.zip(&grid, |line, grid| (line + grid).clamp(0.0, 1.0));
    Planes::between([0.95, 0.98, 1.0], [0.03, 0.16, 0.42], &chalk)
}
