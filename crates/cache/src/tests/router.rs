//! The differentiable mix that routers train through.

use candle_core::{Device, Tensor, Var};

use super::toy::{Toy, context, header, latents, sample, step, values};
use crate::policies::Replay;
use crate::{
    Action, Ask, Branch, CacheError, Coefficients, Context, Guard, Plan, PlanHeader, Planned, Policy, RunHeader, Site,
    Step,
};

/// One score for all sites of all steps.
struct Score {
    weight: Tensor,
    refresh: bool,
}

impl Policy for Score {
    fn name(&self) -> String {
        "score".into()
    }

    fn start(&mut self, _header: &RunHeader) -> Result<(), CacheError> {
        Ok(())
    }

    fn decide(&mut self, ask: &Ask<'_>) -> Action {
        if ask.site.part.encloses() {
            return Action::Compute;
        }
        Action::Mix { weight: self.weight.clone(), refresh: self.refresh, forecast: None }
    }

    fn history_depth(&self, site: Site, _step: Step) -> usize {
        usize::from(!site.part.encloses())
    }
}

fn guard() -> Guard {
    Guard { warmup: 0, compute_last: false, ..Guard::default() }
}

fn scored(weight: &Tensor, refresh: bool) -> Context {
    Context::new(Box::new(Score { weight: weight.clone(), refresh }), guard(), header(4)).unwrap()
}

#[test]
fn weight_one_is_the_model_and_weight_zero_is_reuse() {
    let toy = Toy::new(6, 2);
    let branches = [(Branch::GUIDED, 3)];
    let plain = sample(&mut Context::off(), &toy, 4, &branches)[0].clone();
    let one = Tensor::new(1f32, &Device::Cpu).unwrap();
    let close = |left: &[f32], right: &[f32]| left.iter().zip(right).all(|(a, b)| (a - b).abs() < 1e-6);
    assert!(close(&sample(&mut scored(&one, true), &toy, 4, &branches)[0], &plain));
    // Never refreshed at weight zero: all steps reuse the first, as an interval longer than the run.
    let zero = Tensor::new(0f32, &Device::Cpu).unwrap();
    let policy = crate::policies::Interval::every(100);
    let reused = sample(
        &mut Context::new(Box::new(policy), Guard { compute_last: false, ..Guard::default() }, header(5)).unwrap(),
        &toy,
        4,
        &branches,
    );
    assert!(!close(&reused[0], &plain));
    let mixed = sample(&mut scored(&zero, false), &toy, 4, &branches);
    let expected = {
        // The interval computes the last step itself, so its run is compared over the steps before.
        let mut cx = context(Box::new(policy), 9);
        let mut state = latents(3);
        for index in 0..4 {
            // Timesteps of the run of 4, at the indices of a longer run.
            cx.begin_step(Step { index, count: 9, ..step(index, 4) });
            let output = toy.forward(&mut cx, &state, step(index, 4).timestep).unwrap();
            state = super::toy::advance(&state, &output, 4);
        }
        values(&state)
    };
    assert!(close(&mixed[0], &expected));
}

#[test]
fn the_gradient_reaches_the_weight_and_nothing_remembered() {
    let toy = Toy::new(6, 2);
    let logit = Var::new(0.3f32, &Device::Cpu).unwrap();
    let mut cx = scored(logit.as_tensor(), true);
    let state = latents(1);
    let mut output = state.clone();
    for index in 0..2 {
        cx.begin_step(step(index, 4));
        output = toy.forward(&mut cx, &state, step(index, 4).timestep).unwrap();
    }
    let loss = output.sqr().unwrap().mean_all().unwrap();
    let gradient: f32 = loss.backward().unwrap().get(&logit).unwrap().to_scalar().unwrap();
    // Against a central difference at the second step.
    let loss_at = |weight: f32| -> f64 {
        let first = Tensor::new(0.3f32, &Device::Cpu).unwrap();
        let mut cx = scored(&first, true);
        cx.begin_step(step(0, 4));
        toy.forward(&mut cx, &state, step(0, 4).timestep).unwrap();
        let mut moved = scored(&Tensor::new(weight, &Device::Cpu).unwrap(), true);
        // The first step computes whatever the weight, so a fresh context has the same store.
        moved.begin_step(step(0, 4));
        toy.forward(&mut moved, &state, step(0, 4).timestep).unwrap();
        moved.begin_step(step(1, 4));
        let output = toy.forward(&mut moved, &state, step(1, 4).timestep).unwrap();
        f64::from(output.sqr().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap())
    };
    let expected = (loss_at(0.31) - loss_at(0.29)) / 0.02;
    assert!((f64::from(gradient) - expected).abs() < 0.02 * expected.abs() + 1e-4, "{gradient} {expected}");
}

