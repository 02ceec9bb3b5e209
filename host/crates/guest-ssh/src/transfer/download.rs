//! Fetching a tree: the VM lists names, we choose, its `tar` sends those alone, and they appear here complete or not at
//! all.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use cap_std::fs::Dir;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::archive::PieceReader;
use super::attempt::{Ended, Plan};
use super::compare::Compared;
use super::complaints::{Complaints, is_about_charset};
use super::compress::{self, Pace, Verdict};
use super::facts::{Beginning, Tar};
use super::listing::Chosen;
use super::parent::{Opened, open_parent};
use super::receive::receive;
use super::shrunk::Suspects;
use super::staging::{Staging, sweep};
use super::{
    Compare, Counters, Direction, Limits, Meter, Moved, PIPE_PIECES, Reporter, Review, Selection,
    TransferOptions, TransferProgress, apple, joined, place, script_error,
};
use crate::command::{self, Command, Exit, OutputChunk, Stream, Tail};
use crate::connection::Connection;
use crate::exec::{Start, Stdin};
use crate::quote::printable;
use crate::{Error, RemotePath};

/// Arguments: directory, kind of `tar`, `gzip` if the stream is to be compressed, `gzip` if the names are. Those come on
/// standard input, each with a NUL behind and `./` in front.
///
/// pax is the format in which both tell fractions of seconds and holes. bsdtar complains of names it cannot put into
/// UTF-8 and then sends them as they are. Attributes, access times and the like would be sent for nothing. Messages are in
/// English, for [`Complaints`] to know them, which `LC_ALL` would overrule; the charset stays the VM's. 32 KiB
/// at a time are enough to keep `sshd` busy, and no more than that is added to fill up the last of them.
///
/// What is around `tar` has to say that it ended well: a shell that cannot fork, or is killed, says nothing, and to `tar`
/// the names just end. A name that was cut off looks to it like a file that went away, so this counts more than its status.
const PACK: &str = r#"printf 'orka-step: begin\n'
command -v tar >/dev/null || exit 92
cd "$1" || exit
LC_CTYPE=${LC_ALL:-${LC_CTYPE:-${LANG-}}}; unset LC_ALL LANGUAGE
COPYFILE_DISABLE=1; LC_MESSAGES=C; export COPYFILE_DISABLE LC_CTYPE LC_MESSAGES
gzip=$3 names=$4
case $2 in
bsd) set -- -b64 --no-xattrs --no-acls --no-fflags --format pax ;;
*) set -- -b64 -S --format=posix --pax-option=delete=atime,delete=ctime ;;
esac
[ "$gzip$names" = plainplain ] && exec tar -cf - "$@" --no-recursion --null -T -
names() { if [ "$names" = gzip ]; then gzip -dc; else cat; fi && echo names >&3; }
pack() { tar -cf - "$@" --no-recursion --null -T - 3>&- 4>&-; echo "$?" >&3; }
exec 4>&1
if [ "$gzip" = gzip ]; then said=$({ names | pack "$@" | { gzip -1c >&4 && echo gzip >&3; }; } 3>&1)
else said=$({ names | pack "$@" >&4; } 3>&1; echo gzip)
fi
packed=94 whole=
for word in $said; do case $word in names | gzip) whole=x$whole ;; *) packed=$word ;; esac; done
[ "$whole" = xx ] || exit 94
exit "$packed""#;

/// Bytes of names above which they are compressed. OpenSSH's `sshd` keeps what `tar` has not asked for yet in a buffer
/// that it makes anew all the time, which for megabytes costs as much as encryption does.
const NAMES_PLAIN_MAX: usize = 512 * 1024;

/// Argument: directory. Names come on standard input; those of AppleDouble files go out again.
const SNIFF: &str = r#"printf 'orka-step: begin\n'
cd "$1" || exit
exec xargs -0 sh -c 'for file; do
case $(od -An -tx1 -N4 "$file" 2>/dev/null | tr -d " ") in 00051607*) printf "%s\0" "$file" ;; esac
done' sh"#;

/// Bytes of an archive that are held back before they are passed on.
const HELD_MAX: usize = 128 * 1024;

/// A VM may send them byte by byte.
const HELD_PIECES_MAX: usize = 16;

