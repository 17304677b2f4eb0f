//! Golden decision traces, one per policy, each worked out by hand from its definition.
//!
//! C computes, R reuses, F forecasts.

use candle_core::{Device, Tensor};

use super::toy::{Toy, context, header, policy, sample, step};
use crate::{Branch, Context, Evidence, Guard, Planned, Site};

/// Letters of a site after a run of the toy.
fn trace(spelling: &str, steps: usize, site: Site) -> String {
    let mut cx = context(policy(spelling), steps);
    sample(&mut cx, &Toy::new(1, 3), steps, &[(Branch::GUIDED, 1)]);
    let plan = cx.executed_plan();
    plan.letters(plan.column_of(site).unwrap())
}

#[test]
fn off_computes_everything() {
    for site in [Site::attention(0), Site::feed_forward(2), Site::model()] {
        assert_eq!(trace("off", 5, site), "CCCCC");
    }
}

#[test]
fn interval_counts_down_as_fora_does() {
    // n = 2, T = 8: step i computes if i = 0 or (7 - i) % 2 = 0, so 0, 1, 3, 5, 7.
    assert_eq!(trace("interval:n=2", 8, Site::attention(1)), "CCRCRCRC");
    // T = 9, n = 3: (8 - i) % 3 = 0 at 2, 5, 8.
    assert_eq!(trace("interval:3", 9, Site::feed_forward(0)), "CRCRRCRRC");
    // T = 10, n = 3: at 0, 3, 6, 9.
    assert_eq!(trace("interval:n=3", 10, Site::cross_attention(2)), "CRRCRRCRRC");
    // Parts have their own n; what is not named has the common one.
    let parts = "interval:n=2,attention=3,feed-forward=1";
    assert_eq!(trace(parts, 8, Site::attention(0)), "CCRRCRRC");
    assert_eq!(trace(parts, 8, Site::cross_attention(0)), "CCRCRCRC");
    assert_eq!(trace(parts, 8, Site::feed_forward(0)), "CCCCCCCC");
    // The whole model: its parts are covered.
    assert_eq!(trace("interval:n=1+model=4", 8, Site::model()), "CRRCRRRC");
    assert_eq!(trace("interval:n=1+model=4", 8, Site::attention(1)), "C--C---C");
}

/// As `trace`, of the toy with stages.
fn staged_trace(spelling: &str, steps: usize, site: Site) -> String {
    let mut cx = context(policy(spelling), steps);
    sample(&mut cx, &Toy::staged(1, 3), steps, &[(Branch::GUIDED, 1)]);
    let plan = cx.executed_plan();
    plan.letters(plan.column_of(site).unwrap())
}

#[test]
fn deepcache_computes_what_lies_above_its_branch() {
    // Uniform 1:3 of ten steps: 0, 3, 6, 9. What lies inside a reused stage is covered by it.
    assert_eq!(staged_trace("deepcache", 10, Site::stage(0)), "CRRCRRCRRC");
    assert_eq!(staged_trace("deepcache", 10, Site::stage(1)), "C--C--C--C");
    assert_eq!(staged_trace("deepcache", 10, Site::attention(1)), "C--C--C--C");
    // Branch 1: the outer stage computes at every step. The guard adds the last step.
    assert_eq!(staged_trace("deepcache:n=4+branch=1", 10, Site::stage(0)), "CCCCCCCCCC");
    assert_eq!(staged_trace("deepcache:n=4+branch=1", 10, Site::stage(1)), "CRRRCRRRCC");
    assert_eq!(staged_trace("deepcache:n=4+branch=1", 10, Site::feed_forward(2)), "C---C---CC");
    // T = 16, n = 4, c = 8, p = 2: l = -2.83, -1.41, 0, 1.41, so floor(8 - 8), 8 - 2, 8, 8 + 2; and the last.
    assert_eq!(staged_trace("deepcache:n=4+center=8+power=2", 16, Site::stage(0)), "CRRRRRCRCRCRRRRC");
    // A model without the branch computes everything.
    assert_eq!(staged_trace("deepcache:branch=2", 5, Site::attention(0)), "CCCCC");
    assert_eq!(trace("deepcache", 5, Site::attention(0)), "CCCCC");
}

#[test]
fn mask_skips_the_whole_model() {
    assert_eq!(trace("mask:1,1,0,1,0,0,1,1", 8, Site::model()), "CCRCRRCC");
    assert_eq!(trace("mask:11010011", 8, Site::attention(1)), "CC-C--CC");
    // The guard computes the first and the last step whatever the mask says.
    assert_eq!(trace("mask:00000", 5, Site::model()), "CRRRC");
}

