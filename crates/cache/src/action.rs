//! What a site is told to do.

use candle_core::Tensor;

use crate::Injection;

/// Most values of a site that a forecast may combine.
pub const MAX_HISTORY: usize = 4;

/// Weights of a linear combination of the last computed values of a site, newest first.
///
/// Every forecaster in use is linear in the history it remembers (arXiv 2604.26365), so holding a
/// value, TaylorSeer's ladder and a learned forecaster are one action that differs in its numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Coefficients {
    values: [f32; MAX_HISTORY],
    count: usize,
}

impl Coefficients {
    /// The newest value, unchanged.
    pub const HOLD: Self = Self { values: [1.0, 0.0, 0.0, 0.0], count: 1 };

    /// From 1 to [`MAX_HISTORY`] finite weights, newest value first; `None` for anything else.
    pub fn new(weights: &[f32]) -> Option<Self> {
        if weights.is_empty() || weights.len() > MAX_HISTORY || weights.iter().any(|weight| !weight.is_finite()) {
            return None;
        }
        let mut values = [0.0; MAX_HISTORY];
        values.iter_mut().zip(weights).for_each(|(value, weight)| *value = *weight);
        Some(Self { values, count: weights.len() })
    }

    /// The weights, newest value first; never empty.
    pub fn as_slice(&self) -> &[f32] {
        self.values.get(..self.count).unwrap_or(&self.values)
    }
}

/// What a policy answers when a site asks.
#[derive(Debug, Clone)]
pub enum Action {
    /// Run the closure; remember the result if someone will need it.
    Compute,
    /// Return the value of the last computed step.
    Reuse,
    /// Return a linear combination of the last computed values. With fewer values remembered than
    /// weights, the site computes.
    Forecast(Coefficients),
    /// `weight * fresh + (1 - weight) * remembered`, differentiable in `weight`: router training
    /// (HarmoniCa, arXiv 2410.01723). The remembered value carries no gradient.
    Mix {
        /// Scalar tensor, usually the sigmoid of a router's logit.
        weight: Tensor,
        /// Whether the fresh value replaces the remembered one.
        refresh: bool,
        /// What stands for the remembered value: `[k]` weights of the last `k` computed values, newest first, also
        /// differentiable; without them the newest value itself. With fewer than `k` remembered, the site computes.
        forecast: Option<Tensor>,
    },
    /// Do as `base` says, then blend the features of two endpoints into what the site returns (CHIMERA,
    /// arXiv 2512.07155). What is remembered is the value before.
    Inject {
        /// Where the value comes from: any action but another injection.
        base: Box<Action>,
        /// What is blended in.
        injection: Box<Injection>,
    },
}
