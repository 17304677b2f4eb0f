//! One trajectory: an optimiser step at each denoising step but the first.

use std::sync::Arc;

use candle_core::{Tensor, Var};
use refrain_cache::{Context, Guard, Recording};
use refrain_samplers::StepInfo;

use super::{
    Watch, proxy,
    row::{RowGradient, TrainableRow, score_value, update},
    settings::{Follow, Settings, Stage},
    state::{Progress, State},
};
use crate::{
    TrainError, forecast,
    router::{Proxy, Router, THRESHOLD},
    student::{Row, Student},
    subject::{Subject, Trial, cache_step, roll_out_together},
};

/// Rate of the dual ascent on log β, per trajectory and unit of the share above the budget.
const DUAL_RATE: f64 = 0.4;
/// How far the present excess itself moves log β for the trajectory at hand.
const DUAL_DAMPING: f64 = 4.0;
/// Trajectories by which the share is extrapolated before it is compared: logits take that long to follow β, and without
/// looking ahead β winds up until nearly everything reuses.
const DUAL_LOOK_AHEAD: f64 = 15.0;

/// The state after one more trajectory.
///
/// # Errors
/// A loss that is not finite, the model's and the sampler's errors, [`TrainError::Stopped`].
pub(super) fn advance(
    subject: &Subject<'_>,
    settings: &Settings,
    (before, stage): (&State, &Stage),
    watch: &dyn Watch,
) -> Result<State, TrainError> {
    let mut state = before.clone();
    let first = state.trajectory * settings.batch as u64;
    let trials =
        (first..first + settings.batch as u64).map(|number| (subject.draw)(number)).collect::<Result<Vec<_>, _>>()?;
    if settings.proxy != Proxy::Uniform && state.refreshed.is_none_or(|last| state.iteration >= last + settings.refresh)
    {
        let rows = proxy::Rows { state: &state, settings, sharpness: stage.sharpness(state.iteration) };
        (state.lambda, state.lambda_mean) = proxy::weights(subject, &trials, &rows, watch)?;
        state.refreshed = Some(state.iteration);
    }
    let shares: Vec<f64> = subject.sites.iter().map(|cost| cost.share).collect();
    if state.beta == 0.0 {
        // A price of the order of what it is weighed against: dual ascent does the rest.
        let pass = Pass { subject, settings, stage, shares: &shares, beta: None, watch };
        state.beta = 2.0 * pass.run(&trials, &mut state.clone())?.error.max(1e-12);
    }
    let excess = excess(&state, stage, &shares);
    let beta = state.beta * (DUAL_DAMPING * excess).exp();
    let totals =
        Pass { subject, settings, stage, shares: &shares, beta: Some(beta), watch }.run(&trials, &mut state)?;
    state.trajectory += 1;
    // Gradient ascent on the Lagrangian's price, in its logarithm: the scale of a loss is not known beforehand.
    state.beta *= (DUAL_RATE * excess).exp();
    let steps = totals.steps.max(1) as f64;
    state.curve.push(Progress {
        iteration: state.iteration,
        loss: totals.loss / steps,
        error: totals.error / steps,
        lambda: state.lambda_mean,
        beta,
        score_share: score_share(&state, stage, &shares),
        computed_share: state.router.computed_share(THRESHOLD, &shares),
        reused_entries: reused_entries(&state.router),
    });
    Ok(state)
}

/// The share above the budget that is on its way, within ± ½. Hard decisions are what the budget is about, but they answer
/// late; scores answer at once, but their mean is no decision: half of each.
fn excess(state: &State, stage: &Stage, shares: &[f64]) -> f64 {
    let half = |score_share: f64, computed_share: f64| 0.5 * (score_share + computed_share);
    let share = half(score_share(state, stage, shares), state.router.computed_share(THRESHOLD, shares));
    let before = state.curve.len().checked_sub(2).and_then(|index| state.curve.get(index));
    let trend = before.map_or(0.0, |before| share - half(before.score_share, before.computed_share));
    (share + DUAL_LOOK_AHEAD * trend - stage.budget).clamp(-0.5, 0.5)
}

/// Share of the cost when each entry counts by its score, as sharp as it is at the time.
fn score_share(state: &State, stage: &Stage, shares: &[f64]) -> f64 {
    let sharpness = stage.sharpness(state.iteration);
    let skipped = |row: &Vec<f32>| -> f64 {
        row.iter().zip(shares).map(|(&logit, share)| share * (1.0 - score_value(logit, sharpness))).sum()
    };
    let router = &state.router;
    1.0 - router.logits.iter().skip(1).map(skipped).sum::<f64>() / router.logits.len().max(1) as f64
}