#[test]
fn mask_presets_have_the_bins_of_cache_dit() {
    use crate::policies::MaskPreset::{Fast, Medium, Slow, Ultra};
    let letters = |mask: Vec<bool>| mask.iter().map(|&c| if c { '1' } else { '0' }).collect::<String>();
    // Compute bins [8,3,3,2,1,1] between skip bins [1,2,2,2,3], and so on: 28 steps each.
    assert_eq!(letters(Slow.mask(28)), "1111111101110011100110010001");
    assert_eq!(letters(Medium.mask(28)), "1111110110001100011000110001");
    assert_eq!(letters(Fast.mask(28)), "1111110100010000100000100001");
    assert_eq!(letters(Ultra.mask(28)), "1111001000001000000100000001");
    // Ultra at 14 steps: borders 4 6 7 12 13 19 20 27 28 halve to 2 3 4 6 7 10 10 14 14 (half up).
    assert_eq!(letters(Ultra.mask(14)), "11010010000001");
    for steps in 0..60 {
        for preset in [Slow, Medium, Fast, Ultra] {
            let mask = preset.mask(steps);
            assert_eq!(mask.len(), steps);
            assert!(mask.first() != Some(&false) && mask.last() != Some(&false), "{preset:?} {steps}");
        }
    }
}

/// A stack of four blocks whose first adds a scripted number: DBCache sees just that.
fn dbcache_trace(options: &str, residuals: &[f32]) -> String {
    let steps = residuals.len();
    let spelling = if options.is_empty() { "dbcache".to_string() } else { format!("dbcache:{options}") };
    let mut cx = context(policy(&spelling), steps);
    for (index, &residual) in residuals.iter().enumerate() {
        cx.begin_step(step(index, steps));
        let hidden = Tensor::full(1f32, (2, 16), &Device::Cpu).unwrap();
        cx.blocks(4, hidden, |_, block, hidden| hidden + f64::from(if block == 0 { residual } else { 0.5 })).unwrap();
    }
    let plan = cx.executed_plan();
    plan.letters(plan.column_of(Site::span(1..4)).unwrap())
}

/// Residuals of the first block, over ten steps. Relative changes against the last computed step
/// are worked out in the test.
const RESIDUALS: [f32; 10] = [1.0, 1.05, 1.06, 1.08, 1.30, 1.32, 1.31, 1.33, 1.35, 1.4];

#[test]
fn dbcache_compares_with_the_last_computed_residual() {
    // 0, 1 warm-up. Against 1.05: .0095 R, .0286 R, .238 C. Against 1.30: .015 .008 .023 .038 R. Last C.
    assert_eq!(dbcache_trace("", &RESIDUALS), "CCRRCRRRRC");
    // Against 1.08 at step 4: .204 C.
    assert_eq!(dbcache_trace("warmup=4", &RESIDUALS), "CCCCCRRRRC");
    // Two in a row, then compute: step 7, and 1.35 against 1.33 is .015.
    assert_eq!(dbcache_trace("max_consecutive=2", &RESIDUALS), "CCRRCRRCRC");
    // Three skips in all: 2, 3, 5.
    assert_eq!(dbcache_trace("max_cached=3", &RESIDUALS), "CCRRCRCCCC");
    // Sums: .0095, then .038 > .03 C (1.08); .204 C (1.30); .0154, .0231, then .046 C (1.33); .015 R.
    assert_eq!(dbcache_trace("max_accumulated=0.03", &RESIDUALS), "CCRCCRRCRC");
    // Steps 0, 1, 6 and 9 must compute; against 1.31: .015, .031 R.
    assert_eq!(dbcache_trace("mask=1,1,0,0,0,0,1,0,0,1", &RESIDUALS), "CCRRCRCRRC");
    // A forecast needs as many values as its order says; with one fewer it is of lower order.
    assert_eq!(dbcache_trace("order=1", &RESIDUALS), "CCFFCFFFFC");
}

