//! Fixed sine-cosine position embeddings of a grid of patches (arXiv 2212.09748, after arXiv 1706.03762).

use std::sync::Mutex;

use candle_core::{Device, Result, Tensor};

/// The positions of a model: width, training grid and interpolation scale. Tables are computed once per grid size.
#[derive(Debug)]
pub struct GridPositions {
    width: usize,
    base_size: usize,
    interpolation_scale: f64,
    latest: Mutex<Option<((usize, usize), Tensor)>>,
}

impl GridPositions {
    /// Positions of `width` values for grids measured against a training grid of `base_size` patches a side.
    pub fn new(width: usize, base_size: usize, interpolation_scale: f64) -> Self {
        Self { width, base_size, interpolation_scale, latest: Mutex::new(None) }
    }

    /// The table `[1, rows * columns, width]` of a grid: first half of each vector tells the column, second half the row.
    ///
    /// # Errors
    /// Only when candle cannot make the tensor.
    pub fn table(&self, rows: usize, columns: usize) -> Result<Tensor> {
        let mut latest = self.latest.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((grid, table)) = latest.as_ref()
            && *grid == (rows, columns)
        {
            return Ok(table.clone());
        }
        let table = self.compute(rows, columns)?;
        *latest = Some(((rows, columns), table.clone()));
        Ok(table)
    }

    fn compute(&self, rows: usize, columns: usize) -> Result<Tensor> {
        let (by_column, by_row) = (self.sinusoids(columns), self.sinusoids(rows));
        let half = self.width / 2;
        let mut table = Vec::with_capacity(rows * columns * self.width);
        for row in by_row.chunks(half.max(1)) {
            for column in by_column.chunks(half.max(1)) {
                table.extend_from_slice(column);
                table.extend_from_slice(row);
            }
        }
        Tensor::from_vec(table, (1, rows * columns, self.width), &Device::Cpu)
    }

    /// `[count, width / 2]`: sines, then cosines, of every coordinate along one side. A grid larger than the training grid
    /// is squeezed into its range, so that positions interpolate instead of leaving what the model knows.
    fn sinusoids(&self, count: usize) -> Vec<f32> {
        let frequencies = self.width / 4;
        let stretch = (count as f64 / self.base_size as f64) as f32;
        let mut values = Vec::with_capacity(count * frequencies * 2);
        for index in 0..count {
            let coordinate = f64::from(index as f32 / stretch / self.interpolation_scale as f32);
            let angle = |frequency: usize| coordinate / 10_000_f64.powf(frequency as f64 / frequencies as f64);
            values.extend((0..frequencies).map(|frequency| angle(frequency).sin() as f32));
            values.extend((0..frequencies).map(|frequency| angle(frequency).cos() as f32));
        }
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_half_tells_the_column() -> Result<()> {
        let table = GridPositions::new(8, 4, 1.0).table(2, 3)?;
        assert_eq!(table.dims(), [1, 6, 8]);
        let rows: Vec<Vec<f32>> = table.squeeze(0)?.to_vec2()?;
        // Origin: all sines 0, all cosines 1.
        assert_eq!(rows[0], [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0]);
        // One step along the columns moves the first half only; one along the rows the second half only.
        assert!(rows[1][..4] != rows[0][..4] && rows[1][4..] == rows[0][4..]);
        assert!(rows[3][..4] == rows[0][..4] && rows[3][4..] != rows[0][4..]);
        Ok(())
    }

    #[test]
    fn larger_grids_stay_in_the_trained_range() -> Result<()> {
        let positions = GridPositions::new(16, 8, 2.0);
        let trained = positions.table(8, 8)?.get(0)?.get(4 * 8 + 4)?.to_vec1::<f32>()?;
        let doubled = positions.table(16, 16)?.get(0)?.get(8 * 16 + 8)?.to_vec1::<f32>()?;
        assert_eq!(trained, doubled);
        Ok(())
    }
}
