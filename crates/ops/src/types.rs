//! The small types that every operation shares.

use std::fmt;
use std::str::FromStr;

use candle_core::{Result, Tensor};

/// What an operation refuses, with what would be right.
#[derive(Debug, thiserror::Error)]
pub enum OpsError {
    /// A tensor has another shape than the operation wants.
    #[error("{operation}: {argument} has shape {found:?}, expected {expected}")]
    Shape {
        /// The operation that was called.
        operation: &'static str,
        /// Which of its arguments.
        argument: &'static str,
        /// The shape that came.
        found: Vec<usize>,
        /// The shape in words.
        expected: String,
    },
    /// A number is outside what the operation can work with.
    #[error("{operation}: {argument} is {found}, expected {expected}")]
    Value {
        /// The operation that was called.
        operation: &'static str,
        /// Which of its arguments.
        argument: &'static str,
        /// What came.
        found: String,
        /// What would do.
        expected: String,
    },
    /// A word names no precision.
    #[error("unknown precision \"{0}\"; use f32, bf16 or int8")]
    UnknownPrecision(String),
    /// A file could not be mapped into memory.
    #[error("cannot map {path} into memory: {source}")]
    Map {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
}

impl From<OpsError> for candle_core::Error {
    fn from(error: OpsError) -> Self {
        Self::wrap(error)
    }
}

/// How packed weights are stored and multiplied. Activations between operations stay f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Precision {
    /// Weights and products in f32.
    #[default]
    F32,
    /// Weights and activations rounded to bf16 inside the product, sums in f32.
    Bf16,
    /// Weights in 8 bits with one scale per output channel, activations in 8 bits with one scale per row; sums exact.
    /// Only matrix products know it; the other operations compute in bf16.
    Int8,
}

impl FromStr for Precision {
    type Err = OpsError;

    fn from_str(text: &str) -> std::result::Result<Self, OpsError> {
        match text {
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            "int8" => Ok(Self::Int8),
            _ => Err(OpsError::UnknownPrecision(text.to_owned())),
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        })
    }
}

/// A function applied to each value of a result while it is still in registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Activation {
    /// The value itself.
    #[default]
    None,
    /// GELU by its tanh approximation (arXiv 1606.08415), as PixArt and DiT use it.
    GeluTanh,
    /// GELU by the error function (arXiv 1606.08415).
    Gelu,
    /// SiLU, x·sigmoid(x) (arXiv 1702.03118).
    Silu,
}

impl Activation {
    /// The function through candle's own operations: the plain twin, differentiable.
    ///
    /// # Errors
    /// When the tensor is not of a float dtype.
    pub fn reference(self, input: &Tensor) -> Result<Tensor> {
        match self {
            Self::None => Ok(input.clone()),
            Self::GeluTanh => input.gelu(),
            Self::Gelu => input.gelu_erf(),
            Self::Silu => input.silu(),
        }
    }
}

/// The bits of each value.
pub(crate) fn as_words(values: &[f32]) -> &[u32] {
    #[allow(unsafe_code, reason = "a float's bits are a word")]
    // SAFETY: both types have four bytes and the same alignment, and any bits are a u32.
    unsafe {
        std::slice::from_raw_parts(values.as_ptr().cast(), values.len())
    }
}

/// The values that words are the bits of.
pub(crate) fn as_values(words: &[u32]) -> &[f32] {
    #[allow(unsafe_code, reason = "a word is a float's bits")]
    // SAFETY: both types have four bytes and the same alignment, and any bits are an f32.
    unsafe {
        std::slice::from_raw_parts(words.as_ptr().cast(), words.len())
    }
}
