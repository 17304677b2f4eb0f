//! The matrix product beneath linear layers.
//!
//! A product is `rows [m, k] * weight^T [k, n]`. The weight is packed once ([`Packed`]); rows are read where they lie
//! (`f32`) or rounded into a thread's scratch (`bf16`, int8). A *tile* is [`TILE_ROWS`] rows by [`TILE_COLUMNS`] columns,
//! held in registers over the whole depth; a finished tile goes to a [`Sink`], which adds bias, activation, gate and
//! residual and writes the output.
//!
//! Every element is summed over the depth in one fixed order, whatever tile, block or thread it falls to: rows are
//! bit-identical however many others there are.
//!
//! # Why own kernels
//! oneDNN is the library to beat, and was measured in turn with these kernels, through PyTorch and with its weights packed
//! as it likes (`benches/peers/products.py`; tables with date and machine in `benches/peers/results`). On a 2-core AMD Zen 4
//! (multipliers at most 450 GFLOP/s in `bf16`, 225 in `f32`) it reaches 390 to 445 GFLOP/s in `bf16` on large layers; these
//! kernels reach 0.98 to 1.05 of it on every layer of DiT-XL/2 and of the built-in model (1.3 on its smallest), and on those
//! of SD 1.5 but the 320-channel ones, where writing `f32` where it writes `bf16` leaves 0.92 to 0.95; in `f32` 0.97 to 1.3.
//! What decided is the rest: oneDNN is a C++ build of many minutes that needs cmake, or a system package that few users
//! have (38 MB of library on Debian 12, in version 2.6); it wants `bf16` activations, a conversion before and after each
//! product; and it cannot add the gate and residual of an adaptive layer norm or multiply the halves of a gated
//! feed-forward as it writes. The `gemm` crate widens `bf16`
//! (179 GFLOP/s) and packs both sides at every call.
//!
//! # What the shapes of the loops come from
//! A tile of 6 by 4 registers loads 10 words for 24 multiply-adds, and a row's words are broadcast from where they lie, so
//! rows are converted but never interleaved. A panel's part of up to 288 KiB stays in the second-level cache while a
//! block of 96 to 192 rows passes; what a Zen 4 core cannot hide is fetched ahead: the output's lines while the tile sums
//! (8192x320x320: 329 to 364 GFLOP/s), and the next block's rows while the last panel passes (another 3 to 5 %). Fetching
//! panels ahead gained nothing, even from memory.
//!
//! A machine with AVX2 alone has 16 registers: six rows by two of its columns, and 512 KiB where others have one or two
//! megabytes. There a panel lies strip by strip (16 columns), a strip's part of 384 steps stays in the first-level cache
//! while up to 192 rows pass, and the rows' part in the second-level cache while eight panels pass (`strips`). `bf16` and
//! int8 weights stay narrow in memory and are widened a strip at a time, once for all rows of a block: `bf16` to `f32`,
//! int8 to pairs of 16 bits, whose product of pairs does in one instruction what takes two in `f32`. So `bf16` costs
//! about what `f32` costs, for half the memory, and int8 is faster on most layers, with the very numbers of other machines
//! (`benches/peers/results/products-zen3.md`).
//!
//! Where the machine has matrix tiles (AMX, `amx`), `bf16` and int8 go through them instead: tiles of [`TILED_ROWS`] rows
//! by [`TILE_COLUMNS`] columns from the same panels. On a 2-core Xeon (2026-11-24, `benches/peers/results/products-amx.md`)
//! they reach 1.4 to 2.3 TFLOP/s where the vector kernels' multipliers end at 0.25. oneDNN's own tiles are ahead there on
//! most large layers (0.4 to 0.85 of its rate, behind it most where rows are many and the depth is short: reading and
//! writing `f32` where it has `bf16` takes longer than the product), and behind on small ones.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod buffer;
mod drive;
mod kernel;
mod packed;
mod portable;
mod rows;
mod strips;
#[cfg(test)]
pub(crate) mod tests;
#[cfg(target_arch = "x86_64")]
mod tiles;

pub(crate) use buffer::Buffer;
pub(crate) use drive::{Finished, Product, Sink};
pub(crate) use kernel::{Kernel, Operand, Tile};
pub(crate) use packed::{Packed, PackedShape};
pub(crate) use rows::{RowScratch, Rows};

/// Rows of a tile: with four 512-bit columns, 24 sums of the 32 registers.
pub(crate) const TILE_ROWS: usize = 6;
/// Rows of a tile where the machine has matrix tiles.
pub(crate) const TILED_ROWS: usize = 32;
/// Columns of a tile and of a packed panel.
pub(crate) const TILE_COLUMNS: usize = 64;
/// Columns of a strip of a panel, for kernels that take panels so.
pub(crate) const STRIP_COLUMNS: usize = 16;
