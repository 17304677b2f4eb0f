//! Training of cache routers.

mod error;
pub mod import;
pub mod least_squares;
pub mod optimiser;
pub mod steps;
pub mod subject;

pub use error::TrainError;
