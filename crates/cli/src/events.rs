//! What the program says: notes for people on stderr, or with `--json` one JSON object per event on stdout.
//!
//! Every event has the key `event`; keys are only ever added. Numbers are in SI units (seconds, bytes) and named so.

use std::io::{self, Write as _};

use serde::Serialize;

/// How much is said on stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verbosity {
    /// Errors and warnings only.
    Quiet,
    /// Also what is being made, progress and where it went.
    Normal,
    /// Also how.
    Verbose,
}

/// One event of a run, as printed by `--json`.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event<'a> {
    /// Work begins; everything random or defaulted is settled.
    Start {
        version: &'a str,
        model: &'a str,
        model_hash: &'a str,
        pictures: usize,
        width: usize,
        height: usize,
        steps: usize,
        sampler: &'a str,
        guidance_scale: f64,
        dtype: &'a str,
        seed: Option<u64>,
        cache: &'a str,
        load_seconds: f64,
    },
    /// One denoising step is done.
    Step { picture: usize, step: usize, steps: usize, timestep: f32, sigma: f32, seconds: f64, reused_share: f64 },
    /// A preview was written.
    Preview { picture: usize, step: usize, path: &'a str },
    /// One picture is done.
    Image {
        picture: usize,
        path: &'a str,
        prompt: &'a str,
        seed: Option<u64>,
        seconds: f64,
        text_seconds: f64,
        denoise_seconds: f64,
        decode_seconds: f64,
    },
    /// What the cache did for one picture.
    Report { picture: usize, report: serde_json::Value },
    /// One row of a bench, as it is measured.
    Bench { round: usize, policy: &'a str, prompt: usize, seed: u64, seconds: f64 },
    /// The table of a bench.
    Table { table: serde_json::Value },
    /// A stream has ended.
    Stream { report: &'a crate::stream::StreamReport },
    /// A file other than a picture was written.
    Wrote { what: &'a str, path: &'a str },
    /// Something the user should know although the work goes on.
    Warning { message: &'a str },
    /// The work ended without success.
    Error { message: &'a str, exit_code: u8 },
    /// The work is done.
    Done { pictures: usize, seconds: f64 },
}

/// Where events and notes go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Console {
    verbosity: Verbosity,
    json: bool,
    stdout_is_data: bool,
}

impl Console {
    /// `stdout_is_data`: a picture goes there, so that notes for people must not.
    pub(crate) fn new(verbosity: Verbosity, json: bool, stdout_is_data: bool) -> Self {
        Self { verbosity, json, stdout_is_data }
    }

    /// Whether a progress bar has somebody to look at it.
    pub(crate) fn wants_progress(&self) -> bool {
        use std::io::IsTerminal as _;
        self.verbosity >= Verbosity::Normal && io::stderr().is_terminal()
    }

    /// Whether events go out as JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Sends an event: printed with `--json`, dropped otherwise.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub(crate) fn event(&self, event: &Event<'_>) -> anyhow::Result<()> {
        if !self.json {
            return Ok(());
        }
        let mut line = serde_json::to_string(event)?;
        line.push('\n');
        let mut stdout = io::stdout().lock();
        stdout.write_all(line.as_bytes())?;
        stdout.flush()?;
        Ok(())
    }

    /// A result line on stdout, for people: left out when stdout carries data or JSON, or when quiet.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub(crate) fn result(&self, line: &str) -> anyhow::Result<()> {
        if self.json || self.verbosity == Verbosity::Quiet {
            return Ok(());
        }
        if self.stdout_is_data {
            self.note(line);
            return Ok(());
        }
        writeln!(io::stdout().lock(), "{line}")?;
        Ok(())
    }

    /// A note on stderr; nobody is told when stderr is closed.
    pub(crate) fn note(&self, line: &str) {
        if self.verbosity >= Verbosity::Normal && !self.json {
            let _ = writeln!(io::stderr().lock(), "{line}");
        }
    }

    /// A note for `-v`.
    pub(crate) fn detail(&self, line: &str) {
        if self.verbosity >= Verbosity::Verbose {
            let _ = writeln!(io::stderr().lock(), "{line}");
        }
    }

    /// A warning, said even when quiet.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub(crate) fn warn(&self, message: &str) -> anyhow::Result<()> {
        let _ = writeln!(io::stderr().lock(), "refrain: warning: {message}");
        self.event(&Event::Warning { message })
    }
}
