//! `refrain gen image`: pictures from text.

mod initial;
pub(crate) mod names;
pub(crate) mod options;
mod prompts;
mod session;
pub(crate) mod tensors;
pub(crate) mod work;

use std::io::Write as _;
use std::time::Instant;

use anyhow::Context as _;
use refrain_pipeline::{LoadOptions, Pipeline};

use crate::errors::usage;
use crate::events::{Console, Event, Verbosity};
use crate::output::Destination;
use crate::{config, interrupt, machine};
use options::{GenImageCall, GenImageOptions};
use session::Session;
use work::Work;

pub(crate) use prompts::{
    check as check_prompt, check_characters as check_prompt_characters, collect as collect_prompts,
};

/// Makes the pictures of a call.
///
/// # Errors
/// Everything that a call, a model, the disk or the user may do; `errors` turns it into an exit code.
pub(crate) fn run(call: GenImageCall, verbosity: Verbosity) -> anyhow::Result<()> {
    let (settings, from) = work::settle(call.options, call.config.as_deref())?;
    let work = Work::plan(&settings, from.as_ref())?;
    if call.dump_config {
        let heading = "refrain gen image --config THIS_FILE";
        let text = config::dump(&resolved(settings, &work), heading)?;
        std::io::stdout().lock().write_all(text.as_bytes())?;
        return Ok(());
    }
    let to_stdout = work.destination == Destination::Stdout;
    if call.json && to_stdout {
        return Err(usage("--json and -o - both want standard output: name a file with -o"));
    }
    let console = Console::new(verbosity, call.json, to_stdout);
    work.prepare_outputs()?;
    machine::set_threads(settings.threads)?;
    interrupt::listen();
    machine::in_pool(|| make(&work, console)).inspect_err(|error| {
        let message = crate::errors::one_line(error);
        // Standard output may be what failed.
        let _ = console.event(&Event::Error { message: &message, exit_code: crate::errors::exit_of(error).code() });
    })
}

fn make(work: &Work, console: Console) -> anyhow::Result<()> {
    let started = Instant::now();
    let pipeline = load(work)?;
    let mut session = Session::begin(work, &pipeline, console, started)?;
    for index in 0..work.count() {
        session.picture(index)?;
    }
    session.finish()
}

/// Loads the model, and checks that it is the one that `--from` was made with.
fn load(work: &Work) -> anyhow::Result<Pipeline> {
    if let Some((path, _)) = work.expected_model.as_ref().filter(|_| !work.model_given) {
        let path = path.display();
        return Err(usage(format!(
            "{path} was made with a model folder, not the built-in model: give it with -m FOLDER (refrain info {path})"
        )));
    }
    let pipeline = Pipeline::load(&work.model.source, LoadOptions { precision: work.precision })
        .with_context(|| format!("model {}", work.model.name))?;
    if let Some((path, hash)) = &work.expected_model
        && pipeline.fingerprint()? != hash
    {
        let (path, name) = (path.display(), &work.model.name);
        return Err(usage(format!(
            "{path} was made with another model than {name}: give the one it names with -m (refrain info {path})"
        )));
    }
    Ok(pipeline)
}

/// The settings with everything settled that would differ in another call: prompts read, the seed drawn.
fn resolved(mut settings: GenImageOptions, work: &Work) -> GenImageOptions {
    if !work.classes {
        settings.prompt = work.prompts.iter().step_by(settings.batch_count.unwrap_or(1).max(1)).cloned().collect();
        settings.prompt_file = None;
    }
    settings.seed = i64::try_from(work.seed).ok();
    settings.steps = Some(work.steps);
    settings.cfg_scale = Some(work.guidance_scale);
    settings.rng = Some(work.rng.name().to_owned());
    settings.dtype = Some(work.precision.to_string());
    settings.cache.get_or_insert_with(|| work::DEFAULT_CACHE.to_owned());
    if settings.cache.as_deref() != Some("plan") {
        settings.from = None;
    }
    settings
}
