//! A program that runs in the VM: its input, what it prints, how it ends.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use russh::client::Msg;
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Pty, Sig};
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::Error;
use crate::after_exit::AfterExit;
use crate::exec::{Start, Stdin};
use crate::session::Lease;

/// How long a refused channel is waited with before the next try; doubled up to [`OPEN_PAUSE_MAX`], so 1.3 s in all.
const OPEN_PAUSE: Duration = Duration::from_millis(10);
const OPEN_PAUSE_MAX: Duration = Duration::from_millis(1000);

/// Standard error kept from helper programs, for messages.
const STDERR_KEPT: usize = 64 * 1024;

/// Piece size when standard input is read from a reader.
const INPUT_PIECE: usize = 64 * 1024;

/// Starts a subsystem of the server, whose input stays open.
pub(crate) async fn start_subsystem(
    lease: Lease,
    address: String,
    name: &str,
) -> Result<Command, Error> {
    let mut command = open(lease, address).await?;
    let asked = command.write.request_subsystem(true, name).await;
    command.confirmed(asked, "it has no such subsystem").await?;
    Ok(command)
}

async fn open(lease: Lease, address: String) -> Result<Command, Error> {
    let lost = |_| Error::Lost {
        address: address.clone(),
        reason: lease.end(),
    };
    let channel = match open_channel(&lease).await {
        Ok(channel) => channel,
        Err(russh::Error::ChannelOpenFailure(reason)) => {
            return Err(Error::ExecRefused {
                address,
                reason: reason.description().to_owned(),
            });
        }
        Err(problem) => return Err(lost(problem)),
    };
    let (read, write) = channel.split();
    Ok(Command {
        read,
        write: Arc::new(write),
        feeder: None,
        input_failed: None,
        exit: None,
        after_exit: AfterExit::default(),
        ended: false,
        left_open: false,
        address: address.clone(),
        lease,
        window: watch::Sender::new(u32::MAX),
    })
}

/// Opens a channel, starts the command, and sees to its input.
pub(crate) async fn start(lease: Lease, address: String, start: Start) -> Result<Command, Error> {
    let mut command = open(lease, address).await?;
    if start.pty {
        // No echo: what is sent as input is not output.
        let modes = [(Pty::ECHO, 0), (Pty::ECHONL, 0)];
        let asked = command
            .write
            .request_pty(true, "xterm", 80, 24, 0, 0, &modes)
            .await;
        command.confirmed(asked, "it gives no terminal").await?;
    }
    let asked = command.write.exec(true, start.line).await;
    command
        .confirmed(asked, "it refuses to run commands")
        .await?;
    command.feed(start.preamble, start.stdin, start.pty);
    Ok(command)
}

/// Opens a channel on a session that has just run another command, perhaps. A server that allows one at a time
/// (`MaxSessions 1`) refuses until it has tidied up after the last, and tells nobody when that is.
async fn open_channel(lease: &Lease) -> Result<Channel<Msg>, russh::Error> {
    let mut pause = OPEN_PAUSE;
    loop {
        match lease.handle.channel_open_session().await {
            Err(russh::Error::ChannelOpenFailure(_)) if pause < OPEN_PAUSE_MAX => {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            outcome => return outcome,
        }
    }
}

/// Which output a chunk belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A piece of output as it arrived, at most one SSH packet (32 KiB).
#[derive(Clone, Debug)]
pub struct OutputChunk {
    /// Where it was written.
    pub stream: Stream,
    /// What was written.
    pub data: Bytes,
}

/// How a program ended. Losing the connection is [`Error::Lost`] instead: then its end is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this status.
    Status(u32),
    /// A signal ended it.
    Signal {
        /// The name without `SIG`, such as `KILL`.
        name: String,
        /// Whether a core file was written.
        core_dumped: bool,
        /// What the server adds; often nothing.
        message: String,
    },
}

impl Exit {
    /// Whether it exited with status 0.
    #[must_use]
    pub fn success(&self) -> bool {
        *self == Self::Status(0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "status {status}"),
            Self::Signal {
                name, core_dumped, ..
            } => {
                write!(
                    f,
                    "signal {}{}",
                    crate::quote::printable(name.as_bytes()),
                    if *core_dumped { " (core dumped)" } else { "" }
                )
            }
        }
    }
}

