//! Noise schedules and samplers over a denoiser closure.
//!
//! A sampler here knows tensors and numbers only: no model, no text, no cache. The model is a closure from the scaled
//! latents and the step to the raw model output (guidance already applied); everything that wants to watch (progress,
//! preview, interruption) is an observer closure. Samplers are free functions of one shape, one file each, after the
//! manner of k-diffusion (Karras et al., arXiv 2206.00364):
//!
//! ```text
//! let config = SchedulerConfig::from_json(&text)?;               // scheduler/scheduler_config.json
//! let sampler = config.default_sampler()?;                       // or "dpm++2m".parse()?
//! let schedule = Schedule::new(&config, &ScheduleRequest::new(sampler, 20))?;
//! let mut noise = NoiseStream::new(NoiseKind::Counter, seed);
//! let latents = schedule.initial_latents(&noise.normal(&[1, 4, 64, 64])?)?;
//! let latents = sample(&mut denoise, latents, &schedule, &mut noise, &mut observe)?;
//! ```
//!
//! One *step* is one evaluation of the model, so `n` requested steps of Heun's second-order method report `2n - 1`.
//! Tables and step formulas follow diffusers' schedulers number by number (`tests/goldens` holds the proof), including
//! what a scheduler makes of keys that its configuration does not mention.

mod belm;
mod config;
mod ddim;
mod dpm_solver;
mod error;
mod euler;
mod flow;
mod heun;
mod invert;
mod invert_flow;
pub mod noise;
mod noise_schedule;
mod pass;
mod pndm;
mod prediction;
mod sampler;
mod schedule;
mod spacing;
mod step;
mod unipc;

pub use belm::{BelmState, belm, belm_evaluations, belm_invert};
pub use config::{BetaSchedule, SchedulerClass, SchedulerConfig};
pub use ddim::ddim;
pub use dpm_solver::dpm_solver_2m;
pub use error::{Error, Result};
pub use euler::euler;
pub use flow::euler_flow;
pub use heun::heun;
pub use invert::{Inversion, ddim_invert, invert};
pub use invert_flow::flow_invert;
pub use noise::{NoiseKind, NoiseStream};
pub use noise_schedule::NoiseSchedule;
pub use pndm::pndm;
pub use prediction::Prediction;
pub use sampler::{Sampler, sample};
pub use schedule::{Schedule, ScheduleRequest};
pub use spacing::{SigmaSpacing, TimestepSpacing};
pub use step::{Denoise, DenoiseError, Observe, StepInfo, StepReport, ignore};
pub use unipc::unipc;
