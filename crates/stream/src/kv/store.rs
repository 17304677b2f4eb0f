//! Keys and values by row and block.

use candle_core::{DType, Device, Result, Tensor};
use refrain_models::wan::{FrameMemory, WanRope, WanTransformer};
use refrain_ops::{AttentionOptions, attention};

use super::{
    KvOptions, KvPolicy,
    slots::{Arrival, SlotMap},
};

/// Sizes that a rolling cache follows from its model.
#[derive(Debug, Clone)]
pub struct KvShape {
    /// Blocks of the model.
    pub blocks: usize,
    /// Width of a key: all heads together.
    pub width: usize,
    /// Heads and precision of the attention.
    pub attention: AttentionOptions,
    /// Rotations of a frame's tokens.
    pub rope: WanRope,
}

impl KvShape {
    /// The sizes for latent frames of `height` × `width`.
    ///
    /// # Errors
    /// If they do not divide into the model's patches.
    pub fn of(model: &WanTransformer, height: usize, width: usize) -> Result<Self> {
        Ok(Self {
            blocks: model.blocks(),
            width: model.config().width(),
            attention: model.attention_options(),
            rope: model.rope(height, width)?,
        })
    }

    /// Bytes of the keys and values of `frames` latent frames in one row.
    pub fn bytes(&self, frames: usize) -> usize {
        self.blocks * frames * self.rope.grid().tokens() * self.width * 2 * size_of::<f32>()
    }
}

/// A chunk in one row of the next forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowChunk {
    /// Row of the cache: the noise level.
    pub row: usize,
    /// Number of the chunk's first latent frame in the stream.
    pub frame: u64,
}

/// Memory that a cache holds, in bytes and in frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Residents {
    /// Bytes of keys and values.
    pub bytes: usize,
    /// Largest number of frames in a row.
    pub frames: usize,
    /// Largest time at which a key is seen.
    pub latest_time: u64,
}

/// Keys and values of one row and block. Keys are stored as they come, normed and un-rotated.
#[derive(Debug)]
struct BlockCache {
    map: SlotMap,
    /// `[1, length·tokens, width]` each, made at the first write.
    stored: Option<(Tensor, Tensor)>,
    /// Mean key (rotated under `sdv2`) and mean value of each sink, where sinks are judged.
    means: Vec<Option<(Vec<f32>, Vec<f32>)>>,
}

/// A row's times.
#[derive(Debug, Clone, Copy, Default)]
struct Clock {
    /// First frame and its time of the newest chunk.
    present: Option<(u64, u64)>,
    /// Time after it.
    next: u64,
}

/// The rolling cache of a session: a [`FrameMemory`] that outlives its calls.
#[derive(Debug)]
pub struct RollingKv {
    shape: KvShape,
    options: KvOptions,
    caches: Vec<Vec<BlockCache>>,
    clocks: Vec<Clock>,
    active: Vec<(RowChunk, u64)>,
    frames: usize,
    carried: u64,
}

impl RollingKv {
    /// An empty cache of `rows` rows.
    ///
    /// # Errors
    /// [`StreamError::Option`](crate::StreamError::Option).
    pub fn new(shape: KvShape, options: KvOptions, rows: usize) -> crate::Result<Self> {
        let options = options.checked()?;
        let mut cache = Self {
            shape,
            options,
            caches: Vec::new(),
            clocks: vec![Clock::default(); rows],
            active: Vec::new(),
            frames: 0,
            carried: 0,
        };
        cache.reset();
        Ok(cache)
    }

    /// Forgets everything, as if fresh; the number of rows stays.
    pub fn reset(&mut self) {
        let rows = self.clocks.len();
        let means = vec![None; self.options.sinks];
        let empty = || BlockCache { map: SlotMap::new(self.options), stored: None, means: means.clone() };
        self.caches = (0..rows).map(|_| (0..self.shape.blocks).map(|_| empty()).collect()).collect();
        self.clocks = vec![Clock::default(); rows];
        (self.active, self.frames, self.carried) = (Vec::new(), 0, 0);
    }

