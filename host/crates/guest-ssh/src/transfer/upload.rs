//! Sending a tree: read and packed on one thread, sent on the channel as the VM takes it, its `tar` watched meanwhile.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use cap_fs_ext::{FollowSymlinks, OpenOptionsFollowExt};
use cap_std::fs::{Dir, Metadata, MetadataExt, OpenOptions, PermissionsExt};
use russh::ChannelWriteHalf;
use russh::client::Msg;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::digest::Hasher;
use super::{
    Counters, Direction, FileDigest, Limits, Meter, Moved, PIECE, PIPE_PIECES, Reporter, Selection,
    Skipped, TransferProgress, TransferSummary, script_error,
};
use crate::command::{self, Collected, Command, Exit, OutputChunk, Stream};
use crate::connection::Connection;
use crate::exec::{Start, Stdin};
use crate::{Error, RemotePath};

/// Argument: directory. `-o` and `-p` keep modes but not owners, in both kinds of `tar`.
const UNPACK: &str = r#"command -v tar >/dev/null || exit 92
mkdir -p "$1" && cd "$1" && COPYFILE_DISABLE=1 exec tar -xpof -"#;

impl Connection {
    /// Sends the selected entries of `dir` into the directory `remote`, which is made if it is not there.
    ///
    /// Files of the same name are overwritten, others stay. Modes (without set-user-id and the like), times to the
    /// second, symbolic links as they are, and empty directories are kept; hard links become files of their own, and
    /// sockets, pipes and devices are left out and named in the summary.
    ///
    /// # Errors
    ///
    /// [`Error::Transfer`] for an entry that cannot be read or changes while it is read, [`Error::LimitExceeded`],
    /// [`Error::RemoteToolMissing`], [`Error::RemoteFailed`] with `tar`'s words (a full disk, say), [`Error::Lost`].
    /// The VM may hold a part in each case.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops the transfer; the VM keeps what it has.
    pub async fn upload(
        &self,
        dir: &Dir,
        files: &Selection,
        remote: &RemotePath,
        limits: &Limits,
        progress: impl Fn(&TransferProgress) + Send,
    ) -> Result<TransferSummary, Error> {
        let started = Instant::now();
        let counters = Arc::new(Counters::default());
        let path = remote.argument();
        let start = Start::script(UNPACK, [path.as_slice()], Stdin::Open);
        let mut command = command::start(self.lease().await?, self.address(), start).await?;

        let (pieces, queue) = mpsc::channel(PIPE_PIECES);
        let packer = Packer::new(dir, files, *limits, Arc::clone(&counters), pieces)?;
        let packing = tokio::task::spawn_blocking(move || packer.pack());
        let mut reporter = Reporter::new(&progress, &counters);
        let sent = send(&mut command, queue, &mut reporter).await;
        // The pipe is closed by now whatever happened, so the thread ends.
        let packed = packing.await.map_err(|problem| Error::Invalid {
            what: "archive",
            reason: problem.to_string(),
        })?;
        reporter.finish();
        match (sent?, packed) {
            // A `tar` may leave at the end mark, before the end of its input reaches it.
            (Sent { said, .. }, Ok(moved)) if said.exit == Some(Exit::Status(0)) => {
                Ok(TransferSummary::of(moved, Vec::new(), started.elapsed()))
            }
            // Our own failure cut the archive short, and `tar` complains about that only.
            (
                Sent {
                    stopped_early: false,
                    ..
                },
                Err(problem),
            ) => Err(problem),
            (Sent { said, .. }, _) => Err(unpack_error(said)),
        }
    }
}

fn unpack_error(said: Collected) -> Error {
    let stderr = said.stderr.text();
    match said.exit {
        Some(exit) if !exit.success() => script_error("unpacking", &exit, stderr),
        exit => Error::RemoteFailed {
            what: "unpacking (it stopped reading early)",
            exit: exit.unwrap_or(Exit::Status(0)),
            stderr,
        },
    }
}

struct Sent {
    said: Collected,
    /// The VM's `tar` ended before it had everything.
    stopped_early: bool,
}

