//! λ(t): how much the final picture minds the caching of one step (HarmoniCa, arXiv 2410.01723, §3.3).

use candle_core::Tensor;
use refrain_cache::{Context, Guard};

use crate::{
    TrainError,
    router::{Proxy, Router, THRESHOLD},
    student::{Blend, Row, Student},
    subject::{Subject, Trial, cache_step, roll_out, row_errors},
};

/// λ of each step, of mean 1 over the steps that cache anything. The first step caches nothing and keeps 1.
///
/// # Errors
/// Those of the model and the sampler.
pub(super) fn weights(
    subject: &Subject<'_>,
    trial: &Trial<'_>,
    router: &Router,
    proxy: Proxy,
) -> Result<Vec<f64>, TrainError> {
    let steps = subject.steps();
    let mut lambda = vec![1.0; steps];
    match proxy {
        Proxy::Uniform => return Ok(lambda),
        Proxy::LeaveOneOut => {
            let all = sampled(subject, trial, router, &vec![true; steps])?;
            for (step, weight) in lambda.iter_mut().enumerate().skip(1) {
                let mut caching = vec![true; steps];
                caching[step] = false;
                *weight = distance(&all, &sampled(subject, trial, router, &caching)?)?;
            }
        }
        Proxy::Telescoping => {
            let mut caching = vec![false; steps];
            let mut before = sampled(subject, trial, router, &caching)?;
            for (step, weight) in lambda.iter_mut().enumerate().skip(1) {
                caching[step] = true;
                let after = sampled(subject, trial, router, &caching)?;
                *weight = distance(&before, &after)?;
                before = after;
            }
        }
    }
    normalise(&mut lambda);
    Ok(lambda)
}

fn distance(a: &Tensor, b: &Tensor) -> Result<f64, TrainError> {
    let rows = row_errors(a, b)?;
    Ok(rows.iter().sum::<f64>() / rows.len().max(1) as f64)
}

/// Mean 1, and no step so light that its error would cost nothing.
fn normalise(lambda: &mut [f64]) {
    const LIGHTEST: f64 = 0.02;
    let learned = lambda.get_mut(1..).unwrap_or_default();
    let mean = learned.iter().sum::<f64>() / learned.len().max(1) as f64;
    for weight in learned {
        *weight = if mean > 0.0 { (*weight / mean).max(LIGHTEST) } else { 1.0 };
    }
}

/// Final latents under the router's hard decisions at the steps that are `caching`.
fn sampled(subject: &Subject<'_>, trial: &Trial<'_>, router: &Router, caching: &[bool]) -> Result<Tensor, TrainError> {
    let row = Row::default();
    let guard = Guard { compute_last: false, ..Guard::default() };
    let mut cx = Context::new(Box::new(Student::new(row.clone())), guard, subject.run.clone())?;
    roll_out(&subject.schedule, &trial.latents, &mut |latents, step| {
        cx.begin_step(cache_step(step));
        let off = caching.get(step.index) != Some(&true);
        row.set(
            router.sites.iter().enumerate().map(|(index, &site)| {
                (site, Blend::Hard { compute: off || router.score(step.index, index) > THRESHOLD })
            }),
        );
        (trial.predict)(&mut cx, latents, step)
    })
}
