//! The progress bar: step, seconds a step, time left, and the share of the work that the cache spared.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::events::Console;

/// A bar on stderr, or nothing where nobody looks.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    unit: &'static str,
}

impl Progress {
    /// A bar over `steps` steps of one picture; `label` goes before it.
    pub(crate) fn new(console: &Console, label: &str, steps: usize) -> Self {
        Self::counting(console, label, steps, "step")
    }

    /// A bar over `count` things of this name.
    pub(crate) fn counting(console: &Console, label: &str, count: usize, unit: &'static str) -> Self {
        let bar = ProgressBar::with_draw_target(Some(count as u64), ProgressDrawTarget::hidden());
        if console.wants_progress() {
            bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        let template = format!("{{prefix}}{{bar:30.cyan/dim}} {{pos:>3}}/{{len}} {unit}s  {{msg}}  {{eta}} left");
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style.progress_chars("━━╌"));
        }
        bar.set_prefix(if label.is_empty() { String::new() } else { format!("{label} ") });
        bar.set_message("…");
        bar.tick();
        Self { bar, unit }
    }

    /// `done` steps are done: how long they took on average, and the share of sites reused or forecast so far (`None`: cache off).
    pub(crate) fn step(&self, done: usize, seconds: f64, reused_share: Option<f64>) {
        let (unit, seconds) = (self.unit, seconds / done.max(1) as f64);
        let pace =
            if seconds >= 1.0 { format!("{seconds:.2} s/{unit}") } else { format!("{:.0} ms/{unit}", seconds * 1e3) };
        let cache = reused_share.map(|share| format!("  cache {:.0} %", share * 100.0)).unwrap_or_default();
        self.bar.set_message(format!("{pace}{cache}"));
        self.bar.set_position(done as u64);
    }

    /// `done` things are done, and this is how it stands.
    pub(crate) fn say(&self, done: usize, message: String) {
        self.bar.set_message(message);
        self.bar.set_position(done as u64);
    }

    /// Runs something that writes to the terminal without the bar in its way.
    pub(crate) fn suspended<R>(&self, write: impl FnOnce() -> R) -> R {
        self.bar.suspend(write)
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
