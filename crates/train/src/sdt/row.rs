//! The trainable values of one step as tensors, and their gradients.

use std::{collections::HashMap, sync::Arc};

use candle_core::{Tensor, Var, backprop::GradStore};
use refrain_cache::{MixWeights, Site};

use super::{settings::Hardening, state::State};
use crate::{
    TrainError, forecast,
    router::{LOGIT_LIMIT, THRESHOLD},
    student::Blend,
};

/// Scalars of forecasts multiply values that are mixed in anyway: they move by this share of a logit's step.
const FORECAST_RATE: f64 = 0.2;

/// One step's logits and forecasts, with the graph from them to the scores.
pub(super) struct TrainableRow {
    logits: Var,
    scalars: Option<Var>,
    /// `[sites]`.
    pub(super) scores: Tensor,
    /// What each site does.
    pub(super) blends: Vec<(Site, Blend)>,
}

/// Gradients of a row.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RowGradient {
    pub(super) logits: Vec<f32>,
    pub(super) scalars: Vec<f32>,
}

impl TrainableRow {
    /// The row of `step` with scores of this sharpness.
    pub(super) fn new(
        state: &State,
        step: usize,
        (sharpness, hardening, remembers): (f64, Hardening, bool),
    ) -> Result<Self, TrainError> {
        let router = &state.router;
        let device = candle_core::Device::Cpu;
        let logits = Var::new(router.logits.get(step).map_or(&[][..], Vec::as_slice), &device)?;
        let scores = scores(&logits, sharpness, hardening)?;
        let parameters = forecast::parameters(router.order);
        let (mut scalars, mut weights) = (None, Vec::new());
        if parameters > 0 {
            let row = router.forecasts.get(step).cloned().unwrap_or_default();
            let var = Var::from_vec(row, (router.sites.len(), parameters), &device)?;
            weights = forecast::weight_tensors(&var)?;
            scalars = Some(var);
        }
        let blend = |(index, &site): (usize, &Site)| {
            let refresh = remembers && router.score(step, index) > THRESHOLD;
            let forecasts = weights.iter().map(|weights| weights.get(index)).collect::<candle_core::Result<_>>()?;
            Ok((site, Blend { weight: scores.get(index)?, refresh, forecasts }))
        };
        let blends = router.sites.iter().enumerate().map(blend).collect::<Result<_, TrainError>>()?;
        Ok(Self { logits, scalars, scores, blends })
    }

    /// What the row gets of a loss's gradients.
    pub(super) fn gradient(&self, store: &GradStore) -> Result<RowGradient, TrainError> {
        let of = |var: &Var| -> Result<Vec<f32>, TrainError> {
            match store.get(var) {
                Some(gradient) => Ok(gradient.flatten_all()?.to_vec1()?),
                None => Ok(vec![0.0; var.elem_count()]),
            }
        };
        let scalars = self.scalars.as_ref().map(of).transpose()?.unwrap_or_default();
        Ok(RowGradient { logits: of(&self.logits)?, scalars })
    }

    /// What each site does, for a pass without a tape.
    pub(super) fn without_gradient(&self) -> Vec<(Site, Blend)> {
        let detached = |(site, blend): &(Site, Blend)| {
            let forecasts = blend.forecasts.iter().map(Tensor::detach).collect();
            (*site, Blend { weight: blend.weight.detach(), refresh: blend.refresh, forecasts })
        };
        self.blends.iter().map(detached).collect()
    }

    /// The weights that carry the gradient, for blocks that are computed again.
    pub(super) fn mix_weights(&self) -> Arc<MixWeights> {
        let blends: HashMap<Site, Blend> = self.blends.iter().cloned().collect();
        Arc::new(move |site, remembered| {
            let blend = blends.get(&site)?;
            let forecast = remembered.checked_sub(1).and_then(|index| blend.forecasts.get(index).cloned());
            Some((blend.weight.clone(), forecast))
        })
    }

    /// Gradients of nothing.
    pub(super) fn zero(&self) -> RowGradient {
        let scalars = self.scalars.as_ref().map_or(0, |scalars| scalars.elem_count());
        RowGradient { logits: vec![0.0; self.logits.elem_count()], scalars: vec![0.0; scalars] }
    }
}

impl RowGradient {
    pub(super) fn add(&mut self, other: &Self) {
        let add = |sums: &mut [f32], values: &[f32]| sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        add(&mut self.logits, &other.logits);
        add(&mut self.scalars, &other.scalars);
    }

    pub(super) fn is_finite(&self) -> bool {
        self.logits.iter().chain(&self.scalars).all(|value| value.is_finite())
    }
}

/// One optimiser step on a row, at a share of the learning rate. Gives whether all values are still numbers.
pub(super) fn update(state: &mut State, step: usize, gradient: &RowGradient, rate: f64) -> bool {
    let (Some(logits), Some(scalars), Some(moments)) =
        (state.router.logits.get_mut(step), state.router.forecasts.get_mut(step), state.moments.get_mut(step))
    else {
        return true;
    };
    moments.logits.update(logits, &gradient.logits, rate);
    logits.iter_mut().for_each(|logit| *logit = logit.clamp(-LOGIT_LIMIT, LOGIT_LIMIT));
    moments.forecasts.update(scalars, &gradient.scalars, rate * FORECAST_RATE);
    logits.iter().chain(scalars.iter()).all(|value| value.is_finite())
}

/// Scores `[sites]` of logits. Sharpened, they turn into a step at the threshold; straight through, they are that step
/// from the start and only their gradient is soft.
pub(super) fn scores(logits: &Tensor, sharpness: f64, hardening: Hardening) -> Result<Tensor, TrainError> {
    let soft = logistic(logits)?;
    if hardening == Hardening::StraightThrough {
        let hard = soft.gt(THRESHOLD)?.to_dtype(soft.dtype())?;
        return Ok((&hard + (&soft - soft.detach())?)?);
    }
    if sharpness <= 1.0 {
        return Ok(soft);
    }
    let middle = f64::from((THRESHOLD / (1.0 - THRESHOLD)).ln());
    // Between the plain score and a step at the threshold: the weight of the step grows with the sharpness.
    let share = 1.0 - 1.0 / sharpness;
    let steep = logistic(&((logits - middle)? * sharpness)?)?;
    Ok(((soft * (1.0 - share))? + (steep * share)?)?)
}

/// The score of one logit, as [`scores`] gives it where it is not straight through.
pub(super) fn score_value(logit: f32, sharpness: f64) -> f64 {
    let logistic = |logit: f64| 1.0 / (1.0 + (-logit).exp());
    let (logit, middle) = (f64::from(logit), f64::from((THRESHOLD / (1.0 - THRESHOLD)).ln()));
    let share = 1.0 - 1.0 / sharpness.max(1.0);
    logistic(logit) * (1.0 - share) + logistic((logit - middle) * sharpness) * share
}

fn logistic(logits: &Tensor) -> candle_core::Result<Tensor> {
    (logits.neg()?.exp()? + 1.0)?.recip()
}
