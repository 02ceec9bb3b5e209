//! Fetching a tree: the VM lists names, we choose, its `tar` sends those alone, and they appear here complete or not at
//! all.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use cap_std::fs::Dir;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::archive::PieceReader;
use super::receive::{Staging, receive, relative};
use super::{
    Counters, Direction, Limits, Meter, Moved, NO_SUCH_PLACE, PIPE_PIECES, Reporter, Selection,
    TransferProgress, TransferSummary, place, script_error,
};
use crate::command::{self, Command, Exit, OutputChunk, Stream, Tail};
use crate::connection::Connection;
use crate::exec::{Start, Stdin};
use crate::quote::printable;
use crate::{Error, RemotePath};

/// Arguments: directory, then where to start below it. Directories are listed with a slash behind, everything with a NUL
/// behind; `printf` through `-exec` does that with POSIX's own `find`. Sockets, pipes and devices are not listed.
const LIST: &str = r#"command -v find >/dev/null || exit 93
[ -d "$1" ] || exit 91
cd "$1" || exit
shift
orka_step_status=0
for orka_step_start; do
if [ -e "$orka_step_start" ] || [ -L "$orka_step_start" ]; then
find "$orka_step_start" -type d -exec printf '%s/\0' {} + -o \( -type f -o -type l \) -exec printf '%s\0' {} + || orka_step_status=1
fi
done
exit "$orka_step_status""#;

/// Argument: directory. Names come on standard input, each with a NUL behind and `./` in front. bsdtar alone would send
/// files with holes in a form of its own and complain of names it cannot put into UTF-8; its options are unknown to GNU
/// tar.
const PACK: &str = r#"command -v tar >/dev/null || exit 92
cd "$1" || exit
case $(tar --version 2>/dev/null) in *bsdtar*) set -- --no-read-sparse --format gnutar ;; *) set -- ;; esac
COPYFILE_DISABLE=1 exec tar -cf - "$@" --no-recursion --null -T -"#;

/// Bytes of names one listing may bring in all, selected or not: a listing that never ends is cut off.
const LISTING_MAX: u64 = 1 << 30;

impl Connection {
    /// Fetches the selected entries of the VM's directory `remote` into `target`, relative to `into`.
    ///
    /// All of it is received beside the target first and moved there when complete, so a failure leaves the workspace as
    /// it was. A target that does not exist appears at once; one that does is merged into (files replaced, nothing
    /// deleted). `.` is `into` itself. Where nothing is selected nothing is made.
    ///
    /// Regular files, directories and symbolic links come, with modes and times to the second. Links that leave the tree
    /// are left out and named in the summary; anything else that could reach outside ends the transfer.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if `remote` is no directory; [`Error::Transfer`] naming the entry that was refused or could not
    /// be written; [`Error::LimitExceeded`]; [`Error::RemoteToolMissing`]; [`Error::RemoteFailed`] with the VM's words;
    /// [`Error::Lost`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops the transfer and removes what was received, unless it is being moved into place
    /// already: that is finished.
    pub async fn download(
        &self,
        remote: &RemotePath,
        what: &Selection,
        into: &Dir,
        target: &Path,
        limits: &Limits,
        progress: impl Fn(&TransferProgress) + Send,
    ) -> Result<TransferSummary, Error> {
        let started = Instant::now();
        let (names, warnings) = self.list(remote, what, limits).await?;
        if names.is_empty() {
            return Ok(TransferSummary::of(
                Moved::default(),
                warnings,
                started.elapsed(),
            ));
        }
        let counters = Arc::new(Counters::default());
        let path = remote.argument();
        let start = Start::script(PACK, [path.as_slice()], Stdin::Bytes(names));
        let command = command::start(self.lease().await?, self.address(), start).await?;

        let work = Work::new(into, what, *limits, Arc::clone(&counters))?;
        let target = target.to_owned();
        let (pieces, queue) = mpsc::channel(PIPE_PIECES);
        let (finished, go) = tokio::sync::oneshot::channel();
        let working =
            tokio::task::spawn_blocking(move || work.run(PieceReader::new(queue), &target, go));
        let mut reporter = Reporter::new(&progress, &counters);
        let ended = fetch(command, pieces, &mut reporter).await;
        // Only a `tar` that ended well lets the tree take its place.
        let _ = finished.send(ended.is_ok());
        let worked = working.await.map_err(|problem| Error::Invalid {
            what: "archive",
            reason: problem.to_string(),
        })?;
        reporter.finish();
        match (ended, worked) {
            (Ok(more), Ok(moved)) => {
                let warnings = warnings.into_iter().chain(more).collect();
                Ok(TransferSummary::of(moved, warnings, started.elapsed()))
            }
            // What the VM said explains a stream that broke off; our own refusal explains why the VM could not go on.
            (Err(Ended::Vm(problem)), _) | (_, Err(problem)) => Err(problem),
            (Err(Ended::Here), Ok(_)) => Err(Error::Lost {
                address: self.address(),
                reason: "the transfer ended early".to_owned(),
            }),
        }
    }

