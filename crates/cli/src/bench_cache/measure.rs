//! Making the pictures of a bench, and what each contender's measurements come to.

use refrain_cache::{Plan, Planned, Site};
use refrain_media::Picture;
use refrain_metrics::{batch, median, percentile, psnr_capped};
use refrain_pipeline::{
    GeneratedImage, ImageRequest, LoadOptions, ModelSource, Noise, Pipeline, Progress as StepProgress,
};
use refrain_samplers::NoiseKind;
use std::ops::ControlFlow;

use super::contender::Contender;
use super::margin::margin;
use super::table::Row;
use crate::cache::CacheChoice;
use crate::errors::{interrupted, usage};
use crate::events::{Console, Event};
use crate::interrupt;
use crate::preview::picture_of;
use crate::progress::Progress;

/// Pictures are compared by windows of this many pixels; smaller ones have no structural similarity.
const SSIM_WINDOW: usize = 11;

/// A contender with what was measured so far.
struct Entry {
    contender: Contender,
    /// The model in the contender's dtype, where that is not the bench's.
    pipeline: Option<Pipeline>,
    cache: CacheChoice,
    steps: usize,
    seconds: Vec<f64>,
    computed_share: Vec<f64>,
    flops_share: Vec<f64>,
    psnr: Vec<f64>,
    ssim: Vec<f64>,
    rel_l2: Vec<f64>,
    feature_bytes: usize,
    sample: Option<Picture>,
}

/// A prompt's index, the prompt, and a seed.
type Item = (usize, String, u64);

/// The bench.
pub(crate) struct Bench<'a> {
    pipeline: &'a Pipeline,
    source: &'a ModelSource,
    console: Console,
    base: ImageRequest,
    entries: Vec<Entry>,
}

impl<'a> Bench<'a> {
    /// A bench of contenders, the uncached one first, for a pipeline and where it was loaded from.
    ///
    /// # Errors
    /// A policy that does not exist or does not fit, steps that the sampler cannot do (exit 2).
    pub(crate) fn new(
        (pipeline, source): (&'a Pipeline, &'a ModelSource),
        console: Console,
        base: ImageRequest,
        contenders: &[Contender],
    ) -> anyhow::Result<Self> {
        let mut bench = Self { pipeline, source, console, base, entries: Vec::new() };
        for contender in contenders {
            bench.enter(contender.clone())?;
        }
        Ok(bench)
    }

    fn enter(&mut self, contender: Contender) -> anyhow::Result<()> {
        let mut pipeline = None;
        let (cache, steps) = match &contender {
            Contender::Policy { name, options } => (CacheChoice::parse(Some(name), options)?, self.base.steps),
            Contender::Steps(steps) => (CacheChoice::parse(None, &[])?, *steps),
            Contender::Dtype(precision) => {
                pipeline = Some(Pipeline::load(self.source, LoadOptions { precision: *precision })?);
                (CacheChoice::parse(None, &[])?, self.base.steps)
            }
        };
        let request = ImageRequest { steps, ..self.base.clone() };
        let header = self.pipeline.run_header(&request).map_err(|error| usage(error.to_string()))?;
        cache.context(&header, 0, true)?;
        self.entries.push(Entry {
            contender,
            pipeline,
            cache,
            steps,
            seconds: Vec::new(),
            computed_share: Vec::new(),
            flops_share: Vec::new(),
            psnr: Vec::new(),
            ssim: Vec::new(),
            rel_l2: Vec::new(),
            feature_bytes: 0,
            sample: None,
        });
        Ok(())
    }

