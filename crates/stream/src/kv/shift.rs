//! Self-Forcing's cache: the oldest frames behind the sinks leave.
//!
//! The published code moves the remaining keys to the left; here the new frame takes the place of the one that left. A
//! softmax over keys does not depend on their order, and each key carries its time, so both see the same.

use super::slots::{Arrival, SlotMap};

pub(super) fn place(map: &SlotMap, arrival: &Arrival<'_>) -> Vec<usize> {
    let mut places: Vec<usize> = (map.filled..map.options.length).take(arrival.count).collect();
    let mut window: Vec<(u64, usize)> = map
        .slots
        .iter()
        .enumerate()
        .filter_map(|(place, slot)| slot.filter(|slot| !slot.sink).map(|slot| (slot.frame, place)))
        .collect();
    window.sort_unstable();
    let missing = arrival.count - places.len();
    places.extend(window.into_iter().take(missing).map(|(_, place)| place));
    places
}