/// Mixes in a forecast from the last two values.
struct Forecasting {
    weight: Tensor,
    coefficients: Tensor,
}

impl Policy for Forecasting {
    fn name(&self) -> String {
        "forecasting".into()
    }

    fn start(&mut self, _header: &RunHeader) -> Result<(), CacheError> {
        Ok(())
    }

    fn decide(&mut self, ask: &Ask<'_>) -> Action {
        if ask.site.part.encloses() {
            return Action::Compute;
        }
        Action::Mix { weight: self.weight.clone(), refresh: true, forecast: Some(self.coefficients.clone()) }
    }

    fn history_depth(&self, site: Site, _step: Step) -> usize {
        if site.part.encloses() { 0 } else { 2 }
    }
}

#[test]
fn a_mixed_in_forecast_is_the_action_forecast_and_its_coefficients_learn() {
    let toy = Toy::new(6, 2);
    let state = latents(1);
    let coefficients = Var::new(&[1.5f32, -0.5], &Device::Cpu).unwrap();
    let zero = Tensor::new(0f32, &Device::Cpu).unwrap();
    let run = |weights: &Tensor| {
        let policy = Forecasting { weight: zero.clone(), coefficients: weights.clone() };
        let mut cx = Context::new(Box::new(policy), guard(), header(4)).unwrap();
        let mut output = state.clone();
        for index in 0..3 {
            cx.begin_step(step(index, 4));
            output = toy.forward(&mut cx, &state, step(index, 4).timestep).unwrap();
        }
        output
    };
    let output = run(coefficients.as_tensor());
    // Two computed values are needed, so the first two steps compute; the third is what a plan's forecast gives.
    let weights = Coefficients::new(&[1.5, -0.5]).unwrap();
    let column = vec![Planned::Compute, Planned::Compute, Planned::Forecast(weights)];
    let sites =
        (0..2).flat_map(|block| [Site::attention(block), Site::cross_attention(block), Site::feed_forward(block)]);
    let columns: Vec<_> = sites.map(|site| (site, column.clone())).collect();
    let plan = Plan::new(PlanHeader { run: header(4), ..PlanHeader::default() }, 4, &columns).unwrap();
    let mut replayed = Context::new(Box::new(Replay::new(plan)), guard(), header(4)).unwrap();
    let mut expected = state.clone();
    for index in 0..3 {
        replayed.begin_step(step(index, 4));
        expected = toy.forward(&mut replayed, &state, step(index, 4).timestep).unwrap();
    }
    let close = values(&expected).iter().zip(values(&output)).all(|(left, right)| (left - right).abs() < 1e-6);
    assert!(close && replayed.report().fallback.is_none());
    let gradient = output.sqr().unwrap().sum_all().unwrap().backward().unwrap();
    let gradient: Vec<f32> = gradient.get(&coefficients).unwrap().to_vec1().unwrap();
    assert!(gradient.iter().all(|slope| slope.is_finite() && *slope != 0.0), "{gradient:?}");
    let plain = run(&Tensor::new(&[1.5f32, -0.5], &Device::Cpu).unwrap());
    assert_eq!(values(&plain), values(&output));
}