    /// Size and policy.
    pub fn options(&self) -> &KvOptions {
        &self.options
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.caches.len()
    }

    /// The slots of a row and block.
    pub fn slot_map(&self, row: usize, block: usize) -> Option<&SlotMap> {
        self.caches.get(row)?.get(block).map(|cache| &cache.map)
    }

    /// Times that a block's keys and values were those of the frame before, since the last reset.
    pub fn carried(&self) -> u64 {
        self.carried
    }

    /// Sinks that gave way to other frames since the last reset, over all rows and blocks.
    pub fn refreshes(&self) -> u64 {
        self.caches.iter().flatten().map(|cache| cache.map.refreshes()).sum()
    }

    /// What the cache holds now.
    pub fn residents(&self) -> Residents {
        let caches = || self.caches.iter().flatten();
        let bytes = |(keys, values): &(Tensor, Tensor)| (keys.elem_count() + values.elem_count()) * size_of::<f32>();
        let times = caches().flat_map(|cache| cache.map.times());
        Residents {
            bytes: caches().filter_map(|cache| cache.stored.as_ref()).map(bytes).sum(),
            frames: caches().map(|cache| cache.map.len()).max().unwrap_or(0),
            latest_time: times.fold(0.0, f64::max) as u64,
        }
    }

    /// Says which chunks, of `frames` latent frames each, the rows of the next forward pass are, in their order.
    ///
    /// # Errors
    /// When there is no such row, or a chunk is longer than the cache's window.
    pub fn begin(&mut self, rows: &[RowChunk], frames: usize) -> Result<()> {
        let window = self.options.length - self.options.sinks;
        // While the cache fills, sinks can take frames of a chunk too.
        let limit = if rows.iter().all(|chunk| chunk.frame == 0) { self.options.length } else { window };
        if frames == 0 || frames > limit {
            candle_core::bail!("a chunk of {frames} latent frames, the cache has room for {limit}");
        }
        self.frames = frames;
        self.active.clear();
        for &chunk in rows {
            let (policy, length) = (self.options.policy, self.options.length as u64);
            let Some(clock) = self.clocks.get_mut(chunk.row) else {
                candle_core::bail!("row {} of a cache with {}", chunk.row, self.caches.len());
            };
            let time = match clock.present {
                Some((frame, time)) if frame == chunk.frame => time,
                _ => match policy {
                    KvPolicy::Sdv2 { position_reset: Some(limit), .. } if clock.next >= limit => length - 1,
                    _ => clock.next,
                },
            };
            (clock.present, clock.next) = (Some((chunk.frame, time)), time + frames as u64);
            self.active.push((chunk, time));
        }
        Ok(())
    }

    /// Gives every row the keys and values of one: StreamDiffusionV2 does so after its first chunk.
    ///
    /// # Errors
    /// When there is no such row.
    pub fn copy_row_to_all(&mut self, row: usize) -> Result<()> {
        let (Some(source), Some(&clock)) = (self.caches.get(row), self.clocks.get(row)) else {
            candle_core::bail!("row {row} of a cache with {}", self.caches.len());
        };
        let copies: Vec<Vec<BlockCache>> = (0..self.caches.len())
            .map(|_| source.iter().map(BlockCache::copied).collect::<Result<_>>())
            .collect::<Result<_>>()?;
        self.caches = copies;
        self.clocks.fill(clock);
        Ok(())
    }

    /// The chunk of a row of the call, with its cache in a block.
    fn cache_of(&mut self, index: usize, block: usize) -> Result<(&mut BlockCache, Present)> {
        let Some(&(chunk, time)) = self.active.get(index) else {
            candle_core::bail!("row {index} of a call that was announced with {}", self.active.len());
        };
        let present = Present { frame: chunk.frame, time, count: self.frames };
        match self.caches.get_mut(chunk.row).and_then(|row| row.get_mut(block)) {
            Some(cache) => Ok((cache, present)),
            None => candle_core::bail!("block {block} of a cache with {}", self.shape.blocks),
        }
    }

