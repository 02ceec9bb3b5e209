//! The real guests: [`Guests`] over `guest-ssh`.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cap_std::fs::Dir;
use guest_ssh::{
    AuthMethod, ConnectOptions, Connection, Credentials, Detach, EnvValue, Error, ExecRequest,
    Exit as RemoteExit, HostKeyMemory, HostKeyTrust, Identity, Limits, RemotePath, Selection,
    ShellChoice, Signal, Stdin, Stream, Target, TransferOptions, TransferProgress, TransferSummary,
    Waiting,
};
use secrecy::ExposeSecret as _;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::{
    Choice, Control, Copied, Event, Exec, Gone, Guest, Guests, Input, JumpHostKey, Login,
    OutputStream, Review, Running,
};
use crate::bindings::orka::plugin::cluster::VmInfo;
use crate::bindings::orka::plugin::types::{Exit, ExitSignal};
use crate::config::SshConfig;
use crate::console::{Console, Progress, seconds};
use crate::failure::{Class, Failure, Kind};

/// Events on their way from a program to whoever drains it; behind them the program waits.
const EVENTS_QUEUED: usize = 64;

/// Signals on their way to a program.
const REQUESTS_QUEUED: usize = 8;

/// Pieces of output read for the sake of a signal although nobody takes them: behind a full channel the SSH session stands
/// still in both directions, and each piece read lets it look once more at what is to be sent.
const PIECES_AHEAD: usize = 32;

/// Pieces read ahead at most, at 32 KiB each: enough for three signals.
const PIECES_WAITING_MAX: usize = 3 * PIECES_AHEAD + 1;

/// The code of a login in a VM that the run has deleted.
pub const VM_DELETED: &str = "ssh.vm-deleted";

/// Guests reached with the run's SSH configuration.
pub struct SshGuests {
    config: SshConfig,
    /// What each VM has shown, by name: the same VM must show the same key for as long as the run lasts.
    seen: Mutex<HashMap<(String, Option<String>), HostKeyMemory>>,
}

impl SshGuests {
    /// Guests that are logged into as `config` says.
    pub fn new(config: SshConfig) -> Self {
        Self {
            config,
            seen: Mutex::default(),
        }
    }

    fn credentials(&self, login: &Login) -> Result<Credentials, Failure> {
        let mut methods = Vec::new();
        if let Some(key) = &login.private_key {
            methods.push(AuthMethod::PrivateKey(
                Identity::parse(key, None).map_err(failure)?,
            ));
        }
        if let Some(password) = &login.password {
            methods.push(AuthMethod::Password(password.clone()));
        }
        if methods.is_empty() {
            methods.clone_from(&self.config.methods);
        }
        let username = login
            .username
            .clone()
            .unwrap_or_else(|| self.config.username.clone());
        Ok(Credentials { username, methods })
    }
}

#[async_trait]
impl Guests for SshGuests {
    async fn connect(
        &self,
        vm: &VmInfo,
        login: &Login,
        gone: &Gone,
        deadline: Instant,
        console: &Console,
    ) -> Result<Arc<dyn Guest>, Failure> {
        let credentials = self.credentials(login)?;
        let target = Target {
            host: vm.address.clone(),
            port: vm.ssh_port,
        };
        let tell = |waiting: &Waiting<'_>| {
            console.progress(&format!(
                "waiting for SSH for {}: {}",
                seconds(waiting.elapsed),
                waiting.last
            ));
        };
        let memory = self
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            // On Orka 2 the VMs of a config share its name.
            .entry((vm.name.clone(), vm.id.clone()))
            .or_default()
            .clone();
        let options = ConnectOptions {
            keepalive: self.config.keepalive,
            memory,
            jump: self.config.jump.clone(),
            gone: gone.clone(),
            ..ConnectOptions::until(deadline)
        };
        let connection = guest_ssh::connect(
            &target,
            &credentials,
            &self.config.host_keys,
            &options,
            tell,
        )
        .await
        .map_err(failure)?;
        let jump = self
            .config
            .jump
            .as_ref()
            .map(|jump| jump.target.to_string());
        Ok(Arc::new(SshGuest {
            connection,
            jump,
            detach: Detach::beyond(self.config.keepalive),
            loss_after: self.config.keepalive.patience(),
        }))
    }

    fn username(&self) -> Option<&str> {
        Some(self.config.username.as_str()).filter(|user| !user.is_empty())
    }

    fn patience(&self) -> Duration {
        self.config.timeout
    }
}

