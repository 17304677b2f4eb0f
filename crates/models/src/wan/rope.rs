//! Rotary positions of video tokens: time, row and column (arXiv 2104.09864, three axes as in arXiv 2503.20314).

use candle_core::{Device, Result, Tensor};
use refrain_ops::rotate_pairs;

/// Base of the frequencies' geometric series.
const THETA: f64 = 10_000.0;

/// Rows and columns of a frame's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameGrid {
    /// Rows of patches.
    pub rows: usize,
    /// Columns of patches.
    pub columns: usize,
}

impl FrameGrid {
    /// Tokens of a frame.
    pub fn tokens(self) -> usize {
        self.rows * self.columns
    }
}

/// Turns queries and keys by their place in time and picture.
///
/// Of a head's `d` values, `2·(d / 6)` each tell row and column, the rest (the first ones) the time. Positions in time are
/// numbers, not rows of a table: there is no longest video.
#[derive(Debug, Clone)]
pub struct WanRope {
    time_pairs: usize,
    /// `[tokens, row pairs + column pairs, 2]`.
    space: Tensor,
    grid: FrameGrid,
}

impl WanRope {
    /// Rotations for heads of `head_width` (even) over frames of `grid`.
    ///
    /// # Errors
    /// Only when candle cannot make the table.
    pub fn new(head_width: usize, grid: FrameGrid) -> Result<Self> {
        let side_pairs = head_width / 6;
        let mut values = Vec::with_capacity(grid.tokens() * side_pairs * 4);
        for row in 0..grid.rows {
            for column in 0..grid.columns {
                values.extend(angles(row as f64, side_pairs));
                values.extend(angles(column as f64, side_pairs));
            }
        }
        let space = Tensor::from_vec(values, (grid.tokens(), 2 * side_pairs, 2), &Device::Cpu)?;
        Ok(Self { time_pairs: head_width / 2 - 2 * side_pairs, space, grid })
    }

    /// The frames' grid.
    pub fn grid(&self) -> FrameGrid {
        self.grid
    }

    /// Turns `[rows, frames·tokens, width]`, every row's frames lying at the latent-frame `positions`, one per frame.
    ///
    /// # Errors
    /// When the tokens do not divide into the frames.
    pub fn rotate(&self, input: &Tensor, positions: &[f64]) -> Result<Tensor> {
        let (rows, count, width) = input.dims3()?;
        if count != positions.len() * self.grid.tokens() {
            candle_core::bail!("{count} tokens for {} frames of {:?}", positions.len(), self.grid);
        }
        let one: Vec<f32> = positions.iter().flat_map(|&position| angles(position, self.time_pairs)).collect();
        let groups = rows * positions.len();
        let times = Tensor::from_vec(one.repeat(rows), (groups, self.time_pairs, 2), &Device::Cpu)?;
        let grouped = input.reshape((groups, self.grid.tokens(), width))?;
        rotate_pairs(&grouped, &times, &self.space)?.reshape((rows, count, width))
    }
}

/// Cosine and sine of `position` at `pairs` frequencies.
fn angles(position: f64, pairs: usize) -> impl Iterator<Item = f32> {
    (0..pairs).flat_map(move |pair| {
        let angle = position / THETA.powf(pair as f64 / pairs as f64);
        [angle.cos() as f32, angle.sin() as f32]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_of_the_published_models_split_as_published() -> Result<()> {
        let rope = WanRope::new(128, FrameGrid { rows: 2, columns: 3 })?;
        assert_eq!((rope.time_pairs, rope.space.dims()), (22, &[6, 42, 2][..]));
        Ok(())
    }

    #[test]
    fn products_depend_on_the_distance_alone() -> Result<()> {
        let rope = WanRope::new(16, FrameGrid { rows: 1, columns: 1 })?;
        let random = || Tensor::randn(0f32, 1.0, (1, 1, 16), &Device::Cpu);
        let (query, key) = (random()?, random()?);
        let product = |later: f64, earlier: f64| -> Result<f32> {
            let (query, key) = (rope.rotate(&query, &[later])?, rope.rotate(&key, &[earlier])?);
            (query * key)?.sum_all()?.to_scalar()
        };
        let (near, far) = (product(7.0, 3.0)?, product(5007.0, 5003.0)?);
        assert!((near - far).abs() < 1e-4, "{near} {far}");
        assert!((near - product(8.0, 3.0)?).abs() > 1e-3);
        Ok(())
    }
}
