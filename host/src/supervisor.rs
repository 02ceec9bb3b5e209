//! A run is two processes: the worker runs it, and the supervisor does nothing but wait for the worker's end.
//!
//! A crash cannot be caught from inside: a panic of this program, a fault in native code, a stack that overflows, a worker
//! that the kernel kills for want of memory. The supervisor sees it and starts the program once more, to delete what the
//! worker had made, with results, report and exit code as for any other run. What was made it knows from the worker's
//! [`BlackBox`], which is its own memory; the worker's signals come by it, so their time is kept as well.
//!
//! The worker dies with the supervisor: whoever kills one kills both, as before there were two. It is in a process group of
//! its own, so that a signal to the group of the step, as Tekton's entrypoint sends it, does not come twice.
//!
//! Where a worker cannot be started, the run goes on in the process that is there.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal as Incoming, SignalKind, signal};
use tokio::time::Instant;

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

/// What this process is.
pub enum Role {
    /// It was started by a person or by Tekton.
    First,
    /// It runs what its supervisor was started for.
    Worker(BlackBox),
    /// It deletes what a worker left.
    CleanUp(Crash),
    /// Its worker crashed, and so did the clean-up: there is nothing to do but to say so.
    Bereft(Failure),
}

/// How a worker crashed, and what it left.
#[derive(Debug)]
pub struct Crash {
    /// The signal that ended it.
    signal: i32,
    /// What it had noted.
    pub recovered: Recovered,
    /// The signal that had stopped the run before, and when it came.
    stopped: Option<(StopSignal, Instant)>,
}

/// How a supervised run ended.
pub enum Ended {
    /// By itself, with this exit code.
    With(u8),
    /// By a crash that nobody has cleaned up after.
    Crashed(Failure),
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
    worker().unwrap_or(Role::First)
}

/// None for a process that is no worker, or whose supervisor is gone.
fn worker() -> Option<Role> {
    let told = std::env::var(VARIABLE).ok()?;
    let mut words = told.split(':');
    let pid: i32 = words.next()?.parse().ok()?;
    let descriptor: u32 = words.next()?.parse().ok()?;
    if getppid() != Pid::from_raw(pid) {
        return None;
    }
    // Whoever fails here still has a run to make.
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        tracing::debug!(%error, "the worker may outlive its supervisor");
    }
    if getppid() != Pid::from_raw(pid) {
        // It ended in between, and this process would not be told.
        std::process::abort();
    }
    // By name, so that no other program that is started from here inherits it.
    let path = format!("/proc/{pid}/fd/{descriptor}");
    let Some(signal) = words.next() else {
        let file = File::options().append(true).open(path).ok()?;
        return Some(Role::Worker(BlackBox::new(file)));
    };
    let stopped = words.next().zip(words.next()).and_then(|(name, ago)| {
        let signal = [StopSignal::Terminate, StopSignal::Interrupt]
            .into_iter()
            .find(|signal| signal.name() == name)?;
        let ago = Duration::from_millis(ago.parse().ok()?);
        Some((signal, Instant::now().checked_sub(ago)?))
    });
    Some(Role::CleanUp(Crash {
        signal: signal.parse().ok()?,
        recovered: Recovered::read(&mut File::open(path).ok()?).ok()?,
        stopped,
    }))
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
    /// The first signal that stops a run.
    stopped: Option<(StopSignal, Instant)>,
}

impl Supervisor {
    fn new() -> io::Result<Self> {
        // Heard from here on: one that comes while the worker starts is passed on as well.
        let signals = PASSED_ON
            .into_iter()
            .map(|(kind, passed)| Ok((signal(kind)?, passed)));
        Ok(Self {
            signals: signals.collect::<io::Result<_>>()?,
            black_box: memfd_create("ledger", MemfdFlags::CLOEXEC)?.into(),
            stopped: None,
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
            Err(error) => return Ended::Crashed(lost(error)),
        };
        let stopped = self.stopped.map_or_else(String::new, |(signal, at)| {
            format!(":{}:{}", signal.name(), at.elapsed().as_millis())
        });
        let cleaner = match self.start(&format!(":{signal}{stopped}")) {
            Ok(cleaner) => cleaner,
            Err(error) => return Ended::Crashed(crashed(signal).with_source(error)),
        };
        match self.attend(cleaner).await.map(ended) {
            Ok(Ok(code)) => Ended::With(code),
            Ok(Err(_)) => Ended::Crashed(crashed(signal).with_detail(
                "cleaned up",
                "the clean-up crashed as well; `orka-step reap` deletes what is left",
            )),
            Err(error) => Ended::Crashed(lost(error)),
        }
    }

    /// Starts the program as a worker.
    fn start(&self, more: &str) -> io::Result<Child> {
        let mut arguments = std::env::args_os();
        let told = format!(
            "{}:{}{more}",
            std::process::id(),
            self.black_box.as_raw_fd()
        );
        Command::new(std::env::current_exe()?)
            .arg0(arguments.next().unwrap_or_default())
            .args(arguments)
            .env(VARIABLE, told)
            .process_group(0)
            .spawn()
    }

    /// Waits for a worker's end and passes on to it what comes meanwhile.
    async fn attend(&mut self, mut worker: Child) -> io::Result<ExitStatus> {
        let pid = worker.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        loop {
            let incoming = self.signals.iter_mut().map(|(incoming, passed)| {
                let passed = *passed;
                Box::pin(async move {
                    incoming.recv().await;
                    passed
                })
            });
            let signal = tokio::select! {
                status = worker.wait() => return status,
                (signal, ..) = futures_util::future::select_all(incoming) => signal,
            };
            let stops = match signal {
                Signal::TERM => Some(StopSignal::Terminate),
                Signal::INT => Some(StopSignal::Interrupt),
                _ => None,
            };
            if self.stopped.is_none() {
                self.stopped = stops.map(|signal| (signal, Instant::now()));
            }
            if let Some(pid) = pid {
                // One that has just ended needs no signal: it is not waited for yet, so the number is still its own.
                let _ = kill_process(pid, signal);
            }
        }
    }
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
