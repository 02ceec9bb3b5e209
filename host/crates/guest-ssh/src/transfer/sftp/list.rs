//! Looking for what is selected in a tree that only SFTP shows: directories are read side by side, each a few names at a
//! time, and of all names together no more is held than a fixed number of bytes.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::fetch::at;
use super::wire::{self, Attributes, Reply};
use super::{DIRECTORY, KIND, LINK, REGULAR, Sftp, below};
use crate::Error;
use crate::quote::printable;
use crate::transfer::complaints::Gone;
use crate::transfer::header::Stamp;
use crate::transfer::listing::{Detail, Listed};
use crate::transfer::receive::relative;
use crate::transfer::walk::leads_somewhere;
use crate::transfer::{Direction, Limits, Selection, joined};

/// Names of entries that one transfer looks at, selected or not: a listing that never ends is cut off.
const LOOKED_AT_MAX: u64 = 10_000_000;

/// Bytes of what was found and of directories still to be read, together: as many entries as a transfer may have by
/// default, with paths of a hundred bytes. A server may give names of 250 KB.
const HELD_MAX: usize = 96 * 1024 * 1024;

/// What an entry takes beside the bytes of its path, with what an allocation takes.
const ENTRY_OVERHEAD: usize = size_of::<Found>() + 16;

/// An entry that is wanted.
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) detail: Detail,
}

/// What a walk came to.
pub(super) struct Listing {
    /// Everything selected, by path, directories ahead of what is in them.
    pub(super) found: Vec<Found>,
    pub(super) warnings: Vec<String>,
}

/// Looks for what is selected.
pub(super) struct Walk<'a> {
    sftp: &'a Arc<Sftp>,
    root: &'a [u8],
    selection: &'a Selection,
    limits: &'a Limits,
    found: Vec<Found>,
    /// Directories to be looked into, and whether they are selected. The last comes first: so a tree takes no more of
    /// them than its depth, times what a directory holds.
    waiting: Vec<(PathBuf, bool)>,
    held: usize,
    looked_at: u64,
    gone: Gone,
}

