//! Which vector instructions this machine has, and loops compiled once for each.

use std::sync::atomic::{AtomicU8, Ordering};

/// Vector instructions, narrowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Level {
    /// Whatever the compiler's baseline has.
    Portable = 1,
    /// AVX2 with fused multiply-add.
    Avx2 = 2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512 = 3,
    /// The same with products of bf16 pairs.
    Avx512Bf16 = 4,
    /// The same with matrix tiles.
    Amx = 5,
}

/// 0 until the machine has been asked.
static LEVEL: AtomicU8 = AtomicU8::new(0);

/// The widest instructions of this machine, asked once.
pub(crate) fn level() -> Level {
    match LEVEL.load(Ordering::Relaxed) {
        1 => Level::Portable,
        2 => Level::Avx2,
        3 => Level::Avx512,
        4 => Level::Avx512Bf16,
        5 => Level::Amx,
        _ => {
            let found = detect();
            LEVEL.store(found as u8, Ordering::Relaxed);
            found
        }
    }
}

/// Lets a test run the code of a narrower machine. It holds for the whole process: nextest gives each test its own.
#[cfg(test)]
pub(crate) fn pretend(level: Level) {
    LEVEL.store(level.min(detect()) as u8, Ordering::Relaxed);
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Level {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    match (avx2, avx512) {
        (true, true) if is_x86_feature_detected!("avx512bf16") => {
            if crate::amx::available() {
                Level::Amx
            } else {
                Level::Avx512Bf16
            }
        }
        (true, true) => Level::Avx512,
        (true, false) => Level::Avx2,
        _ => Level::Portable,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Level {
    Level::Portable
}

/// `a·b + c`, in one rounding where the instructions have it (elsewhere that would be a slow library call).
#[inline(always)]
pub(crate) fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// Asks for values that will soon be read or written whole, so that nobody waits for memory then.
#[inline(always)]
pub(crate) fn fetch(values: &[f32]) {
    fetch_at(values.as_ptr(), values.len());
}

/// The same for `length` values from an address on, which nothing is read from.
#[inline(always)]
pub(crate) fn fetch_at(values: *const f32, length: usize) {
    /// Values of a cache line.
    const LINE: usize = 16;
    #[cfg(target_arch = "x86_64")]
    for place in (0..length).step_by(LINE) {
        #[allow(unsafe_code)]
        // SAFETY: a hint, which every such machine has and which faults at no address.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(values.wrapping_add(place).cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (values, length, LINE);
}

/// The same for what is needed later than that: into the second-level cache, as the first has no room for it yet.
#[inline(always)]
pub(crate) fn fetch_early(words: &[u32]) {
    /// Words of a cache line.
    const LINE: usize = 16;
    #[cfg(target_arch = "x86_64")]
    for line in words.chunks(LINE) {
        #[allow(unsafe_code)]
        // SAFETY: a hint, which every such machine has and which faults at no address.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(line.as_ptr().cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (words, LINE);
}

/// Compiles a function's body for each level and calls the widest that this machine has. Inside, `FUSED` says whether
/// fused multiply-add exists; the loops are plain Rust which the compiler vectorises.
macro_rules! multiversion {
    ($(#[$attribute:meta])* $visibility:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$attribute])*
        #[allow(unsafe_code)]
        $visibility fn $name($($argument: $type),*) $(-> $result)? {
            #[inline(always)]
            #[allow(clippy::extra_unused_type_parameters)]
            fn body<const FUSED: bool>($($argument: $type),*) $(-> $result)? $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            fn wide($($argument: $type),*) $(-> $result)? { body::<true>($($argument),*) }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn narrow($($argument: $type),*) $(-> $result)? { body::<true>($($argument),*) }
            match $crate::simd::level() {
                // SAFETY: `level` found these instructions on this machine.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Level::Avx512 | $crate::simd::Level::Avx512Bf16 | $crate::simd::Level::Amx => unsafe { wide($($argument),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Level::Avx2 => unsafe { narrow($($argument),*) },
                _ => body::<false>($($argument),*),
            }
        }
    };
}
pub(crate) use multiversion;