#[test]
fn dbcache_on_a_unet_compares_what_enters_the_stage() {
    let trace = |options: &str, stage: usize| {
        let mut cx = context(policy(&format!("dbcache:{options}")), RESIDUALS.len());
        for (index, &value) in RESIDUALS.iter().enumerate() {
            cx.begin_step(step(index, RESIDUALS.len()));
            let skip = Tensor::full(value, (2, 16), &Device::Cpu).unwrap();
            let below = cx.stage(stage, &skip, |_| &skip * 3.0).unwrap();
            assert_eq!(below.dims(), skip.dims());
        }
        let plan = cx.executed_plan();
        plan.letters(plan.column_of(Site::stage(stage)).unwrap())
    };
    // The changes of the stack above; the stage's number is `fn`.
    assert_eq!(trace("warmup=2", 1), "CCRRCRRRRC");
    assert_eq!(trace("fn=2+max_consecutive=2", 2), "CCRRCRRCRC");
    assert_eq!(trace("order=1", 1), "CCFFCFFFFC");
    assert_eq!(trace("fn=2", 1), "CCCCCCCCCC");
}

#[test]
fn dbcache_never_takes_a_vanished_or_broken_residual_for_a_similar_one() {
    // mold#1559: 0 / 0 is no small change.
    assert_eq!(dbcache_trace("", &[0.0; 6]), "CCCCCC");
    assert_eq!(dbcache_trace("threshold=100", &[f32::NAN; 6]), "CCCCCC");
    assert_eq!(dbcache_trace("", &[1.0, 1.0, f32::INFINITY, f32::INFINITY, 1.0, 1.0]), "CCCCCC");
    // Equal residuals that did not vanish are similar, though.
    assert_eq!(dbcache_trace("", &[2.0; 6]), "CCRRRC");
}

#[test]
fn dbcache_leaves_no_span_when_front_and_back_take_all() {
    let plan = |options: &str| {
        let mut cx = context(policy(options), 6);
        sample(&mut cx, &Toy::new(1, 3), 6, &[(Branch::GUIDED, 1)]);
        (cx.executed_plan(), cx.report())
    };
    let (inert, report) = plan("dbcache:fn=2+bn=1+threshold=100");
    assert!(!inert.sites().contains(&Site::span(2..2)) && inert.computed_share() == 1.0);
    assert_eq!(report.warnings, ["inert: dbcache:threshold=100+fn=2+bn=1 never skipped anything"]);
    let (skipping, _) = plan("dbcache:fn=1+bn=1+threshold=100");
    assert_eq!(skipping.letters(skipping.column_of(Site::span(1..2)).unwrap()), "CCRRRC");
    assert_eq!(skipping.letters(skipping.column_of(Site::attention(1)).unwrap()), "CC---C");
    assert_eq!(skipping.letters(skipping.column_of(Site::attention(2)).unwrap()), "CCCCCC");
}

#[test]
fn taylor_forecasts_with_the_ladder_of_taylorseer() {
    // n = 3, T = 8: computes at 0, 1 (warm-up and (7 - 1) % 3 = 0), 4, 7.
    let coefficients = |spelling: &str| {
        let mut cx = context(policy(spelling), 8);
        sample(&mut cx, &Toy::new(1, 2), 8, &[(Branch::GUIDED, 1)]);
        let plan = cx.executed_plan();
        let column = plan.column_of(Site::attention(1)).unwrap();
        let weights = |step| match plan.at(step, column) {
            Planned::Forecast(weights) => weights.as_slice().to_vec(),
            _ => Vec::new(),
        };
        (plan.letters(column), weights(2), weights(3), weights(5), weights(6))
    };
    let (letters, two, three, five, six) = coefficients("taylor:n=3");
    assert_eq!(letters, "CCFFCFFC");
    // From steps 1 and 0, one apart: F0 + (F0 - F1) x.
    assert_eq!((two, three), (vec![2.0, -1.0], vec![3.0, -2.0]));
    // From steps 4 and 1, three apart: F0 + (F0 - F1) x / 3.
    assert_eq!((five, six), (vec![4.0 / 3.0, -1.0 / 3.0], vec![5.0 / 3.0, -2.0 / 3.0]));
    // Order 2 at step 5 from 4, 1, 0 (gaps 3 and 1): D2 = ((F0 - F1)/3 - (F1 - F2)) / 3, times 1/2.
    let (_, two, _, five, _) = coefficients("taylor:n=3+order=2");
    assert_eq!(two, [2.0, -1.0], "two values make a line");
    for (weight, expected) in five.iter().zip([4.0 / 3.0 + 1.0 / 18.0, -1.0 / 3.0 - 4.0 / 18.0, 1.0 / 6.0]) {
        assert!((weight - expected).abs() < 1e-6, "{five:?}");
    }
    assert_eq!(coefficients("taylor:n=3+order=0").0, "CCRRCRRC");
}

