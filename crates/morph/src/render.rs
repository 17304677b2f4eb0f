//! Frames between inverted keyframes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use candle_core::Tensor;
use refrain_cache::{Context, Guard, Policy, Report, Step};
use refrain_models::Conditions;
use refrain_ops::linear_combination;
use refrain_samplers::{NoiseKind, NoiseStream, StepInfo, StepReport, belm, sample};

use crate::blend::{angle, slerp_factors};
use crate::error::{MorphError, Result};
use crate::inject::Inject;
use crate::keyframes::{Keyframes, Start};
use crate::memory::Rung;
use crate::morpher::{Evaluation, Morpher, Phase, Watch};
use crate::pace::Place;
use crate::schedule::InjectionTable;

/// A batch of frames.
pub struct Rendered {
    /// Clean latents `[frames, c, h, w]`.
    pub latents: Tensor,
    /// What was computed, reused, forecast and injected.
    pub report: Report,
}

impl Morpher<'_> {
    /// Denoises frames of one segment together, each cacheable part under `policy` (rows share its decisions) and the
    /// injection.
    ///
    /// # Errors
    /// Frames of several segments or none, a segment that does not exist, a step that fails.
    pub fn render(
        &self,
        keyframes: &Keyframes,
        places: &[Place],
        policy: Box<dyn Policy>,
        watch: &mut Watch<'_>,
    ) -> Result<Rendered> {
        let count = keyframes.count();
        let segment = places.first().map_or(0, |place| place.segment);
        let ends = (segment % count.max(1), (segment + 1) % count.max(1));
        if places.is_empty() || segment >= count || places.iter().any(|place| place.segment != segment) {
            let expected = format!("some of one segment below {count}");
            return Err(MorphError::Setting { what: "frames of a batch", expected, value: format!("{places:?}") });
        }
        let anchored_steps = self.anchored_steps(keyframes);
        let inject = Inject {
            inner: policy,
            archive: Arc::clone(&keyframes.archive),
            table: Arc::new(self.table_for(keyframes)),
            endpoints: ends,
            places: places.to_vec(),
            guided: self.is_guided(),
            text_changes_at: (anchored_steps > 0).then_some(anchored_steps),
            pairs: HashMap::new(),
            failure: None,
        };
        let context = Context::new(Box::new(inject), Guard::default(), self.header.clone())?;
        let alphas: Vec<f64> = places.iter().map(|place| place.alpha).collect();
        let anchored = match anchored_steps {
            0 => None,
            _ => Some(self.frame_conditions(keyframes, ends, &alphas, true)?),
        };
        let walk = Walk {
            morpher: self,
            keyframes,
            ends,
            conditions: self.frame_conditions(keyframes, ends, &alphas, false)?,
            anchored,
            anchored_steps,
            context: RefCell::new(context),
            failure: RefCell::new(None),
            watch: RefCell::new(watch),
        };
        let latents = walk.run(&keyframes.start.map(|latents| between(latents, ends, &alphas))?)?;
        Ok(Rendered { latents, report: walk.context.into_inner().report() })
    }

    /// The injections of this morpher's steps. Those whose features were not captured are left out when they are read: a
    /// preview of fewer steps makes do with what the frames need.
    fn table_for(&self, keyframes: &Keyframes) -> InjectionTable {
        match keyframes.rung {
            Rung::Int8Stride2 => self.table().thinned(),
            _ => self.table(),
        }
    }

    fn is_guided(&self) -> bool {
        self.settings.guidance_scale > 1.0
    }

    /// Denoising steps during which the anchor is attended to.
    fn anchored_steps(&self, keyframes: &Keyframes) -> usize {
        match keyframes.texts.anchored() {
            true => (self.settings.anchor_share * self.header.steps as f64).ceil() as usize,
            false => 0,
        }
    }

    fn frame_conditions(
        &self,
        keyframes: &Keyframes,
        ends: (usize, usize),
        alphas: &[f64],
        anchored: bool,
    ) -> Result<Conditions> {
        let mut states = keyframes.texts.frames(ends, alphas, anchored)?;
        if self.is_guided() {
            states = Tensor::cat(&[keyframes.texts.empty(alphas.len(), anchored)?, states], 0)?;
        }
        Ok(self.pipeline.state_conditions(&states, self.size)?)
    }
}

/// Spherical interpolations of two rows of `latents`, one for each alpha.
fn between(latents: &Tensor, (first, second): (usize, usize), alphas: &[f64]) -> candle_core::Result<Tensor> {
    let (a, b) = (latents.narrow(0, first, 1)?, latents.narrow(0, second, 1)?);
    let angle = angle(&a, &b)?;
    let rows = alphas.iter().map(|&alpha| {
        let (first, second) = slerp_factors(angle, alpha);
        linear_combination(&[(first as f32, &a), (second as f32, &b)])
    });
    Tensor::cat(&rows.collect::<candle_core::Result<Vec<_>>>()?, 0)
}

