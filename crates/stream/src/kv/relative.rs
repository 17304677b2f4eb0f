//! Our default: times are ranks among the frames held.
//!
//! The oldest frame held is at time 0, the newest at most at the cache's length less one, however long the stream: nothing
//! drifts out of what the model was trained on, and no table ends. Sinks lie right before the window instead of ever
//! farther away. While the cache fills, ranks are the absolute times.
//!
//! A sink that is replaced leaves its slot to the new frame, which is the newest of all and has the last rank; the window
//! keeps its frames, as in StreamDiffusionV2. Sinks are judged only when all are filled, and after one was replaced, not
//! again for the cool-down.

use super::{
    SinkRefresh, shift,
    slots::{Arrival, SlotMap},
};

pub(super) fn place(map: &mut SlotMap, arrival: &Arrival<'_>, refresh: Option<SinkRefresh>) -> Vec<usize> {
    match refresh.and_then(|refresh| replaced_sink(map, arrival, refresh)) {
        Some(place) => {
            map.refreshed = Some(arrival.frame);
            vec![place]
        }
        None => shift::place(map, arrival),
    }
}

fn replaced_sink(map: &SlotMap, arrival: &Arrival<'_>, refresh: SinkRefresh) -> Option<usize> {
    let rested = map.refreshed.is_none_or(|frame| arrival.frame.saturating_sub(frame) > refresh.cool_down);
    if map.filled < map.options.length || !rested {
        return None;
    }
    let similarities = arrival.similarities?.iter().copied().enumerate();
    let (least, similarity) = similarities.min_by(|left, right| left.1.total_cmp(&right.1))?;
    (similarity < refresh.threshold).then_some(least)
}

/// Rank of each frame among all.
pub(super) fn times(frames: &[u64]) -> Vec<f64> {
    frames.iter().map(|frame| frames.iter().filter(|other| *other < frame).count() as f64).collect()
}
