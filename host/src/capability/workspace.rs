//! `workspace`: small files, names and digests, through a directory handle that nothing leads out of.

use std::io::{ErrorKind, Read as _};
use std::path::{Component, Path, PathBuf};

use cap_std::fs::{Dir, Metadata};
use guest_ssh::Selection;
use plugin_manifest::Capability;
use sha2::{Digest as _, Sha256};

use crate::bindings::orka::plugin::workspace::{Entry, Host, Kind};
use crate::failure::{Class, Failure, Kind as FailureKind};
use crate::host_folder;
use crate::state::{CallError, HostState, RunContext};

/// What the contract promises at most for one file.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// What the contract promises at most for one listing.
const ENTRIES_MAX: usize = 10_000;
/// Directories a glob looks into at most: a listing must end also in a workspace of millions of files.
const DIRECTORIES_MAX: usize = 100_000;

impl Host for HostState {
    async fn available(&mut self) -> wasmtime::Result<bool> {
        Ok(self.run.workspace.is_some())
    }

    async fn list(&mut self, path: String) -> Result<Vec<Entry>, CallError> {
        self.on_disk("workspace.list", Capability::WorkspaceRead, move |dir| {
            list(dir, &inside(&path)?)
        })
        .await
    }

    async fn read(&mut self, path: String) -> Result<Vec<u8>, CallError> {
        let asked = path.clone();
        let contents = self
            .on_disk("workspace.read", Capability::WorkspaceRead, move |dir| {
                read(dir, &inside(&asked)?)
            })
            .await?;
        self.run.note_read(&path, &contents);
        Ok(contents)
    }

    async fn write(&mut self, path: String, contents: Vec<u8>) -> Result<(), CallError> {
        self.on_disk("workspace.write", Capability::WorkspaceWrite, move |dir| {
            write(dir, &inside(&path)?, &contents)
        })
        .await
    }

    async fn glob(&mut self, patterns: Vec<String>) -> Result<Vec<String>, CallError> {
        self.on_disk("workspace.glob", Capability::WorkspaceRead, move |dir| {
            glob(dir, &patterns)
        })
        .await
    }

    async fn hash(&mut self, path: String) -> Result<String, CallError> {
        self.on_disk("workspace.hash", Capability::WorkspaceRead, move |dir| {
            hash(dir, &inside(&path)?)
        })
        .await
    }
}

impl HostState {
    /// Works on the workspace away from the threads that drive the run.
    pub(super) async fn on_disk<T: Send + 'static>(
        &mut self,
        function: &'static str,
        capability: Capability,
        work: impl FnOnce(&Dir) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, CallError> {
        let run = self.run.clone();
        run.call(function, async {
            run.grants.require(capability)?;
            blocking(&run, work).await
        })
        .await
    }
}

/// Does blocking work on the workspace on a thread for such.
pub(super) async fn blocking<T: Send + 'static>(
    run: &RunContext,
    work: impl FnOnce(&Dir) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let dir = handle(run)?;
    tokio::task::spawn_blocking(move || work(&dir))
        .await
        .map_err(|error| {
            Failure::internal("work on the workspace ended early").with_source(error)
        })?
}

fn handle(run: &RunContext) -> Result<Dir, Failure> {
    run.workspace()?
        .dir
        .try_clone()
        .map_err(|error| trouble(Path::new("."), error))
}

/// A path as the contract allows it: relative, without `..`, outside the host's folder.
pub(super) fn inside(path: &str) -> Result<PathBuf, Failure> {
    let refused = |why: &str| {
        Failure::invalid(
            "files.outside",
            format!("`{}` {why}", path.escape_default()),
        )
        .with_hint("paths are relative to the workspace and stay in it")
    };
    let mut normal = PathBuf::new();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => normal.push(name),
            Component::CurDir => {}
            Component::ParentDir => return Err(refused("leads out of the workspace")),
            Component::RootDir | Component::Prefix(_) => return Err(refused("is absolute")),
        }
    }
    if path.contains('\0') {
        return Err(refused("contains a NUL"));
    }
    if host_folder::contains(&normal) {
        return Err(refused("belongs to the host"));
    }
    if normal.as_os_str().is_empty() {
        normal.push(".");
    }
    Ok(normal)
}

/// Where a path really leads, without links and outside the host's folder.
fn resolve(dir: &Dir, path: &Path) -> Result<PathBuf, Failure> {
    let real = host_folder::resolve(dir, path).map_err(|error| trouble(path, error))?;
    real.ok_or_else(|| {
        Failure::invalid(
            "files.outside",
            format!("`{}` leads into the host's own folder", path.display()),
        )
    })
}

