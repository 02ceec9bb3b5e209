//! What there is in the VM: names as its `find` tells them, of which the selected are kept, with sizes and times where
//! they are wanted.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::facts::{Beginning, Details, Facts};
use super::header::Stamp;
use super::receive::relative;
use super::{Direction, Limits, NO_SUCH_PLACE, Selection, script_error};
use crate::command::{self, Exit, OutputChunk, Stream, Tail};
use crate::connection::Connection;
use crate::exec::{Start, Stdin};
use crate::quote::printable;
use crate::{Error, RemotePath};

/// Arguments: directory, how, then where to start below it. Sockets, pipes and devices are not listed.
///
/// - `names`: directories with a slash behind, everything with a NUL behind; `printf` through `-exec` does that with
///   POSIX's own `find`. `gnu` is the same by GNU's `-printf`, without a process for each few thousand names.
/// - `printf`: one record each, by GNU's `-printf`.
/// - `-f`, `-c`: a batch of names, an empty one, and a line for each from that kind of `stat`, then a NUL. `stat` can put
///   no NUL behind a name, and a name may hold anything else.
const LIST: &str = r#"printf 'orka-step: begin\n'
command -v find >/dev/null || exit 93
[ -d "$1" ] || exit 91
cd "$1" || exit
how=$2
shift 2
status=0
for start; do
[ -e "$start" ] || [ -L "$start" ] || continue
case $how in
names) find "$start" -type d -exec printf '%s/\0' {} + -o \( -type f -o -type l \) -exec printf '%s\0' {} + ;;
gnu) find "$start" -type d -printf '%p/\0' -o \( -type f -o -type l \) -printf '%p\0' ;;
printf) find "$start" \( -type d -o -type f -o -type l \) -printf '%y %s %T@ %m %p\0' ;;
-f) find "$start" \( -type d -o -type f -o -type l \) -exec sh -c 'printf "%s\0" "$@" ""; stat -f "%z %Fm %Lp %HT" "$@"; printf "\0"' sh {} + ;;
-c) find "$start" \( -type d -o -type f -o -type l \) -exec sh -c 'printf "%s\0" "$@" ""; stat -c "%s %Y %a %F" "$@"; printf "\0"' sh {} + ;;
esac || { code=$?; [ "$code" -le "$status" ] || status=$code; }
done
exit "$status""#;

/// Bytes of names one listing may bring in all, selected or not: a listing that never ends is cut off.
const LISTING_MAX: u64 = 1 << 30;

/// Bytes of selected names: they are kept in memory until the transfer ends.
const CHOSEN_MAX: usize = 48 << 20;

/// Bytes of one batch of names or lines. A batch is the arguments of one process, at most 2 MiB on Linux and 1 on macOS.
const BATCH_MAX: usize = 8 << 20;

/// What kind of entry, as a listing tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listed {
    Directory,
    File,
    Link,
}

/// What is known of an entry without its contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Detail {
    pub(super) kind: Listed,
    pub(super) size: u64,
    pub(super) mtime: Stamp,
    pub(super) mode: u32,
}

/// The selected entries of a directory in the VM.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    /// Each with `./` in front and a NUL behind, as `tar -T -` takes them.
    pub(super) names: Vec<u8>,
    /// For each name, if details were asked for and could be told.
    pub(super) details: Vec<Option<Detail>>,
    pub(super) warnings: Vec<String>,
}

impl Chosen {
    /// The names without `./`.
    pub(super) fn paths(&self) -> impl Iterator<Item = &[u8]> {
        self.names
            .split(|&byte| byte == 0)
            .filter(|name| !name.is_empty())
            .map(|name| name.strip_prefix(b"./").unwrap_or(name))
    }

    pub(super) fn push(&mut self, path: &Path) {
        self.names.extend_from_slice(b"./");
        self.names.extend_from_slice(path.as_os_str().as_bytes());
        self.names.push(0);
    }
}

