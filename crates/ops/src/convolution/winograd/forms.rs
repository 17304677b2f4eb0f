//! The forms of minimal filtering, each with its matrices written out: in one direction `Y = Aᵀ[(G g) ∘ (Bᵀ d)]` of
//! arXiv 1509.09308, §4.1, nested for two.

use crate::simd::multiply_add;

/// Most points of a tile, and most input pixels that it sees, in each direction.
pub(super) const MOST_POINTS: usize = 6;
/// Most input pixels from one tile to the next.
pub(super) const MOST_STEP: usize = 4;

/// Which form a convolution takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Form {
    /// F(2×2, 3×3).
    TwoByTwo,
    /// F(4×4, 3×3).
    FourByFour,
    /// Two by two pixels of every other one.
    EveryOther,
    /// Behind an enlargement by two.
    Enlarged,
}

impl Form {
    /// Result pixels of a tile in each direction.
    pub(super) fn pixels(self) -> usize {
        if self == Self::FourByFour { 4 } else { 2 }
    }

    /// Points of a tile in each direction.
    pub(super) fn side(self) -> usize {
        match self {
            Self::TwoByTwo => 4,
            Self::FourByFour => 6,
            Self::EveryOther => 5,
            Self::Enlarged => 3,
        }
    }
}

/// What a form does in one direction. A tile sees as many input pixels as it has points, `STEP` further on than the tile
/// before it.
pub(super) trait Matrices<const POINTS: usize, const PIXELS: usize, const STEP: usize> {
    /// `Bᵀ d`: the points of what a tile sees.
    fn of_input<const FUSED: bool>(seen: [f32; POINTS]) -> [f32; POINTS];

    /// `G g`: the points of a kernel's three taps.
    fn of_taps<const FUSED: bool>(taps: [f32; 3]) -> [f32; POINTS];

    /// `Aᵀ m`: the pixels of the points' sums.
    fn of_sums<const FUSED: bool>(sums: [f32; POINTS]) -> [f32; PIXELS];
}

/// F(2, 3) at the points 0, ±1 and infinity.
pub(super) struct TwoByTwo;

impl Matrices<4, 2, 2> for TwoByTwo {
    #[inline(always)]
    fn of_input<const FUSED: bool>([first, second, third, fourth]: [f32; 4]) -> [f32; 4] {
        [first - third, second + third, third - second, second - fourth]
    }

    #[inline(always)]
    fn of_taps<const FUSED: bool>([first, second, third]: [f32; 3]) -> [f32; 4] {
        let (outer, inner) = (0.5 * (first + third), 0.5 * second);
        [first, outer + inner, outer - inner, third]
    }

    #[inline(always)]
    fn of_sums<const FUSED: bool>([first, second, third, fourth]: [f32; 4]) -> [f32; 2] {
        [first + second + third, second - third - fourth]
    }
}

/// F(4, 3) at the points 0, ±√½, ±√2 and infinity. Their product with 1 is 1, so nothing grows much: in f32 the result's
/// error is 1.7 times that of one running sum (relative, root mean square, 640 channels), where the usual ±1 and ±2 make
/// it 3.6 times.
pub(super) struct FourByFour;

/// The smaller of the points.
const NEAR: f32 = std::f32::consts::FRAC_1_SQRT_2;
/// The larger of the points.
const FAR: f32 = std::f32::consts::SQRT_2;

impl Matrices<6, 4, 4> for FourByFour {
    #[inline(always)]
    fn of_input<const FUSED: bool>([first, second, third, fourth, fifth, sixth]: [f32; 6]) -> [f32; 6] {
        let (near_even, near_odd) =
            (multiply_add::<FUSED>(-2.0, third, fifth), multiply_add::<FUSED>(-2.0, second, fourth));
        let (far_even, far_odd) =
            (multiply_add::<FUSED>(-0.5, third, fifth), multiply_add::<FUSED>(-0.5, second, fourth));
        [
            multiply_add::<FUSED>(-2.5, third, first + fifth),
            multiply_add::<FUSED>(NEAR, near_odd, near_even),
            multiply_add::<FUSED>(-NEAR, near_odd, near_even),
            multiply_add::<FUSED>(FAR, far_odd, far_even),
            multiply_add::<FUSED>(-FAR, far_odd, far_even),
            multiply_add::<FUSED>(-2.5, fourth, second + sixth),
        ]
    }

    #[inline(always)]
    fn of_taps<const FUSED: bool>([first, second, third]: [f32; 3]) -> [f32; 6] {
        let near = multiply_add::<FUSED>(0.5, third, first) * (-2.0 / 3.0);
        let far = multiply_add::<FUSED>(2.0, third, first) * (1.0 / 6.0);
        [
            first,
            multiply_add::<FUSED>(-2.0 / 3.0 * NEAR, second, near),
            multiply_add::<FUSED>(2.0 / 3.0 * NEAR, second, near),
            multiply_add::<FUSED>(1.0 / 6.0 * FAR, second, far),
            multiply_add::<FUSED>(-1.0 / 6.0 * FAR, second, far),
            third,
        ]
    }

    #[inline(always)]
    fn of_sums<const FUSED: bool>([first, second, third, fourth, fifth, sixth]: [f32; 6]) -> [f32; 4] {
        let (near_even, near_odd) = (second + third, NEAR * (second - third));
        let (far_even, far_odd) = (fourth + fifth, FAR * (fourth - fifth));
        [
            first + near_even + far_even,
            near_odd + far_odd,
            multiply_add::<FUSED>(0.5, near_even, 2.0 * far_even),
            multiply_add::<FUSED>(0.5, near_odd, multiply_add::<FUSED>(2.0, far_odd, sixth)),
        ]
    }
}

/// With stride 2, two taps fall on every other pixel and one between them: the first are a filter F(2, 2) of three
/// products, the other takes two.
pub(super) struct EveryOther;

impl Matrices<5, 2, 4> for EveryOther {
    #[inline(always)]
    fn of_input<const FUSED: bool>([first, second, third, fourth, fifth]: [f32; 5]) -> [f32; 5] {
        [first - third, third, fifth - third, second, fourth]
    }

    #[inline(always)]
    fn of_taps<const FUSED: bool>([first, second, third]: [f32; 3]) -> [f32; 5] {
        [first, first + third, third, second, second]
    }

    #[inline(always)]
    fn of_sums<const FUSED: bool>([first, second, third, fourth, fifth]: [f32; 5]) -> [f32; 2] {
        [first + second + fourth, second + third + fifth]
    }
}

/// Behind an enlargement by two the input pixels are x₋₁ x₋₁ x₀ x₀ x₁ x₁, and the two results at x₀ are
/// k₀x₋₁ + (k₁ + k₂)x₀ and (k₀ + k₁)x₀ + k₂x₁. Both contain (k₀ + k₁ + k₂)x₀; what remains are k₀(x₋₁ - x₀) and
/// k₂(x₁ - x₀): three products instead of four, and of the kernel as it is.
pub(super) struct Enlarged;

impl Matrices<3, 2, 1> for Enlarged {
    #[inline(always)]
    fn of_input<const FUSED: bool>([before, here, behind]: [f32; 3]) -> [f32; 3] {
        [before - here, here, behind - here]
    }

    #[inline(always)]
    fn of_taps<const FUSED: bool>([first, second, third]: [f32; 3]) -> [f32; 3] {
        [first, first + second + third, third]
    }

    #[inline(always)]
    fn of_sums<const FUSED: bool>([before, here, behind]: [f32; 3]) -> [f32; 2] {
        [before + here, here + behind]
    }
}
