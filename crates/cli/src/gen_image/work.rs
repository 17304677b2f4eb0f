//! The plan of work of `gen image`: the flags, checked against each other and against the disk, before a model is
//! loaded.

use std::path::{Path, PathBuf};

use refrain_media::{Metadata, OutputPattern};
use refrain_ops::Precision;
use refrain_samplers::{NoiseKind, Sampler, SigmaSpacing};

use super::options::GenImageOptions;
use super::prompts;
use crate::builtin::{self, NamedModel};
use crate::cache::CacheChoice;
use crate::config;
use crate::errors::{usage, usage_because};
use crate::machine;
use crate::metadata::{PLAN_KEY, Recipe};
use crate::output::{self, Destination};
use crate::preview::PreviewRequest;

/// Steps when nothing is said.
pub(crate) const DEFAULT_STEPS: usize = 20;
/// Guidance when nothing is said.
pub(crate) const DEFAULT_GUIDANCE: f64 = 4.0;
/// Strength of `--init-img` when nothing is said, as in stable-diffusion.cpp.
pub(crate) const DEFAULT_STRENGTH: f64 = 0.75;
/// Cache when nothing is said: a router whose harm is proven invisible, where there is one.
pub(crate) const DEFAULT_CACHE: &str = "auto";
/// What `--cache-check` says without a cache.
pub(crate) const NOTHING_TO_CHECK: &str = "--cache-check needs a cache to check: add --cache taylor or another policy";
/// Pictures of one call; more is a typing error.
const MOST_PICTURES: usize = 1_000_000;

/// Everything that `gen image` will do.
#[derive(Debug)]
pub(crate) struct Work {
    /// The model.
    pub(crate) model: NamedModel,
    /// Whether the call says which model; a picture of `--from` cannot say where its folder is.
    pub(crate) model_given: bool,
    /// Hash that the model must have, with the picture that says so (`--from`).
    pub(crate) expected_model: Option<(PathBuf, String)>,
    /// Hash that the executed plan must have, with the picture that says so (`--from` one that a plan decided, with nothing
    /// changed that plans depend on).
    pub(crate) expected_plan: Option<(PathBuf, String)>,
    /// Hash that the starting noise must have (`--from` a picture made with `--latents`).
    pub(crate) expected_latents: Option<String>,
    /// Hash that the picture of `--init-img` must have (`--from` a picture made with one).
    pub(crate) expected_init: Option<String>,
    /// Arithmetic of the weights.
    pub(crate) precision: Precision,
    /// One entry per picture; of class-conditional models the class.
    pub(crate) prompts: Vec<String>,
    /// Whether they were given as classes.
    pub(crate) classes: bool,
    /// Empty without one.
    pub(crate) negative_prompt: String,
    /// Seed of the first picture.
    pub(crate) seed: u64,
    /// Noise generator.
    pub(crate) rng: NoiseKind,
    /// Starting noise from a file instead.
    pub(crate) latents: Option<PathBuf>,
    /// The picture to start from, and how much of it is drawn anew.
    pub(crate) init: Option<(PathBuf, f64)>,
    /// Picture width, if not the model's own.
    pub(crate) width: Option<usize>,
    /// Picture height, if not the model's own.
    pub(crate) height: Option<usize>,
    /// Denoising steps.
    pub(crate) steps: usize,
    /// Classifier-free guidance.
    pub(crate) guidance_scale: f64,
    /// Sampler, if not the model's own.
    pub(crate) sampler: Option<Sampler>,
    /// Noise spacing, if not the model's own.
    pub(crate) scheduler: Option<SigmaSpacing>,
    /// DDIM's η.
    pub(crate) eta: f64,
    /// When to compute.
    pub(crate) cache: CacheChoice,
    /// Whether `auto` was asked for by name.
    pub(crate) cache_auto: bool,
    /// Sites that `--cache-check` recomputes, and its error budget.
    pub(crate) cache_check: Option<(usize, f64)>,
    /// Whether the report is printed.
    pub(crate) cache_report: bool,
    /// Where executed plans go.
    pub(crate) emit_plan: Option<OutputPattern>,
    /// Previews.
    pub(crate) preview: Option<PreviewRequest>,
    /// Where pictures go.
    pub(crate) destination: Destination,
}