/// A VM that is logged into.
struct SshGuest {
    connection: Connection,
    /// The host that the connection goes through.
    jump: Option<String>,
    /// How detached programs outlive the connection.
    detach: Detach,
    /// How long it may take to notice that the connection is dead.
    loss_after: Duration,
}

#[async_trait]
impl Guest for SshGuest {
    fn host_key(&self) -> String {
        self.connection.host_key_fingerprint().to_owned()
    }

    fn host_key_trust(&self) -> HostKeyTrust {
        self.connection.host_key().trust
    }

    fn jump_host(&self) -> Option<JumpHostKey> {
        let key = self.connection.jump_host_key()?;
        Some(JumpHostKey {
            host: self.jump.clone()?,
            fingerprint: key.fingerprint.to_string(),
            trust: key.trust,
        })
    }

    fn loss_after(&self) -> Duration {
        self.loss_after
    }

    async fn exec(&self, exec: Exec) -> Result<Running, Failure> {
        let request = ExecRequest {
            program: exec.program,
            args: exec.arguments,
            env: exec
                .env
                .into_iter()
                .map(|(name, value)| (name, EnvValue::Plain(value)))
                .chain(
                    exec.secret_env
                        .into_iter()
                        .map(|(name, value)| (name, EnvValue::Secret(value))),
                )
                .collect(),
            cwd: exec
                .cwd
                .map(RemotePath::parse)
                .transpose()
                .map_err(failure)?,
            stdin: match exec.input {
                Input::Empty => Stdin::None,
                Input::Bytes(bytes) => Stdin::Bytes(bytes.into()),
                Input::Secret(secret) => {
                    Stdin::Bytes(Bytes::copy_from_slice(secret.expose_secret().as_bytes()))
                }
                Input::File(file) => Stdin::Reader(Box::new(tokio::fs::File::from_std(file))),
            },
            pty: exec.pty,
            shell: if exec.login_shell {
                ShellChoice::Login
            } else {
                ShellChoice::Direct
            },
            detach: exec.detach.then_some(self.detach),
        };
        let command = self.connection.exec(request).await.map_err(failure)?;
        let (events, receiver) = mpsc::channel(EVENTS_QUEUED);
        let (ask, requests) = mpsc::channel(REQUESTS_QUEUED);
        tokio::spawn(pump(command, events, requests));
        Ok(Running {
            events: receiver,
            control: Arc::new(Requests(ask)),
        })
    }

    async fn write_file(&self, path: &str, contents: &[u8], mode: u32) -> Result<(), Failure> {
        let path = RemotePath::parse(path).map_err(failure)?;
        self.connection
            .write_file(&path, contents, mode)
            .await
            .map_err(transfer_failure)
    }

    async fn upload(
        &self,
        source: &Dir,
        target: &str,
        choice: &Choice,
        console: &Console,
    ) -> Result<Copied, Failure> {
        let target = RemotePath::parse(target).map_err(failure)?;
        let shown = console.transfer("copying in");
        let progress = |progress: &TransferProgress| shown.update(of_transfer(progress));
        let what = selection(choice)?;
        let options = TransferOptions {
            totals: shown.is_a_bar(),
            ..options(choice)
        };
        let upload = (self.connection).upload(source, &what, &target, options, progress);
        let summary = shown.shown(upload).await.map_err(transfer_failure)?;
        drop(shown);
        Ok(copied(summary, console))
    }

