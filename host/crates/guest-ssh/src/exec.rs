//! What to run in the VM, and the command line that does it.

use std::fmt;

use bytes::Bytes;
use secrecy::{ExposeSecret, SecretString};
use tokio::io::AsyncRead;

use crate::detach::Detach;
use crate::quote::{check_word, push_word, shell_line};
use crate::{Error, RemotePath};

/// The status of a command whose working directory could not be entered, as `env(1)` and `timeout(1)` report their own
/// failures. Standard error then says why. 126 and 127 mean, as ever, "cannot be run" and "not found".
pub const WRAPPER_FAILED: u32 = 125;

/// What a program reads.
#[derive(Default)]
pub enum Stdin {
    /// Nothing: end of file at once.
    #[default]
    None,
    /// These bytes, then end of file.
    Bytes(Bytes),
    /// What the reader yields, then end of file. A read error is no end: the program is not told of one, and waiting for it says
    /// [`Error::Input`].
    Reader(Box<dyn AsyncRead + Send + Unpin>),
    /// What [`Command::write_input`](crate::Command::write_input) sends, until [`Command::close_input`](crate::Command::close_input).
    Open,
}

impl fmt::Debug for Stdin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Bytes(_) => "Bytes(…)",
            Self::Reader(_) => "Reader(…)",
            Self::Open => "Open",
        })
    }
}

/// Which shell stands between `sshd` and the program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ShellChoice {
    /// None that matters: the program is started with the environment `sshd` gives.
    #[default]
    Direct,
    /// The user's own shell as a login shell first, so that `PATH` and the like are as in a terminal (Homebrew, rbenv,
    /// mise). Its start-up files see an empty standard input. The request's own environment wins over theirs.
    Login,
}

/// A value for an environment variable.
#[derive(Clone)]
pub enum EnvValue {
    /// Travels in the command line, where other users of the VM can see it.
    Plain(String),
    /// Travels on standard input ahead of the program's own, and is in no process's arguments, no file and no log.
    Secret(SecretString),
}

impl From<String> for EnvValue {
    fn from(value: String) -> Self {
        Self::Plain(value)
    }
}

impl From<&str> for EnvValue {
    fn from(value: &str) -> Self {
        Self::Plain(value.to_owned())
    }
}

impl From<SecretString> for EnvValue {
    fn from(value: SecretString) -> Self {
        Self::Secret(value)
    }
}

impl fmt::Debug for EnvValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(value) => value.fmt(f),
            Self::Secret(_) => f.write_str("[redacted]"),
        }
    }
}

/// A program to run. Nothing in it is ever read as shell text.
#[derive(Debug, Default)]
pub struct ExecRequest {
    /// Name or path; a name is looked up in the VM's `PATH`.
    pub program: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Variables set on top of the VM's own. `sshd` commonly refuses SSH's own way to set them.
    pub env: Vec<(String, EnvValue)>,
    /// Where it runs; the home directory if not given.
    pub cwd: Option<RemotePath>,
    /// What it reads.
    pub stdin: Stdin,
    /// Whether it gets a terminal: 80 × 24, no echo, both outputs as one.
    pub pty: bool,
    /// Which shell sets the scene.
    pub shell: ShellChoice,
    /// Whether and how it outlives the connection that started it.
    pub detach: Option<Detach>,
}