/// A directory of the workspace, and whether it is the workspace itself.
pub(super) fn open_dir(dir: &Dir, path: &str) -> Result<(Dir, bool), Failure> {
    let real = resolve(dir, &inside(path)?)?;
    let opened = dir
        .open_dir(&real)
        .map_err(|error| trouble(Path::new(path), error))?;
    let is_root = !(real.components()).any(|part| matches!(part, Component::Normal(_)));
    Ok((opened, is_root))
}

fn list(dir: &Dir, path: &Path) -> Result<Vec<Entry>, Failure> {
    let mut entries = Vec::new();
    let real = resolve(dir, path)?;
    for entry in dir.read_dir(real).map_err(|error| trouble(path, error))? {
        let entry = entry.map_err(|error| trouble(path, error))?;
        let name = if path == Path::new(".") {
            PathBuf::from(entry.file_name())
        } else {
            path.join(entry.file_name())
        };
        if host_folder::contains(&name) {
            continue;
        }
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        entries.push(described(&name, &metadata));
        if entries.len() > ENTRIES_MAX {
            return Err(too_many(&format!(
                "`{}` has more than {ENTRIES_MAX} entries",
                path.display()
            )));
        }
    }
    entries.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(entries)
}

fn described(name: &Path, metadata: &Metadata) -> Entry {
    let kind = metadata.file_type();
    Entry {
        path: name.to_string_lossy().into_owned(),
        kind: match kind {
            _ if kind.is_symlink() => Kind::SymbolicLink,
            _ if kind.is_dir() => Kind::Directory,
            _ if kind.is_file() => Kind::File,
            _ => Kind::Other,
        },
        size: if kind.is_file() { metadata.len() } else { 0 },
    }
}

/// Opens a regular file; anything else could block or never end.
fn open(dir: &Dir, path: &Path) -> Result<cap_std::fs::File, Failure> {
    let real = resolve(dir, path)?;
    let metadata = dir.metadata(&real).map_err(|error| trouble(path, error))?;
    if !metadata.is_file() {
        return Err(Failure::invalid(
            "files.not-a-file",
            format!("`{}` is not a regular file", path.display()),
        ));
    }
    dir.open(real).map_err(|error| trouble(path, error))
}

fn read(dir: &Dir, path: &Path) -> Result<Vec<u8>, Failure> {
    let mut contents = Vec::new();
    open(dir, path)?
        .take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut contents)
        .map_err(|error| trouble(path, error))?;
    if contents.len() as u64 > FILE_BYTES_MAX {
        return Err(too_many(&format!(
            "`{}` is larger than {FILE_BYTES_MAX} bytes",
            path.display()
        )));
    }
    Ok(contents)
}

/// A file of the workspace for a remote program to read; its size does not matter.
pub(super) fn open_for_reading(dir: &Dir, path: &str) -> Result<std::fs::File, Failure> {
    Ok(open(dir, &inside(path)?)?.into_std())
}

fn write(dir: &Dir, path: &Path, contents: &[u8]) -> Result<(), Failure> {
    if contents.len() as u64 > FILE_BYTES_MAX {
        return Err(too_many(&format!(
            "`{}` would be larger than {FILE_BYTES_MAX} bytes",
            path.display()
        )));
    }
    let (Some(name), Some(parent)) = (path.file_name(), path.parent()) else {
        return Err(trouble(path, ErrorKind::IsADirectory.into()));
    };
    let place = make_dir(dir, parent)?.join(name);
    // What has this name is replaced, never followed.
    host_folder::write_whole(dir, &place, contents).map_err(|error| trouble(path, error))
}

/// Makes a directory where it is missing; gives where it really is.
fn make_dir(dir: &Dir, path: &Path) -> Result<PathBuf, Failure> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    // Looked at before anything is made: what exists decides where the rest will be.
    for above in path.ancestors().filter(|it| !it.as_os_str().is_empty()) {
        match host_folder::resolve(dir, above) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            _ => {
                resolve(dir, above)?;
                break;
            }
        }
    }
    dir.create_dir_all(path)
        .map_err(|error| trouble(path, error))?;
    resolve(dir, path)
}

