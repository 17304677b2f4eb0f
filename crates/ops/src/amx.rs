//! The matrix tiles of recent Intel machines (AMX): eight registers of 16 rows by 64 bytes, and one instruction that
//! multiplies two of them onto a third.
//!
//! The compiler's stable release has no intrinsics for them, so the inner loop is assembly. A tile of the left factor is
//! 16 rows of 64 bytes wherever they lie at one distance; a tile of the right factor is 16 steps of 16 columns of a
//! panel as [`crate::matmul`] packs it (a step is four bytes of a column: two `bf16` or four 8-bit numbers). Two by two
//! tiles of sums keep the multiplier busy: four loads, of 8 cycles each, for four products of 16 cycles.
#![allow(unsafe_code, reason = "assembly on raw addresses that the caller vouches for")]

use std::arch::asm;
use std::sync::OnceLock;

/// Rows of a tile register.
pub(crate) const ROWS: usize = 16;
/// Bytes of a tile register's row.
pub(crate) const ROW_BYTES: usize = 64;
/// Columns of sums, and of a panel: four tile registers, two at a time.
pub(crate) const COLUMNS: usize = 64;
/// Bytes from a panel's 16 steps to the next.
const PANEL_BYTES: usize = ROWS * COLUMNS * 4;
/// Bytes asked for ahead by each 16 steps of half a panel: four cache lines, as eight blocks of rows or more pass a panel.
const AHEAD_BYTES: usize = 256;

/// Whether this machine has the tiles, and the system lets this process use them.
pub(crate) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| in_processor() && system_agrees())
}

/// Tiles with products of `bf16` and of 8-bit integers.
fn in_processor() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const NEEDED: u32 = 1 << 22 | 1 << 24 | 1 << 25;
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & NEEDED == NEEDED
}

/// Linux keeps the tiles' 8 KiB out of a process's state until it asks; all threads have them from then on.
#[cfg(target_os = "linux")]
fn system_agrees() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const REQUEST_PERMISSION: i64 = 0x1023;
    const TILE_DATA: i64 = 18;
    let result: i64;
    // SAFETY: the call changes nothing but what the process may use; it clobbers rcx and r11 as every system call does.
    unsafe {
        asm!("syscall", inlateout("rax") ARCH_PRCTL => result, in("rdi") REQUEST_PERMISSION, in("rsi") TILE_DATA,
            out("rcx") _, out("r11") _, options(nostack));
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn system_agrees() -> bool {
    false
}

/// The tile registers of this thread, shaped for whole tiles until it is dropped. A thread in between tasks holds none, so
/// that the system need not save them.
pub(crate) struct Tiles(());

impl Tiles {
    /// Shapes the registers.
    ///
    /// # Panics
    /// On a machine without them: a mistake in this crate.
    pub(crate) fn shape() -> Self {
        #[repr(C, align(64))]
        struct Shape([u8; 64]);
        static SHAPE: Shape = {
            let mut bytes = [0u8; 64];
            bytes[0] = 1;
            let mut register = 0;
            while register < 8 {
                bytes[16 + 2 * register] = ROW_BYTES as u8;
                bytes[48 + register] = ROWS as u8;
                register += 1;
            }
            Shape(bytes)
        };
        assert!(available(), "tiles on a machine without them");
        // SAFETY: the machine has the instruction, which reads 64 bytes.
        unsafe {
            asm!("ldtilecfg [{shape}]", shape = in(reg) &raw const SHAPE.0, options(nostack, readonly, preserves_flags),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _);
        }
        Self(())
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: the machine has the instruction, as the registers were shaped.
        unsafe {
            asm!("tilerelease", options(nostack, nomem, preserves_flags),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _);
        }
    }
}

/// What is multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Numbers {
    /// Pairs of `bf16`, summed in `f32`.
    Bf16,
    /// Fours of unsigned by signed 8-bit integers, summed in `i32`.
    Int8,
}

