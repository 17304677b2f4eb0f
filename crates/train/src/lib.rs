//! Training of cache routers.
//!
//! Two ways to learn, one result: a plan that the cache replays.
//!
//! | module | what is learned | from |
//! |---|---|---|
//! | [`sdt`] | a logit per step and site (HarmoniCa, arXiv 2410.01723) | gradients along the student's own trajectory |
//! | [`steps`] | which whole steps compute, and linear forecasts of the others | least squares, dynamic programming, sampling |
//! | [`stream`] | how often each part computes while frames go by | measured harm, a knapsack, sampling |
//!
//! [`import`] reads the schedules of other projects; [`transfer`] moves a router to another number of steps.

mod error;
pub mod forecast;
pub mod import;
pub mod least_squares;
pub mod on_pipeline;
pub mod optimiser;
pub mod router;
pub mod sdt;
pub mod steps;
pub mod stream;
pub mod student;
pub mod subject;
pub mod transfer;

pub use error::TrainError;