fn glob(dir: &Dir, patterns: &[String]) -> Result<Vec<String>, Failure> {
    if patterns.is_empty() {
        return Ok(Vec::new());
    }
    let nothing: [&str; 0] = [];
    let selection = Selection::parse(patterns, &nothing).map_err(|error| {
        Failure::invalid("files.pattern", "a pattern is wrong").with_source(error)
    })?;
    let mut found = Vec::new();
    let mut directories = vec![PathBuf::new()];
    let mut looked_into = 0;
    while let Some(directory) = directories.pop() {
        looked_into += 1;
        if looked_into > DIRECTORIES_MAX {
            return Err(too_many(&format!(
                "the workspace has more than {DIRECTORIES_MAX} directories"
            )));
        }
        let path = if directory.as_os_str().is_empty() {
            Path::new(".")
        } else {
            directory.as_path()
        };
        for entry in dir.read_dir(path).map_err(|error| trouble(path, error))? {
            let entry = entry.map_err(|error| trouble(path, error))?;
            let name = directory.join(entry.file_name());
            if host_folder::contains(&name) {
                continue;
            }
            let kind = entry.file_type().map_err(|error| trouble(&name, error))?;
            if kind.is_dir() {
                directories.push(name);
            } else if kind.is_file() && selection.selects(&name, false) {
                found.push(name.to_string_lossy().into_owned());
                if found.len() > ENTRIES_MAX {
                    return Err(too_many(&format!("more than {ENTRIES_MAX} files match")));
                }
            }
        }
    }
    found.sort();
    Ok(found)
}

fn hash(dir: &Dir, path: &Path) -> Result<String, Failure> {
    let mut file = open(dir, path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 128 * 1024];
    loop {
        let read = file
            .read(&mut buffer)
            .map_err(|error| trouble(path, error))?;
        if read == 0 {
            return Ok(hex::encode(hasher.finalize()));
        }
        hasher.update(&buffer[..read]);
    }
}

fn trouble(path: &Path, error: std::io::Error) -> Failure {
    let shown = path.display();
    match error.kind() {
        ErrorKind::NotFound => Failure::new(
            FailureKind::NotFound,
            Class::Files,
            "files.not-found",
            format!("there is no `{shown}` in the workspace"),
        ),
        _ => Failure::files(
            "files.workspace",
            format!("`{shown}` in the workspace cannot be used"),
        )
        .with_source(error),
    }
}

