//! Step-wise denoising training with the image-error-proxy objective (HarmoniCa, arXiv 2410.01723, §3.2 and §3.3).
//!
//! Each trajectory starts from noise and follows the student's own latents. At every step the full model teaches on the
//! student's latents, without touching the cache; the loss `λ(t) · MSE + β · Σ cost · r` moves that step's row alone,
//! since the latents and all remembered values carry no gradient. β follows the budget by dual ascent.
//!
//! Departures from the released code, each a defect there: caches start empty in every trajectory; the noise goes on
//! after λ is refreshed; the frozen model records no gradient in the teacher's pass; soft scores sharpen to the hard
//! decisions of inference.
//!
//! What the parts are worth (20 DDIM steps, guidance 4, half of the operations, 1,200 optimiser steps, one seed, 16 held-out
//! prompts, median PSNR to the uncached picture; `benches/routers/README.md`):
//!
//! | all parts, reuse | with a forecast | soft to the end | straight-through | even λ | telescoping λ | single steps |
//! |---|---|---|---|---|---|---|
//! | 28.2 dB | 31.7 | 27.0 | 24.9 | 25.4 | 25.0 | 26.8 |
//!
//! Each part is worth having: the forecast 3.5 dB, λ by leave-one-out 2.8 over none and 3.2 over telescoping, the student's
//! own trajectory 1.4, decisions that harden in the last third 1.2 over soft and 3.3 over straight-through ones. Which is
//! why those are the defaults.
//!
//! Several budgets share one training: a trunk at their mean, from which every budget branches off for the last third.
//!
//! | file | what |
//! |---|---|
//! | `settings` | what is trained, and when it sharpens |
//! | `state` | all that a training is in the middle of |
//! | `trajectory` | one trajectory of optimiser steps |
//! | `row` | the trainable values of a step as tensors, and their gradients |
//! | `proxy` | λ |
//! | `checkpoint` | a training as a file |

mod checkpoint;
mod proxy;
mod row;
mod settings;
mod state;
#[cfg(test)]
mod tests;
mod trajectory;

pub use settings::{Follow, Hardening, Settings};
pub use state::{Progress, State, Training};

use crate::{TrainError, router::Router, subject::Subject};
use settings::Timetable;

/// Who looks on: says when to stop, and sees every trajectory's end.
pub trait Watch {
    /// Asked before every optimiser step. The training then is as at the end of the last trajectory.
    fn stop(&self) -> bool;

    /// A trajectory is done; `budget` is the budget's place in the settings, `None` while all share the trunk.
    ///
    /// # Errors
    /// Whatever ends the training.
    fn trajectory(&mut self, training: &Training, budget: Option<usize>) -> Result<(), TrainError>;
}

/// Trains until the iterations are done: one router for each budget, in their order.
///
/// # Errors
/// Settings out of range, a loss that is not finite, the model's and the sampler's errors, and
/// [`TrainError::Stopped`] when `watch` says so; `training` can then go on later, bit for bit.
pub fn train(
    subject: &Subject<'_>,
    settings: &Settings,
    training: &mut Training,
    watch: &mut dyn Watch,
) -> Result<Vec<Router>, TrainError> {
    let timetable = Timetable::new(settings, subject.steps())?;
    training.fit(&timetable);
    while training.trunk.trajectory < timetable.trunk_trajectories {
        training.trunk = trajectory::advance(subject, settings, (&training.trunk, &timetable.trunk), watch)?;
        watch.trajectory(training, None)?;
    }
    let mut routers = Vec::with_capacity(settings.budgets.len());
    for (index, stage) in timetable.branches.iter().enumerate() {
        let mut state = training.branches.get(index).unwrap_or(&training.trunk).clone();
        while state.iteration < stage.last {
            state = trajectory::advance(subject, settings, (&state, stage), watch)?;
            training.branches.truncate(index);
            training.branches.push(state.clone());
            watch.trajectory(training, Some(index))?;
        }
        routers.push(state.router.clone());
        if training.branches.len() <= index {
            training.branches.push(state);
        }
    }
    Ok(routers)
}
