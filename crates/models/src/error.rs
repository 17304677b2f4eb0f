//! What can be wrong with a checkpoint, said in one line each.

use candle_core::DType;

/// A model that cannot be built from the files it was given.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A value in a `config.json` that no model can have, or that this build does not know.
    #[error("{file}: field `{field}` {problem}")]
    Config {
        /// The configuration file, as the user would name it.
        file: String,
        /// The JSON key.
        field: String,
        /// What was found and what is accepted.
        problem: String,
    },
    /// The file is no JSON object.
    #[error("{file}: not a JSON object ({problem})")]
    Json {
        /// The configuration file.
        file: String,
        /// What the parser said.
        problem: String,
    },
    /// A tensor that the configuration calls for is not in the file.
    #[error("{file}: tensor `{tensor}` is missing, expected one of shape {expected:?}")]
    MissingTensor {
        /// The file that should hold it.
        file: String,
        /// Full name of the tensor.
        tensor: String,
        /// Shape that follows from the configuration.
        expected: Vec<usize>,
    },
    /// A tensor of another shape than the configuration calls for.
    #[error("{file}: tensor `{tensor}` has shape {found:?}, expected {expected:?}")]
    WrongShape {
        /// The file that holds it.
        file: String,
        /// Full name of the tensor.
        tensor: String,
        /// Shape that follows from the configuration.
        expected: Vec<usize>,
        /// Shape in the file.
        found: Vec<usize>,
    },
    /// A tensor of a type that is no weight.
    #[error("{file}: tensor `{tensor}` has type {found}, expected f32, f16, bf16 or f64")]
    WrongDtype {
        /// The file that holds it.
        file: String,
        /// Full name of the tensor.
        tensor: String,
        /// Type in the file.
        found: String,
    },
    /// A failure inside a tensor operation.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl ModelError {
    /// A complaint about one field of a configuration file.
    pub fn config(file: &str, field: &str, problem: impl Into<String>) -> Self {
        Self::Config { file: file.to_owned(), field: field.to_owned(), problem: problem.into() }
    }
}

/// Whether weights may be stored as `dtype`.
pub(crate) fn is_weight_dtype(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F16 | DType::BF16 | DType::F64)
}