    async fn download(
        &self,
        source: &str,
        workspace: &Dir,
        into: &Path,
        choice: &Choice,
        console: &Console,
    ) -> Result<Copied, Failure> {
        let source = RemotePath::parse(source).map_err(failure)?;
        let shown = console.transfer("copying back");
        let progress = |progress: &TransferProgress| shown.update(of_transfer(progress));
        let what = selection(choice)?;
        let refusal = Arc::new(Mutex::new(None));
        let options = TransferOptions {
            review: choice.review.as_ref().map(|it| look(it, &refusal)),
            ..options(choice)
        };
        let download =
            (self.connection).download(&source, &what, workspace, into, options, progress);
        let downloaded = shown.shown(download).await;
        drop(shown);
        // Who looked at the files says more than that the transfer was refused.
        if let Some(failure) = refusal.lock().ok().and_then(|mut it| it.take()) {
            return Err(failure);
        }
        Ok(copied(downloaded.map_err(transfer_failure)?, console))
    }

    async fn close(&self) {
        self.connection.close().await;
    }
}

/// A look at files that waits for the answer on the transfer's own thread, and keeps a refusal as it was given.
fn look(review: &Review, refusal: &Arc<Mutex<Option<Failure>>>) -> guest_ssh::Review {
    let (review, refusal) = (review.clone(), Arc::clone(refusal));
    let runtime = tokio::runtime::Handle::current();
    guest_ssh::Review::new(move |files| {
        let looked = runtime.block_on(review.look(files.to_vec()));
        looked.map_err(|failure| {
            let reason = failure.message.clone();
            if let Ok(mut refusal) = refusal.lock() {
                *refusal = Some(failure);
            }
            reason
        })
    })
}

/// What is asked of the task that owns a program.
enum Request {
    /// To send a signal, and to say whether it was sent.
    Signal(Signal, oneshot::Sender<Result<(), Failure>>),
    /// [`Event::Heard`].
    Sign,
}

/// Moves a program's events along until it ends or nobody takes them any more. Signals pass also while nobody takes the
/// output: they may be meant for a program that writes too much.
async fn pump(
    mut command: guest_ssh::Command,
    events: mpsc::Sender<Event>,
    mut requests: mpsc::Receiver<Request>,
) {
    let mut waiting = VecDeque::new();
    let mut ahead = 0;
    loop {
        tokio::select! {
            Some(request) = requests.recv() => {
                let Request::Signal(signal, answer) = request else {
                    command.ask_for_sign();
                    continue;
                };
                let sent = if waiting.len() + PIECES_AHEAD > PIECES_WAITING_MAX {
                    Err(unread())
                } else {
                    ahead = PIECES_AHEAD;
                    command.signal(signal).await.map_err(failure)
                };
                // The call may have been given up.
                let _ = answer.send(sent);
            }
            room = events.reserve(), if !waiting.is_empty() => {
                let (Ok(room), Some(event)) = (room, waiting.pop_front()) else { return };
                room.send(event);
            }
            // The run is over: dropping the command closes its channel.
            () = events.closed(), if waiting.is_empty() => return,
            event = command.next_event(), if waiting.is_empty() || ahead > 0 => {
                let Some(event) = event else { break };
                if !waiting.is_empty() {
                    ahead -= 1;
                }
                waiting.push_back(event_of(event));
            }
        }
    }
    let ending = match command.wait().await {
        Ok(RemoteExit::Status(status)) => Event::Exit(Exit::Status(status)),
        Ok(RemoteExit::Signal {
            name, core_dumped, ..
        }) => Event::Exit(Exit::Signal(ExitSignal { name, core_dumped })),
        Err(error) => Event::Lost(failure(error)),
    };
    // What is asked for from here on comes too late, and must not wait for somebody to take the ending.
    drop(requests);
    for event in waiting.into_iter().chain([ending]) {
        if events.send(event).await.is_err() {
            return;
        }
    }
}

fn unread() -> Failure {
    Failure::new(
        Kind::Unavailable,
        Class::Ssh,
        "ssh.unread",
        "no further signal can be sent before some of the program's output is read",
    )
}

