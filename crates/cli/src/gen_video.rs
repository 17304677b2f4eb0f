//! `refrain gen video`: clips from text, by a Wan pipeline.

mod causal;
pub(crate) mod options;
mod session;
mod work;

use std::time::Instant;

use anyhow::Context as _;
use refrain_pipeline::{LoadOptions, VideoPipeline};

use crate::errors::{exit_of, of_request, one_line, usage};
use crate::events::{Console, Event, Verbosity};
use crate::{interrupt, machine};
use options::GenVideoOptions;
use session::Session;
use work::Work;

/// Makes the clip of a call.
///
/// # Errors
/// Everything that a call, a model, the disk or the user may do.
pub(crate) fn run(options: GenVideoOptions, verbosity: Verbosity) -> anyhow::Result<()> {
    let (threads, json) = (options.threads, options.json);
    let to_stdout = options.output.as_os_str() == "-";
    if json && to_stdout {
        return Err(usage("--json and -o - both want standard output: name a file with -o"));
    }
    let work = Work::plan(options)?;
    let console = Console::new(verbosity, json, to_stdout);
    machine::set_threads(threads)?;
    interrupt::listen();
    machine::in_pool(|| make(&work, console)).inspect_err(|error| {
        // Standard output may be what failed.
        let _ = console.event(&Event::Error { message: &one_line(error), exit_code: exit_of(error).code() });
    })
}

fn make(work: &Work, console: Console) -> anyhow::Result<()> {
    let started = Instant::now();
    let pipeline = load(work)?;
    let session = Session::begin(work, &pipeline, console, started)?;
    match &work.causal {
        Some(causal) => causal::run(session, causal),
        None => session.run(),
    }
}

fn load(work: &Work) -> anyhow::Result<VideoPipeline> {
    let options = LoadOptions { precision: work.precision };
    let load = || -> refrain_pipeline::Result<VideoPipeline> {
        let mut pipeline = VideoPipeline::load(&work.model.source, options)?;
        if let Some(path) = &work.transformer {
            pipeline = pipeline.with_transformer_file(path)?;
        }
        match &work.fast_decoder {
            Some(path) => pipeline.with_fast_decoder(path),
            None => Ok(pipeline),
        }
    };
    load().map_err(of_request).with_context(|| format!("model {}", work.model.name))
}
