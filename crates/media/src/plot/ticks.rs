//! Round numbers for axes.

/// More ticks than this come only from numbers beyond the precision of `f64`.
const MOST: i64 = 1000;

/// The ends of an axis and the ticks between them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ticks {
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) values: Vec<f64>,
    /// Decimals that tell the values apart.
    pub(super) decimals: usize,
}

/// Ticks of the form {1, 2, 2.5, 5}·10^n in about `wanted` intervals. The ends lie at or beyond `low..=high`, at most half a tick.
pub(super) fn linear(low: f64, high: f64, wanted: usize) -> Ticks {
    let step = step(high - low, wanted);
    let half = step / 2.0;
    let decimals = (0..12).find(|&decimals| is_whole(step * 10f64.powi(decimals))).unwrap_or(12) as usize;
    let (first, last) = ((low / half + 1e-9).floor(), (high / half - 1e-9).ceil());
    let (low, high) = (first * half, last * half);
    let inside = (first / 2.0).ceil() as i64..=(last / 2.0).floor() as i64;
    let count = inside.end().saturating_sub(*inside.start());
    let values = if count > MOST { vec![low, high] } else { inside.map(|index| index as f64 * step).collect() };
    Ticks { low, high, values, decimals }
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

/// Powers of ten; with 2 and 5 between them when they are few. The ends are such numbers at or beyond `low..=high`.
pub(super) fn logarithmic(low: f64, high: f64) -> Ticks {
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let all: Vec<(f64, f64)> =
        (first..=last).flat_map(|power| [1.0, 2.0, 5.0].map(|factor| (factor, factor * 10f64.powi(power)))).collect();
    let low = all.iter().map(|all| all.1).rfind(|&tick| tick <= low * 1.000_001).unwrap_or(low);
    let high = all.iter().map(|all| all.1).find(|&tick| tick >= high * 0.999_999).unwrap_or(high);
    let many = high / low > 100.0;
    let shown = |&&(factor, tick): &&(f64, f64)| (factor == 1.0 || !many) && tick >= low && tick <= high;
    Ticks { low, high, values: all.iter().filter(shown).map(|all| all.1).collect(), decimals: 0 }
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
        let ticks = linear(0.0, 1.0, 5);
        assert_eq!((ticks.low, ticks.high, ticks.decimals), (0.0, 1.0, 1));
        assert_eq!(ticks.values, [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
        let ticks = linear(18.0, 43.0, 5);
        assert_eq!((ticks.low, ticks.high), (17.5, 45.0));
        assert_eq!(ticks.values, [20.0, 25.0, 30.0, 35.0, 40.0, 45.0]);
        assert_eq!(logarithmic(0.03, 0.4).values, [0.02, 0.05, 0.1, 0.2, 0.5]);
        let ticks = logarithmic(3e-4, 1.1);
        assert_eq!((ticks.low, ticks.high, ticks.values.len()), (2e-4, 2.0, 4));
        assert_eq!([short(0.05), short(100.0), short(1e-7)], ["0.05", "100", "1e-7"]);
    }

    #[test]
    fn the_ends_of_f64_end() {
        for (low, high) in
            [(f64::MIN, f64::MAX), (1e300, 1.1e300), (-1e-300, 1e-300), (1e16, 1e16 + 2.0), (0.0, f64::MIN_POSITIVE)]
        {
            assert!(linear(low, high, 6).values.len() <= 12);
        }
        assert!(logarithmic(f64::MIN_POSITIVE, f64::MAX).values.len() < 700);
    }

    proptest! {
        #[test]
        fn ticks_cover_and_are_few(low in -1e6f64..1e6, span in 1e-3f64..1e6, wanted in 2usize..10) {
            let ticks = linear(low, low + span, wanted);
            prop_assert!((2..=wanted * 5 / 4 + 3).contains(&ticks.values.len()));
            prop_assert!(ticks.low <= low + 1e-6 * span && ticks.high >= low + span * (1.0 - 1e-6));
        }
    }
}
