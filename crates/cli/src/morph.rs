//! `refrain morph`: the frames between pictures.

mod calibrate;
mod folder;
mod options;
mod pictures;
mod session;
mod texts;
mod weight;
mod work;

use refrain_pipeline::{LoadOptions, Pipeline};

use crate::errors::usage;
use crate::events::{Console, Event, Verbosity};
use crate::{interrupt, machine};

use options::MorphVerb;

pub(crate) use options::{DEFAULT_PARTS, DEFAULT_SCHEDULE, MorphCall, Pacing};
pub(crate) use pictures::{of_picture, tensor};
use session::Session;
pub(crate) use session::of_morph;
pub(crate) use weight::InjectionWeight;
use work::Work;
pub(crate) use work::{anchor_gate, turns};

/// Makes a morph.
///
/// # Errors
/// Everything that a call, a picture, a model, the disk or the user may do; `errors` turns it into an exit code.
pub(crate) fn run(call: MorphCall, verbosity: Verbosity) -> anyhow::Result<()> {
    if let Some(MorphVerb::Calibrate(options)) = &call.verb {
        return calibrate::run(options, verbosity);
    }
    let options = call.options;
    let console = Console::new(verbosity, options.json, options.output.as_os_str() == "-");
    if options.json && options.output.as_os_str() == "-" {
        return Err(usage("--json and -o - both want standard output: name a file with -o"));
    }
    let work = Work::plan(options)?;
    machine::set_threads(work.options.threads)?;
    interrupt::listen();
    machine::in_pool(|| make(&work, console)).inspect_err(|error| {
        let message = crate::errors::one_line(error);
        // Standard output may be what failed.
        let _ = console.event(&Event::Error { message: &message, exit_code: crate::errors::exit_of(error).code() });
    })
}

fn make(work: &Work, console: Console) -> anyhow::Result<()> {
    let loaded = work.load_pictures(&console)?;
    let pipeline = Pipeline::load(&work.model.source, LoadOptions { precision: work.precision })?;
    Session::begin(work, &pipeline, console)?.run(&loaded)
}
