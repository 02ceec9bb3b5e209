//! Running a program in the VM: how it is started, what it prints, how it ends.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use russh::client::Msg;
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Pty, Sig};
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::task::JoinHandle;

use crate::quote::{check_word, push_word, shell_line};
use crate::session::Lease;
use crate::{Error, RemotePath};

/// The status of a command whose working directory could not be entered, as `env(1)` and `timeout(1)` report their own
/// failures. Standard error then says why. 126 and 127 mean, as ever, "cannot be run" and "not found".
pub const WRAPPER_FAILED: u32 = 125;

/// How long output may stay silent after the exit status came. A build may leave a daemon behind that holds the
/// output open for ever; what the program itself wrote has long arrived by then.
const LINGER_MAX: Duration = Duration::from_secs(2);

/// Standard error kept from helper programs, for messages.
const STDERR_KEPT: usize = 4 * 1024;

/// Piece size when standard input is read from a reader.
const INPUT_PIECE: usize = 64 * 1024;

/// What a program reads.
#[derive(Default)]
pub enum Stdin {
    /// Nothing: end of file at once.
    #[default]
    None,
    /// These bytes, then end of file.
    Bytes(Bytes),
    /// What the reader yields, then end of file. A read error counts as the end.
    Reader(Box<dyn AsyncRead + Send + Unpin>),
    /// What [`Command::write_input`] sends, until [`Command::close_input`].
    Open,
}

impl fmt::Debug for Stdin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Bytes(_) => "Bytes(…)",
            Self::Reader(_) => "Reader(…)",
            Self::Open => "Open",
        })
    }
}

/// Which shell stands between `sshd` and the program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ShellChoice {
    /// None that matters: the program is started with the environment `sshd` gives.
    #[default]
    Direct,
    /// The user's own shell as a login shell first, so that `PATH` and the like are as in a terminal (Homebrew, rbenv,
    /// mise). Its start-up files see an empty standard input. The request's own environment wins over theirs.
    Login,
}

/// A value for an environment variable.
#[derive(Clone)]
pub enum EnvValue {
    /// Travels in the command line, where other users of the VM can see it.
    Plain(String),
    /// Travels on standard input ahead of the program's own, and is in no process's arguments, no file and no log.
    Secret(SecretString),
}

impl From<String> for EnvValue {
    fn from(value: String) -> Self {
        Self::Plain(value)
    }
}

impl From<&str> for EnvValue {
    fn from(value: &str) -> Self {
        Self::Plain(value.to_owned())
    }
}

impl From<SecretString> for EnvValue {
    fn from(value: SecretString) -> Self {
        Self::Secret(value)
    }
}

impl fmt::Debug for EnvValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(value) => value.fmt(f),
            Self::Secret(_) => f.write_str("[redacted]"),
        }
    }
}

/// A program to run. Nothing in it is ever read as shell text.
#[derive(Debug, Default)]
pub struct ExecRequest {
    /// Name or path; a name is looked up in the VM's `PATH`.
    pub program: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Variables set on top of the VM's own. `sshd` commonly refuses SSH's own way to set them.
    pub env: Vec<(String, EnvValue)>,
    /// Where it runs; the home directory if not given.
    pub cwd: Option<RemotePath>,
    /// What it reads.
    pub stdin: Stdin,
    /// Whether it gets a terminal: 80 × 24, no echo, both outputs as one.
    pub pty: bool,
    /// Which shell sets the scene.
    pub shell: ShellChoice,
}

