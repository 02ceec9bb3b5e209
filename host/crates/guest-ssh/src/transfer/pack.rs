//! Reading a tree of ours and writing it as a tar stream, one pass, on a thread of its own.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use cap_fs_ext::{FollowSymlinks, OpenOptionsFollowExt};
use cap_std::fs::{Dir, Metadata, MetadataExt, OpenOptions, PermissionsExt};
use rustix::fs::SeekFrom;
use tokio::sync::mpsc;

use super::apple::{self, MAGIC};
use super::digest::Hasher;
use super::header::{self, Extents, Outgoing, Stamp};
use super::ignore_file::IgnoreFiles;
use super::{
    Counters, Direction, FileDigest, Limits, Meter, Moved, PIECE, Selection, Skipped,
    TransferOptions,
};
use crate::Error;

/// Holes smaller than this together are sent as the zeros they are: a map costs the receiver more.
const HOLES_MIN: u64 = 1024 * 1024;

/// Ranges of data in one file beyond which its holes are sent as zeros.
const EXTENTS_MAX: usize = 64 * 1024;

/// Walks a tree and writes it as a tar stream.
pub(super) struct Packer {
    root: Dir,
    selection: Selection,
    limits: Limits,
    counters: Arc<Counters>,
    pieces: mpsc::Sender<Bytes>,
    /// Whether files with holes are sent without them.
    sparse: bool,
}

impl Packer {
    pub(super) fn new(
        dir: &Dir,
        selection: &Selection,
        options: &TransferOptions,
        counters: Arc<Counters>,
        pieces: mpsc::Sender<Bytes>,
        sparse: bool,
    ) -> Result<Self, Error> {
        let root = dir.try_clone().map_err(|problem| Error::Transfer {
            direction: Direction::Upload,
            entry: ".".to_owned(),
            reason: "the directory cannot be opened".to_owned(),
            source: Some(problem),
        })?;
        Ok(Self {
            root,
            selection: selection.clone(),
            limits: options.limits,
            counters,
            pieces,
            sparse,
        })
    }

    pub(super) fn pack(self) -> Result<Moved, Error> {
        let meter = Meter {
            direction: Direction::Upload,
            limits: self.limits,
            counters: &self.counters,
        };
        let mut archive = PieceWriter::new(self.pieces.clone());
        let mut moved = Moved::default();
        let root = self
            .root
            .try_clone()
            .map_err(|problem| meter.failed(b".", "it cannot be opened", problem))?;
        // Depth first and each directory just ahead of what is in it: `tar` sets a directory's time when the stream
        // leaves it, so it must not come back.
        let mut folders = vec![Folder {
            path: PathBuf::new(),
            dir: root,
            inside: false,
            metadata: None,
            ignored: IgnoreFiles::default(),
        }];
        while let Some(folder) = folders.pop() {
            let packing = Packing {
                folder: &folder.dir,
                meter: &meter,
                sparse: self.sparse,
            };
            if let Some(metadata) = &folder.metadata {
                let entry = Entry {
                    name: &OsString::new(),
                    path: &folder.path,
                    metadata,
                };
                packing.entry(&entry, &mut archive, &mut moved)?;
            }
            let mut below = Vec::new();
            let ignored = folder.ignored.enter(&folder.dir, &folder.path, &meter)?;
            let listed = list(&folder, &meter)?;
            for (name, metadata) in &listed {
                let path = folder.path.join(name);
                if ignored.ignores(&path, metadata.is_dir()) {
                    continue;
                }
                let decision = self
                    .selection
                    .decide(&path, metadata.is_dir(), folder.inside);
                if metadata.is_dir() {
                    if decision.visit
                        && (decision.inside || leads_somewhere(&self.selection, &path))
                    {
                        let dir = open_folder(&folder.dir, name, &path, &meter)?;
                        let metadata = decision.inside.then(|| metadata.clone());
                        below.push(Folder {
                            path,
                            dir,
                            inside: decision.inside,
                            metadata,
                            ignored: ignored.clone(),
                        });
                    }
                } else if decision.inside {
                    let has = |name: &[u8]| {
                        let at = |entry: &(OsString, Metadata)| entry.0.as_bytes().cmp(name);
                        listed.binary_search_by(at).is_ok()
                    };
                    if apple::partner(name.as_bytes()).is_some_and(has)
                        && metadata.is_file()
                        && starts_as_apple_double(&folder.dir, name)
                    {
                        moved.apple_doubles += 1;
                        continue;
                    }
                    let entry = Entry {
                        name,
                        path: &path,
                        metadata,
                    };
                    packing.entry(&entry, &mut archive, &mut moved)?;
                }
            }
            folders.extend(below.into_iter().rev());
        }
        let finished = header::end(&mut archive).and_then(|()| archive.flush());
        finished.map_err(|problem| meter.failed(b".", "the VM stopped reading", problem))?;
        Ok(moved)
    }
}

/// Whether something below the directory may be selected although it is not.
pub(super) fn leads_somewhere(selection: &Selection, path: &Path) -> bool {
    selection
        .starts()
        .iter()
        .any(|start| start.starts_with(path) || path.starts_with(start))
}

