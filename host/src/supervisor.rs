//! A run is two processes: the worker runs it, and the supervisor does nothing but wait for the worker's end.
//!
//! A crash cannot be caught from inside: a panic of this program, a fault in native code, a stack that overflows, a worker
//! that the kernel kills for want of memory. The supervisor sees it and starts the program once more, to delete what the
//! worker had made, with results, report and exit code as for any other run. What was made it knows from the worker's
//! [`BlackBox`], which is its own memory; the worker's signals come by it, so their time is kept as well.
//!
//! The worker dies with the supervisor: whoever kills one kills both, as before there were two. It is in a process group of
//! its own, so that a signal to the group of the step, as Tekton's entrypoint sends it, does not come twice; at a terminal it
//! stays in the group, since one that is not in the foreground may neither read nor, with `stty tostop`, write. Signals are
//! held back until a process says that it answers to them.
//!
//! Where a worker cannot be started, the run goes on in the process that is there.

use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select_all;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::process::{
    Pid, Resource, Rlimit, Signal, getppid, kill_process, set_parent_process_death_signal,
    setrlimit, test_kill_process,
};
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal as Incoming, SignalKind, signal};
use tokio::time::{Instant, sleep};

use crate::failure::Failure;
use crate::ledger::{BlackBox, Recovered};
use crate::outcome::StopSignal;
use crate::state::Stop;

/// Tells the program that it is a worker, and whose. Nobody else sets it: what it says is checked.
const VARIABLE: &str = "ORKA_STEP_WORKER";

/// What the worker answers to; see `listen` and `ignore_strays` of the program.
const PASSED_ON: [(SignalKind, Signal); 8] = [
    (SignalKind::terminate(), Signal::TERM),
    (SignalKind::interrupt(), Signal::INT),
    (SignalKind::hangup(), Signal::HUP),
    (SignalKind::quit(), Signal::QUIT),
    (SignalKind::alarm(), Signal::ALARM),
    (SignalKind::user_defined1(), Signal::USR1),
    (SignalKind::user_defined2(), Signal::USR2),
    (SignalKind::io(), Signal::IO),
];

/// How long a signal is held back for a process that does not say that it answers to it.
const HELD_AT_MOST: Duration = Duration::from_secs(2);

/// How often that is looked at, while a signal is held back.
const HELD_TICK: Duration = Duration::from_millis(2);

/// What the file of the black box is called by the kernel: nothing else is written to, whatever the variable says.
const BLACK_BOX: &str = "/memfd:orka-step-ledger (deleted)";

/// What this process is.
pub enum Role {
    /// It was started by a person or by Tekton.
    First,
    /// It runs what its supervisor was started for.
    Worker(Arc<BlackBox>),
    /// The same, where the box cannot be reached.
    Alone(Failure),
    /// It deletes what a worker left.
    CleanUp(Crash),
    /// A worker crashed and nothing can be deleted: there is nothing to do but to say so, and what may be left.
    Bereft(Failure, Recovered),
}

impl Role {
    /// Lets the supervisor know that this process answers to signals.
    pub fn listens(&self) {
        match self {
            Self::Worker(black_box) => black_box.note_listening(),
            Self::CleanUp(crash) => crash.black_box.note_listening(),
            Self::First | Self::Alone(_) | Self::Bereft(..) => {}
        }
    }
}

/// How a worker crashed, and what it left.
#[derive(Debug)]
pub struct Crash {
    /// The signal that ended it.
    signal: i32,
    /// What it had noted.
    pub recovered: Recovered,
    /// Where that was read.
    black_box: BlackBox,
    /// The signal that had stopped the run before, and when it came.
    stopped: Option<(StopSignal, Instant)>,
}

/// How a supervised run ended.
pub enum Ended {
    /// By itself, with this exit code.
    With(u8),
    /// By a crash that nobody has cleaned up after.
    Crashed(Box<(Failure, Recovered)>),
    /// There is no worker: the run has not begun.
    NotBegun(io::Error),
}

impl Crash {
    /// What went wrong.
    pub fn failure(&self) -> Failure {
        crashed(self.signal)
    }

    /// Lets the clean-up keep the time of a signal that came before the crash.
    pub fn stop(&self, stop: &Stop) {
        if let Some((signal, at)) = self.stopped {
            stop.stop_since(signal, at);
        }
    }
}

/// Signals that end a process which does not mean to end, and `SIGKILL`.
const NAMES: [(Signal, &str); 8] = [
    (Signal::ABORT, "SIGABRT"),
    (Signal::BUS, "SIGBUS"),
    (Signal::FPE, "SIGFPE"),
    (Signal::ILL, "SIGILL"),
    (Signal::KILL, "SIGKILL"),
    (Signal::SEGV, "SIGSEGV"),
    (Signal::SYS, "SIGSYS"),
    (Signal::TRAP, "SIGTRAP"),
];

