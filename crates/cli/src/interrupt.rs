//! Ctrl-C: the first finishes cleanly and keeps what is done, the second stops at once.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::errors::Exit;

static SIGNALS: AtomicUsize = AtomicUsize::new(0);

/// Listens for SIGINT, SIGTERM and SIGHUP from now on. A machine that refuses a handler keeps the default behaviour.
pub(crate) fn listen() {
    let handler = || {
        if SIGNALS.fetch_add(1, Ordering::SeqCst) >= 1 {
            // Temporary files have names of their own, so nothing under a final name can be half written.
            std::process::exit(i32::from(Exit::Interrupted.code()));
        }
    };
    if let Err(error) = ctrlc::set_handler(handler) {
        tracing::warn!(%error, "no signal handler: Ctrl-C stops at once");
    }
}

/// Whether the user asked to stop; asked between steps.
pub(crate) fn requested() -> bool {
    SIGNALS.load(Ordering::SeqCst) > 0
}
