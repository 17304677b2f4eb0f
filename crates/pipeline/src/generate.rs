//! From a request to a picture: conditions, sampler, cache, decoder.

use std::{cell::RefCell, ops::ControlFlow, time::Instant};

use candle_core::{DType, Device, Tensor};
use refrain_cache::{Context, Step};
use refrain_models::Conditions;
use refrain_ops::{health, linear_combination};
use refrain_samplers::{NoiseKind, NoiseStream, StepInfo, StepReport, sample};

use crate::{
    error::{PipelineError, Result},
    pipeline::{PictureSize, Pipeline},
    request::{GeneratedImage, ImageRequest, Noise, Progress, Seconds},
};

/// Called after every step; `Break` ends the run with an error for which [`PipelineError::is_stopped`] holds.
pub type Observe<'a> = dyn FnMut(&Progress<'_>) -> ControlFlow<()> + 'a;

impl Pipeline {
    /// Makes one picture. Every cacheable part asks `cache` first; [`Context::off`] computes all.
    ///
    /// # Errors
    /// A request that does not fit the model, latents that leave the numbers or collapse (the step is named), or the
    /// observer's wish to stop.
    pub fn generate(
        &self,
        request: &ImageRequest,
        cache: &mut Context,
        observe: &mut Observe<'_>,
    ) -> Result<GeneratedImage> {
        let started = Instant::now();
        if !request.guidance_scale.is_finite() {
            let problem = format!("is {}, expected a finite number", request.guidance_scale);
            return Err(PipelineError::Request { what: "guidance scale", problem });
        }
        let size = self.picture_size(request)?;
        let schedule = self.schedule(request)?;
        let (unit_noise, mut stream) = self.first_noise(request, &size)?;
        let conditions = self.conditions(request)?;
        let text = started.elapsed().as_secs_f64();

        let latents = match &request.initial {
            Some(initial) => schedule.noised(&self.encode_initial(&initial.picture, &size)?, &unit_noise)?,
            None => schedule.initial_latents(&unit_noise)?,
        };
        let run = Run {
            pipeline: self,
            conditions: &conditions,
            guidance_scale: request.guidance_scale,
            cache: RefCell::new(cache),
            failure: RefCell::new(None),
        };
        let sampled = sample(
            &mut |latents, info| Ok(run.denoise(latents, info)?),
            latents,
            &schedule,
            &mut stream,
            &mut |report| run.observe(report, observe),
        );
        let failure = run.failure.take();
        let cache = run.cache.into_inner();
        let latents = match (sampled, failure) {
            (_, Some(failure)) => return Err(failure),
            (sampled, None) => sampled.map_err(unwrapped)?,
        };
        let denoise = started.elapsed().as_secs_f64() - text;

        let image = self.autoencoder().decode(&latents)?;
        Ok(GeneratedImage {
            latents,
            image,
            sampler: schedule.sampler(),
            evaluations: schedule.count(),
            report: cache.report(),
            plan: cache.executed_plan(),
            seconds: Seconds { text, denoise, decode: started.elapsed().as_secs_f64() - text - denoise },
        })
    }

    /// Guidance's prediction for `latents` `[1, c, h, w]` at one step: both halves in one evaluation, combined.
    ///
    /// # Errors
    /// As [`refrain_models::Denoiser::denoise`].
    pub fn predict(
        &self,
        cache: &mut Context,
        latents: &Tensor,
        timestep: f32,
        (conditions, guidance_scale): (&Conditions, f32),
    ) -> Result<Tensor> {
        if guidance_scale <= 1.0 {
            return Ok(self.denoiser().denoise(cache, latents, &[timestep], conditions)?);
        }
        let both = Tensor::cat(&[latents, latents], 0)?;
        let output = self.denoiser().denoise(cache, &both, &[timestep], conditions)?;
        let (negative, positive) = (output.narrow(0, 0, 1)?, output.narrow(0, 1, 1)?);
        let terms = [(1.0 - guidance_scale, &negative), (guidance_scale, &positive)];
        Ok(linear_combination(&terms)?)
    }