fn crashed(number: i32) -> Failure {
    let name = NAMES.iter().find(|(signal, _)| signal.as_raw() == number);
    let name = name.map_or_else(
        || format!("signal {number}"),
        |(_, name)| (*name).to_owned(),
    );
    let failure = Failure::internal(format!("the process of the run crashed ({name})"));
    failure.with_hint(if number == Signal::KILL.as_raw() {
        "a kernel that is short of memory sends SIGKILL: give the step a higher memory limit"
    } else {
        "this is a bug of orka-step; please report it with what the log says before this"
    })
}

/// What this process is, by its environment.
pub fn role() -> Role {
    let told = std::env::var(VARIABLE).ok();
    let Some(told) = told.as_deref().and_then(Told::parse) else {
        return Role::First;
    };
    if getppid() != Some(told.supervisor) {
        if test_kill_process(told.supervisor) == Err(Errno::SRCH) {
            // It ended before this process began: whoever killed it meant both.
            std::process::abort();
        }
        // Somebody's idea of the variable.
        return Role::First;
    }
    told.role()
}

/// What the variable says.
struct Told<'a> {
    supervisor: Pid,
    descriptor: u32,
    /// Of a worker that crashed: its signal, and which one had stopped the run, so many milliseconds ago.
    signal: Option<i32>,
    stopped: Option<(&'a str, &'a str)>,
}

impl<'a> Told<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut words = text.split(':');
        Some(Self {
            supervisor: Pid::from_raw(words.next()?.parse().ok()?)?,
            descriptor: words.next()?.parse().ok()?,
            signal: words.next().and_then(|word| word.parse().ok()),
            stopped: words.next().zip(words.next()),
        })
    }

    /// Never that of a first process: its supervisor is there, and one more would have one more, without end.
    fn role(&self) -> Role {
        if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
            tracing::debug!(%error, "the worker may outlive its supervisor");
        }
        if getppid() != Some(self.supervisor) {
            // It ended in between, and this process would not be told.
            std::process::abort();
        }
        let none = Rlimit {
            current: Some(0),
            maximum: Some(0),
        };
        // What a crash leaves must not hold passwords and tokens, and must not take time.
        if let Err(error) = setrlimit(Resource::Core, none) {
            tracing::debug!(%error, "a crash may leave a core dump");
        }
        match (self.signal, self.open()) {
            (None, Ok(file)) => Role::Worker(Arc::new(BlackBox::new(file))),
            (None, Err(error)) => Role::Alone(
                Failure::internal("if this process crashes, VMs stay that it has made: its supervisor cannot be reached")
                    .with_source(error),
            ),
            (Some(signal), Ok(mut file)) => match Recovered::read(&mut file) {
                Ok(recovered) => Role::CleanUp(Crash {
                    signal,
                    recovered,
                    black_box: BlackBox::new(file),
                    stopped: self.stopped(),
                }),
                Err(error) => {
                    Role::Bereft(crashed(signal).with_source(error), Recovered::default())
                }
            },
            (Some(signal), Err(error)) => {
                Role::Bereft(crashed(signal).with_source(error), Recovered::default())
            }
        }
    }

    /// By name, so that no other program that is started from here inherits it.
    fn open(&self) -> io::Result<File> {
        let path = format!(
            "/proc/{}/fd/{}",
            self.supervisor.as_raw_pid(),
            self.descriptor
        );
        // With another PID namespace's `/proc` it would be a stranger's file.
        if std::fs::read_link(&path)? != Path::new(BLACK_BOX) {
            return Err(io::Error::other(format!("`{path}` is something else")));
        }
        File::options().read(true).append(true).open(path)
    }

    fn stopped(&self) -> Option<(StopSignal, Instant)> {
        let (name, ago) = self.stopped?;
        let signal = [StopSignal::Terminate, StopSignal::Interrupt]
            .into_iter()
            .find(|signal| signal.name() == name)?;
        let ago = Duration::from_millis(ago.parse().ok()?);
        Some((signal, Instant::now().checked_sub(ago)?))
    }
}

/// Runs this program once more with the same command line, passes on signals, and cleans up after a crash.
pub async fn supervise() -> Ended {
    match Supervisor::new() {
        Ok(supervisor) => supervisor.run().await,
        Err(error) => Ended::NotBegun(error),
    }
}

struct Supervisor {
    black_box: File,
    signals: Vec<(Incoming, Signal)>,
    /// Whether a terminal sends its signals to the worker, too.
    at_terminal: bool,
    /// The first signal that stops a run.
    stopped: Option<(StopSignal, Instant)>,
    /// How many processes were started.
    started: usize,
    /// Signals that wait for the process to answer to them, and since when.
    held: Vec<Signal>,
    held_since: Option<Instant>,
}

