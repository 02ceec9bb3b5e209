//! Moving trees: a tar stream over one command each way, nothing stored in between.
//!
//! `sh`, `find` and `tar` are all the VM needs; both GNU tar and macOS's bsdtar will do. Where commands are refused or one
//! of those is missing, SFTP carries the same stream's contents. What comes from the VM is read as hostile input and
//! written beneath a [`cap_std::fs::Dir`] only.

mod apple;
mod archive;
#[cfg(test)]
mod arrival_tests;
mod attempt;
mod compare;
mod complaints;
mod compress;
mod digest;
mod download;
mod facts;
#[cfg(test)]
mod faulty;
mod file;
mod full;
#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(
    not(feature = "fuzzing"),
    allow(unreachable_pub, reason = "reached from outside when fuzzing only")
)]
pub mod fuzzing;
mod header;
mod ignore_file;
mod in_flight;
mod listing;
mod options;
mod pack;
mod parent;
mod place;
mod receive;
mod room;
mod select;
mod sftp;
mod shrunk;
mod staging;
mod upload;
mod volume;
mod walk;

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub(crate) use attempt::Memory;
pub use digest::FileDigest;
pub(crate) use facts::Beginning;
pub use ignore_file::check_ignore_files;
pub use options::{Compare, Compress, Review, TransferOptions};
pub use select::Selection;
pub use staging::sweep;

use crate::Error;
use crate::command::Exit;
use crate::quote::printable;

/// Bytes that one message of a pipe between threads holds. Small enough that a full pipe stays under a mebibyte.
const PIECE: usize = 64 * 1024;

/// Messages in such a pipe.
const PIPE_PIECES: usize = 8;

/// Time between two calls of a progress function.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// Bytes of all names of one transfer together: they are kept in memory until its end.
const NAMES_MAX: u64 = 64 << 20;

/// Directories within each other. Each level holds two descriptors open while a tree is moved into place, and a process
/// has 1,024 of them by default.
const DEPTH_MAX: usize = 128;

/// Which way a transfer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To the VM.
    Upload,
    /// From the VM.
    Download,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Upload => "upload",
            Self::Download => "download",
        })
    }
}

/// How much a transfer may move; checked as it goes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of file contents in all.
    pub bytes: u64,
    /// Files, links and directories in all.
    pub entries: u64,
    /// Bytes of one path, relative to the transfer's root.
    pub path_bytes: usize,
}

impl Default for Limits {
    /// 64 GiB, 500,000 entries, 1024 bytes a path (macOS's `PATH_MAX`).
    fn default() -> Self {
        Self {
            bytes: 64 << 30,
            entries: 500_000,
            path_bytes: 1024,
        }
    }
}

/// How far a transfer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransferProgress {
    /// Bytes of file contents so far.
    pub bytes: u64,
    /// Entries so far.
    pub entries: u64,
    /// Bytes in all, where that is known beforehand.
    pub bytes_total: Option<u64>,
    /// Entries in all, where that is known beforehand.
    pub entries_total: Option<u64>,
}

/// What a transfer moved.
#[derive(Clone, Debug)]
pub struct TransferSummary {
    /// Number of regular files.
    pub files: u64,
    /// Bytes of their contents.
    pub bytes: u64,
    /// Each file that was received with its digest, sorted by path. What is sent is not hashed: nobody asks, and it would
    /// take as long as the encryption.
    pub entries: Vec<FileDigest>,
    /// SHA-256 of the set that was received: of what `sha256sum` prints for the files, sorted by path as bytes. To check it:
    /// `find . -type f -printf '%P\0' | LC_ALL=C sort -z | xargs -0 sha256sum -- | sha256sum`.
    pub digest: [u8; 32],
    /// What was left out on purpose.
    pub skipped: Vec<Skipped>,
    /// Complaints of the VM's programs that did not make the transfer fail.
    pub warnings: Vec<String>,
    /// How it went where that is worth knowing: by which slower way and why, compressed, begun again; what was given up
    /// because a side could not do it; what an earlier run had left here.
    pub notes: Vec<String>,
    /// Regular files that were left where they are because the target has the same; see [`Compare`].
    pub unchanged: u64,
    /// Files that came and were left out after a look at them; see [`Review`].
    pub left_out: u64,
    /// Bytes that counted against [`Limits::bytes`]: also those of what came and was left out.
    pub counted_bytes: u64,
    /// Entries that counted against [`Limits::entries`]: also directories, links, and what was left where it is.
    pub counted_entries: u64,
    /// From start to end.
    pub duration: Duration,
}