    /// Latents of the picture that a request starts from.
    fn encode_initial(&self, picture: &Tensor, size: &PictureSize) -> Result<Tensor> {
        let shape = [1, 3, size.height, size.width];
        let refuse = |problem: String| PipelineError::Request { what: "initial picture", problem };
        if picture.dims() != shape && picture.dims() != &shape[1..] {
            return Err(refuse(format!("has shape {:?}, expected {shape:?}", picture.dims())));
        }
        let picture = picture.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.reshape(&shape[..])?;
        if !health(&picture)?.finite {
            return Err(refuse("has values that are not finite".to_owned()));
        }
        self.autoencoder().encode(&picture)
    }

    /// Unit noise `[1, c, h, w]`, and the stream for what a stochastic sampler draws after it.
    fn first_noise(&self, request: &ImageRequest, size: &PictureSize) -> Result<(Tensor, NoiseStream)> {
        let shape = [1, self.denoiser().facts().latent_channels, size.latent_height, size.latent_width];
        match &request.noise {
            Noise::Seed { seed, kind } => {
                let mut stream = NoiseStream::new(*kind, *seed);
                Ok((stream.normal(&shape)?, stream))
            }
            Noise::Latents(latents) => {
                let fits = latents.dims() == shape || latents.dims() == &shape[1..];
                if !fits || !latents.dtype().is_float() {
                    let (found, dtype) = (latents.dims(), latents.dtype().as_str());
                    let problem = format!("have shape {found:?} ({dtype}), expected {shape:?} (f32)");
                    return Err(PipelineError::Request { what: "latents", problem });
                }
                let latents = latents.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.reshape(&shape[..])?;
                if !health(&latents)?.finite {
                    let problem = "have values that are not finite".to_owned();
                    return Err(PipelineError::Request { what: "latents", problem });
                }
                Ok((latents, NoiseStream::new(NoiseKind::Counter, 0)))
            }
        }
    }
}

/// What the sampler's two closures share.
struct Run<'a> {
    pipeline: &'a Pipeline,
    conditions: &'a Conditions,
    guidance_scale: f32,
    cache: RefCell<&'a mut Context>,
    /// An observer cannot return an error; the first one waits here.
    failure: RefCell<Option<PipelineError>>,
}

impl Run<'_> {
    fn denoise(&self, latents: &Tensor, info: &StepInfo) -> Result<Tensor> {
        let mut cache = self.cache.borrow_mut();
        cache.begin_step(Step { index: info.index, count: info.count, timestep: info.timestep, sigma: info.sigma });
        let conditions = (self.conditions, self.guidance_scale);
        self.pipeline.predict(&mut cache, latents, info.timestep, conditions)
    }

    fn observe(&self, report: &StepReport<'_>, observe: &mut Observe<'_>) -> ControlFlow<()> {
        // The cache knows what healthy latents are, and names the step if these are not.
        if let Err(failure) = self.cache.borrow_mut().end_step(report.latents) {
            self.failure.replace(Some(failure.into()));
            return ControlFlow::Break(());
        }
        observe(&Progress { step: report, cache: &self.cache.borrow() })
    }
}

/// An error of this crate that travelled through the sampler comes back as itself.
pub(crate) fn unwrapped(error: refrain_samplers::Error) -> PipelineError {
    match error {
        refrain_samplers::Error::Denoise { step, count, source } => match source.downcast::<PipelineError>() {
            Ok(own) if !matches!(*own, PipelineError::Tensor(_)) => *own,
            Ok(own) => PipelineError::Sampler(refrain_samplers::Error::Denoise { step, count, source: own }),
            Err(source) => PipelineError::Sampler(refrain_samplers::Error::Denoise { step, count, source }),
        },
        other => PipelineError::Sampler(other),
    }
}