impl Supervisor {
    fn new() -> io::Result<Self> {
        // A caller that ignores it would keep anybody from waiting for a child.
        let _children = signal(SignalKind::child())?;
        // Heard from here on: one that comes while the worker starts is passed on as well.
        let signals = PASSED_ON
            .into_iter()
            .map(|(kind, passed)| Ok((signal(kind)?, passed)));
        Ok(Self {
            signals: signals.collect::<io::Result<_>>()?,
            black_box: memfd_create("orka-step-ledger", MemfdFlags::CLOEXEC)?.into(),
            at_terminal: io::stdin().is_terminal()
                || io::stdout().is_terminal()
                || io::stderr().is_terminal(),
            stopped: None,
            started: 0,
            held: Vec::new(),
            held_since: None,
        })
    }

    async fn run(mut self) -> Ended {
        let worker = match self.start("") {
            Ok(worker) => worker,
            Err(error) => return Ended::NotBegun(error),
        };
        let signal = match self.attend(worker).await.map(ended) {
            Ok(Ok(code)) => return Ended::With(code),
            Ok(Err(signal)) => signal,
            Err(error) => return self.bereft(lost(error)),
        };
        let stopped = self.stopped.map_or_else(String::new, |(signal, at)| {
            format!(":{}:{}", signal.name(), at.elapsed().as_millis())
        });
        let cleaner = match self.start(&format!(":{signal}{stopped}")) {
            Ok(cleaner) => cleaner,
            Err(error) => return self.bereft(crashed(signal).with_source(error)),
        };
        match self.attend(cleaner).await.map(ended) {
            Ok(Ok(code)) => Ended::With(code),
            Ok(Err(again)) => self.bereft(crashed(signal).with_source(crashed(again))),
            Err(error) => self.bereft(lost(error)),
        }
    }

    fn bereft(&mut self, failure: Failure) -> Ended {
        Ended::Crashed(Box::new((failure, self.recovered())))
    }

    fn recovered(&mut self) -> Recovered {
        Recovered::read(&mut self.black_box).unwrap_or_default()
    }

    /// Starts the program as a worker.
    fn start(&mut self, more: &str) -> io::Result<Child> {
        let mut arguments = std::env::args_os();
        let told = format!(
            "{}:{}{more}",
            std::process::id(),
            self.black_box.as_raw_fd()
        );
        // Not by its path: the file may have been replaced.
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0(arguments.next().unwrap_or_default())
            .args(arguments)
            .env(VARIABLE, told);
        if !self.at_terminal {
            command.process_group(0);
        }
        let child = command.spawn()?;
        self.started += 1;
        Ok(child)
    }

    /// Waits for a worker's end and passes on to it what comes meanwhile, once it answers to that.
    async fn attend(&mut self, mut worker: Child) -> io::Result<ExitStatus> {
        let pid = worker.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        loop {
            let is_held = !self.held.is_empty();
            let signal = tokio::select! {
                status = worker.wait() => return status,
                signal = next(&mut self.signals) => Some(signal),
                () = sleep(HELD_TICK), if is_held => None,
            };
            if let Some(signal) = signal {
                self.take(signal);
            }
            if let Some(pid) = pid
                && self.may_pass()
            {
                for signal in self.held.drain(..) {
                    // One that has just ended needs no signal: it is not waited for yet, so the number is still its own.
                    let _ = kill_process(pid, signal);
                }
            }
        }
    }

    fn take(&mut self, signal: Signal) {
        let stops = match signal {
            Signal::TERM => Some(StopSignal::Terminate),
            Signal::INT => Some(StopSignal::Interrupt),
            _ => None,
        };
        if self.stopped.is_none() {
            self.stopped = stops.map(|signal| (signal, Instant::now()));
        }
        // A terminal has sent these to the whole group.
        let is_there = [Signal::INT, Signal::QUIT].contains(&signal) && self.at_terminal;
        if !is_there {
            self.held_since.get_or_insert_with(Instant::now);
            self.held.push(signal);
        }
    }

    /// Whether the process answers to signals, or should by now.
    fn may_pass(&mut self) -> bool {
        let Some(since) = self.held_since else {
            return false;
        };
        let may = since.elapsed() >= HELD_AT_MOST || {
            let started = self.started;
            self.recovered().is_listening(started)
        };
        if may {
            self.held_since = None;
        }
        may
    }
}

/// The next signal that comes.
async fn next(signals: &mut [(Incoming, Signal)]) -> Signal {
    let incoming = signals.iter_mut().map(|(incoming, passed)| {
        let passed = *passed;
        Box::pin(async move {
            incoming.recv().await;
            passed
        })
    });
    let (signal, ..) = select_all(incoming).await;
    signal
}

/// The exit code, or the signal of a crash.
fn ended(status: ExitStatus) -> Result<u8, i32> {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ok(u8::try_from(code).unwrap_or(u8::MAX)),
        (None, signal) => Err(signal.unwrap_or_default()),
    }
}

fn lost(error: io::Error) -> Failure {
    Failure::internal("the process of the run cannot be waited for").with_source(error)
}