impl Connection {
    /// Lists the selected entries; with details if `details` says how.
    pub(super) async fn list(
        &self,
        remote: &RemotePath,
        what: &Selection,
        limits: &Limits,
        details: Option<Details>,
        facts: &Facts,
    ) -> Result<Chosen, Error> {
        let path = remote.argument();
        let how: &[u8] = match details {
            None if facts.details == Some(Details::Printf) => b"gnu",
            None => b"names",
            Some(Details::Printf) => b"printf",
            Some(Details::StatF) => b"-f",
            Some(Details::StatC) => b"-c",
        };
        let starts: Vec<Vec<u8>> = what
            .starts()
            .iter()
            .map(|start| [b"./", start.as_os_str().as_bytes()].concat())
            .collect();
        let arguments = [path.as_slice(), how]
            .into_iter()
            .chain(starts.iter().map(Vec::as_slice));
        let start = Start::script(LIST, arguments, Stdin::None);
        let mut command = command::start(self.lease().await?, self.address(), start).await?;
        let mut listing = Listing::new(what, limits, details);
        let mut beginning = Beginning::default();
        let mut stderr = Tail::default();
        while let Some(OutputChunk { stream, data }) = command.next_output().await {
            match stream {
                Stream::Stdout => listing.push(&beginning.strip(data))?,
                Stream::Stderr => stderr.push(&data),
            }
        }
        let exit = command.wait().await?;
        if !beginning.begun() {
            return Err(self.no_shell(&stderr.text()));
        }
        match exit {
            Exit::Status(0) => Ok(listing.chosen),
            // Some directory could not be read. Whether it matters is not ours to say, but it is said. A `find` that was
            // killed says nothing, and its list may end anywhere.
            Exit::Status(1) if listing.read > 0 && stderr.lines().next().is_some() => {
                listing.chosen.warnings = stderr.lines().map(printable).collect();
                Ok(listing.chosen)
            }
            Exit::Status(NO_SUCH_PLACE) => Err(Error::NotFound {
                path: remote.to_string(),
            }),
            exit => Err(script_error("listing files", &exit, stderr.text())),
        }
    }
}

/// Records as they arrive.
pub(super) struct Listing<'a> {
    selection: &'a Selection,
    limits: &'a Limits,
    details: Option<Details>,
    chosen: Chosen,
    count: u64,
    partial: Vec<u8>,
    /// Names, each with a NUL behind, whose lines are to come.
    batch: Vec<u8>,
    in_lines: bool,
    read: u64,
}

impl<'a> Listing<'a> {
    pub(super) fn new(
        selection: &'a Selection,
        limits: &'a Limits,
        details: Option<Details>,
    ) -> Self {
        Self {
            selection,
            limits,
            details,
            chosen: Chosen::default(),
            count: 0,
            partial: Vec::new(),
            batch: Vec::new(),
            in_lines: false,
            read: 0,
        }
    }

