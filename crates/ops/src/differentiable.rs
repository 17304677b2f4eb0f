//! Fast forward, plain backward.
//!
//! An operation computes its result with our own code. If one of its inputs tracks gradients, the result is tied to
//! them by an operation whose backward pass runs the plain twin again on the inputs and differentiates that (or, where
//! that is slow, a gradient worked out by hand): weights are frozen here, so nothing else needs a gradient, and training
//! sees the very bits that inference gives.

use std::sync::{Arc, Mutex};

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Layout, Result, Shape, Storage, Tensor, Var};

/// From the inputs and the result's gradient to the inputs' gradients.
type Backward = Arc<dyn Fn(&[&Tensor], &Tensor) -> Result<Vec<Option<Tensor>>> + Send + Sync>;

/// Ties `output` to at most three `inputs` when one of them tracks gradients; `twin` gives the same result from them.
pub(crate) fn tied(
    output: Vec<f32>,
    shape: impl Into<Shape>,
    inputs: &[&Tensor],
    twin: impl Fn(&[Tensor]) -> Result<Tensor> + Send + Sync + 'static,
) -> Result<Tensor> {
    tied_by(output, shape, inputs, move |inputs, gradient| by_twin(&twin, inputs, gradient))
}

/// As [`tied`], with the gradients worked out by hand: `backward` gives one for each input that tracks them.
pub(crate) fn tied_by(
    output: Vec<f32>,
    shape: impl Into<Shape>,
    inputs: &[&Tensor],
    backward: impl Fn(&[&Tensor], &Tensor) -> Result<Vec<Option<Tensor>>> + Send + Sync + 'static,
) -> Result<Tensor> {
    let shape = shape.into();
    if !inputs.iter().any(|input| input.track_op()) {
        return Tensor::from_vec(output, shape, &candle_core::Device::Cpu);
    }
    let ready = Mutex::new(Some((CpuStorage::F32(output), shape)));
    let tie = Tie { ready, backward: Arc::new(backward) };
    match inputs {
        [only] => only.apply_op1(tie),
        [first, second] => first.apply_op2(second, tie),
        [first, second, third] => first.apply_op3(second, third, tie),
        _ => candle_core::bail!("an operation of {} inputs cannot be tied", inputs.len()),
    }
}

/// The gradient of each input, by running the twin.
fn by_twin(
    twin: &impl Fn(&[Tensor]) -> Result<Tensor>,
    inputs: &[&Tensor],
    gradient: &Tensor,
) -> Result<Vec<Option<Tensor>>> {
    let inputs: Vec<Var> = inputs.iter().map(|input| Var::from_tensor(&input.detach())).collect::<Result<_>>()?;
    let tensors: Vec<Tensor> = inputs.iter().map(|input| input.as_tensor().clone()).collect();
    let store = (twin(&tensors)? * gradient.detach())?.sum_all()?.backward()?;
    Ok(tensors.iter().map(|input| store.get(input).cloned()).collect())
}

/// Whether our code can compute with this tensor: f32 on the CPU.
pub(crate) fn is_plain(tensor: &Tensor) -> bool {
    tensor.dtype() == DType::F32 && tensor.device().is_cpu()
}

/// A contiguous tensor's values.
pub(crate) struct Values<'a> {
    guard: candle_core::StorageRef<'a>,
    start: usize,
    length: usize,
}

impl<'a> Values<'a> {
    /// The values of a contiguous f32 tensor on the CPU.
    pub(crate) fn of(tensor: &'a Tensor) -> Result<Self> {
        let (guard, layout) = tensor.storage_and_layout();
        match (&*guard, layout.contiguous_offsets()) {
            (Storage::Cpu(CpuStorage::F32(_)), Some((start, end))) => Ok(Self { guard, start, length: end - start }),
            _ => candle_core::bail!("expected a contiguous f32 tensor on the cpu, found {:?}", tensor.dtype()),
        }
    }
}

impl std::ops::Deref for Values<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.guard {
            Storage::Cpu(CpuStorage::F32(values)) => values.get(self.start..self.start + self.length).unwrap_or(&[]),
            _ => &[],
        }
    }
}

struct Tie {
    /// The result, until candle asks for it.
    ready: Mutex<Option<(CpuStorage, Shape)>>,
    backward: Backward,
}

impl Tie {
    fn take(&self) -> Result<(CpuStorage, Shape)> {
        match self.ready.lock().ok().and_then(|mut ready| ready.take()) {
            Some(ready) => Ok(ready),
            None => candle_core::bail!("a result can be taken once"),
        }
    }

    fn gradients(&self, inputs: &[&Tensor], gradient: &Tensor) -> Result<Vec<Option<Tensor>>> {
        (self.backward)(inputs, gradient)
    }
}

const NAME: &str = "refrain";

impl CustomOp1 for Tie {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.take()
    }

    fn bwd(&self, input: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        Ok(self.gradients(&[input], gradient)?.pop().flatten())
    }
}

impl CustomOp2 for Tie {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.take()
    }

    fn bwd(
        &self,
        first: &Tensor,
        second: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let mut gradients = self.gradients(&[first, second], gradient)?.into_iter();
        Ok((gradients.next().flatten(), gradients.next().flatten()))
    }
}

impl CustomOp3 for Tie {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.take()
    }

    fn bwd(
        &self,
        first: &Tensor,
        second: &Tensor,
        third: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let mut gradients = self.gradients(&[first, second, third], gradient)?.into_iter();
        Ok((gradients.next().flatten(), gradients.next().flatten(), gradients.next().flatten()))
    }
}
