//! Frames per second as a fraction: 30000/1001 is no whole number.

/// Frames per second, both parts at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameRate {
    numerator: u32,
    denominator: u32,
}

impl FrameRate {
    /// What a clip has that does not say (a folder of PNGs, rawvideo): 16 frames per second, as Wan's clips.
    pub const DEFAULT: Self = Self { numerator: 16, denominator: 1 };

    /// A rate of `numerator / denominator` frames per second; `None` when either is 0.
    pub fn new(numerator: u32, denominator: u32) -> Option<Self> {
        (numerator > 0 && denominator > 0).then_some(Self { numerator, denominator })
    }

    /// Reads `30`, `29.97`, `30000/1001` or `30000:1001`.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some((numerator, denominator)) = text.split_once(['/', ':']) {
            return Self::new(numerator.parse().ok()?, denominator.parse().ok()?);
        }
        if let Ok(whole) = text.parse() {
            return Self::new(whole, 1);
        }
        let value: f64 = text.parse().ok()?;
        if !(0.001..=100_000.0).contains(&value) {
            return None;
        }
        Self::new((value * 1000.0).round() as u32, 1000)
    }

    /// The rate at which frames last so many milliseconds on average.
    pub fn from_milliseconds(milliseconds: f64) -> Option<Self> {
        let rate = 1000.0 / milliseconds;
        if !(0.001..=100_000.0).contains(&rate) {
            return None;
        }
        if (rate - rate.round()).abs() < 1e-6 {
            return Self::new(rate.round() as u32, 1);
        }
        Self::new((rate * 1000.0).round() as u32, 1000)
    }

    /// Numerator, at least 1.
    pub fn numerator(self) -> u32 {
        self.numerator
    }

    /// Denominator, at least 1.
    pub fn denominator(self) -> u32 {
        self.denominator
    }

    /// Frames per second.
    pub fn per_second(self) -> f64 {
        f64::from(self.numerator) / f64::from(self.denominator)
    }

    /// When frame `index` begins, in units of 1/`ticks_per_second` s, rounded: differences of neighbours are durations
    /// whose sum never drifts from the rate.
    pub fn ticks(self, index: u64, ticks_per_second: u32) -> u64 {
        let numerator = u128::from(self.numerator);
        let ticks = u128::from(index) * u128::from(self.denominator) * u128::from(ticks_per_second);
        u64::try_from((ticks + numerator / 2) / numerator).unwrap_or(u64::MAX)
    }
}

impl std::fmt::Display for FrameRate {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.denominator == 1 {
            write!(formatter, "{}", self.numerator)
        } else {
            write!(formatter, "{:.2}", self.per_second())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_people_write_them() {
        let parts = |text| FrameRate::parse(text).map(|rate| (rate.numerator(), rate.denominator()));
        assert_eq!(parts("30"), Some((30, 1)));
        assert_eq!(parts("30000/1001"), Some((30000, 1001)));
        assert_eq!(parts("25:2"), Some((25, 2)));
        assert_eq!(parts("29.97"), Some((29970, 1000)));
        for bad in ["0", "-3", "30/0", "inf", "NaN", "", "1/x"] {
            assert_eq!(FrameRate::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations_do_not_drift() {
        let rate = FrameRate::new(30, 1).unwrap();
        let delays: Vec<u64> = (0..6).map(|i| rate.ticks(i + 1, 100) - rate.ticks(i, 100)).collect();
        assert_eq!(delays, [3, 4, 3, 3, 4, 3]);
        assert_eq!(rate.ticks(3_000_000, 100), 10_000_000);
    }
}
