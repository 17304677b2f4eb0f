//! Tests of the crate as a whole, on a toy denoiser.

mod golden;
mod guards;
mod invariants;
mod plans;
mod repeats;
mod router;
mod spellings;
mod toy;
