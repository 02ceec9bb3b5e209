//! Work inside a VM over SSH.

use std::time::Duration;

pub use crate::bindings::orka::plugin::ssh::*;
use crate::bindings::orka::plugin::wait::wait_any;

#[allow(
    clippy::derivable_impls,
    reason = "the type is generated, so `derive` cannot be put on it"
)]
impl Default for ConnectOptions<'_> {
    fn default() -> Self {
        Self {
            username: None,
            password: None,
            private_key: None,
            timeout_ms: None,
        }
    }
}

impl Default for ExecOptions<'_> {
    /// No arguments, no environment, nothing on standard input, output to the log.
    fn default() -> Self {
        Self {
            cwd: None,
            env: Vec::new(),
            secret_env: Vec::new(),
            stdin: Stdin::Empty,
            shell: Shell::Plain,
            pty: false,
            output: Output::Log,
            detach: false,
            silence_timeout_ms: None,
        }
    }
}

impl ExecOptions<'_> {
    /// The program outlives its connection: one that is lost is made again, and its output goes on where it broke off.
    #[must_use]
    pub fn detached(mut self, detached: bool) -> Self {
        self.detach = detached;
        self
    }

    /// Stops the program when it has printed nothing for so long; `command.wait` then fails with [`COMMAND_SILENT`].
    #[must_use]
    pub fn silence_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.silence_timeout_ms = limit
            .into()
            .map(|limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
        self
    }
}

/// The code of the error that tells of a program stopped because it printed nothing for too long.
pub const COMMAND_SILENT: &str = "command.silent";

#[allow(
    clippy::derivable_impls,
    reason = "the type is generated, so `derive` cannot be put on it"
)]
impl Default for TransferOptions {
    /// Everything, within the run's own limits.
    fn default() -> Self {
        Self {
            include: Vec::new(),
            exclude: Vec::new(),
            max_bytes: None,
            max_entries: None,
            compare: None,
        }
    }
}

/// Runs a program beside the script: to its end, which the result `exit-status` does not tell of.
///
/// # Errors
///
/// As [`run`].
pub fn run_aside(
    connection: &Connection,
    program: &str,
    arguments: &[&str],
    options: &ExecOptions<'_>,
) -> Result<Exit, Error> {
    let command = connection.exec(program, &owned(arguments), options)?;
    let ended = command.subscribe();
    loop {
        wait_any(&[&ended], None)?;
        if let Some(exit) = command.exit()? {
            return Ok(exit);
        }
    }
}

/// Runs a program to its end, and takes that for the script's, as the result `exit-status` tells it.
///
/// # Errors
///
/// As `connection.exec` and `command.wait`; a program that ran and failed is an [`Exit`], not an error.
pub fn run(
    connection: &Connection,
    program: &str,
    arguments: &[&str],
    options: &ExecOptions<'_>,
) -> Result<Exit, Error> {
    let command = connection.exec(program, &owned(arguments), options)?;
    loop {
        // Without a limit the answer is always an exit; asking again costs nothing and needs no assumption.
        if let Some(exit) = command.wait(None)? {
            return Ok(exit);
        }
    }
}

fn owned(arguments: &[&str]) -> Vec<String> {
    let owned = arguments.iter().map(|argument| (*argument).to_owned());
    owned.collect()
}