struct Folder {
    path: PathBuf,
    dir: Dir,
    inside: bool,
    /// Present where the directory itself takes part.
    metadata: Option<Metadata>,
    /// The ignore files of the directories above.
    ignored: IgnoreFiles,
}

fn open_folder(
    parent: &Dir,
    name: &OsString,
    path: &Path,
    meter: &Meter<'_>,
) -> Result<Dir, Error> {
    cap_fs_ext::DirExt::open_dir_nofollow(parent, name).map_err(|problem| {
        meter.failed(
            path.as_os_str().as_bytes(),
            "the directory cannot be opened",
            problem,
        )
    })
}

fn open_file(folder: &Dir, name: &OsString) -> io::Result<cap_std::fs::File> {
    let mut options = OpenOptions::new();
    options.read(true).follow(FollowSymlinks::No);
    folder.open_with(name, &options)
}

fn starts_as_apple_double(folder: &Dir, name: &OsString) -> bool {
    let mut start = [0; MAGIC.len()];
    open_file(folder, name)
        .and_then(|mut file| file.read_exact(&mut start))
        .is_ok_and(|()| start == MAGIC)
}

/// The entries of a directory by name, so that the same tree gives the same stream.
fn list(folder: &Folder, meter: &Meter<'_>) -> Result<Vec<(OsString, Metadata)>, Error> {
    let failed = |problem| {
        meter.failed(
            folder.path.as_os_str().as_bytes(),
            "the directory cannot be read",
            problem,
        )
    };
    let mut entries = Vec::new();
    for entry in folder.dir.entries().map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        match folder.dir.symlink_metadata(&name) {
            Ok(metadata) => entries.push((name, metadata)),
            // Deleted since: as if it had never been there.
            Err(problem) if problem.kind() == io::ErrorKind::NotFound => {}
            Err(problem) => return Err(failed(problem)),
        }
    }
    entries.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(entries)
}

struct Entry<'a> {
    name: &'a OsString,
    path: &'a Path,
    metadata: &'a Metadata,
}

impl Entry<'_> {
    fn bytes(&self) -> &[u8] {
        self.path.as_os_str().as_bytes()
    }
}

/// What the entries of one directory have in common.
struct Packing<'a> {
    folder: &'a Dir,
    meter: &'a Meter<'a>,
    sparse: bool,
}

impl Packing<'_> {
    fn entry(
        &self,
        entry: &Entry<'_>,
        archive: &mut PieceWriter,
        moved: &mut Moved,
    ) -> Result<(), Error> {
        let kind = entry.metadata.file_type();
        if !kind.is_dir() && !kind.is_file() && !kind.is_symlink() {
            let reason = "it is a socket, pipe or device".to_owned();
            moved.skipped.push(Skipped {
                path: entry.path.to_owned(),
                reason,
            });
            return Ok(());
        }
        self.meter.entry(entry.bytes())?;
        if kind.is_file() {
            moved.files.push(self.file(entry, archive)?);
            return Ok(());
        }
        let (kind, link) = if kind.is_dir() {
            (tar::EntryType::Directory, PathBuf::new())
        } else {
            let target = self
                .folder
                .read_link_contents(entry.name)
                .map_err(|problem| self.unreadable(entry, problem))?;
            (tar::EntryType::Symlink, target)
        };
        let outgoing = Outgoing {
            kind,
            path: entry.bytes(),
            link: link.as_os_str().as_bytes(),
            size: 0,
            extents: None,
            mode: entry.metadata.permissions().mode(),
            mtime: stamp(entry.metadata),
        };
        outgoing
            .write(archive)
            .map_err(|problem| self.not_sent(entry, problem))
    }

    fn file(&self, entry: &Entry<'_>, archive: &mut PieceWriter) -> Result<FileDigest, Error> {
        let file = open_file(self.folder, entry.name)
            .map_err(|problem| self.unreadable(entry, problem))?;
        let metadata = file
            .metadata()
            .map_err(|problem| self.unreadable(entry, problem))?;
        let mut file = file.into_std();
        let size = metadata.len();
        self.meter.announce(size, entry.bytes())?;
        let extents = if self.sparse {
            extents(&file, &metadata).map_err(|problem| self.unreadable(entry, problem))?
        } else {
            None
        };
        let outgoing = Outgoing {
            kind: tar::EntryType::Regular,
            path: entry.bytes(),
            link: b"",
            size,
            extents: extents.as_ref(),
            mode: metadata.permissions().mode(),
            mtime: stamp(&metadata),
        };
        outgoing
            .write(archive)
            .map_err(|problem| self.not_sent(entry, problem))?;
        let mut contents = Contents {
            packing: self,
            entry,
            file: &mut file,
            hasher: Hasher::default(),
        };
        // The size is promised in the header: not a byte more is taken, and one byte less ends the transfer.
        match &extents {
            None => contents.send(size, archive)?,
            Some(extents) => contents.send_extents(extents, size, archive)?,
        }
        let sha256 = contents.hasher.finish();
        header::pad(archive, outgoing_size(size, extents.as_ref()))
            .map_err(|problem| self.not_sent(entry, problem))?;
        Ok(FileDigest {
            path: entry.path.to_owned(),
            size,
            sha256,
        })
    }

    fn unreadable(&self, entry: &Entry<'_>, problem: io::Error) -> Error {
        self.meter
            .failed(entry.bytes(), "it cannot be read", problem)
    }

    fn not_sent(&self, entry: &Entry<'_>, problem: io::Error) -> Error {
        self.meter
            .failed(entry.bytes(), "it could not be sent", problem)
    }
}