/// A signal for a running command (RFC 4254, 6.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are POSIX's own")]
pub enum Signal {
    Hup,
    Int,
    Quit,
    Kill,
    Term,
    Usr1,
    Abrt,
    Alrm,
    Pipe,
}

impl From<Signal> for Sig {
    fn from(signal: Signal) -> Self {
        match signal {
            Signal::Hup => Self::HUP,
            Signal::Int => Self::INT,
            Signal::Quit => Self::QUIT,
            Signal::Kill => Self::KILL,
            Signal::Term => Self::TERM,
            Signal::Usr1 => Self::USR1,
            Signal::Abrt => Self::ABRT,
            Signal::Alrm => Self::ALRM,
            Signal::Pipe => Self::PIPE,
        }
    }
}

/// A command on a channel of its own; [`running::Command`](crate::running::Command) says what is promised.
pub(crate) struct Command {
    read: ChannelReadHalf,
    write: Arc<ChannelWriteHalf<Msg>>,
    /// Gives what kept it from reading on.
    feeder: Option<JoinHandle<Option<io::Error>>>,
    input_failed: Option<io::Error>,
    exit: Option<Exit>,
    after_exit: AfterExit,
    ended: bool,
    left_open: bool,
    address: String,
    lease: Lease,
    window: watch::Sender<u32>,
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Command")
            .field("address", &self.address)
            .field("exit", &self.exit)
            .finish_non_exhaustive()
    }
}

