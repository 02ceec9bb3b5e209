//! Trees with everything that is awkward, and how to compare them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use guest_ssh::{Error, Limits, RemotePath, Selection, TransferSummary};

use super::sshd::{Sshd, Tar};

pub fn open(path: &Path) -> Dir {
    Dir::open_ambient_dir(path, ambient_authority()).unwrap()
}

pub fn remote(path: &Path) -> RemotePath {
    RemotePath::parse(path.as_os_str().as_bytes()).unwrap()
}

pub fn write(path: PathBuf, contents: &[u8], mode: u32) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, contents).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    let file = std::fs::File::open(&path).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_234_567_890))
        .unwrap();
}

/// A tree with everything that is awkward.
pub fn odd_tree(root: &Path) {
    write(root.join("plain"), b"plain", 0o644);
    write(root.join("empty"), b"", 0o600);
    write(root.join("run me.sh"), b"#!/bin/sh\n", 0o755);
    write(root.join("-rf"), b"dash", 0o644);
    write(root.join("new\nline"), b"newline", 0o644);
    write(
        root.join("back\\slash 'and' \"quotes\" $HOME `id` *?[x]"),
        b"shell",
        0o644,
    );
    write(
        root.join(OsStr::from_bytes(b"not-utf8-\xff\xfe")),
        b"bytes",
        0o644,
    );
    write(root.join("u\u{308}ber/\u{1f600}"), b"unicode", 0o644);
    write(
        root.join("d".repeat(120))
            .join("e".repeat(200))
            .join("f".repeat(180)),
        b"long",
        0o644,
    );
    write(
        root.join("large"),
        &(0..3_000_000_u32)
            .flat_map(u32::to_le_bytes)
            .collect::<Vec<_>>(),
        0o640,
    );
    std::fs::create_dir_all(root.join("nothing/in here")).unwrap();
    write(root.join("App.framework/Versions/A/App"), b"binary", 0o755);
    symlink("A", root.join("App.framework/Versions/Current")).unwrap();
    symlink("Versions/Current/App", root.join("App.framework/App")).unwrap();
    symlink("../plain", root.join("nothing/up")).unwrap();
    symlink("x".repeat(150), root.join("long link")).unwrap();
    symlink("y".repeat(100), root.join("full link")).unwrap();
    symlink("./nothing//in here/", root.join("untidy link")).unwrap();
    std::fs::hard_link(root.join("plain"), root.join("same as plain")).unwrap();
    std::fs::set_permissions(root.join("nothing"), PermissionsExt::from_mode(0o750)).unwrap();
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    std::fs::File::open(root.join("nothing"))
        .unwrap()
        .set_modified(old)
        .unwrap();
}

/// What matters about an entry: kind and mode, time (not of links), contents or target.
pub type Look = BTreeMap<PathBuf, (u32, i64, Vec<u8>)>;

pub fn look(root: &Path) -> Look {
    let mut seen = Look::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = std::fs::symlink_metadata(&path).unwrap();
            let contents = if metadata.is_dir() {
                folders.push(path.clone());
                Vec::new()
            } else if metadata.is_symlink() {
                std::fs::read_link(&path)
                    .unwrap()
                    .as_os_str()
                    .as_bytes()
                    .to_vec()
            } else {
                std::fs::read(&path).unwrap()
            };
            let mtime = if metadata.is_symlink() {
                0
            } else {
                metadata.mtime()
            };
            seen.insert(
                path.strip_prefix(root).unwrap().to_owned(),
                (metadata.mode(), mtime, contents),
            );
        }
    }
    seen
}

pub fn assert_same(one: &Look, other: &Look, context: &str) {
    let names = |look: &Look| look.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(one), names(other), "{context}");
    for (path, (mode, mtime, contents)) in one {
        let there = &other[path];
        assert_eq!(
            (format!("{mode:o}"), mtime),
            (format!("{:o}", there.0), &there.1),
            "{context}: {path:?}"
        );
        assert!(*contents == there.2, "{context}: {path:?} differs");
    }
}

/// The set's digest by the command the documentation gives.
pub fn digest_by_sha256sum(root: &Path) -> String {
    let script =
        "find . -type f -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 sha256sum -- | sha256sum";
    let output = std::process::Command::new("sh")
        .arg("-c")
        .arg(script)
        .current_dir(root)
        .output()
        .unwrap();
    String::from_utf8(output.stdout)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .to_owned()
}

pub struct Scene {
    pub server: Sshd,
    pub here: tempfile::TempDir,
    pub there: tempfile::TempDir,
}

impl Scene {
    pub fn new(tar: Tar) -> Self {
        let dir = || tempfile::tempdir().unwrap();
        Self {
            server: Sshd::with_tar(tar),
            here: dir(),
            there: dir(),
        }
    }

    pub async fn upload(
        &self,
        selection: &Selection,
        limits: &Limits,
    ) -> Result<TransferSummary, Error> {
        let connection = self.server.connect().await;
        connection
            .upload(
                &open(self.here.path()),
                selection,
                &remote(self.there.path()),
                limits,
                |_| (),
            )
            .await
    }

    pub async fn download(
        &self,
        selection: &Selection,
        target: &str,
        limits: &Limits,
    ) -> Result<TransferSummary, Error> {
        let connection = self.server.connect().await;
        let into = open(self.here.path());
        connection
            .download(
                &remote(self.there.path()),
                selection,
                &into,
                Path::new(target),
                limits,
                |_| (),
            )
            .await
    }
}

pub fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
