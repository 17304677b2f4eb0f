//! How well each step's output follows from earlier ones.

use std::cell::RefCell;
use std::collections::HashMap;

use candle_core::Tensor;

use crate::{
    TrainError,
    least_squares::{NormalEquations, RIDGE},
};

/// A step, the steps that it is forecast from, and how many of these count.
type Forecast = (usize, [usize; 3], usize);

/// Inner products of the model's outputs at all pairs of steps, added up over trials. Every least-squares forecast, its
/// coefficients and its error, follow from these numbers alone.
#[derive(Debug)]
pub struct Gram {
    products: Vec<Vec<f64>>,
    errors: RefCell<HashMap<Forecast, f64>>,
}

impl Gram {
    /// The products of trials, each the outputs of all steps.
    ///
    /// # Errors
    /// If the trials differ in shapes.
    pub fn new(trials: &[Vec<Tensor>]) -> Result<Self, TrainError> {
        let steps = trials.iter().map(Vec::len).min().unwrap_or(0);
        let mut products = vec![vec![0.0; steps]; steps];
        for outputs in trials {
            // One matrix product of all steps with themselves, a slice of rows at a time so that f32 sums stay short.
            let stacked = Tensor::stack(outputs, 0)?;
            let rows = stacked.dim(1)?;
            for row in 0..rows {
                let flat = stacked.narrow(1, row, 1)?.contiguous()?.reshape((steps, ()))?;
                let part: Vec<Vec<f32>> = flat.matmul(&flat.t()?)?.to_vec2()?;
                for (sums, values) in products.iter_mut().zip(part) {
                    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += f64::from(value));
                }
            }
        }
        Ok(Self { products, errors: RefCell::default() })
    }

    /// Steps of the run.
    pub fn steps(&self) -> usize {
        self.products.len()
    }

    fn product(&self, a: usize, b: usize) -> f64 {
        self.products.get(a).and_then(|row| row.get(b)).copied().unwrap_or(0.0)
    }

    /// The equations of forecasting `step` from the `history` steps, newest first.
    pub fn equations(&self, step: usize, history: &[usize]) -> NormalEquations {
        NormalEquations::from_products(
            history.iter().map(|&a| history.iter().map(|&b| self.product(a, b)).collect()).collect(),
            history.iter().map(|&a| self.product(a, step)).collect(),
        )
    }

    /// Energy that the best forecast of `step` from `history` misses.
    pub fn error(&self, step: usize, history: &[usize]) -> f64 {
        let mut key = [0; 3];
        key.iter_mut().zip(history).for_each(|(slot, &step)| *slot = step);
        let key = (step, key, history.len());
        if let Some(&known) = self.errors.borrow().get(&key) {
            return known;
        }
        let weights = self.equations(step, history).solve(RIDGE);
        let weights: Vec<f64> = weights.as_slice().iter().map(|&weight| f64::from(weight)).collect();
        let terms = || weights.iter().zip(history);
        let linear: f64 = terms().map(|(weight, &a)| weight * self.product(a, step)).sum();
        let square: f64 =
            terms().map(|(left, &a)| left * terms().map(|(right, &b)| right * self.product(a, b)).sum::<f64>()).sum();
        let error = (self.product(step, step) - 2.0 * linear + square).max(0.0);
        self.errors.borrow_mut().insert(key, error);
        error
    }
}
