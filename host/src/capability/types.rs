//! `types`: from a failure to what the guest is told.

use wasmtime::component::Resource;

use crate::bindings::orka::plugin::types::{Error, ErrorInfo, Host};
use crate::console::millis;
use crate::failure::{Failure, Kind};
use crate::state::{BreachError, CallError, HostState};

impl Host for HostState {
    fn convert_error(&mut self, error: CallError) -> wasmtime::Result<Error> {
        match error {
            CallError::Failure(failure) => {
                let masker = self.run.console.masker();
                let message = masker.told(&with_causes(&failure));
                self.run.issued((*failure).clone(), &message);
                Ok(for_guest(&failure, message, |text| masker.mask(text)))
            }
            CallError::Trap(error) => Err(self.trap(error)),
        }
    }
}

impl HostState {
    /// As [`HostState::keep`], for functions of the contract that have no error to return.
    pub(super) fn keep_or_trap<T: Send + 'static>(
        &mut self,
        thing: T,
    ) -> wasmtime::Result<Resource<T>> {
        self.keep(thing).map_err(|error| match error {
            CallError::Trap(error) => self.trap(error),
            CallError::Failure(failure) => wasmtime::Error::msg(failure.message),
        })
    }

    /// Notes a breach that a host function found.
    fn trap(&mut self, error: wasmtime::Error) -> wasmtime::Error {
        match error.downcast::<BreachError>() {
            Ok(BreachError(breach)) => self.limiter.broken(breach),
            Err(error) => error,
        }
    }
}

/// Causes join the message, since the guest has no other way to learn them.
fn with_causes(failure: &Failure) -> String {
    let mut message = failure.message.clone();
    for cause in failure.causes() {
        message.push_str(": ");
        message.push_str(&cause);
    }
    message
}

/// The contract's form of a failure.
fn for_guest(failure: &Failure, message: String, mask: impl Fn(&str) -> String) -> Error {
    let info = ErrorInfo {
        code: failure.code.to_string(),
        message,
        hint: failure.hint.as_deref().map(&mask),
        retryable: failure.retryable,
        retry_after_ms: failure.retry_after.map(millis),
        request_id: None,
        details: failure
            .details
            .iter()
            .map(|(name, value)| (name.clone(), mask(value)))
            .collect(),
    };
    match failure.kind {
        Kind::Invalid => Error::Invalid(info),
        Kind::Denied => Error::Denied(info),
        Kind::NotFound => Error::NotFound(info),
        Kind::Conflict => Error::Conflict(info),
        Kind::NoCapacity => Error::NoCapacity(info),
        Kind::Unauthenticated => Error::Unauthenticated(info),
        Kind::Unavailable => Error::Unavailable(info),
        Kind::TimedOut => Error::TimedOut(info),
        Kind::Cancelled => Error::Cancelled(info),
        Kind::Other => Error::Other(info),
    }
}
