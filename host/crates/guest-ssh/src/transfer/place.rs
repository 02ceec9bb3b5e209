//! Moving a received tree to where it belongs: whole, or not at all.
//!
//! A target that is not there appears by one rename. A target that is there is merged into, entry by entry, and at any
//! moment, also when this process is killed, each file is either the old one or the new one. What was moved is moved back
//! when a later entry fails:
//!
//! - A new entry is renamed into place, and back.
//! - An entry that replaces another is swapped with it in one step (`RENAME_EXCHANGE`), and back. Where the volume cannot
//!   swap, the old file gets a second name first (a hard link) and the new one is renamed over it.
//! - A directory in place of a file: the file is moved aside first.
//! - Where the volume can do none of that, the old file is gone once it is replaced; an error says so.
//! - Where the volume cannot rename (a bucket), or the place belongs to another volume, entries are copied.
//!
//! Every operation takes a directory handle and one name, and no handle was opened through a link.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use cap_fs_ext::{DirExt, FollowSymlinks, OpenOptionsFollowExt as _};
use cap_std::fs::{Dir, FileType, Metadata, MetadataExt, OpenOptions};

use super::parent::descend;
use super::receive::open_as_file;
use super::staging::{Staging, fresh_name};
use super::volume::{Abilities, PRIVATE, Volume, is_full, is_unable};
use super::{Meter, PIECE};
use crate::Error;

/// Moves a finished tree to `name` in `parent`, or into `parent` itself, and says what had to be given up.
///
/// Where a directory is already, the tree is merged into it: files and links replace what has their name, the rest stays.
/// A file never replaces a directory that holds anything; that is looked for before the first entry is moved.
pub(super) fn place(
    staging: Staging,
    parent: &Dir,
    name: Option<OsString>,
    meter: &Meter<'_>,
) -> Result<Vec<String>, Error> {
    let whole = |problem| {
        meter.failed(
            b".",
            "the finished transfer could not be moved into place",
            problem,
        )
    };
    let found = match &name {
        None => None,
        Some(name) => look(parent, Path::new(name)).map_err(whole)?,
    };
    let mut notes = match (name, found) {
        (None, _) => merge(&staging, parent, meter)?,
        (Some(name), None) => appear(&staging, parent, Path::new(&name), meter)?,
        (Some(name), Some(found)) if found.is_dir() => {
            let target = parent.open_dir_nofollow(&name).map_err(whole)?;
            merge(&staging, &target, meter)?
        }
        (Some(name), Some(_)) => {
            return Err(meter.refuse(
                name.as_bytes(),
                "something that is not a directory has that name here",
            ));
        }
    };
    notes.extend(staging.remove().err());
    Ok(notes)
}

/// What is at a name, a link as itself.
fn look(dir: &Dir, name: &Path) -> io::Result<Option<FileType>> {
    match dir.symlink_metadata(name) {
        Err(problem) if problem.kind() == io::ErrorKind::NotFound => Ok(None),
        found => Ok(Some(found?.file_type())),
    }
}

/// A target that is not there yet.
fn appear(
    staging: &Staging,
    parent: &Dir,
    name: &Path,
    meter: &Meter<'_>,
) -> Result<Vec<String>, Error> {
    let failed = |problem| {
        meter.failed(
            name.as_os_str().as_bytes(),
            "the finished transfer could not be moved there",
            problem,
        )
    };
    if staging.abilities().renames {
        match staging.give_away_as(name) {
            Ok(()) => return Ok(Vec::new()),
            Err(problem) if !is_unable(&problem) => return Err(failed(problem)),
            Err(_) => {}
        }
    }
    let volume = staging.volume();
    volume.make_dir(parent, name).map_err(failed)?;
    let target = parent.open_dir_nofollow(name).map_err(failed)?;
    merge(staging, &target, meter).inspect_err(|_| {
        // Empty again, unless moving back failed, which the error says.
        let _ = volume.remove_dir(parent, name);
    })
}

