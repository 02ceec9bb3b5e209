//! Notices a program that prints nothing any more: a hung simulator, a prompt that nobody answers.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::console::seconds;
use crate::failure::{Class, Failure, Kind};

/// What a program gets between SIGTERM and SIGKILL.
const POLITE: Duration = Duration::from_secs(10);

/// How long a sign of life is waited for, at least. A VM that keeps the connection and does nothing else is as silent as its
/// program.
const SIGN_MIN: Duration = Duration::from_secs(120);

/// What a sign of life gets beyond the time in which a dead connection is noticed.
const BEYOND_LOSS: Duration = Duration::from_secs(30);

/// How long the end of a program is waited for that was sent SIGKILL.
const LAST: Duration = Duration::from_secs(3);

/// A century: longer than any run, and far from where time overflows.
const LIMIT_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// What is to be done about a silent program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Ask for a sign of life, and say so with [`Silence::heard`] when it comes.
    Doubt,
    /// Send it this signal.
    Ask(&'static str),
    /// Wait for it no longer.
    GiveUp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Listening,
    /// The program prints nothing, or the connection is dead and that was not noticed.
    Doubting,
    Asked,
    Killed,
}

/// How long a program has printed nothing, and what follows from that.
#[derive(Debug)]
pub(super) struct Silence {
    limit: Option<Duration>,
    /// How long a sign of life is waited for.
    sign_max: Duration,
    stage: Stage,
    /// When the next step is due; never while nothing can be heard.
    due: Option<Instant>,
}

impl Silence {
    /// Counts from now on. `loss_after` is how long it may take to notice that the connection is dead.
    ///
    /// # Errors
    ///
    /// `invalid` if no silence at all is allowed.
    pub(super) fn after(limit_ms: Option<u64>, loss_after: Duration) -> Result<Self, Failure> {
        if limit_ms == Some(0) {
            return Err(Failure::invalid(
                "command.silence-timeout",
                "no program prints all the time: `silence-timeout-ms` is 0",
            )
            .with_hint("leave it out where silence does not matter"));
        }
        let limit = limit_ms.map(|limit| Duration::from_millis(limit).min(LIMIT_MAX));
        Ok(Self {
            limit,
            sign_max: SIGN_MIN.max(loss_after.saturating_add(BEYOND_LOSS).min(LIMIT_MAX)),
            stage: Stage::Listening,
            due: limit.map(|limit| Instant::now() + limit),
        })
    }

