//! Endless video from a causal video transformer (StreamDiffusionV2, arXiv 2511.07399; Self-Forcing, arXiv 2506.08009;
//! CausVid, arXiv 2412.07772).
//!
//! | piece | what it is |
//! |---|---|
//! | [`RollingKv`] | keys and values of the frames that a stream still sees, by row and block |
//! | [`KvPolicy`] | which frames stay, and at which positions in time they are seen |
//! | [`SlotMap`] | what lies where: owned by the session, plain data, traced in tests |
//! | [`FewSteps`] | the noise levels that a chunk passes |
//! | [`NoiseController`] | how much noise a chunk gets, by its motion |
//! | [`Restyler`] | pictures in, restyled pictures out |
//! | [`Inbox`] | pictures that wait: all of them, or only the newest |
//! | [`VideoStream`] | chunks through the levels, as a stream batch or one after the other |
//!
//! # Rules
//!
//! 1. A *row* is a noise level: row `j` holds the keys and values of latents as they were at step `j`. Rows never see each
//!    other, so a stream batch (one forward, row `j` carrying the chunk that entered `j` calls ago) and the sequential
//!    mode (one chunk through all levels) give the same frames for the same noise, bit for bit.
//! 2. Frame numbers are `u64` and grow for ever; what a rotation sees is the policy's business. [`KvPolicy::Relative`]
//!    keeps keys un-rotated and rotates them when they are read, by their rank among the frames held: no position ever
//!    exceeds the cache's length, whatever the stream's.
//! 3. A skipped self-attention still owes its keys and values: the transformer writes them outside the site. Blocks that a
//!    skipped span or model passed over get those of the frame before, un-rotated, in the present frame's slot
//!    ([`RollingKv::carried`] counts them).
//! 4. A chunk that is written again (a second pass over the same frames) takes the slots it had.
//! 5. A reset leaves nothing behind: the session after it equals a fresh one.
//! 6. A replaced sink or a new prompt makes features of before worthless: the cache's context forgets them, so that whatever
//!    the policy, the next evaluation of every level computes.
//!
//! # Defects of the published code that are not copied
//!
//! - After a prompt change it clears keys and values but not the queue of slots to evict, so that the new session starts
//!   with a stale, doubled one.
//! - Without a stream batch it judges the sinks once per denoising step: several may be queued for one chunk, whose steps
//!   then hit different slots. Here a chunk's slots are decided at its first write.
//! - The sinks are judged while some are still empty; a similarity of 0 then queues the last one. [`KvPolicy::Sdv2`]
//!   repeats this, as it is part of the published behaviour; [`KvPolicy::Relative`] waits until all are filled.
//! - At the jump of the positions back to the cache's length, keys stay rotated by their old ones, so that the past lies
//!   in the future until it is evicted ([`KvPolicy::Sdv2`] repeats it, if asked to).
//! - Its table of rotations ends at 1024 latent frames.
//! - Its video autoencoder encodes without standardising the latents (`is_scale` off by default) and decodes as if it had.
//!   Here both directions standardise.

mod error;
mod inbox;
mod kv;
mod noise;
mod noise_controller;
mod restyler;
mod steps;
mod stream;

pub use error::{Result, StreamError};
pub use inbox::{Inbox, InboxPolicy, Taken};
pub use kv::{KvOptions, KvPolicy, KvShape, Residents, RollingKv, RowChunk, SinkRefresh, Slot, SlotMap};
pub use noise::{ChunkNoise, HeldNoise, NoiseSource};
pub use noise_controller::{NoiseControl, NoiseController};
pub use restyler::{RestyleModel, RestyleOptions, Restyled, Restyler};
pub use steps::{DenoisingStep, FewSteps};
pub use stream::{Incoming, Mode, Outgoing, Prediction, StreamOptions, VideoStream};
