//! Programs behind SSH channels: starting them, moving their bytes both ways, telling how they ended.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::future::Future;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use russh::server::{Handle, Msg};
use russh::{Channel, ChannelId, ChannelMsg, ChannelWriteHalf, Sig};
use rustix::process::{Pid, Signal};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

/// Standard input kept for a program that does not read it. The SSH library answers each packet with fresh window, so
/// past this mark the connection itself is no longer read.
const INPUT_BACKLOG_MAX: usize = 16 << 20;

/// How often a connection that is not read is looked at for its end.
const STALLED_POLL: Duration = Duration::from_millis(50);

/// Bytes of one read from a program.
const OUTPUT_CHUNK: usize = 32 << 10;

/// SSH's number for standard error (RFC 4254, section 5.2).
const EXTENDED_STDERR: u32 = 1;

/// Who logs in, and where.
#[derive(Clone, Debug)]
pub(super) struct Login {
    pub(super) home: PathBuf,
    pub(super) user: String,
    pub(super) path: String,
}

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// Exit status.
    Status(u32),
    /// Killed by a signal.
    Signal { number: i32, core_dumped: bool },
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        match status.signal() {
            Some(number) => Self::Signal {
                number,
                core_dumped: status.core_dumped(),
            },
            None => Self::Status(status.code().unwrap_or_default().cast_unsigned()),
        }
    }
}

/// A program with its three streams.
pub(super) struct Program {
    pub(super) stdin: Box<dyn AsyncWrite + Send + Unpin>,
    pub(super) stdout: Box<dyn AsyncRead + Send + Unpin>,
    pub(super) stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Standard error joins standard output, as on a terminal.
    pub(super) merged: bool,
    pub(super) exit: Pin<Box<dyn Future<Output = io::Result<Exit>> + Send>>,
}

/// What ends a program from outside.
pub(super) struct Watch {
    pub(super) stream: Arc<TcpStream>,
    pub(super) cut: CancellationToken,
    /// The session, for the messages a channel half cannot send.
    pub(super) handle: Handle,
}

/// Starts `/bin/sh`, in a process group of its own, in the home directory and with a clean environment.
pub(super) fn spawn(
    login: &Login,
    line: Option<&[u8]>,
    env: &[(String, String)],
    terminal: Option<&str>,
) -> io::Result<(Program, Pid)> {
    let mut command = Command::new("/bin/sh");
    if let Some(line) = line {
        command.arg("-c").arg(OsStr::from_bytes(line));
    }
    command
        .env_clear()
        .env("PATH", &login.path)
        .env("HOME", &login.home)
        .env("USER", &login.user)
        .env("LOGNAME", &login.user)
        .env("SHELL", "/bin/sh")
        .env("TMPDIR", login.home.join("tmp"))
        .envs(env.iter().map(|(name, value)| (name, value)))
        .current_dir(&login.home)
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(terminal) = terminal {
        command.env("TERM", terminal);
    }
    let mut child = command.spawn()?;
    let closed = || io::Error::from(io::ErrorKind::BrokenPipe);
    let group = child
        .id()
        .and_then(|id| Pid::from_raw(id.cast_signed()))
        .ok_or_else(closed)?;
    let program = Program {
        stdin: Box::new(child.stdin.take().ok_or_else(closed)?),
        stdout: Box::new(child.stdout.take().ok_or_else(closed)?),
        stderr: Some(Box::new(child.stderr.take().ok_or_else(closed)?)),
        merged: terminal.is_some(),
        exit: Box::pin(async move { child.wait().await.map(Exit::from) }),
    };
    Ok((program, group))
}

/// Sends a signal to a whole process group; a group that is gone already is fine.
pub(super) fn kill_group(group: Pid, signal: Signal) {
    if let Err(error) = rustix::process::kill_process_group(group, signal) {
        tracing::trace!(%error, "process group is gone");
    }
}

