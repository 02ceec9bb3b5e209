//! Commands that outlive the connection that started them.
//!
//! The program runs in a process group of its own that no SSH channel holds. A watcher in the VM keeps what it prints in
//! files, in the order in which it was printed, and how it ended (`watch.sh`); `follow.sh` sends that along a channel from any
//! place on. When the connection is lost, a new one is made and the next follower goes on at the byte at which the last one
//! broke off. The files are in a directory `.orka-step.<16 digits>` of the login user's home directory, for its owner
//! alone; each piece is deleted once it was fetched, and the directory once the program has ended and its end was fetched.
//!
//! A program that prints faster than its output is fetched is held back by its pipe once 16 MiB of a stream wait. Secrets
//! come through a pipe, as without detaching, and are in no file. The program's process group ends with it: what it left in the
//! background has 2 s for its last words. Should this side vanish, the VM ends the program by itself after
//! [`Detach::abandoned_after`].

mod driver;
mod frames;
#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(
    not(feature = "fuzzing"),
    allow(unreachable_pub, reason = "reached from outside when fuzzing only")
)]
pub(crate) mod fuzzing;
mod queue;
mod scripts;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::time::timeout;

use crate::Error;
use crate::command::{self, Exit, OutputChunk, Signal, Stream};
use crate::connection::Sessions;
use crate::exec::{ExecRequest, Start, Stdin};
use crate::ready::Keepalive;
use crate::running::Event;
use crate::transfer::Beginning;

use driver::{Asked, Driver, REACH_AGAIN_MAX, Requests, Told};
use scripts::Looks;

/// Events on their way to whoever reads them.
const EVENTS_QUEUED: usize = 16;

/// Signals on their way to the program, SIGKILL aside. More than this many are not waiting for anything but a connection.
const ASKED_QUEUED: usize = 32;

/// How long the command that starts the program is waited for after it has, so that its session can be used again.
const SETTLE: Duration = Duration::from_secs(2);

/// What the scripts may print ahead of an answer: a login shell's greetings.
const ANSWER_MAX: usize = 1024 * 1024;

/// How often the VM looks whether somebody follows.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How a command outlives its connection.
#[derive(Clone, Copy, Debug)]
pub struct Detach {
    /// When nobody has followed the program for this long, the VM ends it and removes what there is of it. Longer than what
    /// it takes to notice a dead connection and to make a new one. Whole seconds.
    pub abandoned_after: Duration,
}

impl Default for Detach {
    /// A dead link shows within a minute, and a new one is tried for two.
    fn default() -> Self {
        Self {
            abandoned_after: Duration::from_secs(300),
        }
    }
}

impl Detach {
    /// Patient enough for a connection whose death is noticed as late as `keepalive` does, and a new one after that.
    #[must_use]
    pub fn beyond(keepalive: Keepalive) -> Self {
        let noticed = (keepalive.patience()).saturating_add(REACH_AGAIN_MAX + LOOK_EVERY * 4);
        Self {
            abandoned_after: Self::default().abandoned_after.max(noticed),
        }
    }

    fn looks(self) -> Looks {
        let every = LOOK_EVERY
            .min(self.abandoned_after / 4)
            .max(Duration::from_secs(1));
        let seconds = every.as_secs();
        Looks {
            seconds,
            count: self.abandoned_after.as_secs().div_ceil(seconds).max(1),
        }
    }
}

/// A detached command. Dropped before its end it is ended in the VM, in the background.
#[derive(Debug)]
pub(crate) struct Detached {
    told: mpsc::Receiver<Told>,
    asked: mpsc::Sender<Asked>,
    /// SIGKILL is asked for.
    kill: Arc<Notify>,
    ending: Option<Result<Exit, Ended>>,
    address: String,
}

/// How it ended without an exit; errors themselves cannot be told twice.
#[derive(Clone, Debug)]
enum Ended {
    Lost(String),
    Detached(String),
    Input(std::io::ErrorKind, String),
}

