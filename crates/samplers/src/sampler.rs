//! The samplers by name.

use std::fmt;
use std::str::FromStr;

use candle_core::Tensor;

use crate::{Denoise, Error, NoiseStream, Observe, Result, Schedule};

/// A sampling method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sampler {
    /// [`ddim`](crate::ddim()): DDIM with the model's own timestep spacing.
    Ddim,
    /// [`ddim`](crate::ddim()) with trailing timestep spacing, whatever the configuration says.
    DdimTrailing,
    /// [`dpm_solver_2m`](crate::dpm_solver_2m()): DPM-Solver++ 2M.
    DpmSolver2M,
    /// [`euler`](crate::euler()): Euler over noise levels.
    Euler,
    /// [`heun`](crate::heun()): Heun's second-order method over noise levels.
    Heun,
    /// [`pndm`](crate::pndm()): pseudo linear multistep, Stable Diffusion's own.
    Pndm,
    /// [`euler_flow`](crate::euler_flow()): Euler for flow-matching models.
    EulerFlow,
    /// [`unipc`](crate::unipc()): UniPC for flow-matching models.
    UniPc,
}

impl Sampler {
    /// All, in the order of help texts.
    pub const ALL: [Self; 8] = [
        Self::Ddim,
        Self::DdimTrailing,
        Self::DpmSolver2M,
        Self::Euler,
        Self::Heun,
        Self::Pndm,
        Self::EulerFlow,
        Self::UniPc,
    ];

    /// Name on the command line, as stable-diffusion.cpp spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ddim => "ddim",
            Self::DdimTrailing => "ddim_trailing",
            Self::DpmSolver2M => "dpm++2m",
            Self::Euler => "euler",
            Self::Heun => "heun",
            Self::Pndm => "pndm",
            Self::EulerFlow => "euler_flow",
            Self::UniPc => "unipc",
        }
    }

    /// All names, for help and error texts.
    pub fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }
}

impl fmt::Display for Sampler {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Sampler {
    type Err = Error;

    /// Accepts the names, and for DPM-Solver++ and flow matching the spellings of other tools.
    fn from_str(name: &str) -> Result<Self> {
        match name.to_ascii_lowercase().as_str() {
            "ddim" => Ok(Self::Ddim),
            "ddim_trailing" => Ok(Self::DdimTrailing),
            "dpm++2m" | "dpm++_2m" | "dpm++ 2m" | "dpmpp2m" | "dpmpp_2m" => Ok(Self::DpmSolver2M),
            "euler" => Ok(Self::Euler),
            "heun" => Ok(Self::Heun),
            "pndm" | "plms" => Ok(Self::Pndm),
            "euler_flow" | "flow_euler" | "flow" => Ok(Self::EulerFlow),
            "unipc" | "uni_pc" => Ok(Self::UniPc),
            _ => Err(Error::UnknownName { what: "sampler", name: name.into(), known: Self::names() }),
        }
    }
}

/// Runs the schedule's sampler from its first step to the last and returns the clean latents.
///
/// `latents` `[b, c, ..]` carry the noise of the first step: [`Schedule::initial_latents`] makes them from unit noise.
/// `noise` is drawn from by stochastic samplers only (DDIM with eta above 0). For pictures that do not depend on their
/// batch, sample each alone.
///
/// # Errors
/// [`Error::Denoise`] when the model fails, [`Error::NonFinite`] when the latents leave the numbers,
/// [`Error::Stopped`] when the observer breaks, [`Error::Shape`] when the output does not match the latents.
pub fn sample(
    denoise: &mut Denoise,
    latents: Tensor,
    schedule: &Schedule,
    noise: &mut NoiseStream,
    observe: &mut Observe,
) -> Result<Tensor> {
    match schedule.sampler() {
        Sampler::Ddim | Sampler::DdimTrailing => crate::ddim(denoise, latents, schedule, noise, observe),
        Sampler::DpmSolver2M => crate::dpm_solver_2m(denoise, latents, schedule, observe),
        Sampler::Euler => crate::euler(denoise, latents, schedule, observe),
        Sampler::Heun => crate::heun(denoise, latents, schedule, observe),
        Sampler::Pndm => crate::pndm(denoise, latents, schedule, observe),
        Sampler::EulerFlow => crate::euler_flow(denoise, latents, schedule, observe),
        Sampler::UniPc => crate::unipc(denoise, latents, schedule, observe),
    }
}
