//! When things happen in a replay.

use std::time::Duration;

use tokio::time::Instant;

use crate::session::{Exchange, ProgramEnd, Session};

/// When things happen. The run's own time is that of the session, so that what it sleeps through is what it slept through
/// then; and nothing comes before a stop that came after it, or the other way round, in the same millisecond.
pub(super) struct Times {
    started: Instant,
    /// When the run is stopped or its deadline passes.
    over: Instant,
}

/// By so much what a stop brought about is later than the stop, and what was before it is earlier: the shortest time that
/// the clock of the runtime tells apart.
const APART: Duration = Duration::from_millis(1);

impl Times {
    pub(super) fn of(session: &Session) -> Self {
        let started = Instant::now();
        let given = &session.given;
        let stopped = given.stopped.as_ref().map(|stopped| stopped.after_ms);
        let over = stopped.map_or(given.timeout_ms, |after| after.min(given.timeout_ms));
        Self {
            started,
            over: started + Duration::from_millis(over),
        }
    }

    /// Whether the stop has not taken effect yet.
    pub(super) fn is_before_the_stop(&self) -> bool {
        Instant::now() < self.over + APART
    }

    fn at(&self, ms: u64) -> Instant {
        self.started + Duration::from_millis(ms)
    }

    /// When something ends that ended then, after the stop or before it.
    fn end(&self, then: Instant, after_stop: bool) -> Instant {
        if after_stop {
            then.max(self.over + APART)
        } else {
            self.before(then)
        }
    }

    /// No later than the stop, for what came before it.
    fn before(&self, then: Instant) -> Instant {
        self.over
            .checked_sub(APART)
            .map_or(then, |last| then.min(last))
    }

    /// When a call that is made now begins, no sooner than it did, and when it ends: it takes as long as it did, up to the
    /// stop. A session of an older form does not say when it began.
    pub(super) fn of_call(&self, call: &Exchange, now: Instant) -> (Instant, Instant) {
        let took = Duration::from_millis(call.took_ms);
        let Some(at) = call.at_ms else {
            return (now, now + took);
        };
        let began = now.max(self.at(at));
        let ended = self.end(began + took, call.after_stop);
        (began.min(ended), ended)
    }

    /// When the program ends that this call started when it began then.
    pub(super) fn of_program(&self, call: &Exchange, began: Instant, end: &ProgramEnd) -> Instant {
        let then = began + Duration::from_millis(end.after_ms);
        match call.at_ms {
            None => then,
            Some(_) => self.end(then, end.after_stop),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tape::tests::session;
    use super::*;
    use crate::session::StoppedRecord;

    #[tokio::test(start_paused = true)]
    async fn what_a_stop_brought_about_waits_for_it_and_what_came_before_does_not() {
        let stopped = StoppedRecord {
            after_ms: 100,
            signal: "SIGTERM".to_owned(),
        };
        let mut session_of_a_stop = session(Vec::new(), 3_600_000);
        session_of_a_stop.given.stopped = Some(stopped);
        let times = Times::of(&session_of_a_stop);
        let after = |moment: Instant| moment.duration_since(times.started).as_millis();
        // When the call began, how long it took, whether it ended after the stop, when it does in the replay.
        for (at_ms, took_ms, after_stop, wanted) in [
            (40, 50, false, (40, 90)),
            (40, 60, false, (40, 99)),
            (100, 0, false, (99, 99)),
            (40, 60, true, (40, 101)),
            (100, 0, true, (100, 101)),
            (40, 90, true, (40, 130)),
            (120, 10, true, (120, 130)),
        ] {
            let call = Exchange {
                at_ms: Some(at_ms),
                took_ms,
                after_stop,
                ..Exchange::default()
            };
            let (began, ended) = times.of_call(&call, times.started);
            assert_eq!((after(began), after(ended)), wanted, "{call:?}");
            let end = ProgramEnd {
                after_ms: took_ms,
                after_stop,
                ..ProgramEnd::default()
            };
            let ended = times.of_program(&call, times.at(at_ms), &end);
            assert_eq!(after(ended), wanted.1, "{end:?}");
        }
        // What is made later than then takes as long as it did, up to the stop.
        for (now_ms, after_stop, wanted) in [
            (30, false, (40, 60)),
            (50, false, (50, 70)),
            (90, false, (90, 99)),
            (90, true, (90, 110)),
            (120, false, (99, 99)),
        ] {
            let call = Exchange {
                at_ms: Some(40),
                took_ms: 20,
                after_stop,
                ..Exchange::default()
            };
            let (began, ended) = times.of_call(&call, times.at(now_ms));
            assert_eq!((after(began), after(ended)), wanted, "{now_ms} {call:?}");
            let end = ProgramEnd {
                after_ms: 20,
                after_stop,
                ..ProgramEnd::default()
            };
            let ended = times.of_program(&call, began, &end);
            assert_eq!(after(ended), wanted.1, "{now_ms} {end:?}");
        }
        // Without the moment of its beginning a call takes as long as it did, whenever it is made.
        let old = Exchange {
            took_ms: 500,
            ..Exchange::default()
        };
        let (began, ended) = times.of_call(&old, times.started);
        assert_eq!((after(began), after(ended)), (0, 500));
        let deadline = Times::of(&session(Vec::new(), 70));
        assert_eq!(
            deadline.over.duration_since(deadline.started).as_millis(),
            70
        );
    }
}
