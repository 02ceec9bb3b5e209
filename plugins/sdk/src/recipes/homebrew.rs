//! Homebrew's environment without a login shell.

use super::{Meaning, run_script};
use crate::Error;
use crate::ssh::Connection;

/// Where Homebrew is: on Apple silicon, then on Intel (`brew(1)`, "Installation").
pub const HOMEBREW_PREFIXES: &[&str] = &["/opt/homebrew", "/usr/local"];

/// Arguments: prefixes. Says the first that has `brew`, and the `PATH` without it.
const FIND: &str = r#"for prefix; do
  if [ -x "$prefix/bin/brew" ]; then printf '%s\n%s\n' "$prefix" "$PATH"; exit 0; fi
done
exit 80"#;

const MEANINGS: &[Meaning] = &[Meaning {
    status: 80,
    code: "recipe.no-homebrew",
    message: "`brew` is not installed in the VM",
    hint: "use an image with Homebrew, or name its prefix with `recipes::homebrew_in`",
}];

/// Environment variables with which Homebrew's programs are found: `PATH` and `HOMEBREW_PREFIX`, for
/// [`ExecOptions::env`](crate::ssh::ExecOptions).
///
/// A command over SSH gets the system's `PATH` alone. The shell `login` gets Homebrew's only where the image's profile
/// sets it; this works without one, and leaves the rest of the profile out.
///
/// # Errors
///
/// [`Error::Other`] with `recipe.no-homebrew`; those of `connection.exec`. Grant: `ssh.exec`.
pub fn homebrew(connection: &Connection) -> Result<Vec<(String, String)>, Error> {
    homebrew_in(connection, HOMEBREW_PREFIXES)
}

/// As [`homebrew`], for installations elsewhere: the first prefix that has `bin/brew` counts.
///
/// # Errors
///
/// As [`homebrew`].
pub fn homebrew_in(
    connection: &Connection,
    prefixes: &[&str],
) -> Result<Vec<(String, String)>, Error> {
    let said = run_script(connection, FIND, prefixes, &[], Vec::new())?;
    let output = said.output("looking for Homebrew", MEANINGS)?;
    let (prefix, path) = output.trim_end().split_once('\n').unwrap_or_default();
    Ok(vec![
        ("HOMEBREW_PREFIX".to_owned(), prefix.to_owned()),
        (
            "PATH".to_owned(),
            format!("{prefix}/bin:{prefix}/sbin:{path}"),
        ),
    ])
}
