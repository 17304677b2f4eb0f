//! What holds for every schedule and sampler, whatever the model.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail loudly")]

use std::ops::ControlFlow;

use candle_core::{Device, Tensor};
use proptest::prelude::*;
use refrain_samplers::{
    DenoiseError, Inversion, NoiseKind, NoiseStream, Sampler, Schedule, ScheduleRequest, SchedulerConfig, SigmaSpacing,
    StepInfo, StepReport, TimestepSpacing, ddim_invert, ignore, noise, sample,
};

/// A smooth, bounded and nonlinear stand-in for a model.
fn smooth(input: &Tensor, step: &StepInfo) -> Result<Tensor, DenoiseError> {
    let phase = f64::from(step.timestep) / 1000.0;
    Ok((input.affine(0.7, phase)?.tanh()? * 0.8)?)
}

fn config(prediction: &str, schedule: &str, zero_snr: bool) -> SchedulerConfig {
    let text = format!(
        r#"{{"_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": false,
            "beta_schedule": "{schedule}", "prediction_type": "{prediction}", "rescale_betas_zero_snr": {zero_snr}}}"#
    );
    SchedulerConfig::from_json(&text).unwrap()
}

fn flow_config(shift: f64) -> SchedulerConfig {
    let text = format!(r#"{{"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": {shift}}}"#);
    SchedulerConfig::from_json(&text).unwrap()
}

/// PNDM begins with three Runge-Kutta steps where the configuration does not say otherwise.
const FEWEST_OF_RUNGE_KUTTA: usize = 4;

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn run(schedule: &Schedule, latents: &Tensor, seed: u64) -> Tensor {
    let mut noise = NoiseStream::new(NoiseKind::Counter, seed);
    sample(&mut smooth, schedule.initial_latents(latents).unwrap(), schedule, &mut noise, &mut ignore).unwrap()
}

fn any_schedule() -> impl Strategy<Value = Schedule> {
    let sampler = prop::sample::select(Sampler::ALL.to_vec());
    let prediction = prop::sample::select(vec!["epsilon", "v_prediction", "sample"]);
    let betas = prop::sample::select(vec!["linear", "scaled_linear", "squaredcos_cap_v2"]);
    let spacing = prop::sample::select(vec![
        None,
        Some(TimestepSpacing::Leading),
        Some(TimestepSpacing::Trailing),
        Some(TimestepSpacing::Linspace),
    ]);
    let sigmas = prop::sample::select(vec![None, Some(SigmaSpacing::Karras), Some(SigmaSpacing::Exponential)]);
    let numbers = (1usize..60, 0.0f64..1.0, 0.5f64..8.0, any::<bool>());
    (sampler, prediction, betas, spacing, sigmas, numbers).prop_map(
        |(sampler, prediction, betas, timestep_spacing, sigma_spacing, (steps, eta, shift, zero_snr))| {
            let config = match sampler {
                Sampler::EulerFlow | Sampler::UniPc => flow_config(shift),
                Sampler::Pndm if prediction == "sample" => config("epsilon", betas, false),
                _ => config(prediction, betas, zero_snr && prediction == "v_prediction"),
            };
            let sigma_spacing = sigma_spacing.filter(|_| !matches!(sampler, Sampler::UniPc | Sampler::Pndm));
            let steps = if sampler == Sampler::Pndm { steps.max(FEWEST_OF_RUNGE_KUTTA) } else { steps };
            let request = ScheduleRequest { sampler, steps, sigma_spacing, timestep_spacing, eta, image_tokens: None };
            Schedule::new(&config, &request).unwrap()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn levels_fall_and_results_are_finite(schedule in any_schedule(), seed in any::<u64>()) {
        prop_assert!(schedule.sigmas().windows(2).all(|pair| pair[1] <= pair[0]));
        prop_assert!(schedule.timesteps().windows(2).all(|pair| pair[1] <= pair[0]));
        prop_assert_eq!(schedule.sigmas().len(), schedule.count() + 1);
        let latents = noise::counter(seed, &[1, 2, 4, 4]).unwrap();
        prop_assert!(values(&run(&schedule, &latents, seed)).iter().all(|value| value.is_finite()));
    }

    #[test]
    fn without_eta_nothing_depends_on_the_noise(steps in 1usize..30, seeds in any::<(u64, u64)>()) {
        let request = ScheduleRequest::new(Sampler::Ddim, steps);
        let schedule = Schedule::new(&config("epsilon", "scaled_linear", false), &request).unwrap();
        let latents = noise::counter(3, &[1, 2, 4, 4]).unwrap();
        prop_assert_eq!(values(&run(&schedule, &latents, seeds.0)), values(&run(&schedule, &latents, seeds.1)));
        let stochastic = Schedule::new(
            &config("epsilon", "scaled_linear", false),
            &ScheduleRequest { eta: 1.0, ..ScheduleRequest::new(Sampler::Ddim, steps + 1) },
        ).unwrap();
        prop_assume!(seeds.0 != seeds.1);
        prop_assert_ne!(values(&run(&stochastic, &latents, seeds.0)), values(&run(&stochastic, &latents, seeds.1)));
    }

    #[test]
    fn inversion_is_undone_by_sampling(seed in any::<u64>(), steps in 8usize..30, velocity in any::<bool>()) {
        let config = config(if velocity { "v_prediction" } else { "epsilon" }, "scaled_linear", false);
        let schedule = Schedule::new(&config, &ScheduleRequest::new(Sampler::Ddim, steps)).unwrap();
        let clean = noise::counter(seed, &[1, 2, 4, 4]).unwrap();
        let error = |refinements| {
            let inversion = Inversion { refinements, tolerance: 1e-7 };
            let noisy = ddim_invert(&mut smooth, clean.clone(), &schedule, inversion, &mut ignore).unwrap();
            let back = run(&schedule, &noisy, 0);
            let distance = |a: &Tensor, b: &Tensor| -> f64 {
                values(a).iter().zip(values(b)).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
            };
            distance(&clean, &back) / distance(&clean, &clean.zeros_like().unwrap())
        };
        let (plain, refined) = (error(0), error(20));
        prop_assert!(refined < 1e-4, "{steps} steps: plain {plain:e}, refined {refined:e}");
        prop_assert!(refined < plain);
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let latents_in = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let latents = noise::counter(11, &[1, 4, 200, 200]).unwrap();
            let request = ScheduleRequest { eta: 0.5, ..ScheduleRequest::new(Sampler::DdimTrailing, 2) };
            let schedule = Schedule::new(&config("v_prediction", "scaled_linear", true), &request).unwrap();
            values(&run(&schedule, &latents, 4))
        })
    };
    assert_eq!(latents_in(1), latents_in(3));
}

#[test]
fn an_observer_sees_every_step_and_can_stop() {
    let schedule = Schedule::new(&config("epsilon", "linear", false), &ScheduleRequest::new(Sampler::Heun, 4)).unwrap();
    let latents = schedule.initial_latents(&noise::counter(1, &[1, 1, 2, 2]).unwrap()).unwrap();
    let mut noise = NoiseStream::new(NoiseKind::Counter, 1);
    let mut seen = Vec::new();
    let mut observe = |report: &StepReport| {
        assert!(report.seconds >= 0.0 && report.denoised.dims() == report.latents.dims());
        seen.push((report.index, report.count));
        if report.index == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let error = sample(&mut smooth, latents, &schedule, &mut noise, &mut observe).unwrap_err();
    assert_eq!(error.to_string(), "stopped after step 3 of 7");
    assert_eq!(seen, [(0, 7), (1, 7), (2, 7)]);
}

#[test]
fn failures_name_their_step() {
    let schedule =
        Schedule::new(&config("epsilon", "linear", false), &ScheduleRequest::new(Sampler::Euler, 3)).unwrap();
    let latents = noise::counter(1, &[1, 1, 2, 2]).unwrap();
    let mut noise = NoiseStream::new(NoiseKind::Counter, 1);
    let mut message = |denoise: &mut refrain_samplers::Denoise| {
        sample(denoise, latents.clone(), &schedule, &mut noise, &mut ignore).unwrap_err().to_string()
    };
    let infinite = message(&mut |input, step| Ok(if step.index == 1 { (input / 0.0)? } else { input.clone() }));
    assert_eq!(infinite, "the latents are not finite after step 2 of 3 (timestep 499.5)");
    assert_eq!(message(&mut |_, _| Err("out of memory".into())), "step 1 of 3 failed: out of memory");
    let shape = message(&mut |_, _| Ok(Tensor::zeros((1, 2), candle_core::DType::F32, &Device::Cpu)?));
    assert_eq!(shape, "the model's output has shape [1, 2] at step 1, the latents have [1, 1, 2, 2]");
}