impl TransferSummary {
    /// The set's digest as hexadecimal.
    #[must_use]
    pub fn digest_hex(&self) -> String {
        hex::encode(self.digest)
    }

    fn of(moved: Moved, mut notes: Vec<String>, duration: Duration) -> Self {
        if moved.apple_doubles > 0 {
            notes.push(format!(
                "left out {} `._` files, which hold macOS attributes of the files beside them",
                moved.apple_doubles
            ));
        }
        notes.extend(moved.notes);
        let mut entries = moved.files;
        entries.sort_by(|one, other| one.path.as_os_str().cmp(other.path.as_os_str()));
        Self {
            files: moved.sent.files + entries.len() as u64,
            bytes: moved.sent.bytes + entries.iter().map(|entry| entry.size).sum::<u64>(),
            digest: digest::of_set(&entries),
            entries,
            skipped: moved.skipped,
            warnings: moved.warnings,
            notes,
            unchanged: moved.unchanged,
            left_out: moved.left_out,
            counted_bytes: moved.counted_bytes,
            counted_entries: moved.counted_entries,
            duration,
        }
    }
}

/// An entry that was left out without making the transfer fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Where it is, relative to the transfer's root.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

/// What the working thread of a transfer hands back.
#[derive(Default)]
struct Moved {
    /// What was received.
    files: Vec<FileDigest>,
    /// Those of them whose last byte is a zero.
    zero_ended: Vec<usize>,
    sent: Sent,
    skipped: Vec<Skipped>,
    /// macOS's attribute files that were left out.
    apple_doubles: u64,
    unchanged: u64,
    /// Left out after a look at them.
    left_out: u64,
    /// Of what limits bound.
    counted_bytes: u64,
    counted_entries: u64,
    warnings: Vec<String>,
    notes: Vec<String>,
}

/// Regular files that were sent.
#[derive(Clone, Copy, Default)]
struct Sent {
    files: u64,
    bytes: u64,
}

/// The limits, what was used of them, and the way errors are worded.
struct Meter<'a> {
    direction: Direction,
    limits: Limits,
    counters: &'a Counters,
}

/// Shared with the task that reports progress.
#[derive(Default)]
struct Counters {
    bytes: AtomicU64,
    entries: AtomicU64,
    names: AtomicU64,
    /// Both are 0 while nothing is known.
    bytes_total: AtomicU64,
    entries_total: AtomicU64,
}

impl Counters {
    /// Says how much there will be.
    fn expect(&self, bytes: Option<u64>, entries: Option<u64>) {
        self.bytes_total
            .store(bytes.unwrap_or(0), Ordering::Relaxed);
        self.entries_total
            .store(entries.unwrap_or(0), Ordering::Relaxed);
    }

    fn read(&self) -> TransferProgress {
        let total =
            |counter: &AtomicU64| Some(counter.load(Ordering::Relaxed)).filter(|&total| total > 0);
        TransferProgress {
            bytes: self.bytes.load(Ordering::Relaxed),
            entries: self.entries.load(Ordering::Relaxed),
            bytes_total: total(&self.bytes_total),
            entries_total: total(&self.entries_total),
        }
    }
}

