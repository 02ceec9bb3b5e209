//! What the shipped build policies have in common: what their parameters mean, and the parts of one job in one VM.
//!
//! Parameters are those of the Tekton Task `orka-full`, and some more; a policy declares in its manifest those it has, and
//! one that it does not declare is off.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod change;
mod job;
mod keep;
mod machine;
pub mod metadata;
mod numbers;
pub mod remote;
pub mod script;
mod vm_settings;
mod work;

pub use change::Change;
pub use job::{build, ending_of, warn_of};
pub use machine::{Failed, Machine, bring_up, may_do_better_elsewhere};
pub use vm_settings::VmSettings;
pub use work::{When, Work};
