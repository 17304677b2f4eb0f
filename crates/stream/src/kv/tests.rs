//! Golden slot traces of the published code, and what every policy promises.

use proptest::prelude::*;

use super::{KvOptions, KvPolicy, SinkRefresh, SlotMap, slots::Arrival};

/// A stream as StreamDiffusionV2 starts it: two latents, then one at a time.
struct Stream {
    map: SlotMap,
    next: u64,
    time: u64,
    reset: Option<u64>,
}

impl Stream {
    fn new(length: usize, sinks: usize, policy: KvPolicy) -> Self {
        let reset = match policy {
            KvPolicy::Sdv2 { position_reset, .. } => position_reset,
            _ => None,
        };
        Self { map: SlotMap::new(KvOptions { length, sinks, policy }), next: 0, time: 0, reset }
    }

    fn arrive(&mut self, count: usize, similarities: Option<&[f32]>) -> Vec<u64> {
        if self.reset.is_some_and(|limit| self.time >= limit) {
            self.time = self.map.options.length as u64 - 1;
        }
        self.map.place(&Arrival { frame: self.next, count, time: self.time, similarities });
        self.next += count as u64;
        self.time += count as u64;
        self.map.frames()
    }

    /// Frames by slot after frame `last`.
    fn until(&mut self, last: u64) -> Vec<u64> {
        if self.next == 0 {
            self.arrive(2, None);
        }
        while self.next <= last {
            self.arrive(1, None);
        }
        self.map.frames()
    }
}

const PLAIN: KvPolicy = KvPolicy::Sdv2 { threshold: None, position_reset: None };

#[test]
fn sdv2_rotates_behind_its_sinks() {
    let mut stream = Stream::new(6, 3, PLAIN);
    assert_eq!(stream.until(5), [0, 1, 2, 3, 4, 5]);
    assert_eq!(stream.map.queue(), [4, 5, 6]);
    for (frame, slots) in [
        (6, [0, 1, 2, 6, 4, 5]),
        (7, [0, 1, 2, 6, 7, 5]),
        (8, [0, 1, 2, 6, 7, 8]),
        (9, [0, 1, 2, 9, 7, 8]),
        (13, [0, 1, 2, 12, 13, 11]),
    ] {
        assert_eq!(stream.until(frame), slots, "frame {frame}");
    }
}

/// A cache of 5 with 2 sinks keeps a third: the end of the slot after the first chunk is never queued.
#[test]
fn sdv2_fast_has_a_hidden_third_sink() {
    let mut stream = Stream::new(5, 2, PLAIN);
    assert_eq!(stream.until(4), [0, 1, 2, 3, 4]);
    for (frame, slots) in [(5, [0, 1, 2, 5, 4]), (6, [0, 1, 2, 5, 6]), (7, [0, 1, 2, 7, 6]), (50, [0, 1, 2, 49, 50])] {
        assert_eq!(stream.until(frame), slots, "frame {frame}");
    }
}

/// The third sink is judged while it is empty and queued for it; it falls when the cache is full.
#[test]
fn sdv2_loses_its_third_sink_to_the_warm_up() {
    let mut stream = Stream::new(6, 3, KvPolicy::Sdv2 { threshold: Some(0.2), position_reset: None });
    stream.arrive(2, None);
    stream.arrive(1, Some(&[0.9, 0.9, 0.0]));
    for _ in 3..=5 {
        stream.arrive(1, Some(&[0.9; 3]));
    }
    assert_eq!(stream.map.queue(), [3, 4, 5, 6]);
    assert_eq!(stream.arrive(1, Some(&[0.9; 3])), [0, 1, 6, 3, 4, 5]);
    assert_eq!(stream.arrive(1, Some(&[0.9; 3])), [0, 1, 6, 7, 4, 5]);
    assert_eq!(stream.arrive(1, Some(&[0.9; 3])), [0, 1, 6, 7, 8, 5]);
}

/// The new frame takes the least similar sink's slot, and the window does not move.
#[test]
fn sdv2_replaces_a_sink_instead_of_the_oldest_frame() {
    let mut stream = Stream::new(6, 3, KvPolicy::Sdv2 { threshold: Some(0.2), position_reset: None });
    stream.until(6);
    assert_eq!(stream.arrive(1, Some(&[0.3, 0.1, 0.15])), [0, 7, 2, 6, 4, 5]);
    assert_eq!(stream.arrive(1, Some(&[0.9; 3])), [0, 7, 2, 6, 8, 5]);
}

#[test]
fn sdv2_counts_anew_from_the_caches_end() {
    let mut stream = Stream::new(6, 3, KvPolicy::Sdv2 { threshold: None, position_reset: Some(50) });
    stream.until(49);
    assert_eq!(stream.map.times(), [0.0, 1.0, 2.0, 48.0, 49.0, 47.0]);
    stream.until(51);
    // Frames before the jump keep their times: they lie ahead of the newest until they are evicted.
    assert_eq!(stream.map.times(), [0.0, 1.0, 2.0, 6.0, 49.0, 5.0]);
    stream.until(94);
    assert_eq!(stream.map.times().iter().copied().fold(0.0, f64::max), 49.0);
}

