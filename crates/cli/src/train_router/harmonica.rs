//! Scores for each step and part of a block: training with checkpoints, curves and a way to stop.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use refrain_train::TrainError;
use refrain_train::router::{Router, THRESHOLD};
use refrain_train::sdt::{self, Settings, Training, Watch};
use refrain_train::subject::Subject;

use super::curves::Named;
use super::options::CostUnit;
use super::{TrainRouterOptions, write};
use crate::errors::{interrupted, usage};
use crate::events::Console;
use crate::progress::Progress;
use crate::{interrupt, output};

/// Order of the forecast when none is asked for.
const DEFAULT_ORDER: u8 = 1;
/// How often a checkpoint is written.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(20);
/// Where nobody watches a bar, so many lines tell of a stage.
const NOTES: usize = 20;

/// Trains one router for each budget.
///
/// # Errors
/// A checkpoint that continues another training, a budget out of reach, a loss that is not finite, Ctrl-C.
pub(super) fn train(
    options: &TrainRouterOptions,
    mut subject: Subject<'_>,
    outputs: &[PathBuf],
    console: &Console,
) -> anyhow::Result<()> {
    let settings = settings(options)?;
    let files = Files::beside(&options.output, &options.budget);
    let mut training = if options.resume {
        files.resume(&subject, &settings, console)?
    } else {
        if files.checkpoint.exists() {
            let name = files.checkpoint.display();
            console.warn(&format!("{name} is of an earlier training and gives way to this one (--resume goes on)"))?;
        }
        Training::new(&subject, &settings)?
    };
    // The costs that it began with: measured anew they would differ in the last digits, and so would the router.
    subject.sites.clone_from(&training.costs);
    check_budgets(&subject, &settings)?;
    for path in [&files.checkpoint, &files.csv, &files.drawing] {
        output::prepare_file(path)?;
    }
    let mut observer = Observer::new(&settings, &files, console);
    let result = sdt::train(&subject, &settings, &mut training, &mut observer);
    observer.progress.finish();
    let routers = match result {
        Ok(routers) => routers,
        Err(TrainError::Stopped) => {
            files.save(&training, &settings)?;
            files.curves(&training, options)?;
            let name = files.checkpoint.display();
            return Err(interrupted(format!("stopped: {name} is kept, --resume goes on from it")));
        }
        Err(error) => return Err(error.into()),
    };
    files.save(&training, &settings)?;
    files.curves(&training, options)?;
    for (index, (router, path)) in routers.iter().zip(outputs).enumerate() {
        if let Some(state) = training.branches.get(index) {
            Named { title: "", points: &state.curve }.lines().iter().for_each(|line| console.note(line));
        }
        finish(options, (&settings, index), (router, &subject), path, console)?;
    }
    Ok(())
}

fn settings(options: &TrainRouterOptions) -> anyhow::Result<Settings> {
    Ok(Settings {
        budgets: options.budget.clone(),
        iterations: options.iterations,
        seed: options.seed,
        batch: options.batch,
        proxy: options.proxy()?,
        follow: options.trajectory.into(),
        hardening: options.hardening.into(),
        order: usize::from(options.forecast.unwrap_or(DEFAULT_ORDER)),
        refresh: options.refresh,
        learning_rate: options.learning_rate,
        recompute: options.recompute,
    })
}

/// What reuses everywhere still computes the first step and what is in no site.
fn check_budgets(subject: &Subject<'_>, settings: &Settings) -> anyhow::Result<()> {
    let skippable: f64 = subject.sites.iter().map(|cost| cost.share).sum();
    let steps = subject.steps().max(1) as f64;
    let least = 1.0 - skippable * (steps - 1.0) / steps;
    match settings.budgets.iter().find(|&&budget| budget < least) {
        Some(budget) => Err(usage(format!(
            "--budget {budget} is out of reach: the first step and what no cache can spare take {least:.3}"
        ))),
        None => Ok(()),
    }
}

