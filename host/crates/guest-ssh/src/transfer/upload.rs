//! Sending a tree to the VM's `tar`: packed on one thread, sent on the channel as the VM takes it, `tar` watched meanwhile.

use std::sync::Arc;

use bytes::Bytes;
use russh::ChannelWriteHalf;
use russh::client::Msg;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::attempt::{Ended, Plan};
use super::compress::{self, Pace, Verdict};
use super::facts::{Beginning, Tar};
use super::full;
use super::in_flight::{self, InFlight};
use super::pack::Packer;
use super::walk::Walk;
use super::{Counters, Moved, PIPE_PIECES, Reporter, TransferProgress, joined, script_error};
use crate::command::{self, Collected, Command, Exit, OutputChunk, Stream};
use crate::connection::Connection;
use crate::exec::{Start, Stdin};
use crate::{Error, RemotePath, Selection};

use cap_std::fs::Dir;

/// Arguments: directory, `gzip` if the stream is compressed, and further options of `tar`, without a blank in them. `-o` and
/// `-p` keep modes but not owners, in both kinds of `tar`. A `gzip` that died would leave a shorter archive that `tar` may
/// take for whole, so its status counts too. Messages are in English, for [`full`] to know them.
const UNPACK: &str = r#"printf 'orka-step: begin\n'
command -v tar >/dev/null || exit 92
mkdir -p "$1" && cd "$1" || exit 1
COPYFILE_DISABLE=1; LC_MESSAGES=C; export COPYFILE_DISABLE LC_MESSAGES
[ "$2" = gzip ] || exec tar $3 -xpof -
unzipped=$({ { gzip -dc; echo $? >&3; } | tar $3 -xpof - >&2 3>&-; } 3>&1)
unpacked=$?
[ "$unzipped" = 0 ] || exit 94
exit "$unpacked""#;

impl Connection {
    /// One attempt to send a tree by `tar`.
    pub(super) async fn upload_by_tar(
        &self,
        dir: &Dir,
        files: &Selection,
        remote: &RemotePath,
        plan: &Plan<'_>,
        progress: &(impl Fn(&TransferProgress) + Send),
    ) -> Result<(Moved, Pace), Ended> {
        let counters = Arc::new(Counters::default());
        let path = remote.argument();
        let how: &[u8] = if plan.gzip { b"gzip" } else { b"plain" };
        // Both read 10 KiB at a time if nothing is said, which for large files costs as much as writing them.
        let blocks: &[u8] = match plan.facts.tar {
            Some(Tar::Gnu | Tar::Bsd) => b"-b256",
            Some(Tar::Other) | None => b"",
        };
        let start = Start::script(UNPACK, [path.as_slice(), how, blocks], Stdin::Open);
        let lease = self.lease().await?;
        let limit = in_flight::limit(&lease, self.server_version()).await;
        let mut command = command::start(lease, self.address(), start).await?;
        let in_flight = InFlight::new(limit, command.window());

        let (pieces, queue) = mpsc::channel(PIPE_PIECES);
        let packer = Packer::new(
            dir,
            files,
            plan.options,
            Arc::clone(&counters),
            pieces,
            true,
        )?;
        let packing = tokio::task::spawn_blocking(move || packer.pack());
        if plan.options.totals {
            let (walk, counters) = (Walk::new(dir, files)?, Arc::clone(&counters));
            tokio::task::spawn_blocking(move || walk.measure(&counters));
        }
        let queue = if plan.gzip {
            compress::packed(queue)
        } else {
            queue
        };
        let mut reporter = Reporter::new(progress, &counters);
        let mut pace = plan.pace();
        let sent = send(&mut command, queue, in_flight, &mut reporter, &mut pace).await;
        // The pipe is closed by now whatever happened, so the thread ends.
        let packed = joined(packing.await);
        reporter.finish();
        let sent = match sent {
            Err(Ended::Restart { why, .. }) => {
                let rate = pace.rate;
                return Err(Ended::Restart { why, rate });
            }
            sent => sent?,
        };
        if !sent.begun {
            return Err(self.no_shell(&sent.said.stderr.text()).into());
        }
        match (sent, packed) {
            // A `tar` may leave at the end mark, before the end of its input reaches it.
            (Sent { said, .. }, Ok(moved)) if said.exit == Some(Exit::Status(0)) => {
                Ok((moved, pace))
            }
            // Our own failure cut the archive short, and `tar` complains about that only.
            (
                Sent {
                    stopped_early: false,
                    ..
                },
                Err(problem),
            ) => Err(problem.into()),
            (Sent { said, .. }, _) => match full::entry(&said.stderr.text()) {
                Some(entry) => Err(self.vm_full(entry, remote).await.into()),
                None => Err(unpack_error(said).into()),
            },
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
    /// Our script was what answered.
    begun: bool,
    /// The VM's `tar` ended before it had everything.
    stopped_early: bool,
}

/// Sends the archive while listening: a `tar` that dies stops reading, and a sender that only sends would wait for ever
/// for window.
async fn send<F: Fn(&TransferProgress)>(
    command: &mut Command,
    mut queue: mpsc::Receiver<Bytes>,
    mut in_flight: InFlight,
    reporter: &mut Reporter<'_, F>,
    pace: &mut Pace,
) -> Result<Sent, Ended> {
    let writer = command.writer();
    let mut said = Collected::default();
    let mut beginning = Beginning::default();
    let mut sending = std::pin::pin!(send_all(
        &writer,
        &mut queue,
        &mut in_flight,
        reporter,
        pace
    ));
    let mut sent_all = false;
    loop {
        tokio::select! {
            done = &mut sending, if !sent_all => match done {
                Ok(Verdict::Restart(why)) => return Err(Ended::Restart { why, rate: None }),
                Ok(Verdict::GoOn) => sent_all = true,
                // A failed send means the channel is gone; the reading side says how.
                Err(_) => break,
            },
            output = command.next_output() => match output {
                Some(OutputChunk { stream: Stream::Stderr, data }) => said.stderr.push(&data),
                Some(OutputChunk { stream: Stream::Stdout, data }) => drop(beginning.strip(data)),
                None => break,
            },
        }
    }
    while let Some(OutputChunk { stream, data }) = command.next_output().await {
        match stream {
            Stream::Stderr => said.stderr.push(&data),
            Stream::Stdout => drop(beginning.strip(data)),
        }
    }
    said.exit = Some(command.wait().await?);
    Ok(Sent {
        said,
        begun: beginning.begun(),
        stopped_early: !sent_all,
    })
}

async fn send_all<F: Fn(&TransferProgress)>(
    writer: &ChannelWriteHalf<Msg>,
    queue: &mut mpsc::Receiver<Bytes>,
    in_flight: &mut InFlight,
    reporter: &mut Reporter<'_, F>,
    pace: &mut Pace,
) -> Result<Verdict, russh::Error> {
    while let Some(piece) = queue.recv().await {
        let verdict = pace.passed(&piece, Instant::now());
        if verdict != Verdict::GoOn {
            return Ok(verdict);
        }
        let count = piece.len();
        writer.data_bytes(piece).await?;
        in_flight.sent(count).await;
        reporter.tick();
    }
    writer.eof().await?;
    Ok(Verdict::GoOn)
}
