//! What must hold for every policy, on random models.

use candle_core::Tensor;
use proptest::prelude::*;

use super::plans::random_plan;
use super::toy::{SKIPPING, Toy, advance, context, header, latents, policy, sample, sample_watched, step, values};
use crate::policies::Replay;
use crate::{Branch, Context, Guard, Policy};

/// A policy by its place in the list; beyond it, the replay of a random plan.
fn any_policy(choice: usize, seed: u64, toy: &Toy, steps: usize, branches: &[Branch]) -> Box<dyn Policy> {
    match SKIPPING.get(choice) {
        Some(spelling) => policy(spelling),
        None => Box::new(Replay::new(random_plan(seed, toy, steps, branches))),
    }
}

const BRANCHES: [Branch; 2] = [Branch::CONDITIONAL, Branch::UNCONDITIONAL];
const CHOICES: usize = SKIPPING.len() + 6;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn off_is_the_model_alone_bit_for_bit(seed in 0u64..1000, blocks in 1usize..5, steps in 1usize..6) {
        let toy = Toy::staged(seed, blocks);
        let mut expected: Tensor = latents(seed);
        for index in 0..steps {
            let output = toy.forward_plain(&expected, step(index, steps).timestep).unwrap();
            expected = advance(&expected, &output, steps);
        }
        let branches = [(Branch::GUIDED, seed)];
        for mut cx in [Context::off(), context(policy("off"), steps), context(policy("off"), steps).with_drift(true)] {
            prop_assert_eq!(&sample(&mut cx, &toy, steps, &branches)[0], &values(&expected));
        }
    }

    #[test]
    fn branches_never_see_each_other(choice in 0..CHOICES, seed in 0u64..1000, blocks in 1usize..4, steps in 2usize..9) {
        let toy = Toy::staged(seed, blocks);
        let make = || context(any_policy(choice, seed, &toy, steps, &BRANCHES), steps);
        let alone = BRANCHES.map(|branch| sample(&mut make(), &toy, steps, &[(branch, seed + u64::from(branch == BRANCHES[1]))]));
        let together = sample(&mut make(), &toy, steps, &[(BRANCHES[0], seed), (BRANCHES[1], seed + 1)]);
        prop_assert_eq!(&together[0], &alone[0][0]);
        prop_assert_eq!(&together[1], &alone[1][0]);
    }

    #[test]
    fn a_second_run_on_a_context_equals_a_fresh_one(choice in 0..CHOICES, seed in 0u64..1000, blocks in 1usize..4, steps in 2usize..9) {
        let toy = Toy::staged(seed, blocks);
        let make = || context(any_policy(choice, seed, &toy, steps, &[Branch::GUIDED]), steps);
        let mut cx = make();
        sample(&mut cx, &toy, steps, &[(Branch::GUIDED, seed + 5)]);
        let second = sample(&mut cx, &toy, steps, &[(Branch::GUIDED, seed)]);
        let mut fresh = make();
        prop_assert_eq!(&second, &sample(&mut fresh, &toy, steps, &[(Branch::GUIDED, seed)]));
        prop_assert_eq!(cx.executed_plan(), fresh.executed_plan());
        prop_assert_eq!(cx.report().bytes_peak, fresh.report().bytes_peak);
    }

    #[test]
    fn an_emitted_plan_replays_to_the_same_output(choice in 0..CHOICES, seed in 0u64..1000, blocks in 1usize..4, steps in 2usize..10) {
        let toy = Toy::staged(seed, blocks);
        let branches = [(BRANCHES[0], seed), (BRANCHES[1], seed + 1)];
        let mut cx = context(any_policy(choice, seed, &toy, steps, &BRANCHES), steps);
        let expected = sample(&mut cx, &toy, steps, &branches);
        let plan = cx.executed_plan();
        let mut replay = context(Box::new(Replay::new(plan.clone())), steps);
        prop_assert_eq!(sample(&mut replay, &toy, steps, &branches), expected);
        // And so does the replay's own plan: it is the same plan.
        prop_assert_eq!(replay.executed_plan().hash(), plan.hash());
        prop_assert_eq!(replay.executed_plan(), plan);
        prop_assert_eq!(replay.report().computed_share, cx.report().computed_share);
        // Knowing the future never takes more memory than guessing it.
        prop_assert!(replay.report().bytes_peak <= cx.report().bytes_peak);
    }

    #[test]
    fn bytes_accounted_are_bytes_allocated(choice in 0..CHOICES, seed in 0u64..1000, steps in 2usize..9, drift: bool) {
        let toy = Toy::staged(seed, 3);
        let mut cx = context(any_policy(choice, seed, &toy, steps, &[Branch::GUIDED]), steps).with_drift(drift);
        let mut most = 0;
        sample_watched(&mut cx, &toy, steps, &[(Branch::GUIDED, seed)], |cx| {
            let (accounted, allocated) = cx.accounted_and_allocated();
            assert_eq!(accounted, allocated);
            most = most.max(cx.report().bytes_held);
        });
        let report = cx.report();
        prop_assert_eq!((report.bytes_held, cx.accounted_and_allocated()), (0, (0, 0)), "nothing is left behind the last step");
        prop_assert!(report.bytes_peak >= most);
        prop_assert!(drift || report.bytes_measuring == 0);
    }

    #[test]
    fn measuring_drift_changes_nothing_but_the_report(choice in 0..CHOICES, seed in 0u64..1000, steps in 3usize..9) {
        let toy = Toy::staged(seed, 2);
        let make = || context(any_policy(choice, seed, &toy, steps, &[Branch::GUIDED]), steps);
        let (mut plain, mut measured) = (make(), make().with_drift(true));
        let branches = [(Branch::GUIDED, seed)];
        prop_assert_eq!(sample(&mut plain, &toy, steps, &branches), sample(&mut measured, &toy, steps, &branches));
        prop_assert_eq!(plain.executed_plan(), measured.executed_plan());
        prop_assert_eq!(plain.report().bytes_peak, measured.report().bytes_peak);
    }
}

