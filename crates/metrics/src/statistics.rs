//! Summaries of measurements, with one meaning each.

use crate::MetricsError;

/// What is said of a list of measurements.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// How many.
    pub count: usize,
    /// The least.
    pub min: f64,
    /// The middle one, see [`median`].
    pub median: f64,
    /// The arithmetic mean.
    pub mean: f64,
    /// The greatest.
    pub max: f64,
}

impl Summary {
    /// Summarises; `None` for an empty list.
    ///
    /// # Errors
    /// [`MetricsError::NotFinite`] for a NaN. Infinities (of a PSNR) are in order; the mean is then infinite too.
    pub fn of(values: &[f64]) -> Result<Option<Self>, MetricsError> {
        let sorted = sorted(values)?;
        let (Some(&min), Some(&max), Some(median), Some(mean)) =
            (sorted.first(), sorted.last(), median(values)?, mean(values))
        else {
            return Ok(None);
        };
        Ok(Some(Self { count: values.len(), min, median, mean, max }))
    }
}

/// The arithmetic mean; `None` for an empty list.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The middle value, or the mean of the two middle ones; `None` for an empty list.
///
/// # Errors
/// [`MetricsError::NotFinite`] for a NaN.
pub fn median(values: &[f64]) -> Result<Option<f64>, MetricsError> {
    percentile(values, 50.0)
}

/// The value below which `percent` of the values lie, linear between neighbours (numpy's default): of n sorted values, percentile p is
/// at place p/100·(n − 1). `None` for an empty list.
///
/// # Errors
/// [`MetricsError::NotFinite`] for a NaN, [`MetricsError::Percent`] outside 0..=100.
pub fn percentile(values: &[f64], percent: f64) -> Result<Option<f64>, MetricsError> {
    if !(0.0..=100.0).contains(&percent) {
        return Err(MetricsError::Percent { percent });
    }
    let sorted = sorted(values)?;
    let place = percent / 100.0 * sorted.len().saturating_sub(1) as f64;
    let (Some(&low), Some(&high)) = (sorted.get(place.floor() as usize), sorted.get(place.ceil() as usize)) else {
        return Ok(None);
    };
    let share = place.fract();
    // Infinities must not meet a weight of zero.
    Ok(Some(if share == 0.0 || low == high { low } else { low + (high - low) * share }))
}

/// The mean of a measure over all unordered pairs, for example the spread of pictures from one prompt; `None` below two items.
///
/// # Errors
/// The first error of `measure`.
pub fn mean_pairwise<T, E>(items: &[T], mut measure: impl FnMut(&T, &T) -> Result<f64, E>) -> Result<Option<f64>, E> {
    let (mut total, mut count) = (0.0, 0usize);
    for (index, left) in items.iter().enumerate() {
        for right in items.iter().skip(index + 1) {
            total += measure(left, right)?;
            count += 1;
        }
    }
    Ok((count > 0).then(|| total / count as f64))
}

fn sorted(values: &[f64]) -> Result<Vec<f64>, MetricsError> {
    if let Some(index) = values.iter().position(|value| value.is_nan()) {
        return Err(MetricsError::NotFinite { index, value: f64::NAN });
    }
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    Ok(sorted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn semantics() {
        let values = [4.0, 1.0, 3.0, 2.0];
        assert_eq!(percentile(&values, 0.0).unwrap(), Some(1.0));
        assert_eq!(percentile(&values, 25.0).unwrap(), Some(1.75));
        assert_eq!(median(&values).unwrap(), Some(2.5));
        assert_eq!(percentile(&values, 100.0).unwrap(), Some(4.0));
        assert_eq!(percentile(&[], 50.0).unwrap(), None);
        assert_eq!(median(&[f64::INFINITY, f64::INFINITY, 1.0]).unwrap(), Some(f64::INFINITY));
        assert!(
            median(&[1.0, f64::NAN]).is_err()
                && percentile(&values, 101.0).is_err()
                && percentile(&values, f64::NAN).is_err()
        );
        assert_eq!(
            Summary::of(&values).unwrap(),
            Some(Summary { count: 4, min: 1.0, median: 2.5, mean: 2.5, max: 4.0 })
        );
        assert_eq!(Summary::of(&[]).unwrap(), None);
    }

    #[test]
    fn pairs() {
        let distance = |left: &f64, right: &f64| Ok::<_, ()>((left - right).abs());
        assert_eq!(mean_pairwise(&[0.0, 1.0, 3.0], distance), Ok(Some(2.0)));
        assert_eq!(mean_pairwise(&[0.0], distance), Ok(None));
        assert_eq!(mean_pairwise(&[0.0, 1.0], |_, _| Err("no")), Err("no"));
    }

    proptest! {
        #[test]
        fn percentiles_grow_and_stay_within(values in proptest::collection::vec(-1e6f64..1e6, 1..40), low in 0.0f64..100.0, high in 0.0f64..100.0) {
            let (low, high) = (low.min(high), low.max(high));
            let (below, above) = (percentile(&values, low).unwrap().unwrap(), percentile(&values, high).unwrap().unwrap());
            let summary = Summary::of(&values).unwrap().unwrap();
            prop_assert!(below <= above + 1e-9 && summary.min <= below && above <= summary.max);
        }
    }
}