    /// The selected names, ready for `tar`, and what `find` complained about.
    async fn list(
        &self,
        remote: &RemotePath,
        what: &Selection,
        limits: &Limits,
    ) -> Result<(Bytes, Vec<String>), Error> {
        let path = remote.argument();
        let starts: Vec<Vec<u8>> = what
            .starts()
            .iter()
            .map(|start| [b"./", start.as_os_str().as_bytes()].concat())
            .collect();
        let arguments = std::iter::once(path.as_slice()).chain(starts.iter().map(Vec::as_slice));
        let start = Start::script(LIST, arguments, Stdin::None);
        let mut command = command::start(self.lease().await?, self.address(), start).await?;
        let mut listing = Listing::new(what, limits);
        let mut stderr = Tail::default();
        while let Some(OutputChunk { stream, data }) = command.next_output().await {
            match stream {
                Stream::Stdout => listing.push(&data)?,
                Stream::Stderr => stderr.push(&data),
            }
        }
        match command.wait().await? {
            Exit::Status(0) => Ok((listing.chosen.into(), Vec::new())),
            // Some directory could not be read. Whether it matters is not ours to say, but it is said.
            Exit::Status(1) if listing.read > 0 => Ok((
                listing.chosen.into(),
                stderr.lines().map(printable).collect(),
            )),
            Exit::Status(NO_SUCH_PLACE) => Err(Error::NotFound {
                path: remote.to_string(),
            }),
            exit => Err(script_error("listing files", &exit, stderr.text())),
        }
    }
}

/// Names as they arrive, of which the selected are kept.
pub(super) struct Listing<'a> {
    selection: &'a Selection,
    limits: &'a Limits,
    chosen: Vec<u8>,
    count: u64,
    partial: Vec<u8>,
    read: u64,
}

impl<'a> Listing<'a> {
    pub(super) fn new(selection: &'a Selection, limits: &'a Limits) -> Self {
        Self {
            selection,
            limits,
            chosen: Vec::new(),
            count: 0,
            partial: Vec::new(),
            read: 0,
        }
    }