#[test]
fn every_policy_in_the_list_does_skip() {
    for spelling in SKIPPING {
        let mut cx = context(policy(spelling), 12);
        sample(&mut cx, &Toy::staged(4, 4), 12, &[(Branch::GUIDED, 3)]);
        let report = cx.report();
        assert!(report.computed_share < 1.0, "{spelling}");
        let drift = |cx: &Context| cx.report().groups.iter().any(|group| group.drift.is_some());
        assert!(!drift(&cx), "{spelling}");
        let mut cx = context(policy(spelling), 12).with_drift(true);
        sample(&mut cx, &Toy::staged(4, 4), 12, &[(Branch::GUIDED, 3)]);
        assert!(drift(&cx), "{spelling}");
    }
}

#[test]
fn liveness_frees_a_feature_behind_its_last_reader() {
    // n = 2 of 8 steps: held behind steps 1, 3, 5 (read at 2, 4, 6), free behind 0, 2, 4, 6, 7.
    let toy = Toy::new(1, 2);
    let mut held = Vec::new();
    let mut cx = context(policy("interval:n=2"), 8);
    sample_watched(&mut cx, &toy, 8, &[(Branch::GUIDED, 1)], |cx| held.push(cx.report().bytes_held));
    let each = 2 * 3 * super::toy::TOKENS * super::toy::WIDTH * 4;
    let behind_steps: Vec<usize> = held.chunks(2).map(|pair| pair[1]).collect();
    assert_eq!(behind_steps, [0, each, 0, each, 0, each, 0, 0]);
    assert_eq!(cx.report().bytes_peak, each);
}

#[test]
fn warnings_name_a_site_that_is_never_recomputed() {
    let toy = Toy::new(1, 2);
    let mut cx = context(policy("interval:n=50"), 8);
    sample(&mut cx, &toy, 8, &[(Branch::GUIDED, 1)]);
    let warnings = cx.report().warnings;
    assert_eq!(warnings, ["never recomputed between the first and the last step: 0.attention and 5 others"]);
    let mut cx = context(policy("interval:n=3"), 8);
    sample(&mut cx, &toy, 8, &[(Branch::GUIDED, 1)]);
    assert!(cx.report().warnings.is_empty());
}

#[test]
fn counts_speak_of_the_whole_model_whatever_was_skipped() {
    let toy = Toy::new(1, 4);
    let mut cx = Context::new(policy("dbcache:threshold=10+warmup=1"), Guard::default(), header(6)).unwrap();
    sample(&mut cx, &toy, 6, &[(Branch::GUIDED, 1)]);
    let report = cx.report();
    let group = |part| report.groups.iter().find(|group| group.part == part).unwrap();
    // Computed at the first and last step only; block 0 always.
    assert_eq!((group("span").computed, group("span").reused), (2, 4));
    let attention = group("attention");
    assert_eq!((attention.sites, attention.computed, attention.covered), (4, 6 + 3 * 2, 3 * 4));
    assert!((report.computed_share - 36.0 / 72.0).abs() < 1e-12, "{}", report.computed_share);
    assert!(report.seconds_predicted > 0.0);
    assert!((cx.executed_plan().computed_share() - report.computed_share).abs() < 1e-12);
}
