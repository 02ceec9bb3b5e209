//! The recorded calls of a session, each to be taken once.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use serde_json::Value;
use tokio::time::{Instant, sleep_until};

use super::times::Times;
use crate::failure::{Class, Failure, Kind};
use crate::session::{Exchange, FORMAT_WITH_TIDYING, FileRecord, Names, Session, Tidying, Witness};

#[derive(Default)]
pub(super) struct TapeState {
    /// Recorded calls, without those that were made again.
    pub(super) left: Vec<Option<Exchange>>,
    /// Calls that were made, as lines.
    pub(super) made: Vec<String>,
    pub(super) extras: usize,
    /// Whether a call waits for the stop that the run had not come to.
    has_one_beyond: bool,
    pub(super) names: Names,
}

impl TapeState {
    /// Whether all is made that the run had come to when it was stopped.
    fn is_where_the_stop_came(&self) -> bool {
        let came_later = |call: &Exchange| call.after_stop || call.unended;
        self.left.iter().flatten().all(came_later)
    }
}

/// The recorded calls, each to be taken once.
pub(super) struct Tape {
    state: Mutex<TapeState>,
    pub(super) times: Times,
    /// Whether the run was stopped while none of its calls was under way.
    between_calls: bool,
    pub(super) files: BTreeMap<String, FileRecord>,
    /// Whether what the plugin tidied up was recorded as well.
    has_tidying: bool,
}

impl Tape {
    pub(super) fn of(session: &Session) -> Self {
        Self {
            state: Mutex::new(TapeState {
                left: session.calls.iter().cloned().map(Some).collect(),
                ..TapeState::default()
            }),
            times: Times::of(session),
            // Sessions of an older form do not say so: a difference too many is better than one too few.
            between_calls: session.ended.between_calls,
            files: session.given.workspace.clone().unwrap_or_default(),
            has_tidying: session.session >= FORMAT_WITH_TIDYING,
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, TapeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a call that was not recorded is the one that the run would have made next when it was stopped.
    ///
    /// Only recorded calls take time in a replay, so that a run that was stopped on its way from one to the next, computing
    /// or in a call that is not recorded, gets to the next one before the stop. Which that was nobody knows: the host had
    /// refused it before it came to a backend. It is no difference then, but it is one call, since a guest makes one at a
    /// time; and it comes after all that the run had come to. Any other one differs from the session.
    fn is_beyond_the_stop(&self, state: &TapeState) -> bool {
        self.between_calls
            && self.times.is_before_the_stop()
            && !state.has_one_beyond
            && state.is_where_the_stop_came()
    }

    /// The first recorded call that asked for the same and was not made yet, once it has ended as it did then. One that
    /// the stopped run had not come to ends with the stop.
    pub(super) async fn take(&self, call: &str, asked: Value) -> Result<Exchange, Failure> {
        self.take_begun(call, asked).await.map(|(_, found)| found)
    }

    /// As [`Tape::take`], with when the call began.
    pub(super) async fn take_begun(
        &self,
        call: &str,
        mut asked: Value,
    ) -> Result<(Instant, Exchange), Failure> {
        let found = {
            let mut state = self.state();
            state.names.clean(&mut asked);
            let line = Exchange {
                call: call.to_owned(),
                asked: asked.clone(),
                ..Exchange::default()
            }
            .line();
            let fits = |left: &Option<Exchange>| {
                left.as_ref()
                    .is_some_and(|left| left.call == call && left.asked == asked)
            };
            let position = state.left.iter().position(fits);
            let exchange = position.and_then(|position| state.left[position].take());
            let is_beyond = exchange.is_none() && self.is_beyond_the_stop(&state);
            if is_beyond {
                state.has_one_beyond = true;
            } else {
                state.made.push(line.clone());
            }
            match exchange {
                Some(exchange) => Some(exchange),
                None if is_beyond => None,
                None => {
                    state.extras += 1;
                    let message = format!("the session has no such call (any more): {line}");
                    return Err(Failure::new(
                        Kind::Other,
                        Class::Internal,
                        "replay.unexpected",
                        message,
                    ));
                }
            }
        };
        let Some(found) = found.filter(|found| !found.unended) else {
            // What cut it off does so again.
            return std::future::pending().await;
        };
        let (began, ended) = self.times.of_call(&found, Instant::now());
        sleep_until(ended).await;
        match &found.failure {
            Some(failure) => Err(failure.failure()),
            None => Ok((began, found)),
        }
    }
}

#[async_trait]
impl Witness for Tape {
    fn read(&self, _path: &str, _contents: &[u8]) {}

    async fn tidies(&self, what: Tidying<'_>) -> Result<usize, Failure> {
        if self.has_tidying {
            if let Some(name) = what.name() {
                self.state().names.add(name);
            }
            self.take(what.call(), what.asked()).await?;
        }
        Ok(0)
    }

    fn tidied(&self, _number: usize, _failure: Option<&Failure>) {}

    fn plugin_ended(&self) {}
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::session::StoppedRecord;

    pub(in super::super) fn session(calls: Vec<Exchange>, timeout_ms: u64) -> Session {
        let rest = serde_json::json!({
            "session": crate::session::FORMAT,
            "recorded-by": "a test",
            "began": "2026-01-01T00:00:00Z",
            "plugin": { "name": "a", "version": "1.0.0", "digest": "" },
            "given": { "timeout-ms": timeout_ms },
            "calls": [],
            "ended": { "outcome": "succeeded", "exit-code": 0 },
        });
        Session {
            calls,
            ..serde_json::from_value(rest).unwrap()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_call_that_a_run_stopped_between_two_would_have_made_next_waits_for_the_stop()
    {
        let call = |name: &str, after_stop| Exchange {
            call: name.to_owned(),
            at_ms: Some(10),
            took_ms: 10,
            after_stop,
            ..Exchange::default()
        };
        // Whether calls that are not in the session wait, and how many count as extras.
        let made_early = async |between_calls: bool, has_made_images: bool| {
            let calls = vec![call("images", false), call("purge-run", true)];
            let mut session = session(calls, 3_600_000);
            session.given.stopped = Some(StoppedRecord {
                after_ms: 50,
                signal: "SIGTERM".to_owned(),
            });
            session.ended.between_calls = between_calls;
            let tape = Tape::of(&session);
            if has_made_images {
                tape.take("images", Value::Null).await.unwrap();
            }
            let mut waits = [false; 2];
            for waits in &mut waits {
                let nodes = tape.take("nodes", Value::Null);
                let early = tokio::time::timeout(Duration::from_millis(5), nodes);
                *waits = early.await.is_err();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            let late = tape.take("nodes", Value::Null).await;
            assert!(late.is_err(), "the run is over");
            (waits, tape.state().extras)
        };
        assert_eq!(made_early(true, true).await, ([true, false], 2));
        assert_eq!(made_early(true, false).await, ([false, false], 3));
        assert_eq!(made_early(false, true).await, ([false, false], 3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_a_stop_cut_off_does_not_end_when_it_is_played_again() {
        let call = |unended| Exchange {
            call: "purge-run".to_owned(),
            took_ms: 1,
            unended,
            ..Exchange::default()
        };
        let tape = Tape::of(&session(vec![call(false), call(true)], 3_600_000));
        tape.tidies(Tidying::PurgeRun).await.unwrap();
        let cut_off = tape.tidies(Tidying::PurgeRun);
        let ended = tokio::time::timeout(Duration::from_secs(3600), cut_off).await;
        assert!(ended.is_err());
        // It was made all the same.
        assert!(tape.state().left.iter().all(Option::is_none));
        assert_eq!(tape.state().extras, 0);
    }
}