/// One or two tiles of rows by one panel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block<'a> {
    /// First row of each of the two tiles of rows; without the second only the first [`ROWS`] are computed.
    pub(crate) rows: (*const u8, Option<*const u8>),
    /// Bytes from a row to the next.
    pub(crate) stride: usize,
    /// Where each run of 16 steps lies, in bytes from a row's beginning.
    pub(crate) offsets: &'a [u32],
    /// The panel: 16 steps of [`COLUMNS`] columns for each offset.
    pub(crate) panel: *const u8,
    /// What a later panel needs, into the second-level cache: [`ahead_bytes`] from here on. Need not be readable.
    pub(crate) ahead: *const u8,
    /// Columns that count, rounded up to 16 here.
    pub(crate) columns: usize,
    /// First row of sums of each tile of rows.
    pub(crate) sums: (*mut f32, *mut f32),
    /// Sums from one row to the next.
    pub(crate) sums_step: usize,
    /// Whether to add to what `sums` holds.
    pub(crate) accumulate: bool,
}

/// Bytes that a block of `runs` runs of 16 steps asks for ahead.
pub(crate) const fn ahead_bytes(runs: usize) -> usize {
    2 * runs * AHEAD_BYTES
}

/// Multiplies one block.
///
/// # Safety
/// The thread's tiles are shaped; 16 rows of 64 bytes are readable at each offset from each tile's first row, `offsets`
/// times 16 steps at the panel, and 16 rows of sums per tile of rows are writable.
pub(crate) unsafe fn multiply(numbers: Numbers, block: &Block<'_>) {
    let (mut column, mut block) = (0, *block);
    while column < block.columns {
        let panel = block.panel.wrapping_add(column * 4);
        let sums = (block.sums.0.wrapping_add(column), block.sums.1.wrapping_add(column));
        let wide = block.columns - column > ROWS;
        // SAFETY: the caller's promise; the columns lie inside the panel.
        unsafe {
            match (numbers, block.rows.1, wide) {
                (Numbers::Bf16, Some(second), true) => bf16_2x2(&block, second, panel, sums),
                (Numbers::Bf16, None, true) => bf16_1x2(&block, panel, sums),
                (Numbers::Bf16, Some(second), false) => bf16_2x1(&block, second, panel, sums),
                (Numbers::Bf16, None, false) => bf16_1x1(&block, panel, sums),
                (Numbers::Int8, Some(second), true) => int8_2x2(&block, second, panel, sums),
                (Numbers::Int8, None, true) => int8_1x2(&block, panel, sums),
                (Numbers::Int8, Some(second), false) => int8_2x1(&block, second, panel, sums),
                (Numbers::Int8, None, false) => int8_1x1(&block, panel, sums),
            }
        }
        column += 2 * ROWS;
        block.ahead = block.ahead.wrapping_add(block.offsets.len() * AHEAD_BYTES);
    }
}

/// Defines one loop: what it does before, at each offset, and after.
macro_rules! tile_loop {
    ($name:ident($($second:ident)?), zero: [$($zero:literal),*], load: [$($load:literal),*], step: [$($step:literal),*],
     store: [$($store:literal),*]) => {
        unsafe fn $name(block: &Block<'_>, $($second: *const u8,)? panel: *const u8, sums: (*mut f32, *mut f32)) {
            // SAFETY: by the caller of `multiply`; the registers were shaped for whole tiles.
            unsafe {
                if block.accumulate {
                    asm!($($load),*, sums = in(reg) sums.0, lower = in(reg) sums.1, apart = in(reg) block.sums_step * 4, options(nostack));
                } else {
                    asm!($($zero),*, options(nostack, nomem));
                }
                if !block.offsets.is_empty() {
                    asm!(
                        "2:",
                        "mov {offset:e}, dword ptr [{offsets}]",
                        "lea {row}, [{first} + {offset}]",
                        $($step),*,
                        "prefetcht1 [{ahead}]",
                        "prefetcht1 [{ahead} + 64]",
                        "prefetcht1 [{ahead} + 128]",
                        "prefetcht1 [{ahead} + 192]",
                        "add {ahead}, {ahead_bytes}",
                        "add {panel}, {panel_bytes}",
                        "add {offsets}, 4",
                        "dec {count}",
                        "jnz 2b",
                        offset = out(reg) _,
                        row = out(reg) _,
                        first = in(reg) block.rows.0,
                        $(second = in(reg) $second,)?
                        stride = in(reg) block.stride,
                        offsets = inout(reg) block.offsets.as_ptr() => _,
                        count = inout(reg) block.offsets.len() => _,
                        panel = inout(reg) panel => _,
                        ahead = inout(reg) block.ahead => _,
                        ahead_bytes = const AHEAD_BYTES,
                        apart = in(reg) COLUMNS * 4,
                        panel_bytes = const PANEL_BYTES,
                        options(nostack),
                    );
                }
                asm!($($store),*, sums = in(reg) sums.0, lower = in(reg) sums.1, apart = in(reg) block.sums_step * 4, options(nostack),
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _);
            }
        }
    };
}

