//! Waiting until a VM can be used: early and often, and saying why not yet.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::Instrument as _;

use crate::Error;
use crate::auth::Credentials;
use crate::connection::Connection;
use crate::dial::{Dialer, JumpDialer};
use crate::hostkey::{HostKeyMemory, HostKeyPolicy, Verifier};
use crate::session::Session;
use crate::stream::{Progress, Stage};

/// Where a VM's SSH server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (open, close) = if self.host.contains(':') {
            ("[", "]")
        } else {
            ("", "")
        };
        write!(
            f,
            "{open}{}{close}:{}",
            crate::quote::printable(self.host.as_bytes()),
            self.port
        )
    }
}

/// How long to pause between attempts: from `first`, half as much again each time, up to `max`; a tenth is chance.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// The first pause.
    pub first: Duration,
    /// The longest pause, and so about the longest a ready VM goes unnoticed.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(50),
            max: Duration::from_millis(300),
        }
    }
}

impl Backoff {
    fn pause(&self, attempt: u32) -> Duration {
        let factor = 1.5_f64.powi(attempt.saturating_sub(1).min(64) as i32);
        let pause = (self.first.as_secs_f64() * factor).min(self.max.as_secs_f64());
        // Many builds start at once after a deploy; they should not knock in step.
        Duration::from_secs_f64(pause * rand::rng().random_range(0.9..=1.0))
    }
}

/// How a silent connection is told from a quiet build.
#[derive(Clone, Copy, Debug)]
pub struct Keepalive {
    /// Silence after which the server is asked for a sign of life; zero asks never.
    pub interval: Duration,
    /// Unanswered questions after which the connection counts as lost.
    pub count_max: u32,
}

impl Default for Keepalive {
    /// A dead link shows within a minute, and a Wi-Fi hiccup or a paused VM does not end a build.
    fn default() -> Self {
        Self::within(Duration::from_secs(60))
    }
}

impl Keepalive {
    /// Notices a dead link after `time`: three questions go unanswered, a quarter of it apart.
    #[must_use]
    pub fn within(time: Duration) -> Self {
        Self {
            interval: time / 4,
            count_max: 3,
        }
    }

    /// Silence after which the connection counts as lost.
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.interval
            .saturating_mul(self.count_max.saturating_add(1))
    }
}

/// Whether a machine is known to be gone. Asked before each connection is made and before each login: what answers at the
/// address of a machine that is gone may be another one, which would take the same credentials.
#[derive(Clone)]
pub struct Gone(Arc<dyn Fn() -> bool + Send + Sync>);

impl Gone {
    /// Asks `is_gone` each time.
    pub fn when(is_gone: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(is_gone))
    }

    /// A machine of which nobody knows such a thing.
    #[must_use]
    pub fn never() -> Self {
        Self::when(|| false)
    }

    /// Whether it is gone by now.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        (self.0)()
    }
}

impl fmt::Debug for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Gone").field(&self.is_gone()).finish()
    }
}

/// A host to go through, with an account of its own. What passes is encrypted for the VM; the jump host reads none of it.
#[derive(Clone, Debug)]
pub struct Jump {
    /// Where it is.
    pub target: Target,
    /// Who we are to it.
    pub credentials: Credentials,
    /// Which host keys it may show.
    pub host_keys: HostKeyPolicy,
    /// What it showed before.
    pub memory: HostKeyMemory,
}

/// How to wait for a VM.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// When to give up.
    pub deadline: Instant,
    /// What one attempt may take, from the first packet to the finished login. A server that accepts and then hangs
    /// is tried again meanwhile ([`Self::hedge_after`]).
    pub attempt_timeout: Duration,
    /// Pauses between attempts.
    pub backoff: Backoff,
    /// Signs of life on the finished connection.
    pub keepalive: Keepalive,
    /// How many declined logins count as "accounts are not ready yet". Zero stops at the first, which is right for
    /// images whose account is baked in.
    pub auth_refusals_tolerated: u32,
    /// How long an attempt may hang before another is made beside it; doubled for the third, and there are no more.
    pub hedge_after: Duration,
    /// What the machine showed before.
    pub memory: HostKeyMemory,
    /// The host to go through.
    pub jump: Option<Jump>,
    /// Whether the machine is gone. Holds for every session that the connection ever opens.
    pub gone: Gone,
}