impl ExecRequest {
    /// A request for `program` with `args` and nothing else.
    pub fn new(
        program: impl Into<String>,
        args: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        Self {
            program: program.into(),
            args: args.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }

    /// The command line, and what goes ahead of standard input.
    pub(crate) fn into_start(self) -> Result<Start, Error> {
        self.check()?;
        let (secret, plain): (Vec<_>, Vec<_>) = self
            .env
            .iter()
            .partition(|(_, value)| matches!(value, EnvValue::Secret(_)));
        let mut words: Vec<Vec<u8>> = Vec::new();
        words.push(if secret.is_empty() { "0" } else { "1" }.into());
        words.push(
            self.cwd
                .as_ref()
                .map(RemotePath::argument)
                .unwrap_or_else(|| b"./".to_vec()),
        );
        words.push(plain.len().to_string().into_bytes());
        words.extend(
            plain
                .iter()
                .map(|(name, value)| format!("{name}={}", value.expose()).into_bytes()),
        );
        words.push(self.program.clone().into_bytes());
        words.extend(
            self.args
                .iter()
                .map(|argument| argument.clone().into_bytes()),
        );
        let mut words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        let line = match self.shell {
            ShellChoice::Direct => shell_line(RUN, words),
            ShellChoice::Login => {
                words.insert(0, RUN.as_bytes());
                shell_line(RUN_IN_LOGIN_SHELL, words)
            }
        };
        Ok(Start {
            line,
            preamble: preamble(&secret),
            stdin: self.stdin,
            pty: self.pty,
        })
    }

    fn check(&self) -> Result<(), Error> {
        let invalid = |what, reason: String| Err(Error::Invalid { what, reason });
        check_word("program", self.program.as_bytes())?;
        if self.program.is_empty() || self.program.starts_with('-') {
            return invalid("program", "it is empty or looks like an option".to_owned());
        }
        for argument in &self.args {
            check_word("argument", argument.as_bytes())?;
        }
        for (name, value) in &self.env {
            check_word("environment value", value.expose().as_bytes())?;
            let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            if name.is_empty() || !name.bytes().all(legal) || name.as_bytes()[0].is_ascii_digit() {
                return invalid(
                    "environment name",
                    format!("`{}`", crate::quote::printable(name.as_bytes())),
                );
            }
            if self.pty && matches!(value, EnvValue::Secret(_)) {
                // A terminal may echo, and on macOS cuts lines at 1024 bytes.
                return invalid(
                    "environment",
                    format!("`{name}` is secret, and a terminal cannot carry secrets"),
                );
            }
        }
        Ok(())
    }
}

impl EnvValue {
    fn expose(&self) -> &str {
        match self {
            Self::Plain(value) => value,
            Self::Secret(value) => value.expose_secret(),
        }
    }
}

/// Arguments: whether secrets come first on standard input, the directory, the number of variables, the variables, the
/// program, its arguments. `read -r` takes one byte at a time from what cannot be rewound, in every `sh`, so the program
/// finds its own input untouched. The variable that held the secrets is unset (a same-named exported one would pass
/// them on) before the program sees the environment.
const RUN: &str = r##"if [ "$1" = 1 ]; then
unset orka_step_text orka_step_line; orka_step_text=
while IFS= read -r orka_step_line && [ "$orka_step_line" != "orka-step: end" ]; do orka_step_text="$orka_step_text$orka_step_line
"; done
eval "unset orka_step_text orka_step_line; $orka_step_text"
fi
cd "$2" || exit 125
orka_step_left=$3; shift 3
while [ "$orka_step_left" -gt 0 ]; do export "$1"; orka_step_left=$((orka_step_left - 1)); shift; done
unset orka_step_left
exec "$@""##;

/// Argument 1 is [`RUN`], the rest is for it. Start-up files may read standard input, so they are given none; fish names
/// its arguments otherwise than the rest.
const RUN_IN_LOGIN_SHELL: &str = r#"orka_step_run=$1; shift
exec 3<&0 </dev/null
case "${SHELL:=/bin/sh}" in
*/fish) exec "$SHELL" -l -c 'exec /bin/sh -c $argv <&3 3<&-' "$orka_step_run" orka-step "$@" ;;
*) exec "$SHELL" -l -c 'exec /bin/sh -c "$@" <&3 3<&-' orka-step "$orka_step_run" orka-step "$@" ;;
esac"#;

/// `export` lines for secret variables, ended by a line that no quoted value can produce: a value's own line breaks stay
/// inside quotes, and its `orka-step: end` would need to stand alone on a line, which is broken up.
fn preamble(secret: &[&(String, EnvValue)]) -> Bytes {
    if secret.is_empty() {
        return Bytes::new();
    }
    let mut text = Vec::new();
    for (name, value) in secret {
        text.extend_from_slice(name.as_bytes());
        text.push(b'=');
        for (number, line) in value.expose().split('\n').enumerate() {
            if number > 0 {
                // Quotes are closed and opened around each line break: no line of the value stands alone.
                text.extend_from_slice(b"'\n'");
            }
            push_word(&mut text, line.as_bytes());
        }
        text.extend_from_slice(format!("; export {name}\n").as_bytes());
    }
    text.extend_from_slice(b"orka-step: end\n");
    text.into()
}

/// A command line ready to be sent.
pub(crate) struct Start {
    pub(crate) line: Vec<u8>,
    pub(crate) preamble: Bytes,
    pub(crate) stdin: Stdin,
    pub(crate) pty: bool,
}

impl Start {
    /// One of this crate's own scripts.
    pub(crate) fn script<'a>(
        script: &str,
        arguments: impl IntoIterator<Item = &'a [u8]>,
        stdin: Stdin,
    ) -> Self {
        Self {
            line: shell_line(script, arguments),
            preamble: Bytes::new(),
            stdin,
            pty: false,
        }
    }
}

