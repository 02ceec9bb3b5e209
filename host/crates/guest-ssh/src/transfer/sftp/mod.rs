//! Transfers by SFTP: for servers that run no commands, and VMs without `tar`.
//!
//! The tar stream stays the inner form: what goes up is packed, read back and becomes requests ([`send`]), what comes down
//! becomes a stream and passes the same checks as one from the VM's `tar` ([`fetch`]). So there is one packer and one set
//! of rules for what arrives. Many requests are in flight; their number of bytes is bounded.

mod fetch;
mod file;
mod list;
mod send;
pub(super) mod wire;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{BufMut, Bytes, BytesMut};
use russh::ChannelWriteHalf;
use russh::client::Msg;
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};
use tokio::task::JoinHandle;

use self::wire::{Attributes, Malformed, Packets, Reply};
use crate::command::{self, Command, OutputChunk, Stream, Tail};
use crate::connection::Connection;
use crate::quote::printable;
use crate::{Error, RemotePath};

/// Bytes of file contents that are on their way at once. With 255 KiB a request that is 64 of them.
const IN_FLIGHT: usize = 16 * 1024 * 1024;

/// Files or directories that are worked on at once.
const SIDE_BY_SIDE: usize = 64;

/// What every version 3 server takes in one request (draft-ietf-secsh-filexfer-02, section 3).
const DATA_ALWAYS: usize = 32 * 1024;

/// The version spoken here.
const PROTOCOL: u32 = 3;

/// A session with the server's SFTP subsystem.
pub(super) struct Sftp {
    write: Arc<ChannelWriteHalf<Msg>>,
    /// Packets go out one at a time: a long one is sent in parts.
    turn: tokio::sync::Mutex<()>,
    pending: Arc<Mutex<Pending>>,
    next_id: AtomicU32,
    reader: JoinHandle<()>,
    /// Closed when no more answers come. A sender that waits for window would not notice otherwise.
    alive: watch::Receiver<()>,
    address: String,
    extensions: Vec<Bytes>,
    /// Bytes a read or write may carry.
    data_max: usize,
    /// Files that may be open at once.
    handles_max: usize,
}

#[derive(Default)]
struct Pending {
    waiting: HashMap<u32, Waiting>,
    /// Why no more answers come.
    ended: Option<End>,
}

/// How a session ended that still had something to do.
#[derive(Clone, Debug)]
enum End {
    /// The server's program exited.
    Exited(String),
    /// The connection is gone.
    Lost(String),
    /// What came is no SFTP.
    Malformed(&'static str),
}

impl End {
    fn error(self, address: &str) -> Error {
        match self {
            Self::Exited(reason) | Self::Lost(reason) => Error::Lost {
                address: address.to_owned(),
                reason,
            },
            Self::Malformed(problem) => nonsense(problem),
        }
    }
}

/// Why a session ended, as far as is known.
fn end(pending: &Mutex<Pending>) -> End {
    let unknown = || End::Lost("the channel was closed".to_owned());
    lock(pending).ended.clone().unwrap_or_else(unknown)
}

/// Who waits for an answer, and what is held until it comes.
type Waiting = (oneshot::Sender<Reply>, Option<OwnedSemaphorePermit>);

/// An answer to come.
struct Answer {
    reply: oneshot::Receiver<Reply>,
    pending: Arc<Mutex<Pending>>,
    address: String,
}

/// Why a request did not succeed.
#[derive(Debug)]
enum Refusal {
    /// What the server says, by code.
    Status { code: u32, message: String },
    /// There is no server to answer any more, or it answers nonsense.
    Broken(Error),
}

impl Refusal {
    fn is(&self, wanted: u32) -> bool {
        matches!(self, Self::Status { code, .. } if *code == wanted)
    }

