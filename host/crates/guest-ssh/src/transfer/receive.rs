//! Writing what a stranger sends: into a fresh directory of our own, one checked entry at a time.
//!
//! Rules for what comes:
//! - A name is relative, without `..`, and was asked for. Anything else ends the transfer.
//! - Every directory on the way to an entry is one this transfer made; a link is never written through.
//! - No name comes twice (on a file system that ignores case, neither do two that differ in case only).
//! - A symbolic link is kept if it is `../…` no further than the top and then plain names; other links (absolute, or
//!   out of the tree) are left out and named in the summary.
//! - A hard link is kept if it leads to a file of this transfer. Devices and pipes end the transfer.
//! - Modes keep their nine permission bits; the owner can always read and write what arrives, and enter directories, or
//!   the workspace could not be cleaned.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::FileTimes;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cap_fs_ext::{DirExt, SystemTimeSpec};
use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt, Permissions, PermissionsExt};

use super::archive::{Fault, Kind, Member, PieceReader, Reader};
use super::digest::Hasher;
use super::header::Stamp;
use super::{FileDigest, Meter, Moved, PIECE, Selection, Skipped};
use crate::Error;

/// What every directory this crate makes for its own use is called, so that it is known when left by a killed process.
const STAGING_PREFIX: &str = ".orka-step-receiving-";

/// Bytes of a hole that are passed over between two looks at progress.
const HOLE_STEP: u64 = 64 * 1024 * 1024;

/// A directory of our own beside the place where the tree will go; removed with all it holds unless it was moved away.
pub(super) struct Staging {
    parent: Dir,
    name: OsString,
    dir: Dir,
}

impl Staging {
    /// Makes it inside `parent`, readable by its owner only.
    pub(super) fn create(parent: &Dir) -> io::Result<Self> {
        let name = OsString::from(format!("{STAGING_PREFIX}{:016x}", rand::random::<u64>()));
        let parent = parent.try_clone()?;
        parent.create_dir(&name)?;
        let dir = parent.open_dir_nofollow(&name).and_then(|dir| {
            dir.set_permissions(".", Permissions::from_mode(0o700))?;
            Ok(dir)
        });
        match dir {
            Ok(dir) => Ok(Self { parent, name, dir }),
            Err(problem) => {
                let _ = parent.remove_dir(&name);
                Err(problem)
            }
        }
    }

    pub(super) fn dir(&self) -> &Dir {
        &self.dir
    }

    pub(super) fn name(&self) -> &OsStr {
        &self.name
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        match self.parent.remove_dir_all(&self.name) {
            Err(problem) if problem.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(name = %self.name.display(), %problem, "a partial transfer was left in the workspace");
            }
            _ => {}
        }
    }
}

/// Reads a whole stream into `into`.
pub(super) fn receive(
    stream: PieceReader,
    into: &Dir,
    selection: &Selection,
    meter: &Meter<'_>,
) -> Result<Moved, Error> {
    let mut reader = Reader::new(stream);
    let mut receiver = Receiver {
        into,
        selection,
        meter,
        moved: Moved::default(),
        directories: HashMap::new(),
        made: HashSet::new(),
        linkable: HashMap::new(),
        buffer: vec![0; PIECE],
        top: false,
    };
    while let Some(member) = reader.next().map_err(|fault| receiver.told(fault))? {
        receiver.take(&mut reader, &member)?;
    }
    reader.finish().map_err(|fault| receiver.told(fault))?;
    receiver.finish()
}

struct Receiver<'a> {
    into: &'a Dir,
    selection: &'a Selection,
    meter: &'a Meter<'a>,
    moved: Moved,
    /// Modes and times of directories, applied last: writing into a directory changes its time, and may need its mode.
    directories: HashMap<PathBuf, (u32, Stamp)>,
    /// Directories made so far: nothing is written where the way leads through anything else.
    made: HashSet<PathBuf>,
    /// Where in `moved.files` each file is, for hard links to it.
    linkable: HashMap<PathBuf, usize>,
    buffer: Vec<u8>,
    /// Whether the tree's own top came.
    top: bool,
}

