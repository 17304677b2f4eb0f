//! Making the pictures of one call, one after the other: each is written as soon as it is done.

mod watcher;

use std::path::PathBuf;
use std::time::Instant;

use candle_core::Tensor;
use refrain_cache::RunHeader;
use refrain_media::{Format as PictureFormat, encode_picture};
use refrain_pipeline::{GeneratedImage, ImageRequest, Noise, Pipeline};

use super::initial::Initial;
use super::tensors;
use super::work::{NOTHING_TO_CHECK, Work};
use crate::cache::CacheChoice;
use crate::errors::{flatten, interrupted, of_request, usage};
use crate::events::{Console, Event};
use crate::interrupt;
use crate::machine;
use crate::metadata::{PLAN_KEY, Recipe};
use crate::output::{self, Format};
use crate::preview::picture_of;
use crate::progress::Progress;
use watcher::Watcher;

/// Activations of the decoder's widest layer that live at once.
const LIVE_IN_DECODER: usize = 4;
/// Outputs of the denoiser's widest site that live at once, the wider insides of a feed-forward layer counted in.
const LIVE_IN_DENOISER: usize = 12;

/// The state between the pictures of a call.
pub(crate) struct Session<'a> {
    work: &'a Work,
    pipeline: &'a Pipeline,
    console: Console,
    started: Instant,
    announcement: Option<String>,
    noise: Vec<Tensor>,
    initial: Option<Initial>,
    /// When to compute, `auto` settled.
    cache: CacheChoice,
    done: usize,
    kept_latents: Vec<Tensor>,
    kept_images: Vec<Tensor>,
    kept_recipes: Vec<serde_json::Value>,
}

impl<'a> Session<'a> {
    /// Checks what needs the model, and says what will be made.
    ///
    /// # Errors
    /// A size or sampler that the model cannot do, noise that does not fit (exit 2).
    pub(crate) fn begin(
        work: &'a Work,
        pipeline: &'a Pipeline,
        console: Console,
        started: Instant,
    ) -> anyhow::Result<Self> {
        let noise = match &work.latents {
            Some(path) => tensors::read_latents(path, work.count())?,
            None => Vec::new(),
        };
        let initial = match &work.init {
            Some(init) => Some(Initial::read(init, pipeline, (work.width, work.height))?),
            None => None,
        };
        let mut session = Self {
            work,
            pipeline,
            console,
            started,
            announcement: None,
            noise,
            initial,
            cache: work.cache.clone(),
            done: 0,
            kept_latents: Vec::new(),
            kept_images: Vec::new(),
            kept_recipes: Vec::new(),
        };
        session.announce()?;
        session.warn_of_texts()?;
        Ok(session)
    }

    /// A rough upper bound of what a picture of this size needs: the decoder's widest activations at full size, or the
    /// denoiser's at two rows, whichever is more.
    fn check_memory(&self, request: &ImageRequest) -> anyhow::Result<()> {
        let (height, width) = self.pipeline.default_size();
        let (height, width) = (request.height.unwrap_or(height), request.width.unwrap_or(width));
        let shape = self.pipeline.latent_shape(height, width, 0).map_err(of_request)?;
        let channels = self.pipeline.autoencoder().config().block_out_channels.iter().copied().enumerate();
        let channels = channels.map(|(level, channels)| (channels >> (2 * level)).max(1)).max().unwrap_or(1);
        let sites = self.pipeline.denoiser().sites(&shape);
        let widest = sites.iter().map(|info| info.output_values).max().unwrap_or(0);
        let decoding = height.saturating_mul(width).saturating_mul(channels);
        let values = decoding.saturating_mul(LIVE_IN_DECODER).max(widest.saturating_mul(2 * LIVE_IN_DENOISER));
        machine::require_memory(
            values.saturating_mul(size_of::<f32>()) as u64,
            &format!("a picture of {width}x{height}"),
        )
    }

    /// Says which texts the model reads only in part; the picture is made all the same.
    fn warn_of_texts(&self) -> anyhow::Result<()> {
        let Some(encoder) = self.pipeline.text_encoder() else { return Ok(()) };
        let mut texts: Vec<&str> = self.work.prompts.iter().map(String::as_str).collect();
        texts.dedup();
        texts.push(&self.work.negative_prompt);
        for text in texts {
            let coverage = encoder.coverage(text)?;
            let start: String = flatten(text).chars().take(40).collect();
            if coverage.cut > 0 {
                let limit = encoder.limit();
                self.console.warn(&format!("the model reads {limit} tokens; the end of {start:?}… is left out"))?;
            } else if coverage.unknown > 0 {
                self.console.warn(&format!("the model has no word for a part of {start:?}"))?;
            }
        }
        Ok(())
    }

