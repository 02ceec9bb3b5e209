//! Single small files by SFTP.

use bytes::Bytes;

use super::wire::{self, Attributes, Reply};
use super::{Refusal, Sftp, sftp_path};
use crate::connection::Connection;
use crate::transfer::Direction;
use crate::{Error, RemotePath};

impl Connection {
    /// As [`Connection::write_file`].
    pub(in crate::transfer) async fn write_file_by_sftp(
        &self,
        remote: &RemotePath,
        bytes: &[u8],
        mode: u32,
    ) -> Result<(), Error> {
        let sftp = self.sftp().await?;
        let path = sftp_path(remote);
        let fresh = [
            path.as_slice(),
            format!(".orka-step.{:08x}", rand::random::<u32>()).as_bytes(),
        ]
        .concat();
        let written = async {
            if let Some(at) = path
                .iter()
                .rposition(|&byte| byte == b'/')
                .filter(|&at| at > 0)
            {
                sftp.make_directories(&path[..at]).await?;
            }
            write(&sftp, &fresh, bytes, mode).await?;
            rename(&sftp, &fresh, &path).await
        };
        let outcome = written.await;
        if outcome.is_err()
            && let Ok(removed) = sftp.with_path(wire::REMOVE, &fresh).await
        {
            // What is told is why it could not be written.
            let _ = removed.done().await;
        }
        outcome.map_err(|refusal| refusal.at(Direction::Upload, &path, "it could not be written"))
    }

    /// As [`Connection::read_file`].
    pub(in crate::transfer) async fn read_file_by_sftp(
        &self,
        remote: &RemotePath,
        bytes_max: usize,
    ) -> Result<Vec<u8>, Error> {
        let sftp = self.sftp().await?;
        let path = sftp_path(remote);
        let opened = sftp
            .open(&path, wire::READ_FLAG, Attributes::default())
            .await?;
        let unreadable =
            |refusal: Refusal| refusal.at(Direction::Download, &path, "it cannot be read");
        let handle = match opened.handle().await {
            Err(refusal) if refusal.is(wire::NO_SUCH_FILE) => {
                return Err(Error::NotFound {
                    path: remote.to_string(),
                });
            }
            handle => handle.map_err(unreadable)?,
        };
        let mut contents = Vec::new();
        loop {
            let asked = sftp
                .read(&handle, contents.len() as u64, sftp.data_max)
                .await?;
            match asked.reply().await {
                Ok(Reply::Data(bytes)) if !bytes.is_empty() => contents.extend_from_slice(&bytes),
                Err(refusal) if refusal.is(wire::END_OF_FILE) => return Ok(contents),
                Err(refusal) => return Err(unreadable(refusal)),
                Ok(_) => return Err(unreadable(super::odd("data"))),
            }
            if contents.len() > bytes_max {
                return Err(Error::LimitExceeded {
                    direction: Direction::Download,
                    limit: "bytes",
                    allowed: bytes_max as u64,
                    entry: remote.to_string(),
                });
            }
        }
    }
}

async fn write(sftp: &Sftp, path: &[u8], bytes: &[u8], mode: u32) -> Result<(), Refusal> {
    let flags = wire::WRITE_FLAG | wire::CREATE_FLAG | wire::EXCLUSIVE_FLAG;
    let private = Attributes::of(0o600, None);
    let handle = sftp.open(path, flags, private).await?.handle().await?;
    let mut offset = 0;
    for part in bytes.chunks(sftp.data_max) {
        let written = sftp
            .write(&handle, offset, Bytes::copy_from_slice(part), None)
            .await?;
        written.done().await?;
        offset += part.len() as u64;
    }
    let attributes = Attributes {
        mode: Some(mode & 0o7777),
        ..Attributes::default()
    };
    let described = sftp.set_attributes(wire::FSETSTAT, &handle, attributes);
    described.await?.done().await?;
    sftp.close(&handle).await?.done().await
}

/// Takes the place of what is there, in one step where the server can.
async fn rename(sftp: &Sftp, from: &[u8], to: &[u8]) -> Result<(), Refusal> {
    const POSIX_RENAME: &[u8] = b"posix-rename@openssh.com";
    if sftp.has(POSIX_RENAME) {
        let renamed = sftp
            .send(wire::EXTENDED, |body| {
                wire::put_string(body, POSIX_RENAME);
                wire::put_string(body, from);
                wire::put_string(body, to);
            })
            .await?;
        return renamed.done().await;
    }
    // The protocol's own rename replaces nothing.
    let _ = sftp.with_path(wire::REMOVE, to).await?.done().await;
    let renamed = sftp
        .send(wire::RENAME, |body| {
            wire::put_string(body, from);
            wire::put_string(body, to);
        })
        .await?;
    renamed.done().await
}