    /// For an entry of a transfer.
    fn at(self, direction: super::Direction, entry: &[u8], what: &str) -> Error {
        match self {
            Self::Broken(error) => error,
            Self::Status { message, .. } => Error::Transfer {
                direction,
                entry: printable(entry),
                reason: format!("{what}: the server said `{message}`"),
                source: None,
            },
        }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Broken(error)
    }
}

impl Answer {
    async fn reply(self) -> Result<Reply, Refusal> {
        match self.reply.await {
            Ok(Reply::Status { code, message }) if code != wire::OK => Err(Refusal::Status {
                code,
                message: if message.is_empty() {
                    format!("code {code}")
                } else {
                    printable(&message)
                },
            }),
            Ok(reply) => Ok(reply),
            Err(_) => Err(Refusal::Broken(end(&self.pending).error(&self.address))),
        }
    }

    async fn done(self) -> Result<(), Refusal> {
        match self.reply().await? {
            Reply::Status { .. } => Ok(()),
            _ => Err(odd("a status")),
        }
    }

    async fn handle(self) -> Result<Bytes, Refusal> {
        match self.reply().await? {
            Reply::Handle(handle) => Ok(handle),
            _ => Err(odd("a handle")),
        }
    }

    async fn attributes(self) -> Result<Attributes, Refusal> {
        match self.reply().await? {
            Reply::Attributes(attributes) => Ok(attributes),
            _ => Err(odd("attributes")),
        }
    }
}

/// A server that answers with something else than asked for.
fn odd(wanted: &str) -> Refusal {
    Refusal::Broken(nonsense(&format!(
        "it answered something else than {wanted}"
    )))
}

fn nonsense(reason: &str) -> Error {
    Error::Protocol {
        reason: reason.to_owned(),
    }
}

impl Connection {
    /// Starts the SFTP subsystem on a session of its own.
    ///
    /// # Errors
    ///
    /// [`Error::ExecRefused`] if the server has none, [`Error::Lost`], [`Error::Protocol`].
    pub(super) async fn sftp(&self) -> Result<Sftp, Error> {
        let command = command::start_subsystem(self.lease().await?, self.address(), "sftp").await?;
        Sftp::start(command, self.address()).await
    }
}

impl Sftp {
    async fn start(command: Command, address: String) -> Result<Self, Error> {
        let write = command.writer();
        let pending = Arc::new(Mutex::new(Pending::default()));
        let (greet, greeted) = oneshot::channel();
        let (dying, alive) = watch::channel(());
        let answers = listen(command, Arc::clone(&pending), greet);
        let reader = tokio::spawn(async move {
            answers.await;
            drop(dying);
        });
        let mut sftp = Self {
            write,
            turn: tokio::sync::Mutex::new(()),
            pending,
            next_id: AtomicU32::new(0),
            reader,
            alive,
            address,
            extensions: Vec::new(),
            data_max: DATA_ALWAYS,
            handles_max: SIDE_BY_SIDE,
        };
        let mut hello = BytesMut::new();
        hello.put_u32(5);
        hello.put_u8(wire::INIT);
        hello.put_u32(PROTOCOL);
        let sent = sftp.write.data_bytes(hello.freeze()).await;
        match (sent, greeted.await) {
            (Ok(()), Ok(extensions)) => {
                sftp.extensions = extensions.into_iter().map(|(name, _)| name).collect();
            }
            _ => {
                return Err(match end(&sftp.pending) {
                    End::Exited(reason) => Error::ExecRefused {
                        address: sftp.address.clone(),
                        reason: format!("no SFTP server answers: {reason}"),
                    },
                    other => other.error(&sftp.address),
                });
            }
        }
        sftp.ask_limits().await?;
        Ok(sftp)
    }

    fn has(&self, extension: &[u8]) -> bool {
        self.extensions.iter().any(|name| name == extension)
    }