    /// Finds all classes before the first picture is made.
    fn check_classes(&self) -> anyhow::Result<()> {
        match self.pipeline.classes() {
            Some(classes) => {
                self.work.prompts.iter().try_for_each(|name| classes.find(name).map(drop).map_err(of_request))
            }
            None if self.work.classes => Err(usage(format!(
                "--class: the model {} draws what a text says: give it with -p",
                self.work.model.name
            ))),
            None => Ok(()),
        }
    }

    fn announce(&mut self) -> anyhow::Result<()> {
        self.check_classes()?;
        let request = self.request(0);
        let header = self.pipeline.run_header(&request).map_err(of_request)?;
        self.check_memory(&request)?;
        self.cache = self.work.cache.clone().settled(self.pipeline, &request)?;
        if self.cache.is_off() && self.work.cache_check.is_some() && !self.work.cache_auto {
            return Err(usage(NOTHING_TO_CHECK));
        }
        // A policy that does not fit is found out before the first picture, not after it.
        self.cache.context(&header, self.work.seed, true)?;
        let recipe = self.recipe(0)?;
        if let Some(expected) = &self.work.expected_latents
            && recipe.latents_hash.as_ref() != Some(expected)
        {
            return Err(usage("--from: the picture was made from a file of noise: give the same one with --latents"));
        }
        if self.work.expected_init.is_some() && recipe.init_hash != self.work.expected_init {
            return Err(usage("--from: the picture was started from another one: give that one with --init-img"));
        }
        let seed = recipe.seed.map_or_else(|| "noise from a file".to_owned(), |seed| format!("seed {seed}"));
        let announcement = format!(
            "{}, {}x{}, {} {} steps, guidance {}, {}, cache {}, {seed}",
            self.work.model.name,
            recipe.width,
            recipe.height,
            recipe.sampler,
            recipe.steps,
            recipe.guidance_scale,
            recipe.dtype,
            recipe.cache
        );
        let announcement =
            [Some(announcement), self.router_note(&header)].into_iter().flatten().collect::<Vec<_>>().join("\n");
        // Where nobody waits for it, it comes with the first picture: a run that fails says one line, its error.
        if self.console.wants_progress() {
            self.console.note(&announcement);
        } else {
            self.announcement = Some(announcement);
        }
        let seconds = self.started.elapsed().as_secs_f64();
        self.console.detail(&format!("loaded in {seconds:.3} s; model {}", recipe.model_hash));
        self.console.event(&Event::Start {
            version: &recipe.version,
            model: &recipe.model,
            model_hash: &recipe.model_hash,
            pictures: self.work.count(),
            width: recipe.width,
            height: recipe.height,
            steps: recipe.steps,
            sampler: &recipe.sampler,
            guidance_scale: recipe.guidance_scale,
            dtype: &recipe.dtype,
            seed: recipe.seed,
            cache: &recipe.cache,
            load_seconds: seconds,
        })
    }

    /// Which router decides, or that none does where one was asked for.
    fn router_note(&self, header: &RunHeader) -> Option<String> {
        let none =
            "cache auto: no router was validated for this model, sampler, steps and guidance, so all is computed";
        match self.cache.router(header) {
            Some(router) => Some(format!("cache {}: {router}", self.cache.spelling())),
            None => (self.work.cache_auto && self.cache.is_off()).then(|| none.to_owned()),
        }
    }

    /// Makes and writes one picture.
    ///
    /// # Errors
    /// Whatever the model, the disk or the user does.
    pub(crate) fn picture(&mut self, index: usize) -> anyhow::Result<()> {
        if interrupt::requested() {
            return Err(self.stopped());
        }
        let request = self.request(index);
        let recipe = self.recipe(index)?;
        let header = self.pipeline.run_header(&request).map_err(of_request)?;
        let watched = self.work.emit_plan.is_some() || self.work.cache_report;
        let mut cache = self.cache.context(&header, recipe.seed.unwrap_or(0), watched)?;
        let label = match self.work.count() {
            1 => String::new(),
            count => format!("{}/{count}", index + 1),
        };
        let progress = Progress::new(&self.console, &label, header.steps);
        let mut watcher = Watcher::new(self, index, &progress);
        let generated = self.pipeline.generate(&request, &mut cache, &mut |step| watcher.step(step));
        watcher.failure.take().map_or(Ok(()), Err)?;
        let generated = match generated {
            Err(error) if error.is_stopped() => return Err(self.stopped()),
            other => other.map_err(of_request)?,
        };
        progress.finish();
        self.keep(index, recipe, &generated)
    }

