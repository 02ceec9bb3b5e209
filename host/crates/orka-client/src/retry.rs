//! How long to wait before a call is repeated, and how often.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::RetryPolicy;
use crate::patience;

/// The waits of one call: doubling, with jitter, bounded in number and length.
#[derive(Debug)]
pub(crate) struct Backoff {
    policy: RetryPolicy,
    failures: u32,
    /// When the attempt that is being made began.
    began: Instant,
}

impl Backoff {
    pub(crate) fn new(policy: RetryPolicy) -> Self {
        Self {
            policy,
            failures: 0,
            began: Instant::now(),
        }
    }

    /// Number of the attempt that is being made, from 1.
    pub(crate) fn attempt(&self) -> u32 {
        self.failures + 1
    }

    /// Counts a failure; how long to wait before the next attempt, or `None` if there is to be none: also where one that
    /// takes as long as this one did would end after the caller has gone.
    ///
    /// `at_least` is what the server asked for. Builds that failed together must not return together, so the wait
    /// is drawn from the upper half of the range.
    pub(crate) fn next_wait(&mut self, at_least: Option<Duration>) -> Option<Duration> {
        self.failures += 1;
        if self.failures >= self.policy.attempts_max {
            return None;
        }
        let doublings = self.failures.saturating_sub(1).min(16);
        let longest = self
            .policy
            .wait_first
            .saturating_mul(1 << doublings)
            .min(self.policy.wait_max);
        let drawn = longest.mul_f64(rand::random_range(0.5..=1.0));
        let wait = drawn
            .max(at_least.unwrap_or_default())
            .min(self.policy.wait_max);
        let now = Instant::now();
        let took = now.saturating_duration_since(self.began);
        self.began = now.checked_add(wait).unwrap_or(now);
        patience::lasts(wait.saturating_add(took)).then_some(wait)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy(attempts_max: u32) -> RetryPolicy {
        RetryPolicy {
            attempts_max,
            wait_first: Duration::from_secs(1),
            wait_max: Duration::from_secs(30),
        }
    }

    #[test]
    fn doubles_the_wait_with_jitter_and_then_gives_up() {
        let mut backoff = Backoff::new(policy(5));
        for longest in [1.0, 2.0, 4.0, 8.0] {
            let wait = backoff.next_wait(None).unwrap().as_secs_f64();
            assert!(
                (longest / 2.0..=longest).contains(&wait),
                "{wait} of {longest}"
            );
        }
        assert_eq!(backoff.next_wait(None), None);
    }

    #[test]
    fn waits_as_long_as_the_server_asks_but_not_for_ever() {
        let mut backoff = Backoff::new(policy(9));
        assert_eq!(
            backoff.next_wait(Some(Duration::from_secs(17))),
            Some(Duration::from_secs(17))
        );
        assert_eq!(
            backoff.next_wait(Some(Duration::from_secs(86_400))),
            Some(Duration::from_secs(30))
        );
    }

    #[test]
    fn one_attempt_means_no_wait_at_all() {
        assert_eq!(
            Backoff::new(RetryPolicy::NONE).next_wait(Some(Duration::from_secs(1))),
            None
        );
    }

    proptest! {
        #[test]
        fn any_policy_ends_and_never_waits_too_long(
            attempts_max in 0_u32..200, first in 0_u64..u64::MAX, longest in 0_u64..1_000_000,
        ) {
            let wait_max = Duration::from_millis(longest);
            let wait_first = Duration::from_millis(first);
            let mut backoff = Backoff::new(RetryPolicy { attempts_max, wait_first, wait_max });
            let mut waits = 0;
            while let Some(wait) = backoff.next_wait(None) {
                prop_assert!(wait <= wait_max);
                waits += 1;
            }
            prop_assert_eq!(waits, attempts_max.saturating_sub(1));
        }
    }
}
