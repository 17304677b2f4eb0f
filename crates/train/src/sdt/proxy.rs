//! λ(t): how much the final picture minds the caching of one step (HarmoniCa, arXiv 2410.01723, §3.3).

use candle_core::Tensor;
use refrain_cache::{Context, Guard};

use super::{Watch, row::TrainableRow, settings::Settings, state::State};
use crate::{
    TrainError, forecast,
    router::Proxy,
    student::{Row, Student},
    subject::{Subject, Trial, cache_step, roll_out_together, row_errors},
};

/// The rows that are sampled with: those the student trains with at the moment.
pub(super) struct Rows<'a> {
    pub(super) state: &'a State,
    pub(super) settings: &'a Settings,
    pub(super) sharpness: f64,
}

/// λ of each step, of mean 1 over the steps that cache anything, and the mean as measured. The first step caches
/// nothing and keeps 1.
///
/// # Errors
/// Those of the model and the sampler; [`TrainError::Stopped`].
pub(super) fn weights(
    subject: &Subject<'_>,
    trials: &[Trial<'_>],
    rows: &Rows<'_>,
    watch: &dyn Watch,
) -> Result<(Vec<f64>, f64), TrainError> {
    let steps = subject.steps();
    let mut lambda = vec![1.0; steps];
    let sampled = |caching: &[bool]| sampled(subject, trials, rows, (caching, watch));
    match rows.settings.proxy {
        Proxy::Uniform => return Ok((lambda, 1.0)),
        Proxy::LeaveOneOut => {
            let all = sampled(&vec![true; steps])?;
            for (step, weight) in lambda.iter_mut().enumerate().skip(1) {
                let caching: Vec<bool> = (0..steps).map(|other| other != step).collect();
                *weight = distance(&all, &sampled(&caching)?)?;
            }
        }
        Proxy::Telescoping => {
            let mut before = sampled(&vec![false; steps])?;
            for (step, weight) in lambda.iter_mut().enumerate().skip(1) {
                let caching: Vec<bool> = (0..steps).map(|other| other <= step).collect();
                let after = sampled(&caching)?;
                *weight = distance(&before, &after)?;
                before = after;
            }
        }
    }
    let mean = normalise(&mut lambda);
    if !mean.is_finite() {
        return Err(TrainError::NonFinite { iteration: rows.state.iteration, step: steps });
    }
    Ok((lambda, mean))
}

/// Mean squared difference of the final latents.
fn distance(a: &[Tensor], b: &[Tensor]) -> Result<f64, TrainError> {
    let mut rows = Vec::new();
    for (a, b) in a.iter().zip(b) {
        rows.extend(row_errors(a, b)?);
    }
    Ok(rows.iter().sum::<f64>() / rows.len().max(1) as f64)
}

/// Scales to mean 1, with no step so light that its error would cost nothing. Gives the mean before.
fn normalise(lambda: &mut [f64]) -> f64 {
    const LIGHTEST: f64 = 0.02;
    let learned = lambda.get_mut(1..).unwrap_or_default();
    let mean = learned.iter().sum::<f64>() / learned.len().max(1) as f64;
    for weight in learned {
        *weight = if mean > 0.0 { (*weight / mean).max(LIGHTEST) } else { 1.0 };
    }
    mean
}

/// Final latents under the rows at the steps that are `caching`.
fn sampled(
    subject: &Subject<'_>,
    trials: &[Trial<'_>],
    rows: &Rows<'_>,
    (caching, watch): (&[bool], &dyn Watch),
) -> Result<Vec<Tensor>, TrainError> {
    let row = Row::default();
    let depth = forecast::depth(rows.state.router.order);
    let guard = Guard { compute_last: false, ..Guard::default() };
    let context = |_: &Trial<'_>| {
        let student = Box::new(Student::new(row.clone(), depth));
        Context::new(student, guard.clone(), subject.run.clone())
    };
    let mut contexts = trials.iter().map(context).collect::<Result<Vec<_>, _>>()?;
    roll_out_together(&subject.schedule, trials, &mut |latents, step| {
        if watch.stop() {
            return Err(TrainError::Stopped);
        }
        row.set([]);
        if step.index > 0 && caching.get(step.index) == Some(&true) {
            let how = (rows.sharpness, rows.settings.hardening, true);
            row.set(TrainableRow::new(rows.state, step.index, how)?.without_gradient());
        }
        let evaluations = trials.iter().zip(&mut contexts).zip(latents);
        evaluations
            .map(|((trial, cx), latents)| {
                cx.begin_step(cache_step(step));
                (trial.predict)(cx, latents, step)
            })
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_have_mean_one_and_none_vanishes() {
        let mut lambda = vec![1.0, 0.0, 3.0, 1.0];
        let mean = normalise(&mut lambda);
        assert!((mean - 4.0 / 3.0).abs() < 1e-12);
        assert_eq!(lambda, [1.0, 0.02, 2.25, 0.75]);
        let mut nothing = vec![1.0, 0.0, 0.0];
        assert_eq!((normalise(&mut nothing), nothing), (0.0, vec![1.0; 3]));
    }
}