/// Lays flags over the settings file and both over the picture of `--from`.
///
/// # Errors
/// A file or picture that cannot be read (exit 2).
pub(crate) fn settle(
    flags: GenImageOptions,
    file: Option<&Path>,
) -> anyhow::Result<(GenImageOptions, Option<(Recipe, Metadata)>)> {
    let mut settings = match file {
        Some(path) => overlay(config::read(path)?, &flags)?,
        None => flags,
    };
    let Some(path) = settings.from.clone() else { return Ok((settings, None)) };
    let (recipe, metadata) = Recipe::read(&path)?;
    settings = overlay(recipe.options(), &settings)?;
    Ok((settings, Some((recipe, metadata))))
}

/// Flags over other settings; what replaces a setting also replaces the settings that belong to it.
fn overlay(mut below: GenImageOptions, above: &GenImageOptions) -> anyhow::Result<GenImageOptions> {
    if !above.prompt.is_empty() || above.prompt_file.is_some() || !above.class.is_empty() {
        below.prompt.clear();
        below.prompt_file = None;
        below.class.clear();
    }
    if above.cache.is_some() {
        below.cache_option.clear();
    }
    config::overlay(&below, above)
}

impl Work {
    /// Checks the settings.
    ///
    /// # Errors
    /// Whatever in them makes no sense (exit 2), or a place that cannot be written (exit 3).
    pub(crate) fn plan(settings: &GenImageOptions, from: Option<&(Recipe, Metadata)>) -> anyhow::Result<Self> {
        machine::check_device(settings.device.as_deref())?;
        let prompts = batch(settings)?;
        let negative_prompt = settings.negative_prompt.clone().unwrap_or_default();
        prompts::check_characters("the negative prompt", &negative_prompt)?;
        let checks = settings.cache_check.unwrap_or(0);
        let cache_report = settings.cache_report.unwrap_or(false);
        let cache = choose_cache(settings, from)?.with_checks(checks, settings.cache_budget)?.with_drift(cache_report);
        if cache.is_off() && checks > 0 {
            return Err(usage(NOTHING_TO_CHECK));
        }
        let work = Self {
            model: NamedModel::find(settings.model.as_deref())?,
            model_given: settings.model.is_some(),
            expected_model: from.and_then(|(recipe, _)| Some((settings.from.clone()?, recipe.model_hash.clone()))),
            expected_plan: from.and_then(|(recipe, _)| expected_plan(settings, recipe)),
            expected_init: from.and_then(|(recipe, _)| recipe.init_hash.clone()),
            expected_latents: from.and_then(|(recipe, _)| recipe.latents_hash.clone()),
            precision: settings
                .dtype
                .as_deref()
                .unwrap_or("f32")
                .parse()
                .map_err(|error: refrain_ops::OpsError| usage_because(error))?,
            seed: seed(settings.seed.unwrap_or(-1))?,
            rng: word(settings.rng.as_deref())?.unwrap_or_default(),
            latents: settings.latents.clone(),
            init: init(settings, from.map(|(recipe, _)| recipe))?,
            width: settings.width,
            height: settings.height,
            steps: settings.steps.unwrap_or(DEFAULT_STEPS),
            guidance_scale: guidance(settings.cfg_scale.unwrap_or(DEFAULT_GUIDANCE))?,
            sampler: word(settings.sampling_method.as_deref())?,
            scheduler: word(settings.scheduler.as_deref())?,
            eta: eta(settings.eta.unwrap_or(0.0))?,
            cache,
            cache_auto: settings.cache.as_deref().is_some_and(|mode| mode.starts_with("auto")),
            cache_check: (checks > 0)
                .then_some((checks, settings.cache_budget.unwrap_or(crate::cache::DEFAULT_BUDGET))),
            cache_report,
            emit_plan: settings.emit_plan.as_deref().map(OutputPattern::parse).transpose().map_err(usage_because)?,
            preview: PreviewRequest::parse(
                settings.preview.as_deref(),
                settings.preview_interval,
                settings.preview_path.clone(),
            )?,
            destination: Destination::parse(settings.output.as_deref())?,
            prompts,
            classes: !settings.class.is_empty(),
            negative_prompt,
        };
        work.check_numbers()?;
        Ok(work)
    }

