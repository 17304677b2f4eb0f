//! Features of two inverted pictures, blended into a site's value.

use candle_core::{Result, Tensor};

/// What one row (frame) of a site's value becomes: `keep * value + first * A + second * B`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RowBlend {
    /// Factor of the row's own value.
    pub keep: f32,
    /// Factor of the first endpoint's feature.
    pub first: f32,
    /// Factor of the second endpoint's feature.
    pub second: f32,
}

/// A blend of two endpoints' features into a site's value `[rows, ...]`, row by row (CHIMERA's adaptive cache
/// injection, arXiv 2512.07155).
///
/// It acts on what the site returns to the model and never on what is remembered of it: a reused value that had been
/// injected before would be injected twice.
#[derive(Debug, Clone)]
pub struct Injection {
    /// Features `[1, ...]` of the two endpoints, each of one row's shape.
    pub endpoints: [Tensor; 2],
    /// One blend per row.
    pub rows: Vec<RowBlend>,
    /// Whether each row is scaled back to the norm that it had before.
    pub renormalise: bool,
}

impl Injection {
    /// The injected value, `[rows, ...]`. Blends that keep the value as it is leave every bit of it.
    ///
    /// # Errors
    /// Endpoints of another shape than a row, or another number of blends than rows.
    pub(crate) fn apply(&self, value: &Tensor) -> Result<Tensor> {
        let rows = value.dim(0)?;
        if rows != self.rows.len() {
            candle_core::bail!("{} blends for {rows} rows", self.rows.len());
        }
        let neutral = RowBlend { keep: 1.0, first: 0.0, second: 0.0 };
        if self.rows.iter().all(|row| *row == neutral) {
            return Ok(value.clone());
        }
        let coefficients: Vec<[f32; 3]> = self.rows.iter().map(|row| [row.keep, row.first, row.second]).collect();
        let [first, second] = &self.endpoints;
        refrain_ops::blend_rows(value, first, second, &coefficients, self.renormalise)
    }
}