impl ConnectOptions {
    /// The usual options: 10 s an attempt, another beside it after 1 s, no declined login tolerated.
    #[must_use]
    pub fn until(deadline: Instant) -> Self {
        Self {
            deadline,
            attempt_timeout: Duration::from_secs(10),
            backoff: Backoff::default(),
            keepalive: Keepalive::default(),
            auth_refusals_tolerated: 0,
            hedge_after: Duration::from_secs(1),
            memory: HostKeyMemory::default(),
            jump: None,
            gone: Gone::never(),
        }
    }
}

/// An attempt that failed, told to the caller while waiting goes on.
#[derive(Debug)]
pub struct Waiting<'a> {
    /// Which attempt this was, from 1.
    pub attempt: u32,
    /// Time since the first attempt began.
    pub elapsed: Duration,
    /// How the attempt ended.
    pub last: &'a Error,
    /// The pause before the next one.
    pub next_in: Duration,
}

/// How much longer than the deadline an attempt may take that should have ended there by itself.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Attempts at the same time. A server that hangs on one may answer the next; more would only load a booting machine, and
/// `sshd` starts to drop connections at ten that have not logged in (`MaxStartups`).
const ATTEMPTS_MAX: usize = 3;

/// How long a login under way keeps further attempts from being made: a directory service that has just come up is slow,
/// and two logins at once would count a wrong password twice.
const LOGIN_PATIENCE: Duration = Duration::from_secs(3);

/// Waits until `target` accepts `credentials`, and returns the connection.
///
/// Connects early and often: a VM that starts to listen is noticed within [`Backoff::max`], and one that hung on the
/// attempt before within [`ConnectOptions::hedge_after`]. Each failed attempt is told to `progress`, and each that hangs.
///
/// # Errors
///
/// At once: [`Error::AuthenticationDeclined`] (beyond what is tolerated), [`Error::NoCommonAlgorithm`] and every host key
/// refusal, also of the jump host ([`Error::JumpHost`]), and [`Error::Gone`]. At the deadline: [`Error::TimedOut`] with the last attempt's end
/// as its source.
///
/// # Cancel safety
///
/// Dropping the future closes the attempts under way.
pub async fn connect(
    target: &Target,
    credentials: &Credentials,
    policy: &HostKeyPolicy,
    options: &ConnectOptions,
    progress: impl Fn(&Waiting<'_>) + Send,
) -> Result<Connection, Error> {
    let dial =
        |target: &Target, credentials: &Credentials, policy, memory: &HostKeyMemory| Dialer {
            target: target.clone(),
            credentials: credentials.clone(),
            verifier: Arc::new(Verifier::new(target, policy, memory.clone())),
            attempt_timeout: options.attempt_timeout,
            keepalive: options.keepalive,
            jump: None,
            gone: Gone::never(),
        };
    let mut dialer = dial(target, credentials, policy, &options.memory);
    dialer.gone = options.gone.clone();
    dialer.jump = options.jump.as_ref().map(|jump| {
        JumpDialer::new(dial(
            &jump.target,
            &jump.credentials,
            &jump.host_keys,
            &jump.memory,
        ))
    });
    let mut attempts = Attempts {
        dialer: Arc::new(dialer),
        options,
        started: Instant::now(),
        made: 0,
        running: HashMap::new(),
        tasks: JoinSet::new(),
    };
    let mut refusals_left = options.auth_refusals_tolerated;
    let mut last: Option<(u32, Error)> = None;
    let mut next = Some(Instant::now());
    loop {
        let (attempt, outcome) = tokio::select! {
            biased;
            Some(ended) = attempts.tasks.join_next() => match ended {
                Ok(ended) => ended,
                Err(panic) => std::panic::resume_unwind(panic.into_panic()),
            },
            () = sleep_until(next.unwrap_or(options.deadline)), if next.is_some() => {
                next = attempts.start_or_wait(&progress);
                continue;
            }
            () = sleep_until(options.deadline + LAST_WORDS) => {
                return Err(attempts.timed_out(last));
            }
        };
        attempts.running.remove(&attempt);
        let problem = match outcome {
            Ok(session) => return Ok(attempts.won(attempt, session)),
            Err(problem) => problem,
        };
        match &problem {
            Error::AuthenticationDeclined { .. } if refusals_left > 0 => refusals_left -= 1,
            problem if problem.may_pass() => {}
            _ => return Err(problem),
        }
        let now = Instant::now();
        let next_in = options.backoff.pause(attempt);
        tracing::trace!(%target, attempt, %problem, "SSH not ready");
        progress(&Waiting {
            attempt,
            elapsed: attempts.started.elapsed(),
            last: &problem,
            next_in,
        });
        // Of those that ended because time is up, the first has waited longest and says most.
        let is_over = now >= options.deadline;
        if !(is_over && last.as_ref().is_some_and(|(earlier, _)| *earlier < attempt)) {
            last = Some((attempt, problem));
        }
        let wake = now + next_in;
        next =
            Some(next.map_or(wake, |next| next.min(wake))).filter(|wake| *wake < options.deadline);
        if next.is_none() && attempts.running.is_empty() {
            return Err(attempts.timed_out(last));
        }
    }
}

/// The attempts under way.
struct Attempts<'a> {
    dialer: Arc<Dialer>,
    options: &'a ConnectOptions,
    started: Instant,
    made: u32,
    running: HashMap<u32, (Instant, Arc<Progress>)>,
    tasks: JoinSet<(u32, Result<Session, Error>)>,
}

