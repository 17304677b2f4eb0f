//! Training on tiny random pipelines.

use candle_core::{Device, Tensor};
use proptest::prelude::*;
use refrain_pipeline::{ImageRequest, LoadOptions, ModelSource, Pipeline};

use super::{
    Follow, Hardening, Settings, Training, Watch,
    row::{RowGradient, TrainableRow},
    settings::Timetable,
    train,
    trajectory::{Graded, Seat},
};
use crate::{
    TrainError,
    on_pipeline::{Cost, site_costs, subject},
    router::Proxy,
    subject::{Subject, Trial},
};

const PROMPTS: [&str; 2] = ["cat", "a red fox"];

/// Runs a test on a subject of the tiny pipeline `name`.
fn with_subject<R>(name: &str, steps: usize, test: impl FnOnce(Subject<'_>) -> R) -> R {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../pipeline/tests/fixtures");
    let source = ModelSource::Folder(std::path::Path::new(folder).join(name));
    let pipeline = Pipeline::load(&source, LoadOptions::default()).unwrap();
    let request = ImageRequest { steps, guidance_scale: 2.0, ..ImageRequest::default() };
    let prompts: Vec<String> = PROMPTS.iter().map(|prompt| (*prompt).to_owned()).collect();
    let costs = site_costs(&pipeline, &request, Cost::Flops).unwrap();
    test(subject(&pipeline, &request, &prompts, costs).unwrap())
}

fn settings() -> Settings {
    Settings { budgets: vec![0.6], iterations: 23, order: 2, refresh: 9, batch: 2, ..Settings::default() }
}

/// Stops when asked often enough.
struct StopAfter(std::cell::Cell<usize>);

impl Watch for StopAfter {
    fn stop(&self) -> bool {
        let left = self.0.get();
        self.0.set(left.saturating_sub(1));
        left == 0
    }

    fn trajectory(&mut self, _: &Training, _: Option<usize>) -> Result<(), TrainError> {
        Ok(())
    }
}

fn never() -> StopAfter {
    StopAfter(std::cell::Cell::new(usize::MAX))
}

fn trained(subject: &Subject<'_>, settings: &Settings) -> Training {
    let mut training = Training::new(subject, settings).unwrap();
    train(subject, settings, &mut training, &mut never()).unwrap();
    training
}

/// A student at its fourth step, when three values are remembered, with its row.
fn at_the_fourth_step(subject: &Subject<'_>, training: &Training, look: impl FnOnce(&mut Seat, &Trial<'_>, &Tensor)) {
    let trial = (subject.draw)(0).unwrap();
    let mut seat = Seat::new(subject, &training.trunk).unwrap();
    let latents = trial.latents.clone();
    for index in 0..3 {
        let step = subject.schedule.step(index);
        seat.begin(&step);
        seat.compute(&trial, &(&latents * (1.0 - 0.2 * index as f64)).unwrap(), &step).unwrap();
    }
    seat.begin(&subject.schedule.step(3));
    look(&mut seat, &trial, &latents);
}

fn graded(subject: &Subject<'_>, training: &Training, settings: &Settings) -> (f64, RowGradient) {
    let mut found = None;
    at_the_fourth_step(subject, training, |seat, trial, latents| {
        let step = subject.schedule.step(3);
        let row = TrainableRow::new(&training.trunk, 3, (1.0, Hardening::Anneal, true)).unwrap();
        let graded: Graded = seat.learn(trial, (latents, &step), &row, settings).unwrap();
        let gradient = seat.gradient(trial, (latents, &step), (&graded, &row), 1.0).unwrap();
        found = Some((graded.error, gradient));
    });
    found.unwrap()
}

#[test]
fn gradients_block_by_block_are_those_of_the_whole_tape() {
    for name in ["pixart-learned-sigma", "dit-learned-sigma"] {
        with_subject(name, 6, |subject| {
            let mut training = Training::new(&subject, &settings()).unwrap();
            training.trunk.router.forecasts.iter_mut().flatten().for_each(|scalar| *scalar = 0.3);
            let (error, whole) = graded(&subject, &training, &settings());
            let (again, parts) = graded(&subject, &training, &Settings { recompute: true, ..settings() });
            // Without a tape the products' ends are fused: the last bits differ.
            assert!((error - again).abs() <= 1e-5 * error, "{name}: {error} {again}");
            let largest = whole.logits.iter().chain(&whole.scalars).fold(0f32, |most, slope| most.max(slope.abs()));
            let pairs = whole.logits.iter().chain(&whole.scalars).zip(parts.logits.iter().chain(&parts.scalars));
            for (whole, part) in pairs {
                assert!((whole - part).abs() <= 1e-3 * whole.abs() + 1e-5 * largest, "{name}: {whole} {part}");
            }
        });
    }
}