#[test]
fn easycache_adds_up_predicted_changes() {
    // Input falls by 1 a step, output is 2 + 0.1 i, so the rate is 0.1 between any two steps.
    // Window from step 2. Changes: .1 / 2.1 = .048, .095 R, .143 C (2.4); .042, .083 R, .125 C (2.7);
    // .037 R; the last computes.
    let mut cx = context(policy("easycache:start=0.2"), 10);
    for index in 0..10 {
        cx.begin_step(step(index, 10));
        let input = Tensor::full(10.0 - index as f32, 16, &Device::Cpu).unwrap();
        let output = Tensor::full(2.0 + 0.1 * index as f32, 16, &Device::Cpu).unwrap();
        let returned = cx.model(&input, |_| Ok(output.clone())).unwrap();
        if index == 3 {
            // Skipped: 7 + (2.1 - 9).
            assert!((returned.mean_all().unwrap().to_scalar::<f32>().unwrap() - 0.1).abs() < 1e-5);
        }
    }
    let plan = cx.executed_plan();
    assert_eq!(plan.letters(plan.column_of(Site::model()).unwrap()), "CCRRCRRCRC");
}

#[test]
fn motion_follows_the_input() {
    // Inputs 10, 10.01 (.001 still), 10.04 (.004 against 10: still), 10.2 (.02), 10.4 (.0196), 10.6 (.019), 14 (.32 spike),
    // 14.3 (.021), 14.4 (.007), 14.4 (0 still). Frames since all was computed: the phase is their number modulo 2.
    let inputs = [10.0, 10.01, 10.04, 10.2, 10.4, 10.6, 14.0, 14.3, 14.4, 14.4, 0.0];
    let count = inputs.len() + 1;
    let guard = Guard { compute_last: false, ..Guard::default() };
    let mut cx = Context::new(policy("motion:refresh=100"), guard, header(count)).unwrap();
    for (index, &value) in inputs.iter().enumerate() {
        cx.begin_step(step(index, count));
        let input = Tensor::full(value as f32, 16, &Device::Cpu).unwrap();
        cx.model(&input, |cx| {
            for block in 0..2 {
                cx.run(Site::attention(block), |_| Ok(input.clone()))?;
            }
            Tensor::arange(0f32, 16.0, &Device::Cpu)
        })
        .unwrap();
    }
    let plan = cx.executed_plan();
    let letters = |site| plan.letters(plan.column_of(site).unwrap());
    assert_eq!(letters(Site::model()), "CRRCCCCCCRC");
    // Phase 0 computes block 0, phase 1 block 1. Ages: all 0 | 1 2 still | 2 → 0, 3 → 1, 4 → 0 | all | 0, 1 | still | all.
    assert_eq!(letters(Site::attention(0)), "C--CRCCCR-C");
    assert_eq!(letters(Site::attention(1)), "C--RCRCRC-C");
}

#[test]
fn a_policy_decides_alike_on_its_second_run() {
    // Decisions of one policy object must not remember the run before.
    let mut replayed = policy("dbcache:max_cached=2");
    let mut first = None;
    for _ in 0..2 {
        replayed.start(&header(10)).unwrap();
        let mut actions = Vec::new();
        for (index, &residual) in RESIDUALS.iter().enumerate() {
            let hidden = Tensor::full(residual, 16, &Device::Cpu).unwrap();
            let stack_input = hidden.zeros_like().unwrap();
            let evidence = Evidence::Span { stack_input: &stack_input, hidden: &hidden };
            let history = (index > 0).then_some(0).into_iter().collect();
            let (site, step) = (Site::span(1..4), step(index, 10));
            let action = replayed.decide(&crate::Ask { site, step, history, evidence });
            let computed = matches!(action, crate::Action::Compute);
            let output = &hidden;
            replayed.observe(&crate::Observation { site, step, computed, evidence, output }).unwrap();
            actions.push(computed);
        }
        assert_eq!(*first.get_or_insert(actions.clone()), actions);
    }
}

#[test]
fn without_a_step_everything_computes() {
    let mut cx = Context::new(policy("interval:n=9"), Guard::default(), header(9)).unwrap();
    for _ in 0..3 {
        let mut ran = false;
        let one = Tensor::ones(4, candle_core::DType::F32, &Device::Cpu).unwrap();
        cx.run(Site::attention(0), |_| {
            ran = true;
            Ok(one)
        })
        .unwrap();
        assert!(ran);
    }
}
