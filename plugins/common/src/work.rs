//! What is done in a VM: the script, and what is copied in and back.

use std::time::Duration;

use orka_plugin_sdk::console::{self, Level};
use orka_plugin_sdk::secrets::{self, Secret};
use orka_plugin_sdk::ssh::{Command, Connection, ExecOptions, Shell, Stdin, TransferOptions};
use orka_plugin_sdk::{Error, params, workspace};

use crate::numbers::{count_or, size};
use crate::{remote, script};

/// After which end of the script something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// When it succeeded.
    Success,
    /// Always.
    Always,
    /// When it failed, or was stopped.
    Failure,
}

impl When {
    /// Whether this is one of those ends.
    pub fn includes(self, succeeded: bool) -> bool {
        match self {
            Self::Always => true,
            Self::Success => succeeded,
            Self::Failure => !succeeded,
        }
    }
}

/// The parameters that are about the script and its files, understood.
pub struct Work {
    /// What runs in the VM, with its `#!` line.
    script: Vec<u8>,
    env: Vec<(String, String)>,
    secret_env: Vec<(String, Secret)>,
    shell: Shell,
    detach: bool,
    silence_timeout: Option<Duration>,
    verbose: bool,
    copy_build: bool,
    artifacts: Vec<String>,
    artifacts_when: When,
    artifacts_max_bytes: Option<u64>,
    artifacts_max_count: Option<u32>,
    exclude: Vec<String>,
}

/// What is to come back, which needs a place to come to.
fn artifacts() -> Result<Vec<String>, Error> {
    let artifacts = params::list("artifacts")?;
    if !artifacts.is_empty() && !workspace::available() {
        let problem = "cannot come back without a workspace (`--workspace`)";
        return Err(Error::parameter("artifacts", problem));
    }
    Ok(artifacts)
}

impl Work {
    /// Reads all parameters about the script and its files.
    ///
    /// # Errors
    ///
    /// `params.invalid`, naming the parameter.
    pub fn from_params() -> Result<Self, Error> {
        Ok(Self {
            script: script::from_params()?,
            env: environment(&params::list("env")?)?,
            secret_env: secret_environment(&params::list("secret-env")?)?,
            shell: if params::text("shell")?.as_deref() == Some("login") {
                Shell::Login
            } else {
                Shell::Plain
            },
            detach: params::flag("detach")?,
            silence_timeout: params::duration_ms("silence-timeout")?
                .filter(|limit| *limit > 0)
                .map(Duration::from_millis),
            verbose: params::flag("verbose")?,
            copy_build: params::flag("copy-build")?,
            artifacts: artifacts()?,
            artifacts_when: match params::text("artifacts-when")?.as_deref() {
                Some("always") => When::Always,
                Some("failure") => When::Failure,
                _ => When::Success,
            },
            artifacts_max_bytes: params::non_empty_text("artifacts-max-size")?
                .map(|text| size(&text))
                .transpose()
                .map_err(|problem| Error::parameter("artifacts-max-size", problem))?,
            artifacts_max_count: Some(count_or("artifacts-max-count", 0)?)
                .filter(|count| *count > 0),
            exclude: params::list("exclude")?,
        })
    }

    /// Says a detail: in the log where the run is verbose, for `--verbose` otherwise.
    pub fn detail(&self, text: &str) {
        let level = if self.verbose {
            Level::Info
        } else {
            Level::Debug
        };
        console::log(level, text);
    }

    /// Copies workspace and script in.
    ///
    /// # Errors
    ///
    /// As [`remote::copy_in`].
    pub fn copy_in(&self, connection: &Connection) -> Result<(), Error> {
        let options = TransferOptions {
            exclude: self.exclude.clone(),
            ..TransferOptions::default()
        };
        let interpreter = self.script.split(|byte| *byte == b'\n').next();
        let interpreter = String::from_utf8_lossy(interpreter.unwrap_or_default());
        self.detail(&format!(
            "copying the workspace to `~/{}` without {:?}, and the script of {} bytes, `{interpreter}`, to `~/{}`",
            remote::WORKSPACE,
            options.exclude,
            self.script.len(),
            remote::SCRIPT,
        ));
        remote::copy_in(connection, &self.script, &options)
    }

