//! What a host call or a part of the run failed with: one type from the clients up to the exit code.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What a caller can do about a failure: the cases of `error` in the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An argument is wrong.
    Invalid,
    /// Not granted.
    Denied,
    /// No such thing, or not of this run.
    NotFound,
    /// The thing's state does not allow it.
    Conflict,
    /// No room, or a limit reached.
    NoCapacity,
    /// Credentials declined.
    Unauthenticated,
    /// The other side cannot be reached or is out of order.
    Unavailable,
    /// The limit of the call passed.
    TimedOut,
    /// The run is being stopped.
    Cancelled,
    /// Anything else.
    Other,
}

/// Whose failure it is: decides outcome and exit code, see [`crate::outcome`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Files, credentials, parameters or grants are wrong.
    Config,
    /// The plugin cannot be loaded, does not fit or is not trusted.
    PluginRejected,
    /// The plugin asked for more than it was granted.
    Denied,
    /// The plugin failed, trapped or broke a limit.
    Plugin,
    /// The Orka API failed.
    Orka,
    /// No node had room within the wait.
    NoCapacity,
    /// The VM could not be reached, logged into, or was lost.
    Ssh,
    /// The workspace or a transfer failed.
    Files,
    /// A program printed nothing for longer than it may.
    Silence,
    /// The run's own deadline.
    Deadline,
    /// SIGINT or SIGTERM.
    Cancelled,
    /// A bug of ours.
    Internal,
}

/// A failure with everything that a policy, a person and the exit code need.
///
/// `Display` gives the message alone; the causes are in [`StdError::source`].
#[derive(Clone, Debug)]
pub struct Failure {
    /// What a caller can do.
    pub kind: Kind,
    /// Whose failure it is.
    pub class: Class,
    /// Stable machine code, dotted.
    pub code: Cow<'static, str>,
    /// One lower-case sentence without a final stop.
    pub message: String,
    /// What to do next: a sentence, and below it what is to be copied into a file, if anything.
    pub hint: Option<String>,
    /// Whether the same may succeed later.
    pub retryable: bool,
    /// How long to wait before that.
    pub retry_after: Option<Duration>,
    /// Whether what was asked for may exist or happen nevertheless.
    pub may_have_happened: bool,
    /// What a failed deployment made all the same, by Orka's id.
    pub made: Option<String>,
    /// Further facts.
    pub details: Vec<(String, String)>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Failure {
    /// A failure that is not retryable and has neither hint nor cause.
    pub fn new(
        kind: Kind,
        class: Class,
        code: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            class,
            code: code.into(),
            message: message.into(),
            hint: None,
            retryable: false,
            retry_after: None,
            may_have_happened: false,
            made: None,
            details: Vec::new(),
            source: None,
        }
    }

    /// Wrong files, credentials, parameters or grants.
    pub fn config(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, Class::Config, "config", message)
    }

    /// A plugin that this host will not start.
    pub fn plugin_rejected(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, Class::PluginRejected, code, message)
    }

    /// A call that this run was not granted.
    pub fn denied(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Kind::Denied, Class::Denied, code, message)
    }

    /// An argument that a plugin got wrong.
    pub fn invalid(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, Class::Plugin, code, message)
    }

    /// Trouble with the workspace, the results directory or a transfer.
    pub fn files(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Kind::Other, Class::Files, code, message)
    }

    /// A bug of ours.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Kind::Other, Class::Internal, "internal", message)
            .with_hint("this is a bug in orka-step; please report it with the log")
    }

    /// The run is being stopped.
    pub fn cancelled() -> Self {
        Self::new(
            Kind::Cancelled,
            Class::Cancelled,
            "run.cancelled",
            "the run is being stopped",
        )
    }

    /// The run's own deadline has passed.
    pub fn deadline() -> Self {
        Self::new(
            Kind::TimedOut,
            Class::Deadline,
            "run.deadline",
            "the run's own deadline has passed",
        )
        .with_hint("raise `--timeout`, and the TaskRun's timeout above it")
    }

    /// Adds what to do next.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same failure in other words, which stand for the causes as well.
    #[must_use]
    pub fn reworded(mut self, message: &str) -> Self {
        self.message = message.to_owned();
        self.source = None;
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// Says that the same may succeed later.
    #[must_use]
    pub fn retryable(mut self, retryable: bool) -> Self {
        self.retryable = retryable;
        self
    }

    /// Adds a fact.
    #[must_use]
    pub fn with_detail(mut self, name: &str, value: impl Into<String>) -> Self {
        self.details.push((name.to_owned(), value.into()));
        self
    }

    /// The causes, outermost first, without those that only repeat what was said already.
    pub fn causes(&self) -> Vec<String> {
        let mut said = self.message.clone();
        let mut causes = Vec::new();
        let mut next = self.source();
        while let Some(error) = next {
            let text = error.to_string();
            if !said.contains(&text) {
                said = text.clone();
                causes.push(text);
            }
            next = error.source();
        }
        causes
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Failure {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source
            .as_deref()
            .map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_leave_out_what_was_said() {
        let inner = std::io::Error::other("connection refused");
        let failure = Failure::config("cannot reach it: connection refused").with_source(inner);
        assert!(failure.causes().is_empty());
        let failure = Failure::config("cannot reach it")
            .with_source(std::io::Error::other("connection refused"));
        assert_eq!(failure.causes(), ["connection refused"]);
    }
}
