//! Running inside the session of whoever is logged in at the VM's console.

use super::{Meaning, run_script};
use crate::ssh::{Command, Connection, ExecOptions};
use crate::{Error, ErrorInfo};

/// Says name and numeric id of the console user. `/dev/console` belongs to whoever is logged in there, and to `root`
/// before; `loginwindow` and `_mbsetupuser` stand for "nobody yet".
const FIND: &str = r#"command -v launchctl >/dev/null 2>&1 || exit 80
user=$(stat -f %Su /dev/console) || exit 80
case $user in ''|root|loginwindow|_mbsetupuser) exit 81 ;; esac
id=$(id -u "$user") || exit 81
launchctl print "gui/$id" >/dev/null || exit 82
sudo -n true >/dev/null || exit 83
printf '%s %s\n' "$user" "$id""#;

const MEANINGS: &[Meaning] = &[
    Meaning {
        status: 80,
        code: "recipe.not-macos",
        message: "the VM has no `launchctl`, so it is not macOS",
        hint: "leave this step out on other guests",
    },
    Meaning {
        status: 81,
        code: "recipe.no-console-user",
        message: "nobody is logged in at the VM's console",
        hint: "use an image that logs a user in at start (System Settings, Users & Groups, \"Automatically log in as\"), \
               or wait a little longer after the boot",
    },
    Meaning {
        status: 82,
        code: "recipe.no-gui-session",
        message: "the console user has no session with windows yet",
        hint: "wait a little longer after the boot and try again",
    },
    Meaning {
        status: 83,
        code: "recipe.no-sudo",
        message: "the login user may not use `sudo` without a password",
        hint: "give it `NOPASSWD: ALL` in the image's `sudoers(5)`: entering another session takes root's rights",
    },
];

/// Who is logged in at the VM's console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsoleUser {
    /// The account's name.
    pub name: String,
    /// Its numeric id.
    pub id: String,
}

/// Finds out who is logged in at the VM's console, with a session that programs can be run in.
///
/// Simulators, UI tests and everything else that talks to the window server need that session; a login by SSH is outside
/// of it.
///
/// # Errors
///
/// [`Error::Other`] with `recipe.not-macos`, `recipe.no-console-user`, `recipe.no-gui-session` or `recipe.no-sudo`; those
/// of `connection.exec`. Grant: `ssh.exec`.
pub fn console_user(
    connection: &Connection,
    env: &[(String, String)],
) -> Result<ConsoleUser, Error> {
    let said = run_script(connection, FIND, &[], env, Vec::new())?;
    let output = said.output("looking for the console user", MEANINGS)?;
    let (name, id) = output.trim().split_once(' ').unwrap_or_default();
    Ok(ConsoleUser {
        name: name.to_owned(),
        id: id.to_owned(),
    })
}

impl ConsoleUser {
    /// Starts a program in this user's session, in the way of `connection.exec`.
    ///
    /// `sudo` passes on the variables of `options`, secret ones included, by name; `HOME` is the console user's.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for `options.shell` other than plain: the login shell would be the SSH user's. Those of
    /// `connection.exec`.
    pub fn exec(
        &self,
        connection: &Connection,
        program: &str,
        arguments: &[&str],
        options: &ExecOptions<'_>,
    ) -> Result<Command, Error> {
        if options.shell != crate::ssh::Shell::Plain {
            let message = "a login shell cannot be entered on the way to the console user";
            return Err(Error::Invalid(
                ErrorInfo::new("recipe.shell", message)
                    .with_hint("run `zsh -l -c …` as the program instead"),
            ));
        }
        connection.exec(
            "sudo",
            &self.arguments(program, arguments, options),
            options,
        )
    }

    /// Root enters the session (`launchctl asuser` needs that), then becomes the user.
    fn arguments(
        &self,
        program: &str,
        arguments: &[&str],
        options: &ExecOptions<'_>,
    ) -> Vec<String> {
        let kept: Vec<&str> = options
            .env
            .iter()
            .map(|(name, _)| name.as_str())
            .chain(options.secret_env.iter().map(|(name, _)| name.as_str()))
            .collect();
        let preserve = (!kept.is_empty()).then(|| format!("--preserve-env={}", kept.join(",")));
        let mut words = vec!["-n".to_owned()];
        words.extend(preserve.clone());
        words.extend(
            [
                "--",
                "launchctl",
                "asuser",
                &self.id,
                "sudo",
                "-n",
                "-H",
                "-u",
                &self.name,
            ]
            .map(str::to_owned),
        );
        words.extend(preserve);
        words.extend(["--", program].map(str::to_owned));
        words.extend(arguments.iter().map(|&argument| argument.to_owned()));
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_pass_both_sudos_by_name_and_never_by_value() {
        let user = ConsoleUser {
            name: "admin".to_owned(),
            id: "501".to_owned(),
        };
        let options = ExecOptions {
            env: vec![("SCHEME".to_owned(), "a value".to_owned())],
            ..ExecOptions::default()
        };
        let words = user.arguments("xcodebuild", &["test", "a b"], &options);
        let expected = [
            "-n",
            "--preserve-env=SCHEME",
            "--",
            "launchctl",
            "asuser",
            "501",
            "sudo",
            "-n",
            "-H",
            "-u",
            "admin",
            "--preserve-env=SCHEME",
            "--",
            "xcodebuild",
            "test",
            "a b",
        ];
        assert_eq!(words, expected);
    }

    #[test]
    fn without_variables_nothing_is_preserved() {
        let user = ConsoleUser {
            name: "admin".to_owned(),
            id: "501".to_owned(),
        };
        let words = user.arguments("true", &[], &ExecOptions::default());
        assert!(
            !words.iter().any(|word| word.starts_with("--preserve-env")),
            "{words:?}"
        );
    }
}
