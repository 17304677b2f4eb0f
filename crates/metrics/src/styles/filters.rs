//! Filters that several styles share.

use super::planes::{Plane, Planes};

/// Mean of (2 radius + 1)² pixels.
pub(super) fn blur(plane: &Plane, radius: isize) -> Plane {
    plane.window_mean((-radius, radius), (-radius, radius))
}

/// 0 below `low`, 1 above `high`, a cubic between.
pub(super) fn smoothstep(value: f32, low: f32, high: f32) -> f32 {
    let t = ((value - low) / (high - low)).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

/// Soft staircase: `levels` flat values from 0 to 1 with steep, continuous risers.
pub(super) fn stairs(value: f32, levels: u8) -> f32 {
    let steps = f32::from(levels - 1);
    let t = value.clamp(0.0, 1.0) * steps;
    let floor = t.floor().min(steps - 1.0);
    (floor + smoothstep(t - floor, 0.3, 0.7)) / steps
}

/// Sobel magnitude after a blur of radius 1.
pub(super) fn edges(luma: &Plane) -> Plane {
    let smooth = blur(luma, 1);
    Plane::from_fn(luma.width, luma.height, |x, y| {
        let (x, y) = (x as isize, y as isize);
        let at = |dx: isize, dy: isize| smooth.clamped(x + dx, y + dy);
        let down = (at(-1, 1) + 2.0 * at(0, 1) + at(1, 1)) - (at(-1, -1) + 2.0 * at(0, -1) + at(1, -1));
        let across = (at(1, -1) + 2.0 * at(1, 0) + at(1, 1)) - (at(-1, -1) + 2.0 * at(-1, 0) + at(-1, 1));
        (down * down + across * across + 1e-8).sqrt()
    })
}

/// Soft Kuwahara filter (Kuwahara et al. 1976, made continuous): the means of the four quadrants around a pixel, weighted by
/// the inverse square of their luma variance.
pub(super) fn kuwahara(frame: &Planes, radius: isize) -> Planes {
    let luma = frame.luma();
    let squares = luma.map(|value| value * value);
    let sides = [(-radius, 0), (0, radius)];
    let mut total: Option<(Planes, Plane)> = None;
    for vertical in sides {
        for horizontal in sides {
            let mean = frame.map(|plane| plane.window_mean(horizontal, vertical));
            let spread = squares.window_mean(horizontal, vertical);
            let weight = spread.zip(&mean.luma(), |square, mean| {
                let variance = (square - mean * mean).max(0.0) + 1e-3;
                1.0 / (variance * variance)
            });
            let weighted = mean.map(|plane| plane.zip(&weight, |value, weight| value * weight));
            total = Some(match total {
                None => (weighted, weight),
                Some((sum, weights)) => (add(&sum, &weighted), weights.zip(&weight, |a, b| a + b)),
            });
        }
    }
    match total {
        Some((sum, weights)) => sum.map(|plane| plane.zip(&weights, |value, weight| value / weight)),
        None => frame.clone(),
    }
}

fn add(left: &Planes, right: &Planes) -> Planes {
    Planes([0, 1, 2].map(|channel| left.0[channel].zip(&right.0[channel], |a, b| a + b)))
}
