//! Latencies of a stream without end, in memory that does not grow.

/// Shortest latency told apart, in seconds.
const SHORTEST: f64 = 1e-5;
/// Each bucket is this much longer than the one before: percentiles are right within a percent.
const GROWTH: f64 = 1.01;
/// Up to about 1000 s.
const BUCKETS: usize = 1852;

/// A histogram with buckets of equal relative width.
#[derive(Debug, Clone)]
pub struct LatencyHistogram {
    counts: Vec<u64>,
    count: u64,
    sum: f64,
    longest: f64,
}

impl Default for LatencyHistogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], count: 0, sum: 0.0, longest: 0.0 }
    }
}

impl LatencyHistogram {
    /// Enters a latency in seconds; what is negative or no number counts as 0.
    pub fn record(&mut self, seconds: f64) {
        let seconds = if seconds > 0.0 { seconds } else { 0.0 };
        // A float-to-int cast saturates.
        let bucket = ((seconds / SHORTEST).max(1.0).ln() / GROWTH.ln()).floor() as usize;
        if let Some(count) = self.counts.get_mut(bucket.min(BUCKETS - 1)) {
            *count += 1;
        }
        self.count += 1;
        self.sum += seconds;
        self.longest = self.longest.max(seconds);
    }

    /// Number of latencies entered.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their mean in seconds; `None` before the first.
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }

    /// The longest, in seconds.
    pub fn longest(&self) -> f64 {
        self.longest
    }

    /// The latency in seconds that `percent` of all do not exceed, within a percent; `None` before the first.
    pub fn percentile(&self, percent: f64) -> Option<f64> {
        let rank = (percent.clamp(0.0, 100.0) / 100.0 * self.count as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        let bucket = self.counts.iter().position(|&count| {
            seen += count;
            seen >= rank
        })?;
        Some((SHORTEST * GROWTH.powi(bucket as i32 + 1)).min(self.longest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_right_within_a_percent() {
        let mut histogram = LatencyHistogram::default();
        assert_eq!((histogram.percentile(50.0), histogram.mean()), (None, None));
        (1..=1000).for_each(|milliseconds| histogram.record(f64::from(milliseconds) / 1000.0));
        for percent in [1.0, 50.0, 95.0, 99.0, 99.9] {
            let found = histogram.percentile(percent).unwrap();
            assert!((found / (percent / 100.0) - 1.0).abs() < 0.011, "{percent}: {found}");
        }
        assert_eq!(histogram.percentile(100.0), Some(1.0));
        assert!((histogram.mean().unwrap() - 0.5005).abs() < 1e-9);
        for odd in [f64::NAN, -1.0, 0.0, 1e9, f64::INFINITY] {
            histogram.record(odd);
        }
        assert_eq!(histogram.count(), 1005);
    }
}
