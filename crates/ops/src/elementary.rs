//! Exponential, sigmoid, tanh and the error function as straight-line arithmetic, so that loops over them vectorise.

use crate::simd::multiply_add;
use crate::types::Activation;

/// 1.5·2²³: adding it leaves a float's nearest integer in the low bits of the mantissa.
const ROUND: f32 = 12_582_912.0;
pub(crate) const LOG2_E: f32 = std::f32::consts::LOG2_E;

/// 2^f on [-1/2, 1/2].
#[inline(always)]
fn power_of_fraction<const FUSED: bool>(fraction: f32) -> f32 {
    // Minimax polynomial with the first two terms held, its own error 1e-7: a degree more would gain nothing behind the
    // rounding.
    let mut power = 1.330_060_5e-3;
    power = multiply_add::<FUSED>(power, fraction, 9.669_691e-3);
    power = multiply_add::<FUSED>(power, fraction, 5.550_558_5e-2);
    power = multiply_add::<FUSED>(power, fraction, 2.402_228_3e-1);
    power = multiply_add::<FUSED>(power, fraction, std::f32::consts::LN_2);
    multiply_add::<FUSED>(power, fraction, 1.0)
}

/// 2 to the power of `exponent`, to 2 units in the last place; 0 below -126, infinite from 128 on, and not a number
/// stays one.
#[inline(always)]
pub(crate) fn exp2<const FUSED: bool>(exponent: f32) -> f32 {
    // Written so that a NaN passes through both comparisons.
    let bounded = if exponent > 127.999 { 127.999 } else { exponent };
    let bounded = if bounded < -126.0 { -126.0 } else { bounded };
    let shifted = bounded + ROUND;
    let fraction = bounded - (shifted - ROUND);
    let power = power_of_fraction::<FUSED>(fraction);
    // Scaling by 2^n in two halves: n = 128 has no float of its own.
    let whole = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let half = whole >> 1;
    let scale = |power: i32| f32::from_bits(((power.wrapping_add(127)) as u32) << 23);
    let value = power * scale(half) * scale(whole.wrapping_sub(half));
    let value = if exponent < -126.0 { 0.0 } else { value };
    if exponent > 127.999 { f32::INFINITY } else { value }
}

/// e to the power of `exponent`.
#[inline(always)]
pub(crate) fn exp<const FUSED: bool>(exponent: f32) -> f32 {
    // The product's rounding error is carried along, or large exponents would lose their last digits.
    let product = exponent * LOG2_E;
    exp2::<FUSED>(product)
}

/// 2 to the power of an exponent that is not positive, to 2 units in the last place: the softmax's, without the cases for
/// large results. 0 from -126.5 down, and not a number stays one.
#[inline(always)]
pub(crate) fn exp2_not_positive<const FUSED: bool>(exponent: f32) -> f32 {
    // Adding it leaves the nearest integer with the bias of a float's exponent: at -127 all bits are 0.
    const ROUND_BIASED: f32 = ROUND + 127.0;
    let bounded = if exponent < -127.0 { -127.0 } else { exponent };
    let shifted = bounded + ROUND_BIASED;
    let power = power_of_fraction::<FUSED>(bounded - (shifted - ROUND_BIASED));
    power * f32::from_bits(shifted.to_bits() << 23)
}

#[inline(always)]
fn silu<const FUSED: bool>(value: f32) -> f32 {
    value / (1.0 + exp::<FUSED>(-value))
}

#[inline(always)]
fn gelu_tanh<const FUSED: bool>(value: f32) -> f32 {
    // x·(1 + tanh u)/2 = x·sigmoid(2u), which keeps the left tail exact.
    let cube = value * value * value;
    let inner = 0.797_884_6 * multiply_add::<FUSED>(0.044_715, cube, value);
    value / (1.0 + exp::<FUSED>(-2.0 * inner))
}

/// GELU through the complementary error function of Abramowitz and Stegun 7.1.26 (absolute error 1.5e-7).
#[inline(always)]
fn gelu<const FUSED: bool>(value: f32) -> f32 {
    let argument = value.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / multiply_add::<FUSED>(0.327_591_1, argument, 1.0);
    let mut series = 1.061_405_4;
    series = multiply_add::<FUSED>(series, t, -1.453_152);
    series = multiply_add::<FUSED>(series, t, 1.421_413_7);
    series = multiply_add::<FUSED>(series, t, -0.284_496_74);
    series = multiply_add::<FUSED>(series, t, 0.254_829_6);
    let complement = 0.5 * series * t * exp::<FUSED>(-argument * argument);
    let share = if value < 0.0 { complement } else { 1.0 - complement };
    value * share
}

