//! Two-dimensional convolution with weights packed once.

use candle_core::{DType, Result, Tensor};

use crate::types::{Activation, OpsError, Precision};

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

/// A convolution whose frozen weight `[out, in, k, k]` was packed at load.
#[derive(Debug, Clone)]
pub struct Conv2d {
    weight: Tensor,
    bias: Option<Tensor>,
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
        let (out, _, height, width) = weight.dims4()?;
        let shape = |argument, tensor: &Tensor, expected: String| OpsError::Shape {
            operation: "convolution",
            argument,
            found: tensor.dims().to_vec(),
            expected,
        };
        if height != width || height == 0 {
            return Err(shape("weight", weight, "[out, in, k, k]".into()).into());
        }
        if let Some(bias) = bias.filter(|bias| bias.dims() != [out]) {
            return Err(shape("bias", bias, format!("[{out}]")).into());
        }
        if stride == 0 {
            let (found, expected) = ("0".into(), "at least 1".into());
            return Err(OpsError::Value { operation: "convolution", argument: "stride", found, expected }.into());
        }
        let to_f32 = |tensor: &Tensor| tensor.detach().to_dtype(DType::F32)?.contiguous();
        Ok(Self { weight: to_f32(weight)?, bias: bias.map(to_f32).transpose()?, stride, padding, precision })
    }

    /// The convolution of `[b, in, h, w]` plus bias.
    ///
    /// # Errors
    /// When the input's channels differ from the weight's.
    pub fn forward(&self, input: &Tensor) -> Result<Tensor> {
        self.forward_with(input, &ConvEpilogue::default())
    }

    /// The convolution with what follows it done before the result is written.
    ///
    /// # Errors
    /// When shapes disagree.
    pub fn forward_with(&self, input: &Tensor, epilogue: &ConvEpilogue) -> Result<Tensor> {
        self.forward_reference(input, epilogue)
    }

    /// Nearest-neighbour enlargement of the input by two, then the convolution: `[b, in, h, w]` to `[b, out, 2h, 2w]`
    /// (for the usual 3×3 kernel with stride 1 and padding 1).
    ///
    /// # Errors
    /// As [`Conv2d::forward`].
    pub fn forward_upsampled(&self, input: &Tensor) -> Result<Tensor> {
        self.forward_upsampled_reference(input)
    }

    /// The plain twin of [`Conv2d::forward_with`] through candle, differentiable.
    ///
    /// # Errors
    /// As [`Conv2d::forward_with`].
    pub fn forward_reference(&self, input: &Tensor, epilogue: &ConvEpilogue) -> Result<Tensor> {
        let mut output = input.contiguous()?.conv2d(&self.weight, self.padding, self.stride, 1, 1)?;
        if let Some(bias) = &self.bias {
            output = output.broadcast_add(&bias.reshape((1, (), 1, 1))?)?;
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
        self.weight.dims().get(1).copied().unwrap_or(0)
    }

    /// Channels of the result.
    pub fn out_channels(&self) -> usize {
        self.weight.dims().first().copied().unwrap_or(0)
    }

    /// Height (and width) of the kernel.
    pub fn kernel(&self) -> usize {
        self.weight.dims().get(2).copied().unwrap_or(0)
    }

    /// Height and width of the result for an input of `height` × `width`.
    pub fn output_size(&self, height: usize, width: usize) -> (usize, usize) {
        let along = |size: usize| match (size + 2 * self.padding).checked_sub(self.kernel()) {
            Some(room) => room / self.stride + 1,
            None => 0,
        };
        (along(height), along(width))
    }

    /// Bytes that the packed weights hold.
    pub fn bytes(&self) -> usize {
        let bias = self.bias.as_ref().map_or(0, Tensor::elem_count);
        (self.weight.elem_count() + bias) * 4
    }

    /// Floating-point operations (2 per multiplication and addition) for one picture of `height` × `width`.
    pub fn flops(&self, height: usize, width: usize) -> u64 {
        let (out_height, out_width) = self.output_size(height, width);
        2 * self.weight.elem_count() as u64 * (out_height * out_width) as u64
    }

    /// How the products are computed.
    pub fn precision(&self) -> Precision {
        self.precision
    }
}
