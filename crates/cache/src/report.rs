//! What the cache did in a run.

/// Account of a run.
#[derive(Debug, Clone, Default)]
pub struct Report {}
