//! Group norm with the activation that follows it: two reads and one write of each group while it is in the cache.

use candle_core::{DType, Device, Result, Tensor};

use crate::differentiable::{Values, is_plain, tied};
use crate::elementary::activated;
use crate::parallel::{WORTH_VALUES, written_chunks};
use crate::profile::{self, Kind};
use crate::simd::{multiply_add, multiversion};
use crate::types::{Activation, OpsError};

/// Lanes of a sum: fixed, so that every machine adds in one order.
const LANES: usize = 16;

/// Group norm (arXiv 1803.08494) over `[b, c, ..]` with frozen weight and bias `[c]`.
#[derive(Debug, Clone)]
pub struct GroupNorm {
    groups: usize,
    weight: Tensor,
    bias: Tensor,
    epsilon: f64,
}

impl GroupNorm {
    /// A norm over `groups` groups of channels.
    ///
    /// # Errors
    /// When `weight` and `bias` differ in length, or it is no multiple of `groups`.
    pub fn new(groups: usize, weight: &Tensor, bias: &Tensor, epsilon: f64) -> Result<Self> {
        let channels = weight.dims1()?;
        if groups == 0 || channels % groups != 0 || bias.dims() != [channels] {
            return Err(OpsError::Shape {
                operation: "group norm",
                argument: "bias",
                found: bias.dims().to_vec(),
                expected: format!("[{channels}] like the weight, a multiple of {groups} groups"),
            }
            .into());
        }
        let to_f32 = |tensor: &Tensor| tensor.detach().to_device(&Device::Cpu)?.to_dtype(DType::F32)?.contiguous();
        Ok(Self { groups, weight: to_f32(weight)?, bias: to_f32(bias)?, epsilon })
    }

    /// The norm of `[b, c, ..]`, followed by `activation`.
    ///
    /// # Errors
    /// When the input has another number of channels.
    pub fn forward(&self, input: &Tensor, activation: Activation) -> Result<Tensor> {
        let (channels, per_channel) = self.sizes(input)?;
        if !is_plain(input) {
            return self.forward_reference(input, activation);
        }
        let plain = input.contiguous()?;
        let output = {
            let (values, weight, bias) = (Values::of(&plain)?, Values::of(&self.weight)?, Values::of(&self.bias)?);
            let per_group = channels / self.groups;
            let length = per_group * per_channel;
            // SAFETY: a chunk is one group of one picture, all of which `normalise` writes.
            #[allow(unsafe_code)]
            unsafe {
                let _timed = profile::timed(Kind::Norm);
                written_chunks(values.len(), length, values.len() >= WORTH_VALUES, |index, output| {
                    let first = index % self.groups * per_group;
                    let group = Group {
                        input: &values[index * length..][..length],
                        per_channel,
                        weight: &weight[first..first + per_group],
                        bias: &bias[first..first + per_group],
                        epsilon: self.epsilon as f32,
                        activation,
                    };
                    normalise(&group, output);
                })
            }
        };
        let twin = self.clone();
        tied(output, input.shape(), &[input], move |inputs| twin.forward_reference(&inputs[0], activation))
    }

    /// Channels and values per channel of one picture.
    fn sizes(&self, input: &Tensor) -> Result<(usize, usize)> {
        let channels = self.weight.elem_count();
        match input.dims() {
            [_, found, rest @ ..] if *found == channels => Ok((channels, rest.iter().product())),
            dims => {
                let (operation, argument) = ("group norm", "input");
                let expected = format!("[b, {channels}, ..]");
                Err(OpsError::Shape { operation, argument, found: dims.to_vec(), expected }.into())
            }
        }
    }

    /// The plain twin of [`GroupNorm::forward`], differentiable.
    ///
    /// # Errors
    /// As [`GroupNorm::forward`].
    pub fn forward_reference(&self, input: &Tensor, activation: Activation) -> Result<Tensor> {
        let (channels, per_channel) = self.sizes(input)?;
        let batch = input.dim(0)?;
        let like =
            |tensor: &Tensor| tensor.to_device(input.device())?.to_dtype(input.dtype())?.reshape((1, channels, 1));
        let grouped = input.reshape((batch, self.groups, per_channel * (channels / self.groups)))?;
        let centred = grouped.broadcast_sub(&grouped.mean_keepdim(2)?)?;
        let variance = centred.sqr()?.mean_keepdim(2)?;
        let normed = centred.broadcast_div(&(variance + self.epsilon)?.sqrt()?)?;
        let normed = normed.reshape((batch, channels, per_channel))?;
        let output = normed.broadcast_mul(&like(&self.weight)?)?.broadcast_add(&like(&self.bias)?)?;
        activation.reference(&output.reshape(input.dims())?)
    }
}

