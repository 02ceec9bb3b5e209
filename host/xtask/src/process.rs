//! Running other programs.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// The cargo that runs this program, so that one toolchain does everything.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs a program with our own streams; anything but success is an error that shows the command.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start {}", shown(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", shown(command));
    }
    Ok(())
}

/// Runs a program and returns its standard output; its standard error goes to ours.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("cannot start {}", shown(command)))?;
    if !output.status.success() {
        bail!("{} failed ({})", shown(command), output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("{} printed no UTF-8", shown(command)))
}

/// Whether a program can be started and succeeds, with nothing shown.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    let quiet = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

/// Finds a program on the `PATH`, or where daemons live: `/usr/sbin` is not on everyone's `PATH`.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let daemons = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    let candidates = std::env::split_paths(&path)
        .chain(daemons)
        .map(|directory| directory.join(name));
    candidates
        .into_iter()
        .find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// A command as one would type it, for messages; long ones are cut.
pub(crate) fn shown(command: &Command) -> String {
    const WORDS_MAX: usize = 8;
    let program = Path::new(command.get_program())
        .file_name()
        .unwrap_or_else(|| OsStr::new("?"));
    let mut words = vec![program.to_string_lossy().into_owned()];
    let arguments = command
        .get_args()
        .map(|argument| argument.to_string_lossy().into_owned());
    words.extend(arguments.take(WORDS_MAX));
    if command.get_args().len() > WORDS_MAX {
        words.push("…".to_owned());
    }
    format!("`{}`", words.join(" "))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::{find_program, output, run, shown, succeeds};

    #[test]
    fn a_failing_command_is_shown_as_one_would_type_it() {
        let error = run(Command::new("/bin/sh").args(["-c", "exit 3"])).unwrap_err();
        assert_eq!(error.to_string(), "`sh -c exit 3` failed (exit status: 3)");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = output(&mut Command::new("/nonexistent/program")).unwrap_err();
        assert_eq!(error.to_string(), "cannot start `program`");
        assert!(!succeeds(&mut Command::new("/nonexistent/program")));
    }

    #[test]
    fn a_long_command_is_cut() {
        let mut command = Command::new("cargo");
        command.args((0..20).map(|number| number.to_string()));
        assert_eq!(shown(&command), "`cargo 0 1 2 3 4 5 6 7 …`");
    }

    #[test]
    fn finds_programs_and_not_directories() {
        assert!(find_program("sh").is_some());
        assert_eq!(find_program("no-such-program-anywhere"), None);
        assert_eq!(find_program("."), None);
    }
}