fn event_of(event: guest_ssh::Event) -> Event {
    match event {
        guest_ssh::Event::Output(chunk) => Event::Output(of(chunk.stream), chunk.data),
        guest_ssh::Event::Interrupted { reason } => Event::Interrupted(reason),
        guest_ssh::Event::Resumed => Event::Resumed,
        guest_ssh::Event::Heard => Event::Heard,
    }
}

fn of(stream: Stream) -> OutputStream {
    match stream {
        Stream::Stdout => OutputStream::Stdout,
        Stream::Stderr => OutputStream::Stderr,
    }
}

/// Asks the task that owns the program.
struct Requests(mpsc::Sender<Request>);

#[async_trait]
impl Control for Requests {
    async fn signal(&self, name: &str) -> Result<(), Failure> {
        let signal = match name {
            "HUP" => Signal::Hup,
            "INT" => Signal::Int,
            "QUIT" => Signal::Quit,
            "KILL" => Signal::Kill,
            "TERM" => Signal::Term,
            "USR1" => Signal::Usr1,
            "ABRT" => Signal::Abrt,
            "ALRM" => Signal::Alrm,
            "PIPE" => Signal::Pipe,
            _ => {
                return Err(Failure::invalid(
                    "ssh.signal",
                    format!("SSH cannot send `{name}`"),
                ));
            }
        };
        let (answer, answered) = oneshot::channel();
        // A program that has ended needs no signal any more.
        let _ = self.0.send(Request::Signal(signal, answer)).await;
        answered.await.unwrap_or(Ok(()))
    }

    async fn ask_for_sign(&self) -> bool {
        // One that has ended has told so.
        let _ = self.0.send(Request::Sign).await;
        true
    }
}

fn selection(choice: &Choice) -> Result<Selection, Failure> {
    Selection::parse(&choice.include, &choice.exclude).map_err(|error| {
        let mut failure = failure(error);
        failure.code = "files.pattern".into();
        failure.class = Class::Config;
        failure
    })
}

fn options(choice: &Choice) -> TransferOptions {
    TransferOptions {
        limits: Limits {
            bytes: choice.max_bytes,
            entries: choice.max_entries,
            ..Limits::default()
        },
        compare: choice.compare,
        ..TransferOptions::default()
    }
}

fn of_transfer(progress: &TransferProgress) -> Progress {
    Progress {
        bytes: progress.bytes,
        entries: progress.entries,
        bytes_total: progress.bytes_total,
        entries_total: progress.entries_total,
    }
}

fn copied(summary: TransferSummary, console: &Console) -> Copied {
    for skipped in &summary.skipped {
        console.warn(&format!(
            "left out `{}`: {}",
            skipped.path.display(),
            skipped.reason
        ));
    }
    for warning in &summary.warnings {
        console.warn(warning);
    }
    for note in &summary.notes {
        console.info(note);
    }
    let is_received = !summary.entries.is_empty();
    Copied {
        files: summary.files,
        bytes: summary.bytes,
        digest: is_received.then(|| summary.digest_hex()),
        entries: summary.entries,
        unchanged: summary.unchanged,
        left_out: summary.left_out,
        counted_bytes: summary.counted_bytes,
        counted_entries: summary.counted_entries,
        notes: summary.notes,
    }
}

/// An error of a transfer that is not the connection's is about files.
pub fn transfer_failure(error: Error) -> Failure {
    let mut failure = failure(error);
    if failure.class == Class::Ssh && failure.code != "ssh.lost" {
        failure.class = Class::Files;
    }
    failure
}

