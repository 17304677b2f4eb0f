//! `refrain man [VERB…]`: the manual page, made from the flags themselves.

use std::io::Write as _;

use clap::CommandFactory as _;

use crate::arguments::CommandLine;
use crate::errors::usage;

/// Prints the page in roff on stdout.
///
/// # Errors
/// An unknown verb (exit 2), or standard output that cannot be written.
pub(crate) fn run(verb: &[String]) -> anyhow::Result<()> {
    let mut command = CommandLine::command();
    command.build();
    let mut name = command.get_name().to_owned();
    for part in verb {
        let next = command.find_subcommand(part).cloned();
        command = next.ok_or_else(|| usage(format!("no manual page for `{name} {part}`: there is no such verb")))?;
        name = format!("{name}-{part}");
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command.name(name)).render(&mut page)?;
    std::io::stdout().lock().write_all(&page)?;
    Ok(())
}