impl Detached {
    pub(crate) async fn next_event(&mut self) -> Option<Event> {
        if self.ending.is_some() {
            return None;
        }
        match self.told.recv().await {
            Some(Told::Event(event)) => return Some(event),
            Some(Told::Ending(Ok(exit))) => self.ending = Some(Ok(exit)),
            Some(Told::Ending(Err(Error::Lost { reason, .. }))) => {
                self.ending = Some(Err(Ended::Lost(reason)));
            }
            Some(Told::Ending(Err(Error::Detached { reason, .. }))) => {
                self.ending = Some(Err(Ended::Detached(reason)));
            }
            Some(Told::Ending(Err(Error::Input { source, .. }))) => {
                self.ending = Some(Err(Ended::Input(source.kind(), source.to_string())));
            }
            Some(Told::Ending(Err(other))) => {
                self.ending = Some(Err(Ended::Detached(other.to_string())));
            }
            None => {
                let reason = "nobody follows it any more".to_owned();
                self.ending = Some(Err(Ended::Lost(reason)));
            }
        }
        None
    }

    pub(crate) async fn wait(&mut self) -> Result<Exit, Error> {
        while self.next_event().await.is_some() {}
        let address = self.address.clone();
        match self.ending.clone() {
            Some(Ok(exit)) => Ok(exit),
            Some(Err(Ended::Detached(reason))) => Err(Error::Detached { address, reason }),
            Some(Err(Ended::Lost(reason))) => Err(Error::Lost { address, reason }),
            Some(Err(Ended::Input(kind, text))) => Err(Error::Input {
                address,
                source: std::io::Error::new(kind, text),
            }),
            None => Err(Error::Lost {
                address,
                reason: "nobody follows it any more".to_owned(),
            }),
        }
    }

    /// Takes a signal up, or refuses it where too many wait for a connection. SIGKILL overtakes those.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), Error> {
        if matches!(signal, Signal::Kill) {
            self.kill.notify_one();
            return Ok(());
        }
        match self.asked.try_send(Asked::Signal(signal)) {
            // A program that has ended needs none.
            Ok(()) | Err(TrySendError::Closed(_)) => Ok(()),
            Err(TrySendError::Full(_)) => Err(Error::Lost {
                address: self.address.clone(),
                reason: format!("{ASKED_QUEUED} signals wait for it already"),
            }),
        }
    }

    pub(crate) fn ask_for_sign(&self) {
        // Where as much is asked already that cannot be said, there is no sign to be had.
        let _ = self.asked.try_send(Asked::Sign);
    }
}

/// Starts a detached command.
pub(crate) async fn start(
    sessions: Arc<Sessions>,
    request: ExecRequest,
    detach: Detach,
) -> Result<Detached, Error> {
    let invalid = |what, reason: &str| {
        Err(Error::Invalid {
            what,
            reason: reason.to_owned(),
        })
    };
    if request.pty {
        return invalid("terminal", "a detached command outlives every terminal");
    }
    if matches!(request.stdin, Stdin::Open) {
        return invalid(
            "standard input",
            "that of a detached command is given at its start",
        );
    }
    let start = request.into_start()?;
    let input = match start.stdin {
        Stdin::None if start.preamble.is_empty() => None,
        stdin => Some((start.preamble, stdin)),
    };
    let address = sessions.address();
    let is_fed = input.is_some();
    let job = Job::new(sessions, start.line, detach.looks(), is_fed);
    let (feeding, lost) = match job.launch(input).await {
        Ok(feeding) => (feeding, None),
        // Whether it was started is found out on a new connection.
        Err(lost @ Error::Lost { .. }) if !is_fed => (None, Some(lost)),
        Err(problem) => {
            if matches!(problem, Error::Lost { .. }) {
                tokio::spawn(async move { job.tidy_after_loss().await });
            }
            return Err(problem);
        }
    };
    let (tell, told) = mpsc::channel(EVENTS_QUEUED);
    let (ask, asked) = mpsc::channel(ASKED_QUEUED);
    let kill = Arc::<Notify>::default();
    let requests = Requests {
        asked,
        kill: Arc::clone(&kill),
    };
    tokio::spawn(Driver::new(job, feeding, tell, requests).run(lost));
    Ok(Detached {
        told,
        asked: ask,
        kill,
        ending: None,
        address,
    })
}

