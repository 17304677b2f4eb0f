//! AdamW over plain rows of numbers.
//!
//! A router holds a few thousand scalars, of which one row changes at a time; candle's optimiser keeps no state that can
//! be saved, and `--resume` must equal an uninterrupted run bit for bit.

use serde::{Deserialize, Serialize};

/// Settings of [`AdamW`] (arXiv 1711.05101).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdamWSettings {
    /// Step size.
    pub learning_rate: f64,
    /// Decay of the running mean of gradients (β₁).
    pub momentum: f64,
    /// Decay of the running mean of squared gradients (β₂).
    pub variance_decay: f64,
    /// Added to the root of the variance, against division by zero.
    pub epsilon: f64,
    /// Decoupled decay of the values; HarmoniCa trains with none.
    pub weight_decay: f64,
}

impl Default for AdamWSettings {
    fn default() -> Self {
        Self { learning_rate: 0.01, momentum: 0.9, variance_decay: 0.999, epsilon: 1e-8, weight_decay: 0.0 }
    }
}

/// Moments of one row of trainable values; rows are updated at different times, so each counts its own updates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdamW {
    settings: AdamWSettings,
    mean: Vec<f64>,
    variance: Vec<f64>,
    updates: u32,
}

impl AdamW {
    /// Moments of `length` values, all zero.
    pub fn new(length: usize, settings: AdamWSettings) -> Self {
        Self { settings, mean: vec![0.0; length], variance: vec![0.0; length], updates: 0 }
    }

    /// How many updates this row has had.
    pub fn updates(&self) -> u32 {
        self.updates
    }

    /// The moments `(mean, variance)`, to be saved beside the values.
    pub fn moments(&self) -> (&[f64], &[f64]) {
        (&self.mean, &self.variance)
    }

    /// Restores saved moments; `None` when their lengths do not fit.
    pub fn restore(&self, mean: Vec<f64>, variance: Vec<f64>, updates: u32) -> Option<Self> {
        (mean.len() == self.mean.len() && variance.len() == self.mean.len()).then_some(Self {
            settings: self.settings,
            mean,
            variance,
            updates,
        })
    }

    /// One update of `values` with `gradient`, at `rate` times the learning rate. Values past the shorter of the two stay.
    pub fn update(&mut self, values: &mut [f32], gradient: &[f32], rate: f64) {
        let AdamWSettings { learning_rate, momentum, variance_decay, epsilon, weight_decay } = self.settings;
        self.updates += 1;
        let correction_mean = 1.0 - momentum.powi(self.updates as i32);
        let correction_variance = 1.0 - variance_decay.powi(self.updates as i32);
        let moments = self.mean.iter_mut().zip(&mut self.variance);
        for ((value, &slope), (mean, variance)) in values.iter_mut().zip(gradient).zip(moments) {
            let slope = f64::from(slope);
            *mean = momentum * *mean + (1.0 - momentum) * slope;
            *variance = variance_decay * *variance + (1.0 - variance_decay) * slope * slope;
            let step = (*mean / correction_mean) / ((*variance / correction_variance).sqrt() + epsilon);
            let decayed = f64::from(*value) * (1.0 - learning_rate * rate * weight_decay);
            *value = (decayed - learning_rate * rate * step) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two steps of `torch.optim.AdamW([1.0, -2.0], lr=0.1, weight_decay=0.01)` with gradients (0.5, -1.0), (0.1, 0.3).
    #[test]
    fn agrees_with_torch() {
        let settings = AdamWSettings { learning_rate: 0.1, weight_decay: 0.01, ..Default::default() };
        let mut optimiser = AdamW::new(2, settings);
        let mut values = [1.0f32, -2.0];
        optimiser.update(&mut values, &[0.5, -1.0], 1.0);
        // The first bias-corrected step has length one: 1 * 0.999 - 0.1 and -2 * 0.999 + 0.1.
        assert!((values[0] - 0.899).abs() < 1e-6 && (values[1] + 1.898).abs() < 1e-6, "{values:?}");
        optimiser.update(&mut values, &[0.1, 0.3], 1.0);
        // mean (0.055, -0.06)/0.19, variance (0.00025975, 0.001089)/0.001999.
        let first = 0.899 * 0.999 - 0.1 * (0.055 / 0.19) / (0.000_259_75f64 / 0.001_999).sqrt();
        let second = -1.898 * 0.999 - 0.1 * (-0.06 / 0.19) / (0.001_089f64 / 0.001_999).sqrt();
        assert!((f64::from(values[0]) - first).abs() < 1e-5, "{} {first}", values[0]);
        assert!((f64::from(values[1]) - second).abs() < 1e-5, "{} {second}", values[1]);
        assert_eq!(optimiser.updates(), 2);
    }

    #[test]
    fn restored_moments_continue_bit_for_bit() {
        let gradient = [0.3f32, -0.2, 0.7];
        let mut whole = AdamW::new(3, AdamWSettings::default());
        let mut values = [0.1f32, 0.2, 0.3];
        whole.update(&mut values, &gradient, 1.0);
        let (mean, variance) = whole.moments();
        let mut resumed =
            AdamW::new(3, AdamWSettings::default()).restore(mean.to_vec(), variance.to_vec(), whole.updates()).unwrap();
        let mut again = values;
        whole.update(&mut values, &gradient, 0.5);
        resumed.update(&mut again, &gradient, 0.5);
        assert_eq!(values, again);
        assert!(whole.restore(vec![0.0], vec![0.0], 1).is_none());
    }
}
