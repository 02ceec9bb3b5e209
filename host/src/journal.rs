//! The last host calls of a run, for the message that explains a trap, and all of them in numbers.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::failure::Failure;

/// So many calls say what a plugin was about; more would bury it.
const CALLS_KEPT: usize = 16;

/// How a host call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It succeeded.
    Succeeded,
    /// It failed with this code.
    Failed(String),
    /// It did not take place, and the guest was stopped at it.
    Refused,
}

impl End {
    /// Of a call with this result.
    pub fn of<T>(result: &Result<T, Failure>) -> Self {
        match result {
            Ok(_) => Self::Succeeded,
            Err(failure) => Self::Failed(failure.code.to_string()),
        }
    }
}

/// One host call.
#[derive(Clone, Debug)]
pub struct Call {
    /// Interface and function, such as `cluster.deploy`.
    pub function: &'static str,
    /// How long it took, in milliseconds.
    pub elapsed_ms: u64,
    /// How it ended.
    pub end: End,
}

#[derive(Debug, Default)]
struct State {
    calls: VecDeque<Call>,
    current: Option<&'static str>,
    count: u64,
}

/// The last host calls. A guest makes one at a time.
#[derive(Debug, Default)]
pub struct Journal(Mutex<State>);

impl Journal {
    /// Notes that a call begins and gives the number of calls so far.
    pub fn begin(&self, function: &'static str) -> u64 {
        let mut state = self.state();
        state.current = Some(function);
        state.count += 1;
        state.count
    }

    /// Counts a call that says nothing about what a plugin was about, such as a line of its log, and gives the number of
    /// calls so far.
    pub fn count_in(&self) -> u64 {
        let mut state = self.state();
        state.count += 1;
        state.count
    }

    /// Notes how the call ended.
    pub fn end(&self, function: &'static str, elapsed: Duration, end: End) {
        let mut state = self.state();
        state.current = None;
        if state.calls.len() == CALLS_KEPT {
            state.calls.pop_front();
        }
        state.calls.push_back(Call {
            function,
            elapsed_ms: crate::console::millis(elapsed),
            end,
        });
    }

    /// Notes that the call did not take place: the guest may make no more.
    pub fn refuse(&self, function: &'static str) {
        self.end(function, Duration::ZERO, End::Refused);
    }

    /// The last calls, oldest first.
    pub fn last(&self) -> Vec<Call> {
        self.state().calls.iter().cloned().collect()
    }

    /// The call that has begun and not ended.
    pub fn current(&self) -> Option<&'static str> {
        self.state().current
    }

    /// Calls in all.
    pub fn count(&self) -> u64 {
        self.state().count
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
