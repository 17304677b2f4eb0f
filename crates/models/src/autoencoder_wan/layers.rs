//! Layers that see a clip in pieces and remember what the next piece needs.
//!
//! Frames lie in the first dimension, `[frames, c, h, w]`, so that everything per frame is a two-dimensional operation over
//! a batch. A convolution over three frames is three two-dimensional ones, one a tap, summed in place.

use candle_core::{DType, Device, Result, Tensor};
use refrain_ops::{
    AttentionOptions, Conv2d, ConvEpilogue, Linear, Precision, attention_packed_qkv, channel_rms_norm, silu,
};

use crate::{error::ModelError, weights::Weights};

/// What the layers of one direction remember of a clip, by layer.
#[derive(Debug, Clone, Default)]
pub struct FeatureCache {
    slots: Vec<Option<Tensor>>,
}

impl FeatureCache {
    pub(super) fn new(slots: usize) -> Self {
        Self { slots: vec![None; slots] }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.slots.iter().flatten().map(|tensor| tensor.elem_count() * size_of::<f32>()).sum()
    }

    fn take(&mut self, slot: usize) -> Option<Tensor> {
        self.slots.get_mut(slot).and_then(Option::take)
    }

    /// Remembers a copy: a view would keep the whole piece.
    fn put(&mut self, slot: usize, tensor: &Tensor) -> Result<()> {
        if let Some(place) = self.slots.get_mut(slot) {
            *place = Some(tensor.copy()?);
        }
        Ok(())
    }
}

/// Loads layers, handing out a slot to each that remembers.
pub(super) struct Loader {
    precision: Precision,
    pub(super) slots: usize,
}

type Loaded<T> = std::result::Result<T, ModelError>;

impl Loader {
    pub(super) fn new(precision: Precision) -> Self {
        Self { precision, slots: 0 }
    }

    fn slot(&mut self) -> usize {
        self.slots += 1;
        self.slots - 1
    }

    /// A convolution over `depth` frames, the present and the ones before, and `side`² pixels.
    pub(super) fn causal(
        &mut self,
        weights: &Weights,
        channels: (usize, usize),
        (depth, side): (usize, usize),
    ) -> Loaded<CausalConv> {
        let slot = self.slot();
        Ok(CausalConv { taps: self.taps(weights, channels, (depth, side))?, slot })
    }

    fn taps(
        &self,
        weights: &Weights,
        (inputs, outputs): (usize, usize),
        (depth, side): (usize, usize),
    ) -> Loaded<Vec<Conv2d>> {
        let weight = weights.tensor("weight", &[outputs, inputs, depth, side, side])?;
        let bias = weights.tensor("bias", &[outputs])?;
        (0..depth)
            .map(|tap| {
                let kernel = weight.narrow(2, tap, 1)?.squeeze(2)?.contiguous()?;
                let bias = (tap + 1 == depth).then_some(&bias);
                Ok(Conv2d::new(&kernel, bias, 1, side / 2, self.precision)?)
            })
            .collect()
    }

    pub(super) fn norm(&self, weights: &Weights, channels: usize) -> Loaded<Tensor> {
        Ok(weights.tensor_f32("gamma", &[channels, 1, 1, 1])?.flatten_all()?)
    }

    pub(super) fn residual(&mut self, weights: &Weights, (inputs, outputs): (usize, usize)) -> Loaded<ResidualBlock> {
        Ok(ResidualBlock {
            norm1: self.norm(&weights.at("norm1"), inputs)?,
            conv1: self.causal(&weights.at("conv1"), (inputs, outputs), (3, 3))?,
            norm2: self.norm(&weights.at("norm2"), outputs)?,
            conv2: self.causal(&weights.at("conv2"), (outputs, outputs), (3, 3))?,
            shortcut: (inputs != outputs)
                .then(|| self.taps(&weights.at("conv_shortcut"), (inputs, outputs), (1, 1)))
                .transpose()?
                .and_then(|taps| taps.into_iter().next()),
        })
    }

