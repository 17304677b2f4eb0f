//! Which tile kernel this machine runs.

use super::{Buffer, STRIP_COLUMNS, TILE_ROWS, TILED_ROWS, portable};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512, tiles};
use crate::simd::{Level, level};
use crate::types::Precision;

/// How rows and panels lie in memory. A *step* is four bytes of a panel's column: 1 `f32`, 2 `bf16` or 4 int8 of the depth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operand {
    /// `f32` rows, `f32` panels.
    F32,
    /// `bf16` rows, `bf16` panels.
    Bf16,
    /// `f32` rows, `bf16` panels: for machines without a `bf16` product.
    Bf16Widened,
    /// Unsigned 8-bit rows (offset 128, one scale per row), signed 8-bit panels (one scale per column).
    Int8,
    /// The same numbers as signed 16-bit rows, signed 8-bit panels: for machines without an 8-bit product.
    Int8Widened,
}

impl Operand {
    /// Depth elements of one step.
    pub(crate) fn step(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::Bf16 | Self::Bf16Widened => 2,
            Self::Int8 | Self::Int8Widened => 4,
        }
    }

    /// Whether sums are whole numbers, to be scaled.
    pub(crate) fn is_int8(self) -> bool {
        matches!(self, Self::Int8 | Self::Int8Widened)
    }

    /// Bytes of a row in one step.
    pub(crate) fn row_step_bytes(self) -> usize {
        match self {
            Self::Bf16Widened | Self::Int8Widened => 8,
            Self::F32 | Self::Bf16 | Self::Int8 => 4,
        }
    }
}

/// One tile to compute.
#[derive(Debug)]
pub(crate) struct Tile<'a> {
    /// Rows that count, 1 to [`Kernel::rows`].
    pub(crate) rows: usize,
    /// Address of each row's first step; those beyond `rows` are not read. Matrix tiles go by the first alone.
    pub(crate) pointers: &'a [*const u8; TILE_ROWS],
    /// Bytes from a row to the next, where rows were converted; whole tiles of rows can be read then.
    pub(crate) stride: usize,
    /// Columns that count.
    pub(crate) columns: usize,
    /// Steps to sum.
    pub(crate) steps: usize,
    /// The panel's first step, aligned to 64 bytes; `steps` steps of 256 bytes follow.
    pub(crate) panel: *const u8,
    /// From here on, one cache line per step is fetched for a later tile (matrix tiles fetch [`crate::amx::ahead_bytes`]).
    /// Need not be readable.
    pub(crate) ahead: *const u8,
    /// Sums of [`Kernel::rows`] rows, aligned to 64 bytes, row after row; for int8 they are `i32`.
    pub(crate) sums: *mut f32,
    /// Whether to add to what `sums` holds.
    pub(crate) accumulate: bool,
}

/// A tile kernel with the memory layout it reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernel {
    /// Layout of rows and panels.
    pub(crate) operand: Operand,
    /// Instructions it was chosen for.
    pub(crate) level: Level,
    way: Way,
}

type TileFunction = unsafe fn(&Tile<'_>);

/// All tiles of some rows by one strip.
#[derive(Debug)]
pub(crate) struct StripRun {
    /// The first row's first step.
    pub(crate) rows: *const u8,
    /// Bytes from a row to the next.
    pub(crate) stride: usize,
    /// Rows, at least 1.
    pub(crate) count: usize,
    /// Steps to sum.
    pub(crate) steps: usize,
    /// The strip's first step, aligned to 64 bytes; `steps` steps of 64 bytes follow.
    pub(crate) strip: *const u8,
    /// The strip's part of the first tile's sums, aligned to 64 bytes: [`TILE_ROWS`] rows of [`super::TILE_COLUMNS`]; for int8
    /// they are `i32`.
    pub(crate) sums: *mut f32,
    /// Sums from a tile to the next.
    pub(crate) tile_step: usize,
    /// Whether to add to what `sums` holds.
    pub(crate) accumulate: bool,
}

type StripFunction = unsafe fn(&StripRun);

/// Widens this many steps of a strip, from an address aligned to 64 bytes to another, [`Strips::widening`] times as many.
pub(crate) type Widen = unsafe fn(*const u8, usize, *mut u8);

/// How a kernel takes its panels.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// As wide as they are.
    Panels(TileFunction),
    /// In strips of [`STRIP_COLUMNS`], one behind the other in memory.
    Strips(Strips),
}

/// A kernel for strips of [`STRIP_COLUMNS`], a step of 64 bytes after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strips {
    multiply: StripFunction,
    /// For strips that are stored narrower than the kernel reads them.
    widen: Option<Widen>,
}

impl Strips {
    /// Steps that the kernel reads for each that is stored.
    pub(crate) fn widening(&self) -> usize {
        if self.widen.is_some() { 2 } else { 1 }
    }

