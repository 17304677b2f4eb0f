//! StreamDiffusionV2's ring, slot by slot as its code of 2026-07 behaves.
//!
//! Slots fill in order. While they do, the ends of slots behind the sinks are queued; once full, a chunk overwrites the
//! slot at the head of the queue, which goes to the back again unless it is a sink's. A sink whose similarity to the new
//! frame falls below the threshold is put at the head: the frame then takes the sink's place *instead of* the oldest
//! window slot, and the window does not move.
//!
//! Two consequences of the code are kept. The first chunk has two latents, so the slot end after it is never queued if it
//! lies behind the sinks: a cache of 5 with 2 sinks gets a third, hidden one. And sinks are judged while still empty.

use super::slots::{Arrival, SlotMap};

pub(super) fn place(map: &mut SlotMap, arrival: &Arrival<'_>, threshold: Option<f32>) -> Vec<usize> {
    let (length, sinks) = (map.options.length, map.options.sinks);
    if let (Some(threshold), Some(similarities)) = (threshold, arrival.similarities)
        && let Some((least, similarity)) =
            similarities.iter().copied().enumerate().min_by(|left, right| left.1.total_cmp(&right.1))
        && similarity < threshold
    {
        map.queue.push_front(least + 1);
    }
    let end = usize::try_from(arrival.time).unwrap_or(usize::MAX).saturating_add(arrival.count);
    if end <= length && map.filled + arrival.count <= length {
        let next = end + arrival.count;
        if sinks < next && next <= length && map.queue.back() != Some(&next) {
            map.queue.push_back(next);
        }
        return (map.filled..map.filled + arrival.count).collect();
    }
    // A queue that ran dry (a cache shorter than its chunks) overwrites the end of the cache.
    let target = map.queue.pop_front().unwrap_or(length);
    if target > sinks {
        map.queue.push_back(target);
    }
    (target.saturating_sub(arrival.count)..target).collect()
}
