//! SSH sessions with a build VM: waiting until it answers, running commands in it, moving trees both ways.
//!
//! A VM is a stranger. Its host key is checked as the caller asks, what it sends is bounded, and nothing it names can
//! leave the directory a transfer was given. Everything here is independent of how the VM came to be.
//!
//! [`connect`] is the way in; [`Connection`] runs commands ([`ExecRequest`], [`Command`]) and moves files
//! ([`Selection`], [`Limits`], [`TransferSummary`]).
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod after_exit;
mod algorithms;
mod auth;
mod command;
mod connection;
mod detach;
mod dial;
mod error;
mod exec;
mod hostkey;
mod identity;
mod quote;
mod ready;
mod running;
mod session;
mod short_scalar;
mod stream;
mod transfer;

pub use auth::{AuthMethod, Credentials};
pub use command::{Exit, OutputChunk, Signal, Stream};
pub use connection::Connection;
pub use detach::Detach;
pub use error::Error;
pub use exec::{EnvValue, ExecRequest, ShellChoice, Stdin, WRAPPER_FAILED};
pub use hostkey::{Fingerprint, HostKey, HostKeyMemory, HostKeyPolicy, HostKeyTrust, KnownHosts};
pub use identity::Identity;
pub use quote::RemotePath;
pub use ready::{Backoff, ConnectOptions, Gone, Jump, Keepalive, Target, Waiting, connect};
pub use running::{Command, Event};
#[cfg(feature = "fuzzing")]
pub use transfer::fuzzing;
pub use transfer::{
    Compare, Compress, Direction, FileDigest, Limits, Review, Selection, Skipped, TransferOptions,
    TransferProgress, TransferSummary, check_ignore_files, sweep,
};