    /// The chosen names so far, each with a NUL behind.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn chosen(&self) -> &[u8] {
        &self.chosen
    }

    pub(super) fn push(&mut self, data: &[u8]) -> Result<(), Error> {
        self.read += data.len() as u64;
        if self.read > LISTING_MAX {
            return Err(self.exceeded("bytes of names", LISTING_MAX, b"the listing"));
        }
        let mut pieces = data.split(|&byte| byte == 0);
        // `split` always yields a first piece, the end of what came before, and the last is the start of what comes.
        let mut name = std::mem::take(&mut self.partial);
        name.extend_from_slice(pieces.next().unwrap_or_default());
        for next in pieces {
            self.name(&name)?;
            name.clear();
            name.extend_from_slice(next);
        }
        if name.len() > self.limits.path_bytes.saturating_add(4) {
            return Err(self.exceeded("bytes in a path", self.limits.path_bytes as u64, &name));
        }
        self.partial = name;
        Ok(())
    }

    fn name(&mut self, name: &[u8]) -> Result<(), Error> {
        let refuse = |reason: &str| Error::Transfer {
            direction: Direction::Download,
            entry: printable(name),
            reason: reason.to_owned(),
            source: None,
        };
        let path = relative(name).map_err(refuse)?;
        if path.as_os_str().is_empty() || !self.selection.selects(&path, name.ends_with(b"/")) {
            return Ok(());
        }
        self.count += 1;
        if self.count > self.limits.entries {
            return Err(self.exceeded("entries", self.limits.entries, name));
        }
        self.chosen.extend_from_slice(b"./");
        self.chosen.extend_from_slice(path.as_os_str().as_bytes());
        self.chosen.push(0);
        Ok(())
    }

    fn exceeded(&self, limit: &'static str, allowed: u64, entry: &[u8]) -> Error {
        Error::LimitExceeded {
            direction: Direction::Download,
            limit,
            allowed,
            entry: printable(entry),
        }
    }
}

/// How the sending side ended other than well.
enum Ended {
    /// The VM failed.
    Vm(Error),
    /// The receiving thread stopped taking; it knows why.
    Here,
}

/// Passes the archive on to the thread that unpacks it, at that thread's pace. Returns warnings.
async fn fetch<F: Fn(&TransferProgress)>(
    mut command: Command,
    pieces: mpsc::Sender<Bytes>,
    reporter: &mut Reporter<'_, F>,
) -> Result<Vec<String>, Ended> {
    let mut stderr = Tail::default();
    while let Some(OutputChunk { stream, data }) = command.next_output().await {
        match stream {
            Stream::Stderr => stderr.push(&data),
            Stream::Stdout if pieces.send(data).await.is_err() => return Err(Ended::Here),
            Stream::Stdout => reporter.tick(),
        }
    }
    match command.wait().await.map_err(Ended::Vm)? {
        Exit::Status(0) => Ok(stderr.lines().map(printable).collect()),
        Exit::Status(1) if only_changed_files(&stderr) => {
            Ok(stderr.lines().map(printable).collect())
        }
        exit => Err(Ended::Vm(script_error("packing", &exit, stderr.text()))),
    }
}

/// GNU tar exits with 1 when a file grew under it; what it sent is whole, and logs do grow.
fn only_changed_files(stderr: &Tail) -> bool {
    let mut lines = stderr.lines().peekable();
    lines.peek().is_some() && lines.all(|line| line.ends_with(b"file changed as we read it"))
}

/// What the receiving thread needs.
struct Work {
    into: Dir,
    selection: Selection,
    limits: Limits,
    counters: Arc<Counters>,
}

impl Work {
    fn new(
        into: &Dir,
        selection: &Selection,
        limits: Limits,
        counters: Arc<Counters>,
    ) -> Result<Self, Error> {
        let into = into.try_clone().map_err(|problem| Error::Transfer {
            direction: Direction::Download,
            entry: ".".to_owned(),
            reason: "the directory cannot be opened".to_owned(),
            source: Some(problem),
        })?;
        Ok(Self {
            into,
            selection: selection.clone(),
            limits,
            counters,
        })
    }

    fn run(
        self,
        stream: PieceReader,
        target: &Path,
        go: tokio::sync::oneshot::Receiver<bool>,
    ) -> Result<Moved, Error> {
        let meter = Meter {
            direction: Direction::Download,
            limits: self.limits,
            counters: &self.counters,
        };
        let (parent, name) = place::open_parent(&self.into, target, &meter)?;
        let staging = Staging::create(&parent).map_err(|problem| {
            meter.failed(
                OsStr::new(target).as_bytes(),
                "no room could be made beside it",
                problem,
            )
        })?;
        let moved = receive(stream, staging.dir(), &self.selection, &meter)?;
        // A caller that went away wants nothing moved.
        if go.blocking_recv() != Ok(true) {
            return Err(meter.refuse(b".", "the VM did not finish"));
        }
        place::place(staging, &parent, name, &meter)?;
        Ok(moved)
    }
}
