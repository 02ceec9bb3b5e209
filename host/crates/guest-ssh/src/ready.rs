//! Waiting until a VM can be used: early and often, and saying why not yet.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;

use crate::Error;
use crate::auth::Credentials;
use crate::connection::Connection;
use crate::hostkey::{HostKeyPolicy, Verifier};
use crate::session::Dialer;

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
    /// 15 s and 4: a dead link shows within about 75 s, and a Wi-Fi hiccup or a paused VM does not end a build.
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(15),
            count_max: 4,
        }
    }
}

impl Keepalive {
    /// Silence after which the connection counts as lost.
    pub(crate) fn patience(&self) -> Duration {
        self.interval
            .saturating_mul(self.count_max.saturating_add(1))
    }
}

/// How to wait for a VM.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// When to give up.
    pub deadline: Instant,
    /// What one attempt may take, from the first packet to the finished login. A server that accepts and then hangs
    /// costs this much, then is tried again.
    pub attempt_timeout: Duration,
    /// Pauses between attempts.
    pub backoff: Backoff,
    /// Signs of life on the finished connection.
    pub keepalive: Keepalive,
    /// How many declined logins count as "accounts are not ready yet". Zero stops at the first, which is right for
    /// images whose account is baked in.
    pub auth_refusals_tolerated: u32,
}

impl ConnectOptions {
    /// The usual options: 10 s an attempt, no declined login tolerated.
    #[must_use]
    pub fn until(deadline: Instant) -> Self {
        Self {
            deadline,
            attempt_timeout: Duration::from_secs(10),
            backoff: Backoff::default(),
            keepalive: Keepalive::default(),
            auth_refusals_tolerated: 0,
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

/// Waits until `target` accepts `credentials`, and returns the connection.
///
/// Connects early and often: a VM that starts to listen is noticed within [`Backoff::max`]. Each failed attempt is
/// told to `progress`.
///
/// # Errors
///
/// At once: [`Error::AuthenticationDeclined`] (beyond what is tolerated) and every host key refusal. At the deadline:
/// [`Error::TimedOut`] with the last attempt's end as its source.
///
/// # Cancel safety
///
/// Dropping the future closes the attempt under way.
pub async fn connect(
    target: &Target,
    credentials: &Credentials,
    policy: &HostKeyPolicy,
    options: &ConnectOptions,
    progress: impl Fn(&Waiting<'_>) + Send,
) -> Result<Connection, Error> {
    let started = Instant::now();
    let mut dialer = Dialer {
        target: target.clone(),
        credentials: credentials.clone(),
        verifier: Arc::new(Verifier::new(target, policy)),
        attempt_timeout: options.attempt_timeout,
        keepalive: options.keepalive,
    };
    let mut refusals_left = options.auth_refusals_tolerated;
    let mut last = None;
    let mut attempt = 0;
    loop {
        attempt += 1;
        // The last attempt ends by itself at the deadline, so that it can say in which state it was.
        let left = options.deadline.saturating_duration_since(Instant::now());
        dialer.attempt_timeout = options.attempt_timeout.min(left);
        let problem = match tokio::time::timeout_at(options.deadline + LAST_WORDS, dialer.dial())
            .await
        {
            Ok(Ok(session)) => {
                dialer.attempt_timeout = options.attempt_timeout;
                tracing::debug!(%target, attempt, elapsed_ms = started.elapsed().as_millis(), "SSH connected");
                return Ok(Connection::new(dialer, session));
            }
            Ok(Err(problem)) => problem,
            Err(_) => return Err(timed_out(target, started, attempt, last)),
        };
        match &problem {
            Error::AuthenticationDeclined { .. } if refusals_left > 0 => refusals_left -= 1,
            problem if problem.may_pass() => {}
            _ => return Err(problem),
        }
        let next_in = options.backoff.pause(attempt);
        tracing::trace!(%target, attempt, %problem, "SSH not ready");
        progress(&Waiting {
            attempt,
            elapsed: started.elapsed(),
            last: &problem,
            next_in,
        });
        let wake = Instant::now() + next_in;
        if wake >= options.deadline {
            return Err(timed_out(target, started, attempt, Some(problem)));
        }
        last = Some(problem);
        tokio::time::sleep_until(wake).await;
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
