//! Keyframes to noise, their features captured on the way.

use std::cell::RefCell;
use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use candle_core::Tensor;
use refrain_cache::{Archive, Context, Guard, RunHeader, Site, Step};
use refrain_models::Conditions;
use refrain_samplers::{Inversion, StepInfo, StepReport, belm, belm_invert, invert, sample};
use refrain_samplers::{NoiseKind, NoiseStream};

use crate::error::{MorphError, Result};
use crate::inject::{Capture, SharedArchive};
use crate::keyframes::{Keyframes, Start};
use crate::memory::Rung;
use crate::morpher::{Evaluation, Inverter, Morpher, Phase, Watch};
use crate::text::Texts;

impl Morpher<'_> {
    /// Inverts pictures `[n, 3, height, width]` in 0..1, n at least 2, under one text each.
    ///
    /// # Errors
    /// Pictures of another size than the morpher's, no rung that fits, a step that fails.
    pub fn invert(&self, pictures: &Tensor, texts: Texts, watch: &mut Watch<'_>) -> Result<Keyframes> {
        self.invert_for(pictures, texts, self.table().reads(), watch)
    }

    /// As [`Morpher::invert`], with the features that others than its own table read: several morphers of the same steps,
    /// size and memory can render from the same keyframes.
    ///
    /// # Errors
    /// As [`Morpher::invert`].
    pub fn invert_for(
        &self,
        pictures: &Tensor,
        texts: Texts,
        reads: HashSet<(usize, Site)>,
        watch: &mut Watch<'_>,
    ) -> Result<Keyframes> {
        let count = pictures.dim(0)?;
        let (rung, predicted_bytes) = self.memory(count)?;
        let archive: SharedArchive = Arc::new(Mutex::new(Archive::new(rung.storage())?));
        let wanted = match rung {
            Rung::Recompute => HashSet::new(),
            Rung::Int8Stride2 => self.table().thinned().reads(),
            _ => reads,
        };
        let rows = (0..count).map(|row| Ok(self.pipeline.autoencoder().encode(&pictures.narrow(0, row, 1)?)?));
        let latents = Tensor::cat(&rows.collect::<Result<Vec<_>>>()?, 0)?;
        let walk = Walk {
            morpher: self,
            conditions: self.pipeline.state_conditions(&texts.keyframes, self.size)?,
            context: RefCell::new(self.capturing(&archive, (wanted, None), (0..count).collect())?),
            trajectory: RefCell::new(vec![None; if rung == Rung::Recompute { self.inversion.count() } else { 0 }]),
            stopped: RefCell::new(false),
            watch: RefCell::new(watch),
        };
        let start = walk.run(&latents)?;
        let trajectory = walk.trajectory.into_inner().into_iter().flatten().collect();
        Ok(Keyframes { start, texts, archive, trajectory, rung, latents, predicted_bytes })
    }

    /// A context that captures the wanted (step, site) pairs; rows are these endpoints. With a step given, that is what
    /// the evaluated step is called.
    pub(crate) fn capturing(
        &self,
        archive: &SharedArchive,
        (wanted, step): (HashSet<(usize, Site)>, Option<usize>),
        endpoints: Vec<usize>,
    ) -> Result<Context> {
        if wanted.is_empty() {
            return Ok(Context::off());
        }
        let capture = Capture { archive: Arc::clone(archive), wanted: Arc::new(wanted), endpoints, step };
        let header = RunHeader { steps: self.inversion.count(), ..self.header.clone() };
        Ok(Context::new(Box::new(capture), Guard::default(), header)?)
    }

    /// Clean latents again from the keyframes' own noise, without any injection: how exact the inversion is.
    ///
    /// # Errors
    /// A step that fails.
    pub fn reconstruct(&self, keyframes: &Keyframes) -> Result<Tensor> {
        let conditions = self.pipeline.state_conditions(&keyframes.texts.keyframes, self.size)?;
        let mut denoise = |latents: &Tensor, info: &StepInfo| {
            let output = self.pipeline.denoiser().denoise(&mut Context::off(), latents, &[info.timestep], &conditions);
            Ok(output?)
        };
        let observe = &mut refrain_samplers::ignore;
        match &keyframes.start {
            Start::Latents(latents) => {
                let mut unused = NoiseStream::new(NoiseKind::Counter, 0);
                Ok(sample(&mut denoise, latents.clone(), &self.inversion, &mut unused, observe)?)
            }
            Start::Pair(pair) => Ok(belm(&mut denoise, pair.clone(), &self.inversion, observe)?),
        }
    }
}

/// What the closures of an inversion share.
struct Walk<'a, 'w, 'f> {
    morpher: &'a Morpher<'a>,
    conditions: Conditions,
    context: RefCell<Context>,
    trajectory: RefCell<Vec<Option<Tensor>>>,
    stopped: RefCell<bool>,
    watch: RefCell<&'w mut Watch<'f>>,
}

impl Walk<'_, '_, '_> {
    fn run(&self, latents: &Tensor) -> Result<Start> {
        let (schedule, settings) = (&self.morpher.inversion, &self.morpher.settings);
        let mut denoise = |latents: &Tensor, info: &StepInfo| Ok(self.evaluate(latents, info)?);
        let mut observe = |_: &StepReport<'_>| match *self.stopped.borrow() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        let start = match settings.inverter {
            Inverter::Ddim => {
                // A fixed number of refinements: a row's result must not depend on how soon its neighbours converge.
                let inversion = Inversion { refinements: settings.refinements, tolerance: 0.0 };
                Start::Latents(invert(&mut denoise, latents.clone(), schedule, inversion, &mut observe)?)
            }
            Inverter::Belm => Start::Pair(belm_invert(&mut denoise, latents.clone(), schedule, &mut observe)?),
        };
        if *self.stopped.borrow() { Err(MorphError::Stopped) } else { Ok(start) }
    }

    fn evaluate(&self, latents: &Tensor, info: &StepInfo) -> Result<Tensor> {
        let mut context = self.context.borrow_mut();
        let StepInfo { index, count, timestep, sigma } = *info;
        context.begin_step(Step { index, count, timestep, sigma });
        let denoiser = self.morpher.pipeline.denoiser();
        let output = denoiser.denoise(&mut context, latents, &[timestep], &self.conditions)?;
        if let Some(slot) = self.trajectory.borrow_mut().get_mut(index) {
            *slot = Some(latents.clone());
        }
        let evaluation = Evaluation { phase: Phase::Invert, rows: latents.dim(0)? };
        if (self.watch.borrow_mut())(evaluation).is_break() {
            *self.stopped.borrow_mut() = true;
        }
        Ok(output)
    }
}