/// The activation of one value.
#[inline(always)]
pub(crate) fn activated<const FUSED: bool>(value: f32, activation: Activation) -> f32 {
    match activation {
        Activation::None => value,
        Activation::GeluTanh => gelu_tanh::<FUSED>(value),
        Activation::Gelu => gelu::<FUSED>(value),
        Activation::Silu => silu::<FUSED>(value),
    }
}

/// The derivative of an activation that has one in closed form here: not GELU by the error function.
#[inline(always)]
pub(crate) fn slope<const FUSED: bool>(value: f32, activation: Activation) -> f32 {
    match activation {
        Activation::Silu => {
            let gate = 1.0 / (1.0 + exp::<FUSED>(-value));
            gate * multiply_add::<FUSED>(value, 1.0 - gate, 1.0)
        }
        Activation::GeluTanh => {
            // x·s with s = sigmoid(2u): s + x·s·(1 − s)·2u'.
            let square = value * value;
            let inner = 0.797_884_6 * value * multiply_add::<FUSED>(0.044_715, square, 1.0);
            let gate = 1.0 / (1.0 + exp::<FUSED>(-2.0 * inner));
            let steepness = 2.0 * 0.797_884_6 * multiply_add::<FUSED>(3.0 * 0.044_715, square, 1.0);
            gate * multiply_add::<FUSED>(value * steepness, 1.0 - gate, 1.0)
        }
        Activation::None | Activation::Gelu => 1.0,
    }
}

/// The bf16 nearest to `value` (ties to even) in the upper half of the result; the lower half is not cleared. The
/// quiet NaN that arithmetic makes stays a NaN.
#[inline(always)]
pub(crate) fn rounded_bf16_bits(value: f32) -> u32 {
    let bits = value.to_bits();
    bits.wrapping_add(0x7fff).wrapping_add((bits >> 16) & 1)
}

/// Two bf16 numbers in one word, `first` in the lower half.
#[inline(always)]
pub(crate) fn bf16_pair(first: f32, second: f32) -> u32 {
    (rounded_bf16_bits(first) >> 16) | (rounded_bf16_bits(second) & 0xffff_0000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential_is_within_three_units_of_the_library() {
        for index in -87_000..88_000 {
            let exponent = index as f32 * 1e-3;
            let (ours, theirs) = (f64::from(exp2::<true>(exponent)), f64::from(exponent).exp2());
            assert!((ours - theirs).abs() <= 2.5e-7 * theirs, "{exponent}: {ours} {theirs}");
        }
        assert_eq!(exp2::<false>(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp2::<false>(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp2::<false>(0.0), 1.0);
        assert!(exp2::<false>(f32::NAN).is_nan());
    }

    #[test]
    fn softmax_exponential_is_within_two_units_of_the_library() {
        for index in 0..126_000 {
            let exponent = index as f32 * -1e-3;
            let (ours, theirs) = (f64::from(exp2_not_positive::<true>(exponent)), f64::from(exponent).exp2());
            assert!((ours - theirs).abs() <= 2e-7 * theirs, "{exponent}: {ours} {theirs}");
        }
        assert_eq!(exp2_not_positive::<false>(0.0), 1.0);
        for exponent in [-126.6, -200.0, f32::MIN, f32::NEG_INFINITY] {
            assert_eq!(exp2_not_positive::<false>(exponent).to_bits(), 0, "{exponent}");
        }
        assert!(exp2_not_positive::<false>(f32::NAN).is_nan());
    }

    #[test]
    fn bf16_rounds_to_nearest_even() {
        for value in [0.0f32, 1.0, -1.0, 1.003_906_3, 1.011_718_8, 3.3e38, -7.1e-30, f32::INFINITY] {
            let expected = u32::from(half::bf16::from_f32(value).to_bits());
            assert_eq!(bf16_pair(value, 0.0), expected);
            assert_eq!(bf16_pair(0.0, value), expected << 16);
        }
        assert!(half::bf16::from_bits(bf16_pair(f32::NAN, 0.0) as u16).is_nan());
    }
}
