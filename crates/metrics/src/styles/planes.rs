//! Pictures and maps as planes, with edges that repeat.

use crate::MetricsError;

/// One plane `[height, width]`.
#[derive(Debug, Clone)]
pub(super) struct Plane {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) values: Vec<f32>,
}

impl Plane {
    /// A plane from a function of (x, y).
    pub(super) fn from_fn(width: usize, height: usize, value: impl Fn(usize, usize) -> f32) -> Self {
        let values = (0..width * height).map(|at| value(at % width, at / width)).collect();
        Self { width, height, values }
    }

    pub(super) fn map(&self, value: impl Fn(f32) -> f32) -> Self {
        let values = self.values.iter().map(|&old| value(old)).collect();
        Self { width: self.width, height: self.height, values }
    }

    pub(super) fn zip(&self, other: &Self, value: impl Fn(f32, f32) -> f32) -> Self {
        let values = self.values.iter().zip(&other.values).map(|(&a, &b)| value(a, b)).collect();
        Self { width: self.width, height: self.height, values }
    }

    /// The value at a place that may lie outside: the edge's then.
    pub(super) fn clamped(&self, x: isize, y: isize) -> f32 {
        let x = x.clamp(0, self.width as isize - 1) as usize;
        let y = y.clamp(0, self.height as isize - 1) as usize;
        self.values[y * self.width + x]
    }

    /// Means over `-before..=after` pixels both ways around every pixel.
    pub(super) fn window_mean(&self, x: (isize, isize), y: (isize, isize)) -> Self {
        let mean = |(before, after): (isize, isize), at: usize, value: &dyn Fn(isize) -> f32| {
            let count = (after - before + 1) as f32;
            (before..=after).map(|offset| value(at as isize + offset)).sum::<f32>() / count
        };
        let rows = Self::from_fn(self.width, self.height, |at, y| mean(x, at, &|x| self.clamped(x, y as isize)));
        Self::from_fn(self.width, self.height, |x, at| mean(y, at, &|y| rows.clamped(x as isize, y)))
    }
}

/// Red, green and blue in 0..1.
#[derive(Debug, Clone)]
pub(super) struct Planes(pub(super) [Plane; 3]);

impl Planes {
    pub(super) fn from_interleaved(frame: &[f32], width: usize, height: usize) -> Result<Self, MetricsError> {
        if frame.is_empty() {
            return Err(MetricsError::Empty);
        }
        if width.checked_mul(height).and_then(|pixels| pixels.checked_mul(3)) != Some(frame.len()) {
            let (reference, value) = (format!("{width}x{height}x3"), format!("{} values", frame.len()));
            return Err(MetricsError::SizeMismatch { reference, value });
        }
        Ok(Self([0, 1, 2].map(|channel| Plane::from_fn(width, height, |x, y| frame[(y * width + x) * 3 + channel]))))
    }

    pub(super) fn to_interleaved(&self) -> Vec<f32> {
        let [red, green, blue] = &self.0;
        let pixels = red.values.iter().zip(&green.values).zip(&blue.values);
        pixels.flat_map(|((&r, &g), &b)| [r, g, b]).collect()
    }

    pub(super) fn map(&self, plane: impl Fn(&Plane) -> Plane) -> Self {
        let [red, green, blue] = &self.0;
        Self([plane(red), plane(green), plane(blue)])
    }

    pub(super) fn width(&self) -> usize {
        self.0[0].width
    }

    pub(super) fn height(&self) -> usize {
        self.0[0].height
    }

    /// BT.601 luma.
    pub(super) fn luma(&self) -> Plane {
        let [red, green, blue] = &self.0;
        let warm = red.zip(green, |r, g| 0.299 * r + 0.587 * g);
        warm.zip(blue, |sum, b| sum + 0.114 * b)
    }

    /// Distance from grey times `amount`.
    pub(super) fn saturated(&self, amount: f32) -> Self {
        let luma = self.luma();
        self.map(|plane| luma.zip(plane, |grey, value| (grey + amount * (value - grey)).clamp(0.0, 1.0)))
    }

    /// Between two colours, `dark` at 0 and `light` at 1.
    pub(super) fn between(light: [f32; 3], dark: [f32; 3], mix: &Plane) -> Self {
        Self([0, 1, 2].map(|channel| mix.map(|t| dark[channel] + (light[channel] - dark[channel]) * t)))
    }
}