/// Moves bytes between a channel and a program until the program has ended and its output is through, or the channel
/// or the connection goes away.
///
/// As with OpenSSH, the exit status is told as soon as the program ends, and the channel closes when its output does.
///
/// Returns whether the program ended by itself; one that did not is the caller's to kill.
pub(super) async fn bridge(channel: Channel<Msg>, program: Program, watch: Watch) -> bool {
    let id = channel.id();
    let (mut incoming, outgoing) = channel.split();
    let outgoing = Arc::new(outgoing);
    let input = Input::new();
    let stalled = Arc::new(AtomicUsize::new(0));
    let feeder = tokio::spawn(feed(Arc::clone(&input.backlog), input.queue, program.stdin));
    let error_code = (!program.merged).then_some(EXTENDED_STDERR);
    let out = pump(
        program.stdout,
        Arc::clone(&outgoing),
        None,
        Arc::clone(&stalled),
    );
    let err = pump_optional(
        program.stderr,
        Arc::clone(&outgoing),
        error_code,
        Arc::clone(&stalled),
    );
    let outputs = async { tokio::join!(out, err) };
    tokio::pin!(outputs);
    let mut exit = program.exit;
    let mut sender = Some(input.sender);
    let (mut exited, mut drained, mut open) = (false, false, true);
    while !(exited && drained) {
        let room = input.backlog.bytes() < INPUT_BACKLOG_MAX || stalled.load(Ordering::Relaxed) > 0;
        tokio::select! {
            message = incoming.wait(), if open && room => match message {
                Some(ChannelMsg::Data { data }) => input.backlog.push(sender.as_ref(), data),
                Some(ChannelMsg::Eof) => sender = None,
                Some(ChannelMsg::Close) | None => open = false,
                Some(_) => {}
            },
            () = input.backlog.shrunk(), if !room => {}
            () = tokio::time::sleep(STALLED_POLL), if !room => open = !super::gate::peer_is_gone(&watch.stream),
            ended = &mut exit, if !exited => {
                exited = true;
                tell_exit(&watch.handle, id, ended).await;
            }
            _ = &mut outputs, if !drained => drained = true,
            () = watch.cut.cancelled() => open = false,
        }
        if !open {
            break;
        }
    }
    feeder.abort();
    if open {
        // The channel may have gone away meanwhile; then there is nobody to tell.
        let _ = outgoing.eof().await;
        let _ = outgoing.close().await;
    }
    exited
}

/// Tells the client how the program ended.
async fn tell_exit(handle: &Handle, id: ChannelId, ended: io::Result<Exit>) {
    let told = match ended {
        Ok(Exit::Status(status)) => handle.exit_status_request(id, status).await,
        Ok(Exit::Signal {
            number,
            core_dumped,
        }) => {
            handle
                .exit_signal_request(
                    id,
                    signal_name(number),
                    core_dumped,
                    String::new(),
                    String::new(),
                )
                .await
        }
        Err(error) => {
            tracing::error!(%error, "cannot learn how a program ended");
            handle.exit_status_request(id, 255).await
        }
    };
    if told.is_err() {
        tracing::debug!("the channel closed before the exit status");
    }
}

/// Standard input on its way to a program.
struct Input {
    backlog: Arc<Backlog>,
    sender: mpsc::UnboundedSender<Bytes>,
    queue: mpsc::UnboundedReceiver<Bytes>,
}

impl Input {
    fn new() -> Self {
        let (sender, queue) = mpsc::unbounded_channel();
        Self {
            backlog: Arc::new(Backlog::default()),
            sender,
            queue,
        }
    }
}

/// How many bytes wait for a program.
#[derive(Debug, Default)]
struct Backlog {
    bytes: AtomicUsize,
    shrunk: Notify,
}

impl Backlog {
    fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    fn push(&self, sender: Option<&mpsc::UnboundedSender<Bytes>>, data: Bytes) {
        let length = data.len();
        // Without a sender the client has said EOF and goes on sending; without a receiver nobody reads.
        if sender.is_some_and(|sender| sender.send(data).is_ok()) {
            self.bytes.fetch_add(length, Ordering::Relaxed);
        }
    }

    fn shrink(&self, length: usize) {
        self.bytes.fetch_sub(length, Ordering::Relaxed);
        self.shrunk.notify_one();
    }

    async fn shrunk(&self) {
        self.shrunk.notified().await;
    }
}