/// Sends the archive while listening: a `tar` that dies stops reading, and a sender that only sends would wait for ever
/// for window.
async fn send<F: Fn(&TransferProgress)>(
    command: &mut Command,
    mut queue: mpsc::Receiver<Bytes>,
    reporter: &mut Reporter<'_, F>,
) -> Result<Sent, Error> {
    let writer = command.writer();
    let mut said = Collected::default();
    let mut sending = std::pin::pin!(send_all(&writer, &mut queue, reporter));
    let mut sent_all = false;
    loop {
        tokio::select! {
            done = &mut sending, if !sent_all => {
                // A failed send means the channel is gone; the reading side says how.
                sent_all = done.is_ok();
                if !sent_all {
                    break;
                }
            }
            output = command.next_output() => match output {
                Some(OutputChunk { stream: Stream::Stderr, data }) => said.stderr.push(&data),
                Some(OutputChunk { stream: Stream::Stdout, .. }) => {}
                None => break,
            },
        }
    }
    while let Some(OutputChunk { data, .. }) = command.next_output().await {
        said.stderr.push(&data);
    }
    said.exit = Some(command.wait().await?);
    Ok(Sent {
        said,
        stopped_early: !sent_all,
    })
}

async fn send_all<F: Fn(&TransferProgress)>(
    writer: &ChannelWriteHalf<Msg>,
    queue: &mut mpsc::Receiver<Bytes>,
    reporter: &mut Reporter<'_, F>,
) -> Result<(), russh::Error> {
    while let Some(piece) = queue.recv().await {
        writer.data_bytes(piece).await?;
        reporter.tick();
    }
    writer.eof().await
}

/// Walks a tree and writes it as a tar stream.
struct Packer {
    root: Dir,
    selection: Selection,
    limits: Limits,
    counters: Arc<Counters>,
    pieces: mpsc::Sender<Bytes>,
}

impl Packer {
    fn new(
        dir: &Dir,
        selection: &Selection,
        limits: Limits,
        counters: Arc<Counters>,
        pieces: mpsc::Sender<Bytes>,
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
            limits,
            counters,
            pieces,
        })
    }

    fn pack(self) -> Result<Moved, Error> {
        let meter = Meter {
            direction: Direction::Upload,
            limits: self.limits,
            counters: &self.counters,
        };
        let mut archive = tar::Builder::new(PieceWriter {
            pieces: self.pieces.clone(),
            piece: BytesMut::with_capacity(PIECE),
        });
        // Archive members are written as told, not looked up.
        archive.follow_symlinks(false);
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
        }];
        while let Some(folder) = folders.pop() {
            if let Some(metadata) = &folder.metadata {
                Entry {
                    folder: &folder.dir,
                    name: &OsString::new(),
                    path: &folder.path,
                    metadata,
                }
                .pack(&mut archive, &meter, &mut moved)?;
            }
            let mut below = Vec::new();
            for (name, metadata) in list(&folder, &meter)? {
                let path = folder.path.join(&name);
                let decision = self
                    .selection
                    .decide(&path, metadata.is_dir(), folder.inside);
                if metadata.is_dir() {
                    if decision.visit && (decision.inside || self.leads_somewhere(&path)) {
                        let dir = open_folder(&folder.dir, &name, &path, &meter)?;
                        let metadata = decision.inside.then_some(metadata);
                        below.push(Folder {
                            path,
                            dir,
                            inside: decision.inside,
                            metadata,
                        });
                    }
                } else if decision.inside {
                    let entry = Entry {
                        folder: &folder.dir,
                        name: &name,
                        path: &path,
                        metadata: &metadata,
                    };
                    entry.pack(&mut archive, &meter, &mut moved)?;
                }
            }
            folders.extend(below.into_iter().rev());
        }
        let finished = archive.into_inner().and_then(|mut writer| writer.flush());
        finished.map_err(|problem| meter.failed(b".", "the VM stopped reading", problem))?;
        Ok(moved)
    }

    fn leads_somewhere(&self, path: &Path) -> bool {
        self.selection
            .starts()
            .iter()
            .any(|start| start.starts_with(path) || path.starts_with(start))
    }
}

struct Folder {
    path: PathBuf,
    dir: Dir,
    inside: bool,
    /// Present where the directory itself takes part.
    metadata: Option<Metadata>,
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
    folder: &'a Dir,
    name: &'a OsString,
    path: &'a Path,
    metadata: &'a Metadata,
}

type Archive = tar::Builder<PieceWriter>;