impl ExecRequest {
    /// A request for `program` with `args` and nothing else.
    pub fn new(
        program: impl Into<String>,
        args: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        Self {
            program: program.into(),
            args: args.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }

    /// The command line, and what goes ahead of standard input.
    pub(crate) fn into_start(self) -> Result<Start, Error> {
        self.check()?;
        let (secret, plain): (Vec<_>, Vec<_>) = self
            .env
            .iter()
            .partition(|(_, value)| matches!(value, EnvValue::Secret(_)));
        let mut words: Vec<Vec<u8>> = Vec::new();
        words.push(if secret.is_empty() { "0" } else { "1" }.into());
        words.push(
            self.cwd
                .as_ref()
                .map(RemotePath::argument)
                .unwrap_or_else(|| b"./".to_vec()),
        );
        words.push(plain.len().to_string().into_bytes());
        words.extend(
            plain
                .iter()
                .map(|(name, value)| format!("{name}={}", value.expose()).into_bytes()),
        );
        words.push(self.program.clone().into_bytes());
        words.extend(
            self.args
                .iter()
                .map(|argument| argument.clone().into_bytes()),
        );
        let mut words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        let line = match self.shell {
            ShellChoice::Direct => shell_line(RUN, words),
            ShellChoice::Login => {
                words.insert(0, RUN.as_bytes());
                shell_line(RUN_IN_LOGIN_SHELL, words)
            }
        };
        Ok(Start {
            line,
            preamble: preamble(&secret),
            stdin: self.stdin,
            pty: self.pty,
        })
    }

    fn check(&self) -> Result<(), Error> {
        let invalid = |what, reason: String| Err(Error::Invalid { what, reason });
        check_word("program", self.program.as_bytes())?;
        if self.program.is_empty() || self.program.starts_with('-') {
            return invalid("program", "it is empty or looks like an option".to_owned());
        }
        for argument in &self.args {
            check_word("argument", argument.as_bytes())?;
        }
        for (name, value) in &self.env {
            check_word("environment value", value.expose().as_bytes())?;
            let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            if name.is_empty() || !name.bytes().all(legal) || name.as_bytes()[0].is_ascii_digit() {
                return invalid(
                    "environment name",
                    format!("`{}`", crate::quote::printable(name.as_bytes())),
                );
            }
            if self.pty && matches!(value, EnvValue::Secret(_)) {
                // A terminal may echo, and on macOS cuts lines at 1024 bytes.
                return invalid(
                    "environment",
                    format!("`{name}` is secret, and a terminal cannot carry secrets"),
                );
            }
        }
        Ok(())
    }
}

impl EnvValue {
    fn expose(&self) -> &str {
        match self {
            Self::Plain(value) => value,
            Self::Secret(value) => value.expose_secret(),
        }
    }
}

/// Arguments: whether secrets come first on standard input, the directory, the number of variables, the variables, the
/// program, its arguments. Without all of the secrets nothing is run. `read -r` takes one byte at a time from what cannot be rewound, in every `sh`, so the program
/// finds its own input untouched. The variable that held the secrets is unset (a same-named exported one would pass
/// them on) before the program sees the environment.
const RUN: &str = r##"if [ "$1" = 1 ]; then
unset orka_step_text orka_step_line; orka_step_text=
while IFS= read -r orka_step_line || exit 125; [ "$orka_step_line" != "orka-step: end" ]; do orka_step_text="$orka_step_text$orka_step_line
"; done
eval "unset orka_step_text orka_step_line; $orka_step_text"
fi
cd "$2" || exit 125
orka_step_left=$3; shift 3
while [ "$orka_step_left" -gt 0 ]; do export "$1"; orka_step_left=$((orka_step_left - 1)); shift; done
unset orka_step_left
exec "$@""##;

/// Argument 1 is [`RUN`], the rest is for it. Start-up files may read standard input, so they are given none; fish names
/// its arguments otherwise than the rest.
const RUN_IN_LOGIN_SHELL: &str = r#"orka_step_run=$1; shift
exec 3<&0 </dev/null
case "${SHELL:=/bin/sh}" in
*/fish) exec "$SHELL" -l -c 'exec /bin/sh -c $argv <&3 3<&-' "$orka_step_run" orka-step "$@" ;;
*) exec "$SHELL" -l -c 'exec /bin/sh -c "$@" <&3 3<&-' orka-step "$orka_step_run" orka-step "$@" ;;
esac"#;

/// `export` lines for secret variables, ended by a line that no quoted value can produce: a value's own line breaks stay
/// inside quotes, and its `orka-step: end` would need to stand alone on a line, which is broken up.
fn preamble(secret: &[&(String, EnvValue)]) -> Bytes {
    if secret.is_empty() {
        return Bytes::new();
    }
    let mut text = Vec::new();
    for (name, value) in secret {
        text.extend_from_slice(name.as_bytes());
        text.push(b'=');
        for (number, line) in value.expose().split('\n').enumerate() {
            if number > 0 {
                // Quotes are closed and opened around each line break: no line of the value stands alone.
                text.extend_from_slice(b"'\n'");
            }
            push_word(&mut text, line.as_bytes());
        }
        text.extend_from_slice(format!("; export {name}\n").as_bytes());
    }
    text.extend_from_slice(b"orka-step: end\n");
    text.into()
}

/// A command line ready to be sent.
pub(crate) struct Start {
    pub(crate) line: Vec<u8>,
    pub(crate) preamble: Bytes,
    pub(crate) stdin: Stdin,
    pub(crate) pty: bool,
}

impl Start {
    /// One of this crate's own scripts.
    pub(crate) fn script<'a>(
        script: &str,
        arguments: impl IntoIterator<Item = &'a [u8]>,
        stdin: Stdin,
    ) -> Self {
        Self {
            line: shell_line(script, arguments),
            preamble: Bytes::new(),
            stdin,
            pty: false,
        }
    }
}
