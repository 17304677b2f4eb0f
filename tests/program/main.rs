//! The program as its users meet it: each test runs the real binary in a folder of its own.
//!
//! | module | holds |
//! |---|---|
//! | `architecture` | dependencies between the crates point down only |
//! | `help` | help, manual, completions, and what a wrong call says |
//! | `generation` | pictures: batches, threads, outputs, seeds |
//! | `caching` | policies, plans and reports |
//! | `auto` | the default cache: which router, what it says, `--from` |
//! | `initial` | pictures that start from a picture |
//! | `records` | metadata, `info`, `--from`, settings files, events |
//! | `morphing` | `morph` |
//! | `plans` | schedules of other projects |
//! | `routers` | learned routers: trained, shipped and refused |
//! | `refusals` | bad input: one line, the right exit code, no partial file |
//! | `streaming` | clips and pipes in another style |
//! | `videos` | clips from text |
//! | `inspection` | `inspect` |
//! | `benching` | `bench cache` |

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

mod architecture;
mod auto;
mod benching;
mod caching;
mod generation;
mod help;
mod initial;
mod inspection;
mod morph_pictures;
mod morphing;
mod plans;
mod records;
mod refusals;
mod routers;
mod streaming;
mod support;
mod videos;
