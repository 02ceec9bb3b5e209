//! `orka-step doctor` against simulated clusters of both generations.

#![allow(clippy::unwrap_used, missing_docs)]

mod bench;
mod cluster;
mod command_line;