fn merge(staging: &Staging, target: &Dir, meter: &Meter<'_>) -> Result<Vec<String>, Error> {
    check(staging.tree(), target, Path::new(""), meter)?;
    let begun = staging.begin_placing().and_then(|()| staging.old());
    let old = begun
        .map_err(|problem| meter.failed(b".", "it could not be prepared for its place", problem))?;
    let mut mover = Mover {
        staging,
        volume: staging.volume(),
        abilities: staging.abilities(),
        tree: staging.tree(),
        old: &old,
        target,
        meter,
        done: Vec::new(),
        copied: 0,
        lost: 0,
        copies: Vec::new(),
    };
    match mover.carry(staging.tree(), target, Path::new("")) {
        Ok(()) => mover.finish(),
        Err(Stuck {
            path,
            reason,
            source,
        }) => {
            let left = mover.undo();
            let reason = match left {
                0 => reason.to_owned(),
                left => {
                    format!("{reason}; of what was moved before, {left} could not be moved back")
                }
            };
            Err(meter.failed(path.as_os_str().as_bytes(), reason, source))
        }
    }
}

/// Looks for what cannot be replaced, so that a merge fails before it starts.
fn check(from: &Dir, to: &Dir, path: &Path, meter: &Meter<'_>) -> Result<(), Error> {
    let listed = entries(from).map_err(|problem| {
        meter.failed(path.as_os_str().as_bytes(), "it cannot be listed", problem)
    });
    for (name, kind) in listed? {
        let path = path.join(&name);
        let failed =
            |problem| meter.failed(path.as_os_str().as_bytes(), "it cannot be merged", problem);
        if !look(to, &name)
            .map_err(failed)?
            .is_some_and(|found| found.is_dir())
        {
            continue;
        }
        let below = to.open_dir_nofollow(&name).map_err(failed)?;
        if kind.is_dir() {
            let from = from.open_dir_nofollow(&name).map_err(failed)?;
            check(&from, &below, &path, meter)?;
        } else if below.entries().map_err(failed)?.next().is_some() {
            return Err(meter.refuse(
                path.as_os_str().as_bytes(),
                "a directory that is not empty has that name here",
            ));
        }
    }
    Ok(())
}

/// The entries of a directory, by name.
fn entries(dir: &Dir) -> io::Result<Vec<(PathBuf, FileType)>> {
    let mut found = Vec::new();
    for entry in dir.entries()? {
        let name = PathBuf::from(entry?.file_name());
        let kind = dir.symlink_metadata(&name)?.file_type();
        found.push((name, kind));
    }
    found.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(found)
}

/// Where moving stopped, and why.
struct Stuck {
    path: PathBuf,
    reason: &'static str,
    source: io::Error,
}

/// An entry that was moved, and what takes it back.
struct Done {
    path: PathBuf,
    how: How,
}

enum How {
    /// Nothing was there: move it back.
    Added,
    /// It was swapped with what was there: swap again.
    Exchanged,
    /// What was there has this second name: move the new one back and the old one to its place.
    Kept(PathBuf),
    /// An empty directory was there.
    InPlaceOfDirectory,
    /// Nothing was there, and it is a copy: remove it.
    Copied { is_dir: bool },
}

struct Mover<'a> {
    staging: &'a Staging,
    volume: &'a dyn Volume,
    abilities: Abilities,
    tree: &'a Dir,
    old: &'a Dir,
    target: &'a Dir,
    meter: &'a Meter<'a>,
    done: Vec<Done>,
    /// Entries that were copied instead of moved.
    copied: u64,
    /// Entries of the target that were replaced for good.
    lost: u64,
    /// Directories that are copies get their modes and times when they are full.
    copies: Vec<(PathBuf, Metadata)>,
}