    /// Returns when something is to be done.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub(super) async fn passes(&mut self) -> Step {
        match self.due {
            Some(due) => sleep_until(due).await,
            None => std::future::pending().await,
        }
        let (step, stage, due) = match self.stage {
            Stage::Listening => (Step::Doubt, Stage::Doubting, self.sign_max),
            Stage::Doubting => (Step::Ask("TERM"), Stage::Asked, POLITE),
            Stage::Asked => (Step::Ask("KILL"), Stage::Killed, LAST),
            Stage::Killed => (Step::GiveUp, Stage::Killed, LAST),
        };
        self.stage = stage;
        self.due = Some(Instant::now() + due);
        step
    }

    /// It printed something, or can be heard again. What was asked to stop stays asked.
    pub(super) fn broken(&mut self) {
        if !self.is_over() {
            self.stage = Stage::Listening;
            self.due = self.limit.map(|limit| Instant::now() + limit);
        }
    }

    /// The VM is there, and the program has printed nothing.
    pub(super) fn heard(&mut self) {
        if self.stage == Stage::Doubting {
            self.due = Some(Instant::now());
        }
    }

    /// It cannot be heard: nothing counts until [`Self::broken`].
    pub(super) fn suspend(&mut self) {
        if !self.is_over() {
            self.stage = Stage::Listening;
            self.due = None;
        }
    }

    /// Whether it was silent for too long.
    pub(super) fn is_over(&self) -> bool {
        !matches!(self.stage, Stage::Listening | Stage::Doubting)
    }

    /// What is wrong.
    pub(super) fn message(&self) -> String {
        let limit = seconds(self.limit.unwrap_or_default());
        format!("the program has printed nothing for {limit} (`silence-timeout`)")
    }

    /// What `wait` says.
    pub(super) fn failure(&self) -> Failure {
        let message = format!("{} and was stopped", self.message());
        Failure::new(Kind::TimedOut, Class::Silence, "command.silent", message).with_hint(
            "raise `silence-timeout`, or let the script print something now and then; what waits for an answer that nobody gives \
             has to be told not to ask",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOSS_AFTER: Duration = Duration::from_secs(60);

    /// The next step, and how many milliseconds it took.
    async fn next(silence: &mut Silence) -> (Step, u128) {
        let began = Instant::now();
        (silence.passes().await, began.elapsed().as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_program_is_asked_killed_and_then_given_up() {
        let mut silence = Silence::after(Some(60_000), LOSS_AFTER).unwrap();
        assert!(!silence.is_over());
        assert_eq!(next(&mut silence).await, (Step::Doubt, 60_000));
        assert!(!silence.is_over());
        silence.heard();
        assert_eq!(next(&mut silence).await, (Step::Ask("TERM"), 0));
        assert!(silence.is_over());
        silence.broken();
        silence.suspend();
        assert_eq!(next(&mut silence).await, (Step::Ask("KILL"), 10_000));
        assert_eq!(next(&mut silence).await, (Step::GiveUp, 3_000));
        let failure = silence.failure();
        assert_eq!(
            (failure.code.as_ref(), failure.class),
            ("command.silent", Class::Silence)
        );
        assert!(
            failure.message.contains("1 min 00 s")
                && failure.hint.unwrap().contains("`silence-timeout`")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn output_begins_the_count_anew_and_a_lost_connection_stops_it() {
        let mut silence = Silence::after(Some(1_000), LOSS_AFTER).unwrap();
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(900)).await;
            silence.broken();
        }
        silence.suspend();
        let long = tokio::time::timeout(Duration::from_secs(3600), silence.passes());
        assert!(long.await.is_err(), "nothing can be heard");
        silence.broken();
        assert_eq!(next(&mut silence).await, (Step::Doubt, 1_000));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_dead_unnoticed_is_no_silence() {
        let mut silence = Silence::after(Some(45_000), LOSS_AFTER).unwrap();
        assert_eq!(next(&mut silence).await, (Step::Doubt, 45_000));
        // The connection's own patience is over first.
        let sign = tokio::time::timeout(Duration::from_secs(60), silence.passes());
        assert!(sign.await.is_err());
        silence.suspend();
        silence.heard();
        let sign = tokio::time::timeout(Duration::from_secs(3600), silence.passes());
        assert!(sign.await.is_err());
        silence.broken();
        assert_eq!(next(&mut silence).await, (Step::Doubt, 45_000));
        // Nor does it end on a VM that keeps the connection and never answers.
        assert_eq!(next(&mut silence).await, (Step::Ask("TERM"), 120_000));
    }

    #[tokio::test(start_paused = true)]
    async fn a_keepalive_of_any_length_is_waited_for_before_a_dead_connection_counts_as_silence() {
        for (loss_after, waited) in [(90, 120_000), (91, 121_000), (600, 630_000)] {
            let loss_after = Duration::from_secs(loss_after);
            let mut silence = Silence::after(Some(1_000), loss_after).unwrap();
            assert_eq!(next(&mut silence).await, (Step::Doubt, 1_000));
            assert_eq!(next(&mut silence).await, (Step::Ask("TERM"), waited));
        }
        let mut silence = Silence::after(Some(1_000), Duration::MAX).unwrap();
        assert_eq!(next(&mut silence).await, (Step::Doubt, 1_000));
        let long = tokio::time::timeout(Duration::from_secs(1 << 30), silence.passes());
        assert!(long.await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn output_that_was_on_its_way_ends_the_doubt() {
        let mut silence = Silence::after(Some(1_000), LOSS_AFTER).unwrap();
        assert_eq!(next(&mut silence).await, (Step::Doubt, 1_000));
        silence.broken();
        silence.heard();
        assert_eq!(next(&mut silence).await, (Step::Doubt, 1_000));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nothing_ever_happens_and_an_endless_one_does_no_harm() {
        for limit in [None, Some(u64::MAX)] {
            let mut silence = Silence::after(limit, LOSS_AFTER).unwrap();
            silence.broken();
            let long = tokio::time::timeout(Duration::from_secs(1 << 30), silence.passes());
            assert!(long.await.is_err());
        }
        assert_eq!(
            Silence::after(Some(0), LOSS_AFTER).unwrap_err().code,
            "command.silence-timeout"
        );
    }
}