    /// A strip of `steps` as the kernel reads it, in `room` if it has to be widened.
    ///
    /// # Panics
    /// When `room` is too small: a mistake in this crate.
    pub(crate) fn widen(&self, strip: &[u32], steps: usize, room: &mut Buffer) -> (*const u8, usize) {
        let Some(widen) = self.widen else { return (strip.as_ptr().cast(), steps) };
        assert!(strip.len() >= steps * STRIP_COLUMNS && room.words().len() >= 2 * steps * STRIP_COLUMNS);
        #[allow(unsafe_code, reason = "vectors are read and written through raw addresses")]
        // SAFETY: in bounds by the assertion; both start at a cache line; the function was chosen for this machine.
        unsafe {
            widen(strip.as_ptr().cast(), steps, room.as_mut_ptr());
        }
        (room.as_ptr(), 2 * steps)
    }

    /// Computes one strip of all tiles.
    ///
    /// # Safety
    /// The addresses in `run` must be readable (rows, strip) and writable (sums) as its fields say.
    #[allow(unsafe_code, reason = "the kernels read through raw addresses")]
    #[inline]
    pub(crate) unsafe fn run(&self, run: &StripRun) {
        // SAFETY: the function was chosen among those whose instructions this machine has; addresses by the caller.
        unsafe { (self.multiply)(run) }
    }
}

impl Kernel {
    /// The fastest kernel of this machine.
    pub(crate) fn detect(precision: Precision) -> Self {
        Self::limited(precision, Level::Amx)
    }

    /// The fastest kernel of this machine that needs no more than `limit`.
    pub(crate) fn limited(precision: Precision, limit: Level) -> Self {
        let level = level().min(limit);
        let (operand, way) = Self::choose(precision, level);
        Self { operand, level, way }
    }

    #[cfg(target_arch = "x86_64")]
    fn choose(precision: Precision, level: Level) -> (Operand, Way) {
        let panels = |operand, tile| (operand, Way::Panels(tile));
        let strips = |operand, multiply, widen| (operand, Way::Strips(Strips { multiply, widen }));
        match (precision, level) {
            (precision, Level::Portable) => Self::choose_portable(precision),
            (Precision::F32, Level::Avx2) => strips(Operand::F32, avx2::strip_f32, None),
            (Precision::F32, _) => panels(Operand::F32, avx512::tile_f32),
            (Precision::Bf16, Level::Amx) => panels(Operand::Bf16, tiles::tile_bf16),
            (Precision::Int8, Level::Amx) => panels(Operand::Int8, tiles::tile_int8),
            (Precision::Bf16, Level::Avx512Bf16) => panels(Operand::Bf16, avx512::tile_bf16),
            (Precision::Bf16, _) => strips(Operand::Bf16Widened, avx2::strip_f32, Some(avx2::widen_bf16)),
            (Precision::Int8, level) if level >= Level::Avx512 && is_x86_feature_detected!("avx512vnni") => {
                panels(Operand::Int8, avx512::tile_int8)
            }
            (Precision::Int8, _) => strips(Operand::Int8Widened, avx2::strip_pairs, Some(avx2::widen_int8)),
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn choose(precision: Precision, _: Level) -> (Operand, Way) {
        Self::choose_portable(precision)
    }

    fn choose_portable(precision: Precision) -> (Operand, Way) {
        let (operand, tile): (Operand, TileFunction) = match precision {
            Precision::F32 => (Operand::F32, portable::tile_f32),
            Precision::Bf16 => (Operand::Bf16Widened, portable::tile_bf16_widened),
            Precision::Int8 => (Operand::Int8, portable::tile_int8),
        };
        (operand, Way::Panels(tile))
    }

    /// The kernel for strips, if panels are taken that way.
    pub(crate) fn strips(&self) -> Option<Strips> {
        match self.way {
            Way::Strips(strips) => Some(strips),
            Way::Panels(_) => None,
        }
    }

    /// Whether the tile is computed by matrix tiles: a thread must shape its registers first.
    pub(crate) fn is_tiled(&self) -> bool {
        self.level == Level::Amx && matches!(self.operand, Operand::Bf16 | Operand::Int8)
    }

    /// Rows of a tile.
    pub(crate) fn rows(&self) -> usize {
        if self.is_tiled() { TILED_ROWS } else { TILE_ROWS }
    }

    /// Steps of a panel come in multiples of this.
    pub(crate) fn step_multiple(&self) -> usize {
        if self.is_tiled() { 16 } else { 1 }
    }

    /// Computes one tile by a kernel that takes panels as wide as they are.
    ///
    /// # Safety
    /// The addresses in `tile` must be readable (rows, panel) and writable (sums) as its fields say.
    #[allow(unsafe_code, reason = "the kernels read through raw addresses")]
    #[inline]
    pub(crate) unsafe fn run(&self, tile: &Tile<'_>) {
        debug_assert!((1..=self.rows()).contains(&tile.rows));
        let Way::Panels(function) = self.way else { unreachable!("strips have loops of their own") };
        // SAFETY: the function was chosen among those whose instructions this machine has; addresses by the caller.
        unsafe { function(tile) }
    }
}
