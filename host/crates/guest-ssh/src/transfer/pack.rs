//! Reading a tree of ours and writing it as a tar stream, one pass, on a thread of its own.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use cap_std::fs::{Dir, Metadata, MetadataExt, PermissionsExt};
use rustix::fs::SeekFrom;
use tokio::sync::mpsc;

use super::header::{self, Extents, Outgoing, Stamp};
use super::walk::{Entry, Walk, open_file};
use super::{
    Counters, Direction, Limits, Meter, Moved, PIECE, Selection, Skipped, TransferOptions,
};
use crate::Error;

/// Holes smaller than this together are sent as the zeros they are: a map costs the receiver more.
const HOLES_MIN: u64 = 1024 * 1024;

/// Ranges of data in one file beyond which its holes are sent as zeros.
const EXTENTS_MAX: usize = 64 * 1024;

/// Walks a tree and writes it as a tar stream.
pub(super) struct Packer {
    walk: Walk,
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
        Ok(Self {
            walk: Walk::new(dir, selection)?,
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
        let walked = self.walk.through(&meter, &mut |folder, entry| {
            let packing = Packing {
                folder,
                meter: &meter,
                sparse: self.sparse,
            };
            packing.entry(entry, &mut archive, &mut moved)
        })?;
        moved.apple_doubles = walked.apple_doubles;
        moved.warnings = walked.warnings;
        let finished = header::end(&mut archive).and_then(|()| archive.flush());
        finished.map_err(|problem| meter.failed(b".", "the VM stopped reading", problem))?;
        Ok(moved)
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
            moved.sent.bytes += self.file(entry, archive)?;
            moved.sent.files += 1;
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

    /// Sends a file; gives its size.
    fn file(&self, entry: &Entry<'_>, archive: &mut PieceWriter) -> Result<u64, Error> {
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
        };
        // The size is promised in the header: not a byte more is taken, and one byte less ends the transfer.
        match &extents {
            None => contents.send(size, archive)?,
            Some(extents) => contents.send_extents(extents, archive)?,
        }
        header::pad(archive, outgoing_size(size, extents.as_ref()))
            .map_err(|problem| self.not_sent(entry, problem))?;
        Ok(size)
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
            archive.used(count);
            self.packing.meter.add_bytes(count);
            left -= count as u64;
        }
        Ok(())
    }

    fn send_extents(&mut self, extents: &Extents, archive: &mut PieceWriter) -> Result<(), Error> {
        for &(offset, length) in extents {
            rustix::fs::seek(&*self.file, SeekFrom::Start(offset))
                .map_err(|problem| self.packing.unreadable(self.entry, problem.into()))?;
            self.send(length, archive)?;
        }
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
