//! Two-dimensional convolution with weights packed once.
//!
//! Products run over a padded copy of a few rows at a time, made block by block of channels in the thread's own working
//! memory: no im2col is ever written out. In f32, 3×3 kernels go by Winograd's filtering, and so do large ones in bf16 where
//! products of pairs exist but no matrix tiles (module `winograd`). What follows the sum (bias, time embedding, activation,
//! shortcut) is done on the way to the result.

mod engine;
mod input;
mod packing;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod tiled;
mod winograd;

use std::sync::{Arc, OnceLock};

use candle_core::{DType, Device, Result, Tensor};

use crate::differentiable::{Values, is_plain, tied};
use crate::tile::Arithmetic;
use crate::types::{Activation, OpsError, Precision};
use engine::{Finish, Geometry, convolve};
use packing::{Packed, Weight};

/// What happens to a convolution's result before it is written, in this order: bias, `shift`, `activation`, `residual`.
#[derive(Debug, Clone, Copy, Default)]
pub struct ConvEpilogue<'a> {
    /// Added per picture and channel, `[b, out]`: a U-Net's time embedding.
    pub shift: Option<&'a Tensor>,
    /// Applied to the sum.
    pub activation: Activation,
    /// Added last, of the result's shape.
    pub residual: Option<&'a Tensor>,
}

/// A convolution whose frozen weight `[out, in, k, k]` was packed at load. Clones share it.
#[derive(Debug, Clone)]
pub struct Conv2d {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    packed: Packed,
    /// The kernel behind an enlargement, packed when it is first asked for.
    enlarged: OnceLock<Packed>,
    bias: Option<Tensor>,
    kernel: usize,
    stride: usize,
    padding: usize,
    precision: Precision,
}

impl Conv2d {
    /// Packs `weight` `[out, in, k, k]` (any float dtype) and `bias` `[out]`.
    ///
    /// # Errors
    /// When the kernel is not square, the stride is 0, or the bias has another length.
    pub fn new(
        weight: &Tensor,
        bias: Option<&Tensor>,
        stride: usize,
        padding: usize,
        precision: Precision,
    ) -> Result<Self> {
        let (out, input, kernel, width) = weight.dims4()?;
        if kernel != width || kernel == 0 {
            return Err(shape_error("weight", weight, "[out, in, k, k]".into()));
        }
        if let Some(bias) = bias.filter(|bias| bias.dims() != [out]) {
            return Err(shape_error("bias", bias, format!("[{out}]")));
        }
        if stride == 0 {
            let (found, expected) = ("0".into(), "at least 1".into());
            return Err(OpsError::Value { operation: "convolution", argument: "stride", found, expected }.into());
        }
        let to_f32 = |tensor: &Tensor| tensor.detach().to_device(&Device::Cpu)?.to_dtype(DType::F32)?.contiguous();
        let weight = to_f32(weight)?;
        let values = Values::of(&weight)?;
        let packed = Packed::plain(Weight { values: &values, out, input, kernel }, Arithmetic::of(precision));
        let bias = bias.map(to_f32).transpose()?;
        let enlarged = OnceLock::new();
        Ok(Self { shared: Arc::new(Shared { packed, enlarged, bias, kernel, stride, padding, precision }) })
    }

    /// The convolution of `[b, in, h, w]` plus bias.
    ///
    /// # Errors
    /// When the input's channels differ from the weight's, or it is smaller than the kernel.
    pub fn forward(&self, input: &Tensor) -> Result<Tensor> {
        self.forward_with(input, &ConvEpilogue::default())
    }

