//! Single small files: written whole or not at all, read up to a limit.

use bytes::Bytes;

use super::{Direction, NO_SUCH_PLACE, script_error};
use crate::command::{self, Exit};
use crate::connection::Connection;
use crate::exec::{Start, Stdin};
use crate::{Error, RemotePath};

/// Arguments: path, mode, size. A lost connection looks like the end of the file to `cat`, so the size is checked before
/// the file takes its name.
const WRITE: &str = r#"umask 077
case "$1" in */*) mkdir -p "${1%/*}/" || exit ;; esac
new="$1.orka-step.$$"
cat >"$new" && [ "$(($(wc -c <"$new")))" -eq "$3" ] && chmod "$2" "$new" && mv -f "$new" "$1" && exit
rm -f "$new"
exit 1"#;

/// Argument: path.
const READ: &str = r#"[ -f "$1" ] || exit 91
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
        let mode = format!("{:o}", mode & 0o7777);
        let size = bytes.len().to_string();
        let arguments = [path.as_slice(), mode.as_bytes(), size.as_bytes()];
        let start = Start::script(
            WRITE,
            arguments,
            Stdin::Bytes(Bytes::copy_from_slice(bytes)),
        );
        let mut command = command::start(self.lease().await?, self.address(), start).await?;
        let said = command.collect(0).await?;
        match said.exit {
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
        let path = remote.argument();
        let start = Start::script(READ, [path.as_slice()], Stdin::None);
        let mut command = command::start(self.lease().await?, self.address(), start).await?;
        let said = command.collect(bytes_max).await?;
        match said.exit {
            Some(Exit::Status(0)) => Ok(said.stdout),
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