/// The four shapes of a block, for one instruction.
macro_rules! tile_loops {
    ($wide:ident, $flat:ident, $narrow:ident, $single:ident, $p0:literal, $p1:literal, $p2:literal, $p3:literal) => {
        tile_loop!($wide(second),
            zero: ["tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3"],
            load: ["tileloadd tmm0, [{sums} + {apart}*1]", "tileloadd tmm1, [{sums} + {apart}*1 + 64]",
                   "tileloadd tmm2, [{lower} + {apart}*1]", "tileloadd tmm3, [{lower} + {apart}*1 + 64]"],
            step: ["tileloadd tmm6, [{panel} + {apart}*1]", "tileloadd tmm4, [{row} + {stride}*1]", $p0,
                   "tileloadd tmm7, [{panel} + {apart}*1 + 64]", $p1,
                   "lea {row}, [{second} + {offset}]", "tileloadd tmm5, [{row} + {stride}*1]", $p2, $p3],
            store: ["tilestored [{sums} + {apart}*1], tmm0", "tilestored [{sums} + {apart}*1 + 64], tmm1",
                    "tilestored [{lower} + {apart}*1], tmm2", "tilestored [{lower} + {apart}*1 + 64], tmm3"]);
        tile_loop!($flat(),
            zero: ["tilezero tmm0", "tilezero tmm1"],
            load: ["tileloadd tmm0, [{sums} + {apart}*1]", "tileloadd tmm1, [{sums} + {apart}*1 + 64] # {lower}"],
            step: ["tileloadd tmm6, [{panel} + {apart}*1]", "tileloadd tmm4, [{row} + {stride}*1]", $p0,
                   "tileloadd tmm7, [{panel} + {apart}*1 + 64]", $p1],
            store: ["tilestored [{sums} + {apart}*1], tmm0", "tilestored [{sums} + {apart}*1 + 64], tmm1 # {lower}"]);
        tile_loop!($narrow(second),
            zero: ["tilezero tmm0", "tilezero tmm2"],
            load: ["tileloadd tmm0, [{sums} + {apart}*1]", "tileloadd tmm2, [{lower} + {apart}*1]"],
            step: ["tileloadd tmm6, [{panel} + {apart}*1]", "tileloadd tmm4, [{row} + {stride}*1]", $p0,
                   "lea {row}, [{second} + {offset}]", "tileloadd tmm5, [{row} + {stride}*1]", $p2],
            store: ["tilestored [{sums} + {apart}*1], tmm0", "tilestored [{lower} + {apart}*1], tmm2"]);
        tile_loop!($single(),
            zero: ["tilezero tmm0"],
            load: ["tileloadd tmm0, [{sums} + {apart}*1] # {lower}"],
            step: ["tileloadd tmm6, [{panel} + {apart}*1]", "tileloadd tmm4, [{row} + {stride}*1]", $p0],
            store: ["tilestored [{sums} + {apart}*1], tmm0 # {lower}"]);
    };
}

tile_loops!(
    bf16_2x2,
    bf16_1x2,
    bf16_2x1,
    bf16_1x1,
    "tdpbf16ps tmm0, tmm4, tmm6",
    "tdpbf16ps tmm1, tmm4, tmm7",
    "tdpbf16ps tmm2, tmm5, tmm6",
    "tdpbf16ps tmm3, tmm5, tmm7"
);
tile_loops!(
    int8_2x2,
    int8_1x2,
    int8_2x1,
    int8_1x1,
    "tdpbusd tmm0, tmm4, tmm6",
    "tdpbusd tmm1, tmm4, tmm7",
    "tdpbusd tmm2, tmm5, tmm6",
    "tdpbusd tmm3, tmm5, tmm7"
);
