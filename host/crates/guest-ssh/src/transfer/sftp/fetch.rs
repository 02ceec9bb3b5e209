//! Fetching a tree by SFTP: what was found ([`Walk`]) is read ahead and becomes a tar stream for the thread that checks and
//! writes what arrives.

use std::collections::VecDeque;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use cap_std::fs::Dir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::list::{Found, Listing, Walk};
use super::wire::{self, Attributes, Reply};
use super::{Answer, DIRECTORY, IN_FLIGHT, KIND, Refusal, SIDE_BY_SIDE, Sftp, below, sftp_path};
use crate::connection::Connection;
use crate::quote::printable;
use crate::transfer::archive::PieceReader;
use crate::transfer::attempt::{Ended, Plan};
use crate::transfer::compare::by_size_and_time;
use crate::transfer::complaints::Gone;
use crate::transfer::compress::Pace;
use crate::transfer::download::Work;
use crate::transfer::header::{self, Outgoing};
use crate::transfer::listing::{Chosen, Listed};
use crate::transfer::{
    Compare, Counters, Direction, Moved, PIPE_PIECES, Reporter, Selection, TransferProgress, joined,
};
use crate::{Error, RemotePath};

impl Connection {
    /// One attempt to fetch a tree by SFTP.
    pub(in crate::transfer) async fn download_by_sftp(
        &self,
        remote: &RemotePath,
        what: &Selection,
        into: &Dir,
        target: &Path,
        plan: &Plan<'_>,
        progress: &(impl Fn(&TransferProgress) + Send),
    ) -> Result<(Moved, Pace), Ended> {
        let sftp = Arc::new(self.sftp().await?);
        let limits = plan.options.limits;
        let root = sftp_path(remote);
        let top = sftp
            .with_path(wire::STAT, &root)
            .await?
            .attributes()
            .await
            .map_err(|refusal| match refusal {
                Refusal::Broken(error) => error,
                Refusal::Status { .. } => not_found(remote),
            })?;
        if top.mode.is_some_and(|mode| mode & KIND != DIRECTORY) {
            return Err(not_found(remote).into());
        }
        let Listing {
            mut found,
            mut warnings,
        } = Walk::new(&sftp, &root, what, &limits).all().await?;
        let mut notes = Vec::new();
        let mut unchanged = 0;
        if plan.options.compare != Compare::Always {
            if plan.options.compare == Compare::Hash {
                notes.push("compared by size and time: SFTP tells no hashes".to_owned());
            }
            (found, unchanged) = changed(found, into, target)?;
        }
        let about = |moved: Moved, warnings| Moved {
            unchanged,
            warnings,
            notes: notes.into_iter().chain(moved.notes).collect(),
            ..moved
        };
        if found.is_empty() {
            return Ok((about(Moved::default(), warnings), plan.pace()));
        }
        let counters = Arc::new(Counters::default());
        let work = Work::new(into, what, plan.options, Arc::clone(&counters))?;
        let target = target.to_owned();
        let (pieces, queue) = mpsc::channel(PIPE_PIECES);
        let (finished, go) = tokio::sync::oneshot::channel();
        let working = tokio::task::spawn_blocking(move || {
            let is_wanted = |_: &Moved| go.blocking_recv() == Ok(true);
            work.run(PieceReader::new(queue), &target, is_wanted)
        });
        let mut reporter = Reporter::new(progress, &counters);
        let stream = Stream {
            sftp,
            root,
            pieces,
            leave_out_gone: plan.leave_out_gone,
        };
        let ended = stream.send_all(found, &mut reporter).await;
        drop(stream);
        let _ = finished.send(ended.is_ok());
        let worked = joined(working.await);
        reporter.finish();
        match (ended, worked) {
            (Ok(gone), Ok(moved)) => {
                warnings.extend(gone.warnings());
                Ok((about(moved, warnings), plan.pace()))
            }
            (Err(Stopped::Gone(what)), _) => Err(Ended::Gone(printable(&what))),
            (Err(Stopped::Vm(problem)), _) | (_, Err(problem)) => Err(problem.into()),
            (Err(Stopped::Here), Ok(_)) => Err(Error::Lost {
                address: self.address(),
                reason: "the transfer ended early".to_owned(),
            }
            .into()),
        }
    }
}

fn not_found(remote: &RemotePath) -> Error {
    Error::NotFound {
        path: remote.to_string(),
    }
}

/// Leaves out what looks the same at the target, and counts it.
fn changed(found: Vec<Found>, into: &Dir, target: &Path) -> Result<(Vec<Found>, u64), Error> {
    let mut chosen = Chosen::default();
    for entry in &found {
        chosen.push(&entry.path);
        chosen.details.push(Some(entry.detail));
    }
    let compared = by_size_and_time(chosen, into, target);
    let mut kept = compared.chosen.paths().peekable();
    let found = found
        .into_iter()
        .filter(|entry| {
            // In the same order.
            kept.next_if(|name| *name == entry.path.as_os_str().as_bytes())
                .is_some()
        })
        .collect();
    drop(kept);
    Ok((found, compared.unchanged))
}

