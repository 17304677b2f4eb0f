//! The crate's one error type.

/// Why a measure cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// Two pictures of different sizes.
    #[error(
        "cannot compare pictures of different sizes: {reference} values against {value}; make both at the same width and height"
    )]
    SizeMismatch {
        /// Values of the reference, or its shape.
        reference: String,
        /// Values of the other, or its shape.
        value: String,
    },
    /// Nothing to measure.
    #[error("there is nothing to measure: the pictures are empty")]
    Empty,
    /// A buffer that is no picture of the size that was named.
    #[error("a picture of {width}x{height} needs {expected} values, but {found} were given")]
    Shape {
        /// Width in pixels.
        width: usize,
        /// Height in pixels.
        height: usize,
        /// Values needed.
        expected: usize,
        /// Values given.
        found: usize,
    },
    /// A picture smaller than the window of a measure.
    #[error("{measure} needs pictures of at least {needed}x{needed} pixels, not {width}x{height}")]
    TooSmall {
        /// The measure.
        measure: &'static str,
        /// The least side.
        needed: usize,
        /// Width found.
        width: usize,
        /// Height found.
        height: usize,
    },
    /// A NaN or infinity where a number is needed.
    #[error("value {index} is {value}, which is no finite number")]
    NotFinite {
        /// Its place.
        index: usize,
        /// What was found.
        value: f64,
    },
    /// A percentile outside 0..=100.
    #[error("a percentile must be from 0 to 100, not {percent}")]
    Percent {
        /// What was given.
        percent: f64,
    },
    /// A tensor that is no batch of pictures.
    #[error("expected pictures [n, 3, height, width], found a tensor of shape {shape:?}")]
    NotPictures {
        /// The shape found.
        shape: Vec<usize>,
    },
    /// A tensor could not be read.
    #[error("cannot read a tensor: {0}")]
    Tensor(#[from] candle_core::Error),
}

/// Refuses slices of different or no length.
pub(crate) fn check_pair(reference: &[f32], value: &[f32]) -> Result<(), MetricsError> {
    if reference.len() != value.len() {
        return Err(MetricsError::SizeMismatch {
            reference: reference.len().to_string(),
            value: value.len().to_string(),
        });
    }
    if reference.is_empty() { Err(MetricsError::Empty) } else { Ok(()) }
}

/// Refuses slices that are not `[height, width, 3]`.
pub(crate) fn check_picture(width: usize, height: usize, found: usize) -> Result<(), MetricsError> {
    let expected = width.checked_mul(height).and_then(|pixels| pixels.checked_mul(3)).unwrap_or(usize::MAX);
    if expected == found { Ok(()) } else { Err(MetricsError::Shape { width, height, expected, found }) }
}