impl Command {
    /// The next output in the order it arrived, or [`None`] at its end. Afterwards [`Self::wait`] has the exit.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn next_output(&mut self) -> Option<OutputChunk> {
        while !self.ended {
            match self.next_message().await {
                Some(ChannelMsg::Data { data }) => {
                    return Some(OutputChunk {
                        stream: Stream::Stdout,
                        data,
                    });
                }
                // 1 is the only kind of extended data there is (RFC 4254, 5.2).
                Some(ChannelMsg::ExtendedData { data, ext: 1 }) => {
                    return Some(OutputChunk {
                        stream: Stream::Stderr,
                        data,
                    });
                }
                // A program ends once: what is said of it later is not true.
                Some(ChannelMsg::ExitStatus { exit_status }) => {
                    self.exit.get_or_insert(Exit::Status(exit_status));
                }
                Some(ChannelMsg::ExitSignal {
                    signal_name,
                    core_dumped,
                    error_message,
                    ..
                }) => {
                    self.exit.get_or_insert(Exit::Signal {
                        name: signal_text(&signal_name),
                        core_dumped,
                        message: error_message,
                    });
                }
                Some(ChannelMsg::WindowAdjusted { new_size }) => {
                    self.window.send_replace(new_size);
                }
                Some(ChannelMsg::Close) | None => self.end(),
                Some(_) => {}
            }
        }
        None
    }

    /// Waits for the program's end. Output that was not read before is read and dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Lost`] if the connection ended first: the program may still run, and may have done anything. [`Error::Input`] if
    /// its input cannot be read: then it waits for more until this is dropped, which kills it.
    ///
    /// # Cancel safety
    ///
    /// May be dropped and called again; the answer stays the same once known.
    pub(crate) async fn wait(&mut self) -> Result<Exit, Error> {
        while self.next_output().await.is_some() {}
        self.exit.clone().ok_or_else(|| match &self.input_failed {
            Some(problem) => Error::Input {
                address: self.address.clone(),
                source: io::Error::new(problem.kind(), problem.to_string()),
            },
            None => self.lost(),
        })
    }

    /// Sends a signal to the program and its process group. Delivery is not confirmed by the protocol, and servers may
    /// ignore it: OpenSSH does before 7.9 and for logins as root.
    ///
    /// # Errors
    ///
    /// [`Error::Lost`] if there is no connection to send it on.
    pub(crate) async fn signal(&self, signal: Signal) -> Result<(), Error> {
        self.write
            .signal(signal.into())
            .await
            .map_err(|_| self.lost())
    }

    /// Sends input; only of use with [`Stdin::Open`]. Returns when it is on its way, so a program that does not read
    /// holds the caller back: read output meanwhile.
    ///
    /// # Errors
    ///
    /// [`Error::Lost`] if the connection is gone.
    pub(crate) async fn write_input(&self, bytes: impl Into<Bytes>) -> Result<(), Error> {
        self.write.data_bytes(bytes).await.map_err(|_| self.lost())
    }

    /// Ends the input; only of use with [`Stdin::Open`].
    ///
    /// # Errors
    ///
    /// [`Error::Lost`] if the connection is gone.
    pub(crate) async fn close_input(&self) -> Result<(), Error> {
        self.write.eof().await.map_err(|_| self.lost())
    }

    /// Whether output ended because the program had exited while another process still held it open.
    #[must_use]
    pub(crate) fn output_left_open(&self) -> bool {
        self.left_open
    }

    /// How many bytes of input the server allowed when it last told, seen while output is read. The library may leave
    /// some of these out while output waits to be read.
    pub(crate) fn window(&self) -> watch::Receiver<u32> {
        self.window.subscribe()
    }

    /// The writing half, for transfers that send and read at once.
    pub(crate) fn writer(&self) -> Arc<ChannelWriteHalf<Msg>> {
        Arc::clone(&self.write)
    }

    /// Everything it prints, standard output up to `stdout_max` bytes, then its end.
    pub(crate) async fn collect(&mut self, stdout_max: usize) -> Result<Collected, Error> {
        let mut collected = Collected::default();
        while let Some(OutputChunk { stream, data }) = self.next_output().await {
            match stream {
                Stream::Stdout if collected.stdout.len() + data.len() > stdout_max => {
                    collected.overflow = true
                }
                Stream::Stdout => collected.stdout.extend_from_slice(&data),
                Stream::Stderr => collected.stderr.push(&data),
            }
            if collected.overflow {
                return Ok(collected);
            }
        }
        collected.exit = Some(self.wait().await?);
        Ok(collected)
    }

    /// Whether the server answers on the connection.
    pub(crate) fn ping(&self) -> impl Future<Output = bool> + Send + 'static {
        let session = self.lease.session();
        async move { session.handle.send_ping().await.is_ok() && !session.is_closed() }
    }

    async fn next_message(&mut self) -> Option<ChannelMsg> {
        if self.exit.is_none() {
            return tokio::select! {
                biased;
                message = self.read.wait() => message,
                problem = broken(&mut self.feeder) => {
                    self.input_failed = Some(problem);
                    None
                }
            };
        }
        let message = match self.after_exit.patience() {
            Some(patience) => {
                let _waiting = self.after_exit.waiting();
                tokio::time::timeout(patience, self.read.wait()).await
            }
            None => {
                self.left_open = true;
                return None;
            }
        };
        match message {
            Ok(message) => {
                if let Some(ChannelMsg::Data { data } | ChannelMsg::ExtendedData { data, .. }) =
                    &message
                {
                    self.after_exit.bytes += data.len() as u64;
                }
                message
            }
            Err(_) => {
                self.left_open = true;
                None
            }
        }
    }

    fn end(&mut self) {
        if self.ended {
            return;
        }
        self.ended = true;
        if let Some(feeder) = self.feeder.take() {
            // It may be waiting for window that will never come.
            feeder.abort();
        }
    }

    fn lost(&self) -> Error {
        let reason = if self.lease.is_closed() {
            self.lease.end()
        } else {
            "the server closed the channel without saying how the program ended".to_owned()
        };
        Error::Lost {
            address: self.address.clone(),
            reason,
        }
    }

    /// Waits for the answer to a request just sent.
    async fn confirmed(
        &mut self,
        asked: Result<(), russh::Error>,
        refused: &str,
    ) -> Result<(), Error> {
        if asked.is_err() {
            return Err(self.lost());
        }
        loop {
            match self.read.wait().await {
                Some(ChannelMsg::Success) => return Ok(()),
                Some(ChannelMsg::Failure) => {
                    return Err(Error::ExecRefused {
                        address: self.address.clone(),
                        reason: refused.to_owned(),
                    });
                }
                Some(ChannelMsg::Close) | None => return Err(self.lost()),
                Some(_) => {}
            }
        }
    }

    /// Sends input in the background, because the program may print before it reads.
    fn feed(&mut self, preamble: Bytes, stdin: Stdin, pty: bool) {
        let write = Arc::clone(&self.write);
        self.feeder = Some(tokio::spawn(async move {
            match feed(&write, preamble, stdin, pty).await {
                Ok(()) => None,
                Err(Unfed::Unread(problem)) => Some(problem),
                Err(Unfed::Unsent(problem)) => {
                    tracing::debug!(%problem, "standard input ended early");
                    None
                }
            }
        }));
    }
}

