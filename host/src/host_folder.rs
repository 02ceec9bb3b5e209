//! The host's own folder in the workspace: ledger and handoff. Plugins do not see it and it is never copied to a VM.

use std::ffi::OsStr;
use std::io::{self, Write as _};
use std::path::{Component, Path, PathBuf};

use cap_std::fs::{Dir, File, MetadataExt as _, OpenOptions};

/// Its name.
pub const NAME: &str = ".orka-step";

/// As an exclude pattern for a transfer of the whole workspace. A file system may not tell letters by their case.
pub const PATTERN: &str = "/.[oO][rR][kK][aA]-[sS][tT][eE][pP]";

/// Shows that the workspace can be written, by writing.
///
/// # Errors
///
/// What the file system said.
pub fn probe(workspace: &Dir) -> io::Result<()> {
    workspace.create_dir_all(NAME)?;
    let name = format!("{NAME}/probe-{}", hex::encode(rand::random::<[u8; 8]>()));
    let mut file = workspace.open_with(&name, OpenOptions::new().write(true).create_new(true))?;
    let written = file.write_all(b"probe").and_then(|()| file.sync_data());
    workspace.remove_file(&name)?;
    written
}

/// The folder of one run, made when it is missing.
///
/// # Errors
///
/// What the file system said.
pub fn of_run(workspace: &Dir, run_hash: &str) -> io::Result<Dir> {
    let path = format!("{NAME}/{run_hash}");
    workspace.create_dir_all(&path)?;
    // A workspace is mostly a git checkout, and this folder is nothing to commit.
    let ignore = format!("{NAME}/.gitignore");
    if !workspace.try_exists(&ignore)? {
        workspace.write(&ignore, "*\n")?;
    }
    workspace.open_dir(&path)
}

/// Whether a path relative to the workspace is in here, going by its name.
pub fn contains(path: &Path) -> bool {
    path.components()
        .find(|part| !matches!(part, Component::CurDir))
        .is_some_and(|first| first.as_os_str().eq_ignore_ascii_case(NAME))
}

/// The path that `path` leads to, relative to the workspace and without links; none if that is in here.
///
/// # Errors
///
/// What the file system said, also about a path that leads nowhere or out of the workspace.
pub fn resolve(workspace: &Dir, path: &Path) -> io::Result<Option<PathBuf>> {
    let real = workspace.canonicalize(path)?;
    if contains(&real) {
        return Ok(None);
    }
    // By identity as well: file systems have more ways than one to write a name.
    let first = real.components().find_map(|part| match part {
        Component::Normal(name) => Some(name),
        _ => None,
    });
    let identity = |name: &OsStr| workspace.metadata(name).map(|it| (it.dev(), it.ino()));
    let is_own = match first {
        None => false,
        Some(first) => match identity(OsStr::new(NAME)) {
            Ok(own) => identity(first)? == own,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        },
    };
    Ok((!is_own).then_some(real))
}

/// Lets the names in a directory survive a sudden end of the machine.
///
/// # Errors
///
/// What the file system said; one that has no such thing is taken to need none.
pub fn sync(dir: &Dir) -> io::Result<()> {
    match dir.open(".").and_then(|opened| opened.sync_all()) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
            ) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// Writes a file whole or not at all: beside its place first, then renamed.
///
/// # Errors
///
/// What the file system said; nothing is left behind then.
pub fn write_whole(dir: &Dir, name: &Path, contents: &[u8]) -> io::Result<()> {
    write_whole_with(dir, name, |file| file.write_all(contents))
}

/// As [`write_whole`], with what `write` writes.
///
/// # Errors
///
/// As [`write_whole`].
pub fn write_whole_with(
    dir: &Dir,
    name: &Path,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let mut temporary = name.as_os_str().to_owned();
    temporary.push(format!(
        ".{}.partial",
        hex::encode(rand::random::<[u8; 4]>())
    ));
    let temporary = Path::new(&temporary);
    let written = dir
        .open_with(temporary, OpenOptions::new().write(true).create_new(true))
        .and_then(|mut file| write(&mut file))
        .and_then(|()| dir.rename(temporary, dir, name));
    if written.is_err() {
        // Nothing to do about a failure to remove what could not be written.
        let _ = dir.remove_file(temporary);
    }
    written
}
