//! Ends builds in every way, before, during and after every host call that a build makes, against simulated clusters of
//! three releases, and counts the VMs, VM configs and tokens that are left.
//!
//! A [`Cell`] is one build that ends in one way: by its guest, by the API, by SSH, by its deadline (the production host
//! and client in this process), or by signals (the built program). [`Expected`] says beforehand how it must end. The guest
//! `steps` makes the build and tells by a file in its workspace when it has reached the place, so nothing here depends on
//! how fast a machine is.
#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a tool for tests: what cannot be set up ends it"
)]

mod axes;
mod built;
mod expected;
mod in_process;
mod matrix;
mod process;
mod stage;
mod table;

pub use axes::{Absent, Call, Cell, Fault, Moment, World};
pub use expected::Expected;
pub use matrix::{Matrix, Outcome, play_all};