impl Connection {
    /// One attempt to fetch a tree by `tar`.
    pub(super) async fn download_by_tar(
        &self,
        remote: &RemotePath,
        what: &Selection,
        into: &Dir,
        target: &Path,
        plan: &Plan<'_>,
        progress: &(impl Fn(&TransferProgress) + Send),
    ) -> Result<(Moved, Pace), Ended> {
        let limits = &plan.options.limits;
        let mut notes = Vec::new();
        let mut compare = plan.options.compare;
        let details = plan.facts.details.filter(|_| compare != Compare::Always);
        let missing = match compare {
            Compare::Always => None,
            _ if details.is_none() => Some("`stat`"),
            Compare::Hash if plan.facts.sha256.is_none() => Some("`shasum`"),
            _ => None,
        };
        if let Some(missing) = missing {
            notes.push(format!(
                "everything was fetched: the VM has no {missing} to tell what changed"
            ));
            compare = Compare::Always;
        }
        let listed = self
            .list(remote, what, limits, details, &plan.facts)
            .await?;
        let listed_entries = listed.paths().count() as u64;
        let Compared {
            mut chosen,
            unchanged,
        } = self
            .compare(remote, listed, compare, into, target, plan.facts.sha256)
            .await?;
        let apple_doubles = self.leave_out_apple_doubles(remote, &mut chosen).await?;
        let mut warnings = std::mem::take(&mut chosen.warnings);
        let about = |moved: Moved, warnings: Vec<String>| Moved {
            unchanged,
            apple_doubles,
            counted_entries: moved.counted_entries.max(listed_entries),
            warnings,
            notes: notes.into_iter().chain(moved.notes).collect(),
            ..moved
        };
        if chosen.names.is_empty() {
            return Ok((about(Moved::default(), warnings), plan.pace()));
        }
        let counters = Arc::new(Counters::default());
        let count = chosen.names.iter().filter(|&&byte| byte == 0).count();
        counters.expect(None, Some(count as u64));
        let path = remote.argument();
        let kind: &[u8] = match plan.facts.tar {
            Some(Tar::Bsd) => b"bsd",
            _ => b"gnu",
        };
        let how: &[u8] = if plan.gzip { b"gzip" } else { b"plain" };
        let (names, packed) = pack_names(chosen.names, plan.facts.gzip).await?;
        let arguments = [path.as_slice(), kind, how, packed];
        let start = Start::script(PACK, arguments, Stdin::Bytes(names.into()));
        let command = command::start(self.lease().await?, self.address(), start).await?;

        let work = Work::new(into, what, plan.options, Arc::clone(&counters))?;
        let target = target.to_owned();
        let (pieces, queue) = mpsc::channel(PIPE_PIECES);
        let queue = if plan.gzip {
            compress::expanded(queue)
        } else {
            queue
        };
        let (finished, go) = tokio::sync::oneshot::channel();
        let (received, suspects) = tokio::sync::oneshot::channel();
        let working = tokio::task::spawn_blocking(move || {
            work.run(PieceReader::new(queue), &target, |moved| {
                // Nobody asks where the sending side failed.
                let _ = received.send(Suspects::among(moved));
                go.blocking_recv() == Ok(true)
            })
        });
        let mut reporter = Reporter::new(progress, &counters);
        let mut pace = plan.pace();
        let mut ended = self
            .fetch(
                command,
                pieces,
                &mut reporter,
                &mut pace,
                plan.leave_out_gone,
            )
            .await;
        if ended.is_ok()
            && plan.facts.tar != Some(Tar::Gnu)
            && let Ok(suspects) = suspects.await
            && let Err(stopped) = self.check_whole(remote, suspects, plan).await
        {
            ended = Err(stopped);
        }
        // Only a `tar` that ended well lets the tree take its place.
        let _ = finished.send(ended.is_ok());
        let worked = joined(working.await);
        reporter.finish();
        match (ended, worked) {
            (Ok(more), Ok(moved)) => {
                warnings.extend(more);
                Ok((about(moved, warnings), pace))
            }
            (Err(Stopped::Restart(why)), _) => Err(Ended::Restart {
                why,
                rate: pace.rate,
            }),
            (Err(Stopped::Gone(what)), _) => Err(Ended::Gone(what)),
            // What the VM said explains a stream that broke off; our own refusal explains why the VM could not go on.
            (Err(Stopped::Vm(problem)), _) | (_, Err(problem)) => Err(problem.into()),
            (Err(Stopped::Here), Ok(_)) => Err(Error::Lost {
                address: self.address(),
                reason: "the transfer ended early".to_owned(),
            }
            .into()),
        }
    }