    /// One unmeasured picture per contender. With `rivals`, each policy then gets the uncached run of about its own
    /// speed as a rival.
    ///
    /// # Errors
    /// What the model or the user does.
    pub(crate) fn warm_up(&mut self, items: &[Item], rivals: bool) -> anyhow::Result<()> {
        let Some(item) = items.first() else { return Ok(()) };
        let mut seconds = Vec::new();
        for index in 0..self.entries.len() {
            let made = self.make(index, item)?.ok_or_else(|| interrupted("stopped before anything was measured"))?;
            seconds.push(made.seconds.denoise);
        }
        let Some(&uncached) = seconds.first() else { return Ok(()) };
        for &taken in seconds.iter().filter(|_| rivals) {
            let steps = (self.base.steps as f64 * taken / uncached).round() as usize;
            let steps = steps.clamp(1, self.base.steps);
            let known = self.entries.iter().any(|entry| entry.steps == steps && entry.cache.is_off());
            if !known {
                self.enter(Contender::Steps(steps))?;
            }
        }
        Ok(())
    }

    /// Measures everything; false when the user stopped it.
    ///
    /// # Errors
    /// What the model says.
    pub(crate) fn measure(&mut self, items: &[Item], rounds: usize) -> anyhow::Result<bool> {
        let count = self.entries.len();
        let progress = Progress::counting(&self.console, "bench", rounds * items.len() * count, "image");
        let (mut done, mut seconds) = (0, 0.0);
        for round in 0..rounds {
            for (place, item) in items.iter().enumerate() {
                let mut made: Vec<Option<GeneratedImage>> = vec![None; count];
                for turn in 0..count {
                    let index = (turn + place + round) % count;
                    let Some(image) = self.make(index, item)? else { return Ok(false) };
                    done += 1;
                    seconds += image.seconds.total();
                    progress.step(done, seconds, None);
                    self.note(index, round, item, &image)?;
                    if let Some(slot) = made.get_mut(index) {
                        *slot = Some(image);
                    }
                }
                if round == 0 {
                    self.judge(&made)?;
                }
            }
        }
        Ok(true)
    }

    /// The table's rows.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let uncached = self.entries.first().map_or(f64::NAN, |entry| middle(&entry.seconds));
        let measured = self.entries.iter().filter(|entry| !entry.seconds.is_empty() && !entry.psnr.is_empty());
        let mut rows: Vec<Row> = measured.map(|entry| entry.row(uncached)).collect();
        let margins: Vec<Option<f64>> = rows.iter().map(|row| margin(&rows, row)).collect();
        rows.iter_mut().zip(margins).for_each(|(row, margin)| row.margin = margin);
        rows
    }

    /// The first picture of every row.
    pub(crate) fn samples(&self) -> Vec<Picture> {
        self.entries.iter().filter_map(|entry| entry.sample.clone()).collect()
    }

    /// One picture by one contender; `None` when the user stopped it.
    fn make(&self, index: usize, (_, prompt, seed): &Item) -> anyhow::Result<Option<GeneratedImage>> {
        let Some(entry) = self.entries.get(index) else { return Ok(None) };
        let request = ImageRequest {
            prompt: prompt.clone(),
            noise: Noise::Seed { seed: *seed, kind: NoiseKind::Counter },
            steps: entry.steps,
            ..self.base.clone()
        };
        let header = self.pipeline.run_header(&request)?;
        let mut cache = entry.cache.context(&header, *seed, false)?;
        let mut watch = |_: &StepProgress<'_>| match interrupt::requested() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        match entry.pipeline.as_ref().unwrap_or(self.pipeline).generate(&request, &mut cache, &mut watch) {
            Ok(image) => Ok(Some(image)),
            Err(error) if error.is_stopped() => Ok(None),
            Err(error) => Err(anyhow::Error::new(error).context(entry.contender.spelling())),
        }
    }

    fn note(
        &mut self,
        index: usize,
        round: usize,
        (prompt, _, seed): &Item,
        image: &GeneratedImage,
    ) -> anyhow::Result<()> {
        let Some(entry) = self.entries.get_mut(index) else { return Ok(()) };
        let seconds = image.seconds.denoise;
        entry.seconds.push(seconds);
        let policy = entry.contender.spelling();
        self.console.event(&Event::Bench { round, policy: &policy, prompt: *prompt, seed: *seed, seconds })
    }

    /// Compares the pictures of one prompt and seed with the uncached one.
    fn judge(&mut self, made: &[Option<GeneratedImage>]) -> anyhow::Result<()> {
        let Some(Some(reference)) = made.first() else { return Ok(()) };
        for (index, image) in made.iter().enumerate() {
            let Some(image) = image else { continue };
            let flops_share = self.flops_share(&image.plan, reference, image)?;
            let Some(entry) = self.entries.get_mut(index) else { continue };
            let evaluations = image.evaluations as f64 / reference.evaluations.max(1) as f64;
            let computed = if entry.cache.is_off() { 1.0 } else { image.report.computed_share };
            entry.computed_share.push(computed * evaluations);
            entry.flops_share.push(flops_share);
            entry.psnr.extend(batch::psnr(&reference.image, &image.image)?.into_iter().map(psnr_capped));
            entry.ssim.push(similarity(reference, image)?);
            entry.rel_l2.push(batch::relative_l2(&reference.latents, &image.latents)?);
            entry.feature_bytes = entry.feature_bytes.max(image.report.bytes_peak);
            if entry.sample.is_none() {
                entry.sample = Some(picture_of(&image.image)?);
            }
        }
        Ok(())
    }

    /// Share of the reference's operations in the denoiser that were done.
    fn flops_share(&self, plan: &Plan, reference: &GeneratedImage, image: &GeneratedImage) -> anyhow::Result<f64> {
        let (_, _, height, width) = image.image.dims4()?;
        let tokens = self.pipeline.text_encoder().map_or(0, |text| text.limit());
        let shape = self.pipeline.latent_shape(height, width, tokens)?;
        let whole = self.pipeline.denoiser().flops(&shape) as f64;
        let costs: Vec<(Site, f64)> =
            self.pipeline.denoiser().sites(&shape).iter().map(|info| (info.site, info.flops as f64)).collect();
        let spared: f64 = (0..plan.steps()).map(|step| spared(plan, step, &costs, whole)).sum();
        Ok((whole * image.evaluations as f64 - spared) / (whole * reference.evaluations as f64))
    }
}

