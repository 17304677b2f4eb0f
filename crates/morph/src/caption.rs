//! The nearest caption of a model's own vocabulary: the one under which it explains the picture best.
//!
//! A picture is noised to a few levels with fixed noise; under each candidate the network predicts, and the candidate with
//! the least squared error of the prediction names the picture (a diffusion classifier, arXiv 2303.16203). All candidates are
//! tried at one level, the best of them at all.

use candle_core::Tensor;
use refrain_cache::Context;
use refrain_ops::linear_combination;
use refrain_pipeline::Pipeline;
use refrain_samplers::{NoiseSchedule, Prediction, noise};

use crate::error::{MorphError, Result};
use crate::text::Texts;

/// Shares of the training timesteps at which candidates are compared; the first for all.
const LEVELS: [f64; 4] = [0.7, 0.5, 0.6, 0.8];
/// Candidates of the second round.
const FINALISTS: usize = 12;
/// Rows of one evaluation.
const BATCH: usize = 16;
/// Seed of the noise.
const SEED: u64 = 1205;

/// Number of the candidate that explains a picture `[1, 3, height, width]` in 0..1 best, and its mean squared error.
///
/// # Errors
/// No candidates, or a model without a text.
pub fn nearest(pipeline: &Pipeline, picture: &Tensor, candidates: &[String]) -> Result<(usize, f64)> {
    if candidates.is_empty() || pipeline.text_encoder().is_none() {
        return Err(MorphError::Caption("this model has no vocabulary to choose from".to_owned()));
    }
    let (_, _, height, width) = picture.dims4()?;
    let latents = pipeline.autoencoder().encode(picture)?;
    let judge = Judge { pipeline, latents, size: (height, width) };
    let all: Vec<usize> = (0..candidates.len()).collect();
    let mut losses = vec![0.0; candidates.len()];
    judge.add(LEVELS[0], &all, candidates, &mut losses)?;
    let mut finalists = all;
    finalists.sort_by(|&a, &b| losses[a].total_cmp(&losses[b]).then(a.cmp(&b)));
    finalists.truncate(FINALISTS);
    for &level in &LEVELS[1..] {
        judge.add(level, &finalists, candidates, &mut losses)?;
    }
    let best = finalists.iter().copied().min_by(|&a, &b| losses[a].total_cmp(&losses[b]).then(a.cmp(&b)));
    let best = best.ok_or_else(|| MorphError::Caption("no candidate is left".to_owned()))?;
    Ok((best, losses[best] / LEVELS.len() as f64))
}

struct Judge<'a> {
    pipeline: &'a Pipeline,
    latents: Tensor,
    size: (usize, usize),
}

impl Judge<'_> {
    /// Adds the losses of some candidates at one level.
    fn add(&self, level: f64, chosen: &[usize], candidates: &[String], losses: &mut [f64]) -> Result<()> {
        let (timestep, alpha, sigma) = self.level(level)?;
        let noise = noise::counter(SEED + (100.0 * level) as u64, self.latents.dims())?;
        let noised = linear_combination(&[(alpha, &self.latents), (sigma, &noise)])?;
        let target = match self.pipeline.scheduler().prediction()? {
            Prediction::Epsilon => noise,
            Prediction::Velocity => linear_combination(&[(alpha, &noise), (-sigma, &self.latents)])?,
            Prediction::Sample => self.latents.clone(),
            Prediction::Flow => linear_combination(&[(1.0, &noise), (-1.0, &self.latents)])?,
        };
        let target = target.flatten_all()?.to_vec1::<f32>()?;
        for batch in chosen.chunks(BATCH) {
            let prompts: Vec<String> = batch.iter().map(|&index| candidates[index].clone()).collect();
            let texts = Texts::encode(self.pipeline, &prompts, None)?;
            let conditions = self.pipeline.state_conditions(&texts.keyframes, self.size)?;
            let rows = Tensor::cat(&vec![noised.clone(); batch.len()], 0)?;
            let output = self.pipeline.denoiser().denoise(&mut Context::off(), &rows, &[timestep], &conditions)?;
            for (&index, row) in batch.iter().zip(output.flatten_from(1)?.to_vec2::<f32>()?) {
                let squares = row.iter().zip(&target).map(|(a, b)| f64::from(a - b) * f64::from(a - b));
                losses[index] += squares.sum::<f64>() / target.len().max(1) as f64;
            }
        }
        Ok(())
    }

    /// Timestep, signal and noise share of a level.
    fn level(&self, level: f64) -> Result<(f32, f32, f32)> {
        let config = self.pipeline.scheduler();
        let index = (level * config.train_timesteps()? as f64) as usize;
        if config.is_flow() {
            return Ok((index as f32, 1.0 - level as f32, level as f32));
        }
        let schedule = NoiseSchedule::new(config)?;
        let alpha = schedule.alphas_cumprod().get(index).map_or(1.0, |&alpha| f64::from(alpha));
        Ok((index as f32, alpha.sqrt() as f32, (1.0 - alpha).max(0.0).sqrt() as f32))
    }
}