    pub(super) fn attention(&self, weights: &Weights, channels: usize) -> Loaded<AttentionBlock> {
        let layer = |name: &str, outputs: usize| -> Loaded<Linear> {
            let place = weights.at(name);
            let weight = place.tensor("weight", &[outputs, channels, 1, 1])?.reshape((outputs, channels))?;
            Ok(Linear::new(&weight, Some(&place.tensor("bias", &[outputs])?), self.precision)?)
        };
        Ok(AttentionBlock {
            norm: weights.tensor_f32("norm.gamma", &[channels, 1, 1])?.flatten_all()?,
            qkv: layer("to_qkv", 3 * channels)?,
            output: layer("proj", channels)?,
            options: AttentionOptions::new(1).with_precision(self.precision),
        })
    }

    /// A change of size: `outputs` differ from the channels only on the way up.
    fn resample(&self, weights: &Weights, (inputs, outputs): (usize, usize), down: bool) -> Loaded<Conv2d> {
        let weight = weights.tensor("resample.1.weight", &[outputs, inputs, 3, 3])?;
        let bias = weights.tensor("resample.1.bias", &[outputs])?;
        let (stride, padding) = if down { (2, 0) } else { (1, 1) };
        Ok(Conv2d::new(&weight, Some(&bias), stride, padding, self.precision)?)
    }

    pub(super) fn down(&mut self, weights: &Weights, channels: usize, halve_time: bool) -> Loaded<Down> {
        let space = self.resample(weights, (channels, channels), true)?;
        let time = halve_time.then(|| self.causal(&weights.at("time_conv"), (channels, channels), (3, 1)));
        Ok(Down { space, time: time.transpose()? })
    }

    pub(super) fn up(&mut self, weights: &Weights, channels: usize, double_time: bool) -> Loaded<Up> {
        let time = double_time.then(|| self.causal(&weights.at("time_conv"), (channels, 2 * channels), (3, 1)));
        let time = time.transpose()?;
        Ok(Up { time, space: self.resample(weights, (channels, channels / 2), false)? })
    }
}

/// A convolution over the present frame and the two before; before the first there are zeros.
#[derive(Debug)]
pub(super) struct CausalConv {
    taps: Vec<Conv2d>,
    slot: usize,
}

impl CausalConv {
    /// `[t, c, h, w]` to `[t, c', h, w]`, plus `residual` of the result's shape.
    pub(super) fn forward(
        &self,
        input: &Tensor,
        residual: Option<&Tensor>,
        cache: &mut FeatureCache,
    ) -> Result<Tensor> {
        if self.taps.len() == 1 {
            return self.slide(residual, |_| Ok(input.clone()));
        }
        let (frames, channels, height, width) = input.dims4()?;
        let past = match cache.take(self.slot) {
            Some(past) => past,
            None => Tensor::zeros((self.taps.len() - 1, channels, height, width), DType::F32, &Device::Cpu)?,
        };
        let sequence = Tensor::cat(&[&past, input], 0)?;
        cache.put(self.slot, &sequence.narrow(0, frames, self.taps.len() - 1)?)?;
        self.slide(residual, |tap| sequence.narrow(0, tap, frames))
    }

    /// The sum over the taps, each on its own frames.
    fn slide(&self, residual: Option<&Tensor>, frames: impl Fn(usize) -> Result<Tensor>) -> Result<Tensor> {
        let mut sum = residual.cloned();
        for (index, tap) in self.taps.iter().enumerate() {
            let epilogue = ConvEpilogue { residual: sum.as_ref(), ..ConvEpilogue::default() };
            sum = Some(tap.forward_with(&frames(index)?, &epilogue)?);
        }
        sum.ok_or_else(|| candle_core::Error::Msg("a convolution without taps".to_owned()))
    }
}

/// Norm, SiLU, convolution, twice; plus the input.
#[derive(Debug)]
pub(super) struct ResidualBlock {
    norm1: Tensor,
    conv1: CausalConv,
    norm2: Tensor,
    conv2: CausalConv,
    shortcut: Option<Conv2d>,
}

impl ResidualBlock {
    pub(super) fn forward(&self, input: &Tensor, cache: &mut FeatureCache) -> Result<Tensor> {
        let hidden = self.conv1.forward(&silu(&channel_rms_norm(input, &self.norm1)?)?, None, cache)?;
        let hidden = silu(&channel_rms_norm(&hidden, &self.norm2)?)?;
        let shortcut = self.shortcut.as_ref().map(|shortcut| shortcut.forward(input)).transpose()?;
        self.conv2.forward(&hidden, Some(shortcut.as_ref().unwrap_or(input)), cache)
    }
}

