//! `refrain completions SHELL`: the completion script of a shell, made from the flags themselves.

use std::io::Write as _;

use clap::CommandFactory as _;

use crate::arguments::CommandLine;

/// Prints the script on stdout.
///
/// # Errors
/// When standard output cannot be written.
pub(crate) fn run(shell: clap_complete::Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut CommandLine::command(), "refrain", &mut script);
    std::io::stdout().lock().write_all(&script)?;
    Ok(())
}
