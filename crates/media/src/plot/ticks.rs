//! Round numbers for axes.

/// Numbers of the form {1, 2, 2.5, 5}·10^n that cover `low..=high` with about `wanted` intervals, and how many decimals they need.
pub(super) fn linear(low: f64, high: f64, wanted: usize) -> (Vec<f64>, usize) {
    let step = step(high - low, wanted);
    let decimals = (0..12).find(|&decimals| is_whole(step * 10f64.powi(decimals))).unwrap_or(12) as usize;
    let (first, last) = ((low / step + 1e-9).floor() as i64, (high / step - 1e-9).ceil() as i64);
    ((first..=last).map(|index| index as f64 * step).collect(), decimals)
}

fn step(span: f64, wanted: usize) -> f64 {
    let rough = span / wanted.max(1) as f64;
    if !(rough.is_finite() && rough > 0.0) {
        return 1.0;
    }
    let unit = 10f64.powf(rough.log10().floor());
    // A few intervals more than wanted are better than half as many.
    let factor = [1.0, 2.0, 2.5, 5.0].into_iter().find(|factor| rough <= factor * unit * 1.2).unwrap_or(10.0);
    factor * unit
}

fn is_whole(value: f64) -> bool {
    (value - value.round()).abs() < 1e-6 * value.abs().max(1e-12)
}

/// Powers of ten that cover the range; with 2 and 5 between them when they are few.
pub(super) fn logarithmic(low: f64, high: f64) -> Vec<f64> {
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let between: &[f64] = if last - first <= 2 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let all: Vec<f64> =
        (first..=last).flat_map(|power| between.iter().map(move |factor| factor * 10f64.powi(power))).collect();
    // Cut to the last tick at or below the lowest value and the first at or above the highest.
    let start = all.iter().rposition(|&tick| tick <= low * 1.000_001).unwrap_or(0);
    let end = all.iter().position(|&tick| tick >= high * 0.999_999).unwrap_or(all.len().saturating_sub(1));
    all.get(start..=end).map(<[f64]>::to_vec).unwrap_or(all)
}

/// A tick of a logarithmic axis in its shortest form.
pub(super) fn short(value: f64) -> String {
    if value != 0.0 && !(1e-4..1e6).contains(&value.abs()) {
        return format!("{value:e}");
    }
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn round_numbers() {
        assert_eq!(linear(0.0, 1.0, 5), (vec![0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0], 1));
        assert_eq!(linear(17.0, 43.0, 5).0, [15.0, 20.0, 25.0, 30.0, 35.0, 40.0, 45.0]);
        assert_eq!(logarithmic(0.03, 0.4), [0.02, 0.05, 0.1, 0.2, 0.5]);
        assert_eq!(logarithmic(1e-4, 1.0).len(), 5);
        assert_eq!([short(0.05), short(100.0), short(1e-7)], ["0.05", "100", "1e-7"]);
    }

    proptest! {
        #[test]
        fn ticks_cover_and_are_few(low in -1e6f64..1e6, span in 1e-3f64..1e6, wanted in 2usize..10) {
            let (ticks, _) = linear(low, low + span, wanted);
            prop_assert!(ticks.len() <= wanted * 5 / 4 + 3);
            let (first, last) = (ticks[0], ticks[ticks.len() - 1]);
            prop_assert!(first <= low + 1e-6 * span && last >= low + span * (1.0 - 1e-6));
        }
    }
}
