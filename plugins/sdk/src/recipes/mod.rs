//! What macOS needs over SSH that a plain command does not give: a keychain that signs, Homebrew's `PATH`, the console
//! user's session.
//!
//! A login by SSH has no unlocked keychain, no Homebrew in its `PATH` and no window server. Each recipe here is one call
//! that sets the scene, and fails with a code and a sentence where it does not apply:
//!
//! | Code | Recipe | Means |
//! | --- | --- | --- |
//! | `recipe.not-macos` | keychain, console user | the VM has no `security`, or no `launchctl` |
//! | `recipe.no-keychain` | keychain | the keychain that was named is not there |
//! | `recipe.no-default-keychain` | keychain | none was named, and the user has no default keychain |
//! | `recipe.secret-unusable` | keychain | a password holds a line break, or a certificate is no base64 |
//! | `recipe.keychain-locked` | keychain | the keychain stayed locked: a wrong password |
//! | `recipe.keychain-partition` | keychain | `codesign` was not let at the keys: no key, or a wrong password |
//! | `recipe.keychain-create` | keychain | a keychain could not be made, or not be put on the search list |
//! | `recipe.certificate-refused` | keychain | `security import` took no identity: a wrong passphrase or format |
//! | `recipe.no-signing-identity` | keychain | what was imported cannot sign: a certificate without its key, expired, or without its issuer |
//! | `recipe.no-homebrew` | Homebrew | `brew` is in none of the prefixes |
//! | `recipe.no-console-user` | console user | nobody is logged in at the VM's console |
//! | `recipe.no-gui-session` | console user | the console user has no session of windows yet |
//! | `recipe.no-sudo` | console user | the login user may not become the console user without a password |
//! | `recipe.failed` | all | anything else, with what the VM's programs said |
//!
//! All of them run with the capability `ssh.exec` on an open [`Connection`]. Secrets reach the VM's programs on standard
//! input and never in arguments, where every process of the VM could read them.
//!
//! Sources: `security(1)`, `launchctl(1)`, `sudo(8)` and `brew(1)` as of macOS 14; Apple's Technical Note TN2206 on code
//! signing.

mod console_user;
mod explain;
mod homebrew;
mod keychain;

pub use console_user::{ConsoleUser, console_user};
pub use explain::explain;
pub use homebrew::{HOMEBREW_PREFIXES, homebrew, homebrew_in};
pub use keychain::{
    Certificate, Identity, SigningKeychain, import_identity, remove_keychain, unlock_keychain,
    with_identity,
};

use crate::secrets::Secret;
use crate::ssh::{Connection, ExecOptions, Output, Stream};
use crate::{Error, ErrorInfo, Exit};

/// Output of a recipe's script that is kept: its own lines are short, and a program that talks more is cut.
const KEPT_BYTES: usize = 64 * 1024;

/// The size of one read.
const READ_BYTES: u32 = 64 * 1024;

/// How long one read may take before it is made again.
const READ_MS: u64 = 60_000;

/// What one exit status of a recipe's script means.
struct Meaning {
    status: u32,
    code: &'static str,
    message: &'static str,
    hint: &'static str,
}

/// What a script said.
struct Said {
    exit: Exit,
    stdout: String,
    stderr: String,
}

/// Runs a script of a recipe: constant text, with everything variable in arguments and environment.
fn run_script(
    connection: &Connection,
    script: &str,
    arguments: &[&str],
    env: &[(String, String)],
    secret_env: Vec<(String, &Secret)>,
) -> Result<Said, Error> {
    let arguments: Vec<String> = ["-c", script, "orka-step"]
        .iter()
        .chain(arguments)
        .map(|&word| word.to_owned())
        .collect();
    let options = ExecOptions {
        env: env.to_vec(),
        secret_env,
        output: Output::Capture,
        ..ExecOptions::default()
    };
    let command = connection.exec("/bin/sh", &arguments, &options)?;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    while let Some(chunks) = command.read_output(READ_BYTES, READ_MS)? {
        for chunk in chunks {
            let kept = match chunk.stream {
                Stream::Stdout => &mut stdout,
                Stream::Stderr => &mut stderr,
            };
            let room = KEPT_BYTES.saturating_sub(kept.len());
            kept.extend_from_slice(&chunk.data[..chunk.data.len().min(room)]);
        }
    }
    let exit = loop {
        // Without a limit the answer is always an exit.
        if let Some(exit) = command.wait(None)? {
            break exit;
        }
    };
    Ok(Said {
        exit,
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    })
}

impl Said {
    /// Standard output of a script that succeeded; otherwise the error that its status stands for.
    fn output(self, doing: &str, meanings: &[Meaning]) -> Result<String, Error> {
        if self.exit.success() {
            return Ok(self.stdout);
        }
        let said = self.stderr.trim();
        let known = meanings
            .iter()
            .find(|meaning| matches!(self.exit, Exit::Status(status) if status == meaning.status));
        let mut info = match known {
            Some(meaning) => ErrorInfo::new(meaning.code, format!("{doing}: {}", meaning.message))
                .with_hint(meaning.hint),
            None => {
                let info = ErrorInfo::new("recipe.failed", format!("{doing}: it {}", self.exit));
                match explain(said) {
                    Some(explanation) => info.with_hint(explanation),
                    None => info,
                }
            }
        };
        if !said.is_empty() {
            info.details
                .push(("the VM said".to_owned(), said.to_owned()));
        }
        Err(Error::Other(info))
    }
}
