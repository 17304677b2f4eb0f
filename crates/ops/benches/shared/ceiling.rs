//! What the machine's multipliers can do at most: multiply-adds that never leave the registers.

use std::hint::black_box;
use std::time::Instant;

/// Multiply-adds of one vector that are in flight at once.
const CHAINS: usize = 12;
const ROUNDS: u64 = 200_000;

/// Best rate over all threads of the current rayon pool, in GFLOP/s, or nothing where the instructions are missing.
pub(crate) fn measure(bf16: bool) -> Option<f64> {
    let flops = flops_per_thread(bf16)? * rayon::current_num_threads() as f64;
    let run = || {
        let start = Instant::now();
        rayon::broadcast(|_| spin(bf16));
        flops / start.elapsed().as_secs_f64() / 1e9
    };
    (0..20).map(|_| run()).reduce(f64::max)
}

#[cfg(target_arch = "x86_64")]
fn flops_per_thread(bf16: bool) -> Option<f64> {
    let wide = is_x86_feature_detected!("avx512f");
    let per_instruction = match bf16 {
        true if wide && is_x86_feature_detected!("avx512bf16") => 64,
        false if wide => 32,
        false if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") => 16,
        _ => return None,
    };
    Some((ROUNDS * CHAINS as u64 * per_instruction) as f64)
}

#[cfg(not(target_arch = "x86_64"))]
fn flops_per_thread(_: bool) -> Option<f64> {
    None
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "the instructions were detected by flops_per_thread")]
fn spin(bf16: bool) {
    // SAFETY: detected.
    unsafe {
        match bf16 {
            true => spin_bf16(),
            false if is_x86_feature_detected!("avx512f") => spin_f32(),
            false => spin_f32_avx2(),
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn spin(_: bool) {}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn spin_f32() {
    use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_set1_ps};
    let (factor, term) = (_mm512_set1_ps(black_box(0.5)), _mm512_set1_ps(black_box(1.0)));
    let mut sums = [term; CHAINS];
    for _ in 0..ROUNDS {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(*sum, factor, term);
        }
    }
    black_box(sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn spin_f32_avx2() {
    use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_set1_ps};
    let (factor, term) = (_mm256_set1_ps(black_box(0.5)), _mm256_set1_ps(black_box(1.0)));
    let mut sums = [term; CHAINS];
    for _ in 0..ROUNDS {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(*sum, factor, term);
        }
    }
    black_box(sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
fn spin_bf16() {
    use std::arch::x86_64::{__m512bh, __m512i, _mm512_dpbf16_ps, _mm512_set1_epi16, _mm512_set1_ps};
    #[allow(unsafe_code, reason = "any bits are bf16")]
    // SAFETY: both are 512 plain bits.
    let factor = unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi16(black_box(0x3f00))) };
    let mut sums = [_mm512_set1_ps(black_box(1.0)); CHAINS];
    for _ in 0..ROUNDS {
        for sum in &mut sums {
            *sum = _mm512_dpbf16_ps(*sum, factor, factor);
        }
    }
    black_box(sums);
}