fn too_many(message: &str) -> Failure {
    Failure::new(
        FailureKind::NoCapacity,
        Class::Plugin,
        "files.limit",
        message,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace() -> (tempfile::TempDir, Dir) {
        let directory = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient_dir(directory.path(), cap_std::ambient_authority()).unwrap();
        (directory, dir)
    }

    #[test]
    fn paths_cannot_leave_or_touch_the_hosts_folder() {
        for path in [
            "/etc/passwd",
            "..",
            "a/../../b",
            ".orka-step",
            "./.orka-step/ledger",
            ".Orka-STEP/ledger",
            "a\0b",
        ] {
            assert!(inside(path).is_err(), "{path}");
        }
        assert_eq!(inside("./a//b/").unwrap(), Path::new("a/b"));
        assert_eq!(inside("").unwrap(), Path::new("."));
    }

    #[test]
    fn a_symbolic_link_cannot_lead_out() {
        let (directory, dir) = workspace();
        std::os::unix::fs::symlink("/etc/passwd", directory.path().join("out")).unwrap();
        assert!(read(&dir, Path::new("out")).is_err());
        assert!(hash(&dir, Path::new("out")).is_err());
    }

    #[test]
    fn no_link_leads_into_the_hosts_folder() {
        use std::os::unix::fs::symlink;
        let (directory, dir) = workspace();
        let root = directory.path();
        std::fs::create_dir_all(root.join(".orka-step/run")).unwrap();
        std::fs::write(root.join(".orka-step/run/ledger"), "own").unwrap();
        std::fs::create_dir(root.join("sub")).unwrap();
        symlink(".orka-step", root.join("whole")).unwrap();
        symlink("../.orka-step/run", root.join("sub/part")).unwrap();
        symlink(".orka-step/run/ledger", root.join("file")).unwrap();
        symlink("whole", root.join("twice")).unwrap();
        symlink("sub/part", root.join("long")).unwrap();
        for path in [
            "whole/run/ledger",
            "sub/part/ledger",
            "file",
            "twice/run/ledger",
            "long/ledger",
        ] {
            let codes = [
                read(&dir, Path::new(path)).unwrap_err().code,
                hash(&dir, Path::new(path)).unwrap_err().code,
                open_for_reading(&dir, path).unwrap_err().code,
            ];
            assert_eq!(codes, ["files.outside"; 3], "{path}");
        }
        for path in ["whole", "whole/run", "sub/part", "twice", "long"] {
            assert_eq!(
                list(&dir, Path::new(path)).unwrap_err().code,
                "files.outside",
                "{path}"
            );
            assert_eq!(
                open_dir(&dir, path).unwrap_err().code,
                "files.outside",
                "{path}"
            );
            for below in ["x", "new/x"] {
                let place = Path::new(path).join(below);
                assert_eq!(write(&dir, &place, b"x").unwrap_err().code, "files.outside");
            }
        }
        assert_eq!(
            std::fs::read_dir(root.join(".orka-step")).unwrap().count(),
            1
        );
        assert_eq!(
            std::fs::read_dir(root.join(".orka-step/run"))
                .unwrap()
                .count(),
            1
        );
        symlink(".orka-step/absent", root.join("nowhere")).unwrap();
        assert!(write(&dir, Path::new("nowhere/x"), b"x").is_err());
        assert!(!root.join(".orka-step/absent").exists());
        assert!(glob(&dir, &["ledger".to_owned()]).unwrap().is_empty());
        // A link in place of a file is replaced, not followed.
        write(&dir, Path::new("file"), b"new").unwrap();
        assert_eq!(
            std::fs::read(root.join(".orka-step/run/ledger")).unwrap(),
            b"own"
        );
        assert_eq!(read(&dir, Path::new("file")).unwrap(), b"new");
    }

    #[test]
    fn links_and_folders_of_the_users_own_work() {
        let (directory, dir) = workspace();
        write(&dir, Path::new("sub/.orka-step/file"), b"x").unwrap();
        std::os::unix::fs::symlink("sub/.orka-step", directory.path().join("link")).unwrap();
        assert_eq!(read(&dir, Path::new("link/file")).unwrap(), b"x");
        write(&dir, Path::new("link/deep/other"), b"y").unwrap();
        assert_eq!(
            read(&dir, Path::new("sub/.orka-step/deep/other")).unwrap(),
            b"y"
        );
        assert!(open_dir(&dir, "").unwrap().1);
        assert!(!open_dir(&dir, "sub").unwrap().1);
        std::os::unix::fs::symlink("..", directory.path().join("sub/up")).unwrap();
        assert!(open_dir(&dir, "sub/up").unwrap().1);
        assert_eq!(open_dir(&dir, "none").unwrap_err().code, "files.not-found");
    }

    #[test]
    fn globs_match_as_gitignore_does_and_skip_the_hosts_folder() {
        let (directory, dir) = workspace();
        std::fs::create_dir(directory.path().join(".orka-step")).unwrap();
        std::fs::write(directory.path().join(".orka-step/e.ipa"), "x").unwrap();
        for path in ["a.ipa", "out/b.ipa", "out/deep/c.ipa", "out/d.txt"] {
            write(&dir, Path::new(path), b"x").unwrap();
        }
        let matched = |patterns: &[&str]| {
            glob(
                &dir,
                &patterns.iter().map(ToString::to_string).collect::<Vec<_>>(),
            )
            .unwrap()
        };
        assert_eq!(
            matched(&["*.ipa"]),
            ["a.ipa", "out/b.ipa", "out/deep/c.ipa"]
        );
        assert_eq!(matched(&["/*.ipa"]), ["a.ipa"]);
        assert_eq!(matched(&["out/*.ipa"]), ["out/b.ipa"]);
        assert_eq!(
            matched(&["out/**/*.ipa", "*.txt"]),
            ["out/b.ipa", "out/d.txt", "out/deep/c.ipa"]
        );
        assert_eq!(
            matched(&["out/"]),
            ["out/b.ipa", "out/d.txt", "out/deep/c.ipa"]
        );
        assert_eq!(matched(&["*.ipa", "!c.ipa"]), ["a.ipa", "out/b.ipa"]);
        assert!(matched(&[]).is_empty());
    }

    #[test]
    fn large_files_are_hashed_and_not_read() {
        let (directory, dir) = workspace();
        std::fs::write(directory.path().join("big"), vec![0_u8; 2 * 1024 * 1024]).unwrap();
        assert_eq!(
            read(&dir, Path::new("big")).unwrap_err().code,
            "files.limit"
        );
        assert_eq!(
            hash(&dir, Path::new("big")).unwrap(),
            "5647f05ec18958947d32874eeb788fa396a05d0bab7c1b71f112ceb7e9b31eee"
        );
    }

    #[test]
    fn listing_tells_kinds_and_sizes() {
        let (directory, dir) = workspace();
        write(&dir, Path::new("file"), b"abc").unwrap();
        std::fs::create_dir(directory.path().join("directory")).unwrap();
        std::os::unix::fs::symlink("file", directory.path().join("link")).unwrap();
        let entries = list(&dir, Path::new(".")).unwrap();
        let summary: Vec<_> = entries
            .iter()
            .map(|entry| (entry.path.as_str(), entry.kind, entry.size))
            .collect();
        assert_eq!(
            summary,
            [
                ("directory", Kind::Directory, 0),
                ("file", Kind::File, 3),
                ("link", Kind::SymbolicLink, 0)
            ]
        );
    }
}