fn reused_entries(router: &Router) -> f64 {
    let reused = router.logits.iter().flatten().filter(|&&logit| crate::router::sigmoid(logit) <= THRESHOLD).count();
    reused as f64 / router.logits.iter().flatten().count().max(1) as f64
}

/// Sums over the steps of a trajectory.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    steps: usize,
    loss: f64,
    error: f64,
}

/// One way through a trajectory.
struct Pass<'a, 's> {
    subject: &'a Subject<'s>,
    settings: &'a Settings,
    stage: &'a Stage,
    shares: &'a [f64],
    /// Price of a step's cost; without one nothing is learned, and the error is weighed by λ.
    beta: Option<f64>,
    watch: &'a dyn Watch,
}

/// A trial's cache and the row that its student follows.
pub(super) struct Seat {
    cx: Context,
    row: Row,
}

impl Pass<'_, '_> {
    fn run(&self, trials: &[Trial<'_>], state: &mut State) -> Result<Totals, TrainError> {
        let mut seats = trials.iter().map(|_| Seat::new(self.subject, state)).collect::<Result<Vec<_>, _>>()?;
        let (mut totals, mut finished) = (Totals::default(), false);
        let result = roll_out_together(&self.subject.schedule, trials, &mut |latents, step| {
            if self.watch.stop() {
                return Err(TrainError::Stopped);
            }
            if self.beta.is_some() && step.index > 0 && state.iteration >= self.stage.last {
                finished = true;
                return Err(TrainError::Stopped);
            }
            seats.iter_mut().for_each(|seat| seat.begin(step));
            if step.index == 0 {
                let evaluations = trials.iter().zip(&mut seats).zip(latents);
                return evaluations.map(|((trial, seat), latents)| seat.compute(trial, latents, step)).collect();
            }
            self.step((trials, &mut seats, latents), step, (state, &mut totals))
        });
        match result {
            Err(TrainError::Stopped) if finished => {}
            other => drop(other?),
        }
        Ok(totals)
    }

    /// One denoising step of all trials, and one optimiser step.
    fn step(
        &self,
        (trials, seats, latents): (&[Trial<'_>], &mut [Seat], &[Tensor]),
        step: &StepInfo,
        (state, totals): (&mut State, &mut Totals),
    ) -> Result<Vec<Tensor>, TrainError> {
        let sharpness = self.stage.sharpness(state.iteration);
        let remembers = self.settings.follow == Follow::Student;
        let row = TrainableRow::new(state, step.index, (sharpness, self.settings.hardening, remembers))?;
        let lambda = state.lambda.get(step.index).copied().unwrap_or(1.0);
        let bad = TrainError::NonFinite { iteration: state.iteration, step: step.index + 1 };
        let (mut gradient, mut outputs, mut error) = (row.zero(), Vec::new(), 0.0);
        for ((trial, seat), latents) in trials.iter().zip(seats).zip(latents) {
            let graded = seat.learn(trial, (latents, step), &row, self.settings)?;
            error += graded.error / trials.len() as f64;
            if self.beta.is_some() {
                gradient.add(&seat.gradient(trial, (latents, step), (&graded, &row), lambda / trials.len() as f64)?);
            }
            outputs.push(graded.output);
        }
        totals.steps += 1;
        let Some(beta) = self.beta else {
            totals.error += lambda * error / (self.subject.steps() - 1).max(1) as f64;
            return if error.is_finite() { Ok(outputs) } else { Err(bad) };
        };
        let shares: Vec<f32> = self.shares.iter().map(|&share| share as f32).collect();
        let price = ((&row.scores * Tensor::new(shares, row.scores.device())?)?.sum_all()? * beta)?;
        gradient.add(&row.gradient(&price.backward()?)?);
        let loss = lambda * error + f64::from(price.to_scalar::<f32>()?);
        if !loss.is_finite() || !gradient.is_finite() {
            return Err(bad);
        }
        totals.loss += loss;
        totals.error += error;
        if !update(state, step.index, &gradient, self.stage.rate(state.iteration)) {
            return Err(bad);
        }
        state.iteration += 1;
        Ok(outputs)
    }
}

/// A student's answer beside the teacher's.
pub(super) struct Graded {
    /// What the trajectory goes on with, without gradient.
    output: Tensor,
    teacher: Tensor,
    /// The student's output with its tape, or what a tape can be made from block by block.
    student: Answer,
    /// Mean squared error.
    pub(super) error: f64,
}

enum Answer {
    Taped(Tensor),
    Recorded(Arc<Recording>),
}

impl Seat {
    pub(super) fn new(subject: &Subject<'_>, state: &State) -> Result<Self, TrainError> {
        let row = Row::default();
        let student = Student::new(row.clone(), forecast::depth(state.router.order));
        // The last step is trained like the others: at inference a plan's word holds.
        let guard = Guard { compute_last: false, ..Guard::default() };
        Ok(Self { cx: Context::new(Box::new(student), guard, subject.run.clone())?, row })
    }

    pub(super) fn begin(&mut self, step: &StepInfo) {
        self.cx.begin_step(cache_step(step));
    }

    /// Computes all, and remembers it.
    pub(super) fn compute(
        &mut self,
        trial: &Trial<'_>,
        latents: &Tensor,
        step: &StepInfo,
    ) -> Result<Tensor, TrainError> {
        self.row.set([]);
        (trial.predict)(&mut self.cx, latents, step)
    }

    /// The student's answer and the teacher's.
    pub(super) fn learn(
        &mut self,
        trial: &Trial<'_>,
        (latents, step): (&Tensor, &StepInfo),
        row: &TrainableRow,
        settings: &Settings,
    ) -> Result<Graded, TrainError> {
        if settings.recompute {
            self.row.set(row.without_gradient());
            self.cx.start_recording();
        } else {
            self.row.set(row.blends.iter().cloned());
        }
        let student = (trial.predict)(&mut self.cx, latents, step)?;
        let recording = self.cx.take_recording();
        let teacher = match settings.follow {
            Follow::Student => (trial.predict)(&mut Context::off(), latents, step)?,
            Follow::Teacher => self.compute(trial, latents, step)?,
        };
        let error = f64::from(squared_error(&student.detach(), &teacher)?.to_scalar::<f32>()?);
        let output = if settings.follow == Follow::Student { student.detach() } else { teacher.clone() };
        let student = match recording {
            Some(recording) => Answer::Recorded(Arc::new(recording)),
            None => Answer::Taped(student),
        };
        Ok(Graded { output, teacher, student, error })
    }

    /// The gradient of the squared error, times a weight.
    pub(super) fn gradient(
        &self,
        trial: &Trial<'_>,
        (latents, step): (&Tensor, &StepInfo),
        (graded, row): (&Graded, &TrainableRow),
        weight: f64,
    ) -> Result<RowGradient, TrainError> {
        match &graded.student {
            Answer::Taped(student) => row.gradient(&(squared_error(student, &graded.teacher)? * weight)?.backward()?),
            Answer::Recorded(recording) => {
                let mut again = |cx: &mut Context| (trial.predict)(cx, latents, step);
                by_block(&mut again, recording, (&graded.teacher, weight), row)
            }
        }
    }
}

fn squared_error(student: &Tensor, teacher: &Tensor) -> Result<Tensor, TrainError> {
    Ok((student - teacher)?.sqr()?.mean_all()?)
}

/// The gradient of a recorded pass: first what follows the blocks, then each block from the last to the first, with the
/// gradient of its output as the weights of a sum.
fn by_block(
    again: &mut dyn FnMut(&mut Context) -> Result<Tensor, TrainError>,
    recording: &Arc<Recording>,
    (teacher, weight): (&Tensor, f64),
    row: &TrainableRow,
) -> Result<RowGradient, TrainError> {
    let unfit =
        || TrainError::Range { what: "stacks of blocks", expected: "one, to recompute block by block", value: 0.0 };
    let blocks = recording.blocks().ok_or_else(unfit)?;
    let mut total = row.zero();
    let mut behind: Option<Tensor> = None;
    for block in blocks.clone().chain([blocks.end]).rev() {
        let hidden = Var::from_tensor(recording.hidden(block).ok_or_else(unfit)?)?;
        let mut cx = Context::replaying(recording.clone(), (block, hidden.as_tensor().clone()), row.mix_weights());
        let output = again(&mut cx)?;
        let objective = match (&behind, cx.replayed()) {
            (Some(slope), Some(output)) => (output * slope)?.sum_all()?,
            _ => (squared_error(&output, teacher)? * weight)?,
        };
        let store = objective.backward()?;
        total.add(&row.gradient(&store)?);
        behind = store.get(hidden.as_tensor()).map(Tensor::detach);
    }
    Ok(total)
}
