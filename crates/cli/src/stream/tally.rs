//! What a stream did: frames, drops, latencies.

use std::time::Instant;

use refrain_metrics::LatencyHistogram;
use serde::Serialize;

/// Counts as the stream goes.
pub(super) struct Tally {
    began: Instant,
    loaded: Instant,
    answered: u64,
    first: Option<f64>,
    /// From a frame's arrival to its answer being written.
    latency: LatencyHistogram,
    /// Scaling, model and writing, without waiting for the input.
    busy: f64,
}

/// The account of a finished stream.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct StreamReport {
    pub(crate) frames: u64,
    pub(crate) dropped: u64,
    pub(crate) seconds: f64,
    /// Frames a second of the whole run after start-up.
    pub(crate) frames_per_second: f64,
    /// Frames a second if the input never kept us waiting.
    pub(crate) busy_frames_per_second: f64,
    pub(crate) load_seconds: f64,
    pub(crate) first_frame_seconds: Option<f64>,
    pub(crate) latency_p50_seconds: Option<f64>,
    pub(crate) latency_p95_seconds: Option<f64>,
    pub(crate) latency_p99_seconds: Option<f64>,
    pub(crate) latency_longest_seconds: f64,
    pub(crate) computed_share: f64,
}

impl Tally {
    /// `began`: when the program set out; now it is loaded.
    pub(super) fn new(began: Instant) -> Self {
        let latency = LatencyHistogram::default();
        Self { began, loaded: Instant::now(), answered: 0, first: None, latency, busy: 0.0 }
    }

    /// A frame that came at `arrived` is written; work on it took `busy` seconds.
    pub(super) fn answer(&mut self, arrived: Instant) {
        self.answered += 1;
        self.first.get_or_insert_with(|| self.loaded.elapsed().as_secs_f64());
        self.latency.record(arrived.elapsed().as_secs_f64());
    }

    /// Enters seconds of work.
    pub(super) fn work(&mut self, since: Instant) {
        self.busy += since.elapsed().as_secs_f64();
    }

    pub(super) fn report(&self, dropped: u64, computed_share: f64) -> StreamReport {
        let seconds = self.loaded.elapsed().as_secs_f64();
        let rate = |seconds: f64| if seconds > 0.0 { self.answered as f64 / seconds } else { 0.0 };
        StreamReport {
            frames: self.answered,
            dropped,
            seconds,
            frames_per_second: rate(seconds),
            busy_frames_per_second: rate(self.busy),
            load_seconds: self.loaded.duration_since(self.began).as_secs_f64(),
            first_frame_seconds: self.first,
            latency_p50_seconds: self.latency.percentile(50.0),
            latency_p95_seconds: self.latency.percentile(95.0),
            latency_p99_seconds: self.latency.percentile(99.0),
            latency_longest_seconds: self.latency.longest(),
            computed_share,
        }
    }
}

impl StreamReport {
    /// For people.
    pub(super) fn lines(&self) -> [String; 2] {
        let milliseconds = |seconds: Option<f64>| seconds.map_or("-".to_owned(), |s| format!("{:.0} ms", s * 1e3));
        let plural = if self.frames == 1 { "" } else { "s" };
        [
            format!(
                "{} frame{plural} in {:.1} s: {:.1} frames/s (busy: {:.1}), {} dropped, {:.0} % computed; first frame {} after {} of start-up",
                self.frames,
                self.seconds,
                self.frames_per_second,
                self.busy_frames_per_second,
                self.dropped,
                100.0 * self.computed_share,
                milliseconds(self.first_frame_seconds),
                milliseconds(Some(self.load_seconds)),
            ),
            format!(
                "latency p50 {}, p95 {}, p99 {}, longest {}",
                milliseconds(self.latency_p50_seconds),
                milliseconds(self.latency_p95_seconds),
                milliseconds(self.latency_p99_seconds),
                milliseconds(Some(self.latency_longest_seconds)),
            ),
        ]
    }
}
