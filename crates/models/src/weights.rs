//! Named tensors of a checkpoint, checked against the shapes that its configuration promises.

use std::{collections::HashMap, fmt::Display, sync::Arc};

use candle_core::{DType, Tensor};

use crate::error::{ModelError, is_weight_dtype};

/// Where tensors come from: a memory-mapped file, bytes in the binary, or a map in a test.
///
/// Headers are known without reading any tensor, so that a wrong checkpoint is refused before anything large is
/// allocated.
pub trait TensorSource: Send + Sync {
    /// The file that holds `name`, or that should hold it; for messages only.
    fn file(&self, name: &str) -> String;
    /// Shape and type of a tensor, or `None` if it is absent. A type that candle does not know is `Err` with its name.
    fn info(&self, name: &str) -> Option<(Vec<usize>, Result<DType, String>)>;
    /// The tensor in its stored type.
    fn read(&self, name: &str) -> candle_core::Result<Tensor>;
    /// Names of all tensors, in no order.
    fn names(&self) -> Vec<String>;
}

impl TensorSource for HashMap<String, Tensor> {
    fn file(&self, _: &str) -> String {
        "(memory)".to_owned()
    }

    fn info(&self, name: &str) -> Option<(Vec<usize>, Result<DType, String>)> {
        self.get(name).map(|tensor| (tensor.dims().to_vec(), Ok(tensor.dtype())))
    }

    fn read(&self, name: &str) -> candle_core::Result<Tensor> {
        self.get(name).cloned().ok_or_else(|| candle_core::Error::Msg(format!("no tensor `{name}`")))
    }

    fn names(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }
}

/// A place in a checkpoint: a source of tensors and a name prefix. Cheap to clone.
#[derive(Clone)]
pub struct Weights {
    source: Arc<dyn TensorSource>,
    prefix: String,
}

impl Weights {
    /// The root of `source`.
    pub fn new(source: Arc<dyn TensorSource>) -> Self {
        Self { source, prefix: String::new() }
    }

    /// Weights held in memory, for tests and for training.
    pub fn from_tensors(tensors: HashMap<String, Tensor>) -> Self {
        Self::new(Arc::new(tensors))
    }

    /// The place below this one: `at("attn1").at("to_q")`, `at(3)`.
    #[must_use]
    pub fn at(&self, name: impl Display) -> Self {
        Self { source: self.source.clone(), prefix: self.name(name) }
    }

    /// The same place under other names: `stored` gives the file's name of a tensor, from the root.
    #[must_use]
    pub fn renamed(&self, stored: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        let source = Renamed { source: self.source.clone(), prefix: self.prefix.clone(), stored: Box::new(stored) };
        Self::new(Arc::new(source))
    }

