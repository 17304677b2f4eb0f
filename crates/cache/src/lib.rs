//! What decides whether a part of a diffusion model computes, and what remembers what it computed.
//!
//! A model's forward pass is plain code. Around each cacheable part it makes one call,
//! [`Context::run`]; the context answers by running the closure, by returning the value of an
//! earlier denoising step, or by extrapolating from several of them. Neither side knows the other:
//! a model never names a policy, a policy never names a model.
//!
//! | piece | what it is |
//! |---|---|
//! | [`Site`] | the key: (block, part, branch) |
//! | [`Step`] | (index, count, timestep, sigma) of one model evaluation |
//! | [`Action`] | compute, reuse, forecast, inject, or a differentiable mix |
//! | [`Policy`] | one algorithm that answers with actions; one file each in [`policies`] |
//! | [`Guard`] | limits that hold whatever the policy says |
//! | [`Plan`] | the table `[step][site]` of actions, static or as executed, with its file format |
//! | [`Report`] | what was computed, reused and forecast, at which cost in memory and error |
//!
//! The sites cached are those of HarmoniCa (arXiv 2410.01723): the output of a sub-layer before
//! its gate, so that modulation and gates always follow the current timestep.

mod action;
mod archive;
mod check;
mod context;
mod error;
mod guard;
mod inject;
mod ledger;
mod live;
mod plan;
pub mod policies;
mod policy;
mod recompute;
mod report;
mod run;
mod site;
mod store;

pub use action::{Action, Coefficients, MAX_HISTORY};
pub use archive::{Archive, Storage};
pub use check::{CheckOptions, Checked};
pub use context::Context;
pub use error::CacheError;
pub use guard::Guard;
pub use inject::{Injection, RowBlend};
pub use plan::{Plan, PlanHeader, Planned, Validation};
pub use policy::{Ask, Evidence, History, ModelValue, Observation, Policy};
pub use recompute::{MixWeights, Recording};
pub use report::{Group, Percentiles, Report};
pub use run::{RunHeader, Step};
pub use site::{Branch, Part, Site};

#[cfg(test)]
mod tests;