/// Writes what arrives to the program, and closes its standard input at the end.
async fn feed(
    backlog: Arc<Backlog>,
    mut queue: mpsc::UnboundedReceiver<Bytes>,
    mut stdin: Box<dyn AsyncWrite + Send + Unpin>,
) {
    let mut pieces = VecDeque::new();
    loop {
        match queue.recv().await {
            Some(piece) => pieces.push_back(piece),
            None => break,
        }
        while let Some(piece) = pieces.pop_front() {
            let written = stdin.write_all(&piece).await;
            backlog.shrink(piece.len());
            if written.is_err() {
                // The program closed its standard input; the rest is dropped as a pipe would.
                return while let Some(piece) = queue.recv().await {
                    backlog.shrink(piece.len());
                };
            }
        }
        if queue.is_empty() && stdin.flush().await.is_err() {
            return;
        }
    }
    let _ = stdin.shutdown().await;
}

async fn pump_optional(
    source: Option<Box<dyn AsyncRead + Send + Unpin>>,
    outgoing: Arc<ChannelWriteHalf<Msg>>,
    extended: Option<u32>,
    stalled: Arc<AtomicUsize>,
) {
    if let Some(source) = source {
        pump(source, outgoing, extended, stalled).await;
    }
}

/// Sends what the program writes, waiting for the client's window.
async fn pump(
    mut source: Box<dyn AsyncRead + Send + Unpin>,
    outgoing: Arc<ChannelWriteHalf<Msg>>,
    extended: Option<u32>,
    stalled: Arc<AtomicUsize>,
) {
    let mut buffer = vec![0; OUTPUT_CHUNK];
    loop {
        let count = match source.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => count,
        };
        let bytes = Bytes::copy_from_slice(&buffer[..count]);
        stalled.fetch_add(1, Ordering::Relaxed);
        let sent = match extended {
            None => outgoing.data_bytes(bytes).await,
            Some(code) => outgoing.extended_data_bytes(code, bytes).await,
        };
        stalled.fetch_sub(1, Ordering::Relaxed);
        if sent.is_err() {
            return;
        }
    }
}

/// The signal of a `signal` request.
pub(super) fn signal_number(signal: &Sig) -> Option<Signal> {
    Some(match signal {
        Sig::ABRT => Signal::ABORT,
        Sig::ALRM => Signal::ALARM,
        Sig::FPE => Signal::FPE,
        Sig::HUP => Signal::HUP,
        Sig::ILL => Signal::ILL,
        Sig::INT => Signal::INT,
        Sig::KILL => Signal::KILL,
        Sig::PIPE => Signal::PIPE,
        Sig::QUIT => Signal::QUIT,
        Sig::SEGV => Signal::SEGV,
        Sig::TERM => Signal::TERM,
        Sig::USR1 => Signal::USR1,
        Sig::Custom(name) if name == "USR2" => Signal::USR2,
        Sig::Custom(_) => return None,
    })
}

/// The name of a signal for `exit-signal` (RFC 4254, section 6.10).
fn signal_name(number: i32) -> Sig {
    let known = [
        (Signal::ABORT, Sig::ABRT),
        (Signal::ALARM, Sig::ALRM),
        (Signal::FPE, Sig::FPE),
        (Signal::HUP, Sig::HUP),
        (Signal::ILL, Sig::ILL),
        (Signal::INT, Sig::INT),
        (Signal::KILL, Sig::KILL),
        (Signal::PIPE, Sig::PIPE),
        (Signal::QUIT, Sig::QUIT),
        (Signal::SEGV, Sig::SEGV),
        (Signal::TERM, Sig::TERM),
        (Signal::USR1, Sig::USR1),
    ];
    let found = known
        .into_iter()
        .find(|(signal, _)| signal.as_raw() == number);
    found.map_or_else(
        || Sig::Custom(format!("SIG{number}@orka-sim")),
        |(_, name)| name,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_and_signals_are_told_apart() {
        assert_eq!(Exit::from(ExitStatus::from_raw(65 << 8)), Exit::Status(65));
        assert_eq!(
            Exit::from(ExitStatus::from_raw(9)),
            Exit::Signal {
                number: 9,
                core_dumped: false
            }
        );
        assert!(matches!(signal_name(15), Sig::TERM));
        assert!(matches!(signal_name(31), Sig::Custom(name) if name == "SIG31@orka-sim"));
    }
}
