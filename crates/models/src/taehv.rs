//! TAEHV: a tiny autoencoder for the latents of large video autoencoders, by Ollin Boer Bohan (`taew2_1` for Wan).
//!
//! Convolutions see one frame; time enters through blocks that also read their own input of the frame before. So it works
//! on pieces of any length, with the very bits of the whole. Latents are standardised already; pictures are in 0..1.

use candle_core::{DType, Device, Result, Tensor};
use refrain_ops::{Conv2d, ConvEpilogue, Precision};

use crate::{error::ModelError, weights::Weights};

type Loaded<T> = std::result::Result<T, ModelError>;

/// What a piece of a clip leaves for the next: the input of each layer's last frame, and frames that wait for others.
#[derive(Debug, Clone, Default)]
pub struct TaehvState {
    layers: Vec<Option<Tensor>>,
    /// Frames that are still to be dropped at the start.
    trim: usize,
}

#[derive(Debug)]
enum Layer {
    /// tanh(x / 3)·3, which keeps latents in the range of training.
    Clamp,
    Relu,
    Convolution(Conv2d),
    /// relu(convolutions([x, x of the frame before]) + x).
    Memory([Conv2d; 3]),
    /// Groups of frames side by side in the channels, mixed to one.
    Pool(Conv2d, usize),
    /// A frame to several, which lie side by side in the channels.
    Grow(Conv2d, usize),
    /// Nearest neighbour, by two.
    Enlarge,
}

/// One direction of a TAEHV.
#[derive(Debug)]
struct Sequence {
    layers: Vec<Layer>,
}

/// Reads layers by their place in the checkpoint's sequence.
struct Loader<'a> {
    weights: Weights,
    layers: &'a mut Vec<Layer>,
    precision: Precision,
}

impl Loader<'_> {
    fn place(&self) -> Weights {
        self.weights.at(self.layers.len())
    }

    fn shape(&self, weights: &Weights) -> [usize; 4] {
        // An absent or misshapen tensor is complained about where it is read.
        weights.shape("weight").and_then(|shape| shape.try_into().ok()).unwrap_or([1, 1, 1, 1])
    }

    fn read(&self, weights: &Weights, shape: [usize; 4], stride: usize, bias: bool) -> Loaded<Conv2d> {
        let kernel = weights.tensor("weight", &shape)?;
        let bias = bias.then(|| weights.tensor("bias", &shape[..1])).transpose()?;
        Ok(Conv2d::new(&kernel, bias.as_ref(), stride, shape[2] / 2, self.precision)?)
    }

    /// A convolution with kernel 3; gives its output channels.
    fn convolution(&mut self, inputs: usize, stride: usize, bias: bool) -> Loaded<usize> {
        let place = self.place();
        let [outputs, ..] = self.shape(&place);
        let layer = self.read(&place, [outputs, inputs, 3, 3], stride, bias)?;
        self.layers.push(Layer::Convolution(layer));
        Ok(outputs)
    }

    fn memories(&mut self, channels: usize) -> Loaded<()> {
        for _ in 0..3 {
            let place = self.place().at("conv");
            let read = |index: usize, inputs: usize| self.read(&place.at(index), [channels, inputs, 3, 3], 1, true);
            let layers = [read(0, 2 * channels)?, read(2, channels)?, read(4, channels)?];
            self.layers.push(Layer::Memory(layers));
        }
        Ok(())
    }

    fn pool(&mut self, channels: usize) -> Loaded<usize> {
        let place = self.place().at("conv");
        let [_, inputs, ..] = self.shape(&place);
        let frames = (inputs / channels).max(1);
        let layer = self.read(&place, [channels, frames * channels, 1, 1], 1, false)?;
        self.layers.push(Layer::Pool(layer, frames));
        Ok(frames)
    }

    fn grow(&mut self, channels: usize) -> Loaded<usize> {
        let place = self.place().at("conv");
        let [outputs, ..] = self.shape(&place);
        let frames = (outputs / channels).max(1);
        let layer = self.read(&place, [frames * channels, channels, 1, 1], 1, false)?;
        self.layers.push(Layer::Grow(layer, frames));
        Ok(frames)
    }
}

