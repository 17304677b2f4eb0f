//! What the self-attention of a video model looks at: the clip itself, or what a stream remembers.

use candle_core::{Device, Result, Tensor};
use refrain_ops::{AttentionOptions, attention};

use super::rope::WanRope;

/// Keys and values of self-attention, by block.
///
/// The transformer hands over keys (normed, *not* rotated) and values of the present frames, then asks with queries; the
/// memory knows the frames' positions in time and rotates. A rolling cache (crate `stream`) remembers earlier frames; a
/// [`WholeClip`] nothing beyond the call.
///
/// **Skipped parts owe their keys and values.** Where later frames will attend to these ([`FrameMemory::outlives_call`]),
/// a block writes them whether its self-attention is computed or reused: a site answers only for the output of a part. A
/// block that a skipped span (or model) passed over has written nothing when the forward pass ends; then
/// [`FrameMemory::settle`] must give it the keys and values of the frame before.
///
/// A pass may run twice over the same frames (a check of a cached value, a fallback): writing again replaces.
pub trait FrameMemory {
    /// Whether later calls will attend to what this one writes.
    fn outlives_call(&self) -> bool;

    /// Takes the keys and values `[rows, frames·tokens, width]` of the present frames in one block.
    ///
    /// # Errors
    /// When shapes do not fit what the memory was told to expect.
    fn write(&mut self, block: usize, key: &Tensor, value: &Tensor) -> Result<()>;

    /// Attention of the present frames' queries `[rows, frames·tokens, width]` (normed, not rotated) in one block.
    ///
    /// # Errors
    /// When shapes do not fit, or nothing was written.
    fn attend(&mut self, block: usize, query: &Tensor) -> Result<Tensor>;

    /// The forward pass is over: blocks that wrote nothing get what they owe.
    ///
    /// # Errors
    /// When a tensor operation fails.
    fn settle(&mut self) -> Result<()>;
}

/// All frames at once, none remembered.
#[derive(Debug)]
pub struct WholeClip {
    rope: WanRope,
    positions: Vec<f64>,
    options: AttentionOptions,
    /// `[1, 1, n, n]`: what a token must not see.
    bias: Option<Tensor>,
    present: Option<(Tensor, Tensor)>,
}

impl WholeClip {
    /// Every token sees every token: text-to-video as Wan was first trained.
    pub fn bidirectional(rope: WanRope, frames: usize, options: AttentionOptions) -> Self {
        let positions = (0..frames).map(|frame| frame as f64).collect();
        Self { rope, positions, options, bias: None, present: None }
    }

    /// A token sees its own chunk of latent frames and all earlier ones (arXiv 2412.07772): the reference for streaming.
    /// `chunks` are the numbers of frames of consecutive chunks.
    ///
    /// # Errors
    /// Only when candle cannot make the mask.
    pub fn block_causal(rope: WanRope, chunks: &[usize], options: AttentionOptions) -> Result<Self> {
        let tokens = rope.grid().tokens();
        let ends: Vec<usize> = chunks
            .iter()
            .scan(0, |end, &frames| {
                *end += frames * tokens;
                Some((frames * tokens, *end))
            })
            .flat_map(|(count, end)| std::iter::repeat_n(end, count))
            .collect();
        let count = ends.len();
        let mask: Vec<f32> = ends
            .iter()
            .flat_map(|&end| (0..count).map(move |key| if key < end { 0.0 } else { f32::NEG_INFINITY }))
            .collect();
        let bias = Tensor::from_vec(mask, (1, 1, count, count), &Device::Cpu)?;
        Ok(Self { bias: Some(bias), ..Self::bidirectional(rope, chunks.iter().sum(), options) })
    }
}

impl FrameMemory for WholeClip {
    fn outlives_call(&self) -> bool {
        false
    }

    fn write(&mut self, _: usize, key: &Tensor, value: &Tensor) -> Result<()> {
        self.present = Some((self.rope.rotate(key, &self.positions)?, value.clone()));
        Ok(())
    }

    fn attend(&mut self, block: usize, query: &Tensor) -> Result<Tensor> {
        let Some((key, value)) = self.present.take() else {
            candle_core::bail!("block {block} attends before it wrote its keys");
        };
        attention(&self.rope.rotate(query, &self.positions)?, &key, &value, self.bias.as_ref(), &self.options)
    }

    fn settle(&mut self) -> Result<()> {
        self.present = None;
        Ok(())
    }
}
