//! How alike two pictures are to the model's own eye, after DiffSim (arXiv 2412.14580).
//!
//! A picture is noised to one fixed level with one fixed noise and shown to the network without a text; the output `F`
//! (one row a token) of one self-attention is its feature. DiffSim compares what attention makes of `A` from itself with
//! what it makes of it from `B`, which forgives displacement; queries and keys are not part of our sites, so `F` plays
//! query, key and value:
//!
//! ```text
//! aligned(A, B) = softmax(norm(F_A) norm(F_B)^T / 0.1) F_B
//! s(A, B) = 1/2 [cos(aligned(A, A), aligned(A, B)) + cos(aligned(B, B), aligned(B, A))]
//! ```

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{D, Result as TensorResult, Tensor};
use refrain_cache::{Archive, Branch, Context, Guard, Part, RunHeader, Site, Step, Storage};
use refrain_ops::linear_combination;
use refrain_pipeline::Pipeline;
use refrain_samplers::{NoiseSchedule, noise};

use crate::error::{MorphError, Result};
use crate::inject::{Capture, SharedArchive};
use crate::text::Texts;

/// Share of the training timesteps at which pictures are compared: coarse shape is still there, pixels are not.
const LEVEL: f64 = 0.3;
/// Seed of the one noise.
const SEED: u64 = 2334;
/// Softness of the alignment.
const TEMPERATURE: f64 = 0.1;
/// Pictures that are shown at a time.
const BATCH: usize = 8;

/// A model as a judge of likeness.
pub struct Backbone<'a> {
    pipeline: &'a Pipeline,
    site: Site,
    /// Height and width in pixels.
    size: (usize, usize),
    timestep: f32,
    /// Signal and noise share there.
    shares: (f32, f32),
}

impl<'a> Backbone<'a> {
    /// The model's self-attention two thirds of the way through, at pictures of `size` (height, width).
    ///
    /// # Errors
    /// A model without self-attention, a size that it cannot see.
    pub fn new(pipeline: &'a Pipeline, size: (usize, usize)) -> Result<Self> {
        let sites = pipeline.sites(size.0, size.1, 0)?;
        let attentions: Vec<Site> =
            sites.iter().map(|info| info.site).filter(|site| site.part == Part::Attention).collect();
        let site = attentions.get(2 * attentions.len() / 3).copied().ok_or_else(|| MorphError::Setting {
            what: "model that judges likeness",
            expected: "one with self-attention".to_owned(),
            value: pipeline.class_name().to_owned(),
        })?;
        let config = pipeline.scheduler();
        let train = config.train_timesteps()?;
        let index = (LEVEL * train as f64) as usize;
        let shares = if config.is_flow() {
            (1.0 - LEVEL as f32, LEVEL as f32)
        } else {
            let schedule = NoiseSchedule::new(config)?;
            let alpha = schedule.alphas_cumprod().get(index).map_or(1.0, |&alpha| f64::from(alpha));
            (alpha.sqrt() as f32, (1.0 - alpha).max(0.0).sqrt() as f32)
        };
        Ok(Self { pipeline, site, size, timestep: index as f32, shares })
    }

    /// What the figures must name.
    pub fn name(&self) -> String {
        let family = self.pipeline.denoiser().facts().family;
        format!("DiffSim-style, {family} {} at timestep {}", self.site, self.timestep)
    }

    /// Features `[tokens, width]` of pictures `[n, 3, height, width]` in 0..1.
    ///
    /// # Errors
    /// Pictures of another size than the backbone's.
    pub fn features(&self, pictures: &Tensor) -> Result<Vec<Tensor>> {
        let count = pictures.dim(0)?;
        let mut features = Vec::with_capacity(count);
        for first in (0..count).step_by(BATCH) {
            let rows = BATCH.min(count - first);
            let encoded = (first..first + rows)
                .map(|row| Ok(self.pipeline.autoencoder().encode(&pictures.narrow(0, row, 1)?)?))
                .collect::<Result<Vec<_>>>()?;
            features.extend(self.of_latents(&Tensor::cat(&encoded, 0)?)?);
        }
        Ok(features)
    }

    fn of_latents(&self, latents: &Tensor) -> Result<Vec<Tensor>> {
        let rows = latents.dim(0)?;
        let mut shape = latents.dims().to_vec();
        shape[0] = 1;
        let noise = noise::counter(SEED, &shape)?;
        let noise = Tensor::cat(&vec![noise; rows], 0)?;
        let noised = linear_combination(&[(self.shares.0, latents), (self.shares.1, &noise)])?;
        let texts = Texts::encode(self.pipeline, &vec![String::new(); rows], None)?;
        let conditions = self.pipeline.state_conditions(&texts.keyframes, self.size)?;
        let archive: SharedArchive = Arc::new(Mutex::new(Archive::new(Storage::F32)?));
        let capture = Capture {
            archive: Arc::clone(&archive),
            wanted: Arc::new(HashSet::from([(0, self.site)])),
            endpoints: (0..rows).collect(),
            step: Some(0),
        };
        let mut context = Context::new(Box::new(capture), Guard::default(), RunHeader::default())?;
        context.begin_step(Step { index: 0, count: 1, timestep: self.timestep, sigma: 0.0 });
        self.pipeline.denoiser().denoise(&mut context, &noised, &[self.timestep], &conditions)?;
        let mut archive = archive.lock().unwrap_or_else(PoisonError::into_inner);
        (0..rows)
            .map(|row| {
                let site = self.site.with_branch(Branch::endpoint(row as u16));
                let feature = archive
                    .get(0, site)?
                    .ok_or_else(|| MorphError::Tensor(candle_core::Error::Msg(format!("{site} was not visited"))))?;
                Ok(feature.squeeze(0)?)
            })
            .collect()
    }
}

/// Likeness of two features, 1 for equal ones.
///
/// # Errors
/// Features of different width.
pub fn similarity(first: &Tensor, second: &Tensor) -> Result<f64> {
    let one = cosine(&aligned(first, first)?, &aligned(first, second)?)?;
    let other = cosine(&aligned(second, second)?, &aligned(second, first)?)?;
    Ok((one + other) / 2.0)
}

/// What attention makes of `query` from `source`.
fn aligned(query: &Tensor, source: &Tensor) -> TensorResult<Tensor> {
    let scores = (unit_rows(query)?.matmul(&unit_rows(source)?.t()?.contiguous()?)? / TEMPERATURE)?;
    let weights = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
    let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
    weights.matmul(&source.contiguous()?)
}

fn unit_rows(rows: &Tensor) -> TensorResult<Tensor> {
    let norms = rows.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?.maximum(1e-12)?;
    rows.broadcast_div(&norms)?.contiguous()
}

fn cosine(first: &Tensor, second: &Tensor) -> TensorResult<f64> {
    let dot = |a: &Tensor, b: &Tensor| -> TensorResult<f64> { Ok(f64::from((a * b)?.sum_all()?.to_scalar::<f32>()?)) };
    let norms = (dot(first, first)? * dot(second, second)?).sqrt();
    Ok(if norms > 0.0 { dot(first, second)? / norms } else { 0.0 })
}
