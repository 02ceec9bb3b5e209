//! Which entries of a tree of ours an upload takes, in the order in which they are sent.

use std::ffi::OsString;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cap_fs_ext::{FollowSymlinks, OpenOptionsFollowExt as _};
use cap_std::fs::{Dir, Metadata, OpenOptions};

use super::apple::{self, MAGIC};
use super::ignore_file::IgnoreFiles;
use super::{Counters, Direction, Limits, Meter, Selection};
use crate::Error;

/// What is done with an entry of a directory.
pub(super) type Visit<'a> = dyn FnMut(&Dir, &Entry<'_>) -> Result<(), Error> + 'a;

/// A tree and what is selected of it.
#[derive(Debug)]
pub(super) struct Walk {
    root: Dir,
    selection: Selection,
}

impl Walk {
    pub(super) fn new(dir: &Dir, selection: &Selection) -> Result<Self, Error> {
        let root = dir.try_clone().map_err(|problem| Error::Transfer {
            direction: Direction::Upload,
            entry: ".".to_owned(),
            reason: "the directory cannot be opened".to_owned(),
            source: Some(problem),
        })?;
        Ok(Self {
            root,
            selection: selection.clone(),
        })
    }

    /// Visits every entry.
    pub(super) fn through(
        &self,
        meter: &Meter<'_>,
        visit: &mut Visit<'_>,
    ) -> Result<Walked, Error> {
        let mut walked = Walked::default();
        let root = self
            .root
            .try_clone()
            .map_err(|problem| meter.failed(b".", "it cannot be opened", problem))?;
        // Depth first and each directory just ahead of what is in it: `tar` sets a directory's time when the stream
        // leaves it, so it must not come back.
        let mut folders = vec![Folder {
            path: PathBuf::new(),
            place: Place::Open(root),
            inside: false,
            metadata: None,
            ignored: IgnoreFiles::default(),
        }];
        while let Some(folder) = folders.pop() {
            let Some(dir) = folder.open(meter)? else {
                continue;
            };
            if let Some(metadata) = &folder.metadata {
                let entry = Entry {
                    name: &OsString::new(),
                    path: &folder.path,
                    metadata,
                };
                visit(&dir, &entry)?;
            }
            let mut below = Vec::new();
            let ignored = folder
                .ignored
                .enter(&dir, &folder.path, meter, &mut walked.warnings)?;
            let listed = list(&dir, &folder.path, meter)?;
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
                        let metadata = decision.inside.then(|| metadata.clone());
                        below.push(Folder {
                            path,
                            place: Place::In(Arc::clone(&dir), name.clone()),
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
                        && starts_as_apple_double(&dir, name)
                    {
                        walked.apple_doubles += 1;
                        continue;
                    }
                    let entry = Entry {
                        name,
                        path: &path,
                        metadata,
                    };
                    visit(&dir, &entry)?;
                }
            }
            folders.extend(below.into_iter().rev());
        }
        Ok(walked)
    }

    /// Tells `counters` how much there is to be sent, unless nobody else is interested any more. What cannot be read is
    /// for the upload itself to tell.
    pub(super) fn measure(self, counters: &Arc<Counters>) {
        let own = Counters::default();
        let meter = Meter {
            direction: Direction::Upload,
            limits: Limits::default(),
            counters: &own,
        };
        let (mut bytes, mut entries) = (0, 0);
        let counted = self.through(&meter, &mut |_, entry| {
            if Arc::strong_count(counters) == 1 {
                return Err(meter.refuse(b".", "the upload is over"));
            }
            let metadata = entry.metadata;
            if metadata.is_dir() || metadata.is_file() || metadata.is_symlink() {
                entries += 1;
            }
            if metadata.is_file() {
                bytes += metadata.len();
            }
            Ok(())
        });
        if counted.is_ok() {
            counters.expect(Some(bytes), Some(entries));
        }
    }
}

