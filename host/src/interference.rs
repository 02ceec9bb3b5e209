//! What a test does to a run's host calls: notes them, and makes one of them fail.
//!
//! Production has none: without one, every call does its work and nothing else.

use std::sync::{Mutex, PoisonError};

use crate::failure::Failure;
use crate::outcome::StopSignal;
use crate::state::Stop;

/// What happens at one host call.
#[derive(Clone, Debug)]
pub enum Strike {
    /// It fails without doing its work.
    Refuse(Failure),
    /// It does its work, and then fails.
    Lose(Failure),
    /// The run is stopped as it begins.
    Stop(StopSignal),
}

/// Notes a run's host calls, and strikes at one of them.
#[derive(Debug, Default)]
pub struct Interference {
    strike: Option<(u64, Strike)>,
    seen: Mutex<Vec<(u64, &'static str)>>,
}

impl Interference {
    /// Strikes at the host call of this number, the first being 1.
    pub fn at(number: u64, strike: Strike) -> Self {
        Self {
            strike: Some((number, strike)),
            seen: Mutex::default(),
        }
    }

    /// The calls that were made, with their numbers. Calls that cannot fail, such as a line of the log, count and are not
    /// among them.
    pub fn seen(&self) -> Vec<(u64, &'static str)> {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// As a call begins: the failure that it is to end with instead.
    pub(crate) fn begins(
        &self,
        number: u64,
        function: &'static str,
        stop: &Stop,
    ) -> Option<Failure> {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((number, function));
        match &self.strike {
            Some((at, Strike::Refuse(failure))) if *at == number => Some(failure.clone()),
            Some((at, Strike::Stop(signal))) if *at == number => {
                stop.stop(*signal);
                None
            }
            _ => None,
        }
    }

    /// As a call has done its work: the failure that it is to end with instead of a success.
    pub(crate) fn ends(&self, number: u64) -> Option<Failure> {
        match &self.strike {
            Some((at, Strike::Lose(failure))) if *at == number => Some(failure.clone()),
            _ => None,
        }
    }
}
