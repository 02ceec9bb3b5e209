//! Trying again what may work the next time.

use std::time::Duration;

use crate::console::Level;
use crate::{Error, clock, console, random};

/// How often something is tried, how long to pause in between, and after which errors.
///
/// Pauses double from the first to the longest. Each is drawn from its upper half, so that Tasks that failed together do
/// not come back together; where the other side said how long to wait, it is that long at least.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    attempts: u32,
    first_pause: Duration,
    longest_pause: Duration,
    is_worth_it: fn(&Error) -> bool,
}

impl Retry {
    /// At most so many attempts in all, after errors that the host calls [retryable](crate::ErrorInfo::retryable), with
    /// pauses of about a second up to half a minute.
    pub const fn attempts(attempts: u32) -> Self {
        Self {
            attempts,
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(30),
            is_worth_it: |error| error.info().retryable,
        }
    }

    /// Pauses from `first`, doubled each time, up to `longest`.
    #[must_use]
    pub const fn pausing(mut self, first: Duration, longest: Duration) -> Self {
        self.first_pause = first;
        self.longest_pause = longest;
        self
    }

    /// Tries again after the errors that `is_worth_it` names, whatever the host says of them. Never after one that is
    /// [final](Error::is_final).
    #[must_use]
    pub const fn after(mut self, is_worth_it: fn(&Error) -> bool) -> Self {
        self.is_worth_it = is_worth_it;
        self
    }

    /// How long to pause after attempt number `attempt` failed, if it was not the last.
    ///
    /// `chance`, from 0 to 255, chooses from the upper half of the pause.
    fn pause_after(&self, attempt: u32, error: &Error, chance: u8) -> Option<Duration> {
        if attempt >= self.attempts || error.is_final() || !(self.is_worth_it)(error) {
            return None;
        }
        let doubled = 2_u32.saturating_pow(attempt.saturating_sub(1));
        let whole = self
            .first_pause
            .saturating_mul(doubled)
            .min(self.longest_pause);
        let half = whole / 2;
        let drawn = half + half * u32::from(chance) / u32::from(u8::MAX);
        let asked_for = Duration::from_millis(error.info().retry_after_ms.unwrap_or(0));
        Some(drawn.max(asked_for))
    }
}

/// Does `work`, and does it again as `policy` says; `work` is told the number of the attempt, the first being 1.
///
/// Each failure that is tried again is a warning in the log. Pauses are the host's clock, so they are virtual in tests. A
/// pause that would outlast the run is not begun.
///
/// ```no_run
/// use std::time::Duration;
/// use orka_plugin_sdk::cluster::{DeployOptions, Vm, VmConfig};
/// use orka_plugin_sdk::{Error, Retry, retry};
///
/// /// Three attempts, also where the cluster is full: 30 s, then a minute later.
/// fn deploy(config: &VmConfig) -> Result<Vm, Error> {
///     let policy = Retry::attempts(3)
///         .pausing(Duration::from_secs(30), Duration::from_secs(60))
///         .after(|error| error.info().retryable || matches!(error, Error::NoCapacity(_)));
///     retry("deploying", policy, |_| config.deploy(&DeployOptions::default()))
/// }
/// ```
///
/// A script that was started is nothing to retry: whoever loses its connection cannot know what it has done.
///
/// # Errors
///
/// The error of the last attempt, or one that is not worth another. A stopped run ends the pause with its own error.
pub fn retry<T>(
    doing: &str,
    policy: Retry,
    mut work: impl FnMut(u32) -> Result<T, Error>,
) -> Result<T, Error> {
    let mut attempt = 1;
    loop {
        let error = match work(attempt) {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let chance = random::bytes(1).first().copied().unwrap_or(u8::MAX);
        let Some(pause) = policy.pause_after(attempt, &error, chance) else {
            return Err(error);
        };
        let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        if pause_ms >= clock::remaining_ms() {
            return Err(error);
        }
        console::log(
            Level::Warn,
            &format!(
                "{doing}: {}; attempt {} of {} in {:.1} s",
                error.info().message,
                attempt + 1,
                policy.attempts,
                pause.as_secs_f64()
            ),
        );
        clock::sleep(pause_ms)?;
        attempt += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorInfo;

    const POLICY: Retry =
        Retry::attempts(5).pausing(Duration::from_secs(2), Duration::from_secs(5));

    fn passing() -> ErrorInfo {
        ErrorInfo {
            retryable: true,
            ..ErrorInfo::new("orka.server-error", "out of order")
        }
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_are_drawn_from_their_upper_half() {
        let error = Error::Unavailable(passing());
        for (attempt, least, most) in [(1, 1.0, 2.0), (2, 2.0, 4.0), (3, 2.5, 5.0), (4, 2.5, 5.0)] {
            let pause = |chance| {
                let pause = POLICY.pause_after(attempt, &error, chance);
                pause.map(|pause| pause.as_secs_f64())
            };
            assert_eq!(
                (pause(0), pause(255)),
                (Some(least), Some(most)),
                "{attempt}"
            );
        }
        assert_eq!(POLICY.pause_after(5, &error, 0), None, "the last attempt");
        let long = Retry::attempts(u32::MAX);
        assert_eq!(
            long.pause_after(1000, &error, 255),
            Some(Duration::from_secs(30))
        );
    }

    #[test]
    fn the_other_sides_word_on_when_is_a_lower_limit() {
        let mut info = passing();
        info.retry_after_ms = Some(90_000);
        let error = Error::Unavailable(info);
        assert_eq!(
            POLICY.pause_after(1, &error, 0),
            Some(Duration::from_secs(90))
        );
    }

    #[test]
    fn only_what_may_pass_is_tried_again_and_nothing_that_is_final() {
        let always = POLICY.after(|_| true);
        let wrong = Error::Invalid(ErrorInfo::new("orka.invalid", "no such image"));
        assert_eq!(POLICY.pause_after(1, &wrong, 0), None);
        assert!(always.pause_after(1, &wrong, 0).is_some());
        for error in [
            Error::Cancelled(passing()),
            Error::TimedOut(ErrorInfo {
                code: "run.deadline".to_owned(),
                ..passing()
            }),
        ] {
            assert_eq!(always.pause_after(1, &error, 0), None, "{error:?}");
        }
    }
}