impl Receiver<'_> {
    fn take(&mut self, reader: &mut Reader<PieceReader>, member: &Member) -> Result<(), Error> {
        let path =
            relative(&member.path).map_err(|reason| self.meter.refuse(&member.path, reason))?;
        if path.as_os_str().is_empty() {
            // The tree's own top; its mode is the receiver's business, and once is enough.
            if member.kind != Kind::Directory {
                return Err(self.refuse(member, "it has no name"));
            }
            if std::mem::replace(&mut self.top, true) {
                return Err(self.refuse(member, "it came before"));
            }
            return Ok(());
        }
        self.meter.entry(path.as_os_str().as_bytes())?;
        if !self
            .selection
            .selects(&path, member.kind == Kind::Directory)
        {
            return Err(self.refuse(member, "it was not asked for"));
        }
        if member.kind == Kind::Directory {
            self.make_directories(&path, member)?;
            self.directories.insert(path, (member.mode, member.mtime));
            return Ok(());
        }
        if let Some(parent) = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            self.make_directories(parent, member)?;
        }
        match member.kind {
            Kind::File => self.file(reader, member, path),
            Kind::Symlink => self.symlink(member, path),
            Kind::HardLink => self.hard_link(member, path),
            Kind::Directory => Ok(()),
        }
    }

    fn make_directories(&mut self, path: &Path, member: &Member) -> Result<(), Error> {
        if self.made.contains(path) {
            return Ok(());
        }
        if let Some(parent) = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            self.make_directories(parent, member)?;
        }
        self.into
            .create_dir(path)
            .map_err(|problem| match problem.kind() {
                io::ErrorKind::AlreadyExists => self.refuse(
                    member,
                    "the way to it leads through something else of that name",
                ),
                _ => self.failed(member, problem),
            })?;
        self.made.insert(path.to_owned());
        Ok(())
    }

    fn file(
        &mut self,
        reader: &mut Reader<PieceReader>,
        member: &Member,
        path: PathBuf,
    ) -> Result<(), Error> {
        self.meter
            .announce(member.size, path.as_os_str().as_bytes())?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let mut file = self
            .into
            .open_with(&path, &options)
            .map_err(|problem| self.not_new(member, problem))?;
        let mut hasher = Hasher::default();
        let mut has_holes = false;
        loop {
            if let hole @ 1.. = reader.hole() {
                has_holes = true;
                let step = hole.min(HOLE_STEP);
                file.seek(SeekFrom::Current(step as i64))
                    .map_err(|problem| self.failed(member, problem))?;
                hasher.zeros(step);
                self.meter.add_bytes(usize::try_from(step).unwrap_or(0));
                reader.pass_hole(step);
                continue;
            }
            let count = reader
                .read(&mut self.buffer)
                .map_err(|fault| self.told(fault))?;
            if count == 0 {
                break;
            }
            let bytes = &self.buffer[..count];
            file.write_all(bytes)
                .map_err(|problem| self.failed(member, problem))?;
            hasher.update(bytes);
            self.meter.add_bytes(count);
        }
        let file = file.into_std();
        if has_holes {
            // Where it ends with one nothing was written.
            file.set_len(member.size)
                .map_err(|problem| self.failed(member, problem))?;
        }
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(member.mode & 0o777 | 0o600);
        file.set_permissions(permissions)
            .map_err(|problem| self.failed(member, problem))?;
        file.set_times(FileTimes::new().set_modified(time(member.mtime)))
            .map_err(|problem| self.failed(member, problem))?;
        self.linkable.insert(path.clone(), self.moved.files.len());
        self.moved.files.push(FileDigest {
            path,
            size: member.size,
            sha256: hasher.finish(),
        });
        Ok(())
    }

    fn symlink(&mut self, member: &Member, path: PathBuf) -> Result<(), Error> {
        if let Err(reason) = stays_inside(&path, &member.link) {
            self.moved.skipped.push(Skipped {
                path,
                reason: reason.to_owned(),
            });
            return Ok(());
        }
        let target = OsStr::from_bytes(&member.link);
        self.into
            .symlink_contents(target, &path)
            .map_err(|problem| self.not_new(member, problem))?;
        set_time(self.into, &path, member.mtime).map_err(|problem| self.failed(member, problem))
    }

    fn hard_link(&mut self, member: &Member, path: PathBuf) -> Result<(), Error> {
        let known = relative(&member.link)
            .ok()
            .and_then(|target| self.linkable.get_key_value(&target));
        let Some((target, &index)) = known else {
            return Err(self.refuse(
                member,
                "it is a hard link to something outside the transfer",
            ));
        };
        self.into
            .hard_link(target, self.into, &path)
            .map_err(|problem| self.not_new(member, problem))?;
        let linked = FileDigest {
            path,
            ..self.moved.files[index].clone()
        };
        self.moved.files.push(linked);
        Ok(())
    }

    /// Gives directories their modes and times, the deepest first.
    fn finish(mut self) -> Result<Moved, Error> {
        let mut directories: Vec<_> = self.directories.drain().collect();
        directories.sort_by_key(|(path, _)| std::cmp::Reverse(path.components().count()));
        for (path, (mode, mtime)) in directories {
            let name = path.as_os_str().as_bytes();
            let failed = |problem| {
                self.meter
                    .failed(name, "its mode and time could not be set", problem)
            };
            let mode = Permissions::from_mode(mode & 0o777 | 0o700);
            self.into.set_permissions(&path, mode).map_err(failed)?;
            set_time(self.into, &path, mtime).map_err(failed)?;
        }
        Ok(self.moved)
    }

    fn refuse(&self, member: &Member, reason: &str) -> Error {
        self.meter.refuse(&member.path, reason)
    }

    fn failed(&self, member: &Member, problem: io::Error) -> Error {
        self.meter
            .failed(&member.path, "it could not be written", problem)
    }

    fn not_new(&self, member: &Member, problem: io::Error) -> Error {
        match problem.kind() {
            io::ErrorKind::AlreadyExists => {
                self.refuse(member, "something of that name came before")
            }
            _ => self.failed(member, problem),
        }
    }

    fn told(&self, fault: Fault) -> Error {
        match fault.source {
            Some(source) => self.meter.failed(&fault.entry, fault.reason, source),
            None => self.meter.refuse(&fault.entry, fault.reason),
        }
    }
}