/// A few names of one directory: where it is, and whether it is selected.
struct Batch {
    folder: Arc<Path>,
    inside: bool,
    names: Vec<(Bytes, Attributes)>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        sftp: &'a Arc<Sftp>,
        root: &'a [u8],
        selection: &'a Selection,
        limits: &'a Limits,
    ) -> Self {
        Self {
            sftp,
            root,
            selection,
            limits,
            found: Vec::new(),
            waiting: vec![(PathBuf::new(), false)],
            held: ENTRY_OVERHEAD,
            looked_at: 0,
            gone: Gone::default(),
        }
    }

    pub(super) async fn all(mut self) -> Result<Listing, Error> {
        // One place: who reads waits for who looks, so of each directory no more is held than one answer.
        let (sender, mut batches) = mpsc::channel(1);
        let mut reading = JoinSet::new();
        loop {
            while reading.len() < self.sftp.handles_max
                && let Some((path, inside)) = self.waiting.pop()
            {
                self.held -= path.as_os_str().len() + ENTRY_OVERHEAD;
                reading.spawn(read_directory(
                    Arc::clone(self.sftp),
                    below(self.root, path.as_os_str().as_bytes()),
                    path.into(),
                    inside,
                    sender.clone(),
                ));
            }
            tokio::select! {
                // What was read comes before the news that all was.
                biased;
                Some(batch) = batches.recv() => {
                    let Batch { folder, inside, names } = batch;
                    for (name, attributes) in names {
                        self.entry(&folder, inside, &name, attributes)?;
                    }
                }
                done = reading.join_next() => match done {
                    Some(done) => {
                        if let Some(folder) = joined(done)? {
                            self.gone.push(folder.as_os_str().as_bytes());
                        }
                    }
                    None => break,
                },
            }
        }
        self.found.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(Listing {
            found: self.found,
            warnings: self.gone.warnings().collect(),
        })
    }

    /// Keeps an entry that is wanted, and a directory that is to be looked into.
    fn entry(
        &mut self,
        folder: &Path,
        inside: bool,
        name: &[u8],
        attributes: Attributes,
    ) -> Result<(), Error> {
        if name == b"." || name == b".." {
            return Ok(());
        }
        let refuse = |reason: &str| Error::Transfer {
            direction: Direction::Download,
            entry: printable(name),
            reason: reason.to_owned(),
            source: None,
        };
        if name.contains(&b'/') || name.is_empty() {
            return Err(refuse("it is listed with a name that is no name"));
        }
        let path = relative(&below(folder.as_os_str().as_bytes(), name)[..])
            .or_else(|_| relative(name).map(|name| folder.join(name)))
            .map_err(refuse)?;
        self.looked_at += 1;
        if self.looked_at > LOOKED_AT_MAX {
            return Err(self.exceeded("entries", LOOKED_AT_MAX, &path));
        }
        if path.as_os_str().len() > self.limits.path_bytes {
            return Err(self.exceeded("bytes in a path", self.limits.path_bytes as u64, &path));
        }
        let mode = attributes
            .mode
            .ok_or_else(|| refuse("the server does not say what it is"))?;
        let kind = match mode & KIND {
            DIRECTORY => Listed::Directory,
            REGULAR => Listed::File,
            LINK => Listed::Link,
            // As `find` is told: sockets, pipes and devices are not listed.
            _ => return Ok(()),
        };
        let is_dir = kind == Listed::Directory;
        let decision = self.selection.decide(&path, is_dir, inside);
        if is_dir && decision.visit && (decision.inside || leads_somewhere(self.selection, &path)) {
            self.hold(&path)?;
            self.waiting.push((path.clone(), decision.inside));
        }
        if decision.inside && decision.visit {
            if self.found.len() as u64 >= self.limits.entries {
                return Err(self.exceeded("entries", self.limits.entries, &path));
            }
            let size = match kind {
                Listed::File => attributes.size.unwrap_or(0),
                _ => 0,
            };
            let mtime = Stamp {
                seconds: attributes.mtime.unwrap_or(0).into(),
                nanos: 0,
            };
            let detail = Detail {
                kind,
                size,
                mtime,
                mode: mode & 0o777,
            };
            self.hold(&path)?;
            self.found.push(Found { path, detail });
        }
        Ok(())
    }

    /// Counts what one more path takes.
    fn hold(&mut self, path: &Path) -> Result<(), Error> {
        self.held += path.as_os_str().len() + ENTRY_OVERHEAD;
        if self.held > HELD_MAX {
            return Err(self.exceeded("bytes of names", HELD_MAX as u64, path));
        }
        Ok(())
    }

    fn exceeded(&self, limit: &'static str, allowed: u64, path: &Path) -> Error {
        Error::LimitExceeded {
            direction: Direction::Download,
            limit,
            allowed,
            entry: printable(path.as_os_str().as_bytes()),
        }
    }
}

/// Hands on the names of a directory; gives back its path if it is no longer there.
async fn read_directory(
    sftp: Arc<Sftp>,
    path: Vec<u8>,
    folder: Arc<Path>,
    inside: bool,
    batches: mpsc::Sender<Batch>,
) -> Result<Option<Arc<Path>>, Error> {
    let unreadable = |refusal| at(refusal, &path, "the directory cannot be read");
    let opened = sftp.with_path(wire::OPENDIR, &path).await?;
    let handle = match opened.handle().await {
        Err(refusal) if refusal.is(wire::NO_SUCH_FILE) && folder.parent().is_some() => {
            return Ok(Some(folder));
        }
        handle => handle.map_err(unreadable)?,
    };
    loop {
        match sftp.with_path(wire::READDIR, &handle).await?.reply().await {
            Ok(Reply::Names(names)) if !names.is_empty() => {
                let batch = Batch {
                    folder: Arc::clone(&folder),
                    inside,
                    names,
                };
                if batches.send(batch).await.is_err() {
                    // Whoever looks has seen enough.
                    return Ok(None);
                }
            }
            Err(refusal) if refusal.is(wire::END_OF_FILE) => break,
            Err(refusal) => return Err(unreadable(refusal)),
            Ok(_) => return Err(unreadable(super::odd("names"))),
        }
    }
    let closed = sftp.close(&handle).await?.done().await;
    closed.map_err(unreadable)?;
    Ok(None)
}
