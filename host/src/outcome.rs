//! How a run ends: outcomes and exit codes, both part of the contract with Tasks.

use std::fmt;

use serde::Serialize;

use crate::bindings::orka::plugin::types::Exit;
use crate::failure::Class;

/// The command line itself is wrong; nothing was read or started.
pub const EXIT_USAGE: u8 = 2;
/// SIGINT stopped the run.
pub const EXIT_INTERRUPTED: u8 = 130;
/// SIGTERM stopped the run.
pub const EXIT_TERMINATED: u8 = 143;
/// A bug of ours.
pub const EXIT_INTERNAL: u8 = 210;
/// Files, credentials, parameters or grants are wrong; nothing was deployed.
pub const EXIT_CONFIG: u8 = 211;
/// The plugin cannot be loaded, does not fit, is not trusted, or asks for more than it was granted.
pub const EXIT_PLUGIN_REJECTED: u8 = 212;
/// The plugin failed, trapped or broke a limit.
pub const EXIT_PLUGIN_FAILED: u8 = 213;
/// The Orka API failed.
pub const EXIT_ORKA: u8 = 214;
/// No node had room within the wait.
pub const EXIT_NO_CAPACITY: u8 = 215;
/// The VM could not be reached, logged into, or was lost.
pub const EXIT_SSH: u8 = 216;
/// The workspace or a transfer failed.
pub const EXIT_FILES: u8 = 217;
/// The run's own deadline, or a program that printed nothing for too long.
pub const EXIT_TIMED_OUT: u8 = 218;
/// The run was otherwise fine, but something it made may still exist.
pub const EXIT_LEFTOVERS: u8 = 219;

/// A remote program's status above this does not fit into an exit code.
const STATUS_MAX: u32 = 255;

/// The result `outcome`.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The script ran and the policy is content.
    Succeeded,
    /// The script ran and failed.
    BuildFailed,
    /// Orka, SSH, files or configuration failed; the build is not to blame.
    InfraFailed,
    /// The plugin could not be loaded, failed, trapped or broke a limit.
    PluginFailed,
    /// The plugin asked for more than it was granted.
    Denied,
    /// No node had room.
    NoCapacity,
    /// The run's own deadline passed, or a program printed nothing for too long.
    TimedOut,
    /// SIGINT or SIGTERM.
    Cancelled,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Succeeded => "succeeded",
            Self::BuildFailed => "build-failed",
            Self::InfraFailed => "infra-failed",
            Self::PluginFailed => "plugin-failed",
            Self::Denied => "denied",
            Self::NoCapacity => "no-capacity",
            Self::TimedOut => "timed-out",
            Self::Cancelled => "cancelled",
        })
    }
}

/// Which signal stopped a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopSignal {
    /// SIGINT.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

impl StopSignal {
    /// 128 plus the signal's number.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Interrupt => EXIT_INTERRUPTED,
            Self::Terminate => EXIT_TERMINATED,
        }
    }

    /// The signal's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        }
    }
}

/// Outcome and exit code of a failure of this class.
pub fn of_class(class: Class) -> (Outcome, u8) {
    match class {
        Class::Config => (Outcome::InfraFailed, EXIT_CONFIG),
        Class::PluginRejected => (Outcome::PluginFailed, EXIT_PLUGIN_REJECTED),
        Class::Denied => (Outcome::Denied, EXIT_PLUGIN_REJECTED),
        Class::Plugin => (Outcome::PluginFailed, EXIT_PLUGIN_FAILED),
        Class::Orka => (Outcome::InfraFailed, EXIT_ORKA),
        Class::NoCapacity => (Outcome::NoCapacity, EXIT_NO_CAPACITY),
        Class::Ssh => (Outcome::InfraFailed, EXIT_SSH),
        Class::Files => (Outcome::InfraFailed, EXIT_FILES),
        Class::Silence => (Outcome::TimedOut, EXIT_TIMED_OUT),
        Class::Deadline => (Outcome::TimedOut, EXIT_TIMED_OUT),
        Class::Cancelled => (Outcome::Cancelled, EXIT_TERMINATED),
        Class::Internal => (Outcome::InfraFailed, EXIT_INTERNAL),
    }
}

/// The exit code for a remote program's status: itself, or 255 where it does not fit.
pub fn of_status(status: u32) -> u8 {
    u8::try_from(status.min(STATUS_MAX)).unwrap_or(u8::MAX)
}

/// The exit code for a remote program that a signal ended: 128 plus the signal's number, as shells do.
///
/// RFC 4254 section 6.10 names signals without numbers; the numbers are those of macOS. An unknown name gives 128.
pub fn of_signal(name: &str) -> u8 {
    let number = match name {
        "HUP" => 1,
        "INT" => 2,
        "QUIT" => 3,
        "ILL" => 4,
        "TRAP" => 5,
        "ABRT" => 6,
        "FPE" => 8,
        "KILL" => 9,
        "BUS" => 10,
        "SEGV" => 11,
        "SYS" => 12,
        "PIPE" => 13,
        "ALRM" => 14,
        "TERM" => 15,
        "XCPU" => 24,
        "XFSZ" => 25,
        "USR1" => 30,
        "USR2" => 31,
        _ => 0,
    };
    128 + number
}

/// The result `exit-status`: a program's own status; for a signal 128 plus its number, as shells do.
pub fn status_of(exit: &Exit) -> u32 {
    match exit {
        Exit::Status(status) => *status,
        Exit::Signal(signal) => u32::from(of_signal(&signal.name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_passes_unchanged_and_a_large_one_stays_a_failure() {
        assert_eq!(of_status(0), 0);
        assert_eq!(of_status(65), 65);
        assert_eq!(of_status(255), 255);
        assert_eq!(of_status(256), 255);
        assert_eq!(of_status(u32::MAX), 255);
    }

    #[test]
    fn signals_count_from_128() {
        assert_eq!(of_signal("KILL"), 137);
        assert_eq!(of_signal("TERM"), 143);
        assert_eq!(of_signal("no-such"), 128);
    }

    #[test]
    fn outcomes_print_as_they_serialise() {
        for outcome in [
            Outcome::Succeeded,
            Outcome::BuildFailed,
            Outcome::InfraFailed,
            Outcome::PluginFailed,
            Outcome::Denied,
            Outcome::NoCapacity,
            Outcome::TimedOut,
            Outcome::Cancelled,
        ] {
            assert_eq!(
                serde_json::to_string(&outcome).unwrap(),
                format!("\"{outcome}\"")
            );
        }
    }
}