/// One group of one picture.
struct Group<'a> {
    input: &'a [f32],
    per_channel: usize,
    weight: &'a [f32],
    bias: &'a [f32],
    epsilon: f32,
    activation: Activation,
}

/// Sum of `map` over long rows: sums of 4096 values are gathered in f64, or rounding would grow with the picture.
#[inline(always)]
fn long_sum(values: &[f32], map: impl Fn(f32) -> f32) -> f64 {
    let mut total = 0.0;
    for part in values.chunks(4096) {
        let mut lanes = [0.0f32; LANES];
        let (whole, rest) = part.as_chunks::<LANES>();
        for chunk in whole {
            for (lane, value) in lanes.iter_mut().zip(chunk) {
                *lane += map(*value);
            }
        }
        for (lane, value) in lanes.iter_mut().zip(rest) {
            *lane += map(*value);
        }
        total += lanes.iter().map(|lane| f64::from(*lane)).sum::<f64>();
    }
    total
}

multiversion! {
    fn normalise(group: &Group<'_>, output: &mut [f32]) {
        let count = group.input.len() as f64;
        let mean = (long_sum(group.input, |value| value) / count) as f32;
        let variance = (long_sum(group.input, |value| (value - mean) * (value - mean)) / count) as f32;
        let factor = 1.0 / (variance + group.epsilon).sqrt();
        let step = group.per_channel.max(1);
        let channels = output.chunks_mut(step).zip(group.input.chunks(step));
        for ((output, input), (weight, bias)) in channels.zip(group.weight.iter().zip(group.bias)) {
            let scale = factor * weight;
            let rows = output.iter_mut().zip(input);
            // One loop for each, as a choice inside would keep it from vectorising.
            match group.activation {
                Activation::None => {
                    rows.for_each(|(output, value)| *output = multiply_add::<FUSED>(value - mean, scale, *bias));
                }
                Activation::Silu => rows.for_each(|(output, value)| {
                    *output = activated::<FUSED>(multiply_add::<FUSED>(value - mean, scale, *bias), Activation::Silu);
                }),
                activation => rows.for_each(|(output, value)| {
                    *output = activated::<FUSED>(multiply_add::<FUSED>(value - mean, scale, *bias), activation);
                }),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{assert_close, assert_gradients, on_threads, random, values};

    fn norm(groups: usize, per_group: usize) -> GroupNorm {
        let channels = groups * per_group;
        GroupNorm::new(groups, &random(&[channels], 1), &random(&[channels], 2), 1e-6).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn agrees_with_its_twin(
            (batch, groups, per_group) in (0usize..3, 1usize..9, 1usize..5),
            (height, width, transposed) in (1usize..20, 1usize..20, any::<bool>()),
            activation in prop::sample::select(vec![Activation::None, Activation::Silu, Activation::Gelu, Activation::GeluTanh]),
        ) {
            prop_assume!(per_group * height * width > 1);
            let norm = norm(groups, per_group);
            let input = match transposed {
                true => random(&[batch, groups * per_group, width, height], 3).transpose(2, 3).unwrap(),
                false => random(&[batch, groups * per_group, height, width], 3),
            };
            let ours = norm.forward(&input, activation).unwrap();
            if batch == 0 {
                prop_assert_eq!(ours.dims(), input.dims());
            } else {
                assert_close(&ours, &norm.forward_reference(&input, activation).unwrap(), 2e-5);
            }
        }
    }

    #[test]
    fn gradients_arrive() {
        let norm = norm(2, 3);
        assert_gradients(
            &[random(&[2, 6, 4, 5], 3)],
            |inputs| norm.forward(&inputs[0], Activation::Silu).unwrap(),
            |inputs| norm.forward_reference(&inputs[0], Activation::Silu).unwrap(),
        );
    }

    #[test]
    fn threads_and_batch_change_no_bit() {
        let norm = norm(8, 8);
        let input = random(&[2, 64, 50, 50], 3);
        let run = |threads| on_threads(threads, || values(&norm.forward(&input, Activation::Silu).unwrap()));
        let one = run(1);
        assert_eq!(one, run(3));
        let alone = values(&norm.forward(&input.narrow(0, 1, 1).unwrap(), Activation::Silu).unwrap());
        assert_eq!(one[alone.len()..], alone);
    }
}
