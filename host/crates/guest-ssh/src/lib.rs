//! SSH sessions with a build VM: waiting until it answers, running commands in it, moving trees both ways.
//!
//! A VM is a stranger. Its host key is checked as the caller asks, what it sends is bounded, and nothing it names can
//! leave the directory a transfer was given. Everything here is independent of how the VM came to be.
//!
//! [`connect`] is the way in; [`Connection`] runs commands ([`ExecRequest`], [`Command`]) and moves files
//! ([`Selection`], [`Limits`], [`TransferSummary`]).
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod auth;
mod command;
mod connection;
mod error;
mod exec;
mod hostkey;
mod quote;
mod ready;
mod session;
mod short_scalar;
mod transfer;

pub use auth::{AuthMethod, Credentials, Identity};
pub use command::{Command, Exit, OutputChunk, Signal, Stream};
pub use connection::Connection;
pub use error::Error;
pub use exec::{EnvValue, ExecRequest, ShellChoice, Stdin, WRAPPER_FAILED};
pub use hostkey::{Fingerprint, HostKeyPolicy, KnownHosts};
pub use quote::RemotePath;
pub use ready::{Backoff, ConnectOptions, Keepalive, Target, Waiting, connect};
#[cfg(feature = "fuzzing")]
pub use transfer::fuzzing;
pub use transfer::{
    Direction, FileDigest, Limits, Selection, Skipped, TransferProgress, TransferSummary,
};
