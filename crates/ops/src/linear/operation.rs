//! The linear layer as candle operations.

use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::epilogue::{Epilogue, LinearSink, Residual};
use crate::matmul::{Packed, PackedShape, Product, Rows, TILE_COLUMNS};
use crate::parallel::written;
use crate::profile::{self, Kind};
use crate::types::{Activation, Precision};

/// A weight in kernel order, and what belongs to it.
#[derive(Debug)]
pub(super) struct Weight {
    pub(super) packed: Packed,
    /// Padded with zeros to whole panels.
    pub(super) bias: Vec<f32>,
    pub(super) precision: Precision,
    /// For gradients, packed when first asked for.
    transposed: OnceLock<Arc<Weight>>,
}

impl Weight {
    /// Packs `weight(output, input)`.
    pub(super) fn new(
        outputs: usize,
        inputs: usize,
        precision: Precision,
        weight: impl Fn(usize, usize) -> f32 + Sync,
    ) -> Self {
        let shape = PackedShape { outputs, depth: inputs };
        let packed = Packed::new(shape, precision, weight);
        let bias = vec![0.0; outputs.next_multiple_of(TILE_COLUMNS)];
        Self { packed, bias, precision, transposed: OnceLock::new() }
    }

    /// The weight that carries a gradient back: of the values as they were rounded, without the bias.
    fn transposed(&self) -> Arc<Self> {
        let build = || {
            let precision = if self.precision == Precision::Int8 { Precision::Bf16 } else { self.precision };
            let PackedShape { outputs, depth, .. } = self.packed.shape;
            Arc::new(Self::new(depth, outputs, precision, |output, input| self.packed.value(input, output)))
        };
        self.transposed.get_or_init(build).clone()
    }

    /// `epilogue(rows * weight^T + bias)`.
    pub(super) fn product(&self, rows: &[f32], epilogue: Epilogue<'_>) -> Vec<f32> {
        let _timed = profile::timed(Kind::Product);
        let rows = Rows::new(rows, self.packed.shape.depth);
        let (width, pair) = match epilogue {
            Epilogue::Gated(panels) => (panels * TILE_COLUMNS, Some(panels)),
            Epilogue::Activate(_) | Epilogue::Residual(_) => (self.packed.shape.outputs, None),
        };
        #[allow(unsafe_code, reason = "the result is not cleared before it is written")]
        // SAFETY: the product stores every tile of its rows and columns.
        unsafe {
            written(rows.len() * width, |output| {
                let sink = LinearSink { output, width, bias: &self.bias, epilogue };
                Product { rows, packed: &self.packed, sink: &sink, pair }.run();
            })
        }
    }
}

/// What a [`Product`] of a tensor by a weight ends with.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    Activate(Activation),
    Residual,
    Gated,
}

/// A linear layer and its end, over one to three tensors: input, residual, gate.
#[derive(Clone, Debug)]
pub(super) struct LinearOperation {
    pub(super) weight: Arc<Weight>,
    pub(super) end: End,
}

/// The elements of a contiguous `f32` tensor.
fn elements<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("linear: an operand is not contiguous"),
    }
}

impl LinearOperation {
    fn run(&self, input: (&CpuStorage, &Layout), epilogue: Epilogue<'_>) -> Result<(CpuStorage, Shape)> {
        let values = elements(input.0, input.1)?;
        let mut shape = input.1.dims().to_vec();
        let outputs = self.weight.packed.shape.outputs;
        if let Some(last) = shape.last_mut() {
            *last = if matches!(epilogue, Epilogue::Gated(_)) { outputs / 2 } else { outputs };
        }
        Ok((CpuStorage::F32(self.weight.product(values, epilogue)), shape.into()))
    }
}

impl CustomOp1 for LinearOperation {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let epilogue = match self.end {
            End::Activate(activation) => Epilogue::Activate(activation),
            End::Gated => Epilogue::Gated(self.weight.packed.panels() / 2),
            End::Residual => bail!("linear: a residual is missing"),
        };
        self.run((storage, layout), epilogue)
    }

    /// Of the plain product alone: fused ends are not used where a gradient is wanted.
    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        match self.end {
            End::Activate(Activation::None) => {
                let end = End::Activate(Activation::None);
                let operation = Self { weight: self.weight.transposed(), end };
                gradient.contiguous()?.apply_op1_no_bwd(&operation).map(Some)
            }
            end => bail!("linear: {end:?} has no gradient of its own"),
        }
    }
}

impl CustomOp2 for LinearOperation {
    fn name(&self) -> &'static str {
        "linear-residual"
    }

    fn cpu_fwd(
        &self,
        input: &CpuStorage,
        input_layout: &Layout,
        residual: &CpuStorage,
        residual_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let values = elements(residual, residual_layout)?;
        let residual = Residual { values, gate: None, rows_per_gate: 1 };
        self.run((input, input_layout), Epilogue::Residual(residual))
    }
}

impl CustomOp3 for LinearOperation {
    fn name(&self) -> &'static str {
        "linear-gated-residual"
    }

    fn cpu_fwd(
        &self,
        input: &CpuStorage,
        input_layout: &Layout,
        residual: &CpuStorage,
        residual_layout: &Layout,
        gate: &CpuStorage,
        gate_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (values, gate) = (elements(residual, residual_layout)?, elements(gate, gate_layout)?);
        let rows_per_gate = values.len().checked_div(gate.len()).unwrap_or(1).max(1);
        self.run((input, input_layout), Epilogue::Residual(Residual { values, gate: Some(gate), rows_per_gate }))
    }
}