    /// Full name of a tensor at this place.
    pub fn name(&self, name: impl Display) -> String {
        if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) }
    }

    /// Whether the checkpoint has this tensor.
    pub fn contains(&self, name: impl Display) -> bool {
        self.source.info(&self.name(name)).is_some()
    }

    /// Shape of a tensor as stored, without reading it.
    pub fn shape(&self, name: impl Display) -> Option<Vec<usize>> {
        self.source.info(&self.name(name)).map(|(shape, _)| shape)
    }

    /// Number of values in all tensors at and below this place.
    pub fn parameters(&self) -> usize {
        let here = |name: &str| {
            name.strip_prefix(&self.prefix).is_some_and(|rest| self.prefix.is_empty() || rest.starts_with('.'))
        };
        let names = self.source.names();
        let shapes = names.iter().filter(|name| here(name)).filter_map(|name| self.source.info(name));
        shapes.map(|(shape, _)| shape.iter().product::<usize>()).sum()
    }

    /// The tensor in its stored floating-point type.
    ///
    /// # Errors
    /// Names the file and the tensor if it is missing, of another shape, or no floating-point tensor.
    pub fn tensor(&self, name: impl Display, expected: &[usize]) -> Result<Tensor, ModelError> {
        let tensor = self.name(name);
        let file = || self.source.file(&tensor);
        let Some((found, dtype)) = self.source.info(&tensor) else {
            return Err(ModelError::MissingTensor { file: file(), expected: expected.to_vec(), tensor });
        };
        if found != expected {
            return Err(ModelError::WrongShape { file: file(), expected: expected.to_vec(), found, tensor });
        }
        match dtype {
            Ok(dtype) if is_weight_dtype(dtype) => Ok(self.source.read(&tensor)?),
            Ok(dtype) => Err(ModelError::WrongDtype { file: file(), found: dtype.as_str().to_owned(), tensor }),
            Err(found) => Err(ModelError::WrongDtype { file: file(), found, tensor }),
        }
    }

    /// The tensor converted to f32: for norms, tables and biases that operations take as they are.
    ///
    /// # Errors
    /// As [`Weights::tensor`].
    pub fn tensor_f32(&self, name: impl Display, expected: &[usize]) -> Result<Tensor, ModelError> {
        Ok(self.tensor(name, expected)?.to_dtype(DType::F32)?)
    }

    /// Whether everything at and below this place equals what `other` has under the same names.
    ///
    /// # Errors
    /// If a tensor cannot be read.
    pub fn equals(&self, other: &Self) -> Result<bool, ModelError> {
        let below = |place: &Self| -> std::collections::BTreeSet<String> {
            let start = place.name("");
            place.source.names().iter().filter_map(|name| name.strip_prefix(&start)).map(str::to_owned).collect()
        };
        let names = below(self);
        if names != below(other) {
            return Ok(false);
        }
        for name in names {
            let (here, there) = (self.source.read(&self.name(&name))?, other.source.read(&other.name(&name))?);
            if here.dims() != there.dims() || here.dtype() != there.dtype() {
                return Ok(false);
            }
            // As they are loaded; what is not a number equals nothing.
            let different = here.to_dtype(DType::F32)?.ne(&there.to_dtype(DType::F32)?)?;
            if different.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()? > 0.0 {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// A source whose tensors are asked for by other names than it stores.
struct Renamed {
    source: Arc<dyn TensorSource>,
    /// Place of the root in the source.
    prefix: String,
    stored: Box<dyn Fn(&str) -> String + Send + Sync>,
}

impl Renamed {
    fn name(&self, name: &str) -> String {
        let stored = (self.stored)(name);
        if self.prefix.is_empty() { stored } else { format!("{}.{stored}", self.prefix) }
    }
}

impl TensorSource for Renamed {
    fn file(&self, name: &str) -> String {
        self.source.file(&self.name(name))
    }

    fn info(&self, name: &str) -> Option<(Vec<usize>, Result<DType, String>)> {
        self.source.info(&self.name(name))
    }

    fn read(&self, name: &str) -> candle_core::Result<Tensor> {
        self.source.read(&self.name(name))
    }

    /// The stored names: there is no way back from them, and only their number and sizes are asked for.
    fn names(&self) -> Vec<String> {
        self.source.names()
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn weights() -> candle_core::Result<Weights> {
        let tensor = Tensor::zeros((2, 3), DType::F16, &Device::Cpu)?;
        let labels = Tensor::zeros(4, DType::U32, &Device::Cpu)?;
        Ok(Weights::from_tensors(HashMap::from([
            ("block.0.weight".to_owned(), tensor),
            ("block.0.labels".to_owned(), labels),
        ])))
    }

    #[test]
    fn finds_by_path_and_converts() -> Result<(), ModelError> {
        let place = weights()?.at("block").at(0);
        assert!(place.contains("weight") && !place.contains("bias"));
        assert_eq!(place.tensor_f32("weight", &[2, 3])?.dtype(), DType::F32);
        assert_eq!((place.parameters(), weights()?.at("bl").parameters()), (10, 0));
        Ok(())
    }

    #[test]
    fn places_are_equal_when_names_shapes_and_values_are() -> Result<(), ModelError> {
        let tensor = |values: &[f32]| Tensor::new(values, &Device::Cpu);
        let place = |values: &[f32], name: &str| -> Result<Weights, ModelError> {
            let tensors = [("a.b.weight", tensor(&[1.0, 2.0])?), (name, tensor(values)?)];
            Ok(Weights::from_tensors(tensors.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect()))
        };
        let same = |weights: Weights| weights.at("a").equals(&weights.at("c"));
        assert!(same(place(&[1.0, 2.0], "c.b.weight")?)?);
        assert!(!same(place(&[1.0, 3.0], "c.b.weight")?)?, "another value");
        assert!(!same(place(&[1.0], "c.b.weight")?)?, "another shape");
        assert!(!same(place(&[1.0, 2.0], "c.weight")?)?, "another name");
        Ok(())
    }

    #[test]
    fn complaints_name_the_tensor() -> Result<(), ModelError> {
        let place = weights()?.at("block").at(0);
        for (name, shape, expected) in [
            ("bias", vec![2], "tensor `block.0.bias` is missing, expected one of shape [2]"),
            ("weight", vec![3, 2], "tensor `block.0.weight` has shape [2, 3], expected [3, 2]"),
            ("labels", vec![4], "tensor `block.0.labels` has type u32, expected f32, f16, bf16 or f64"),
        ] {
            let message = place.tensor(name, &shape).err().map(|error| error.to_string());
            assert_eq!(message, Some(format!("(memory): {expected}")));
        }
        Ok(())
    }
}
