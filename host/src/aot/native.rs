//! The one place where bytes from a file become native code, with every check they have to pass.

use std::io;

use plugin_engine::{EngineId, Sealed};

use super::cache::CacheKey;
use super::place::CameWithProgram;
use crate::engine::{Component, Engine};

/// Why ahead-of-time code is not used.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It is not a file of ours, or cut short.
    #[error("there is no record at its end; it is cut short or was not made by `orka-step`")]
    NoRecord,
    /// Its record is damaged.
    #[error("its record is damaged")]
    Damaged,
    /// Somebody without the key made its record, or it is damaged.
    #[error("its record was not made with this cache's key")]
    NotAuthentic,
    /// It belongs to another `.wasm`.
    #[error("it was made from another plugin ({0})")]
    OtherPlugin(String),
    /// Its engine was another one.
    #[error("it was made by orka-step {host} for {target} with another engine or configuration than this one's ({own})", own = plugin_engine::target())]
    OtherEngine {
        /// Which version made it.
        host: String,
        /// For what.
        target: String,
    },
    /// The code differs from what was recorded.
    #[error("its bytes are not those that were recorded")]
    Changed,
    /// The engine does not take it.
    #[error("the engine does not take it: {0}")]
    Declined(String),
    /// A symbolic link, a directory or a device.
    #[error("it is not a regular file")]
    NotAFile,
    /// Somebody else owns it or its directory.
    #[error("{what} is owned by user {owner}, not by {expected}")]
    Owner {
        /// The file or the directory.
        what: &'static str,
        /// Its owner's number.
        owner: u32,
        /// Who should own it.
        expected: String,
    },
    /// Others may write it or its directory.
    #[error("{what} may be written by others (mode {mode:03o})")]
    Writable {
        /// The file or the directory.
        what: &'static str,
        /// Its permissions.
        mode: u32,
    },
    /// It was mounted over the program's files.
    #[error("{what} is on another file system than the program")]
    Mounted {
        /// The file or the directory.
        what: &'static str,
    },
    /// Absurdly large.
    #[error("it has {0} bytes, more than the code of any plugin")]
    TooLarge(u64),
    /// The file system failed.
    #[error("{0}")]
    Io(io::Error),
}

impl From<rustix::io::Errno> for Refusal {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Io(error.into())
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Why a record may be believed.
pub(super) enum Authority<'a> {
    /// It came with this program, or a compiler that did has just made it.
    Program(CameWithProgram),
    /// Its MAC has to verify under this key.
    Key(&'a CacheKey),
}

/// Checks everything and loads the code.
///
/// `bytes` are the whole file, read once: they are checked and loaded without being read again.
#[expect(
    unsafe_code,
    reason = "the engine cannot check native code; see the SAFETY comment"
)]
pub(super) fn load(
    engine: &Engine,
    id: &EngineId,
    plugin_digest: &str,
    bytes: &[u8],
    authority: &Authority<'_>,
) -> Result<Component, Refusal> {
    let sealed = Sealed::parse(bytes).ok_or(Refusal::NoRecord)?;
    match authority {
        Authority::Program(CameWithProgram { .. }) if sealed.is_authentic(None) => {}
        Authority::Program(_) => return Err(Refusal::Damaged),
        Authority::Key(key) if sealed.is_authentic(Some(key.bytes())) => {}
        Authority::Key(_) => return Err(Refusal::NotAuthentic),
    }
    if sealed.record.engine != *id {
        return Err(Refusal::OtherEngine {
            host: sealed.record.host,
            target: sealed.record.target,
        });
    }
    if sealed.record.plugin != plugin_digest {
        return Err(Refusal::OtherPlugin(sealed.record.plugin));
    }
    if !sealed.is_unchanged() {
        return Err(Refusal::Changed);
    }
    // SAFETY: `deserialize` requires bytes that `Component::serialize` of the same version and configuration of wasmtime
    // gave. The record says so of exactly these bytes (their SHA-256, and the engine's identity, both compared above), and
    // the record is authentic: it was made by this program or its own compiler, and carries the operator's key, or has the
    // digest that was built into this program, or lies where nobody else can write, or came straight from that compiler
    // ([`Authority`]). `sealed.code` borrows memory of this process, so nothing can change between check and use.
    unsafe { Component::deserialize(engine, sealed.code) }
        .map_err(|error| Refusal::Declined(format!("{error:#}")))
}