#[test]
fn every_trainable_value_gets_a_finite_gradient_that_is_not_zero() {
    for name in ["pixart-learned-sigma", "dit-learned-sigma"] {
        with_subject(name, 6, |subject| {
            let mut training = Training::new(&subject, &settings()).unwrap();
            // A forecast that holds is a special point; any other will do.
            training.trunk.router.forecasts.iter_mut().flatten().for_each(|scalar| *scalar = 0.3);
            let gradient = graded(&subject, &training, &settings()).1;
            assert_eq!(gradient.logits.len(), subject.sites.len());
            assert_eq!(gradient.scalars.len(), 3 * subject.sites.len());
            for slope in gradient.logits.iter().chain(&gradient.scalars) {
                assert!(slope.is_finite() && *slope != 0.0, "{name}: {gradient:?}");
            }
            // And the right one: against differences of a logit and of a scalar.
            let difference = |change: &dyn Fn(&mut Training, f32)| {
                let error = |by: f32| {
                    let mut moved = training.clone();
                    change(&mut moved, by);
                    graded(&subject, &moved, &settings()).0
                };
                (error(0.05) - error(-0.05)) / 0.1
            };
            let logit = difference(&|training, by| training.trunk.router.logits[3][1] += by);
            let scalar = difference(&|training, by| training.trunk.router.forecasts[3][4] += by);
            for (slope, expected) in [(gradient.logits[1], logit), (gradient.scalars[4], scalar)] {
                let error = (f64::from(slope) - expected).abs();
                assert!(error < 0.05 * expected.abs() + 1e-6, "{name}: {slope}, by difference {expected}");
            }
        });
    }
}

#[test]
fn a_resumed_training_equals_an_uninterrupted_one_bit_for_bit() {
    with_subject("pixart-learned-sigma", 5, |subject| {
        let settings = Settings { budgets: vec![0.7, 0.6], ..settings() };
        let whole = trained(&subject, &settings);
        assert_eq!(whole.branches.len(), 2);
        for stop in [7, 60, 110] {
            let mut training = Training::new(&subject, &settings).unwrap();
            let stopped = train(&subject, &settings, &mut training, &mut StopAfter(std::cell::Cell::new(stop)));
            assert!(matches!(stopped, Err(TrainError::Stopped)), "{stop} is past the end");
            let bytes = training.to_bytes(&settings).unwrap();
            let mut resumed = Training::from_bytes(&bytes, &subject, &settings).unwrap();
            assert_eq!(resumed, training);
            train(&subject, &settings, &mut resumed, &mut never()).unwrap();
            assert_eq!(resumed, whole, "stopped after {stop}");
        }
    });
}

#[test]
fn a_finished_training_goes_on_to_more_iterations() {
    with_subject("pixart-learned-sigma", 5, |subject| {
        let longer = Settings { iterations: 41, ..settings() };
        let bytes = trained(&subject, &settings()).to_bytes(&settings()).unwrap();
        let mut resumed = Training::from_bytes(&bytes, &subject, &longer).unwrap();
        train(&subject, &longer, &mut resumed, &mut never()).unwrap();
        let whole = trained(&subject, &longer);
        assert_eq!(resumed, whole);
        assert_eq!((whole.branches[0].iteration, whole.branches[0].curve.last().unwrap().iteration), (41, 41));
    });
}

#[test]
fn every_way_to_train_is_deterministic_and_learns() {
    with_subject("dit-learned-sigma", 4, |subject| {
        for (proxy, follow, hardening, order) in [
            (Proxy::Uniform, Follow::Student, Hardening::Soft, 0),
            (Proxy::Telescoping, Follow::Student, Hardening::StraightThrough, 1),
            (Proxy::LeaveOneOut, Follow::Teacher, Hardening::Anneal, 2),
        ] {
            let settings = Settings { iterations: 7, proxy, follow, hardening, order, ..settings() };
            let first = trained(&subject, &settings);
            assert_eq!(first, trained(&subject, &settings));
            let start = Training::new(&subject, &settings).unwrap();
            let rows = first.branches[0].router.logits.iter().zip(&start.trunk.router.logits).enumerate();
            for (step, (after, before)) in rows {
                let moved = after.iter().zip(before).filter(|(after, before)| after != before).count();
                assert_eq!(moved, if step == 0 { 0 } else { before.len() }, "{proxy:?} step {step}");
            }
            let moved = first.branches[0].router.forecasts[2].iter().filter(|scalar| **scalar != 0.0).count();
            // Hard decisions that all compute teach a forecast nothing.
            let learns = order > 0 && hardening != Hardening::StraightThrough;
            assert!(moved > 0 || !learns, "{proxy:?}");
        }
    });
}

