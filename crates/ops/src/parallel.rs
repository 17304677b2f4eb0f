//! Division of work among threads, and the memory that work writes to.
//!
//! Work is cut into units whose bounds depend on the shapes alone, and each unit writes its own part of the result:
//! so results do not depend on the number of threads. Small work stays on the calling thread, as waking another takes
//! longer.

use std::cell::Cell;

use rayon::prelude::*;

/// Operations (or values read and written, for work that memory bounds) worth waking threads for: about 100 µs.
pub(crate) const WORTH_FLOPS: usize = 10_000_000;
/// Values read or written that are worth waking threads for.
pub(crate) const WORTH_VALUES: usize = 200_000;

/// Runs `work` for every unit, on the threads of rayon's global pool if `worth` says so.
pub(crate) fn for_units(units: usize, worth: bool, work: impl Fn(usize) + Sync + Send) {
    if worth && units > 1 && rayon::current_num_threads() > 1 {
        (0..units).into_par_iter().with_max_len(1).for_each(work);
    } else {
        (0..units).for_each(work);
    }
}

/// Runs `work` for every part, likewise.
pub(crate) fn for_parts<T: Send>(parts: Vec<T>, worth: bool, work: impl Fn(T) + Sync + Send) {
    if worth && parts.len() > 1 && rayon::current_num_threads() > 1 {
        parts.into_par_iter().with_max_len(1).for_each(work);
    } else {
        parts.into_iter().for_each(work);
    }
}

/// A result while several threads write it.
pub(crate) struct Unwritten {
    start: *mut f32,
    length: usize,
}

// SAFETY: threads reach the memory only through `part`, whose callers promise parts that do not overlap.
#[allow(unsafe_code)]
unsafe impl Send for Unwritten {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Unwritten {}

impl Unwritten {
    /// `length` values from `start` on, to be written before they are read.
    ///
    /// # Safety
    /// No two parts that live at once overlap.
    #[allow(unsafe_code, clippy::mut_from_ref)]
    pub(crate) unsafe fn part(&self, start: usize, length: usize) -> &mut [f32] {
        assert!(start <= self.length && length <= self.length - start);
        // SAFETY: inside the allocation by the assertion, not shared by the caller's promise; every bit pattern is an f32.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), length) }
    }

    /// Asks for memory that will soon be written.
    pub(crate) fn fetch(&self, start: usize, length: usize) {
        crate::simd::fetch_at(self.start.wrapping_add(start), length);
    }
}

/// A vector of `length` values that `work` writes; clearing it first would cost a pass over memory.
///
/// # Safety
/// `work` writes every value.
#[allow(unsafe_code)]
pub(crate) unsafe fn written(length: usize, work: impl FnOnce(&Unwritten)) -> Vec<f32> {
    let mut values: Vec<f32> = Vec::with_capacity(length);
    work(&Unwritten { start: values.spare_capacity_mut().as_mut_ptr().cast(), length });
    // SAFETY: the capacity is there, and the caller promised that every value was written.
    unsafe { values.set_len(length) };
    values
}

/// A vector of `length` values written chunk by chunk: `work` gets each chunk's index and must write all of it.
///
/// # Safety
/// `work` writes every value of its chunk.
#[allow(unsafe_code)]
pub(crate) unsafe fn written_chunks(
    length: usize,
    chunk: usize,
    worth: bool,
    work: impl Fn(usize, &mut [f32]) + Sync + Send,
) -> Vec<f32> {
    let chunk = chunk.max(1);
    // SAFETY: chunks do not overlap and cover the vector; the caller promised that `work` writes all of each.
    unsafe {
        written(length, |output| {
            for_units(length.div_ceil(chunk), worth, |index| {
                let start = index * chunk;
                work(index, output.part(start, chunk.min(length - start)));
            });
        })
    }
}

/// A thread's working memory, kept between calls.
#[derive(Default)]
pub(crate) struct Scratch {
    /// Packed left factors.
    pub(crate) words: Vec<u32>,
    /// Sums.
    pub(crate) sums: Vec<f32>,
    /// Whatever else.
    pub(crate) rows: Vec<f32>,
    /// A panel of the right factor, widened.
    pub(crate) panel: Vec<u32>,
    /// A left factor made on the way.
    pub(crate) transformed: Vec<f32>,
    /// A right factor made on the way.
    pub(crate) factors: Vec<f32>,
}

thread_local! {
    static SCRATCH: Cell<Scratch> = Cell::default();
}

/// Lends the thread's working memory. A nested call gets fresh memory.
pub(crate) fn with_scratch<R>(work: impl FnOnce(&mut Scratch) -> R) -> R {
    let mut scratch = SCRATCH.take();
    let result = work(&mut scratch);
    SCRATCH.set(scratch);
    result
}

/// `length` values of `memory`, whatever they hold, from the beginning of a cache line on.
pub(crate) fn aligned<T: Copy + Default>(memory: &mut Vec<T>, length: usize) -> &mut [T] {
    const LINE: usize = 64;
    let most = LINE / size_of::<T>().max(1);
    let values = at_least(memory, length + most);
    let ahead = values.as_ptr().align_offset(LINE).min(most);
    &mut values[ahead..ahead + length]
}

/// At least `length` values of `memory`, whatever they hold.
pub(crate) fn at_least<T: Copy + Default>(memory: &mut Vec<T>, length: usize) -> &mut [T] {
    if memory.len() < length {
        memory.resize(length, T::default());
    }
    &mut memory[..length]
}
