//! Checkpoint folders to a running pipeline.