impl Attempts<'_> {
    /// Makes an attempt, unless one that is logging in should be waited for. Gives when to look again.
    fn start_or_wait(&mut self, progress: &impl Fn(&Waiting<'_>)) -> Option<Instant> {
        let now = Instant::now();
        if now >= self.options.deadline {
            return None;
        }
        let is_logging_in = self.running.values().any(|(began, progress)| {
            progress.has_reached(Stage::LoggingIn) && began.elapsed() < LOGIN_PATIENCE
        });
        let patience = self.options.hedge_after;
        if let Some((&attempt, (began, stage))) = self.running.iter().max_by_key(|(made, _)| **made)
        {
            progress(&Waiting {
                attempt,
                elapsed: self.started.elapsed(),
                last: &self.dialer.silent(stage, began.elapsed()),
                next_in: if is_logging_in {
                    patience
                } else {
                    Duration::ZERO
                },
            });
        }
        if is_logging_in {
            return Some(now + patience);
        }
        self.made += 1;
        let attempt = self.made;
        let progress = Arc::new(Progress::default());
        self.running.insert(attempt, (now, Arc::clone(&progress)));
        // The last attempts end by themselves at the deadline, so that they can say in which state they were.
        let until = (now + self.options.attempt_timeout).min(self.options.deadline);
        let dialer = Arc::clone(&self.dialer);
        let work = async move { (attempt, dialer.dial_until(until, &progress).await) };
        self.tasks.spawn(work.in_current_span());
        let doublings = self.running.len() as u32 - 1;
        (self.running.len() < ATTEMPTS_MAX).then(|| now + patience * 2_u32.pow(doublings))
    }

    fn won(self, attempt: u32, session: Session) -> Connection {
        let target = &self.dialer.target;
        tracing::debug!(%target, attempt, elapsed_ms = self.started.elapsed().as_millis(), "SSH connected");
        Connection::new(self.dialer, session)
    }

    fn timed_out(&self, last: Option<(u32, Error)>) -> Error {
        let last = last.map(|(_, problem)| problem);
        timed_out(&self.dialer.target, self.started, self.made, last)
    }
}

fn timed_out(target: &Target, started: Instant, attempts: u32, last: Option<Error>) -> Error {
    Error::TimedOut {
        address: target.to_string(),
        waited: started.elapsed(),
        attempts,
        last: last.map(Box::new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_cap_and_stay_there() {
        let backoff = Backoff::default();
        assert!(backoff.pause(1) <= Duration::from_millis(50));
        assert!(backoff.pause(3) > backoff.pause(1));
        for attempt in [20, 1000, u32::MAX] {
            assert!(backoff.pause(attempt) <= backoff.max);
            assert!(backoff.pause(attempt) >= backoff.max.mul_f64(0.9));
        }
    }

    #[test]
    fn an_ipv6_target_is_shown_in_brackets() {
        let target = Target {
            host: "fd00::1".to_owned(),
            port: 8822,
        };
        assert_eq!(target.to_string(), "[fd00::1]:8822");
    }
}