pub(super) fn at(refusal: Refusal, entry: &[u8], what: &str) -> Error {
    refusal.at(Direction::Download, entry, what)
}

/// How the sending side ended other than well.
enum Stopped {
    Vm(Error),
    /// The receiving thread stopped taking; it knows why.
    Here,
    /// This was listed and is no longer there; nothing of it was sent.
    Gone(Vec<u8>),
}

impl From<Error> for Stopped {
    fn from(problem: Error) -> Self {
        Self::Vm(problem)
    }
}

/// What kept an entry from being read before anything of it was sent.
fn unread(refusal: Refusal, name: &[u8]) -> Stopped {
    if refusal.is(wire::NO_SUCH_FILE) {
        return Stopped::Gone(name.to_owned());
    }
    Stopped::Vm(at(refusal, name, "it cannot be read"))
}

/// What is read ahead of its turn.
enum Ahead {
    /// A small file, or a link's target.
    Whole(JoinHandle<Result<Vec<Bytes>, Refusal>>),
    /// Nothing to read, or too much.
    Later,
}

/// Makes a tar stream of what the server sends.
struct Stream {
    sftp: Arc<Sftp>,
    root: Vec<u8>,
    pieces: mpsc::Sender<Bytes>,
    leave_out_gone: bool,
}

impl Stream {
    /// Returns what was left out.
    async fn send_all<F: Fn(&TransferProgress)>(
        &self,
        found: Vec<Found>,
        reporter: &mut Reporter<'_, F>,
    ) -> Result<Gone, Stopped> {
        let mut gone = Gone::default();
        let mut ahead = ReadAhead {
            queue: VecDeque::new(),
            next: 0,
        };
        for (at, entry) in found.iter().enumerate() {
            ahead.fill(self, &found, at);
            reporter.tick();
            let ahead = ahead.queue.pop_front();
            match self.send_entry(entry, ahead, reporter).await {
                Err(Stopped::Gone(name)) if self.leave_out_gone => gone.push(&name),
                sent => sent?,
            }
        }
        let mut end = Vec::new();
        header::end(&mut end).map_err(in_memory)?;
        self.send(end.into()).await?;
        Ok(gone)
    }

    async fn send_entry<F: Fn(&TransferProgress)>(
        &self,
        entry: &Found,
        ahead: Option<Ahead>,
        reporter: &mut Reporter<'_, F>,
    ) -> Result<(), Stopped> {
        let Found { path, detail } = entry;
        let name = path.as_os_str().as_bytes();
        // All that can tell that it is gone is asked before anything of it is sent.
        let mut whole = None;
        let mut opened = None;
        match ahead {
            Some(Ahead::Whole(reading)) => {
                let read = joined(reading.await.map(Ok))?;
                whole = Some(read.map_err(|refusal| unread(refusal, name))?);
            }
            _ if detail.kind == Listed::File => opened = Some(self.open(name).await?),
            _ => {}
        }
        let (kind, link) = match detail.kind {
            Listed::Directory => (tar::EntryType::Directory, Vec::new()),
            Listed::File => (tar::EntryType::Regular, Vec::new()),
            Listed::Link => (
                tar::EntryType::Symlink,
                whole.iter().flatten().flatten().copied().collect(),
            ),
        };
        let mut head = Vec::new();
        let outgoing = Outgoing {
            kind,
            path: name,
            link: &link,
            size: detail.size,
            extents: None,
            mode: detail.mode,
            mtime: detail.mtime,
        };
        outgoing.write(&mut head).map_err(in_memory)?;
        self.send(head.into()).await?;
        if detail.kind != Listed::File {
            return Ok(());
        }
        for part in whole.into_iter().flatten() {
            self.send(part).await?;
        }
        if let Some(handle) = opened {
            self.send_large(name, &handle, detail.size, reporter)
                .await?;
        }
        let mut padding = Vec::new();
        header::pad(&mut padding, detail.size).map_err(in_memory)?;
        self.send(padding.into()).await
    }

    async fn open(&self, name: &[u8]) -> Result<Bytes, Stopped> {
        let path = below(&self.root, name);
        let asked = self
            .sftp
            .open(&path, wire::READ_FLAG, Attributes::default())
            .await?;
        asked
            .handle()
            .await
            .map_err(|refusal| unread(refusal, name))
    }

