//! Tests of a plugin with no Mac, cluster or network: the real `.wasm` under wasmtime, the production host code, and
//! scripted backends with a virtual clock and reproducible random numbers.
//!
//! [`Subject`] is a compiled plugin, [`Scenario`] what its cluster and VMs do, [`Report`] what came of it. [`file`] reads
//! scenarios from YAML, [`check`] compares a report with what a file expects, [`sweep`] ends the same scenario in every way
//! at every host call, and [`suite`] is `orka-step plugin test`. The crate `plugin-testkit` is the same for tests in Rust.
//!
//! What the host checks in production it checks here: parameters against the manifest, grants, limits, the ledger.

pub mod check;
mod cluster;
mod diff;
pub mod file;
mod guest;
mod junit;
mod model;
mod once;
mod play;
pub mod replay;
#[cfg(feature = "demo")]
mod simulator;
pub mod suite;
pub mod sweep;

pub use model::{ExecReply, Pattern, Scenario, Times};
pub use play::{Report, Subject};
