//! Zero-shot image morphing on the feature cache, after CHIMERA (arXiv 2512.07155).
//!
//! Both pictures are inverted to noise; what the network computes on the way is captured through the same sites at which
//! caching happens, in the branches `Endpoint(i)`; while an in-between is denoised from interpolated noise under
//! interpolated text, the two endpoints' features are blended and injected: at all depths and steps, or depth group after depth group.
//!
//! This is built from the paper's public description; hook points, cuts between the depth groups and weights that the
//! public text does not give are ours, and so are the defaults: convex injection at all depths and steps, with the weight
//! that suits the pair, and even pace. What follows it: slerp of noise, lerp of text, residual injection with weight 0.4 and turns of the depth
//! groups by a third-party reading, anchor tokens in the first fifth of the steps, the gate at 0.45.
//!
//! | piece | what it is |
//! |---|---|
//! | [`Morpher`] | a pipeline with settings: inverts keyframes, makes frames |
//! | [`schedule`] | which sites are injected when, and what they read |
//! | [`memory`] | the ladder from exact storage to recomputation, in exact bytes |
//! | [`text`], [`caption`] | prompts, anchors; the nearest caption of a vocabulary |
//! | [`calibrate`] | cuts between the depth groups by frequency |
//! | [`judge`] | consistency, path, baselines |
//! | [`pace`] | where each frame lies |
//! | `preview` | even pace, and the injection weight that suits the pair |

mod blend;
pub mod calibrate;
pub mod caption;
mod error;
mod inject;
mod invert;
pub mod judge;
mod keyframes;
pub mod memory;
mod morpher;
pub mod pace;
mod preview;
mod render;
pub mod schedule;
pub mod similarity;
pub mod text;

pub use blend::{lerp, slerp};
pub use error::{MorphError, Result};
pub use keyframes::Keyframes;
pub use morpher::{Evaluation, Inverter, Morpher, Phase, Settings, Watch};
pub use preview::WEIGHTS;
pub use render::Rendered;
