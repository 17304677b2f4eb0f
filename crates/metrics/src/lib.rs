//! Measures of harm: how far a picture made with a cache is from the one made without.
//!
//! Pictures are `f32` in 0..1 (values outside are taken as they are), either as slices `[height, width, 3]` or, in [`batch`], as
//! tensors `[n, 3, height, width]`. All sums are in `f64`, in the order of memory, so results are the same for any number of threads.
//!
//! | measure | identical | meaning |
//! |---|---|---|
//! | [`psnr`] | infinity | dB over the mean squared error, peak 1 |
//! | [`ssim`] | 1 | structural similarity, Gaussian window, mean over channels |
//! | [`relative_l2`] | 0 | norm of the difference over the norm of the reference |
//! | [`delta_e`] | 0 | CIE colour difference, 1 is just noticeable |
//! | [`flicker`] | 0 for a still clip | change from frame to frame |
//!
//! An infinite PSNR cannot stand in JSON or in a mean; [`psnr_for_json`] makes it null, [`psnr_capped`] makes it 100 dB.

pub mod batch;
mod colour;
mod error;
mod flicker;
mod latency;
pub mod morph;
mod psnr;
mod ssim;
mod statistics;
pub mod styles;

pub use colour::{ColourDifference, delta_e, lab_from_srgb};
pub use error::MetricsError;
pub use flicker::flicker;
pub use latency::LatencyHistogram;
pub use psnr::{PSNR_CAP, mean_squared_error, psnr, psnr_capped, psnr_for_json, relative_l2};
pub use ssim::{ssim, ssim_rgb8};
pub use statistics::{Summary, mean, mean_pairwise, median, percentile};