impl Entry<'_> {
    fn bytes(&self) -> &[u8] {
        self.path.as_os_str().as_bytes()
    }

    fn pack(
        &self,
        archive: &mut Archive,
        meter: &Meter<'_>,
        moved: &mut Moved,
    ) -> Result<(), Error> {
        let kind = self.metadata.file_type();
        if !kind.is_dir() && !kind.is_file() && !kind.is_symlink() {
            let reason = "it is a socket, pipe or device".to_owned();
            moved.skipped.push(Skipped {
                path: self.path.to_owned(),
                reason,
            });
            return Ok(());
        }
        meter.entry(self.bytes())?;
        if kind.is_dir() {
            let mut header = header(self.metadata, tar::EntryType::Directory, 0);
            let packed = archive.append_data(&mut header, self.path, io::empty());
            return packed.map_err(|problem| self.not_sent(meter, problem));
        }
        if kind.is_symlink() {
            let target = self
                .folder
                .read_link_contents(self.name)
                .map_err(|problem| self.unreadable(meter, problem))?;
            let packed = pack_link(
                archive,
                self.metadata,
                self.path,
                target.as_os_str().as_bytes(),
            );
            return packed.map_err(|problem| self.not_sent(meter, problem));
        }
        moved.files.push(self.pack_file(archive, meter)?);
        Ok(())
    }

    fn pack_file(&self, archive: &mut Archive, meter: &Meter<'_>) -> Result<FileDigest, Error> {
        let mut options = OpenOptions::new();
        options.read(true).follow(FollowSymlinks::No);
        let file = self
            .folder
            .open_with(self.name, &options)
            .map_err(|problem| self.unreadable(meter, problem))?;
        let metadata = file
            .metadata()
            .map_err(|problem| self.unreadable(meter, problem))?;
        let size = metadata.len();
        meter.announce(size, self.bytes())?;
        let mut header = header(&metadata, tar::EntryType::Regular, size);
        // The size is promised in the header: not a byte more is taken, and one byte less is noticed below.
        let mut contents = HashingReader {
            inner: file.take(size),
            hasher: Hasher::default(),
            meter,
            count: 0,
            failed: false,
        };
        let packed = archive.append_data(&mut header, self.path, &mut contents);
        let HashingReader {
            hasher,
            count,
            failed,
            ..
        } = contents;
        packed.map_err(|problem| {
            if failed {
                self.unreadable(meter, problem)
            } else {
                self.not_sent(meter, problem)
            }
        })?;
        if count != size {
            return Err(meter.refuse(self.bytes(), "it became shorter while it was read"));
        }
        Ok(FileDigest {
            path: self.path.to_owned(),
            size,
            sha256: hasher.finish(),
        })
    }

    fn unreadable(&self, meter: &Meter<'_>, problem: io::Error) -> Error {
        meter.failed(self.bytes(), "it cannot be read", problem)
    }

    fn not_sent(&self, meter: &Meter<'_>, problem: io::Error) -> Error {
        meter.failed(self.bytes(), "it could not be sent", problem)
    }
}

/// Writes a link exactly as it is; the library would tidy its target. Of a long target the header holds the beginning
/// too: without it bsdtar takes the link for an empty file.
fn pack_link(
    archive: &mut Archive,
    metadata: &Metadata,
    path: &Path,
    target: &[u8],
) -> io::Result<()> {
    let mut header = header(metadata, tar::EntryType::Symlink, 0);
    let room = header.as_old().linkname.len();
    if target.len() > room {
        let mut long = tar::Header::new_gnu();
        long.as_old_mut().name[..LONG_LINK.len()].copy_from_slice(LONG_LINK);
        long.set_entry_type(tar::EntryType::GNULongLink);
        long.set_mode(0o644);
        long.set_size(target.len() as u64 + 1);
        long.set_cksum();
        archive.append(&long, target.chain(&b"\0"[..]))?;
    }
    let shown = &target[..target.len().min(room)];
    header.as_old_mut().linkname[..shown.len()].copy_from_slice(shown);
    archive.append_data(&mut header, path, io::empty())
}

/// The name GNU tar gives to records with long names.
const LONG_LINK: &[u8] = b"././@LongLink";

fn header(metadata: &Metadata, kind: tar::EntryType, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(metadata.permissions().mode() & 0o777);
    header.set_mtime(metadata.mtime().max(0).unsigned_abs());
    header.set_uid(0);
    header.set_gid(0);
    header
}

struct HashingReader<'a, R> {
    inner: R,
    hasher: Hasher,
    meter: &'a Meter<'a>,
    count: u64,
    failed: bool,
}

impl<R: Read> Read for HashingReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer).inspect_err(|problem| {
            self.failed = problem.kind() != io::ErrorKind::Interrupted;
        })?;
        self.hasher.update(&buffer[..count]);
        self.count += count as u64;
        self.meter.add_bytes(count);
        Ok(count)
    }
}

/// Hands the archive to the sender in pieces; waits while the sender is behind.
struct PieceWriter {
    pieces: mpsc::Sender<Bytes>,
    piece: BytesMut,
}

impl Write for PieceWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..count]);
        if self.piece.len() == PIECE {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        let full = std::mem::replace(&mut self.piece, BytesMut::with_capacity(PIECE));
        if full.is_empty() {
            return Ok(());
        }
        self.pieces
            .blocking_send(full.freeze())
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