/// Operations that a step of an executed plan did not do.
fn spared(plan: &Plan, step: usize, costs: &[(Site, f64)], whole: f64) -> f64 {
    let at = |site: Site| plan.column_of(site).map_or(Planned::Absent, |column| plan.at(step, column));
    if at(Site::model()).is_skip() {
        return whole;
    }
    costs.iter().filter(|(site, _)| at(*site).is_skip()).map(|(_, cost)| cost).sum()
}

fn similarity(reference: &GeneratedImage, image: &GeneratedImage) -> anyhow::Result<f64> {
    let (_, _, height, width) = image.image.dims4()?;
    if height.min(width) < SSIM_WINDOW {
        return Err(usage(format!(
            "pictures of {width}x{height} are too small to compare: at least {SSIM_WINDOW} pixels a side"
        )));
    }
    Ok(middle(&batch::ssim(&reference.image, &image.image)?))
}

fn middle(values: &[f64]) -> f64 {
    median(values).ok().flatten().unwrap_or(f64::NAN)
}

impl Entry {
    fn row(&self, uncached: f64) -> Row {
        let seconds = middle(&self.seconds);
        Row {
            policy: self.contender.spelling(),
            seconds_per_image: seconds,
            speedup: uncached / seconds,
            computed_share: middle(&self.computed_share),
            flops_share: middle(&self.flops_share),
            psnr: middle(&self.psnr),
            ssim: middle(&self.ssim),
            rel_l2: middle(&self.rel_l2),
            feature_bytes: self.feature_bytes as u64,
            seconds_min: self.seconds.iter().copied().fold(f64::INFINITY, f64::min),
            seconds_max: self.seconds.iter().copied().fold(0.0, f64::max),
            psnr_min: self.psnr.iter().copied().fold(f64::INFINITY, f64::min),
            psnr_p5: percentile(&self.psnr, 5.0).ok().flatten().unwrap_or(f64::NAN),
            margin: None,
            images: self.seconds.len(),
        }
    }
}