    /// The convolution with what follows it done before the result is written.
    ///
    /// # Errors
    /// As [`Conv2d::forward`], or when the epilogue's tensors do not fit the result.
    pub fn forward_with(&self, input: &Tensor, epilogue: &ConvEpilogue) -> Result<Tensor> {
        let geometry = self.geometry(input)?;
        let shape = (geometry.batch, self.out_channels(), geometry.height, geometry.width);
        if let Some(shift) = epilogue.shift.filter(|shift| shift.dims() != [shape.0, shape.1]) {
            return Err(shape_error("shift", shift, format!("[{}, {}]", shape.0, shape.1)));
        }
        if let Some(residual) =
            epilogue.residual.filter(|residual| residual.dims() != [shape.0, shape.1, shape.2, shape.3])
        {
            return Err(shape_error("residual", residual, format!("{shape:?}")));
        }
        let inputs: Vec<&Tensor> = [Some(input), epilogue.shift, epilogue.residual].into_iter().flatten().collect();
        if !inputs.iter().all(|input| is_plain(input)) {
            return self.forward_reference(input, epilogue);
        }
        let contiguous = |tensor: Option<&Tensor>| tensor.map(Tensor::contiguous).transpose();
        let (plain, shift, residual) =
            (input.contiguous()?, contiguous(epilogue.shift)?, contiguous(epilogue.residual)?);
        let (bias, shift, residual) = (self.shared.bias.as_ref(), shift.as_ref(), residual.as_ref());
        let bias = bias.map(Values::of).transpose()?;
        let shift = shift.map(Values::of).transpose()?;
        let residual = residual.map(Values::of).transpose()?;
        let finish = Finish {
            bias: bias.as_deref(),
            shift: shift.as_deref(),
            activation: epilogue.activation,
            residual: residual.as_deref(),
        };
        let output = convolve(&self.shared.packed, geometry, &Values::of(&plain)?, finish);
        let (twin, activation) = (self.clone(), epilogue.activation);
        let (has_shift, has_residual) = (epilogue.shift.is_some(), epilogue.residual.is_some());
        tied(output, shape, &inputs, move |inputs| {
            let shift = if has_shift { inputs.get(1) } else { None };
            let residual = if has_residual { inputs.last() } else { None };
            twin.forward_reference(&inputs[0], &ConvEpilogue { shift, activation, residual })
        })
    }

    /// Nearest-neighbour enlargement of the input by two, then the convolution: `[b, in, h, w]` to `[b, out, 2h, 2w]`
    /// for the usual 3×3 kernel with stride 1 and padding 1, which takes 4/9 of the products that the enlarged picture
    /// would, or 1/4.
    ///
    /// # Errors
    /// As [`Conv2d::forward`].
    pub fn forward_upsampled(&self, input: &Tensor) -> Result<Tensor> {
        if (self.shared.kernel, self.shared.stride, self.shared.padding) != (3, 1, 1) || !is_plain(input) {
            let (_, _, height, width) = input.dims4()?;
            return self.forward(&input.contiguous()?.upsample_nearest2d(height * 2, width * 2)?);
        }
        let geometry = Geometry { factor: 2, ..self.geometry(input)? };
        let plain = input.contiguous()?;
        let enlarged = || {
            let (out, input) = (self.out_channels(), self.in_channels());
            let values = self.shared.packed.weight();
            Packed::enlarged(Weight { values: &values, out, input, kernel: 3 }, self.shared.packed.arithmetic)
        };
        // Fewer products take the kernel as it is.
        let packed = match winograd::form(&self.shared.packed, &geometry) {
            Some(_) => &self.shared.packed,
            None => self.shared.enlarged.get_or_init(enlarged),
        };
        let bias = self.shared.bias.as_ref().map(Values::of).transpose()?;
        let finish = Finish { bias: bias.as_deref(), shift: None, activation: Activation::None, residual: None };
        let output = convolve(packed, geometry, &Values::of(&plain)?, finish);
        let shape = (geometry.batch, self.out_channels(), 2 * geometry.height, 2 * geometry.width);
        let twin = self.clone();
        tied(output, shape, &[input], move |inputs| twin.forward_upsampled_reference(&inputs[0]))
    }

