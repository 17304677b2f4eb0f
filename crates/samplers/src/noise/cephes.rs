//! Logarithm, sine and cosine in f32 as PyTorch's vectorised normals compute them.
//!
//! `torch.randn` does not call the C library but single-precision polynomials after Moshier's Cephes, compiled with
//! fused multiply-add. To give the same bits, the same roundings happen here in the same order: where a product and a
//! sum are one `mul_add` and where they are two operations is part of the result. Compared on four million numbers.

/// `log(m) - (m - 1) + (m - 1)^2 / 2` over `(m - 1)^3`, highest power first.
const LOGARITHM: [f32; 9] = [
    7.037_683_6e-2,
    -1.151_461e-1,
    1.167_699_87e-1,
    -1.242_014_1e-1,
    1.424_932_3e-1,
    -1.666_805_8e-1,
    2.000_071_4e-1,
    -2.499_999_4e-1,
    3.333_333e-1,
];
/// The natural logarithm of two as a short number and its remainder, so that multiples of the first are exact.
const LN_2: (f32, f32) = (0.693_359_4, -2.121_944_4e-4);
/// A quarter of pi in three parts, negative, each short enough for exact multiples.
const MINUS_QUARTER_PI: [f32; 3] = [-0.785_156_25, -2.418_756_5e-4, -3.774_895e-8];
const COSINE: [f32; 3] = [2.443_315_7e-5, -1.388_731_6e-3, 4.166_664_6e-2];
const SINE: [f32; 3] = [-1.951_529_6e-4, 8.332_161e-3, -1.666_665_5e-1];

/// Horner's scheme, highest power first.
fn polynomial(coefficients: &[f32], argument: f32) -> f32 {
    coefficients.iter().fold(0.0, |value: f32, &coefficient| value.mul_add(argument, coefficient))
}

/// Natural logarithm of a positive normal number.
pub(super) fn log(argument: f32) -> f32 {
    let bits = argument.to_bits();
    let mut exponent = (bits >> 23) as f32 - 126.0;
    let mut mantissa = f32::from_bits(bits & 0x007F_FFFF | 0x3F00_0000);
    if mantissa < std::f32::consts::FRAC_1_SQRT_2 {
        exponent -= 1.0;
        mantissa += mantissa;
    }
    let distance = mantissa - 1.0;
    let square = distance * distance;
    let cubic = polynomial(&LOGARITHM, distance) * distance;
    let tail = cubic.mul_add(square, exponent * LN_2.1) - square * 0.5;
    distance + tail + exponent * LN_2.0
}

/// Sine and cosine of an angle in `0..=2 pi`.
pub(super) fn sine_cosine(angle: f32) -> (f32, f32) {
    let octant = ((angle * (4.0 / std::f32::consts::PI)) as i32 + 1) & !1;
    let reduced = MINUS_QUARTER_PI.iter().fold(angle, |rest, &part| (octant as f32).mul_add(part, rest));
    let square = reduced * reduced;
    let cosine = (polynomial(&COSINE, square) * square).mul_add(square, -(square * 0.5)) + 1.0;
    let sine = (polynomial(&SINE, square) * square).mul_add(reduced, reduced);
    let (sine, cosine) = if octant & 2 == 0 { (sine, cosine) } else { (cosine, sine) };
    let sine = if octant & 4 == 0 { sine } else { -sine };
    let cosine = if (octant - 2) & 4 == 0 { -cosine } else { cosine };
    (sine, cosine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_within_single_precision() {
        for step in 1..=10_000u16 {
            let argument = f32::from(step) / 10_000.0;
            assert!(
                (f64::from(log(argument)) - f64::from(argument).ln()).abs()
                    < 1e-6 * f64::from(argument).ln().abs().max(0.1)
            );
            let angle = argument * std::f32::consts::TAU;
            let (sine, cosine) = sine_cosine(angle);
            assert!((f64::from(sine) - f64::from(angle).sin()).abs() < 2e-7, "sine of {angle}");
            assert!((f64::from(cosine) - f64::from(angle).cos()).abs() < 2e-7, "cosine of {angle}");
        }
    }
}