/// Opens a channel, starts the command, and sees to its input.
pub(crate) async fn start(lease: Lease, address: String, start: Start) -> Result<Command, Error> {
    let lost = |_| Error::Lost {
        address: address.clone(),
        reason: lease.end(),
    };
    let channel = match lease.handle.channel_open_session().await {
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
    let mut command = Command {
        read,
        write: Arc::new(write),
        feeder: None,
        exit: None,
        ended: false,
        left_open: false,
        address: address.clone(),
        lease,
    };
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

/// A running command.
///
/// Its output waits until it is read: after about 4 MiB the program is held back, nothing is lost and nothing else
/// grows. Dropping the command closes its channel, which ends its input and output; a program that ignores both goes on
/// until the VM is gone, unless it was sent a [`Signal`].
pub struct Command {
    read: ChannelReadHalf,
    write: Arc<ChannelWriteHalf<Msg>>,
    feeder: Option<JoinHandle<()>>,
    exit: Option<Exit>,
    ended: bool,
    left_open: bool,
    address: String,
    lease: Lease,
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
    pub async fn next_output(&mut self) -> Option<OutputChunk> {
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
                Some(ChannelMsg::ExitStatus { exit_status }) => {
                    self.exit = Some(Exit::Status(exit_status))
                }
                Some(ChannelMsg::ExitSignal {
                    signal_name,
                    core_dumped,
                    error_message,
                    ..
                }) => {
                    self.exit = Some(Exit::Signal {
                        name: signal_text(&signal_name),
                        core_dumped,
                        message: error_message,
                    });
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
    /// [`Error::Lost`] if the connection ended first: the program may still run, and may have done anything.
    ///
    /// # Cancel safety
    ///
    /// May be dropped and called again; the answer stays the same once known.
    pub async fn wait(&mut self) -> Result<Exit, Error> {
        while self.next_output().await.is_some() {}
        self.exit.clone().ok_or_else(|| self.lost())
    }

    /// Sends a signal to the program and its process group. Delivery is not confirmed by the protocol.
    ///
    /// # Errors
    ///
    /// [`Error::Lost`] if there is no connection to send it on.
    pub async fn signal(&self, signal: Signal) -> Result<(), Error> {
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
    pub async fn write_input(&self, bytes: impl Into<Bytes>) -> Result<(), Error> {
        self.write.data_bytes(bytes).await.map_err(|_| self.lost())
    }

    /// Ends the input; only of use with [`Stdin::Open`].
    ///
    /// # Errors
    ///
    /// [`Error::Lost`] if the connection is gone.
    pub async fn close_input(&self) -> Result<(), Error> {
        self.write.eof().await.map_err(|_| self.lost())
    }

    /// Whether output ended because the program had exited while another process still held it open.
    #[must_use]
    pub fn output_left_open(&self) -> bool {
        self.left_open
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

    async fn next_message(&mut self) -> Option<ChannelMsg> {
        if self.exit.is_none() {
            return self.read.wait().await;
        }
        match tokio::time::timeout(LINGER_MAX, self.read.wait()).await {
            Ok(message) => message,
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
            if let Err(problem) = feed(&write, preamble, stdin, pty).await {
                tracing::debug!(%problem, "standard input ended early");
            }
        }));
    }
}

impl Drop for Command {
    fn drop(&mut self) {
        let closed = self.ended && !self.left_open;
        self.end();
        if closed {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let write = Arc::clone(&self.write);
            runtime.spawn(async move {
                // The connection may be gone; then the channel is too.
                let _ = write.close().await;
            });
        }
    }
}

async fn feed(
    write: &ChannelWriteHalf<Msg>,
    preamble: Bytes,
    stdin: Stdin,
    pty: bool,
) -> Result<(), russh::Error> {
    write.data_bytes(preamble).await?;
    match stdin {
        Stdin::None => {}
        Stdin::Bytes(bytes) => write.data_bytes(bytes).await?,
        Stdin::Open => return Ok(()),
        Stdin::Reader(mut reader) => {
            let mut buffer = vec![0; INPUT_PIECE];
            while let Ok(count @ 1..) = reader.read(&mut buffer).await {
                write
                    .data_bytes(Bytes::copy_from_slice(&buffer[..count]))
                    .await?;
            }
        }
    }
    if pty {
        // A terminal has no end of file of its own: control-D on an empty line stands for it, the first may end a line.
        write.data_bytes(&b"\x04\x04"[..]).await?;
    }
    write.eof().await
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