    /// Takes macOS's attribute files out of what is to be fetched, and counts them. Their names raise the suspicion, and
    /// then the VM is asked for their first bytes.
    async fn leave_out_apple_doubles(
        &self,
        remote: &RemotePath,
        chosen: &mut Chosen,
    ) -> Result<u64, Error> {
        let suspects = apple::suspects(chosen);
        if suspects.is_empty() {
            return Ok(0);
        }
        let path = remote.argument();
        // The answer repeats some of the names.
        let answer_max = suspects.len() + super::facts::BEGIN.len() + 4096;
        let start = Start::script(SNIFF, [path.as_slice()], Stdin::Bytes(suspects.into()));
        let mut command = command::start(self.lease().await?, self.address(), start).await?;
        let said = command.collect(answer_max).await?;
        let found = Beginning::default().strip(said.stdout.into());
        Ok(apple::leave_out(chosen, &found))
    }

    /// Makes sure that what came is no part filled up with zeros.
    async fn check_whole(
        &self,
        remote: &RemotePath,
        suspects: Suspects,
        plan: &Plan<'_>,
    ) -> Result<(), Stopped> {
        let shrunk = self.find_shrunk(remote, suspects).await;
        match shrunk.map_err(Stopped::Vm)? {
            None => Ok(()),
            Some(entry) if plan.leave_out_gone => Err(Stopped::Vm(Error::Transfer {
                direction: Direction::Download,
                entry,
                reason: "it became shorter in the VM while it was sent".to_owned(),
                source: None,
            })),
            Some(entry) => Err(Stopped::Gone(entry)),
        }
    }

    /// Passes the archive on to the thread that unpacks it, at that thread's pace. Returns warnings.
    async fn fetch<F: Fn(&TransferProgress)>(
        &self,
        mut command: Command,
        pieces: mpsc::Sender<Bytes>,
        reporter: &mut Reporter<'_, F>,
        pace: &mut Pace,
        leave_out_gone: bool,
    ) -> Result<Vec<String>, Stopped> {
        let mut stderr = Tail::default();
        let mut complaints = Complaints::default();
        let mut beginning = Beginning::default();
        let mut held = Held::new(pieces);
        while let Some(OutputChunk { stream, data }) = command.next_output().await {
            if stream == Stream::Stderr {
                stderr.push(&data);
                complaints.push(&data);
                if let Some(name) = complaints.gone.first().filter(|_| !leave_out_gone) {
                    return Err(Stopped::Gone(name.to_owned()));
                }
                continue;
            }
            let data = beginning.strip(data);
            if let Verdict::Restart(why) = pace.passed(&data, Instant::now()) {
                return Err(Stopped::Restart(why));
            }
            held.push(data).await?;
            reporter.tick();
        }
        held.pass_on().await?;
        let exit = command.wait().await.map_err(Stopped::Vm)?;
        if !beginning.begun() {
            return Err(Stopped::Vm(self.no_shell(&stderr.text())));
        }
        complaints.finish();
        let failed = |exit: &Exit, worst: Option<String>| {
            let said = stderr.text();
            // What came after it may have pushed it out.
            let said = match worst {
                Some(worst) if !said.contains(&worst) => format!("{worst}; {said}"),
                _ => said,
            };
            Stopped::Vm(script_error("packing", exit, said))
        };
        let warnings = || {
            let lines = stderr.lines().filter(|line| !is_about_charset(line));
            lines.map(printable).collect()
        };
        let is_gone = complaints.gone.first().is_some();
        match (&exit, complaints.worst) {
            (Exit::Status(0), _) => Ok(warnings()),
            (Exit::Status(1 | 2), None) if complaints.is_going && !leave_out_gone => {
                Err(Stopped::Gone("something".to_owned()))
            }
            // GNU's exits with 1 when a file changed under it and with 2 when one is not there, bsdtar with 1.
            (Exit::Status(1 | 2), None) if is_gone && !complaints.is_going => {
                Ok(complaints.gone.warnings().collect())
            }
            (Exit::Status(1), None) if complaints.changed > 0 && !complaints.is_going => {
                Ok(warnings())
            }
            (exit, worst) => Err(failed(exit, worst)),
        }
    }
}

