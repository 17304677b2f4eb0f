//! Which tile kernel this machine runs.

use super::{TILE_ROWS, TILED_ROWS, portable};
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
}

impl Operand {
    /// Depth elements of one step.
    pub(crate) fn step(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::Bf16 | Self::Bf16Widened => 2,
            Self::Int8 => 4,
        }
    }

    /// Bytes of a row in one step.
    pub(crate) fn row_step_bytes(self) -> usize {
        match self {
            Self::Bf16Widened => 8,
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
    /// From here on, one cache line per step is fetched for a later tile. Need not be readable.
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
    tile: TileFunction,
}

type TileFunction = unsafe fn(&Tile<'_>);

impl Kernel {
    /// The fastest kernel of this machine.
    pub(crate) fn detect(precision: Precision) -> Self {
        Self::limited(precision, Level::Amx)
    }

    /// The fastest kernel of this machine that needs no more than `limit`.
    pub(crate) fn limited(precision: Precision, limit: Level) -> Self {
        let level = level().min(limit);
        let (operand, tile) = Self::choose(precision, level);
        Self { operand, level, tile }
    }

    #[cfg(target_arch = "x86_64")]
    fn choose(precision: Precision, level: Level) -> (Operand, TileFunction) {
        match (precision, level) {
            (precision, Level::Portable) => Self::choose_portable(precision),
            (Precision::F32, Level::Avx2) => (Operand::F32, avx2::tile_f32),
            (Precision::F32, _) => (Operand::F32, avx512::tile_f32),
            (Precision::Bf16, Level::Amx) => (Operand::Bf16, tiles::tile_bf16),
            (Precision::Int8, Level::Amx) => (Operand::Int8, tiles::tile_int8),
            (Precision::Bf16, Level::Avx512Bf16) => (Operand::Bf16, avx512::tile_bf16),
            (Precision::Bf16, _) => (Operand::Bf16Widened, avx2::tile_bf16_widened),
            (Precision::Int8, level) if level >= Level::Avx512 && is_x86_feature_detected!("avx512vnni") => {
                (Operand::Int8, avx512::tile_int8)
            }
            (precision, _) => Self::choose_portable(precision),
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn choose(precision: Precision, _: Level) -> (Operand, TileFunction) {
        Self::choose_portable(precision)
    }

    fn choose_portable(precision: Precision) -> (Operand, TileFunction) {
        match precision {
            Precision::F32 => (Operand::F32, portable::tile_f32),
            Precision::Bf16 => (Operand::Bf16Widened, portable::tile_bf16_widened),
            Precision::Int8 => (Operand::Int8, portable::tile_int8),
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

    /// Computes one tile.
    ///
    /// # Safety
    /// The addresses in `tile` must be readable (rows, panel) and writable (sums) as its fields say.
    #[allow(unsafe_code, reason = "the kernels read through raw addresses")]
    #[inline]
    pub(crate) unsafe fn run(&self, tile: &Tile<'_>) {
        debug_assert!((1..=self.rows()).contains(&tile.rows));
        // SAFETY: the function was chosen among those whose instructions this machine has; addresses by the caller.
        unsafe { (self.tile)(tile) }
    }
}
