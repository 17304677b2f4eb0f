//! Bad configurations and requests: one clear line each, never a panic.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail loudly")]

use refrain_samplers::{
    NoiseKind, NoiseStream, Sampler, Schedule, ScheduleRequest, SchedulerConfig, SigmaSpacing, ignore, noise,
};

fn plan(keys: &str, request: ScheduleRequest) -> Result<Schedule, String> {
    let text = format!("{{\"_class_name\": \"DDIMScheduler\"{}{keys}}}", if keys.is_empty() { "" } else { ", " });
    let config = SchedulerConfig::from_json(&text).map_err(|error| error.to_string())?;
    Schedule::new(&config, &request).map_err(|error| error.to_string())
}

fn refusal(keys: &str, sampler: Sampler, steps: usize) -> String {
    let text = plan(keys, ScheduleRequest::new(sampler, steps)).expect_err(keys);
    assert!(!text.contains('\n'), "{text}");
    text
}

#[test]
fn steps_must_fit_the_training() {
    for sampler in [Sampler::Ddim, Sampler::DpmSolver2M, Sampler::Euler, Sampler::Heun] {
        assert_eq!(refusal("", sampler, 0), "steps must be between 1 and 1000, got 0");
        assert_eq!(refusal("", sampler, 1001), "steps must be between 1 and 1000, got 1001");
    }
    assert!(refusal("", Sampler::DpmSolver2M, 1000).contains("choose fewer steps"));
}

#[test]
fn configurations_are_read_with_care() {
    let error = |text: &str| SchedulerConfig::from_json(text).expect_err(text).to_string();
    assert!(
        error("{\"_class_name\": \"FooScheduler\"}").starts_with("unknown scheduler class \"FooScheduler\"; known")
    );
    assert!(error("{}").starts_with("unknown scheduler class \"\""));
    assert!(error("not json").starts_with("scheduler_config.json is not valid: "));
    assert!(error("[1, 2]").starts_with("scheduler_config.json is not valid: "));
    assert!(error("{\"_class_name\": \"DDIMScheduler\", \"beta_start\": \"x\"}").contains("expected f64"));
    assert!(refusal("\"num_train_timesteps\": 0", Sampler::Ddim, 1).starts_with("num_train_timesteps must be"));
    assert!(
        refusal("\"num_train_timesteps\": 99999999999", Sampler::Ddim, 1).starts_with("num_train_timesteps must be")
    );
    assert!(refusal("\"beta_start\": -1", Sampler::Ddim, 5).starts_with("a beta of the noise schedule must be"));
    assert!(refusal("\"beta_end\": Infinity", Sampler::Euler, 5).starts_with("a beta of the noise schedule must be"));
    assert!(
        refusal("\"beta_end\": NaN, \"beta_schedule\": \"cubic\"", Sampler::Euler, 5)
            .starts_with("unknown beta_schedule")
    );
    assert!(refusal("\"trained_betas\": [0.1]", Sampler::Ddim, 5).contains("the length of trained_betas"));
    assert!(refusal("\"timestep_spacing\": \"random\"", Sampler::Ddim, 5).starts_with("unknown timestep_spacing"));
    assert!(refusal("\"prediction_type\": \"x\"", Sampler::Ddim, 5).starts_with("unknown prediction_type \"x\""));
    assert!(refusal("\"steps_offset\": 5000", Sampler::Ddim, 5).contains("training timesteps"));
    assert!(
        refusal("\"steps_offset\": -9, \"timestep_spacing\": \"leading\"", Sampler::Euler, 5)
            .contains("training timesteps")
    );
    assert!(refusal("\"thresholding\": true", Sampler::Ddim, 5).starts_with("thresholding is not supported"));
    assert!(
        refusal("\"use_karras_sigmas\": true, \"sigma_min\": 0", Sampler::Euler, 5)
            .starts_with("the schedule is not usable")
    );
    assert!(
        refusal("\"use_karras_sigmas\": true, \"sigma_max\": Infinity", Sampler::Euler, 5)
            .starts_with("the schedule is not usable")
    );
}

#[test]
fn epsilon_cannot_start_from_pure_noise() {
    let keys = "\"rescale_betas_zero_snr\": true, \"timestep_spacing\": \"trailing\"";
    assert!(refusal(keys, Sampler::Ddim, 5).contains("must predict v"));
}

#[test]
fn samplers_and_models_must_fit() {
    for sampler in [Sampler::EulerFlow, Sampler::UniPc] {
        assert!(refusal("", sampler, 5).contains("not trained by flow matching"));
    }
    let flow = "\"prediction_type\": \"flow_prediction\"";
    assert!(refusal(flow, Sampler::Ddim, 5).contains("choose euler, unipc or dpm++2m"));
    assert_eq!(plan(flow, ScheduleRequest::new(Sampler::Euler, 5)).unwrap().sampler(), Sampler::EulerFlow);
    let lu = ScheduleRequest { sigma_spacing: Some(SigmaSpacing::Lu), ..ScheduleRequest::new(Sampler::Heun, 5) };
    assert!(plan("", lu).unwrap_err().starts_with("lu spacing"));
    let eta = ScheduleRequest { eta: f64::NAN, ..ScheduleRequest::new(Sampler::Ddim, 5) };
    assert!(plan("", eta).unwrap_err().starts_with("eta must be between 0 and 1"));
}

#[test]
fn a_sampler_refuses_another_samplers_table() {
    let schedule = plan("", ScheduleRequest::new(Sampler::Euler, 5)).unwrap();
    let latents = noise::counter(0, &[1, 1, 2, 2]).unwrap();
    let mut noise = NoiseStream::new(NoiseKind::Counter, 0);
    let mut denoise = |input: &candle_core::Tensor, _: &refrain_samplers::StepInfo| Ok(input.clone());
    let error = refrain_samplers::ddim(&mut denoise, latents, &schedule, &mut noise, &mut ignore).unwrap_err();
    assert_eq!(error.to_string(), "the schedule was made for sampler euler, not for ddim");
}

#[test]
fn names_read_back_and_aliases_are_known() {
    for sampler in Sampler::ALL {
        assert_eq!(sampler.name().parse::<Sampler>().unwrap(), sampler);
    }
    for alias in ["dpm++_2m", "dpmpp2m", "DPM++2M"] {
        assert_eq!(alias.parse::<Sampler>().unwrap(), Sampler::DpmSolver2M);
    }
    assert_eq!("flow".parse::<Sampler>().unwrap(), Sampler::EulerFlow);
    assert!("euler_b".parse::<Sampler>().unwrap_err().to_string().contains("ddim_trailing, dpm++2m"));
    let config = |class: &str| SchedulerConfig::from_json(&format!("{{\"_class_name\": \"{class}\"}}")).unwrap();
    assert_eq!(config("HeunDiscreteScheduler").default_sampler().unwrap(), Sampler::Heun);
    assert_eq!(config("PNDMScheduler").default_sampler().unwrap(), Sampler::Pndm);
    let error = config("LMSDiscreteScheduler").default_sampler().unwrap_err().to_string();
    assert!(
        error.starts_with("the model's scheduler LMSDiscreteScheduler has no sampler here; choose one of"),
        "{error}"
    );
}
