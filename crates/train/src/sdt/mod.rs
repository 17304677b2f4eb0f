//! Step-wise denoising training with the image-error-proxy objective (HarmoniCa, arXiv 2410.01723, §3.2 and §3.3).
//!
//! Each trajectory starts from noise and follows the student's own latents. At every step the full model teaches on the
//! student's latents, without touching the cache; the loss `λ(t) · MSE + β · Σ cost · r` moves that step's row of logits
//! only, since the latents and all remembered values carry no gradient. β follows the budget by dual ascent.
//!
//! Departures from the released code, each a defect there: caches start empty in every trajectory; the noise goes on
//! after λ is refreshed; the frozen model records no gradient in the teacher's pass.

mod proxy;

use candle_core::{Tensor, Var};
use refrain_cache::{Context, Guard};

use crate::{
    TrainError,
    optimiser::{AdamW, AdamWSettings},
    router::{LOGIT_LIMIT, Proxy, Router, THRESHOLD, sigmoid},
    student::{Blend, Row, Student},
    subject::{Subject, Trial, cache_step, roll_out},
};

/// Settings of the training.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Share of a full run's cost that may compute, in 0..1.
    pub budget: f64,
    /// Optimiser steps in all.
    pub iterations: usize,
    /// Seed of the first logits.
    pub seed: u64,
    /// How the steps' losses are weighed.
    pub proxy: Proxy,
    /// Optimiser steps between two estimates of λ (C of the paper).
    pub refresh: usize,
    /// First β; dual ascent moves it.
    pub beta: f64,
    /// Rate of the dual ascent on log β, per trajectory.
    pub dual_rate: f64,
    /// Share of the iterations, at the end, in which scores sharpen to hard decisions; 0 leaves them soft.
    pub anneal: f64,
    /// The optimiser.
    pub optimiser: AdamWSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            budget: 0.5,
            iterations: 4_000,
            seed: 0,
            proxy: Proxy::LeaveOneOut,
            refresh: 500,
            beta: 1e-3,
            dual_rate: 0.1,
            anneal: 1.0 / 3.0,
            optimiser: AdamWSettings { learning_rate: 0.03, ..AdamWSettings::default() },
        }
    }
}

/// What one trajectory did, for curves and progress.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Optimiser steps so far.
    pub iteration: usize,
    /// Mean weighted squared error over the trajectory's steps.
    pub loss: f64,
    /// Mean λ.
    pub lambda: f64,
    /// Price of the whole cost of a step.
    pub beta: f64,
    /// Share of the cost that hard decisions would compute now.
    pub computed_share: f64,
}

/// All that a training is in the middle of: saving and restoring it continues bit for bit.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// The table.
    pub router: Router,
    /// Moments of each row.
    pub moments: Vec<AdamW>,
    /// λ of each step, of mean 1.
    pub lambda: Vec<f64>,
    /// Price of the whole cost of a step.
    pub beta: f64,
    /// Optimiser steps so far.
    pub iteration: usize,
    /// Trajectories so far: the number of the next trial.
    pub trajectory: u64,
    /// Optimiser steps at the last estimate of λ.
    pub refreshed: Option<usize>,
}

impl State {
    /// The start of a training.
    ///
    /// # Errors
    /// If the table cannot be made.
    pub fn new(subject: &Subject<'_>, settings: &Settings) -> Result<Self, TrainError> {
        let sites = subject.sites.iter().map(|cost| cost.site).collect();
        let router = Router::new(subject.run.clone(), sites, settings.seed)?;
        Ok(Self {
            moments: router.logits.iter().map(|row| AdamW::new(row.len(), settings.optimiser)).collect(),
            lambda: vec![1.0; router.logits.len()],
            beta: settings.beta,
            iteration: 0,
            trajectory: 0,
            refreshed: None,
            router,
        })
    }
}

/// Trains until the iterations are done or `watch` says stop; the state is always at the end of a trajectory.
///
/// # Errors
/// A loss that is not finite, the model's and the sampler's errors, [`TrainError::Stopped`] from `watch`.
pub fn train(
    subject: &Subject<'_>,
    settings: &Settings,
    state: &mut State,
    watch: &mut dyn FnMut(&State, Progress) -> Result<(), TrainError>,
) -> Result<(), TrainError> {
    let shares: Vec<f64> = subject.sites.iter().map(|cost| cost.share).collect();
    while state.iteration < settings.iterations {
        let trial = (subject.draw)(state.trajectory)?;
        if settings.proxy != Proxy::Uniform
            && state.refreshed.is_none_or(|last| state.iteration >= last + settings.refresh)
        {
            state.lambda = proxy::weights(subject, &trial, &state.router, settings.proxy)?;
            state.refreshed = Some(state.iteration);
        }
        let losses = trajectory(subject, &trial, settings, state)?;
        state.trajectory += 1;
        let share = state.router.computed_share(THRESHOLD, &shares);
        // Gradient ascent on the Lagrangian's price, in its logarithm: the scale of a loss is not known beforehand.
        state.beta *= (settings.dual_rate * (share - settings.budget)).exp();
        let progress = Progress {
            iteration: state.iteration,
            loss: losses.iter().sum::<f64>() / losses.len().max(1) as f64,
            lambda: state.lambda.iter().sum::<f64>() / state.lambda.len().max(1) as f64,
            beta: state.beta,
            computed_share: share,
        };
        watch(state, progress)?;
    }
    Ok(())
}

