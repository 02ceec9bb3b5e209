//! End to end: the built `orka-step` against a simulated cluster in the test's own process.
//!
//! A [`Cluster`] is what stands at the other end of the wire; a [`Step`] is one start of the program, with nothing in
//! its environment but what the test puts there. What is tested is in the files beside this crate's `src`.
#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a failure here is the failure of the test that asked"
)]

mod applied;
mod built;
mod cluster;
mod kubernetes;
mod names;
mod registry;
mod schema;
mod session;
mod step;
mod tekton;
mod web;
mod webhook;

pub use applied::{Applied, Ran};
pub use built::{bundled, guest, program, target_directory};
pub use cluster::Cluster;
pub use kubernetes::{Kubernetes, Refusal, granted};
pub use names::{hash, name, uid};
pub use registry::{REGISTRY_PASSWORD, Registry};
pub use schema::Schemas;
pub use session::without;
pub use step::{Ended, Running, Step, Stream, Unread};
pub use tekton::{Definition, Namespace, Pod, documents, repository};
pub use web::{Asked, Reply, Web};
pub use webhook::refusals;