    /// Starts the script, with these variables beside its own.
    ///
    /// # Errors
    ///
    /// As `connection.exec`.
    pub fn start(
        &self,
        connection: &Connection,
        env: &[(String, String)],
    ) -> Result<Command, Error> {
        let options = ExecOptions {
            cwd: Some(remote::WORKSPACE.to_owned()),
            env: [env, &self.env].concat(),
            secret_env: (self.secret_env.iter())
                .map(|(name, secret)| (name.clone(), secret))
                .collect(),
            stdin: Stdin::Empty,
            shell: self.shell,
            ..ExecOptions::default()
        }
        .detached(self.detach)
        .silence_timeout(self.silence_timeout);
        connection.exec(remote::SCRIPT_FROM_WORKSPACE, &[], &options)
    }

    /// Whether something is copied back after a script that succeeded or failed.
    ///
    /// `copy-build` is about the whole workspace; artifacts that are named are wanted whatever it says.
    pub fn wants_back(&self, succeeded: bool) -> bool {
        let asked = self.copy_build || !self.artifacts.is_empty();
        asked && workspace::available() && self.artifacts_when.includes(succeeded)
    }

    /// Copies back into a directory of the workspace.
    ///
    /// # Errors
    ///
    /// As `connection.download`; a limit of a parameter names it.
    pub fn copy_back(&self, connection: &Connection, target: &str) -> Result<(), Error> {
        let options = TransferOptions {
            include: self.artifacts.clone(),
            exclude: self.exclude.clone(),
            max_bytes: self.artifacts_max_bytes,
            max_entries: self.artifacts_max_count,
            ..TransferOptions::default()
        };
        self.detail(&format!(
            "copying back {:?} without {:?}",
            options.include, options.exclude
        ));
        connection
            .download(remote::WORKSPACE, target, &options)
            .map(drop)
            .map_err(with_own_limit)
    }
}

/// Names the parameter where it was one of ours that allows no more.
fn with_own_limit(error: Error) -> Error {
    let is_ours = error.code() == "files.limit" && error.detail("set by") == Some("the plugin");
    let parameter = match error.detail("limit") {
        Some("bytes") if is_ours => "artifacts-max-size",
        Some("entries") if is_ours => "artifacts-max-count",
        _ => return error,
    };
    error.with_hint(format!(
        "raise the parameter `{parameter}`, or copy back less with `artifacts` and `exclude`"
    ))
}

fn environment(lines: &[String]) -> Result<Vec<(String, String)>, Error> {
    lines
        .iter()
        .map(|line| match line.split_once('=') {
            Some((name, value)) if is_variable(name) => Ok((name.to_owned(), value.to_owned())),
            _ => Err(Error::parameter(
                "env",
                "needs lines of the form NAME=VALUE, with a name of letters, digits and `_`",
            )),
        })
        .collect()
}

/// Opened before anything exists: what is not granted is told then.
fn secret_environment(lines: &[String]) -> Result<Vec<(String, Secret)>, Error> {
    lines
        .iter()
        .map(|line| {
            let (name, secret) = line.split_once('=').unwrap_or((line, line));
            if !is_variable(name) {
                return Err(Error::parameter(
                    "secret-env",
                    "needs lines of the form NAME=SECRET or NAME, with a name of letters, digits and `_`",
                ));
            }
            Ok((name.to_owned(), secrets::open(secret)?))
        })
        .collect()
}

/// POSIX 8.1: letters, digits and underscores, not beginning with a digit.
fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name
            .chars()
            .all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_lines_keep_everything_after_the_first_equals_sign() {
        let lines = ["A=b=c d".to_owned(), "_X1=".to_owned()];
        let expected = [
            ("A".to_owned(), "b=c d".to_owned()),
            ("_X1".to_owned(), String::new()),
        ];
        assert_eq!(environment(&lines).unwrap(), expected);
        for wrong in ["", "=x", "1A=x", "A-B=x", "no"] {
            assert!(environment(&[wrong.to_owned()]).is_err(), "{wrong}");
        }
    }
}
