//! From a program's exit to the run's verdict.

use std::fmt;

use crate::{Exit, Verdict};

impl Exit {
    /// Whether the program ended by itself with status 0.
    pub fn success(&self) -> bool {
        matches!(self, Self::Status(0))
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "exited with status {status}"),
            Self::Signal(signal) => write!(f, "was ended by SIG{}", signal.name),
        }
    }
}

impl From<Exit> for Verdict {
    /// Status 0 is success; anything else is a failed build, passed on unchanged.
    fn from(exit: Exit) -> Self {
        if exit.success() {
            Self::Succeeded
        } else {
            Self::BuildFailed(exit)
        }
    }
}
