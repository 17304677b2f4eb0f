//! Pointwise functions that compilers vectorise: no calls, no branches, one result on every machine.
//!
//! Multiply and add stay apart (no fused operation), so that a loop compiled for AVX-512 and its scalar remainder agree
//! bit for bit.

use crate::types::Activation;

/// `e^x` to 2 units in the last place; 0 below -87.3, about 2.4e38 above 88.3, NaN stays NaN.
#[inline(always)]
pub(crate) fn exp(value: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    let value = if value > 88.3 { 88.3 } else { value };
    let clamped = if value < -87.3 { -87.3 } else { value };
    // value = n ln 2 + rest, with n in the low bits of the rounded sum.
    let rounded = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let rest = clamped - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let series = 1.987_569_1e-4 * rest + 1.398_199_9e-3;
    let series = series * rest + 8.333_452e-3;
    let series = series * rest + 4.166_579_6e-2;
    let series = series * rest + 1.666_666_5e-1;
    let series = series * rest + 0.5;
    let series = series * rest * rest + rest + 1.0;
    let result = f32::from_bits(series.to_bits().wrapping_add(rounded.to_bits() << 23));
    if value < -87.3 { 0.0 } else { result }
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid(value: f32) -> f32 {
    1.0 / (1.0 + exp(-value))
}

/// `x * sigmoid(x)`.
#[inline(always)]
pub(crate) fn silu(value: f32) -> f32 {
    value / (1.0 + exp(-value))
}

/// GELU by its tanh approximation, as `x * sigmoid(2 z)`: `tanh z = 2 sigmoid(2 z) - 1`.
#[inline(always)]
pub(crate) fn gelu_tanh(value: f32) -> f32 {
    let doubled = 1.595_769_1 * (value + 0.044_715 * value * value * value);
    value / (1.0 + exp(-doubled))
}

/// The error function to 1.5e-7 (Abramowitz and Stegun 7.1.26).
#[inline(always)]
pub(crate) fn erf(value: f32) -> f32 {
    let magnitude = value.abs();
    let t = 1.0 / (1.0 + 0.327_591_1 * magnitude);
    let series = 1.061_405_4 * t - 1.453_152_1;
    let series = series * t + 1.421_413_8;
    let series = series * t - 0.284_496_72;
    let series = (series * t + 0.254_829_6) * t;
    (1.0 - series * exp(-value * value)).copysign(value)
}

/// GELU by the error function.
#[inline(always)]
pub(crate) fn gelu(value: f32) -> f32 {
    0.5 * value * (1.0 + erf(value * std::f32::consts::FRAC_1_SQRT_2))
}

/// Applies `activation` to each of `values`.
#[inline(always)]
pub(crate) fn activate(activation: Activation, values: &mut [f32]) {
    match activation {
        Activation::None => {}
        Activation::GeluTanh => values.iter_mut().for_each(|value| *value = gelu_tanh(*value)),
        Activation::Gelu => values.iter_mut().for_each(|value| *value = gelu(*value)),
        Activation::Silu => values.iter_mut().for_each(|value| *value = silu(*value)),
    }
}
