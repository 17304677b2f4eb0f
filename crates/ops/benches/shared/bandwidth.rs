//! What the machine's memory can do at most: a copy by all threads.

use std::hint::black_box;
use std::time::Instant;

use rayon::prelude::*;

/// Values copied by a thread at a time.
const PART: usize = 1 << 15;

/// Best rate of copying `values` f32 by all threads of the current rayon pool, in GB/s read and written.
pub(crate) fn measure(values: usize) -> f64 {
    let source = vec![1f32; values];
    let mut target = vec![0f32; values];
    let mut run = || {
        let start = Instant::now();
        let parts = target.par_chunks_mut(PART).zip(source.par_chunks(PART));
        parts.for_each(|(target, source)| target.copy_from_slice(source));
        black_box(&target);
        (8 * values) as f64 / start.elapsed().as_secs_f64() / 1e9
    };
    (0..50).map(|_| run()).fold(0.0, f64::max)
}
