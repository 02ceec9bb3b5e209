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

/// Opens the directory above `target`, making what is missing, and refusing to pass through links: the workspace may hold
/// links that an earlier step left.
pub(super) fn open_parent(
    root: &Dir,
    target: &Path,
    meter: &Meter<'_>,
) -> Result<(Dir, Option<OsString>, Made), Error> {
    let name = target.as_os_str().as_bytes();
    let target = relative(name).map_err(|reason| meter.refuse(name, reason))?;
    let open = || {
        root.try_clone()
            .map_err(|problem| meter.failed(b".", "it cannot be opened", problem))
    };
    let mut made = Made {
        root: open()?,
        paths: Vec::new(),
    };
    let mut dir = open()?;
    let Some(last) = target.file_name() else {
        return Ok((dir, None, made));
    };
    let mut path = PathBuf::new();
    for component in target.parent().unwrap_or(Path::new("")).components() {
        path.push(component);
        dir = made.open_or_make(&dir, &path).map_err(|problem| {
            meter.failed(
                name,
                "the directory above it cannot be opened or made",
                problem,
            )
        })?;
    }
    Ok((dir, Some(last.to_owned()), made))
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
