//! Denoisers, autoencoders and text encoders that ask the cache before they compute.
//!
//! One file per family. A family reads its dimensions from a [`ConfigFile`], every value checked before anything is
//! allocated, and its tensors from [`Weights`], every shape checked against those dimensions; names of tensors are those of
//! the diffusers folder. Forward passes are plain code: around each cacheable part stands one call to the
//! [`refrain_cache::Context`], and everything hot is an operation of `refrain_ops`.

pub mod autoencoder_kl;
pub mod autoencoder_wan;
pub mod clip;
mod config;
mod cross_attention;
mod denoiser;
pub mod dit;
mod error;
mod modulation;
pub mod patch_autoencoder;
pub mod pixart;
mod position;
pub mod t5;
pub mod taehv;
mod transformer;
pub mod unet;
pub mod wan;
mod weights;

pub use config::ConfigFile;
pub use cross_attention::TextStates;
pub use denoiser::{Conditions, Denoiser, Depth, Facts, LatentShape, SiteInfo};
pub use error::ModelError;
pub use position::GridPositions;
pub use transformer::FeedForwardKind;
pub use weights::{TensorSource, Weights};