fn failure(error: Error) -> Failure {
    let (kind, class, code) = match &error {
        Error::TimedOut { last, .. } => (
            Kind::TimedOut,
            Class::Ssh,
            last.as_deref().map_or("ssh.timed-out", waiting_code),
        ),
        Error::AuthenticationDeclined { .. } => (
            Kind::Unauthenticated,
            Class::Ssh,
            "ssh.authentication-declined",
        ),
        Error::HostKeyMismatch { .. } => {
            (Kind::Unauthenticated, Class::Ssh, "ssh.host-key-mismatch")
        }
        Error::HostKeyUnknown { .. } => (Kind::Unauthenticated, Class::Ssh, "ssh.host-key-unknown"),
        Error::HostKeyRevoked { .. } => (Kind::Unauthenticated, Class::Ssh, "ssh.host-key-revoked"),
        Error::HostCertificateInvalid { .. } => {
            (Kind::Unauthenticated, Class::Ssh, "ssh.host-certificate")
        }
        Error::NoCommonAlgorithm { .. } => (Kind::Other, Class::Ssh, "ssh.no-common-algorithm"),
        Error::JumpHost { source, .. } => match source.as_ref() {
            Error::AuthenticationDeclined { .. } => (
                Kind::Unauthenticated,
                Class::Ssh,
                "ssh.jump-authentication-declined",
            ),
            Error::HostKeyMismatch { .. }
            | Error::HostKeyUnknown { .. }
            | Error::HostKeyRevoked { .. }
            | Error::HostCertificateInvalid { .. } => {
                (Kind::Unauthenticated, Class::Ssh, "ssh.jump-host-key")
            }
            _ => (Kind::Unavailable, Class::Ssh, "ssh.jump"),
        },
        Error::InvalidHostKeys { .. } => (Kind::Invalid, Class::Config, "ssh.host-keys"),
        Error::InvalidKey { .. }
        | Error::InvalidCertificate { .. }
        | Error::PublicKeyGiven
        | Error::PassphraseNeeded
        | Error::WrongPassphrase => (Kind::Invalid, Class::Config, "ssh.key"),
        Error::Gone { .. } => (Kind::NotFound, Class::Plugin, VM_DELETED),
        Error::Lost { .. } => (Kind::Unavailable, Class::Ssh, "ssh.lost"),
        Error::Detached { .. } => (Kind::Unavailable, Class::Ssh, "ssh.detached"),
        Error::Input { .. } => (Kind::Unavailable, Class::Files, "files.input"),
        Error::ExecRefused { .. } => (Kind::Unavailable, Class::Ssh, "ssh.exec-refused"),
        Error::RemoteToolMissing { .. } => (Kind::Other, Class::Files, "files.remote-tool"),
        Error::RemoteFailed { .. } | Error::Protocol { .. } => {
            (Kind::Other, Class::Files, "files.remote")
        }
        Error::NotFound { .. } => (Kind::NotFound, Class::Files, "files.not-found"),
        Error::LimitExceeded { .. } => (Kind::NoCapacity, Class::Files, "files.limit"),
        Error::VmFull { .. } => (Kind::NoCapacity, Class::Files, "files.vm-full"),
        Error::NoRoom { .. } => (Kind::NoCapacity, Class::Files, "files.no-room"),
        Error::Transfer { .. } => (Kind::Other, Class::Files, "files.transfer"),
        Error::Invalid { .. } => (Kind::Invalid, Class::Plugin, "ssh.invalid"),
        other => (Kind::Unavailable, Class::Ssh, waiting_code(other)),
    };
    let mut failure = Failure::new(kind, class, code, error.to_string());
    failure.hint = error.hint();
    failure.retryable = error.may_pass();
    if let Error::LimitExceeded { limit, .. } = &error {
        failure = failure.with_detail("limit", *limit);
    }
    failure.with_source(error)
}

/// The codes of states that a VM on its way up goes through.
fn waiting_code(error: &Error) -> &'static str {
    match error {
        Error::Unresolved { .. } => "ssh.unresolved",
        Error::Refused { .. } => "ssh.refused",
        Error::NoRoute { .. } => "ssh.no-route",
        Error::Unanswered { .. } => "ssh.unanswered",
        Error::Silent { .. } => "ssh.silent",
        Error::Reset { .. } => "ssh.reset",
        Error::Handshake { .. } => "ssh.handshake",
        Error::JumpHost { .. } => "ssh.jump",
        Error::NotForwarded {
            is_forbidden: true, ..
        } => "ssh.jump-forbidden",
        Error::NotForwarded { .. } => "ssh.jump-cannot-reach",
        _ => "ssh.other",
    }
}
