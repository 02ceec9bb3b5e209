//! Where a transfer arrives: a directory of our own beside its target, known as such when a killed process leaves it.
//!
//! ```text
//! .orka-step-receiving-0f3a…/   readable by its owner only
//!     lock                      locked while its process lives, and dated while it works
//!     placing                   there once entries are moved out of `tree`
//!     tree/                     what arrives
//!     old/                      names of what is replaced, until all is in place
//! ```

use std::cell::Cell;
use std::ffi::{OsStr, OsString};
use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use cap_fs_ext::{DirExt as _, FollowSymlinks, OpenOptionsFollowExt as _};
use cap_std::fs::{Dir, OpenOptions, Permissions, PermissionsExt as _};

use super::volume::{Abilities, Disk, PRIVATE, Volume, probe};

/// What every directory this crate makes for its own use is called. Nothing of that name is ever transferred.
pub(super) const PREFIX: &str = ".orka-step-receiving-";

const LOCK: &str = "lock";
const PLACING: &str = "placing";
const TREE: &str = "tree";
const OLD: &str = "old";

/// Where locks do not work, or were not taken yet, a directory left alone for so long has no living owner: longer than
/// any transfer within a TaskRun.
const STALE_AFTER: Duration = Duration::from_secs(24 * 3600);

/// How often a working transfer dates its lock anew.
const SHOW_INTERVAL: Duration = Duration::from_secs(60);

/// How often a new name is tried when the first was taken for an abandoned one before it was locked.
const ATTEMPTS: u32 = 3;

/// Whether a name is one that this crate uses for itself. A file system may not tell letters by their case.
pub(super) fn is_reserved(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.len() >= PREFIX.len() && name[..PREFIX.len()].eq_ignore_ascii_case(PREFIX.as_bytes())
}

/// A name that nobody has.
pub(super) fn fresh_name() -> OsString {
    OsString::from(format!("{PREFIX}{:016x}", rand::random::<u64>()))
}

/// A directory of our own beside the place where the tree will go; removed with all it holds unless that was moved away.
pub(super) struct Staging {
    volume: Arc<dyn Volume>,
    abilities: Abilities,
    parent: Dir,
    name: OsString,
    dir: Dir,
    tree: Dir,
    lock: File,
    shown: Cell<Instant>,
    is_removed: bool,
}

impl Staging {
    /// Makes it inside `parent`, readable by its owner only, and finds out what the volume can do.
    pub(super) fn create(parent: &Dir) -> io::Result<Self> {
        Self::create_on(Arc::new(Disk), parent)
    }

    /// The same on a volume that a test chooses.
    pub(super) fn create_on(volume: Arc<dyn Volume>, parent: &Dir) -> io::Result<Self> {
        for _ in 1..ATTEMPTS {
            match Self::try_create(&volume, parent) {
                Err(problem) if problem.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return outcome,
            }
        }
        Self::try_create(&volume, parent)
    }

    fn try_create(volume: &Arc<dyn Volume>, parent: &Dir) -> io::Result<Self> {
        let name = fresh_name();
        let parent = parent.try_clone()?;
        volume.make_dir(&parent, Path::new(&name))?;
        Self::furnish(volume, &parent, &name).inspect_err(|_| {
            // The first error is the one to tell.
            let _ = volume.remove_tree(&parent, Path::new(&name));
        })
    }

    fn furnish(volume: &Arc<dyn Volume>, parent: &Dir, name: &OsStr) -> io::Result<Self> {
        let dir = parent.open_dir_nofollow(name)?;
        // Where there are no modes the directory is as open as the whole volume.
        let _ = dir.set_permissions(".", Permissions::from_mode(0o700));
        let lock = volume.make_file(&dir, Path::new(LOCK), PRIVATE)?;
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => return Err(io::ErrorKind::WouldBlock.into()),
            // Without locks its age has to do.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        let abilities = probe(volume.as_ref(), &dir)?;
        volume.make_dir(&dir, Path::new(TREE))?;
        Ok(Self {
            volume: Arc::clone(volume),
            abilities,
            parent: parent.try_clone()?,
            name: name.to_owned(),
            tree: dir.open_dir_nofollow(TREE)?,
            dir,
            lock,
            shown: Cell::new(Instant::now()),
            is_removed: false,
        })
    }

    pub(super) fn volume(&self) -> &dyn Volume {
        self.volume.as_ref()
    }

    pub(super) fn abilities(&self) -> Abilities {
        self.abilities
    }

    /// Dates the lock now and then, for those on other nodes who cannot see that it is held.
    pub(super) fn show_alive(&self, now: Instant) {
        if now.duration_since(self.shown.get()) < SHOW_INTERVAL {
            return;
        }
        self.shown.set(now);
        // Where there are no times, its time of making has to do.
        let _ = self.volume.set_time(&self.lock, SystemTime::now());
    }

