//! Normal noise from a seed.
//!
//! Two generators: [`NoiseKind::Counter`] computes every number from the seed and the number's place alone, so that
//! no thread, batch or order of drawing can change it; [`NoiseKind::Torch`] repeats PyTorch's CPU generator, so that a
//! seed gives the picture that diffusers gives. Pictures of a batch are drawn one by one, each with its own seed.

mod cephes;
mod philox;
mod torch;

use std::fmt;
use std::str::FromStr;

use candle_core::{Device, Tensor};

use crate::{Error, Result};

/// Which generator turns a seed into noise (`--rng`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum NoiseKind {
    /// Philox 4x32-10 by place (Salmon et al., SC 2011).
    #[default]
    Counter,
    /// `torch.randn` with `torch.Generator("cpu").manual_seed(seed)`.
    Torch,
}

impl NoiseKind {
    /// Name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Torch => "torch",
        }
    }
}

impl fmt::Display for NoiseKind {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for NoiseKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "counter" => Ok(Self::Counter),
            "torch" | "cpu" => Ok(Self::Torch),
            _ => Err(Error::UnknownName { what: "rng", name: name.into(), known: "counter, torch".into() }),
        }
    }
}

/// A seeded source of noise tensors; every draw gives new numbers.
#[derive(Debug, Clone)]
pub struct NoiseStream {
    source: Source,
}

#[derive(Debug, Clone)]
enum Source {
    Counter { seed: u64, draw: u64 },
    Torch(Box<torch::Generator>),
}

impl NoiseStream {
    /// The stream of a seed. Like PyTorch, [`NoiseKind::Torch`] looks at the lower 32 bits of the seed only.
    pub fn new(kind: NoiseKind, seed: u64) -> Self {
        let source = match kind {
            NoiseKind::Counter => Source::Counter { seed, draw: 0 },
            NoiseKind::Torch => Source::Torch(Box::new(torch::Generator::new(seed))),
        };
        Self { source }
    }

    /// The next unit-variance normal tensor, f32 on the CPU.
    ///
    /// # Errors
    /// A shape whose number of elements cannot be allocated.
    pub fn normal(&mut self, shape: &[usize]) -> Result<Tensor> {
        let overflow = || candle_core::Error::Msg(format!("noise of shape {shape:?} is too large"));
        let count = shape.iter().try_fold(1usize, |count, &size| count.checked_mul(size)).ok_or_else(overflow)?;
        let values = match &mut self.source {
            Source::Counter { seed, draw } => {
                let values = philox::normal(*seed, *draw, count);
                *draw += 1;
                values
            }
            Source::Torch(generator) => generator.normal(count),
        };
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    }
}

/// Noise of one picture by place: element `i` depends on the seed and `i` only.
///
/// # Errors
/// A shape whose number of elements cannot be allocated.
pub fn counter(seed: u64, shape: &[usize]) -> Result<Tensor> {
    NoiseStream::new(NoiseKind::Counter, seed).normal(shape)
}

/// `torch.randn(shape, generator=torch.Generator().manual_seed(seed))`, bit for bit as PyTorch computes it on a
/// processor with AVX2 or AVX-512.
///
/// # Errors
/// A shape whose number of elements cannot be allocated.
pub fn torch(seed: u64, shape: &[usize]) -> Result<Tensor> {
    NoiseStream::new(NoiseKind::Torch, seed).normal(shape)
}