/// Whether something below the directory may be selected although it is not.
pub(super) fn leads_somewhere(selection: &Selection, path: &Path) -> bool {
    selection
        .starts()
        .iter()
        .any(|start| start.starts_with(path) || path.starts_with(start))
}

/// What is to be told of a walk.
#[derive(Default)]
pub(super) struct Walked {
    /// macOS's attribute files that were left out.
    pub(super) apple_doubles: u64,
    pub(super) warnings: Vec<String>,
}

/// A directory whose turn comes.
struct Folder {
    path: PathBuf,
    place: Place,
    inside: bool,
    /// Present where the directory itself takes part.
    metadata: Option<Metadata>,
    /// The ignore files of the directories above.
    ignored: IgnoreFiles,
}

/// Opened only when its turn comes: a directory of a thousand others would take as many descriptors as a process has. So
/// one is held for each level, of which there are [`DEPTH_MAX`](super::DEPTH_MAX) at most.
enum Place {
    Open(Dir),
    In(Arc<Dir>, OsString),
}

impl Folder {
    /// None for one that was deleted since: as if it had never been there.
    fn open(&self, meter: &Meter<'_>) -> Result<Option<Arc<Dir>>, Error> {
        let opened = match &self.place {
            Place::Open(dir) => dir.try_clone(),
            Place::In(parent, name) => cap_fs_ext::DirExt::open_dir_nofollow(&**parent, name),
        };
        match opened {
            Ok(dir) => Ok(Some(Arc::new(dir))),
            Err(problem) if problem.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(problem) => Err(meter.failed(
                self.path.as_os_str().as_bytes(),
                "the directory cannot be opened",
                problem,
            )),
        }
    }
}

pub(super) fn open_file(folder: &Dir, name: &OsString) -> io::Result<cap_std::fs::File> {
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
fn list(dir: &Dir, path: &Path, meter: &Meter<'_>) -> Result<Vec<(OsString, Metadata)>, Error> {
    let failed = |problem| {
        meter.failed(
            path.as_os_str().as_bytes(),
            "the directory cannot be read",
            problem,
        )
    };
    let mut entries = Vec::new();
    for entry in dir.entries().map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        match dir.symlink_metadata(&name) {
            Ok(metadata) => entries.push((name, metadata)),
            // Deleted since: as if it had never been there.
            Err(problem) if problem.kind() == io::ErrorKind::NotFound => {}
            Err(problem) => return Err(failed(problem)),
        }
    }
    entries.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(entries)
}

/// An entry of a directory.
pub(super) struct Entry<'a> {
    pub(super) name: &'a OsString,
    /// Relative to the top.
    pub(super) path: &'a Path,
    pub(super) metadata: &'a Metadata,
}

impl Entry<'_> {
    pub(super) fn bytes(&self) -> &[u8] {
        self.path.as_os_str().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use cap_std::ambient_authority;

    use super::*;

    #[test]
    fn what_is_measured_is_what_is_sent_and_nothing_once_nobody_asks() {
        let tree = tempfile::tempdir().unwrap();
        std::fs::create_dir(tree.path().join("d")).unwrap();
        for (name, size) in [("a", 10), ("d/b", 20), ("d/c.log", 40)] {
            std::fs::write(tree.path().join(name), vec![0; size]).unwrap();
        }
        std::os::unix::fs::symlink("a", tree.path().join("link")).unwrap();
        let dir = Dir::open_ambient_dir(tree.path(), ambient_authority()).unwrap();
        let selection = Selection::parse(&[""; 0], &["*.log"]).unwrap();
        let walk = || Walk::new(&dir, &selection).unwrap();
        let counters = Arc::new(Counters::default());
        walk().measure(&counters);
        assert_eq!(counters.read().bytes_total, None);
        let _interested = Arc::clone(&counters);
        walk().measure(&counters);
        let read = counters.read();
        assert_eq!((read.bytes_total, read.entries_total), (Some(30), Some(4)));
    }
}
