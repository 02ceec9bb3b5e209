//! `orka-step`: a Tekton step that builds on macOS VMs of a MacStadium Orka cluster.
//!
//! The library holds everything but the entry point, so that tests of plugins run the production code: see
//! [`run::execute`]. `host/ARCHITECTURE.md` is the map.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod aot;
pub mod artifacts;
#[cfg(feature = "authoring")]
pub mod authoring;
pub mod backend;
pub mod bindings;
pub mod capability;
pub mod check;
pub mod clean_up;
#[allow(missing_docs, reason = "the doc comments are the command's help")]
pub mod cli;
pub mod config;
pub mod console;
#[cfg(feature = "demo")]
pub mod demo;
pub mod doctor;
pub mod engine;
pub mod failure;
pub mod fit;
pub mod grants;
pub mod guard;
#[cfg(feature = "kubernetes")]
pub mod hand_over;
pub mod host_folder;
pub mod identity;
pub mod inspect;
pub mod interference;
pub mod journal;
#[cfg(feature = "kubernetes")]
pub(crate) mod kubernetes;
pub mod ledger;
pub mod limits;
pub mod lines;
pub mod logging;
pub mod mask;
pub mod measure;
pub mod migrate;
pub mod outcome;
pub mod page;
pub mod parameters;
pub mod plugin;
pub mod precompile;
pub mod predecessors;
pub mod reap;
pub mod report;
pub mod results;
pub mod run;
#[cfg(feature = "authoring")]
pub mod scenario;
pub mod schema;
pub mod session;
pub mod state;
pub mod stop;
pub mod supervisor;
pub mod task;
pub mod task_file;
pub mod teardown;
pub mod trap;
