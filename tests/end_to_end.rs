//! The built program against a simulated cluster, by topic.
#![allow(clippy::unwrap_used, missing_docs)]

mod bad_input;
mod capacity_and_network;
mod cli;
mod demo;
mod detached;
mod grants;
mod guests;
mod keeping;
mod leaks_page;
mod log;
mod main_job;
mod many_runs;
mod modular;
mod plugins;
mod predecessors;
mod provenance;
mod reap;
mod reap_pods;
mod recipes;
mod scripts;
mod secrets;
mod ssh_ways;
mod stopping;
mod tekton;
mod transfers;