/// The names as they are sent, and how that is called.
async fn pack_names(names: Vec<u8>, gzip: bool) -> Result<(Vec<u8>, &'static [u8]), Error> {
    if !gzip || names.len() <= NAMES_PLAIN_MAX {
        return Ok((names, b"plain"));
    }
    // There may be megabytes of them.
    let packing = tokio::task::spawn_blocking(move || {
        Ok(match compress::at_once(&names) {
            Some(short) => (short, &b"gzip"[..]),
            None => (names, &b"plain"[..]),
        })
    });
    joined(packing.await)
}

/// Pieces that are passed on some at a time: each that comes alone wakes the thread that unpacks, which costs more than
/// unpacking it.
struct Held {
    pieces: mpsc::Sender<Bytes>,
    held: Vec<Bytes>,
    bytes: usize,
}

impl Held {
    fn new(pieces: mpsc::Sender<Bytes>) -> Self {
        Self {
            pieces,
            held: Vec::new(),
            bytes: 0,
        }
    }

    async fn push(&mut self, piece: Bytes) -> Result<(), Stopped> {
        self.bytes += piece.len();
        if !piece.is_empty() {
            self.held.push(piece);
        }
        if self.bytes >= HELD_MAX || self.held.len() >= HELD_PIECES_MAX {
            self.pass_on().await?;
        }
        Ok(())
    }

    async fn pass_on(&mut self) -> Result<(), Stopped> {
        self.bytes = 0;
        for piece in self.held.drain(..) {
            self.pieces.send(piece).await.map_err(|_| Stopped::Here)?;
        }
        Ok(())
    }
}

/// How the sending side ended other than well.
enum Stopped {
    /// The VM failed.
    Vm(Error),
    /// The receiving thread stopped taking; it knows why.
    Here,
    /// It is better begun again compressed.
    Restart(String),
    /// This was listed and is no longer there, or no longer all of it.
    Gone(String),
}

/// What the receiving thread needs.
pub(super) struct Work {
    into: Dir,
    selection: Selection,
    limits: Limits,
    counters: Arc<Counters>,
    review: Option<Review>,
}

impl Work {
    pub(super) fn new(
        into: &Dir,
        selection: &Selection,
        options: &TransferOptions,
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
            limits: options.limits,
            counters,
            review: options.review.clone(),
        })
    }

    /// Receives everything, and moves it into place if it is wanted then.
    pub(super) fn run(
        self,
        stream: PieceReader,
        target: &Path,
        is_wanted: impl FnOnce(&Moved) -> bool,
    ) -> Result<Moved, Error> {
        let meter = Meter {
            direction: Direction::Download,
            limits: self.limits,
            counters: &self.counters,
        };
        let Opened {
            parent,
            name,
            made,
            begun: (left, staging),
        } = open_parent(&self.into, target, &meter, |parent| {
            Ok((sweep(parent)?, Staging::create(parent)?))
        })?;
        let mut moved = receive(stream, &staging, &self.selection, &meter)?;
        moved.notes.splice(0..0, left);
        // A caller that went away wants nothing moved.
        if !is_wanted(&moved) {
            return Err(meter.refuse(b".", "the VM did not finish"));
        }
        if let Some(review) = &self.review {
            leave_out(review, &mut moved, &staging, &meter)?;
        }
        moved
            .notes
            .extend(place::place(staging, &parent, name, &meter)?);
        made.keep();
        let counted = self.counters.read();
        (moved.counted_bytes, moved.counted_entries) = (counted.bytes, counted.entries);
        Ok(moved)
    }
}

/// Lets somebody look at the files, and removes those that are not to come.
fn leave_out(
    review: &Review,
    moved: &mut Moved,
    staging: &Staging,
    meter: &Meter<'_>,
) -> Result<(), Error> {
    let unwanted: BTreeSet<usize> = review
        .look(&moved.files)
        .map_err(|reason| meter.refuse(b".", reason))?
        .into_iter()
        .collect();
    for at in &unwanted {
        let Some(file) = moved.files.get(*at) else {
            continue;
        };
        staging.tree().remove_file(&file.path).map_err(|problem| {
            let path = file.path.as_os_str().as_bytes();
            meter.failed(path, "it could not be left out", problem)
        })?;
        moved.left_out += 1;
    }
    let mut at = 0;
    moved.files.retain(|_| {
        at += 1;
        !unwanted.contains(&(at - 1))
    });
    Ok(())
}
