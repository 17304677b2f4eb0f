//! Elementwise work on latents: any number of inputs and outputs in one pass over memory.
//!
//! The update of a step mixes two or three tensors with a few coefficients. As separate tensor operations each mix
//! would be written and read again; here the whole formula of a step is one closure over the numbers at one place.

use candle_core::{CpuStorage, DType, Device, Storage, Tensor};
use rayon::prelude::*;

use crate::Result;

/// Elements a thread takes at a time; smaller tensors are done by the calling thread alone.
const CHUNK: usize = 1 << 16;

/// The tensor as contiguous f32, which every pass works on.
pub(crate) fn standard(tensor: &Tensor) -> Result<Tensor> {
    Ok(tensor.to_dtype(DType::F32)?.contiguous()?)
}

/// `outputs = formula(inputs)` at every place. Tensors on another device take the way over the CPU: latents are small
/// beside a model's activations.
///
/// # Errors
/// The inputs differ in shape, or a copy fails.
pub(crate) fn pass<const IN: usize, const OUT: usize>(
    inputs: [&Tensor; IN],
    formula: impl Fn([f32; IN]) -> [f32; OUT] + Sync,
) -> Result<[Tensor; OUT]> {
    let shape = inputs[0].shape().clone();
    let device = inputs[0].device().clone();
    for input in &inputs {
        if input.shape() != &shape {
            let (lhs, rhs) = (shape, input.shape().clone());
            return Err(candle_core::Error::ShapeMismatchBinaryOp { lhs, rhs, op: "sampler step" }.into());
        }
    }
    let mut local = Vec::with_capacity(IN);
    for input in inputs {
        local.push(standard(&input.to_device(&Device::Cpu)?)?);
    }
    let guards: Vec<_> = local.iter().map(Tensor::storage_and_layout).collect();
    let mut slices: [&[f32]; IN] = [&[]; IN];
    for (slice, (storage, layout)) in slices.iter_mut().zip(&guards) {
        if let (Storage::Cpu(CpuStorage::F32(data)), Some((start, end))) = (&**storage, layout.contiguous_offsets()) {
            *slice = data.get(start..end).unwrap_or_default();
        }
    }
    let outputs = apply(slices, shape.elem_count(), formula);
    let mut tensors = Vec::with_capacity(OUT);
    for values in outputs {
        tensors.push(Tensor::from_vec(values, shape.clone(), &Device::Cpu)?.to_device(&device)?);
    }
    tensors.try_into().map_err(|_| candle_core::Error::Msg("outputs of a pass".into()).into())
}

fn apply<const IN: usize, const OUT: usize>(
    inputs: [&[f32]; IN],
    count: usize,
    formula: impl Fn([f32; IN]) -> [f32; OUT] + Sync,
) -> [Vec<f32>; OUT] {
    let mut outputs: [Vec<f32>; OUT] = std::array::from_fn(|_| vec![0.0; count]);
    let mut rests = outputs.each_mut().map(|values| values.as_mut_slice());
    let mut jobs = Vec::with_capacity(count.div_ceil(CHUNK));
    for start in (0..count).step_by(CHUNK) {
        let length = CHUNK.min(count - start);
        let parts = rests.each_mut().map(|rest| {
            let (part, left) = std::mem::take(rest).split_at_mut(length);
            *rest = left;
            part
        });
        jobs.push((start, parts));
    }
    let work = |(start, mut parts): (usize, [&mut [f32]; OUT])| {
        let length = parts[0].len();
        let sources = inputs.map(|input| &input[start..start + length]);
        for place in 0..length {
            let values = formula(std::array::from_fn(|input| sources[input][place]));
            for (part, value) in parts.iter_mut().zip(values) {
                part[place] = value;
            }
        }
    };
    match jobs.len() {
        0 | 1 => jobs.into_iter().for_each(work),
        _ => jobs.into_par_iter().for_each(work),
    }
    outputs
}

/// `factor * tensor`.
pub(crate) fn scaled(tensor: &Tensor, factor: f32) -> Result<Tensor> {
    let [result] = pass([tensor], |[value]| [factor * value])?;
    Ok(result)
}

/// Σ factor·tensor.
pub(crate) fn combined(terms: &[(f64, &Tensor)]) -> Result<Tensor> {
    let [one, rest @ ..] = terms else {
        return Err(candle_core::Error::Msg("no terms of a step".into()).into());
    };
    let mut sum = scaled(one.1, one.0 as f32)?;
    for (factor, tensor) in rest {
        let factor = *factor as f32;
        [sum] = pass([&sum, tensor], |[sum, value]| [sum + factor * value])?;
    }
    Ok(sum)
}

/// Whether no value is NaN or infinite.
pub(crate) fn is_finite(tensor: &Tensor) -> Result<bool> {
    // A sum in f64 of finite f32 cannot overflow, and one NaN or infinity stays in it.
    let (storage, layout) = tensor.storage_and_layout();
    if let (Storage::Cpu(CpuStorage::F32(data)), Some((start, end))) = (&*storage, layout.contiguous_offsets()) {
        return Ok(data
            .get(start..end)
            .unwrap_or_default()
            .iter()
            .map(|&value| f64::from(value))
            .sum::<f64>()
            .is_finite());
    }
    drop(storage);
    Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?.iter().all(|value| value.is_finite()))
}