#[test]
fn shift_keeps_sinks_and_the_newest() {
    let mut stream = Stream::new(6, 2, KvPolicy::Shift);
    stream.until(20);
    let mut frames = stream.map.frames();
    frames.sort_unstable();
    assert_eq!(frames, [0, 1, 17, 18, 19, 20]);
    let mut without = Stream::new(21, 0, KvPolicy::Shift);
    for _ in 0..20 {
        without.arrive(3, None);
    }
    let mut frames = without.map.frames();
    frames.sort_unstable();
    assert_eq!(frames, (39..60).collect::<Vec<_>>());
}

#[test]
fn relative_times_are_ranks() {
    let mut stream = Stream::new(5, 2, KvPolicy::Relative { refresh: None });
    stream.until(1000);
    assert_eq!(stream.map.len(), 5);
    let mut seen: Vec<(u64, f64)> = stream.map.frames().into_iter().zip(stream.map.times()).collect();
    seen.sort_by_key(|(frame, _)| *frame);
    assert_eq!(seen, [(0, 0.0), (1, 1.0), (998, 2.0), (999, 3.0), (1000, 4.0)]);
}

#[test]
fn relative_replaces_a_sink_when_all_are_filled_and_rested() {
    let refresh = SinkRefresh { threshold: 0.5, cool_down: 3 };
    let mut stream = Stream::new(4, 2, KvPolicy::Relative { refresh: Some(refresh) });
    stream.arrive(2, None);
    // While the cache fills, nothing is judged.
    stream.arrive(1, Some(&[0.0, 0.0]));
    assert_eq!(stream.arrive(1, Some(&[0.0, 0.0])), [0, 1, 2, 3]);
    assert_eq!(stream.arrive(1, Some(&[0.4, 0.1])), [0, 4, 2, 3]);
    // The frame in the sink's slot is the newest of all.
    assert_eq!(stream.map.times(), [0.0, 3.0, 1.0, 2.0]);
    for _ in 0..3 {
        stream.arrive(1, Some(&[0.1, 0.1]));
    }
    assert_eq!(stream.map.frames(), [0, 4, 7, 6]);
    assert_eq!(stream.arrive(1, Some(&[0.1, 0.2])), [8, 4, 7, 6]);
}

/// A chunk that comes again takes the slots it had, whatever the policy.
#[test]
fn a_second_pass_changes_nothing() {
    for policy in [PLAIN, KvPolicy::Shift, KvPolicy::Relative { refresh: None }] {
        let mut stream = Stream::new(5, 2, policy);
        stream.until(9);
        let before = stream.map.clone();
        stream.map.place(&Arrival { frame: 9, count: 1, time: 9, similarities: Some(&[0.0, 0.0]) });
        assert_eq!(stream.map, before);
    }
}

#[test]
fn options_out_of_range_are_refused() {
    let options = KvOptions::default();
    for wrong in [
        KvOptions { length: 0, sinks: 0, ..options },
        KvOptions { length: 5000, ..options },
        KvOptions { sinks: 6, ..options },
        KvOptions { policy: KvPolicy::Sdv2 { threshold: Some(1.5), position_reset: None }, ..options },
    ] {
        assert!(wrong.checked().is_err(), "{wrong:?}");
    }
    assert!(KvPolicy::from_name("ring").is_err());
    for name in ["sdv2", "shift", "relative"] {
        assert_eq!(KvPolicy::from_name(name).map(KvPolicy::name).ok(), Some(name));
    }
}

proptest! {
    /// Whatever comes: never more frames than the cache is long, no frame twice, the newest is there, and, but for the
    /// published ring, every frame behind the sinks leaves within a window.
    #[test]
    fn promises_of_every_policy(
        length in 2usize..9,
        sinks in 0usize..4,
        policy in 0usize..4,
        similarities in prop::collection::vec(-1.0f32..1.0, 120),
    ) {
        let sinks = sinks.min(length - 1);
        let policy = [
            PLAIN,
            KvPolicy::Sdv2 { threshold: Some(0.2), position_reset: Some(50) },
            KvPolicy::Shift,
            KvPolicy::Relative { refresh: Some(SinkRefresh { threshold: 0.0, cool_down: 2 }) },
        ][policy];
        let mut stream = Stream::new(length, sinks, policy);
        stream.arrive(2.min(length), None);
        for chunk in similarities.chunks(4) {
            let judged = stream.map.wants_similarities(1).then(|| &chunk[..sinks.min(4)]);
            let mut frames = stream.arrive(1, judged.filter(|judged| judged.len() == sinks));
            let newest = stream.next - 1;
            prop_assert!(frames.contains(&newest) && frames.len() <= length);
            frames.sort_unstable();
            let oldest = frames.get(sinks).copied().unwrap_or(newest);
            frames.dedup();
            prop_assert_eq!(frames.len(), stream.map.len());
            if policy == KvPolicy::Shift {
                prop_assert!(newest - oldest < length as u64);
            }
            if matches!(policy, KvPolicy::Relative { .. }) {
                prop_assert!(stream.map.times().into_iter().all(|time| time < length as f64));
            }
        }
    }
}