/// Sharpness of the scores at an iteration: 1 while soft, growing to 20 in the annealing share.
fn sharpness(settings: &Settings, iteration: usize) -> f64 {
    const SHARPEST: f64 = 20.0;
    let left = 1.0 - iteration as f64 / settings.iterations.max(1) as f64;
    if settings.anneal <= 0.0 || left >= settings.anneal {
        return 1.0;
    }
    SHARPEST.powf(1.0 - left / settings.anneal)
}

/// One trajectory; an optimiser step at each denoising step but the first.
fn trajectory(
    subject: &Subject<'_>,
    trial: &Trial<'_>,
    settings: &Settings,
    state: &mut State,
) -> Result<Vec<f64>, TrainError> {
    let row = Row::default();
    // The last step is trained like the others; whether it may skip at inference is the guard's affair.
    let guard = Guard { compute_last: false, ..Guard::default() };
    let mut cx = Context::new(Box::new(Student::new(row.clone())), guard, subject.run.clone())?;
    let mut losses = Vec::new();
    roll_out(&subject.schedule, &trial.latents, &mut |latents, step| {
        cx.begin_step(cache_step(step));
        if step.index == 0 {
            row.set([]);
            return (trial.predict)(&mut cx, latents, step);
        }
        let teacher = (trial.predict)(&mut Context::off(), latents, step)?;
        let sharpness = sharpness(settings, state.iteration);
        let logits = Var::new(state.router.logits.get(step.index).map_or(&[][..], Vec::as_slice), latents.device())?;
        let scores = scores(&logits, sharpness)?;
        row.set(blends(&state.router, step.index, &scores)?);
        let student = (trial.predict)(&mut cx, latents, step)?;
        let error = (&student - &teacher)?.sqr()?.mean_all()?;
        let lambda = state.lambda.get(step.index).copied().unwrap_or(1.0);
        let shares: Vec<f32> = subject.sites.iter().map(|cost| cost.share as f32).collect();
        let price = (&scores * Tensor::new(shares, latents.device())?)?.sum_all()?;
        let loss = ((&error * lambda)? + (price * state.beta)?)?;
        losses.push(learn(state, step.index, (&logits, &loss), lambda * f64::from(error.to_scalar::<f32>()?))?);
        Ok(student.detach())
    })?;
    Ok(losses)
}

/// `sigmoid(sharpness * (logit - threshold's logit)) `, with the threshold as the fixed point once it sharpens.
fn scores(logits: &Tensor, sharpness: f64) -> Result<Tensor, TrainError> {
    if sharpness <= 1.0 {
        return Ok(logistic(logits)?);
    }
    let middle = f64::from((THRESHOLD / (1.0 - THRESHOLD)).ln());
    // Between the plain score and a step at the threshold: the weight of the step grows with the sharpness.
    let share = 1.0 - 1.0 / sharpness;
    let hard = logistic(&((logits - middle)? * sharpness)?)?;
    Ok(((logistic(logits)? * (1.0 - share))? + (hard * share)?)?)
}

fn logistic(logits: &Tensor) -> candle_core::Result<Tensor> {
    (logits.neg()?.exp()? + 1.0)?.recip()
}

fn blends(router: &Router, step: usize, scores: &Tensor) -> Result<Vec<(refrain_cache::Site, Blend)>, TrainError> {
    let sites = router.sites.iter().enumerate();
    sites
        .map(|(index, &site)| {
            let refresh = router.score(step, index) > THRESHOLD;
            Ok((site, Blend::Soft { weight: scores.get(index)?, refresh }))
        })
        .collect()
}

/// One optimiser step on a row. Returns the weighted error.
fn learn(state: &mut State, step: usize, (logits, loss): (&Var, &Tensor), error: f64) -> Result<f64, TrainError> {
    if !loss.to_scalar::<f32>()?.is_finite() {
        return Err(TrainError::NonFinite { iteration: state.iteration, step: step + 1 });
    }
    let gradients = loss.backward()?;
    let gradient: Vec<f32> = match gradients.get(logits) {
        Some(gradient) => gradient.to_vec1()?,
        None => Vec::new(),
    };
    if gradient.iter().any(|value| !value.is_finite()) {
        return Err(TrainError::NonFinite { iteration: state.iteration, step: step + 1 });
    }
    if let (Some(row), Some(moments)) = (state.router.logits.get_mut(step), state.moments.get_mut(step)) {
        moments.update(row, &gradient, 1.0);
        row.iter_mut().for_each(|logit| *logit = logit.clamp(-LOGIT_LIMIT, LOGIT_LIMIT));
    }
    state.iteration += 1;
    Ok(error)
}

/// The score that hard decisions compare with the threshold.
pub fn computes(logit: f32) -> bool {
    sigmoid(logit) > THRESHOLD
}
