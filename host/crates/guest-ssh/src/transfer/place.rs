//! Moving a received tree to where it belongs, by renames within one file system.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use cap_fs_ext::DirExt;
use cap_std::fs::{Dir, MetadataExt};

use super::Meter;
use super::receive::Staging;
use crate::Error;

/// Opens the directory above `target`, making what is missing, and refusing to pass through links: the workspace may hold
/// links that an earlier step left.
pub(super) fn open_parent(
    root: &Dir,
    target: &Path,
    meter: &Meter<'_>,
) -> Result<(Dir, Option<OsString>), Error> {
    let name = target.as_os_str().as_bytes();
    let target = super::receive::relative(name).map_err(|reason| meter.refuse(name, reason))?;
    let mut dir = root
        .try_clone()
        .map_err(|problem| meter.failed(b".", "it cannot be opened", problem))?;
    let Some(last) = target.file_name() else {
        return Ok((dir, None));
    };
    for component in target.parent().unwrap_or(Path::new("")).components() {
        dir = open_or_make(&dir, component.as_os_str().as_ref()).map_err(|problem| {
            meter.failed(
                name,
                "the directory above it cannot be opened or made",
                problem,
            )
        })?;
    }
    Ok((dir, Some(last.to_owned())))
}

fn open_or_make(dir: &Dir, name: &Path) -> io::Result<Dir> {
    match dir.create_dir(name) {
        Err(problem) if problem.kind() != io::ErrorKind::AlreadyExists => Err(problem),
        _ => dir.open_dir_nofollow(name),
    }
}

/// Moves a finished tree to `name` in `parent`, or into `parent` itself.
///
/// Where nothing of that name is, one rename does it. Where a directory is, the tree is merged into it: files and links
/// replace what has their name, the rest stays. A file never replaces a directory that holds anything; that is looked for
/// before the first entry is moved.
pub(super) fn place(
    staging: Staging,
    parent: &Dir,
    name: Option<OsString>,
    meter: &Meter<'_>,
) -> Result<(), Error> {
    let whole = |problem| {
        meter.failed(
            b".",
            "the finished transfer could not be moved into place",
            problem,
        )
    };
    let Some(name) = name else {
        return merge(staging.dir(), parent, meter);
    };
    match parent.symlink_metadata(&name) {
        Err(problem) if problem.kind() == io::ErrorKind::NotFound => {
            // Ours alone while it was filled; from here on as any directory.
            let mode = cap_std::fs::PermissionsExt::from_mode(0o755);
            staging.dir().set_permissions(".", mode).map_err(whole)?;
            parent.rename(staging.name(), parent, &name).map_err(whole)
        }
        Err(problem) => Err(whole(problem)),
        Ok(found) if found.is_dir() => {
            let target = parent.open_dir_nofollow(&name).map_err(whole)?;
            merge(staging.dir(), &target, meter)
        }
        Ok(_) => Err(meter.refuse(
            name.as_bytes(),
            "something that is not a directory has that name here",
        )),
    }
}

fn merge(from: &Dir, to: &Dir, meter: &Meter<'_>) -> Result<(), Error> {
    check(from, to, Path::new(""), meter)?;
    carry(from, to, Path::new(""), meter)
}

/// Looks for what cannot be replaced, so that a merge fails before it starts.
fn check(from: &Dir, to: &Dir, path: &Path, meter: &Meter<'_>) -> Result<(), Error> {
    for (name, is_dir) in entries(from, path, meter)? {
        let path = path.join(&name);
        let failed =
            |problem| meter.failed(path.as_os_str().as_bytes(), "it cannot be merged", problem);
        let found = match to.symlink_metadata(&name) {
            Err(problem) if problem.kind() == io::ErrorKind::NotFound => continue,
            found => found.map_err(failed)?,
        };
        if !found.is_dir() {
            continue;
        }
        let below = to.open_dir_nofollow(&name).map_err(failed)?;
        if is_dir {
            check(
                &from.open_dir_nofollow(&name).map_err(failed)?,
                &below,
                &path,
                meter,
            )?;
        } else if below.entries().map_err(failed)?.next().is_some() {
            return Err(meter.refuse(
                path.as_os_str().as_bytes(),
                "a directory that is not empty has that name here",
            ));
        }
    }
    Ok(())
}

fn carry(from: &Dir, to: &Dir, path: &Path, meter: &Meter<'_>) -> Result<(), Error> {
    for (name, is_dir) in entries(from, path, meter)? {
        let path = path.join(&name);
        let failed = |problem| {
            meter.failed(
                path.as_os_str().as_bytes(),
                "it could not be moved into place",
                problem,
            )
        };
        let found = match to.symlink_metadata(&name) {
            Err(problem) if problem.kind() == io::ErrorKind::NotFound => None,
            found => Some(found.map_err(failed)?),
        };
        match found {
            Some(found) if is_dir && found.is_dir() => {
                let below = from.open_dir_nofollow(&name).map_err(failed)?;
                carry(
                    &below,
                    &to.open_dir_nofollow(&name).map_err(failed)?,
                    &path,
                    meter,
                )?;
                continue;
            }
            Some(found) if found.is_dir() => to.remove_dir(&name).map_err(failed)?,
            // A directory takes the place of a file or link; a rename alone would refuse.
            Some(_) if is_dir => to.remove_file(&name).map_err(failed)?,
            // `rename` of two names of one file does nothing, and would leave ours behind: harmless, staging goes away.
            _ => {}
        }
        from.rename(&name, to, &name).map_err(failed)?;
    }
    Ok(())
}

fn entries(dir: &Dir, path: &Path, meter: &Meter<'_>) -> Result<Vec<(PathBuf, bool)>, Error> {
    let failed =
        |problem| meter.failed(path.as_os_str().as_bytes(), "it cannot be listed", problem);
    let mut found = Vec::new();
    for entry in dir.entries().map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let is_dir = entry.metadata().map_err(failed)?.mode() & 0o170_000 == 0o040_000;
        found.push((PathBuf::from(entry.file_name()), is_dir));
    }
    Ok(found)
}
