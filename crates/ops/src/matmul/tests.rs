//! Every kernel of this machine against sums in `f64` over the rounded weights.

use proptest::prelude::*;

use super::*;
use crate::parallel::{Unwritten, written};
use crate::simd::Level;
use crate::types::Precision;

/// Values in ±1 that depend on the seed alone.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / 8_388_608.0 - 1.0
    };
    (0..length).map(|_| next()).collect()
}

struct Plain<'a> {
    output: &'a Unwritten,
    width: usize,
}

impl Sink for Plain<'_> {
    #[allow(unsafe_code, reason = "each tile has its own part of the output")]
    fn store(&self, tile: &Finished<'_>) {
        for row in 0..tile.rows {
            let start = (tile.first_row + row) * self.width + tile.first_column;
            // SAFETY: tiles are disjoint.
            let output = unsafe { self.output.part(start, tile.columns) };
            output.copy_from_slice(&tile.sums[row * TILE_COLUMNS..][..tile.columns]);
        }
    }
}

#[derive(Clone, Debug)]
struct Case {
    rows: usize,
    depth: usize,
    outputs: usize,
    precision: Precision,
    limit: Level,
    seed: u64,
}

fn cases() -> impl Strategy<Value = Case> {
    let precision = prop_oneof![Just(Precision::F32), Just(Precision::Bf16), Just(Precision::Int8)];
    let limit = prop_oneof![
        Just(Level::Portable),
        Just(Level::Avx2),
        Just(Level::Avx512),
        Just(Level::Avx512Bf16),
        Just(Level::Amx)
    ];
    // Depths beyond a block are rare but must come.
    let depth = prop_oneof![4 => 1..70usize, 1 => 2000..2600usize];
    (0..80usize, depth, 1..200usize, precision, limit, any::<u64>()).prop_map(
        |(rows, depth, outputs, precision, limit, seed)| Case { rows, depth, outputs, precision, limit, seed },
    )
}

fn product(case: &Case, values: &[f32], packed: &Packed) -> Vec<f32> {
    let rows = Rows::new(values, case.depth);
    #[allow(unsafe_code, reason = "as in linear layers")]
    // SAFETY: the product stores every tile.
    unsafe {
        written(case.rows * case.outputs, |output| {
            let sink = Plain { output, width: case.outputs };
            Product { rows, packed, sink: &sink, pair: None }.run();
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn products_agree_with_sums_in_double_precision(case in cases()) {
        let values = noise(case.seed, case.rows * case.depth);
        let weights = noise(case.seed ^ 1, case.outputs * case.depth);
        let shape = PackedShape { outputs: case.outputs, depth: case.depth };
        let weight = |output: usize, depth: usize| weights[output * case.depth + depth];
        let packed = Packed::for_kernel(shape, Kernel::limited(case.precision, case.limit), weight);
        let found = product(&case, &values, &packed);
        let rounding = match packed.kernel.operand {
            Operand::F32 | Operand::Bf16Widened => 1e-5,
            Operand::Bf16 => 4e-3,
            Operand::Int8 | Operand::Int8Widened => 1e-2,
        };
        for row in 0..case.rows {
            for output in 0..case.outputs {
                let rounded = |index: usize| f64::from(packed.value(output, index));
                let expected: f64 = (0..case.depth).map(|index| f64::from(values[row * case.depth + index]) * rounded(index)).sum();
                let error = (f64::from(found[row * case.outputs + output]) - expected).abs();
                prop_assert!(error <= rounding * (1.0 + (case.depth as f64).sqrt()), "{error} at {row}, {output}");
            }
        }
    }

    /// Whole numbers have no order: every machine gives the same bits.
    #[test]
    fn products_in_8_bits_are_the_same_on_every_machine(rows in 1..30usize, depth in 1..900usize, outputs in 1..90usize, seed: u64) {
        let case = |limit| Case { rows, depth, outputs, precision: Precision::Int8, limit, seed };
        let (values, weights) = (noise(seed, rows * depth), noise(seed ^ 1, outputs * depth));
        let found = [Level::Portable, Level::Avx2, Level::Avx512, Level::Amx].map(|limit| {
            let weight = |output: usize, index: usize| weights[output * depth + index];
            let packed = Packed::for_kernel(PackedShape { outputs, depth }, Kernel::limited(Precision::Int8, limit), weight);
            product(&case(limit), &values, &packed)
        });
        for other in &found[1..] {
            prop_assert_eq!(&found[0], other);
        }
    }

    #[test]
    fn weights_round_to_the_nearest(value in -3f32..3.0) {
        let shape = PackedShape { outputs: 1, depth: 2 };
        let pack = |precision| Packed::new(shape, precision, |_, depth| if depth == 0 { value } else { 3.0 });
        prop_assert_eq!(pack(Precision::F32).value(0, 0), value);
        prop_assert_eq!(pack(Precision::Bf16).value(0, 0), half::bf16::from_f32(value).to_f32());
        prop_assert!((pack(Precision::Int8).value(0, 0) - value).abs() <= 0.5001 * 3.0 / 127.0);
    }
}