    /// Where the tree arrives.
    pub(super) fn tree(&self) -> &Dir {
        &self.tree
    }

    /// Where the tree is, relative to where this directory was made.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn path(&self) -> std::path::PathBuf {
        Path::new(&self.name).join(TREE)
    }

    /// From here on the target may hold a part.
    pub(super) fn begin_placing(&self) -> io::Result<()> {
        let marker = self
            .volume
            .make_file(&self.dir, Path::new(PLACING), PRIVATE)?;
        drop(marker);
        self.volume.make_dir(&self.dir, Path::new(OLD))
    }

    /// Where second names of what is replaced are kept meanwhile.
    pub(super) fn old(&self) -> io::Result<Dir> {
        self.dir.open_dir_nofollow(OLD)
    }

    /// Moves the whole tree to `name` beside this directory.
    pub(super) fn give_away_as(&self, name: &Path) -> io::Result<()> {
        self.volume
            .rename(&self.dir, Path::new(TREE), &self.parent, name)
    }

    /// Removes what is left. An error is worth a word, not a failure.
    pub(super) fn remove(mut self) -> Result<(), String> {
        self.is_removed = true;
        self.clear()
    }

    fn clear(&self) -> Result<(), String> {
        match self.volume.remove_tree(&self.parent, Path::new(&self.name)) {
            Err(problem) if problem.kind() != io::ErrorKind::NotFound => Err(format!(
                "`{}` could not be removed from the workspace: {problem}",
                self.name.display()
            )),
            _ => Ok(()),
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.is_removed
            && let Err(told) = self.clear()
        {
            tracing::warn!("{told}");
        }
    }
}

/// Removes what killed processes left in a directory, and says for each what that means. What belongs to a living process,
/// here or on another node, is left alone: where nodes do not see each other's locks, whatever is younger than a day.
///
/// # Errors
///
/// The directory cannot be listed. What cannot be removed is told like the rest.
pub fn sweep(dir: &Dir) -> io::Result<Vec<String>> {
    sweep_on(&Disk, dir)
}

pub(super) fn sweep_on(volume: &dyn Volume, dir: &Dir) -> io::Result<Vec<String>> {
    let mut told = Vec::new();
    for entry in dir.entries()? {
        let name = entry?.file_name();
        if !is_reserved(&name) {
            continue;
        }
        // Another sweeper may have been faster; a link of that name is not ours.
        let Ok(found) = dir.open_dir_nofollow(&name) else {
            remove_old_copy(volume, dir, &name);
            continue;
        };
        let Some(_lock) = abandoned(volume, &found) else {
            continue;
        };
        let mut line = if found.symlink_metadata(PLACING).is_ok() {
            "a run was killed while its files were moved into place: each is old or new, but old ones may stand beside \
             new ones"
        } else {
            "a run was killed while it received files; none of them had been moved into place"
        }
        .to_owned();
        if let Err(problem) = volume.remove_tree(dir, Path::new(&name)) {
            line.push_str(&format!(
                "; `{}` could not be removed: {problem}",
                name.display()
            ));
        }
        told.push(line);
    }
    Ok(told)
}

/// A file of such a name is a copy on its way to its place, which takes no lock.
fn remove_old_copy(volume: &dyn Volume, dir: &Dir, name: &OsStr) {
    if let Ok(found) = dir.symlink_metadata(name)
        && found.is_file()
        && is_old(found.modified())
    {
        // It is hidden and never transferred, so it can stay where it cannot be removed.
        let _ = volume.remove_file(dir, Path::new(name));
    }
}

/// The lock of a directory without a living owner. Something to hold on to also where locks do not work.
fn abandoned(volume: &dyn Volume, dir: &Dir) -> Option<Option<File>> {
    let mut options = OpenOptions::new();
    options.write(true).follow(FollowSymlinks::No);
    let Ok(lock) = dir.open_with(LOCK, &options) else {
        return is_old(dir.dir_metadata().and_then(|found| found.modified())).then_some(None);
    };
    let lock = lock.into_std();
    match lock.try_lock() {
        Ok(()) if volume.shares_locks(dir) => Some(Some(lock)),
        Err(TryLockError::WouldBlock) => None,
        Ok(()) | Err(TryLockError::Error(_)) => {
            let modified = dir
                .symlink_metadata(LOCK)
                .and_then(|found| found.modified());
            is_old(modified).then_some(None)
        }
    }
}

fn is_old(modified: io::Result<cap_std::time::SystemTime>) -> bool {
    modified.is_ok_and(|time| {
        SystemTime::now()
            .duration_since(time.into_std())
            .is_ok_and(|age| age > STALE_AFTER)
    })
}