impl Meter<'_> {
    /// Counts an entry before anything is done with it.
    fn entry(&self, path: &[u8]) -> Result<(), Error> {
        if path.len() > self.limits.path_bytes {
            return Err(self.exceeded("bytes in a path", self.limits.path_bytes as u64, path));
        }
        let separators = path.iter().filter(|&&byte| byte == b'/').count();
        if separators > DEPTH_MAX {
            return Err(self.exceeded("directories within each other", DEPTH_MAX as u64, path));
        }
        let names = self
            .counters
            .names
            .fetch_add(path.len() as u64, Ordering::Relaxed);
        if names > NAMES_MAX {
            return Err(self.exceeded("bytes of names", NAMES_MAX, path));
        }
        if self.counters.entries.fetch_add(1, Ordering::Relaxed) >= self.limits.entries {
            return Err(self.exceeded("entries", self.limits.entries, path));
        }
        Ok(())
    }

    /// Refuses a file that claims more than is left, before its contents are touched.
    fn announce(&self, size: u64, path: &[u8]) -> Result<(), Error> {
        let used = self.counters.bytes.load(Ordering::Relaxed);
        if used.saturating_add(size) > self.limits.bytes {
            return Err(self.exceeded("bytes", self.limits.bytes, path));
        }
        Ok(())
    }

    fn add_bytes(&self, count: usize) {
        self.counters
            .bytes
            .fetch_add(count as u64, Ordering::Relaxed);
    }

    fn exceeded(&self, limit: &'static str, allowed: u64, path: &[u8]) -> Error {
        Error::LimitExceeded {
            direction: self.direction,
            limit,
            allowed,
            entry: printable(path),
        }
    }

    fn refuse(&self, path: &[u8], reason: impl Into<String>) -> Error {
        Error::Transfer {
            direction: self.direction,
            entry: printable(path),
            reason: reason.into(),
            source: None,
        }
    }

    fn failed(&self, path: &[u8], reason: impl Into<String>, source: std::io::Error) -> Error {
        let (entry, reason) = (printable(path), reason.into());
        Error::Transfer {
            direction: self.direction,
            entry,
            reason,
            source: Some(source),
        }
    }
}

/// A number of bytes as people read it.
pub(crate) fn printable_size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..0x10_0000 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        0x10_0000..0x4000_0000 => format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
        _ => format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
    }
}

/// What the exit of one of our scripts in the VM means.
fn script_error(what: &'static str, exit: &Exit, stderr: String) -> Error {
    match exit {
        Exit::Status(NO_TAR) => Error::RemoteToolMissing { tool: "tar" },
        Exit::Status(NO_FIND) => Error::RemoteToolMissing { tool: "find" },
        exit => Error::RemoteFailed {
            what,
            exit: exit.clone(),
            stderr,
        },
    }
}

/// Statuses our scripts end with; none is used by `tar`, `find` or a shell.
const NO_SUCH_PLACE: u32 = 91;
const NO_TAR: u32 = 92;
const NO_FIND: u32 = 93;

/// What a working thread came to; one that panicked has failed.
fn joined<T>(outcome: Result<Result<T, Error>, tokio::task::JoinError>) -> Result<T, Error> {
    outcome.unwrap_or_else(|problem| {
        Err(Error::Invalid {
            what: "archive",
            reason: problem.to_string(),
        })
    })
}

/// Calls a progress function now and then.
struct Reporter<'a, F> {
    report: &'a F,
    counters: &'a Counters,
    next: tokio::time::Instant,
}

impl<'a, F: Fn(&TransferProgress)> Reporter<'a, F> {
    fn new(report: &'a F, counters: &'a Counters) -> Self {
        Self {
            report,
            counters,
            next: tokio::time::Instant::now() + PROGRESS_INTERVAL,
        }
    }

    fn tick(&mut self) {
        let now = tokio::time::Instant::now();
        if now >= self.next {
            self.next = now + PROGRESS_INTERVAL;
            (self.report)(&self.counters.read());
        }
    }

    fn finish(&self) {
        (self.report)(&self.counters.read());
    }
}
