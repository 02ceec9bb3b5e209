//! What happens to a build when the Orka API misbehaves: the bundled plugin `build`, the production host and client,
//! and a simulated cluster in this process, with no program started and nothing scripted in between.
//!
//! [`sweep`] crosses every call of a build with every fault; [`rules`] says beforehand how each cell must end.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    unreachable_pub,
    reason = "a test program has no users"
)]

mod cases;
mod faults;
mod messages;
mod quirks;
mod requests;
mod rules;
mod sharing;
mod sweep;
mod world;
