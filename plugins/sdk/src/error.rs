//! Making and enriching errors.

use crate::{Error, ErrorInfo};

impl ErrorInfo {
    /// An error of the plugin's own: `code` is stable and dotted, `message` one lower-case sentence.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            hint: None,
            retryable: false,
            retry_after_ms: None,
            request_id: None,
            details: Vec::new(),
        }
    }

    /// Adds what the reader should do next.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl Error {
    /// An [`Error::Invalid`] for a parameter whose value the policy cannot use.
    ///
    /// Returned before anything was deployed, the step ends with the exit code for wrong configuration.
    pub fn parameter(name: &str, problem: impl AsRef<str>) -> Self {
        Self::Invalid(ErrorInfo::new(
            "params.invalid",
            format!("parameter `{name}` {}", problem.as_ref()),
        ))
    }

    /// What the error says, whatever its case.
    pub fn info(&self) -> &ErrorInfo {
        match self {
            Self::Invalid(info)
            | Self::Denied(info)
            | Self::NotFound(info)
            | Self::Conflict(info)
            | Self::NoCapacity(info)
            | Self::Unauthenticated(info)
            | Self::Unavailable(info)
            | Self::TimedOut(info)
            | Self::Cancelled(info)
            | Self::Other(info) => info,
        }
    }

    fn info_mut(&mut self) -> &mut ErrorInfo {
        match self {
            Self::Invalid(info)
            | Self::Denied(info)
            | Self::NotFound(info)
            | Self::Conflict(info)
            | Self::NoCapacity(info)
            | Self::Unauthenticated(info)
            | Self::Unavailable(info)
            | Self::TimedOut(info)
            | Self::Cancelled(info)
            | Self::Other(info) => info,
        }
    }

    /// Says what to do next in place of what was said; the step's last lines say it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.info_mut().hint = Some(hint.into());
        self
    }

    /// Adds a further fact.
    #[must_use]
    pub fn with_detail(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let detail = (name.into(), value.into());
        self.info_mut().details.push(detail);
        self
    }

    /// A detail by its name, where the error has it.
    pub fn detail(&self, name: &str) -> Option<&str> {
        let details = self.info().details.iter();
        let mut named = details.filter(|(other, _)| other == name);
        named.next().map(|(_, value)| value.as_str())
    }

    /// The stable machine code.
    pub fn code(&self) -> &str {
        &self.info().code
    }

    /// Puts what was being done in front of the message; the code, and so the step's outcome, stays.
    #[must_use]
    pub fn context(mut self, doing: &str) -> Self {
        let info = self.info_mut();
        info.message = format!("{doing}: {}", info.message);
        self
    }

    /// Whether the run is being stopped, so that going on makes no sense.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Cancelled(_)) || self.code() == "run.deadline"
    }
}

/// Adds [`Error::context`] to results.
pub trait ErrorContext<T> {
    /// Puts what was being done in front of an error's message.
    ///
    /// # Errors
    ///
    /// The error itself, with a longer message.
    fn context(self, doing: &str) -> Result<T, Error>;
}

impl<T> ErrorContext<T> for Result<T, Error> {
    fn context(self, doing: &str) -> Result<T, Error> {
        self.map_err(|error| error.context(doing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_keeps_the_code_and_the_case() {
        let error = Error::NoCapacity(ErrorInfo::new("orka.no-capacity", "no node has room"))
            .context("deploying");
        assert!(matches!(error, Error::NoCapacity(_)));
        assert_eq!(error.code(), "orka.no-capacity");
        assert_eq!(error.info().message, "deploying: no node has room");
    }

    #[test]
    fn a_parameter_error_names_the_parameter() {
        let error = Error::parameter("env", "needs NAME=VALUE");
        assert_eq!(error.info().message, "parameter `env` needs NAME=VALUE");
    }
}