    /// A file with as many reads in flight as memory allows, in order.
    async fn send_large<F: Fn(&TransferProgress)>(
        &self,
        name: &[u8],
        handle: &[u8],
        size: u64,
        reporter: &mut Reporter<'_, F>,
    ) -> Result<(), Stopped> {
        let unreadable = |refusal| Stopped::Vm(at(refusal, name, "it cannot be read"));
        let part = self.sftp.data_max as u64;
        // What small files read ahead hold is as much again.
        let reads_max = (IN_FLIGHT / self.sftp.data_max).clamp(1, SIDE_BY_SIDE);
        let mut reads: VecDeque<(u64, u64, Answer)> = VecDeque::new();
        let mut next = 0;
        loop {
            while next < size && reads.len() < reads_max {
                let length = part.min(size - next);
                let asked = self.sftp.read(handle, next, to_usize(length)).await?;
                reads.push_back((next, length, asked));
                next += length;
            }
            let Some((offset, length, answer)) = reads.pop_front() else {
                break;
            };
            let mut bytes = data(answer.reply().await, length).map_err(unreadable)?;
            let mut got = bytes.len() as u64;
            self.send(bytes).await?;
            // Servers may give less than asked for.
            while got < length {
                let asked = self
                    .sftp
                    .read(handle, offset + got, to_usize(length - got))
                    .await?;
                bytes = data(asked.reply().await, length - got).map_err(unreadable)?;
                got += bytes.len() as u64;
                self.send(bytes).await?;
            }
            reporter.tick();
        }
        let closed = self.sftp.close(handle).await?;
        closed.done().await.map_err(unreadable)
    }

    async fn send(&self, piece: Bytes) -> Result<(), Stopped> {
        if piece.is_empty() {
            return Ok(());
        }
        self.pieces.send(piece).await.map_err(|_| Stopped::Here)
    }
}

/// Small files are read while those before them are written.
struct ReadAhead {
    queue: VecDeque<Ahead>,
    next: usize,
}

impl ReadAhead {
    /// Sees to it that the entry at `at`, and some after it, are being read.
    fn fill(&mut self, stream: &Stream, found: &[Found], at: usize) {
        let depth = stream.sftp.handles_max.saturating_sub(1).max(1);
        while self.next < found.len() && self.next < at + depth {
            let Found { path, detail } = &found[self.next];
            self.next += 1;
            let sftp = Arc::clone(&stream.sftp);
            let full = below(&stream.root, path.as_os_str().as_bytes());
            let size = detail.size;
            self.queue.push_back(match detail.kind {
                Listed::Link => {
                    Ahead::Whole(tokio::spawn(async move { read_link(&sftp, &full).await }))
                }
                Listed::File if size <= sftp.data_max as u64 => Ahead::Whole(tokio::spawn(
                    async move { read_small(&sftp, &full, size).await },
                )),
                _ => Ahead::Later,
            });
        }
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        for ahead in &self.queue {
            if let Ahead::Whole(reading) = ahead {
                reading.abort();
            }
        }
    }
}

async fn read_link(sftp: &Sftp, path: &[u8]) -> Result<Vec<Bytes>, Refusal> {
    match sftp.with_path(wire::READLINK, path).await?.reply().await? {
        Reply::Names(mut names) if names.len() == 1 => {
            Ok(names.drain(..).map(|(name, _)| name).collect())
        }
        _ => Err(super::odd("a name")),
    }
}

async fn read_small(sftp: &Sftp, path: &[u8], size: u64) -> Result<Vec<Bytes>, Refusal> {
    let opened = sftp
        .open(path, wire::READ_FLAG, Attributes::default())
        .await?;
    let handle = opened.handle().await?;
    let mut parts = Vec::new();
    let mut got = 0;
    while got < size {
        let asked = sftp.read(&handle, got, to_usize(size - got)).await?;
        let part = data(asked.reply().await, size - got)?;
        got += part.len() as u64;
        parts.push(part);
    }
    sftp.close(&handle).await?.done().await?;
    Ok(parts)
}

/// The bytes of an answer to a read: some, and not more than asked for.
fn data(reply: Result<Reply, Refusal>, length: u64) -> Result<Bytes, Refusal> {
    match reply {
        Ok(Reply::Data(bytes)) if bytes.is_empty() || bytes.len() as u64 > length => {
            Err(super::odd("as much data as it was asked for"))
        }
        Ok(Reply::Data(bytes)) => Ok(bytes),
        Ok(_) => Err(super::odd("data")),
        Err(refusal) if refusal.is(wire::END_OF_FILE) => Err(Refusal::Status {
            code: wire::END_OF_FILE,
            message: "it became shorter while it was read".to_owned(),
        }),
        Err(refusal) => Err(refusal),
    }
}

fn to_usize(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

/// Writing to memory does not fail.
fn in_memory(problem: io::Error) -> Error {
    Error::Invalid {
        what: "archive",
        reason: problem.to_string(),
    }
}