    /// The sizes of a call; refuses inputs that do not fit.
    fn geometry(&self, input: &Tensor) -> Result<Geometry> {
        let (batch, channels, in_height, in_width) = input.dims4()?;
        let (height, width) = self.output_size(in_height, in_width);
        if channels != self.in_channels() || height == 0 || width == 0 {
            let least = self.shared.kernel.saturating_sub(2 * self.shared.padding);
            let expected = format!("[b, {}, h, w] of at least {least} × {least}", self.in_channels());
            return Err(shape_error("input", input, expected));
        }
        let (stride, padding) = (self.shared.stride, self.shared.padding);
        Ok(Geometry { batch, in_height, in_width, height, width, stride, padding, factor: 1 })
    }

    /// The plain twin of [`Conv2d::forward_with`] through candle, differentiable. Its weights are those that the packed
    /// ones stand for: rounded to bf16 where they are.
    ///
    /// # Errors
    /// As [`Conv2d::forward_with`].
    pub fn forward_reference(&self, input: &Tensor, epilogue: &ConvEpilogue) -> Result<Tensor> {
        let like = |tensor: &Tensor| tensor.to_device(input.device())?.to_dtype(input.dtype());
        let shape = (self.out_channels(), self.in_channels(), self.shared.kernel, self.shared.kernel);
        let weight = like(&Tensor::from_vec(self.shared.packed.weight(), shape, &Device::Cpu)?)?;
        let mut output = input.contiguous()?.conv2d(&weight, self.shared.padding, self.shared.stride, 1, 1)?;
        if let Some(bias) = &self.shared.bias {
            output = output.broadcast_add(&like(bias)?.reshape((1, (), 1, 1))?)?;
        }
        if let Some(shift) = epilogue.shift {
            let (batch, channels) = shift.dims2()?;
            output = output.broadcast_add(&shift.reshape((batch, channels, 1, 1))?)?;
        }
        output = epilogue.activation.reference(&output)?;
        match epilogue.residual {
            Some(residual) => output + residual,
            None => Ok(output),
        }
    }

    /// The plain twin of [`Conv2d::forward_upsampled`].
    ///
    /// # Errors
    /// As [`Conv2d::forward`].
    pub fn forward_upsampled_reference(&self, input: &Tensor) -> Result<Tensor> {
        let (_, _, height, width) = input.dims4()?;
        let enlarged = input.contiguous()?.upsample_nearest2d(height * 2, width * 2)?;
        self.forward_reference(&enlarged, &ConvEpilogue::default())
    }

    /// Channels of the input.
    pub fn in_channels(&self) -> usize {
        self.shared.packed.in_channels
    }

    /// Channels of the result.
    pub fn out_channels(&self) -> usize {
        self.shared.packed.out_channels
    }

    /// Height (and width) of the kernel.
    pub fn kernel(&self) -> usize {
        self.shared.kernel
    }

    /// Height and width of the result for an input of `height` × `width`.
    pub fn output_size(&self, height: usize, width: usize) -> (usize, usize) {
        let along = |size: usize| match (size + 2 * self.shared.padding).checked_sub(self.shared.kernel) {
            Some(room) => room / self.shared.stride + 1,
            None => 0,
        };
        (along(height), along(width))
    }

    /// Bytes that the packed weights and the bias hold.
    pub fn bytes(&self) -> usize {
        let bias = self.shared.bias.as_ref().map_or(0, Tensor::elem_count) * 4;
        self.shared.packed.bytes() + self.shared.enlarged.get().map_or(0, Packed::bytes) + bias
    }

    /// Floating-point operations (2 per multiplication and addition) for one picture of `height` × `width`.
    pub fn flops(&self, height: usize, width: usize) -> u64 {
        let (out_height, out_width) = self.output_size(height, width);
        let products = self.in_channels() * self.out_channels() * self.shared.kernel * self.shared.kernel;
        2 * products as u64 * (out_height * out_width) as u64
    }

    /// How the products are computed.
    pub fn precision(&self) -> Precision {
        self.shared.precision
    }
}

fn shape_error(argument: &'static str, tensor: &Tensor, expected: String) -> candle_core::Error {
    OpsError::Shape { operation: "convolution", argument, found: tensor.dims().to_vec(), expected }.into()
}