impl Mover<'_> {
    fn carry(&mut self, from: &Dir, to: &Dir, path: &Path) -> Result<(), Stuck> {
        let stuck = |path: &Path, source| Stuck {
            path: path.to_owned(),
            reason: "it could not be moved into place",
            source,
        };
        for (name, kind) in entries(from).map_err(|problem| stuck(path, problem))? {
            self.staging.show_alive(Instant::now());
            let path = path.join(&name);
            let entry = Entry {
                from,
                to,
                name: &name,
                path: &path,
                kind,
            };
            let found = look(to, &name).map_err(|problem| stuck(&path, problem))?;
            if kind.is_dir() && found.is_some_and(|found| found.is_dir()) {
                self.below(&entry)?;
                continue;
            }
            let moved = self.put(&entry, found);
            match moved {
                Ok(true) => {}
                Ok(false) => self.copy(&entry, found)?,
                Err(problem) => return Err(stuck(&path, problem)),
            }
        }
        Ok(())
    }

    fn below(&mut self, entry: &Entry<'_>) -> Result<(), Stuck> {
        let open = |dir: &Dir| dir.open_dir_nofollow(entry.name);
        let opened = open(entry.from).and_then(|from| Ok((from, open(entry.to)?)));
        let (from, to) = opened.map_err(|problem| entry.stuck(problem))?;
        self.carry(&from, &to, entry.path)
    }

    /// Moves an entry to its place; says whether that was possible at all.
    fn put(&mut self, entry: &Entry<'_>, found: Option<FileType>) -> io::Result<bool> {
        if !self.abilities.renames {
            return Ok(false);
        }
        let moved = match found {
            None => self.rename(entry).map(|()| How::Added),
            Some(found) if found.is_dir() => {
                // Swapping could take away a directory that somebody filled since it was looked at; this cannot.
                self.volume.remove_dir(entry.to, entry.name)?;
                let moved = self.rename(entry);
                if moved.is_err() && self.volume.make_dir(entry.to, entry.name).is_err() {
                    self.lost += 1;
                }
                moved.map(|()| How::InPlaceOfDirectory)
            }
            Some(_) => match self.exchange(entry) {
                Err(problem) if is_unable(&problem) => return self.replace(entry),
                outcome => outcome.map(|()| How::Exchanged),
            },
        };
        match moved {
            Ok(how) => {
                self.done(entry, how);
                Ok(true)
            }
            Err(problem) if is_unable(&problem) => Ok(false),
            Err(problem) => Err(problem),
        }
    }

    fn rename(&self, entry: &Entry<'_>) -> io::Result<()> {
        self.volume
            .rename(entry.from, entry.name, entry.to, entry.name)
    }

    fn exchange(&self, entry: &Entry<'_>) -> io::Result<()> {
        if !self.abilities.exchanges {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let swap = || {
            self.volume
                .exchange(entry.from, entry.name, entry.to, entry.name)
        };
        swap()?;
        if look(entry.from, entry.name)?.is_some_and(|old| old.is_dir()) {
            // Somebody put a directory there meanwhile; it must not be removed with what is ours.
            swap()?;
            return Err(io::ErrorKind::IsADirectory.into());
        }
        Ok(())
    }

    /// Replaces a file or link where the volume cannot swap.
    fn replace(&mut self, entry: &Entry<'_>) -> io::Result<bool> {
        let kept = PathBuf::from(self.done.len().to_string());
        let moved = if entry.kind.is_dir() {
            self.replace_by_directory(entry, &kept).map(|()| true)
        } else {
            let is_kept = self.abilities.hard_links
                && self
                    .volume
                    .hard_link(entry.to, entry.name, self.old, &kept)
                    .is_ok();
            self.rename(entry).map(|()| is_kept)
        };
        match moved {
            Ok(true) => self.done(entry, How::Kept(kept)),
            Ok(false) => self.lost += 1,
            Err(problem) if is_unable(&problem) => return Ok(false),
            Err(problem) => return Err(problem),
        }
        Ok(true)
    }

    /// A directory cannot be renamed over a file, so the file is moved aside; where that cannot be done, nor can the rest.
    fn replace_by_directory(&mut self, entry: &Entry<'_>, kept: &Path) -> io::Result<()> {
        self.volume.rename(entry.to, entry.name, self.old, kept)?;
        let moved = self.rename(entry);
        if moved.is_err() {
            let back = self.volume.rename(self.old, kept, entry.to, entry.name);
            self.lost += u64::from(back.is_err());
        }
        moved
    }

    fn done(&mut self, entry: &Entry<'_>, how: How) {
        let path = entry.path.to_owned();
        self.done.push(Done { path, how });
    }

    /// Copies what cannot be moved.
    fn copy(&mut self, entry: &Entry<'_>, found: Option<FileType>) -> Result<(), Stuck> {
        self.copied += 1;
        if entry.kind.is_dir() {
            let made = self.copy_dir(entry, found);
            made.map_err(|problem| entry.stuck(problem))?;
            return self.below(entry);
        }
        let copied = if entry.kind.is_symlink() {
            self.copy_link(entry, found)
        } else {
            self.copy_file(entry, found)
        };
        copied.map_err(|problem| entry.stuck(problem))?;
        if found.is_none() {
            self.done(entry, How::Copied { is_dir: false });
        }
        Ok(())
    }

    fn copy_dir(&mut self, entry: &Entry<'_>, found: Option<FileType>) -> io::Result<()> {
        let metadata = entry.from.symlink_metadata(entry.name)?;
        self.clear(entry, found)?;
        self.volume.make_dir(entry.to, entry.name)?;
        self.done(entry, How::Copied { is_dir: true });
        self.copies.push((entry.path.to_owned(), metadata));
        Ok(())
    }

    fn copy_link(&mut self, entry: &Entry<'_>, found: Option<FileType>) -> io::Result<()> {
        let target = entry.from.read_link_contents(entry.name)?;
        self.clear(entry, found)?;
        self.volume.symlink(&target, entry.to, entry.name)
    }

    /// Removes what has the name of an entry, and counts it: whatever fails from here on does not bring it back.
    /// Directories are empty, or this fails.
    fn clear(&mut self, entry: &Entry<'_>, found: Option<FileType>) -> io::Result<()> {
        match found {
            None => return Ok(()),
            Some(found) if found.is_dir() => self.volume.remove_dir(entry.to, entry.name)?,
            Some(_) => self.volume.remove_file(entry.to, entry.name)?,
        }
        self.lost += 1;
        Ok(())
    }

    fn copy_file(&mut self, entry: &Entry<'_>, found: Option<FileType>) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.read(true).follow(FollowSymlinks::No);
        let mut source = entry.from.open_with(entry.name, &options)?.into_std();
        if self.abilities.renames {
            // On another volume: still one file or the other at any time.
            let name = PathBuf::from(fresh_name());
            let file = self.volume.make_file(entry.to, &name, PRIVATE)?;
            let filled = self.fill(&mut source, file);
            let copied = filled.and_then(|()| self.put_copy(entry, &name, found));
            return copied.inspect_err(|_| {
                let _ = self.volume.remove_file(entry.to, &name);
            });
        }
        if found.is_some_and(|found| found.is_file()) {
            let file = self.volume.empty_file(entry.to, entry.name)?;
            self.lost += 1;
            return self.fill(&mut source, file);
        }
        self.clear(entry, found)?;
        let file = self.volume.make_file(entry.to, entry.name, PRIVATE)?;
        self.fill(&mut source, file).inspect_err(|_| {
            let _ = self.volume.remove_file(entry.to, entry.name);
        })
    }

    /// Renames a whole copy over what has its place.
    fn put_copy(
        &mut self,
        entry: &Entry<'_>,
        copy: &Path,
        found: Option<FileType>,
    ) -> io::Result<()> {
        let is_dir = found.is_some_and(|found| found.is_dir());
        if is_dir {
            self.clear(entry, found)?;
        }
        self.volume.rename(entry.to, copy, entry.to, entry.name)?;
        self.lost += u64::from(found.is_some() && !is_dir);
        Ok(())
    }

    fn fill(&self, source: &mut File, mut file: File) -> io::Result<()> {
        let mut buffer = vec![0; PIECE];
        loop {
            let count = source.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            self.volume.write(&mut file, &buffer[..count])?;
        }
        let metadata = source.metadata()?;
        let mode = std::os::unix::fs::MetadataExt::mode(&metadata) & 0o777;
        self.describe(&file, mode, metadata.modified()?, true)
    }

    /// As far as the other volume lets it; the contents are what matters.
    fn describe(
        &self,
        file: &File,
        mode: u32,
        time: SystemTime,
        is_written: bool,
    ) -> io::Result<()> {
        let tolerate = |outcome: io::Result<()>| match outcome {
            Err(problem) if !is_unable(&problem) => Err(problem),
            _ => Ok(()),
        };
        tolerate(self.volume.set_mode(file, mode))?;
        if is_written {
            tolerate(self.volume.sync(file))?;
        }
        tolerate(self.volume.set_time(file, time))
    }

    fn finish(mut self) -> Result<Vec<String>, Error> {
        for (path, metadata) in std::mem::take(&mut self.copies).into_iter().rev() {
            let described = open_as_file(self.target, &path).and_then(|dir| {
                let time = metadata.modified()?.into_std();
                self.describe(&dir, metadata.mode() & 0o777, time, false)
            });
            described.map_err(|problem| {
                let name = path.as_os_str().as_bytes();
                self.meter
                    .failed(name, "its mode and time could not be set", problem)
            })?;
        }
        Ok(match self.copied {
            0 => Vec::new(),
            copied if self.abilities.renames => vec![format!(
                "{copied} entries were copied into place one by one, since their place is on another volume"
            )],
            copied => vec![format!(
                "the workspace's volume cannot rename, so {copied} entries were copied into place one by one: had this \
                 been interrupted, a part would be there"
            )],
        })
    }

    /// Takes back what was moved, the last first; says how many entries are not as they were.
    fn undo(&mut self) -> u64 {
        let done = std::mem::take(&mut self.done);
        let failed = done
            .iter()
            .rev()
            .filter(|done| self.take_back(done).is_err());
        failed.count() as u64 + self.lost
    }

    fn take_back(&self, done: &Done) -> io::Result<()> {
        let name = Path::new(done.path.file_name().ok_or(io::ErrorKind::InvalidInput)?);
        let parent = done.path.parent().unwrap_or(Path::new(""));
        let from = descend(self.tree, parent);
        let to = descend(self.target, parent)?;
        let back = || self.volume.rename(&to, name, &from?, name);
        match &done.how {
            How::Added => back(),
            How::Exchanged => self
                .volume
                .exchange(&descend(self.tree, parent)?, name, &to, name),
            How::Kept(kept) if look(&to, name)?.is_some_and(|new| new.is_dir()) => {
                back()?;
                self.volume.rename(self.old, kept, &to, name)
            }
            // The new file goes with what it would have to be moved back to.
            How::Kept(kept) => self.volume.rename(self.old, kept, &to, name),
            How::InPlaceOfDirectory => {
                back()?;
                self.volume.make_dir(&to, name)
            }
            How::Copied { is_dir: true } => self.volume.remove_dir(&to, name),
            How::Copied { is_dir: false } => self.volume.remove_file(&to, name),
        }
    }
}

/// One entry on its way.
struct Entry<'a> {
    from: &'a Dir,
    to: &'a Dir,
    name: &'a Path,
    path: &'a Path,
    kind: FileType,
}

impl Entry<'_> {
    fn stuck(&self, source: io::Error) -> Stuck {
        let reason = if is_full(&source) {
            "its place has no room for it"
        } else {
            "it could not be moved into place"
        };
        Stuck {
            path: self.path.to_owned(),
            reason,
            source,
        }
    }
}
