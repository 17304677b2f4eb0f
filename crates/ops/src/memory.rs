//! How the memory of activations is had.
//!
//! Every operation returns a fresh tensor, so at each step of a sampler tens of megabytes come and go in the same sizes.
//! Two things keep that cheap. The operations write results without clearing them first, keep packed inputs in working
//! memory that each thread reuses, and make no temporary tensors. And the binary's allocator (mimalloc) hands freed
//! blocks out again; [`keep_pages`] stops it from giving their pages back to the system in between, which would fault
//! every page in again. Measured over a step of 60 activations of 2 to 42 MB with pauses of 15 ms (2-core AMD Zen 4,
//! 2026-11-23): 113 page faults a step before, 0 after, at the same resident size.
//!
//! That is why there is no planned arena: a guided step of DiT-XL/2 faults in no page (2026-11-25), so that an arena could
//! only save resident memory. `benches/peers/inside.py` measures both.

use std::ffi::c_long;

/// mimalloc's option `purge_delay`, the same number in its versions 2 and 3; the crate does not name it.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Delay that never purges.
const NEVER: c_long = -1;

/// Keeps freed pages for the next activation instead of returning them to the system.
///
/// Call it once at the start of a program whose global allocator is mimalloc; elsewhere it changes nothing. An environment
/// variable `MIMALLOC_PURGE_DELAY` is overruled.
pub fn keep_pages() {
    set_purge_delay(NEVER);
}

/// While a model loads: tensors are read, converted and packed, and what that leaves behind would stay resident for good
/// under [`keep_pages`], though no activation is as large. Pages freed meanwhile go back to the system, at the latest when
/// this is dropped; afterwards the program's own setting holds again.
#[must_use = "memory is handed back when this is dropped"]
#[derive(Debug)]
pub struct Loading {
    before: c_long,
}

impl Loading {
    /// Begins.
    pub fn begin() -> Self {
        // mimalloc's own default, milliseconds: pages that are freed are marked, and purged in the end.
        const MARKED: c_long = 10;
        let before = purge_delay();
        if before == NEVER {
            set_purge_delay(MARKED);
        }
        Self { before }
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        if self.before == NEVER {
            // Every thread has a heap of its own.
            rayon::broadcast(|_| collect());
            collect();
            set_purge_delay(NEVER);
        }
    }
}

#[allow(unsafe_code)]
fn purge_delay() -> c_long {
    // SAFETY: reads one number from mimalloc's own table; the option exists.
    unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) }
}

#[allow(unsafe_code)]
fn set_purge_delay(delay: c_long) {
    // SAFETY: sets one number in mimalloc's own table; the option exists.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, delay) }
}

#[allow(unsafe_code)]
fn collect() {
    // SAFETY: frees only what nothing uses, on the calling thread's heap.
    unsafe { libmimalloc_sys::mi_collect(true) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_is_the_purge_delay_and_loading_lifts_it_for_a_while() {
        let default = purge_delay();
        assert!(default > 0, "a delay in milliseconds by default, found {default}");
        drop(Loading::begin());
        assert_eq!(purge_delay(), default);
        keep_pages();
        assert_eq!(purge_delay(), NEVER);
        {
            let _loading = Loading::begin();
            assert!(purge_delay() > 0);
        }
        assert_eq!(purge_delay(), NEVER);
    }
}