    fn check(&self, tensor: &Tensor) -> Result<()> {
        let expected = [self.active.len(), self.frames * self.shape.rope.grid().tokens(), self.shape.width];
        if tensor.dims() == expected {
            return Ok(());
        }
        candle_core::bail!("keys, values or queries of shape {:?}, expected {expected:?}", tensor.dims())
    }
}

/// The frames of one row of a call.
#[derive(Debug, Clone, Copy)]
struct Present {
    frame: u64,
    time: u64,
    count: usize,
}

impl FrameMemory for RollingKv {
    fn outlives_call(&self) -> bool {
        true
    }

    fn write(&mut self, block: usize, key: &Tensor, value: &Tensor) -> Result<()> {
        self.check(key)?;
        self.check(value)?;
        let (rope, rotated) = (self.shape.rope.clone(), matches!(self.options.policy, KvPolicy::Sdv2 { .. }));
        for index in 0..self.active.len() {
            let (key, value) = (key.narrow(0, index, 1)?.contiguous()?, value.narrow(0, index, 1)?.contiguous()?);
            let (cache, present) = self.cache_of(index, block)?;
            cache.write((&key, &value), present, (&rope, rotated))?;
        }
        Ok(())
    }

    fn attend(&mut self, block: usize, query: &Tensor) -> Result<Tensor> {
        self.check(query)?;
        let (rope, options) = (self.shape.rope.clone(), self.shape.attention);
        let mut mixed = Vec::with_capacity(self.active.len());
        for index in 0..self.active.len() {
            let query = query.narrow(0, index, 1)?.contiguous()?;
            let (cache, present) = self.cache_of(index, block)?;
            if cache.map.newest_chunk() != Some(present.frame) {
                candle_core::bail!("block {block} attends before it wrote its keys");
            }
            mixed.push(cache.attend(&query, &rope, &options)?);
        }
        Tensor::cat(&mixed, 0)
    }

    fn settle(&mut self) -> Result<()> {
        let tokens = self.shape.rope.grid().tokens();
        for index in 0..self.active.len() {
            for block in 0..self.shape.blocks {
                let (cache, present) = self.cache_of(index, block)?;
                if cache.map.newest_chunk() != Some(present.frame) && cache.carry(present, tokens)? {
                    self.carried += 1;
                }
            }
        }
        Ok(())
    }
}

impl BlockCache {
    fn write(
        &mut self,
        (key, value): (&Tensor, &Tensor),
        present: Present,
        (rope, rotated): (&WanRope, bool),
    ) -> Result<()> {
        let tokens = rope.grid().tokens();
        let again = self.map.newest_chunk() == Some(present.frame);
        let judged = self.map.wants_similarities(present.count);
        let means = if judged || self.map.options.sinks > 0 && self.judges_sinks() {
            let times: Vec<f64> = (0..present.count).map(|index| (present.time + index as u64) as f64).collect();
            let key = if rotated { rope.rotate(key, &times)? } else { key.clone() };
            (0..present.count)
                .map(|frame| Ok((mean_of(&key, frame, tokens)?, mean_of(value, frame, tokens)?)))
                .collect::<Result<Vec<_>>>()?
        } else {
            Vec::new()
        };
        let similarities: Option<Vec<f32>> = means
            .first()
            .filter(|_| judged && !again)
            .map(|new| self.means.iter().map(|sink| sink.as_ref().map_or(0.0, |sink| similarity(sink, new))).collect());
        let Present { frame, time, count } = present;
        let places = self.map.place(&Arrival { frame, count, time, similarities: similarities.as_deref() });
        let (keys, values) = self.stored(tokens, key.dim(2)?)?;
        for (frame, &place) in places.iter().enumerate() {
            keys.slice_set(&key.narrow(1, frame * tokens, tokens)?.contiguous()?, 1, place * tokens)?;
            values.slice_set(&value.narrow(1, frame * tokens, tokens)?.contiguous()?, 1, place * tokens)?;
        }
        for (mean, &place) in means.into_iter().zip(&places) {
            if let Some(sink) = self.means.get_mut(place) {
                *sink = Some(mean);
            }
        }
        Ok(())
    }

