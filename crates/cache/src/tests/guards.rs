//! The guard holds whatever the policy says.

use std::cell::Cell;

use candle_core::{Device, Result, Tensor};
use proptest::prelude::*;

use super::plans::random_plan;
use super::toy::{Toy, context, header, latents, policy, sample, step, values};
use crate::policies::Replay;
use crate::{Action, Ask, Branch, CacheError, CheckOptions, Context, Guard, Planned, Policy, RunHeader, Site, Step};

/// Skips whenever it can.
struct Greedy;

impl Policy for Greedy {
    fn name(&self) -> String {
        "greedy".into()
    }

    fn start(&mut self, _header: &RunHeader) -> std::result::Result<(), CacheError> {
        Ok(())
    }

    fn decide(&mut self, _ask: &Ask<'_>) -> Action {
        Action::Reuse
    }

    fn history_depth(&self, _site: Site, _step: Step) -> usize {
        1
    }
}

fn longest_skip(letters: &str) -> usize {
    letters.split('C').map(str::len).max().unwrap_or(0)
}

#[test]
fn warm_up_last_step_and_longest_skip_hold_against_a_greedy_policy() {
    let guard = Guard { warmup: 3, longest_skip: Some(2), ..Guard::default() };
    let mut cx = Context::new(Box::new(Greedy), guard, header(12)).unwrap();
    sample(&mut cx, &Toy::new(2, 2), 12, &[(Branch::GUIDED, 1)]);
    let plan = cx.executed_plan();
    assert_eq!(plan.letters(plan.column_of(Site::model()).unwrap()), "CCCRRCRRCRRC");
    // Parts inside the model were covered in those runs, and must compute when it does.
    assert_eq!(plan.letters(plan.column_of(Site::attention(1)).unwrap()), "CCC--C--C--C");
    assert!(cx.report().guarded > 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn guards_hold_for_random_plans(seed in 0u64..1000, warmup in 0usize..5, longest in 1usize..4, steps in 2usize..9) {
        let toy = Toy::new(seed, 1 + seed as usize % 3);
        let plan = random_plan(seed, &toy, steps, &[Branch::GUIDED]);
        let guard = Guard { warmup, longest_skip: Some(longest), ..Guard::default() };
        let mut cx = Context::new(Box::new(Replay::new(plan)), guard, header(steps)).unwrap();
        sample(&mut cx, &toy, steps, &[(Branch::GUIDED, seed)]);
        let executed = cx.executed_plan();
        for column in 0..executed.sites().len() {
            let letters = executed.letters(column);
            prop_assert!(longest_skip(&letters) <= longest, "{} {}", executed.sites()[column], letters);
            for step in (0..warmup.min(steps)).chain([steps - 1]) {
                prop_assert!(matches!(executed.at(step, column), Planned::Compute | Planned::Absent), "{}", letters);
            }
        }
    }
}

/// A model whose inner value is healthy at first only: a skip at `poisoned` gives `bad`.
fn poisoned_run(bad: f32, when_computed: bool) -> (Result<()>, Context) {
    let mut cx = Context::new(Box::new(Greedy), Guard::default(), header(6)).unwrap();
    let ramp = Tensor::arange(0f32, 16.0, &Device::Cpu).unwrap();
    let run = |cx: &mut Context| -> Result<()> {
        for index in 0..6 {
            cx.begin_step(step(index, 6));
            // No model site: the greedy policy would take that one whole.
            cx.set_branch(Branch::GUIDED);
            let computed = Cell::new(false);
            let output = cx.model(&ramp, |cx| {
                let part = cx.run(Site::attention(0), |_| {
                    computed.set(true);
                    Ok(ramp.clone())
                })?;
                let broken = index == 3 && (when_computed || !computed.get());
                if broken { part * f64::from(bad) } else { Ok(part) }
            })?;
            assert!(values(&output).iter().all(|value| value.is_finite()));
        }
        Ok(())
    };
    (run(&mut cx), cx)
}

/// Skips parts, never the whole model.
struct GreedyParts;

impl Policy for GreedyParts {
    fn name(&self) -> String {
        "greedy-parts".into()
    }

    fn start(&mut self, _header: &RunHeader) -> std::result::Result<(), CacheError> {
        Ok(())
    }

    fn decide(&mut self, ask: &Ask<'_>) -> Action {
        if ask.site.part.encloses() { Action::Compute } else { Action::Reuse }
    }

    fn history_depth(&self, _site: Site, _step: Step) -> usize {
        1
    }
}

/// As [`poisoned_run`], with the parts skipped: what they return turns bad at step 3.
fn poisoned_parts(bad: f32, when_computed: bool) -> (Result<()>, Context) {
    let mut cx = Context::new(Box::new(GreedyParts), Guard::default(), header(6)).unwrap();
    let ramp = Tensor::arange(0f32, 16.0, &Device::Cpu).unwrap();
    let mut run = || -> Result<()> {
        for index in 0..6 {
            cx.begin_step(step(index, 6));
            cx.model(&ramp, |cx| {
                let computed = Cell::new(false);
                let part = cx.run(Site::attention(0), |_| {
                    computed.set(true);
                    Ok(ramp.clone())
                })?;
                let broken = index == 3 && (when_computed || !computed.get());
                if broken { part * f64::from(bad) } else { Ok(part) }
            })?;
        }
        Ok(())
    };
    let result = run();
    (result, cx)
}

#[test]
fn a_broken_output_after_a_skip_is_computed_again_and_ends_the_caching() {
    for bad in [f32::NAN, f32::INFINITY, 0.0] {
        let (result, cx) = poisoned_parts(bad, false);
        result.unwrap();
        let (plan, report) = (cx.executed_plan(), cx.report());
        assert_eq!(plan.letters(plan.column_of(Site::attention(0)).unwrap()), "CRRCCC", "{bad}");
        assert!(report.fallback.unwrap().contains("step 4"), "{bad}");
        assert_eq!(report.bytes_held, 0);
    }
}

#[test]
fn a_broken_output_though_computed_is_an_error_that_names_the_step() {
    let (result, _) = poisoned_parts(f32::NAN, true);
    let error = result.unwrap_err().to_string();
    assert!(error.contains("step 4 of 6") && error.contains("not finite"), "{error}");
    assert_eq!(error.lines().count(), 1);
}

#[test]
fn a_constant_output_that_is_honest_ends_the_caching_without_an_error() {
    // mold#1559: nothing may be built on a collapsed value, but a model may well mean it.
    let (result, cx) = poisoned_parts(0.0, true);
    result.unwrap();
    let plan = cx.executed_plan();
    assert_eq!(plan.letters(plan.column_of(Site::attention(0)).unwrap()), "CRRCCC");
}

#[test]
fn a_reused_model_output_is_healthy_if_it_was() {
    let (result, cx) = poisoned_run(f32::NAN, false);
    result.unwrap();
    let plan = cx.executed_plan();
    assert_eq!(plan.letters(plan.column_of(Site::model()).unwrap()), "CRRRRC");
}

#[test]
fn broken_latents_are_an_error_that_names_the_step_even_with_the_cache_off() {
    let shape = (4, 8);
    for mut cx in [Context::off(), context(policy("interval"), 4)] {
        cx.begin_step(step(2, 4));
        cx.end_step(&latents(1)).unwrap();
        let broken = Tensor::full(f32::NAN, shape, &Device::Cpu).unwrap();
        let error = cx.end_step(&broken).unwrap_err();
        assert!(matches!(error, CacheError::NonFinite { step: 3, count: 4, .. }), "{error}");
        let blank = Tensor::full(0.3f32, shape, &Device::Cpu).unwrap();
        let error = cx.end_step(&blank).unwrap_err();
        assert!(matches!(error, CacheError::Collapsed { step: 3, .. }), "{error}");
    }
}

#[test]
fn checks_measure_without_disturbing() {
    let toy = Toy::staged(3, 3);
    for spelling in super::toy::SKIPPING {
        let mut plain = context(policy(spelling), 12);
        let expected = sample(&mut plain, &toy, 12, &[(Branch::GUIDED, 5)]);
        let options = CheckOptions { count: 4, seed: 9 };
        let mut cx = context(policy(spelling), 12).with_check(options);
        assert_eq!(sample(&mut cx, &toy, 12, &[(Branch::GUIDED, 5)]), expected, "{spelling}");
        assert_eq!(cx.executed_plan(), plain.executed_plan(), "{spelling}");
        let report = cx.report();
        assert!(!report.checks.is_empty() && report.checks.len() <= 4, "{spelling}");
        assert!(report.checks.iter().all(|check| check.error.is_finite()), "{spelling}: {:?}", report.checks);
        // The same seed checks the same places.
        let mut again = context(policy(spelling), 12).with_check(options);
        sample(&mut again, &toy, 12, &[(Branch::GUIDED, 5)]);
        assert_eq!(again.report().checks, report.checks, "{spelling}");
    }
}

#[test]
fn an_exceeded_error_budget_computes_the_rest() {
    let toy = Toy::new(3, 3);
    for spelling in ["interval:n=6", "dbcache:threshold=10", "mask:ultra"] {
        let guard = Guard { error_budget: Some(1e-9), ..Guard::default() };
        let mut cx = Context::new(policy(spelling), guard, header(12)).unwrap();
        cx = cx.with_check(CheckOptions { count: 3, seed: 1 });
        let pixels = sample(&mut cx, &toy, 12, &[(Branch::GUIDED, 5)]);
        let (report, plan) = (cx.report(), cx.executed_plan());
        assert_eq!(report.checks.len(), 1, "{spelling}");
        assert!(report.fallback.as_ref().unwrap().contains("budget"), "{spelling}");
        let checked = report.checks[0].step;
        for step in checked + 1..12 {
            assert!(!plan.row(step).iter().any(|action| action.is_skip()), "{spelling} at {step}");
        }
        // What was executed replays, the turn to full compute included.
        let mut replay = context(Box::new(Replay::new(plan)), 12);
        assert_eq!(sample(&mut replay, &toy, 12, &[(Branch::GUIDED, 5)]), pixels, "{spelling}");
    }
}
