//! The contract's interfaces, one file each: the only place where bindings meet backends.
//!
//! Every host function has the same four beats: check the grant, call the backend, convert, return.

pub mod clock;
pub mod cluster;
pub mod console;
pub mod handoff;
pub mod params;
mod pending;
pub mod random;
pub mod results;
pub mod secrets;
pub mod ssh;
pub mod types;
pub mod wait;
pub mod workspace;