fn outgoing_size(size: u64, extents: Option<&Extents>) -> u64 {
    extents.map_or(size, |extents| extents.iter().map(|part| part.1).sum())
}

/// A file on its way into the stream.
struct Contents<'a> {
    packing: &'a Packing<'a>,
    entry: &'a Entry<'a>,
    file: &'a mut File,
    hasher: Hasher,
}

impl Contents<'_> {
    fn send(&mut self, size: u64, archive: &mut PieceWriter) -> Result<(), Error> {
        let mut left = size;
        while left > 0 {
            let room = archive
                .room()
                .map_err(|problem| self.packing.not_sent(self.entry, problem))?;
            let wanted = room.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let count = match self.file.read(&mut room[..wanted]) {
                Ok(0) => {
                    let reason = "it became shorter while it was read";
                    return Err(self.packing.meter.refuse(self.entry.bytes(), reason));
                }
                Ok(count) => count,
                Err(problem) if problem.kind() == io::ErrorKind::Interrupted => continue,
                Err(problem) => return Err(self.packing.unreadable(self.entry, problem)),
            };
            self.hasher.update(&room[..count]);
            archive.used(count);
            self.packing.meter.add_bytes(count);
            left -= count as u64;
        }
        Ok(())
    }

    fn send_extents(
        &mut self,
        extents: &Extents,
        size: u64,
        archive: &mut PieceWriter,
    ) -> Result<(), Error> {
        let mut at = 0;
        for &(offset, length) in extents {
            self.hasher.zeros(offset - at);
            rustix::fs::seek(&*self.file, SeekFrom::Start(offset))
                .map_err(|problem| self.packing.unreadable(self.entry, problem.into()))?;
            self.send(length, archive)?;
            at = offset + length;
        }
        self.hasher.zeros(size - at);
        Ok(())
    }
}

/// Where a file with large holes has data; [`None`] for one that is better sent as it reads.
fn extents(file: &File, metadata: &Metadata) -> io::Result<Option<Extents>> {
    let size = metadata.len();
    let stored = metadata.blocks().saturating_mul(512);
    if size < HOLES_MIN || stored > size - HOLES_MIN {
        return Ok(None);
    }
    let mut extents = Extents::new();
    let mut at = 0;
    while at < size {
        let data = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(rustix::io::Errno::NXIO) => break,
            // A file system that cannot tell.
            Err(_) => {
                rustix::fs::seek(file, SeekFrom::Start(0))?;
                return Ok(None);
            }
        };
        if data >= size {
            break;
        }
        let hole = rustix::fs::seek(file, SeekFrom::Hole(data))?.min(size);
        extents.push((data, hole - data));
        at = hole;
        // The format lays ranges out in whole blocks; only the last may end within one.
        let block = super::archive::BLOCK as u64;
        let odd = data % block != 0 || (hole % block != 0 && hole != size);
        if odd || extents.len() > EXTENTS_MAX {
            rustix::fs::seek(file, SeekFrom::Start(0))?;
            return Ok(None);
        }
    }
    Ok(Some(extents))
}

fn stamp(metadata: &Metadata) -> Stamp {
    Stamp {
        seconds: metadata.mtime(),
        nanos: u32::try_from(metadata.mtime_nsec()).unwrap_or(0),
    }
}

/// Hands the archive to the sender in pieces; waits while the sender is behind.
pub(super) struct PieceWriter {
    pieces: mpsc::Sender<Bytes>,
    piece: BytesMut,
    filled: usize,
}

impl PieceWriter {
    pub(super) fn new(pieces: mpsc::Sender<Bytes>) -> Self {
        Self {
            pieces,
            piece: BytesMut::zeroed(PIECE),
            filled: 0,
        }
    }

    /// Room for at least one byte, to be filled from the front and told by [`Self::used`].
    fn room(&mut self) -> io::Result<&mut [u8]> {
        if self.filled == PIECE {
            self.flush()?;
        }
        Ok(&mut self.piece[self.filled..])
    }

    fn used(&mut self, count: usize) {
        self.filled += count;
    }
}

impl Write for PieceWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.room()?;
        let count = bytes.len().min(room.len());
        room[..count].copy_from_slice(&bytes[..count]);
        self.used(count);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.filled == 0 {
            return Ok(());
        }
        let mut full = std::mem::replace(&mut self.piece, BytesMut::zeroed(PIECE));
        full.truncate(self.filled);
        self.filled = 0;
        self.pieces
            .blocking_send(full.freeze())
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
