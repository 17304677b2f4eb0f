//! Exit codes, and the one line on stderr that goes with each.
//!
//! Libraries return their own errors; this module decides what they mean to a shell. An error is classified where its
//! meaning is known (`usage(…)`, `resources(…)`) or, failing that, by the causes found in its chain.

use std::fmt;
use std::io;
use std::process::ExitCode;

/// What the process reports to its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The work failed, or a quality gate said no.
    Failed,
    /// The call itself is at fault: a flag, a value, or two inputs that do not fit together.
    Usage,
    /// Memory or disk: the same call may succeed on a larger or emptier machine.
    Resources,
    /// Ctrl-C or SIGTERM; what was finished before is kept.
    Interrupted,
}

impl Exit {
    /// The number that the shell sees.
    pub(crate) fn code(self) -> u8 {
        match self {
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Resources => 3,
            Exit::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}

/// An error whose exit code is known where it arises.
#[derive(Debug)]
struct Classified {
    exit: Exit,
    message: String,
}

impl fmt::Display for Classified {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Classified {}

fn classified(exit: Exit, message: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Classified { exit, message: message.into() })
}

/// An error of the call (exit 2).
pub(crate) fn usage(message: impl Into<String>) -> anyhow::Error {
    classified(Exit::Usage, message)
}

/// Too little memory or disk (exit 3).
pub(crate) fn resources(message: impl Into<String>) -> anyhow::Error {
    classified(Exit::Resources, message)
}

/// The user stopped the work (exit 130).
pub(crate) fn interrupted(message: impl Into<String>) -> anyhow::Error {
    classified(Exit::Interrupted, message)
}

/// A cause wrapped so that the whole chain counts as an error of the call (exit 2).
pub(crate) fn usage_because(error: impl Into<anyhow::Error>) -> anyhow::Error {
    usage(one_line(&error.into()))
}

/// Errors about a request are errors of the call; all others are failures of the work.
pub(crate) fn of_request(error: refrain_pipeline::PipelineError) -> anyhow::Error {
    use refrain_pipeline::PipelineError as E;
    use refrain_samplers::Error as S;
    match &error {
        E::Size { .. } | E::Request { .. } => usage(error.to_string()),
        E::Sampler(
            S::Steps { .. } | S::Unsupported { .. } | S::NoDefaultSampler { .. } | S::Range { .. } | S::Strength { .. },
        ) => usage(error.to_string()),
        _ => anyhow::Error::new(error),
    }
}

/// The exit code that an error chain asks for.
pub(crate) fn exit_of(error: &anyhow::Error) -> Exit {
    if let Some(known) = error.chain().find_map(|cause| cause.downcast_ref::<Classified>()) {
        return known.exit;
    }
    let scarce = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).any(is_scarcity);
    if scarce { Exit::Resources } else { Exit::Failed }
}

/// Disk full, quota, file-size limit or memory.
fn is_scarcity(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, OutOfMemory, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge | OutOfMemory)
}

/// Whether the reader of our standard output went away, which is how `| head` ends a program: not an error.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

/// The chain of causes on one line: `context: cause: root`. A cause that only repeats what stands before it is left out.
pub(crate) fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = flatten(&cause.to_string());
        if line.is_empty() {
            line = text;
        } else if !text.is_empty() && !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
    }
    line
}

/// Newlines become spaces and control characters are shown as escapes, so that outside text can neither break the line
/// nor drive the terminal.
pub(crate) fn flatten(text: &str) -> String {
    let mut flat = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !flat.is_empty() {
            flat.push(' ');
        }
        for character in word.chars() {
            if character.is_control() { flat.extend(character.escape_unicode()) } else { flat.push(character) }
        }
    }
    flat
}

/// clap's paragraph as one line: the error and its tip, without the usage block.
pub(crate) fn one_line_of_clap(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let lines = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let kept: Vec<&str> = lines.filter(|line| !line.is_empty() && !line.starts_with("For more information")).collect();
    let joined = flatten(&kept.join("; ")).replace(":;", ":");
    let message = joined.strip_prefix("error: ").unwrap_or(&joined);
    format!("{message} (see `refrain --help`)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn a_classified_cause_decides_through_any_context() {
        let error = Err::<(), _>(usage("--steps must be at least 1")).context("gen image").unwrap_err();
        assert_eq!(exit_of(&error), Exit::Usage);
        assert_eq!(one_line(&error), "gen image: --steps must be at least 1");
    }

    #[test]
    fn a_full_disk_is_a_matter_of_resources() {
        let error = anyhow::Error::new(io::Error::from(io::ErrorKind::StorageFull)).context("cannot write x.png");
        assert_eq!(exit_of(&error), Exit::Resources);
        assert_eq!(exit_of(&anyhow::anyhow!("anything else")), Exit::Failed);
    }

    #[test]
    fn outside_text_can_neither_break_the_line_nor_drive_the_terminal() {
        assert_eq!(flatten("a\n b\u{1b}[31m"), "a b\\u{1b}[31m");
    }

    #[test]
    fn a_cause_that_repeats_its_context_is_said_once() {
        let error = anyhow::anyhow!("no such file").context("cannot read x: no such file");
        assert_eq!(one_line(&error), "cannot read x: no such file");
    }
}