    /// Writes what goes into one file, and says that all is done.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub(crate) fn finish(mut self) -> anyhow::Result<()> {
        self.write_kept()?;
        let seconds = self.started.elapsed().as_secs_f64();
        self.console.detail(&format!("{} in {seconds:.3} s", pictures(self.done)));
        self.console.event(&Event::Done { pictures: self.done, seconds })
    }

    fn stopped(&mut self) -> anyhow::Error {
        match self.write_kept() {
            Ok(()) => interrupted(format!("stopped with {} of {} done", self.done, pictures(self.work.count()))),
            Err(error) => error,
        }
    }

    /// The request for one picture.
    fn request(&self, index: usize) -> ImageRequest {
        let work = self.work;
        let (width, height) = self.size();
        let noise = match self.noise.get(index) {
            Some(latents) => Noise::Latents(latents.clone()),
            None => Noise::Seed { seed: work.seed + index as u64, kind: work.rng },
        };
        ImageRequest {
            prompt: work.prompts.get(index).cloned().unwrap_or_default(),
            negative_prompt: work.negative_prompt.clone(),
            noise,
            initial: self.initial.as_ref().map(|initial| initial.picture.clone()),
            width,
            height,
            steps: work.steps,
            guidance_scale: work.guidance_scale as f32,
            sampler: work.sampler,
            sigma_spacing: work.scheduler,
            eta: work.eta,
            ..ImageRequest::default()
        }
    }

    /// Width and height in pixels, where they are not the model's own.
    fn size(&self) -> (Option<usize>, Option<usize>) {
        match &self.initial {
            Some(Initial { size: (width, height), .. }) => (Some(*width), Some(*height)),
            None => (self.work.width, self.work.height),
        }
    }

    /// All that decides one picture.
    fn recipe(&self, index: usize) -> anyhow::Result<Recipe> {
        let work = self.work;
        let (default_height, default_width) = self.pipeline.default_size();
        let (width, height) = self.size();
        let sampler = match work.sampler {
            Some(sampler) => sampler,
            None => self.pipeline.default_sampler().map_err(of_request)?,
        };
        let noise = self.noise.get(index);
        Ok(Recipe {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            prompt: work.prompts.get(index).cloned().unwrap_or_default(),
            negative_prompt: work.negative_prompt.clone(),
            model: work.model.name.clone(),
            model_hash: self.pipeline.fingerprint()?.to_owned(),
            width: width.unwrap_or(default_width),
            height: height.unwrap_or(default_height),
            steps: work.steps,
            guidance_scale: work.guidance_scale,
            sampler: sampler.name().to_owned(),
            scheduler: work.scheduler.map(|spacing| spacing.name().to_owned()),
            eta: work.eta,
            seed: noise.is_none().then_some(work.seed + index as u64),
            rng: work.rng.name().to_owned(),
            latents_hash: noise.map(tensors::hash).transpose()?,
            init_hash: self.initial.as_ref().map(|initial| initial.hash.clone()),
            strength: self.initial.as_ref().map(|initial| initial.picture.strength),
            dtype: work.precision.to_string(),
            cache: self.cache.spelling(),
            cache_check: work.cache_check.map(|(checks, _)| checks),
            cache_budget: work.cache_check.map(|(_, budget)| budget),
            plan_hash: None,
        })
    }

    fn keep(&mut self, index: usize, mut recipe: Recipe, generated: &GeneratedImage) -> anyhow::Result<()> {
        if !self.cache.is_off() {
            recipe.plan_hash = Some(generated.plan.hash());
        }
        self.check_plan(&recipe)?;
        let path = self.write_picture(index, &recipe, generated)?;
        if let Some(announcement) = self.announcement.take() {
            self.console.note(&announcement);
        }
        if let Some(pattern) = &self.work.emit_plan {
            let path = pattern.path(index, self.work.count());
            output::write_file(&path, &generated.plan.to_bytes()?)?;
            let shown = path.display().to_string();
            self.console.note(&format!("plan: {shown}"));
            self.console.event(&Event::Wrote { what: "plan", path: &shown })?;
        }
        if self.work.cache_report || self.work.cache_check.is_some() {
            self.console.note(generated.report.to_string().trim_end());
            let report = serde_json::to_value(&generated.report)?;
            self.console.event(&Event::Report { picture: index, report })?;
        } else {
            for warning in &generated.report.warnings {
                self.console.warn(&format!("cache {}: {warning}", recipe.cache))?;
            }
        }
        self.done += 1;
        self.say_done(index, &recipe, generated, path)
    }

    /// A picture of `--from` that would come out different is not written.
    fn check_plan(&self, recipe: &Recipe) -> anyhow::Result<()> {
        let Some((path, expected)) = self.work.expected_plan.as_ref().filter(|_| self.cache.is_planned()) else {
            return Ok(());
        };
        let made = recipe.plan_hash.as_deref().unwrap_or("none");
        if made == expected {
            return Ok(());
        }
        let (path, short) = (path.display(), |hash: &str| hash.chars().take(10).collect::<String>());
        Err(usage(format!(
            "--from: {path} was made with another router than this program has (executed plan {} there, {} here): its pixels \
             would differ; --cache auto, or --cache off, makes a new picture of its settings",
            short(expected),
            short(made)
        )))
    }

    fn say_done(
        &self,
        index: usize,
        recipe: &Recipe,
        generated: &GeneratedImage,
        path: Option<PathBuf>,
    ) -> anyhow::Result<()> {
        let seconds = generated.seconds;
        let shown = path.map(|path| path.display().to_string()).unwrap_or_default();
        if !shown.is_empty() && shown != "-" {
            let seed = recipe.seed.map_or_else(String::new, |seed| format!("seed {seed}, "));
            self.console.result(&format!("{shown} ({seed}{:.2} s)", seconds.total()))?;
        }
        self.console.detail(&format!(
            "text {:.3} s, denoising {:.3} s, decoding {:.3} s",
            seconds.text, seconds.denoise, seconds.decode
        ));
        self.console.event(&Event::Image {
            picture: index,
            path: &shown,
            prompt: &recipe.prompt,
            seed: recipe.seed,
            seconds: seconds.total(),
            text_seconds: seconds.text,
            denoise_seconds: seconds.denoise,
            decode_seconds: seconds.decode,
        })
    }

    /// Writes a picture under its name, or keeps its tensors for the file that holds all. `None`: not written yet.
    fn write_picture(
        &mut self,
        index: usize,
        recipe: &Recipe,
        generated: &GeneratedImage,
    ) -> anyhow::Result<Option<PathBuf>> {
        let destination = &self.work.destination;
        let bytes = match destination.format() {
            Format::Picture(format) => self.encoded(format, recipe, generated)?,
            Format::Safetensors => {
                self.kept_latents.push(generated.latents.clone());
                self.kept_images.push(generated.image.clone());
                self.kept_recipes.push(serde_json::to_value(recipe)?);
                if destination.holds_all() {
                    return Ok(None);
                }
                let bytes = tensors::results(&self.kept_latents, &self.kept_images, &self.kept_recipes)?;
                self.forget_kept();
                bytes
            }
        };
        let prompt = &recipe.prompt;
        self.work.destination.write(index, self.work.count(), prompt, &bytes).map(Some)
    }

    fn encoded(&self, format: PictureFormat, recipe: &Recipe, generated: &GeneratedImage) -> anyhow::Result<Vec<u8>> {
        let mut metadata = recipe.to_metadata()?;
        if let Some(plan) = self.cache.embeddable_plan()? {
            metadata = metadata.with(PLAN_KEY, plan);
        }
        Ok(encode_picture(&picture_of(&generated.image)?, format, &metadata)?)
    }

    fn write_kept(&mut self) -> anyhow::Result<()> {
        if self.kept_latents.is_empty() {
            return Ok(());
        }
        let bytes = tensors::results(&self.kept_latents, &self.kept_images, &self.kept_recipes)?;
        let held = self.kept_latents.len();
        self.forget_kept();
        let path = self.work.destination.write(0, self.work.count(), "", &bytes)?.display().to_string();
        self.console.result(&format!("{path} ({})", pictures(held)))?;
        self.console.event(&Event::Wrote { what: "tensors", path: &path })
    }

    fn forget_kept(&mut self) {
        self.kept_latents.clear();
        self.kept_images.clear();
        self.kept_recipes.clear();
    }
}

fn pictures(count: usize) -> String {
    if count == 1 { "1 picture".to_owned() } else { format!("{count} pictures") }
}
