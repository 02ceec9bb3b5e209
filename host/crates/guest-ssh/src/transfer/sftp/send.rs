//! Sending a tree by SFTP: the packer's stream is read back on a second thread and becomes requests, many files at once.

use std::sync::Arc;

use bytes::Bytes;
use cap_std::fs::Dir;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

use super::wire::{self, Attributes};
use super::{DIRECTORY, IN_FLIGHT, KIND, Refusal, SIDE_BY_SIDE, Sftp, below, sftp_path};
use crate::connection::Connection;
use crate::transfer::archive::{Fault, Kind, Member, PieceReader, Reader};
use crate::transfer::attempt::{Ended, Plan};
use crate::transfer::compress::Pace;
use crate::transfer::pack::Packer;
use crate::transfer::walk::Walk;
use crate::transfer::{
    Counters, Direction, Moved, PIPE_PIECES, Reporter, Selection, TransferProgress, joined,
};
use crate::{Error, RemotePath};

/// Part of a file, holding its share of what may be in flight.
type Part = (Bytes, OwnedSemaphorePermit);

/// Something to be made in the VM.
enum Job {
    Directory(Member),
    Link(Member),
    File(Member, mpsc::UnboundedReceiver<Part>),
}

impl Connection {
    /// One attempt to send a tree by SFTP.
    pub(in crate::transfer) async fn upload_by_sftp(
        &self,
        dir: &Dir,
        files: &Selection,
        remote: &RemotePath,
        plan: &Plan<'_>,
        progress: &(impl Fn(&TransferProgress) + Send),
    ) -> Result<(Moved, Pace), Ended> {
        let counters = Arc::new(Counters::default());
        let sftp = Arc::new(self.sftp().await?);
        let root = sftp_path(remote);
        sftp.make_directories(&root)
            .await
            .map_err(|refusal| at(refusal, &root, "the directory cannot be made"))?;

        let (pieces, queue) = mpsc::channel(PIPE_PIECES);
        let packer = Packer::new(
            dir,
            files,
            plan.options,
            Arc::clone(&counters),
            pieces,
            false,
        )?;
        let packing = tokio::task::spawn_blocking(move || packer.pack());
        if plan.options.totals {
            let (walk, counters) = (Walk::new(dir, files)?, Arc::clone(&counters));
            tokio::task::spawn_blocking(move || walk.measure(&counters));
        }
        let room = Arc::new(Semaphore::new(IN_FLIGHT));
        let (jobs, todo) = mpsc::channel(SIDE_BY_SIDE);
        let unpacker = Unpacker {
            reader: Reader::new(PieceReader::new(queue)),
            jobs,
            room: Arc::clone(&room),
            part: sftp.data_max,
            runtime: tokio::runtime::Handle::current(),
        };
        let unpacking = tokio::task::spawn_blocking(move || unpacker.run());
        let mut reporter = Reporter::new(progress, &counters);
        let made = make_all(&sftp, &root, todo, &mut reporter).await;
        // Whoever waits for room or for a job to be taken is let go.
        room.close();
        let unpacked = joined(unpacking.await.map(Ok));
        let packed = joined(packing.await);
        reporter.finish();
        made?;
        let moved = packed?;
        if let Err(fault) = unpacked? {
            return Err(Ended::Failed(Error::Invalid {
                what: "archive",
                reason: fault.to_string(),
            }));
        }
        Ok((moved, plan.pace()))
    }
}

fn at(refusal: Refusal, entry: &[u8], what: &str) -> Error {
    refusal.at(Direction::Upload, entry, what)
}

/// Reads the packer's stream.
struct Unpacker {
    reader: Reader<PieceReader>,
    jobs: mpsc::Sender<Job>,
    room: Arc<Semaphore>,
    part: usize,
    runtime: tokio::runtime::Handle,
}

