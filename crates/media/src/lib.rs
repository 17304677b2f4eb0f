//! Pictures, metadata, terminal previews and plots.
