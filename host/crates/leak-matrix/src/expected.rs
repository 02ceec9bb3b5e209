//! How a build must end: written down from what can be known at each place, not from what the host does.

use std::fmt;

use orka_step::outcome::{
    EXIT_INTERNAL, EXIT_ORKA, EXIT_PLUGIN_FAILED, EXIT_SSH, EXIT_TERMINATED, EXIT_TIMED_OUT,
};

use crate::axes::{Call, Cell, Fault, Moment, Struck};

/// How a build may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// With this exit code.
    Code(u8),
    /// By success, or with this exit code: to get round the trouble is right, and so is to tell it.
    SuccessOr(u8),
    /// Killed, and the reaper content.
    Killed,
}

impl Expected {
    /// How this build must end.
    pub fn of(cell: &Cell) -> Self {
        match cell.fault {
            Fault::GuestError | Fault::Trap | Fault::Spin => Self::Code(EXIT_PLUGIN_FAILED),
            Fault::Sigterm | Fault::SigtermTwice => Self::Code(EXIT_TERMINATED),
            Fault::Crash => Self::Code(EXIT_INTERNAL),
            Fault::SigkillReap => Self::Killed,
            // A removal has a limit of its own and is tried again; where the deadline is far, the build is done by then.
            Fault::Deadline if (cell.call, cell.moment) == (Call::Purge, Moment::During) => {
                Self::SuccessOr(EXIT_TIMED_OUT)
            }
            Fault::Deadline => Self::Code(EXIT_TIMED_OUT),
            Fault::SshDropped | Fault::SshFrozen if cell.is_from(Call::Download, Moment::After) => {
                // Everything that was wanted of the VM is here.
                Self::Code(0)
            }
            Fault::SshDropped => Self::of_drop(cell),
            // Nobody says that a frozen connection is lost before the build's time is up.
            Fault::SshFrozen => Self::Code(EXIT_TIMED_OUT),
            Fault::ApiTimeout | Fault::Api500 | Fault::ReplyLost | Fault::Refused => {
                Self::of_api(cell)
            }
        }
    }

    /// A connection that is cut. A transfer begins again on a new one; a command, or a file that is written, does not.
    fn of_drop(cell: &Cell) -> Self {
        match (cell.call, cell.moment) {
            (Call::Connect, Moment::After)
            | (Call::Upload, Moment::Before)
            | (Call::Wait, Moment::After)
            | (Call::Download, Moment::Before) => Self::Code(0),
            // The script is short: it may have ended by then.
            (Call::Exec, Moment::After) | (Call::Wait, Moment::Before) => Self::SuccessOr(EXIT_SSH),
            _ => Self::Code(EXIT_SSH),
        }
    }

    /// A fault that passes after one request.
    fn of_api(cell: &Cell) -> Self {
        match (cell.struck(), cell.fault) {
            // Both APIs are asked which one it is, and the one that is not there needs no answer.
            (Some(Struck::Probe), Fault::ApiTimeout) => Self::SuccessOr(EXIT_ORKA),
            // A request that reached nobody was certainly not carried out. One whose connection was cut may have been.
            (Some(Struck::Create | Struck::Deploy), Fault::Refused) => Self::SuccessOr(EXIT_ORKA),
            // Whether it was carried out is not known, so it must not be repeated.
            (Some(Struck::Create | Struck::Deploy), _) => Self::Code(EXIT_ORKA),
            // Reads and deletions are repeated until they succeed.
            _ => Self::Code(0),
        }
    }

    /// Whether this end is one of those. `reaped` is the exit code of the reaper, where there was one.
    pub fn admits(self, code: Option<i32>, outcome: &str, reaped: Option<i32>) -> bool {
        let ended_with = |wanted: u8| {
            code == Some(i32::from(wanted)) && outcome == outcome_of(wanted) && reaped.is_none()
        };
        match self {
            Self::Code(wanted) => ended_with(wanted),
            Self::SuccessOr(wanted) => ended_with(0) || ended_with(wanted),
            Self::Killed => code.is_none() && reaped == Some(0),
        }
    }
}

fn outcome_of(code: u8) -> &'static str {
    match code {
        0 => "succeeded",
        EXIT_TERMINATED => "cancelled",
        EXIT_PLUGIN_FAILED => "plugin-failed",
        EXIT_TIMED_OUT => "timed-out",
        _ => "infra-failed",
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "{code}"),
            Self::SuccessOr(code) => write!(f, "0 or {code}"),
            Self::Killed => f.write_str("killed, then reaped with 0"),
        }
    }
}
