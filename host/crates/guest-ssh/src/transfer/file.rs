//! Single small files: written whole or not at all, read up to a limit.

use bytes::Bytes;

use super::attempt::commands_unusable;
use super::facts::Beginning;
use super::{Direction, NO_SUCH_PLACE, script_error};
use crate::command::{self, Exit};
use crate::connection::Connection;
use crate::exec::{Start, Stdin};
use crate::{Error, RemotePath};

/// Arguments: path, mode, size. A lost connection looks like the end of the file to `cat`, so the size is checked before
/// the file takes its name.
const WRITE: &str = r#"printf 'orka-step: begin\n'
umask 077
case "$1" in */*) mkdir -p "${1%/*}/" || exit ;; esac
new="$1.orka-step.$$"
cat >"$new" && [ "$(($(wc -c <"$new")))" -eq "$3" ] && chmod "$2" "$new" && mv -f "$new" "$1" && exit
rm -f "$new"
exit 1"#;

/// What a login shell may print ahead of our script.
const CHATTER_MAX: usize = 1024 * 1024;

/// Argument: path.
const READ: &str = r#"printf 'orka-step: begin\n'
[ -f "$1" ] || exit 91
exec cat "$1""#;

impl Connection {
    /// Writes a file so that it appears whole or not at all; missing directories above it are made, for its owner only.
    ///
    /// `mode` is what `chmod` takes as an octal number, such as `0o755`.
    ///
    /// # Errors
    ///
    /// [`Error::RemoteFailed`] with what the VM said, [`Error::Lost`].
    pub async fn write_file(
        &self,
        remote: &RemotePath,
        bytes: &[u8],
        mode: u32,
    ) -> Result<(), Error> {
        let path = remote.argument();
        if path.ends_with(b"/") {
            return Err(Error::Invalid {
                what: "remote path",
                reason: "it names a directory".to_owned(),
            });
        }
        if self.transfers.goes_by_sftp() {
            return self.write_file_by_sftp(remote, bytes, mode).await;
        }
        match self.write_file_by_script(&path, bytes, mode).await {
            Err(problem) if commands_unusable(&problem) => {
                match self.write_file_by_sftp(remote, bytes, mode).await {
                    // It has neither.
                    Err(Error::ExecRefused { .. }) => Err(problem),
                    outcome => {
                        self.transfers.go_by_sftp(&problem);
                        outcome
                    }
                }
            }
            outcome => outcome,
        }
    }

    async fn write_file_by_script(
        &self,
        path: &[u8],
        bytes: &[u8],
        mode: u32,
    ) -> Result<(), Error> {
        let mode = format!("{:o}", mode & 0o7777);
        let size = bytes.len().to_string();
        let arguments = [path, mode.as_bytes(), size.as_bytes()];
        let start = Start::script(
            WRITE,
            arguments,
            Stdin::Bytes(Bytes::copy_from_slice(bytes)),
        );
        let mut command = command::start(self.lease().await?, self.address(), start).await?;
        let said = command.collect(CHATTER_MAX).await?;
        let mut beginning = Beginning::default();
        beginning.strip(said.stdout.into());
        match said.exit {
            // What answers in place of a shell may well end well, and has written nothing.
            Some(_) if !beginning.begun() => Err(self.no_shell(&said.stderr.text())),
            Some(Exit::Status(0)) => Ok(()),
            Some(exit) => Err(script_error("writing a file", &exit, said.stderr.text())),
            None => Err(Error::Invalid {
                what: "answer",
                reason: "the VM printed where nothing was due".to_owned(),
            }),
        }
    }

    /// Reads a regular file of at most `bytes_max` bytes.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::LimitExceeded`], [`Error::RemoteFailed`], [`Error::Lost`].
    pub async fn read_file(&self, remote: &RemotePath, bytes_max: usize) -> Result<Vec<u8>, Error> {
        if self.transfers.goes_by_sftp() {
            return self.read_file_by_sftp(remote, bytes_max).await;
        }
        match self.read_file_by_script(remote, bytes_max).await {
            Err(problem) if commands_unusable(&problem) => {
                match self.read_file_by_sftp(remote, bytes_max).await {
                    Err(Error::ExecRefused { .. }) => Err(problem),
                    outcome => {
                        self.transfers.go_by_sftp(&problem);
                        outcome
                    }
                }
            }
            outcome => outcome,
        }
    }

    async fn read_file_by_script(
        &self,
        remote: &RemotePath,
        bytes_max: usize,
    ) -> Result<Vec<u8>, Error> {
        let path = remote.argument();
        let start = Start::script(READ, [path.as_slice()], Stdin::None);
        let mut command = command::start(self.lease().await?, self.address(), start).await?;
        let said = command
            .collect(bytes_max.saturating_add(CHATTER_MAX))
            .await?;
        let mut beginning = Beginning::default();
        let contents = beginning.strip(said.stdout.into());
        if said.exit.is_some() && !beginning.begun() {
            return Err(self.no_shell(&said.stderr.text()));
        }
        match said.exit.filter(|_| contents.len() <= bytes_max) {
            Some(Exit::Status(0)) => Ok(contents.into()),
            Some(Exit::Status(NO_SUCH_PLACE)) => Err(Error::NotFound {
                path: remote.to_string(),
            }),
            Some(exit) => Err(script_error("reading a file", &exit, said.stderr.text())),
            None => Err(Error::LimitExceeded {
                direction: Direction::Download,
                limit: "bytes",
                allowed: bytes_max as u64,
                entry: remote.to_string(),
            }),
        }
    }
}
