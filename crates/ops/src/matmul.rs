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
//! oneDNN reaches the machine's rate in `bf16`, but it is a C++ build of several minutes with cmake (or a system package
//! most users do not have), reorders weights on its own terms, and cannot fuse gate and residual of adaptive layer norm or
//! a gated feed-forward. The kernels here are some hundred lines and are measured against it by
//! `benches/peers/products.py`. The `gemm` crate widens `bf16` (179 of 415 GFLOP/s) and packs both sides at every call.

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
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use buffer::Buffer;
pub(crate) use drive::{Finished, Product, Sink};
pub(crate) use kernel::{Kernel, Operand, Tile};
pub(crate) use packed::{Packed, PackedShape};
pub(crate) use rows::{RowScratch, Rows};

/// Rows of a tile: with four 512-bit columns, 24 sums of the 32 registers.
pub(crate) const TILE_ROWS: usize = 6;
/// Columns of a tile and of a packed panel.
pub(crate) const TILE_COLUMNS: usize = 64;
/// Sums of a tile.
pub(crate) const TILE_SUMS: usize = TILE_ROWS * TILE_COLUMNS;