impl Unpacker {
    /// Ends early, and well, where nobody takes the jobs any more.
    fn run(mut self) -> Result<(), Fault> {
        while let Some(member) = self.reader.next()? {
            let size = member.size;
            let (parts, contents) = mpsc::unbounded_channel();
            let job = match member.kind {
                Kind::Directory => Job::Directory(member),
                Kind::Symlink => Job::Link(member),
                // The packer makes no hard links.
                Kind::File | Kind::HardLink => Job::File(member, contents),
            };
            if self.jobs.blocking_send(job).is_err() || !self.pass_on(size, &parts)? {
                return Ok(());
            }
        }
        self.reader.finish()
    }

    fn pass_on(&mut self, size: u64, parts: &mpsc::UnboundedSender<Part>) -> Result<bool, Fault> {
        let mut left = size;
        while left > 0 {
            let length = self.part.min(usize::try_from(left).unwrap_or(usize::MAX));
            let permits = u32::try_from(length).unwrap_or(u32::MAX);
            let room = Arc::clone(&self.room).acquire_many_owned(permits);
            let Ok(held) = self.runtime.block_on(room) else {
                return Ok(false);
            };
            let mut part = vec![0; length];
            let mut filled = 0;
            while filled < length {
                match self.reader.read(&mut part[filled..])? {
                    // Told by the reader where it is an error; the packer's own failure is told by the packer.
                    0 => return Ok(false),
                    count => filled += count,
                }
            }
            left -= length as u64;
            if parts.send((part.into(), held)).is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

async fn make_all<F: Fn(&TransferProgress)>(
    sftp: &Arc<Sftp>,
    root: &[u8],
    mut todo: mpsc::Receiver<Job>,
    reporter: &mut Reporter<'_, F>,
) -> Result<(), Error> {
    let mut running = JoinSet::new();
    let mut directories = Vec::new();
    while let Some(job) = todo.recv().await {
        reporter.tick();
        while running.len() >= sftp.handles_max {
            finish_one(&mut running).await?;
        }
        let (sftp, root) = (Arc::clone(sftp), root.to_vec());
        match job {
            Job::Directory(member) => {
                let path = below(&root, &member.path);
                make_directory(&sftp, &path)
                    .await
                    .map_err(|refusal| at(refusal, &member.path, "it could not be made"))?;
                directories.push(member);
            }
            Job::Link(member) => {
                running.spawn(async move {
                    let made = make_link(&sftp, &below(&root, &member.path), &member).await;
                    made.map_err(|refusal| at(refusal, &member.path, "it could not be made"))
                });
            }
            Job::File(member, contents) => {
                running.spawn(async move {
                    let put = put(&sftp, &below(&root, &member.path), &member, contents).await;
                    put.map_err(|refusal| at(refusal, &member.path, "it could not be written"))
                });
            }
        }
    }
    while !running.is_empty() {
        finish_one(&mut running).await?;
    }
    // Writing into a directory changes its time, and may need its mode: the deepest first.
    for member in directories.into_iter().rev() {
        let sftp = Arc::clone(sftp);
        let path = below(root, &member.path);
        while running.len() >= SIDE_BY_SIDE {
            finish_one(&mut running).await?;
        }
        running.spawn(async move {
            let attributes = Attributes::of(member.mode, Some(member.mtime));
            let set = sftp.set_attributes(wire::SETSTAT, &path, attributes);
            let done = async { set.await?.done().await };
            done.await
                .map_err(|refusal| at(refusal, &member.path, "its mode and time could not be set"))
        });
    }
    while !running.is_empty() {
        finish_one(&mut running).await?;
    }
    Ok(())
}

async fn finish_one(running: &mut JoinSet<Result<(), Error>>) -> Result<(), Error> {
    match running.join_next().await {
        Some(outcome) => joined(outcome),
        None => Ok(()),
    }
}

/// A directory that is there stays; a link or file of its name makes room, as with `tar`.
async fn make_directory(sftp: &Sftp, path: &[u8]) -> Result<(), Refusal> {
    let make = || async {
        let attributes = Attributes::of(0o700, None);
        let made = sftp.set_attributes(wire::MKDIR, path, attributes).await?;
        made.done().await
    };
    let refusal = match make().await {
        Err(refusal @ Refusal::Status { .. }) => refusal,
        made => return made,
    };
    let found = sftp.with_path(wire::LSTAT, path).await?.attributes().await;
    match found {
        Ok(found) if found.mode.is_some_and(|mode| mode & KIND == DIRECTORY) => Ok(()),
        Ok(_) => {
            sftp.with_path(wire::REMOVE, path).await?.done().await?;
            make().await
        }
        // The connection went before it could be asked, which is what went wrong.
        Err(broken @ Refusal::Broken(_)) => Err(broken),
        Err(_) => Err(refusal),
    }
}

async fn make_link(sftp: &Sftp, path: &[u8], member: &Member) -> Result<(), Refusal> {
    let removed = sftp.with_path(wire::REMOVE, path).await?;
    // OpenSSH has the arguments the other way round than the draft, and everybody follows it (its `PROTOCOL`, 4.1).
    let made = sftp
        .send(wire::SYMLINK, |body| {
            wire::put_string(body, &member.link);
            wire::put_string(body, path);
        })
        .await?;
    // Mostly there was nothing.
    let _ = removed.done().await;
    made.done().await?;
    const LSETSTAT: &[u8] = b"lsetstat@openssh.com";
    if sftp.has(LSETSTAT) {
        let set = sftp
            .send(wire::EXTENDED, |body| {
                wire::put_string(body, LSETSTAT);
                wire::put_string(body, path);
                let attributes = Attributes {
                    mode: None,
                    ..Attributes::of(0, Some(member.mtime))
                };
                attributes.put(body);
            })
            .await?;
        set.done().await?;
    }
    Ok(())
}

/// Writes one file. What had its name is removed first, so that nothing is written through a link or into a file that
/// something else holds open.
async fn put(
    sftp: &Sftp,
    path: &[u8],
    member: &Member,
    mut contents: mpsc::UnboundedReceiver<Part>,
) -> Result<(), Refusal> {
    let attributes = Attributes::of(member.mode, Some(member.mtime));
    let flags = wire::WRITE_FLAG | wire::CREATE_FLAG | wire::EXCLUSIVE_FLAG;
    let private = Attributes::of(0o600, None);
    let removed = sftp.with_path(wire::REMOVE, path).await?;
    let opened = sftp.open(path, flags, private).await?;
    let _ = removed.done().await;
    let handle = match opened.handle().await {
        Err(refusal @ Refusal::Status { .. }) => {
            // An empty directory makes room.
            match sftp.with_path(wire::RMDIR, path).await?.done().await {
                Ok(()) => {}
                Err(broken @ Refusal::Broken(_)) => return Err(broken),
                Err(_) => return Err(refusal),
            }
            sftp.open(path, flags, private).await?.handle().await?
        }
        handle => handle?,
    };
    let mut writes = std::collections::VecDeque::new();
    let mut offset = 0;
    while let Some((bytes, held)) = contents.recv().await {
        let length = bytes.len() as u64;
        writes.push_back(sftp.write(&handle, offset, bytes, Some(held)).await?);
        offset += length;
        if writes.len() > SIDE_BY_SIDE
            && let Some(first) = writes.pop_front()
        {
            first.done().await?;
        }
    }
    // A stream that broke off ends the transfer elsewhere; here it must not pass for a short file.
    if offset != member.size {
        return Err(Refusal::Status {
            code: wire::END_OF_FILE,
            message: "it was not sent to its end".to_owned(),
        });
    }
    // Servers keep the order of requests for one file, so these need not wait for the writes.
    let described = sftp
        .set_attributes(wire::FSETSTAT, &handle, attributes)
        .await?;
    let closed = sftp.close(&handle).await?;
    for write in writes {
        write.done().await?;
    }
    described.done().await?;
    closed.done().await?;
    Ok(())
}