    /// Number of pictures.
    pub(crate) fn count(&self) -> usize {
        self.prompts.len()
    }

    /// Finds out early what could not be written.
    ///
    /// # Errors
    /// A place that cannot be written (exit 3).
    pub(crate) fn prepare_outputs(&self) -> anyhow::Result<()> {
        self.destination.prepare(self.count())?;
        if let Some(pattern) = &self.emit_plan {
            output::prepare_file(&pattern.path(0, self.count()))?;
        }
        match self.preview.as_ref().and_then(|preview| preview.path.as_deref()) {
            Some(path) => output::prepare_file(path),
            None => Ok(()),
        }
    }

    fn check_numbers(&self) -> anyhow::Result<()> {
        let last = i64::try_from(self.seed).ok().and_then(|seed| seed.checked_add_unsigned(self.count() as u64));
        if last.is_none() {
            return Err(usage("--seed plus the number of pictures is beyond the largest seed"));
        }
        if self.steps == 0 {
            return Err(usage("--steps must be at least 1"));
        }
        for (flag, value) in [("--width", self.width), ("--height", self.height)] {
            if value == Some(0) {
                return Err(usage(format!("{flag} must be at least 1")));
            }
        }
        Ok(())
    }
}

impl Recipe {
    /// The settings that make the picture again.
    pub(crate) fn options(&self) -> GenImageOptions {
        GenImageOptions {
            prompt: vec![self.prompt.clone()],
            negative_prompt: Some(self.negative_prompt.clone()),
            model: (self.model == builtin::NAME).then(|| PathBuf::from(builtin::NAME)),
            dtype: Some(self.dtype.clone()),
            batch_count: Some(1),
            width: Some(self.width),
            height: Some(self.height),
            seed: self.seed.map(|seed| i64::try_from(seed).unwrap_or(-1)),
            rng: Some(self.rng.clone()),
            steps: Some(self.steps),
            cfg_scale: Some(self.guidance_scale),
            sampling_method: Some(self.sampler.clone()),
            scheduler: self.scheduler.clone(),
            eta: Some(self.eta),
            strength: self.strength,
            cache: Some(self.cache.clone()),
            cache_check: self.cache_check,
            cache_budget: self.cache_budget,
            ..GenImageOptions::default()
        }
    }
}

fn choose_cache(settings: &GenImageOptions, from: Option<&(Recipe, Metadata)>) -> anyhow::Result<CacheChoice> {
    if settings.cache.as_deref() == Some("plan") {
        let text = from.and_then(|(_, metadata)| metadata.get(PLAN_KEY));
        return CacheChoice::embedded(
            text.ok_or_else(|| usage("--cache plan: name the plan file itself, --cache FILE"))?,
        );
    }
    CacheChoice::parse(Some(settings.cache.as_deref().unwrap_or(DEFAULT_CACHE)), &settings.cache_option)
}