/// Levels of either direction.
const LEVELS: usize = 3;
/// Channels of a picture.
const COLOURS: usize = 3;

/// Clips to latents.
#[derive(Debug)]
pub struct TaehvEncoder {
    sequence: Sequence,
    frames_per_latent: usize,
}

impl TaehvEncoder {
    /// Loads `encoder.*` of a TAEHV checkpoint; its widths are those of the tensors.
    ///
    /// # Errors
    /// Names a tensor that is missing or does not fit its neighbours.
    pub fn load(weights: &Weights, precision: Precision) -> Loaded<Self> {
        let mut layers = Vec::new();
        let mut loader = Loader { weights: weights.at("encoder"), layers: &mut layers, precision };
        let mut channels = loader.convolution(COLOURS, 1, true)?;
        loader.layers.push(Layer::Relu);
        let mut frames_per_latent = 1;
        for _ in 0..LEVELS {
            frames_per_latent *= loader.pool(channels)?;
            channels = loader.convolution(channels, 2, false)?;
            loader.memories(channels)?;
        }
        loader.convolution(channels, 1, true)?;
        Ok(Self { sequence: Sequence { layers }, frames_per_latent })
    }

    /// Frames that make a latent one.
    pub fn frames_per_latent(&self) -> usize {
        self.frames_per_latent
    }

    /// The state of a clip that begins.
    pub fn begin(&self) -> TaehvState {
        self.sequence.begin(0)
    }

    /// The next frames `[1, 3, t, h, w]` in 0..1 to the latent frames that they complete, `None` if none.
    ///
    /// # Errors
    /// When frames of another size came before.
    pub fn forward(&self, frames: &Tensor, state: &mut TaehvState) -> Result<Option<Tensor>> {
        self.sequence.forward(frames, state)
    }
}

/// Latents to clips.
#[derive(Debug)]
pub struct TaehvDecoder {
    sequence: Sequence,
    frames_per_latent: usize,
}

impl TaehvDecoder {
    /// Loads `decoder.*` of a TAEHV checkpoint for latents of `latent_channels`; its widths are those of the tensors.
    ///
    /// # Errors
    /// Names a tensor that is missing or does not fit its neighbours.
    pub fn load(weights: &Weights, latent_channels: usize, precision: Precision) -> Loaded<Self> {
        let mut layers = vec![Layer::Clamp];
        let mut loader = Loader { weights: weights.at("decoder"), layers: &mut layers, precision };
        let mut channels = loader.convolution(latent_channels, 1, true)?;
        loader.layers.push(Layer::Relu);
        let mut frames_per_latent = 1;
        for _ in 0..LEVELS {
            loader.memories(channels)?;
            loader.layers.push(Layer::Enlarge);
            frames_per_latent *= loader.grow(channels)?;
            channels = loader.convolution(channels, 1, false)?;
        }
        loader.layers.push(Layer::Relu);
        loader.convolution(channels, 1, true)?;
        Ok(Self { sequence: Sequence { layers }, frames_per_latent })
    }

    /// Frames that a latent one becomes; the first one of a clip gives a single frame.
    pub fn frames_per_latent(&self) -> usize {
        self.frames_per_latent
    }

    /// The state of a clip that begins.
    pub fn begin(&self) -> TaehvState {
        self.sequence.begin(self.frames_per_latent - 1)
    }

    /// The next latent frames `[1, c, t, h, w]` to frames `[1, 3, t', h', w']` in 0..1.
    ///
    /// # Errors
    /// When the channels differ, or latents of another size came before.
    pub fn forward(&self, latents: &Tensor, state: &mut TaehvState) -> Result<Tensor> {
        let frames = self.sequence.forward(latents, state)?;
        frames.ok_or_else(|| candle_core::Error::Msg("no latent frames to decode".to_owned()))?.clamp(0f32, 1f32)
    }
}

