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

/// Keeps freed pages for the next activation instead of returning them to the system.
///
/// Call it once at the start of a program whose global allocator is mimalloc; elsewhere it changes nothing. An environment
/// variable `MIMALLOC_PURGE_DELAY` is overruled.
#[allow(unsafe_code)]
pub fn keep_pages() {
    const NEVER: c_long = -1;
    // SAFETY: sets one number in mimalloc's own table; the option exists.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, NEVER) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(unsafe_code)]
    fn the_option_is_the_purge_delay() {
        // SAFETY: reads one number from mimalloc's own table.
        let delay = || unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) };
        assert!(delay() > 0, "a delay in milliseconds by default, found {}", delay());
        keep_pages();
        assert_eq!(delay(), -1);
    }
}
