//! The `refrain` program: one file per verb, and around them what every verb shares.
//!
//! `arguments` holds what was typed; each verb turns it into a validated plan of work and then does it. `errors` decides
//! the exit code and the one line on stderr.

mod arguments;
mod bench_cache;
mod bench_morph;
mod bench_stream;
mod builtin;
mod cache;
mod completions;
mod config;
mod errors;
mod eval_morph;
mod events;
mod gen_image;
mod gen_video;
mod info;
mod inspect;
mod interrupt;
mod machine;
mod man;
mod metadata;
mod morph;
mod output;
mod plan;
mod preview;
mod progress;
mod projection;
mod routers;
mod stream;
mod train_router;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

use crate::arguments::{BenchVerb, CommandLine, EvalVerb, GenVerb, TrainVerb, Verb};
use crate::errors::Exit;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let line = match CommandLine::try_parse() {
        Ok(line) => line,
        Err(error) => return refuse(&error),
    };
    refrain_ops::memory::keep_pages();
    machine::log(line.voice);
    match dispatch(line) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of our output has seen enough (`refrain … | head`).
        Err(error) if errors::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "refrain: {}", errors::one_line(&error));
            errors::exit_of(&error).into()
        }
    }
}

fn dispatch(line: CommandLine) -> anyhow::Result<()> {
    let verbosity = line.voice.verbosity();
    match line.verb {
        Verb::Gen(GenVerb::Image(call)) => gen_image::run(*call, verbosity),
        Verb::Gen(GenVerb::Video(options)) => gen_video::run(*options, verbosity),
        Verb::Morph(call) => morph::run(*call, verbosity),
        Verb::Stream(options) => stream::run(*options, verbosity),
        Verb::Info(options) => info::run(&options),
        Verb::Inspect(options) => inspect::run(&options),
        Verb::Bench(BenchVerb::Cache(options)) => bench_cache::run(*options, verbosity),
        Verb::Bench(BenchVerb::Morph(options)) => bench_morph::run(&options, verbosity),
        Verb::Bench(BenchVerb::Stream(options)) => bench_stream::run(*options, verbosity),
        Verb::Eval(EvalVerb::Morph(options)) => eval_morph::run(&options, verbosity),
        Verb::Train(TrainVerb::Router(options)) => train_router::run(&options, verbosity),
        Verb::Plan(verb) => plan::run(&verb, verbosity),
        Verb::Completions { shell } => completions::run(shell),
        Verb::Man { verb } => man::run(&verb),
    }
}

/// Help and version go to stdout; a wrong call is one line on stderr.
fn refuse(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion};
    match error.kind() {
        DisplayHelp | DisplayVersion => {
            let _ = error.print();
            ExitCode::SUCCESS
        }
        DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            Exit::Usage.into()
        }
        _ => {
            let _ = writeln!(std::io::stderr(), "refrain: {}", errors::one_line_of_clap(error));
            Exit::Usage.into()
        }
    }
}