impl Sequence {
    fn begin(&self, trim: usize) -> TaehvState {
        TaehvState { layers: vec![None; self.layers.len()], trim }
    }

    fn forward(&self, clip: &Tensor, state: &mut TaehvState) -> Result<Option<Tensor>> {
        let (rows, _, count, ..) = clip.dims5()?;
        if rows != 1 || count == 0 {
            candle_core::bail!("a clip of shape {:?}, expected one with frames", clip.dims());
        }
        if state.layers.len() != self.layers.len() {
            candle_core::bail!("the state is another network's");
        }
        let mut hidden = clip.squeeze(0)?.transpose(0, 1)?.contiguous()?;
        for (layer, remembered) in self.layers.iter().zip(&mut state.layers) {
            match layer.forward(&hidden, remembered)? {
                Some(next) => hidden = next,
                None => return Ok(None),
            }
        }
        let frames = hidden.dim(0)?;
        let dropped = state.trim.min(frames.saturating_sub(1));
        state.trim = 0;
        hidden.narrow(0, dropped, frames - dropped)?.transpose(0, 1)?.contiguous()?.unsqueeze(0).map(Some)
    }
}

impl Layer {
    /// `[t, c, h, w]` to what it gives; `None` while frames are missing.
    fn forward(&self, input: &Tensor, remembered: &mut Option<Tensor>) -> Result<Option<Tensor>> {
        match self {
            Self::Clamp => Ok(Some(((input / 3.0)?.tanh()? * 3.0)?)),
            Self::Relu => Ok(Some(input.relu()?)),
            Self::Convolution(layer) => Ok(Some(layer.forward(input)?)),
            Self::Memory(layers) => remember(layers, input, remembered).map(Some),
            Self::Pool(layer, frames) => pool(layer, *frames, input, remembered),
            Self::Grow(layer, frames) => {
                let (count, channels, height, width) = input.dims4()?;
                Ok(Some(layer.forward(input)?.reshape((count * frames, channels, height, width))?))
            }
            Self::Enlarge => {
                let (_, _, height, width) = input.dims4()?;
                Ok(Some(input.upsample_nearest2d(2 * height, 2 * width)?))
            }
        }
    }
}

fn remember(layers: &[Conv2d; 3], input: &Tensor, remembered: &mut Option<Tensor>) -> Result<Tensor> {
    let (count, channels, height, width) = input.dims4()?;
    let before = match remembered.take() {
        Some(before) => before,
        None => Tensor::zeros((1, channels, height, width), DType::F32, &Device::Cpu)?,
    };
    let past = Tensor::cat(&[&before, &input.narrow(0, 0, count - 1)?], 0)?;
    *remembered = Some(input.narrow(0, count - 1, 1)?.copy()?);
    let hidden = layers[0].forward(&Tensor::cat(&[input, &past], 1)?)?.relu()?;
    let hidden = layers[1].forward(&hidden)?.relu()?;
    layers[2].forward_with(&hidden, &ConvEpilogue { residual: Some(input), ..ConvEpilogue::default() })?.relu()
}

fn pool(layer: &Conv2d, frames: usize, input: &Tensor, remembered: &mut Option<Tensor>) -> Result<Option<Tensor>> {
    let sequence = match remembered.take() {
        Some(waiting) => Tensor::cat(&[&waiting, input], 0)?,
        None => input.clone(),
    };
    let (count, channels, height, width) = sequence.dims4()?;
    let groups = count / frames;
    let rest = count - groups * frames;
    if rest > 0 {
        *remembered = Some(sequence.narrow(0, groups * frames, rest)?.copy()?);
    }
    if groups == 0 {
        return Ok(None);
    }
    let whole = sequence.narrow(0, 0, groups * frames)?;
    layer.forward(&whole.reshape((groups, frames * channels, height, width))?).map(Some)
}