/// Writes a router as the plan of its budget.
fn finish(
    options: &TrainRouterOptions,
    (settings, index): (&Settings, usize),
    (router, subject): (&Router, &Subject<'_>),
    path: &Path,
    console: &Console,
) -> anyhow::Result<()> {
    let budget = settings.budgets.get(index).copied().unwrap_or(1.0);
    let shares: Vec<f64> = subject.sites.iter().map(|cost| cost.share).collect();
    let threshold = router.threshold_for(budget, &shares).unwrap_or(THRESHOLD);
    let unit = if options.cost == CostUnit::Time { "time" } else { "flops" };
    let (learned, cut) = (router.computed_share(THRESHOLD, &shares), router.computed_share(threshold, &shares));
    console.note(&format!(
        "budget {budget} of {unit}: training reached {learned:.3} at the score {THRESHOLD}, cut at {threshold:.3} it is {cut:.3}"
    ));
    let kebab = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let provenance = format!(
        "router harmonica, lambda {}, trajectory {}, hardening {}, forecast {}, budget {budget} of {unit}, {} iterations, seed {}",
        kebab(serde_json::to_value(settings.proxy)?),
        kebab(serde_json::to_value(settings.follow)?),
        kebab(serde_json::to_value(settings.hardening)?),
        settings.order,
        settings.iterations,
        settings.seed,
    );
    write(&router.plan(threshold, &provenance)?, path, console)
}

/// The files beside `-o`.
struct Files {
    checkpoint: PathBuf,
    csv: PathBuf,
    drawing: PathBuf,
    budgets: Vec<f64>,
}

impl Files {
    fn beside(pattern: &str, budgets: &[f64]) -> Self {
        let path = Path::new(pattern);
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let name = name.trim_end_matches(".safetensors").trim_end_matches(".plan").replace("{budget}", "");
        let stem = name.trim_matches(['-', '_', '.']);
        let stem = if stem.is_empty() { "router" } else { stem };
        let beside = |ending: &str| path.with_file_name(format!("{stem}.{ending}"));
        Self {
            checkpoint: beside("checkpoint.safetensors"),
            csv: beside("curves.csv"),
            drawing: beside("curves.png"),
            budgets: budgets.to_vec(),
        }
    }

    fn resume(&self, subject: &Subject<'_>, settings: &Settings, console: &Console) -> anyhow::Result<Training> {
        let name = self.checkpoint.display();
        let bytes = std::fs::read(&self.checkpoint)
            .map_err(|error| usage(format!("--resume: cannot read the checkpoint {name}: {error}")))?;
        let training = Training::from_bytes(&bytes, subject, settings)
            .map_err(|reason| usage(format!("--resume: {name}: {reason}")))?;
        console.note(&format!("{name}: going on after {} optimiser steps", training.current().iteration));
        Ok(training)
    }

    fn save(&self, training: &Training, settings: &Settings) -> anyhow::Result<()> {
        let bytes = training.to_bytes(settings).map_err(anyhow::Error::msg)?;
        output::write_file(&self.checkpoint, &bytes)
    }

    /// Curves of each budget so far; with several the file names carry the budget.
    fn curves(&self, training: &Training, options: &TrainRouterOptions) -> anyhow::Result<()> {
        let named = |path: &Path, budget: f64| match self.budgets.len() {
            1 => path.to_path_buf(),
            _ => path.with_file_name(
                path.file_name()
                    .map(|name| name.to_string_lossy().replacen(".curves", &format!("-{budget}.curves"), 1))
                    .unwrap_or_default(),
            ),
        };
        for (index, &budget) in self.budgets.iter().enumerate() {
            let state = training.branches.get(index).unwrap_or(&training.trunk);
            let title =
                format!("HarmoniCa router, budget {budget}, forecast {}", options.forecast.unwrap_or(DEFAULT_ORDER));
            let curves = Named { title: &title, points: &state.curve };
            curves.save(&named(&self.csv, budget), &named(&self.drawing, budget))?;
        }
        Ok(())
    }
}

/// Shows how it goes, and saves it.
struct Observer<'a> {
    settings: &'a Settings,
    files: &'a Files,
    console: &'a Console,
    progress: Progress,
    saved: Instant,
    /// The last part of the work that a line told of.
    told: Option<usize>,
}

impl<'a> Observer<'a> {
    fn new(settings: &'a Settings, files: &'a Files, console: &'a Console) -> Self {
        let progress = Progress::counting(console, "router", settings.iterations, "iteration");
        Self { settings, files, console, progress, saved: Instant::now(), told: None }
    }
}

impl Watch for Observer<'_> {
    fn stop(&self) -> bool {
        interrupt::requested()
    }

    fn trajectory(&mut self, training: &Training, budget: Option<usize>) -> Result<(), TrainError> {
        let state = training.current();
        if let Some(point) = state.curve.last() {
            let of = budget.and_then(|index| self.settings.budgets.get(index));
            let stage = of.filter(|_| self.settings.budgets.len() > 1).map(|budget| format!("budget {budget}: "));
            let standing = format!(
                "{}loss {:.2e}, λ {:.2e}, β {:.2e}, CUR {:.0} %, computed {:.0} %",
                stage.unwrap_or_default(),
                point.loss,
                point.lambda,
                point.beta,
                100.0 * point.reused_entries,
                100.0 * point.computed_share
            );
            let part = point.iteration * NOTES / self.settings.iterations.max(1);
            if !self.console.wants_progress() && self.told != Some(part) {
                self.told = Some(part);
                self.console.note(&format!("{} of {}: {standing}", point.iteration, self.settings.iterations));
            }
            self.progress.say(point.iteration, standing);
        }
        if self.saved.elapsed() >= CHECKPOINT_EVERY {
            self.saved = Instant::now();
            let saved = self.files.save(training, self.settings);
            saved.map_err(|error| TrainError::BadFile {
                path: self.files.checkpoint.clone(),
                reason: error.to_string(),
            })?;
        }
        Ok(())
    }
}
