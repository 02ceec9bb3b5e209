//! The directory above a target: opened through no link, made where it is missing, gone again where nothing arrives.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use cap_fs_ext::DirExt;
use cap_std::fs::Dir;

use super::Meter;
use super::receive::relative;
use crate::Error;

/// How often the way to a target is made anew when it goes away under us.
const ATTEMPTS: u32 = 10;

/// What [`open_parent`] finds and makes.
pub(super) struct Opened<T> {
    /// What was begun in the parent. Dropped first, or the parent would not be empty.
    pub(super) begun: T,
    pub(super) parent: Dir,
    /// The target's own name; [`None`] if the target is the root.
    pub(super) name: Option<OsString>,
    pub(super) made: Made,
}

/// Opens the directory above `target`, making what is missing, and refusing to pass through links: the workspace may hold
/// links that an earlier step left. Then begins in it what keeps it from being empty.
///
/// Another transfer that made the same directory takes it away again when it fails, and may do so until something is in
/// it. So where anything is not found all is done once more.
pub(super) fn open_parent<T>(
    root: &Dir,
    target: &Path,
    meter: &Meter<'_>,
    mut begin: impl FnMut(&Dir) -> io::Result<T>,
) -> Result<Opened<T>, Error> {
    let name = target.as_os_str().as_bytes();
    let target = relative(name).map_err(|reason| meter.refuse(name, reason))?;
    let mut attempts_left = ATTEMPTS;
    loop {
        attempts_left -= 1;
        let (reason, problem) = match try_open(root, &target) {
            Err(problem) => ("the directory above it cannot be opened or made", problem),
            Ok((parent, made)) => match begin(&parent) {
                Err(problem) => ("no room could be made beside it", problem),
                Ok(begun) => {
                    return Ok(Opened {
                        parent,
                        name: target.file_name().map(ToOwned::to_owned),
                        made,
                        begun,
                    });
                }
            },
        };
        if attempts_left == 0 || problem.kind() != io::ErrorKind::NotFound {
            return Err(meter.failed(name, reason, problem));
        }
    }
}

fn try_open(root: &Dir, target: &Path) -> io::Result<(Dir, Made)> {
    let mut made = Made {
        root: root.try_clone()?,
        paths: Vec::new(),
    };
    let mut dir = root.try_clone()?;
    let mut path = PathBuf::new();
    for component in target.parent().unwrap_or(Path::new("")).components() {
        path.push(component);
        dir = made.open_or_make(&dir, &path)?;
    }
    Ok((dir, made))
}

/// Directories above a target that were not there before; gone again, as far as they are empty, unless kept.
pub(super) struct Made {
    root: Dir,
    paths: Vec<PathBuf>,
}

impl Made {
    fn open_or_make(&mut self, dir: &Dir, path: &Path) -> io::Result<Dir> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        match dir.create_dir(name) {
            Ok(()) => self.paths.push(path.to_owned()),
            Err(problem) if problem.kind() == io::ErrorKind::AlreadyExists => {}
            Err(problem) => return Err(problem),
        }
        dir.open_dir_nofollow(name)
    }

    /// Something arrived below them.
    pub(super) fn keep(mut self) {
        self.paths.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for path in self.paths.iter().rev() {
            let removed = descend(&self.root, path.parent().unwrap_or(Path::new("")))
                .and_then(|dir| dir.remove_dir(path.file_name().unwrap_or_default()));
            if removed.is_err() {
                // Somebody put something there meanwhile, and it is theirs now.
                return;
            }
        }
    }
}

/// Opens a directory some levels below, through no link.
pub(super) fn descend(dir: &Dir, path: &Path) -> io::Result<Dir> {
    let mut dir = dir.try_clone()?;
    for component in path.components() {
        dir = dir.open_dir_nofollow(component.as_os_str())?;
    }
    Ok(dir)
}