/// The executed plan's hash of the picture of `--from`, if every setting that a plan depends on is still the picture's.
fn expected_plan(settings: &GenImageOptions, recipe: &Recipe) -> Option<(PathBuf, String)> {
    let recorded = recipe.options();
    let decisive = |options: &GenImageOptions| GenImageOptions {
        dtype: options.dtype.clone(),
        steps: options.steps,
        cfg_scale: options.cfg_scale,
        sampling_method: options.sampling_method.clone(),
        scheduler: options.scheduler.clone(),
        eta: options.eta,
        strength: options.strength,
        cache: options.cache.clone(),
        cache_option: options.cache_option.clone(),
        cache_check: options.cache_check,
        ..GenImageOptions::default()
    };
    // A check that finds too large an error ends the plan, and what it finds depends on the picture.
    let same = decisive(settings) == decisive(&recorded) && recipe.cache_check.is_none();
    same.then(|| Some((settings.from.clone()?, recipe.plan_hash.clone()?))).flatten()
}

/// Every prompt as often as the batch says, in order: picture i of the whole call uses seed + i.
fn batch(settings: &GenImageOptions) -> anyhow::Result<Vec<String>> {
    let repeats = settings.batch_count.unwrap_or(1);
    if repeats == 0 {
        return Err(usage("--batch-count must be at least 1"));
    }
    let prompts = if settings.class.is_empty() {
        prompts::collect(&settings.prompt, settings.prompt_file.as_deref())?
    } else {
        let classes: Vec<String> = settings.class.iter().map(|class| class.trim().to_owned()).collect();
        classes.iter().try_for_each(|class| prompts::check("--class", class))?;
        classes
    };
    if prompts.len().saturating_mul(repeats) > MOST_PICTURES {
        return Err(usage(format!(
            "{} prompts times --batch-count {repeats} is more than {MOST_PICTURES} pictures",
            prompts.len()
        )));
    }
    Ok(prompts.into_iter().flat_map(|prompt| std::iter::repeat_n(prompt, repeats)).collect())
}

/// The seed itself, or a random one of 32 bits (short enough to type again) for a negative number.
pub(crate) fn seed(asked: i64) -> anyhow::Result<u64> {
    match u64::try_from(asked) {
        Ok(seed) => Ok(seed),
        Err(_) => {
            let mut bytes = [0; 4];
            getrandom::fill(&mut bytes)
                .map_err(|error| anyhow::anyhow!("the system gives no random seed: {error}; use --seed"))?;
            Ok(u64::from(u32::from_le_bytes(bytes)))
        }
    }
}

pub(crate) fn guidance(scale: f64) -> anyhow::Result<f64> {
    let sensible = scale.is_finite() && (0.0..=1000.0).contains(&scale);
    if sensible { Ok(scale) } else { Err(usage(format!("--cfg-scale must be between 0 and 1000, got {scale}"))) }
}

/// The picture to start from. A strength without one is a mistake, unless the recipe of `--from` brought it along: then
/// the picture is asked for where its hash is compared.
fn init(settings: &GenImageOptions, from: Option<&Recipe>) -> anyhow::Result<Option<(PathBuf, f64)>> {
    let strength = settings.strength.unwrap_or(DEFAULT_STRENGTH);
    if !(0.0..=1.0).contains(&strength) {
        return Err(usage(format!("--strength must be between 0 and 1, got {strength}")));
    }
    match &settings.init_img {
        Some(path) => Ok(Some((path.clone(), strength))),
        None if settings.strength.is_some() && from.is_none_or(|recipe| recipe.init_hash.is_none()) => {
            Err(usage("--strength is about a picture to start from: name it with --init-img"))
        }
        None => Ok(None),
    }
}

fn eta(share: f64) -> anyhow::Result<f64> {
    if (0.0..=1.0).contains(&share) {
        Ok(share)
    } else {
        Err(usage(format!("--eta must be between 0 and 1, got {share}")))
    }
}

/// A word that a sampler type knows.
pub(crate) fn word<T: std::str::FromStr<Err = refrain_samplers::Error>>(
    text: Option<&str>,
) -> anyhow::Result<Option<T>> {
    text.map(str::parse).transpose().map_err(usage_because)
}