    /// Whether the policy compares frames with sinks at all.
    fn judges_sinks(&self) -> bool {
        self.map.wants_similarities(1)
    }

    fn stored(&mut self, tokens: usize, width: usize) -> Result<(Tensor, Tensor)> {
        if let Some(stored) = &self.stored {
            return Ok(stored.clone());
        }
        let shape = (1, self.map.options.length * tokens, width);
        let zeros = || Tensor::zeros(shape, DType::F32, &Device::Cpu);
        let stored = (zeros()?, zeros()?);
        self.stored = Some(stored.clone());
        Ok(stored)
    }

    fn attend(&self, query: &Tensor, rope: &WanRope, options: &AttentionOptions) -> Result<Tensor> {
        let Some((keys, values)) = &self.stored else { candle_core::bail!("an empty cache is read") };
        let (count, times) = (self.map.len() * rope.grid().tokens(), self.map.times());
        let present: Vec<f64> = self.map.present().iter().filter_map(|&place| times.get(place).copied()).collect();
        let key = rope.rotate(&keys.narrow(1, 0, count)?, &times)?;
        attention(&rope.rotate(query, &present)?, &key, &values.narrow(1, 0, count)?, None, options)
    }

    /// Gives the present frames the keys and values of the newest one held; false if there is none.
    fn carry(&mut self, present: Present, tokens: usize) -> Result<bool> {
        let (Some(&place), Some((keys, values))) = (self.map.present().last(), self.stored.clone()) else {
            return Ok(false);
        };
        let part = |tensor: &Tensor| tensor.narrow(1, place * tokens, tokens)?.copy();
        let (key, value) = (part(&keys)?, part(&values)?);
        let Present { frame, time, count } = present;
        for place in self.map.place(&Arrival { frame, count, time, similarities: None }) {
            keys.slice_set(&key, 1, place * tokens)?;
            values.slice_set(&value, 1, place * tokens)?;
        }
        Ok(true)
    }

    fn copied(&self) -> Result<Self> {
        let stored = match &self.stored {
            Some((keys, values)) => Some((keys.copy()?, values.copy()?)),
            None => None,
        };
        Ok(Self { map: self.map.clone(), stored, means: self.means.clone() })
    }
}

/// Mean over the tokens of one frame of `[1, frames·tokens, width]`.
fn mean_of(tensor: &Tensor, frame: usize, tokens: usize) -> Result<Vec<f32>> {
    tensor.narrow(1, frame * tokens, tokens)?.mean(1)?.flatten_all()?.to_vec1()
}

/// Mean of the cosines of keys and of values (arXiv 2511.07399, as its code computes it).
fn similarity(sink: &(Vec<f32>, Vec<f32>), new: &(Vec<f32>, Vec<f32>)) -> f32 {
    f32::midpoint(cosine(&sink.0, &new.0), cosine(&sink.1, &new.1))
}

/// Cosine of two vectors; 0 if one is zero.
fn cosine(left: &[f32], right: &[f32]) -> f32 {
    const SMALLEST: f64 = 1e-8;
    let dot = |left: &[f32], right: &[f32]| -> f64 {
        left.iter().zip(right).map(|(left, right)| f64::from(*left) * f64::from(*right)).sum()
    };
    let length = |vector: &[f32]| dot(vector, vector).sqrt().max(SMALLEST);
    (dot(left, right) / (length(left) * length(right))) as f32
}
