//! Schedules, samplers and noise against diffusers and PyTorch; `goldens/make_goldens.py` made the files.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail loudly")]

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use refrain_samplers::{
    DenoiseError, Inversion, NoiseKind, NoiseSchedule, NoiseStream, Sampler, Schedule, ScheduleRequest,
    SchedulerConfig, StepInfo, StepReport, ddim_invert, noise, sample,
};
use serde_json::Value;

type Tensors = HashMap<String, Tensor>;

const TOLERANCE: f64 = 1e-5;

fn folder() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens")
}

fn tensors(name: &str) -> Tensors {
    candle_core::safetensors::load(folder().join(name), &Device::Cpu).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn relative_l2(expected: &[f32], got: &[f32]) -> f64 {
    assert_eq!(expected.len(), got.len());
    let square = |value: f64| value * value;
    let error: f64 = expected.iter().zip(got).map(|(&a, &b)| square(f64::from(a) - f64::from(b))).sum();
    let size: f64 = expected.iter().map(|&a| square(f64::from(a))).sum();
    (error / size.max(f64::MIN_POSITIVE)).sqrt()
}

struct Case {
    name: String,
    schedule: Schedule,
    inverts: bool,
    stochastic: bool,
    /// Whether it begins from noised clean latents.
    partial: bool,
}

fn cases() -> Vec<Case> {
    // Python's -Infinity stands in the file, as in PixArt's own configuration; only this reader must not mind.
    let text = std::fs::read_to_string(folder().join("cases.json")).unwrap().replace("-Infinity", "\"-Infinity\"");
    let entries: Vec<Value> = serde_json::from_str(&text).unwrap();
    entries.iter().map(case).collect()
}

fn case(entry: &Value) -> Case {
    let config = entry["config"].to_string().replace("\"-Infinity\"", "-Infinity");
    let config = SchedulerConfig::from_json(&config).unwrap();
    let (sampler, steps) = (entry["sampler"].as_str().unwrap(), entry["steps"].as_u64().unwrap() as usize);
    let inverts = sampler == "ddim_invert";
    let sampler = if inverts { Sampler::Ddim } else { sampler.parse().unwrap() };
    let request = ScheduleRequest {
        eta: entry["request"]["eta"].as_f64().unwrap_or(0.0),
        image_tokens: entry["request"]["image_tokens"].as_u64().map(|tokens| tokens as usize),
        ..ScheduleRequest::new(sampler, steps)
    };
    let strength = entry["request"]["strength"].as_f64();
    let schedule = Schedule::new(&config, &request).unwrap();
    Case {
        name: entry["name"].as_str().unwrap().into(),
        schedule: strength.map_or(schedule.clone(), |strength| schedule.last_part(strength).unwrap()),
        partial: strength.is_some(),
        inverts,
        stochastic: request.eta > 0.0,
    }
}

/// The toy denoiser of the goldens.
fn toy(constant: &Tensor, input: &Tensor, step: &StepInfo) -> Result<Tensor, DenoiseError> {
    Ok(((input * (0.3 * (f64::from(step.timestep) / 100.0).sin()))? + constant)?)
}

#[test]
fn tables_equal_those_of_diffusers() {
    let golden = tensors("samplers.safetensors");
    for case in cases().into_iter().filter(|case| !case.inverts) {
        let schedule = case.schedule;
        let expected = |key: &str| golden.get(&format!("{}/{key}", case.name)).map(values);
        let error = relative_l2(&expected("timesteps").unwrap(), schedule.timesteps());
        assert!(error < 1e-6, "{}: timesteps off by {error:e}\n{:?}", case.name, schedule.timesteps());
        if let Some(sigmas) = expected("sigmas") {
            for (index, (expected, got)) in sigmas.iter().zip(schedule.sigmas()).enumerate() {
                let error = (expected - got).abs() / expected.abs().max(1e-6);
                assert!(error < 2e-6, "{}: sigma {index} is {got}, not {expected}", case.name);
            }
        }
        let init = f64::from(expected("init_noise_sigma").unwrap()[0]);
        assert!((schedule.init_noise_sigma() / init - 1.0).abs() < 1e-6, "{}: init {init}", case.name);
    }
}

#[test]
fn every_step_equals_that_of_diffusers() {
    let golden = tensors("samplers.safetensors");
    let (start, constant) = (&golden["start"], &golden["constant"]);
    let mut worst = (0.0, String::new());
    for case in cases().into_iter().filter(|case| !case.inverts) {
        let schedule = case.schedule;
        let expected = values(&golden[&format!("{}/trajectory", case.name)]);
        let mut expected = expected.chunks(start.elem_count());
        let denoised = golden.get(&format!("{}/denoised", case.name)).map(values).unwrap_or_default();
        let mut denoised = denoised.chunks(start.elem_count());
        let mut noise = NoiseStream::new(NoiseKind::Torch, 5);
        let latents = match case.partial {
            true => schedule.noised(&golden["clean"], start).unwrap(),
            false => schedule.initial_latents(start).unwrap(),
        };
        let mut observe = |report: &StepReport| {
            let error = relative_l2(expected.next().unwrap(), &values(report.latents));
            assert!(error < TOLERANCE, "{} step {}: relative error {error:e}", case.name, report.index);
            if error > worst.0 {
                worst = (error, format!("{} step {}", case.name, report.index));
            }
            if let Some(denoised) = denoised.next() {
                // Far from the clean end an estimate is a difference of large numbers.
                let limit = TOLERANCE * f64::from(report.sigma.max(1.0)).min(100.0);
                let error = relative_l2(denoised, &values(report.denoised));
                assert!(error < limit, "{} step {}: denoised off by {error:e}", case.name, report.index);
            }
            std::ops::ControlFlow::Continue(())
        };
        let mut denoise = |input: &Tensor, step: &StepInfo| toy(constant, input, step);
        let last = sample(&mut denoise, latents, &schedule, &mut noise, &mut observe).unwrap();
        assert!(expected.next().is_none(), "{}: too few steps", case.name);
        assert_eq!(last.dims(), start.dims());
        let drawn = values(&noise.normal(&[4]).unwrap()) != values(&noise::torch(5, &[4]).unwrap());
        assert_eq!(drawn, case.stochastic, "{}: only a stochastic sampler draws noise", case.name);
    }
    println!("worst relative error of a step: {:e} ({})", worst.0, worst.1);
}

#[test]
fn plain_inversion_equals_that_of_diffusers() {
    let golden = tensors("samplers.safetensors");
    let (start, constant) = (&golden["start"], &golden["constant"]);
    for case in cases().into_iter().filter(|case| case.inverts) {
        let expected = values(&golden[&format!("{}/trajectory", case.name)]);
        let mut expected = expected.chunks(start.elem_count());
        let mut observe = |report: &StepReport| {
            let error = relative_l2(expected.next().unwrap(), &values(report.latents));
            assert!(error < TOLERANCE, "{} step {}: relative error {error:e}", case.name, report.index);
            std::ops::ControlFlow::Continue(())
        };
        let mut denoise = |input: &Tensor, step: &StepInfo| toy(constant, input, step);
        ddim_invert(&mut denoise, start.clone(), &case.schedule, Inversion::default(), &mut observe).unwrap();
        assert!(expected.next().is_none(), "{}: too few steps", case.name);
    }
}

#[test]
fn cumulative_alphas_equal_those_of_diffusers() {
    let configs = [
        ("linear", "{}"),
        ("scaled_linear", r#"{"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}"#),
        ("squaredcos_cap_v2", r#"{"beta_schedule": "squaredcos_cap_v2"}"#),
        (
            "scaled_linear-zero-snr",
            r#"{"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "rescale_betas_zero_snr": true}"#,
        ),
        ("linear-zero-snr", r#"{"rescale_betas_zero_snr": true}"#),
        ("linear-250", r#"{"num_train_timesteps": 250}"#),
    ];
    let golden = tensors("schedules.safetensors");
    for (name, config) in configs {
        let config = config.replacen('{', "{\"_class_name\": \"DDIMScheduler\", ", 1).replace(", }", "}");
        let schedule = NoiseSchedule::new(&SchedulerConfig::from_json(&config).unwrap()).unwrap();
        let expected = values(&golden[name]);
        assert_eq!(expected.len(), schedule.train_timesteps());
        for (index, (expected, got)) in expected.iter().zip(schedule.alphas_cumprod()).enumerate() {
            // PyTorch's vectorised root is not always rounded to nearest, which the zero-SNR rescale magnifies.
            let error = (expected - got).abs() / expected.max(1e-4);
            assert!(error < 2e-6, "{name}: alpha {index} is {got}, not {expected}");
        }
    }
}

#[test]
fn torch_noise_equals_that_of_pytorch() {
    let golden = tensors("randn.safetensors");
    let compare = |name: &str, expected: &Tensor, got: &Tensor| {
        let bits = |tensor| values(tensor).into_iter().map(f32::to_bits).collect::<Vec<_>>();
        assert_eq!(expected.dims(), got.dims());
        assert_eq!(bits(expected), bits(got), "{name}");
    };
    for (name, expected) in golden.iter().filter(|(name, _)| !name.starts_with("stream")) {
        let seed = name.split('/').next().unwrap().parse().unwrap();
        compare(name, expected, &noise::torch(seed, expected.dims()).unwrap());
    }
    let mut stream = NoiseStream::new(NoiseKind::Torch, 7);
    for (index, size) in [3, 20, 2, 700, 16].into_iter().enumerate() {
        let name = format!("stream/{index}/{size}");
        compare(&name, &golden[&name], &stream.normal(&[size]).unwrap());
    }
}