/// A name from the stream as a path below the top; `./` in front and between is dropped.
pub(super) fn relative(name: &[u8]) -> Result<PathBuf, &'static str> {
    if name.contains(&0) {
        return Err("its name holds a NUL byte");
    }
    let mut path = PathBuf::new();
    for component in Path::new(OsStr::from_bytes(name)).components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::ParentDir => return Err("its name would leave the directory by `..`"),
            Component::RootDir | Component::Prefix(_) => return Err("its name is absolute"),
        }
    }
    Ok(path)
}

/// Whether a link at `path` with this target stays in the tree, whatever other links do.
///
/// `..` is counted from the link's own directory, which is a real one. After a plain name `..` could start from anywhere
/// that name leads, so there it is never accepted.
fn stays_inside(path: &Path, target: &[u8]) -> Result<(), &'static str> {
    let mut depth = path.components().count() - 1;
    let mut named = false;
    if target.is_empty() {
        return Err("it is a symbolic link to nowhere");
    }
    for component in Path::new(OsStr::from_bytes(target)).components() {
        match component {
            Component::RootDir | Component::Prefix(_) => {
                return Err("it is a symbolic link to an absolute path");
            }
            Component::ParentDir if named || depth == 0 => {
                return Err("it is a symbolic link out of the tree");
            }
            Component::ParentDir => depth -= 1,
            Component::Normal(_) => named = true,
            Component::CurDir => {}
        }
    }
    Ok(())
}

/// Sets the time of the entry itself, link or not.
fn set_time(dir: &Dir, path: &Path, mtime: Stamp) -> io::Result<()> {
    let mtime = SystemTimeSpec::Absolute(cap_std::time::SystemTime::from_std(time(mtime)));
    dir.set_symlink_times(path, None, Some(mtime))
}

fn time(stamp: Stamp) -> SystemTime {
    // What no clock can mean counts as undated.
    const YEAR_9999: u64 = 253_402_300_799;
    match u64::try_from(stamp.seconds) {
        Ok(seconds) if seconds <= YEAR_9999 => UNIX_EPOCH + Duration::new(seconds, stamp.nanos),
        Ok(_) => UNIX_EPOCH + Duration::from_secs(YEAR_9999),
        Err(_) => UNIX_EPOCH,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_a_stream_stay_below_the_top() {
        assert_eq!(relative(b"./a//b/./c/"), Ok(PathBuf::from("a/b/c")));
        assert_eq!(relative(b"./"), Ok(PathBuf::new()));
        for name in [&b"/etc/passwd"[..], b"../x", b"a/../../x", b"a/..", b"a\0b"] {
            assert!(relative(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn links_are_judged_without_following_any() {
        let cases: [(&str, &[u8], bool); 11] = [
            ("a", b"b", true),
            ("a", b"b/c", true),
            ("a/b", b"../c", true),
            ("Versions/Current", b"A", true),
            ("x/y/z", b"../../w", true),
            ("a", b"../b", false),
            ("a/b", b"../../c", false),
            ("a", b"/etc/passwd", false),
            // Through a link `d -> .` this would climb out, though it looks level.
            ("a", b"d/..", false),
            ("a/b", b"./../c", true),
            ("a", b"", false),
        ];
        for (path, target, kept) in cases {
            assert_eq!(
                stays_inside(Path::new(path), target).is_ok(),
                kept,
                "{path} -> {target:?}"
            );
        }
    }
}