/// What is known of the program in the VM.
struct Job {
    sessions: Arc<Sessions>,
    /// Its directory; each start has one of its own.
    name: String,
    /// Directories of starts that were given up, which must not be had again while one of those may still come.
    void: Vec<String>,
    line: Vec<u8>,
    looks: Looks,
    is_fed: bool,
}

impl Job {
    fn new(sessions: Arc<Sessions>, line: Vec<u8>, looks: Looks, is_fed: bool) -> Self {
        Self {
            sessions,
            name: fresh_name(),
            void: Vec::new(),
            line,
            looks,
            is_fed,
        }
    }

    /// Starts the program. Gives the command that still feeds it, if one does.
    async fn launch(
        &self,
        input: Option<(bytes::Bytes, Stdin)>,
    ) -> Result<Option<command::Command>, Error> {
        let start = scripts::start(&self.name, &self.line, input, self.looks);
        let mut command = self.begin(start).await?;
        let mut beginning = Beginning::default();
        let (mut said, mut stderr) = (Vec::new(), command::Tail::default());
        while let Some(OutputChunk { stream, data }) = command.next_output().await {
            match stream {
                Stream::Stdout => said.extend_from_slice(&beginning.strip(data)),
                Stream::Stderr => stderr.push(&data),
            }
            if said.ends_with(b"\n") || said.len() > ANSWER_MAX {
                break;
            }
        }
        match said.as_slice() {
            b"started\n" => {}
            b"unsupported\n" => {
                return Err(Error::ExecRefused {
                    address: self.sessions.address(),
                    reason: "its shell gives background programs no process group of their own, and there is no `bash` and \
                             no `setsid`: no command can be detached there"
                        .to_owned(),
                });
            }
            _ => {
                let exit = self.unless_cut(command.wait().await).await?;
                return Err(Error::Detached {
                    address: self.sessions.address(),
                    reason: format!("it could not be started ({exit}): {}", stderr.text()),
                });
            }
        }
        if !self.is_fed {
            // What is lost from here on is found out by whoever follows.
            let _ = timeout(SETTLE, command.wait()).await;
            return Ok(None);
        }
        match timeout(SETTLE / 4, command.wait()).await {
            Ok(ended) => self.unless_cut(ended).await.map(|_| None),
            Err(_) => Ok(Some(command)),
        }
    }

    /// Ends a program whose input could not be read, while what feeds it still holds its input open: it must not take that for
    /// the end.
    async fn unless_cut(&self, ended: Result<Exit, Error>) -> Result<Exit, Error> {
        if matches!(ended, Err(Error::Input { .. })) {
            self.tidy_after_loss().await;
        }
        ended
    }

    async fn begin(&self, start: Start) -> Result<command::Command, Error> {
        let lease = self.sessions.lease().await?;
        command::start(lease, self.sessions.address(), start).await
    }

    /// Takes another directory; a start that is still on its way finds its own taken.
    fn start_anew(&mut self) {
        self.void
            .push(std::mem::replace(&mut self.name, fresh_name()));
    }

    /// Ends the program and removes what there is of it.
    async fn tidy(&self, tenths_of_grace: u64) -> Result<(), Error> {
        for name in std::iter::once(&self.name).chain(&self.void) {
            let mut command = self.begin(scripts::end(name, tenths_of_grace)).await?;
            let said = command.collect(ANSWER_MAX).await?;
            if said.exit.as_ref().is_none_or(|exit| !exit.success()) {
                tracing::warn!(
                    stderr = said.stderr.text(),
                    "a detached command was not removed from the VM"
                );
            }
        }
        Ok(())
    }
}

fn fresh_name() -> String {
    format!(".orka-step.{:016x}", rand::random::<u64>())
}
