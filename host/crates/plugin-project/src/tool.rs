//! The tools of other languages.

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Error;

/// Finds a program as the shell would. Its path is whole, since tools run inside the project.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
        .and_then(|path| std::path::absolute(path).ok())
}

/// Keeps a tool that is written in Rust from burying what it says of the source under its own stack.
fn quiet(command: &mut Command) -> &mut Command {
    command
        .env_remove("RUST_BACKTRACE")
        .env_remove("RUST_LIB_BACKTRACE")
}

/// Runs a tool to its end. What it says goes to standard error.
pub(crate) fn run(command: &mut Command) -> Result<(), Error> {
    // Standard output is for what `orka-step` itself is asked to print.
    quiet(command)
        .stdin(Stdio::null())
        .stdout(std::io::stderr());
    let status = command
        .status()
        .map_err(Error::file("run", Path::new(command.get_program())))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::ToolFailed {
        command: shown(command),
        status,
    })
}

/// Runs a tool to its end and gives what it printed.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>, Error> {
    output_or(command.stderr(Stdio::inherit()), |_| None)
}

/// As [`output`] for a tool whose failure may have an explanation of ours, of what it said; it is not shown then.
pub(crate) fn captured(
    command: &mut Command,
    explained: impl FnOnce(&str) -> Option<Error>,
) -> Result<Vec<u8>, Error> {
    output_or(command.stderr(Stdio::piped()), explained)
}

/// What a tool prints, or the explanation of its failure, where there is one of what could be read of it.
fn output_or(
    command: &mut Command,
    explained: impl FnOnce(&str) -> Option<Error>,
) -> Result<Vec<u8>, Error> {
    let output = quiet(command)
        .stdin(Stdio::null())
        .output()
        .map_err(Error::file("run", Path::new(command.get_program())))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    if let Some(error) = explained(&String::from_utf8_lossy(&output.stderr)) {
        return Err(error);
    }
    // Where nobody reads it there is nothing more to say.
    let _ = std::io::stderr().write_all(&output.stderr);
    Err(Error::ToolFailed {
        command: shown(command),
        status: output.status,
    })
}

fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str());
    let words = std::iter::once(name).chain(command.get_args().take(2));
    let words: Vec<_> = words.map(OsStr::to_string_lossy).collect();
    format!("`{} …`", words.join(" "))
}