    /// Servers since OpenSSH 8.5 say how much they take.
    async fn ask_limits(&mut self) -> Result<(), Error> {
        const LIMITS: &[u8] = b"limits@openssh.com";
        if !self.has(LIMITS) {
            return Ok(());
        }
        let answer = self
            .send(wire::EXTENDED, |body| wire::put_string(body, LIMITS))
            .await?;
        let Ok(Reply::Extended(mut body)) = answer.reply().await else {
            return Ok(());
        };
        let mut number = || wire::u64_from(&mut body).unwrap_or(0);
        let (_packet, read, write, handles) = (number(), number(), number(), number());
        // 0 means that there is no limit worth telling.
        let within = |limit: u64, most: usize| match usize::try_from(limit) {
            Ok(0) | Err(_) => most,
            Ok(limit) => limit.min(most),
        };
        self.data_max = within(read, wire::DATA_MAX)
            .min(within(write, wire::DATA_MAX))
            .max(1024);
        self.handles_max = within(handles, SIDE_BY_SIDE).max(1);
        Ok(())
    }

    async fn send(&self, kind: u8, fill: impl FnOnce(&mut BytesMut)) -> Result<Answer, Error> {
        self.send_with(kind, fill, Bytes::new(), None).await
    }

    /// Sends a request with `data` at its end; `held` is given back when the answer comes.
    async fn send_with(
        &self,
        kind: u8,
        fill: impl FnOnce(&mut BytesMut),
        data: Bytes,
        held: Option<OwnedSemaphorePermit>,
    ) -> Result<Answer, Error> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut packet = BytesMut::with_capacity(256);
        packet.put_u32(0);
        packet.put_u8(kind);
        packet.put_u32(id);
        fill(&mut packet);
        let length = packet.len() - 4 + data.len();
        packet[..4].copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        let (answer, reply) = oneshot::channel();
        {
            let mut pending = lock(&self.pending);
            if let Some(ended) = &pending.ended {
                return Err(ended.clone().error(&self.address));
            }
            pending.waiting.insert(id, (answer, held));
        }
        let sending = async {
            let _turn = self.turn.lock().await;
            self.write.data_bytes(packet.freeze()).await?;
            if data.is_empty() {
                return Ok(());
            }
            self.write.data_bytes(data).await
        };
        let mut alive = self.alive.clone();
        let sent = tokio::select! {
            sent = sending => sent.is_ok(),
            // Nothing is ever sent on it: this is its end.
            _ = alive.changed() => false,
        };
        if !sent {
            return Err(end(&self.pending).error(&self.address));
        }
        Ok(Answer {
            reply,
            pending: Arc::clone(&self.pending),
            address: self.address.clone(),
        })
    }

    async fn with_path(&self, kind: u8, path: &[u8]) -> Result<Answer, Error> {
        self.send(kind, |body| wire::put_string(body, path)).await
    }

    async fn open(&self, path: &[u8], flags: u32, attributes: Attributes) -> Result<Answer, Error> {
        self.send(wire::OPEN, |body| {
            wire::put_string(body, path);
            body.put_u32(flags);
            attributes.put(body);
        })
        .await
    }

    async fn read(&self, handle: &[u8], offset: u64, length: usize) -> Result<Answer, Error> {
        self.send(wire::READ, |body| {
            wire::put_string(body, handle);
            body.put_u64(offset);
            body.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        })
        .await
    }

    async fn write(
        &self,
        handle: &[u8],
        offset: u64,
        data: Bytes,
        held: Option<OwnedSemaphorePermit>,
    ) -> Result<Answer, Error> {
        let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let fill = |body: &mut BytesMut| {
            wire::put_string(body, handle);
            body.put_u64(offset);
            body.put_u32(length);
        };
        self.send_with(wire::WRITE, fill, data, held).await
    }

    async fn set_attributes(
        &self,
        kind: u8,
        path_or_handle: &[u8],
        attributes: Attributes,
    ) -> Result<Answer, Error> {
        self.send(kind, |body| {
            wire::put_string(body, path_or_handle);
            attributes.put(body);
        })
        .await
    }

    async fn close(&self, handle: &[u8]) -> Result<Answer, Error> {
        self.with_path(wire::CLOSE, handle).await
    }

