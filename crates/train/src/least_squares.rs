//! The best linear forecast of a value from remembered ones.
//!
//! All forecasters in use are linear in their history (arXiv 2604.26365): holding, Taylor's ladder, Adams-Bashforth. So
//! the coefficients themselves are what is to be learned, and for a fixed plan least squares gives them in closed form.

use candle_core::Tensor;
use refrain_cache::Coefficients;

use crate::TrainError;

/// Weight of the pull towards the plain hold, relative to the history's energy: keeps nearly collinear histories from
/// giving huge opposite coefficients that fit this trial and no other.
pub const RIDGE: f64 = 1e-5;

/// Normal equations of `target ≈ Σ coefficient · history`, added up over trials.
#[derive(Clone, Debug)]
pub struct NormalEquations {
    gram: Vec<Vec<f64>>,
    moments: Vec<f64>,
}

impl NormalEquations {
    /// Equations for `terms` remembered values.
    pub fn new(terms: usize) -> Self {
        Self { gram: vec![vec![0.0; terms]; terms], moments: vec![0.0; terms] }
    }

    /// Equations whose sums are known: `gram[i][j]` of histories, `moments[i]` of history and target.
    pub(crate) fn from_products(gram: Vec<Vec<f64>>, moments: Vec<f64>) -> Self {
        Self { gram, moments }
    }

    /// Adds a trial: `history` newest first, all of the target's shape.
    ///
    /// # Errors
    /// If shapes differ.
    pub fn add(&mut self, target: &Tensor, history: &[&Tensor]) -> Result<(), TrainError> {
        for (row, (gram, moment)) in history.iter().zip(self.gram.iter_mut().zip(&mut self.moments)) {
            *moment += dot(row, target)?;
            for (column, sum) in history.iter().zip(gram) {
                *sum += dot(row, column)?;
            }
        }
        Ok(())
    }

    /// The coefficients, newest first; the plain hold where the equations are degenerate.
    pub fn solve(&self, ridge: f64) -> Coefficients {
        let terms = self.moments.len();
        let energy =
            self.gram.iter().enumerate().filter_map(|(index, row)| row.get(index)).sum::<f64>() / terms.max(1) as f64;
        let mut gram = self.gram.clone();
        let mut moments = self.moments.clone();
        for (index, row) in gram.iter_mut().enumerate() {
            if let Some(diagonal) = row.get_mut(index) {
                *diagonal += ridge * energy;
            }
        }
        if let Some(first) = moments.first_mut() {
            *first += ridge * energy;
        }
        let solution = solve_linear(gram, moments).unwrap_or_default();
        let weights: Vec<f32> = solution.iter().map(|&weight| weight as f32).collect();
        Coefficients::new(&weights).unwrap_or(Coefficients::HOLD)
    }
}

fn dot(a: &Tensor, b: &Tensor) -> Result<f64, TrainError> {
    // Rows first, in f32, then their sums in f64: one long f32 sum loses the digits that small differences need.
    let rows: Vec<f32> = (a * b)?.flatten_all()?.reshape(((), last_dim(a)))?.sum(1)?.to_vec1()?;
    Ok(rows.into_iter().map(f64::from).sum())
}

fn last_dim(tensor: &Tensor) -> usize {
    tensor.dims().last().copied().unwrap_or(1).max(1)
}

/// Gaussian elimination with partial pivoting; `None` for a singular matrix.
pub(crate) fn solve_linear(mut matrix: Vec<Vec<f64>>, mut right: Vec<f64>) -> Option<Vec<f64>> {
    let size = right.len();
    for pivot in 0..size {
        let best = (pivot..size).max_by(|&a, &b| matrix[a][pivot].abs().total_cmp(&matrix[b][pivot].abs()))?;
        matrix.swap(pivot, best);
        right.swap(pivot, best);
        let leading = matrix[pivot].clone();
        let scale = leading[pivot];
        if !scale.is_finite() || scale.abs() < f64::MIN_POSITIVE {
            return None;
        }
        for row in pivot + 1..size {
            let factor = matrix[row][pivot] / scale;
            matrix[row].iter_mut().zip(&leading).skip(pivot).for_each(|(value, lead)| *value -= factor * lead);
            right[row] -= factor * right[pivot];
        }
    }
    for row in (0..size).rev() {
        let known: f64 = (row + 1..size).map(|column| matrix[row][column] * right[column]).sum();
        right[row] = (right[row] - known) / matrix[row][row];
    }
    right.iter().all(|value| value.is_finite()).then_some(right)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use refrain_samplers::noise::counter;

    #[test]
    fn finds_the_combination_that_made_the_target() {
        let history: Vec<Tensor> = (0..3).map(|seed| counter(seed, &[2, 4, 4, 4]).unwrap()).collect();
        let weights = [1.7f64, -0.9, 0.15];
        let mut target = Tensor::zeros((2, 4, 4, 4), candle_core::DType::F32, &Device::Cpu).unwrap();
        for (value, weight) in history.iter().zip(weights) {
            target = (target + (value * weight).unwrap()).unwrap();
        }
        let mut equations = NormalEquations::new(3);
        equations.add(&target, &history.iter().collect::<Vec<_>>()).unwrap();
        for (found, expected) in equations.solve(0.0).as_slice().iter().zip(weights) {
            assert!((f64::from(*found) - expected).abs() < 1e-4, "{found} {expected}");
        }
    }

    #[test]
    fn equal_histories_share_the_weight_and_do_not_blow_up() {
        let value = counter(7, &[1, 64]).unwrap();
        let mut equations = NormalEquations::new(2);
        equations.add(&value, &[&value, &value]).unwrap();
        let solved = equations.solve(RIDGE);
        let sum: f32 = solved.as_slice().iter().sum();
        assert!((sum - 1.0).abs() < 1e-3 && solved.as_slice().iter().all(|weight| weight.abs() < 2.0), "{solved:?}");
    }

    #[test]
    fn nothing_to_learn_from_holds() {
        assert_eq!(NormalEquations::new(2).solve(0.0), Coefficients::HOLD);
    }
}
