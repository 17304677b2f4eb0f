//! Noise that depends on what it is for, not on when it is drawn.

use candle_core::Tensor;
use refrain_samplers::{NoiseKind, NoiseStream};

/// Unit normal noise for a chunk at a denoising step.
pub trait NoiseSource {
    /// Noise of `shape` for step `step` of chunk `chunk`; asked again, the same.
    ///
    /// # Errors
    /// A shape that cannot be allocated.
    fn noise(&mut self, chunk: u64, step: usize, shape: &[usize]) -> refrain_samplers::Result<Tensor>;
}

/// Counter noise from a seed: a stream batch and the sequential mode, which ask in different orders, get the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkNoise {
    /// Seed of the stream.
    pub seed: u64,
}

impl NoiseSource for ChunkNoise {
    fn noise(&mut self, chunk: u64, step: usize, shape: &[usize]) -> refrain_samplers::Result<Tensor> {
        let seed = mixed(mixed(self.seed ^ mixed(chunk)) ^ step as u64);
        NoiseStream::new(NoiseKind::Counter, seed).normal(shape)
    }
}

/// The same noise for every chunk, another for every step (StreamDiffusion, arXiv 2312.12491): what changes from frame to
/// frame is then the picture alone, which keeps a still one still and makes features comparable over time.
#[derive(Debug, Clone)]
pub struct HeldNoise {
    seed: u64,
    drawn: Vec<Option<Tensor>>,
}

impl HeldNoise {
    /// Noise of a seed.
    pub fn new(seed: u64) -> Self {
        Self { seed, drawn: Vec::new() }
    }
}

impl NoiseSource for HeldNoise {
    fn noise(&mut self, _: u64, step: usize, shape: &[usize]) -> refrain_samplers::Result<Tensor> {
        if self.drawn.len() <= step {
            self.drawn.resize(step + 1, None);
        }
        match self.drawn.get(step) {
            Some(Some(known)) if known.dims() == shape => return Ok(known.clone()),
            _ => {}
        }
        let fresh = ChunkNoise { seed: self.seed }.noise(0, step, shape)?;
        if let Some(slot) = self.drawn.get_mut(step) {
            *slot = Some(fresh.clone());
        }
        Ok(fresh)
    }
}

/// The finaliser of SplitMix64 (Steele et al., OOPSLA 2014): neighbouring numbers to unrelated ones.
fn mixed(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_belongs_to_its_place() -> refrain_samplers::Result<()> {
        let mut source = ChunkNoise { seed: 3 };
        let mut draw = |chunk, step| -> refrain_samplers::Result<Vec<f32>> {
            Ok(source.noise(chunk, step, &[4])?.to_vec1::<f32>()?)
        };
        let first = draw(5, 1)?;
        assert!(draw(5, 2)? != first && draw(6, 1)? != first && draw(1, 5)? != first);
        assert_eq!(draw(5, 1)?, first);
        Ok(())
    }
}