    /// Makes a directory and those above it; one that is there already, or a link to one, will do.
    async fn make_directories(&self, path: &[u8]) -> Result<(), Refusal> {
        let ends = path
            .iter()
            .enumerate()
            .filter(|&(at, &byte)| byte == b'/' && at > 0)
            .map(|(at, _)| at)
            .chain([path.len()]);
        for end in ends {
            // The last one is looked at below; one above it that is missing makes that one fail.
            let mode = Attributes::of(0o777, None);
            let answer = self.set_attributes(wire::MKDIR, &path[..end], mode).await?;
            if let Err(broken @ Refusal::Broken(_)) = answer.done().await {
                return Err(broken);
            }
        }
        let found = self.with_path(wire::STAT, path).await?.attributes().await?;
        if found.mode.is_some_and(|mode| mode & KIND != DIRECTORY) {
            return Err(Refusal::Status {
                code: wire::NO_SUCH_FILE,
                message: "it is no directory".to_owned(),
            });
        }
        Ok(())
    }
}

impl Drop for Sftp {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// The bits of a mode that tell what kind of thing it is, and three of the kinds (`stat(2)`).
const KIND: u32 = 0o170_000;
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// A remote path as SFTP takes it: `~` and relative paths start where the session does, at home.
fn sftp_path(remote: &RemotePath) -> Vec<u8> {
    let path = remote.argument();
    let trimmed = path
        .iter()
        .rposition(|&byte| byte != b'/')
        .map_or(1, |at| at + 1);
    path[..trimmed.min(path.len())].to_vec()
}

fn below(root: &[u8], path: &[u8]) -> Vec<u8> {
    if path.is_empty() {
        return root.to_vec();
    }
    let separator: &[u8] = if root.ends_with(b"/") { b"" } else { b"/" };
    [root, separator, path].concat()
}

/// Hands answers to who waits for them, until there are no more.
async fn listen(
    mut command: Command,
    pending: Arc<Mutex<Pending>>,
    greet: oneshot::Sender<Vec<(Bytes, Bytes)>>,
) {
    let mut packets = Packets::default();
    let mut stderr = Tail::default();
    let mut greet = Some(greet);
    let mut ended = None;
    'stream: while let Some(OutputChunk { stream, data }) = command.next_output().await {
        if stream == Stream::Stderr {
            stderr.push(&data);
            continue;
        }
        packets.push(&data);
        loop {
            let packet = packets
                .next()
                .and_then(|packet| packet.map(wire::parse).transpose());
            let taken = match packet {
                Ok(None) => break,
                Ok(Some((id, reply))) => take(&pending, &mut greet, id, reply),
                Err(problem) => Err(problem),
            };
            if let Err(Malformed(problem)) = taken {
                ended = Some(End::Malformed(problem));
                break 'stream;
            }
        }
    }
    let ended = match ended {
        Some(ended) => ended,
        None => match command.wait().await {
            Ok(exit) => End::Exited(format!(
                "its SFTP server ended with {exit}: {}",
                stderr.text()
            )),
            Err(Error::Lost { reason, .. }) => End::Lost(reason),
            Err(problem) => End::Lost(problem.to_string()),
        },
    };
    let mut pending = lock(&pending);
    pending.ended = Some(ended);
    // Those who wait learn it from their channel's end.
    pending.waiting.clear();
}

fn take(
    pending: &Mutex<Pending>,
    greet: &mut Option<oneshot::Sender<Vec<(Bytes, Bytes)>>>,
    id: Option<u32>,
    reply: Reply,
) -> Result<(), Malformed> {
    match (id, reply) {
        (None, Reply::Version(extensions)) => {
            let greet = greet.take().ok_or(Malformed("it greets twice"))?;
            // Nobody may be waiting any more.
            let _ = greet.send(extensions);
            Ok(())
        }
        (Some(id), reply) => {
            let (waiting, _held) = lock(pending)
                .waiting
                .remove(&id)
                .ok_or(Malformed("it answers what was not asked"))?;
            let _ = waiting.send(reply);
            Ok(())
        }
        (None, _) => Err(Malformed("it answers nobody")),
    }
}

fn lock(pending: &Mutex<Pending>) -> std::sync::MutexGuard<'_, Pending> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}