impl Drop for Command {
    fn drop(&mut self) {
        let is_cut = self.input_failed.is_some();
        let closed = self.ended && !self.left_open && !is_cut;
        self.end();
        if closed {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let write = Arc::clone(&self.write);
            runtime.spawn(async move {
                if is_cut {
                    // It would take the end of its channel for the end of its input.
                    let _ = write.signal(Sig::KILL).await;
                }
                // The connection may be gone; then the channel is too.
                let _ = write.close().await;
            });
        }
    }
}

/// Why the input broke off; waits for ever if it does not.
async fn broken(feeder: &mut Option<JoinHandle<Option<io::Error>>>) -> io::Error {
    if let Some(task) = feeder {
        let ended = task.await;
        *feeder = None;
        if let Ok(Some(problem)) = ended {
            return problem;
        }
    }
    std::future::pending().await
}

/// Why a program's input is not whole.
enum Unfed {
    Unread(io::Error),
    Unsent(russh::Error),
}

impl From<russh::Error> for Unfed {
    fn from(problem: russh::Error) -> Self {
        Self::Unsent(problem)
    }
}

async fn feed(
    write: &ChannelWriteHalf<Msg>,
    preamble: Bytes,
    stdin: Stdin,
    pty: bool,
) -> Result<(), Unfed> {
    write.data_bytes(preamble).await?;
    match stdin {
        Stdin::None => {}
        Stdin::Bytes(bytes) => write.data_bytes(bytes).await?,
        Stdin::Open => return Ok(()),
        Stdin::Reader(mut reader) => {
            let mut buffer = vec![0; INPUT_PIECE];
            loop {
                let count = reader.read(&mut buffer).await.map_err(Unfed::Unread)?;
                if count == 0 {
                    break;
                }
                let piece = Bytes::copy_from_slice(&buffer[..count]);
                write.data_bytes(piece).await?;
            }
        }
    }
    if pty {
        // A terminal has no end of file of its own: control-D on an empty line stands for it, the first may end a line.
        write.data_bytes(&b"\x04\x04"[..]).await?;
    }
    Ok(write.eof().await?)
}

fn signal_text(signal: &Sig) -> String {
    match signal {
        Sig::Custom(name) => name.clone(),
        named => format!("{named:?}"),
    }
}

/// What a helper program of ours said.
#[derive(Default)]
pub(crate) struct Collected {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Tail,
    pub(crate) exit: Option<Exit>,
    pub(crate) overflow: bool,
}

/// The last [`STDERR_KEPT`] bytes of a stream.
#[derive(Default)]
pub(crate) struct Tail(Vec<u8>);

impl Tail {
    pub(crate) fn push(&mut self, data: &[u8]) {
        self.0.extend_from_slice(data);
        if self.0.len() > STDERR_KEPT {
            self.0.drain(..self.0.len() - STDERR_KEPT);
        }
    }

    /// Its lines, for messages: safe to print, the last few only.
    pub(crate) fn text(&self) -> String {
        let lines: Vec<_> = self
            .0
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.is_empty())
            .collect();
        let shown = &lines[lines.len().saturating_sub(5)..];
        if shown.is_empty() {
            return "it said nothing".to_owned();
        }
        shown
            .iter()
            .map(|line| crate::quote::printable(line))
            .collect::<Vec<_>>()
            .join("; ")
    }

    pub(crate) fn lines(&self) -> impl Iterator<Item = &[u8]> {
        self.0
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.is_empty())
    }
}