/// What the closures of a denoising run share.
struct Walk<'a, 'w, 'f> {
    morpher: &'a Morpher<'a>,
    keyframes: &'a Keyframes,
    ends: (usize, usize),
    conditions: Conditions,
    anchored: Option<Conditions>,
    anchored_steps: usize,
    context: RefCell<Context>,
    /// An observer cannot return an error; the first one waits here.
    failure: RefCell<Option<MorphError>>,
    watch: RefCell<&'w mut Watch<'f>>,
}

impl Walk<'_, '_, '_> {
    fn run(&self, start: &Start) -> Result<Tensor> {
        let schedule = &self.morpher.denoising;
        let mut denoise = |latents: &Tensor, info: &StepInfo| Ok(self.evaluate(latents, info)?);
        let mut observe = |report: &StepReport<'_>| self.observe(report);
        let latents = match start {
            Start::Latents(latents) => {
                let mut unused = NoiseStream::new(NoiseKind::Counter, 0);
                sample(&mut denoise, latents.clone(), schedule, &mut unused, &mut observe)
            }
            Start::Pair(pair) => belm(&mut denoise, pair.clone(), schedule, &mut observe),
        };
        match self.failure.take() {
            Some(failure) => Err(failure),
            None => Ok(latents?),
        }
    }

    fn evaluate(&self, latents: &Tensor, info: &StepInfo) -> Result<Tensor> {
        let StepInfo { index, count, timestep, sigma } = *info;
        if self.keyframes.rung == Rung::Recompute {
            self.recompute(index)?;
        }
        let mut context = self.context.borrow_mut();
        context.begin_step(Step { index, count, timestep, sigma });
        let conditions = match &self.anchored {
            Some(anchored) if index < self.anchored_steps => anchored,
            _ => &self.conditions,
        };
        let denoiser = self.morpher.pipeline.denoiser();
        let scale = self.morpher.settings.guidance_scale;
        if !self.morpher.is_guided() {
            return Ok(denoiser.denoise(&mut context, latents, &[timestep], conditions)?);
        }
        let rows = latents.dim(0)?;
        let output = denoiser.denoise(&mut context, &Tensor::cat(&[latents, latents], 0)?, &[timestep], conditions)?;
        let (negative, positive) = (output.narrow(0, 0, rows)?, output.narrow(0, rows, rows)?);
        Ok(linear_combination(&[(1.0 - scale, &negative), (scale, &positive)])?)
    }

    /// Computes the endpoints' features of this step again from the latents that the inversion was at: the features that
    /// the exact store would hold, bit for bit, since a row of a result does not depend on its batch.
    fn recompute(&self, step: usize) -> Result<()> {
        let (keyframes, morpher) = (self.keyframes, self.morpher);
        let table = morpher.table_for(keyframes);
        let Some(entry) = table.steps.get(step).filter(|entry| !entry.sites.is_empty()) else {
            return Ok(());
        };
        let Some(latents) = keyframes.trajectory.get(entry.read) else { return Ok(()) };
        keyframes.archive.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clear();
        let pair = |rows: &Tensor| Tensor::cat(&[rows.narrow(0, self.ends.0, 1)?, rows.narrow(0, self.ends.1, 1)?], 0);
        let wanted = entry.sites.iter().map(|site| (entry.read, *site)).collect();
        let endpoints = vec![self.ends.0, self.ends.1];
        let mut context = morpher.capturing(&keyframes.archive, (wanted, Some(entry.read)), endpoints)?;
        let conditions = morpher.pipeline.state_conditions(&pair(&keyframes.texts.keyframes)?, morpher.size)?;
        let timestep = self.inversion_timestep(entry.read);
        context.begin_step(Step { index: 0, count: 1, timestep, sigma: 0.0 });
        morpher.pipeline.denoiser().denoise(&mut context, &pair(latents)?, &[timestep], &conditions)?;
        Ok(())
    }

    /// Timestep of an inversion step, which counts from the clean end.
    fn inversion_timestep(&self, step: usize) -> f32 {
        let timesteps = self.morpher.inversion.timesteps();
        timesteps.len().checked_sub(step + 1).and_then(|index| timesteps.get(index)).copied().unwrap_or(0.0)
    }

    fn observe(&self, report: &StepReport<'_>) -> ControlFlow<()> {
        if let Err(failure) = self.context.borrow_mut().end_step(report.latents) {
            self.failure.replace(Some(failure.into()));
            return ControlFlow::Break(());
        }
        let evaluation = Evaluation { phase: Phase::Denoise, rows: report.latents.dim(0).unwrap_or(0) };
        if (self.watch.borrow_mut())(evaluation).is_break() {
            self.failure.replace(Some(MorphError::Stopped));
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }
}