#[test]
fn dual_ascent_reaches_the_budget() {
    with_subject("pixart-learned-sigma", 6, |subject| {
        let settings =
            Settings { iterations: 600, order: 0, batch: 1, proxy: Proxy::Uniform, learning_rate: 0.1, ..settings() };
        let shares: Vec<f64> = subject.sites.iter().map(|cost| cost.share).collect();
        let state = trained(&subject, &settings).branches.remove(0);
        let share = state.router.computed_share(crate::router::THRESHOLD, &shares);
        assert!((share - 0.6).abs() < 0.1, "{share}");
    });
}

#[test]
fn a_loss_that_is_no_number_ends_the_training_and_changes_nothing() {
    with_subject("pixart-learned-sigma", 5, |subject| {
        let settings = Settings { learning_rate: 1e300, ..settings() };
        let mut training = Training::new(&subject, &settings).unwrap();
        let error = train(&subject, &settings, &mut training, &mut never()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("finite") || text.contains("collapsed"), "{text}");
        let finite = training.trunk.router.forecasts.iter().chain(&training.trunk.router.logits).flatten();
        assert!(finite.into_iter().all(|value| value.is_finite()));
    });
}

#[test]
fn settings_out_of_range_are_refused() {
    for (settings, steps) in [
        (Settings { budgets: vec![], ..settings() }, 5),
        (Settings { budgets: vec![0.5, f64::NAN], ..settings() }, 5),
        (Settings { budgets: vec![1.1], ..settings() }, 5),
        (Settings { batch: 0, ..settings() }, 5),
        (Settings { learning_rate: -1.0, ..settings() }, 5),
        (Settings { order: 3, ..settings() }, 5),
        (settings(), 1),
    ] {
        assert!(matches!(Timetable::new(&settings, steps), Err(TrainError::Range { .. })), "{settings:?}");
    }
}

#[test]
fn a_checkpoint_of_another_training_is_refused() {
    with_subject("pixart-learned-sigma", 5, |subject| {
        let bytes = trained(&subject, &settings()).to_bytes(&settings()).unwrap();
        let refused = |settings: &Settings| Training::from_bytes(&bytes, &subject, settings).unwrap_err();
        assert!(refused(&Settings { budgets: vec![0.5], ..settings() }).contains("budgets is [0.6], not [0.5]"));
        assert!(refused(&Settings { seed: 3, ..settings() }).contains("seed is 0, not 3"));
        with_subject("pixart-learned-sigma", 4, |other| {
            let refused = Training::from_bytes(&bytes, &other, &settings()).unwrap_err();
            assert!(refused.contains("steps is 5 in the checkpoint and 4 here"), "{refused}");
        });
        with_subject("dit-learned-sigma", 5, |other| {
            assert!(Training::from_bytes(&bytes, &other, &settings()).unwrap_err().contains("model"));
        });
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        // Cut or changed anywhere, a checkpoint is refused or read; it never panics.
        let cases = (0..bytes.len(), any::<u8>(), any::<bool>());
        runner
            .run(&cases, |(place, byte, cut)| {
                let mut hostile = bytes.clone();
                if cut {
                    hostile.truncate(place);
                } else {
                    hostile[place] = byte;
                }
                let _ = Training::from_bytes(&hostile, &subject, &settings());
                Ok(())
            })
            .unwrap();
    });
}

#[test]
fn hard_scores_are_soft_only_in_their_gradient() {
    let logits = candle_core::Var::new(&[-4.0f32, -2.0, 3.0], &Device::Cpu).unwrap();
    let scores = super::row::scores(&logits, 1.0, Hardening::StraightThrough).unwrap();
    let values: Vec<f32> = scores.to_vec1().unwrap();
    assert!(values.iter().zip([0.0, 1.0, 1.0]).all(|(value, expected)| (value - expected).abs() < 1e-6), "{values:?}");
    let gradient: Vec<f32> = scores.sum_all().unwrap().backward().unwrap().get(&logits).unwrap().to_vec1().unwrap();
    assert!(gradient.iter().all(|slope| *slope > 0.0 && *slope < 0.25), "{gradient:?}");
    let steep: Vec<f32> = super::row::scores(&logits, 20.0, Hardening::Anneal).unwrap().to_vec1().unwrap();
    assert!(steep[0] < 0.01 && steep[1] > 0.9 && steep[2] > 0.99, "{steep:?}");
}
