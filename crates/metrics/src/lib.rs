//! Measures of harm.