    /// The chosen names so far, each with a NUL behind.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn chosen(&self) -> &[u8] {
        &self.chosen.names
    }

    pub(super) fn push(&mut self, data: &[u8]) -> Result<(), Error> {
        self.read += data.len() as u64;
        if self.read > LISTING_MAX {
            return Err(self.exceeded("bytes of names", LISTING_MAX, b"the listing"));
        }
        let mut pieces = data.split(|&byte| byte == 0);
        // `split` always yields a first piece, the end of what came before, and the last is the start of what comes.
        let mut record = std::mem::take(&mut self.partial);
        record.extend_from_slice(pieces.next().unwrap_or_default());
        for next in pieces {
            self.record(&record)?;
            record.clear();
            record.extend_from_slice(next);
        }
        let record_max = if self.in_lines {
            BATCH_MAX
        } else {
            // A name, and the numbers ahead of it.
            self.limits.path_bytes.saturating_add(100)
        };
        if record.len() > record_max {
            return Err(self.exceeded("bytes in a path", self.limits.path_bytes as u64, &record));
        }
        self.partial = record;
        Ok(())
    }

    fn record(&mut self, record: &[u8]) -> Result<(), Error> {
        match self.details {
            None => {
                let kind = if record.ends_with(b"/") {
                    Listed::Directory
                } else {
                    Listed::File
                };
                self.entry(record, kind, None)
            }
            Some(Details::Printf) => {
                let mut fields = record.splitn(5, |&byte| byte == b' ');
                let mut field = || fields.next().unwrap_or_default();
                let (kind, size, mtime, mode, name) = (field(), field(), field(), field(), field());
                let Some(detail) = detail(kind, size, mtime, mode) else {
                    return Err(self.refuse(record, "it is listed without a proper size and time"));
                };
                self.entry(name, detail.kind, Some(detail))
            }
            Some(_) if self.in_lines => {
                self.in_lines = false;
                let names = std::mem::take(&mut self.batch);
                self.lines(&names, record)
            }
            Some(_) if record.is_empty() => {
                self.in_lines = true;
                Ok(())
            }
            Some(_) => {
                self.batch.extend_from_slice(record);
                self.batch.push(0);
                if self.batch.len() > BATCH_MAX {
                    return Err(self.exceeded("bytes in a batch", BATCH_MAX as u64, record));
                }
                Ok(())
            }
        }
    }

    /// A batch of names and what `stat` said of them; something that vanished between leaves out a line, and then none
    /// can be told.
    fn lines(&mut self, names: &[u8], lines: &[u8]) -> Result<(), Error> {
        let names = || {
            names
                .split(|&byte| byte == 0)
                .filter(|name| !name.is_empty())
        };
        let lines: Vec<_> = lines
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.is_empty())
            .collect();
        let is_whole = lines.len() == names().count();
        for (at, name) in names().enumerate() {
            let detail = lines.get(at).filter(|_| is_whole).and_then(|line| {
                let mut fields = line.splitn(4, |&byte| byte == b' ');
                let mut field = || fields.next().unwrap_or_default();
                let (size, mtime, mode, kind) = (field(), field(), field(), field());
                detail(kind, size, mtime, mode)
            });
            let kind = detail.map_or(Listed::File, |detail| detail.kind);
            self.entry(name, kind, detail)?;
        }
        Ok(())
    }

    fn entry(&mut self, name: &[u8], kind: Listed, detail: Option<Detail>) -> Result<(), Error> {
        let path = relative(name).map_err(|reason| self.refuse(name, reason))?;
        let is_dir = kind == Listed::Directory;
        if path.as_os_str().is_empty() || !self.selection.selects(&path, is_dir) {
            return Ok(());
        }
        if path.as_os_str().len() > self.limits.path_bytes {
            return Err(self.exceeded("bytes in a path", self.limits.path_bytes as u64, name));
        }
        self.count += 1;
        if self.count > self.limits.entries {
            return Err(self.exceeded("entries", self.limits.entries, name));
        }
        self.chosen.push(&path);
        if self.chosen.names.len() > CHOSEN_MAX {
            return Err(self.exceeded("bytes of names", CHOSEN_MAX as u64, name));
        }
        if self.details.is_some() {
            self.chosen.details.push(detail);
        }
        Ok(())
    }

    fn refuse(&self, name: &[u8], reason: &str) -> Error {
        Error::Transfer {
            direction: Direction::Download,
            entry: printable(name),
            reason: reason.to_owned(),
            source: None,
        }
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

fn detail(kind: &[u8], size: &[u8], mtime: &[u8], mode: &[u8]) -> Option<Detail> {
    let kind = match kind.first()?.to_ascii_lowercase() {
        b'd' => Listed::Directory,
        b'f' | b'r' => Listed::File,
        b'l' | b's' => Listed::Link,
        _ => return None,
    };
    Some(Detail {
        kind,
        size: std::str::from_utf8(size).ok()?.parse().ok()?,
        mtime: Stamp::parse(mtime)?,
        mode: u32::from_str_radix(std::str::from_utf8(mode).ok()?, 8).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(details: Option<Details>, text: &[u8]) -> Vec<Result<Chosen, Error>> {
        // Cut everywhere once: records arrive in any pieces.
        (0..text.len())
            .map(|cut| {
                let everything = Selection::everything();
                let limits = Limits::default();
                let mut listing = Listing::new(&everything, &limits, details);
                listing.push(&text[..cut])?;
                listing.push(&text[cut..])?;
                Ok(listing.chosen)
            })
            .collect()
    }

    #[test]
    fn batches_of_names_and_lines_are_matched_up() {
        let text = b"./a b\0./d\0\x006 12.5 644 Regular File\n64 7.0 755 Directory\n\0./x\0./y\0\x001 1.0 644 Regular File\n\0";
        for chosen in listed(Some(Details::StatF), text) {
            let chosen = chosen.unwrap();
            assert_eq!(chosen.names, b"./a b\0./d\0./x\0./y\0");
            let first = chosen.details[0].unwrap();
            assert_eq!(
                (first.kind, first.size, first.mode),
                (Listed::File, 6, 0o644)
            );
            assert_eq!(first.mtime.nanos, 500_000_000);
            assert_eq!(chosen.details[1].unwrap().kind, Listed::Directory);
            // A line is missing: nobody knows whose.
            assert_eq!(&chosen.details[2..], [None, None]);
        }
    }

    #[test]
    fn records_of_gnu_find_are_read() {
        let text = b"d 40 1.0 755 .\0f 3 12.1234567890 600 ./a b\nc\0l 1 5.0 777 ./l\0";
        for chosen in listed(Some(Details::Printf), text) {
            let chosen = chosen.unwrap();
            assert_eq!(chosen.names, b"./a b\nc\0./l\0");
            assert_eq!(chosen.details[0].unwrap().mtime.nanos, 123_456_789);
            assert_eq!(chosen.details[1].unwrap().kind, Listed::Link);
        }
        assert!(
            listed(Some(Details::Printf), b"f x 1 644 ./a\0")
                .into_iter()
                .all(|outcome| outcome.is_err())
        );
    }
}