/// Attention of a frame's pixels to each other; frames do not see one another.
#[derive(Debug)]
pub(super) struct AttentionBlock {
    norm: Tensor,
    qkv: Linear,
    output: Linear,
    options: AttentionOptions,
}

impl AttentionBlock {
    pub(super) fn forward(&self, input: &Tensor) -> Result<Tensor> {
        let (frames, channels, height, width) = input.dims4()?;
        let normed = channel_rms_norm(input, &self.norm)?.reshape((frames, channels, height * width))?;
        let tokens = normed.transpose(1, 2)?.contiguous()?;
        let mixed = attention_packed_qkv(&self.qkv.forward(&tokens)?, None, &self.options)?;
        let mixed = self.output.forward(&mixed)?.transpose(1, 2)?.reshape((frames, channels, height, width))?;
        refrain_ops::add(input, &mixed.contiguous()?)
    }
}

/// Halves the sides and, if asked, the number of frames.
#[derive(Debug)]
pub(super) struct Down {
    space: Conv2d,
    time: Option<CausalConv>,
}

impl Down {
    /// Frames that are complete; `None` while the next one is not.
    pub(super) fn forward(&self, input: &Tensor, cache: &mut FeatureCache) -> Result<Option<Tensor>> {
        let padded = input.pad_with_zeros(2, 0, 1)?.pad_with_zeros(3, 0, 1)?;
        let hidden = self.space.forward(&padded)?;
        let Some(time) = &self.time else { return Ok(Some(hidden)) };
        let frames = hidden.dim(0)?;
        // The first frame of a clip stands for itself; later ones are a convolution at every second frame, the last that
        // was used included again.
        let (first, sequence) = match cache.take(time.slot) {
            None => (Some(hidden.narrow(0, 0, 1)?), hidden),
            Some(pending) => (None, Tensor::cat(&[&pending, &hidden], 0)?),
        };
        let length = if first.is_some() { frames } else { sequence.dim(0)? };
        let count = (length - 1) / 2;
        cache.put(time.slot, &sequence.narrow(0, 2 * count, length - 2 * count)?)?;
        let later = if count == 0 {
            None
        } else {
            let every_second = |tap: usize| {
                let places: Vec<u32> = (0..count).map(|index| (2 * index + tap) as u32).collect();
                sequence.index_select(&Tensor::new(places, &Device::Cpu)?, 0)
            };
            Some(time.slide(None, every_second)?)
        };
        match (first, later) {
            (Some(first), Some(later)) => Tensor::cat(&[first, later], 0).map(Some),
            (first, later) => Ok(first.or(later)),
        }
    }
}

/// Doubles the sides and, if asked, the number of frames; halves the channels.
#[derive(Debug)]
pub(super) struct Up {
    time: Option<CausalConv>,
    space: Conv2d,
}

impl Up {
    pub(super) fn forward(&self, input: &Tensor, cache: &mut FeatureCache) -> Result<Tensor> {
        let hidden = match &self.time {
            Some(time) => double_time(time, input, cache)?,
            None => input.clone(),
        };
        self.space.forward_upsampled(&hidden)
    }
}

/// The first frame of a clip stands for itself and is not seen by the later ones; those become two each.
fn double_time(time: &CausalConv, input: &Tensor, cache: &mut FeatureCache) -> Result<Tensor> {
    let (frames, channels, height, width) = input.dims4()?;
    let begun = cache.slots.get(time.slot).is_some_and(Option::is_some);
    let skipped = usize::from(!begun);
    if !begun {
        let past = (time.taps.len() - 1, channels, height, width);
        cache.put(time.slot, &Tensor::zeros(past, DType::F32, &Device::Cpu)?)?;
    }
    let first = input.narrow(0, 0, skipped)?;
    if frames == skipped {
        return Ok(first);
    }
    let doubled = time.forward(&input.narrow(0, skipped, frames - skipped)?, None, cache)?;
    // Both frames of a pair lie behind each other in the channels.
    let doubled = doubled.reshape((2 * (frames - skipped), channels, height, width))?;
    if begun { Ok(doubled) } else { Tensor::cat(&[&first, &doubled], 0) }
}
