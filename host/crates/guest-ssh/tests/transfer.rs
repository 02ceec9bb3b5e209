//! Trees both ways through OpenSSH's server, with GNU tar and with bsdtar in the VM.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use guest_ssh::{Error, Limits, RemotePath, Selection, TransferSummary};
use support::sshd::{Sshd, TARS, Tar};

fn open(path: &Path) -> Dir {
    Dir::open_ambient_dir(path, ambient_authority()).unwrap()
}

fn remote(path: &Path) -> RemotePath {
    RemotePath::parse(path.as_os_str().as_bytes()).unwrap()
}

fn write(path: PathBuf, contents: &[u8], mode: u32) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, contents).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    let file = std::fs::File::open(&path).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_234_567_890))
        .unwrap();
}

/// A tree with everything that is awkward.
fn odd_tree(root: &Path) {
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
type Look = BTreeMap<PathBuf, (u32, i64, Vec<u8>)>;

fn look(root: &Path) -> Look {
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

fn assert_same(one: &Look, other: &Look, context: &str) {
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
fn digest_by_sha256sum(root: &Path) -> String {
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

struct Scene {
    server: Sshd,
    here: tempfile::TempDir,
    there: tempfile::TempDir,
}

impl Scene {
    fn new(tar: Tar) -> Self {
        let dir = || tempfile::tempdir().unwrap();
        Self {
            server: Sshd::with_tar(tar),
            here: dir(),
            there: dir(),
        }
    }

    async fn upload(
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

    async fn download(
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

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn an_odd_tree_survives_the_way_up() {
    for tar in TARS {
        let scene = Scene::new(tar);
        odd_tree(scene.here.path());
        let summary = scene
            .upload(&Selection::everything(), &Limits::default())
            .await
            .unwrap();
        assert_same(
            &look(scene.here.path()),
            &look(scene.there.path()),
            &format!("{tar:?}"),
        );
        assert_eq!(
            summary.digest_hex(),
            digest_by_sha256sum(scene.there.path()),
            "{tar:?}"
        );
        assert_eq!(summary.files, 12);
    }
}

#[tokio::test]
async fn an_odd_tree_survives_the_way_down() {
    for tar in TARS {
        let scene = Scene::new(tar);
        odd_tree(scene.there.path());
        let summary = scene
            .download(&Selection::everything(), "new/place", &Limits::default())
            .await
            .unwrap();
        let here = scene.here.path().join("new/place");
        assert_same(&look(scene.there.path()), &look(&here), &format!("{tar:?}"));
        assert_eq!(summary.digest_hex(), digest_by_sha256sum(&here), "{tar:?}");
        assert_eq!(
            (summary.files, summary.skipped.len(), summary.warnings.len()),
            (12, 0, 0),
            "{:?}",
            summary.warnings
        );
        assert_eq!(names(&scene.here.path().join("new")), ["place"], "{tar:?}");
    }
}

#[tokio::test]
async fn patterns_choose_on_both_ways() {
    for tar in TARS {
        let scene = Scene::new(tar);
        for root in [scene.here.path(), scene.there.path()] {
            for path in [
                "build/out/App.ipa",
                "build/out/App.dSYM/x",
                "build/tmp/App.ipa",
                "logs/a.log",
                ".git/config",
                "top",
            ] {
                write(root.join(path), path.as_bytes(), 0o644);
            }
        }
        let selection =
            Selection::parse(&["build/out/*.ipa", "*.log", "no/such/*"], &[".git/"]).unwrap();
        let down = scene
            .download(&selection, "down", &Limits::default())
            .await
            .unwrap();
        let paths: Vec<_> = down
            .entries
            .iter()
            .map(|entry| entry.path.to_str().unwrap())
            .collect();
        assert_eq!(paths, ["build/out/App.ipa", "logs/a.log"], "{tar:?}");
        assert_eq!(names(&scene.here.path().join("down/build")), ["out"]);

        std::fs::remove_dir_all(scene.here.path().join("down")).unwrap();
        std::fs::remove_dir_all(scene.there.path()).unwrap();
        let up = scene
            .upload(
                &Selection::parse(&[""; 0], &[".git/", "/build/"]).unwrap(),
                &Limits::default(),
            )
            .await
            .unwrap();
        assert_eq!(up.files, 2, "{tar:?}");
        assert_eq!(names(scene.there.path()), ["logs", "top"], "{tar:?}");
    }
}

#[tokio::test]
async fn a_selection_without_matches_makes_nothing() {
    let scene = Scene::new(Tar::Gnu);
    write(scene.there.path().join("x"), b"", 0o644);
    let summary = scene
        .download(
            &Selection::parse(&["*.ipa"], &[""; 0]).unwrap(),
            "out",
            &Limits::default(),
        )
        .await
        .unwrap();
    assert_eq!((summary.files, summary.bytes), (0, 0));
    assert!(names(scene.here.path()).is_empty());
}

#[tokio::test]
async fn a_missing_directory_is_told_apart() {
    let scene = Scene::new(Tar::Gnu);
    std::fs::remove_dir(scene.there.path()).unwrap();
    let outcome = scene
        .download(&Selection::everything(), "out", &Limits::default())
        .await;
    assert!(
        matches!(outcome, Err(Error::NotFound { .. })),
        "{outcome:?}"
    );
    std::fs::create_dir(scene.there.path()).unwrap();
}

#[tokio::test]
async fn merging_adds_and_replaces_but_deletes_nothing_and_follows_no_link() {
    for tar in TARS {
        let scene = Scene::new(tar);
        let outside = tempfile::tempdir().unwrap();
        write(scene.here.path().join("kept"), b"kept", 0o644);
        write(scene.here.path().join("dir/kept"), b"kept", 0o644);
        write(scene.here.path().join("dir/replaced"), b"old", 0o600);
        write(scene.here.path().join("was a file"), b"old", 0o644);
        std::fs::create_dir(scene.here.path().join("was an empty directory")).unwrap();
        symlink(outside.path(), scene.here.path().join("linked")).unwrap();
        write(scene.there.path().join("dir/replaced"), b"new", 0o755);
        write(scene.there.path().join("dir/added"), b"new", 0o644);
        write(scene.there.path().join("was a file/x"), b"new", 0o644);
        write(
            scene.there.path().join("was an empty directory"),
            b"new",
            0o644,
        );
        write(scene.there.path().join("linked/x"), b"new", 0o644);

        scene
            .download(&Selection::everything(), ".", &Limits::default())
            .await
            .unwrap();
        let here = look(scene.here.path());
        let contents = |path: &str| here[Path::new(path)].2.as_slice();
        for path in ["kept", "dir/kept"] {
            assert_eq!(contents(path), b"kept");
        }
        for path in [
            "dir/replaced",
            "dir/added",
            "was a file/x",
            "was an empty directory",
            "linked/x",
        ] {
            assert_eq!(contents(path), b"new", "{path}");
        }
        assert_eq!(here[Path::new("dir/replaced")].0 & 0o777, 0o755);
        assert!(
            names(outside.path()).is_empty(),
            "{tar:?}: written through a link"
        );
        assert!(
            !names(scene.here.path())
                .iter()
                .any(|name| name.starts_with(".orka"))
        );
    }
}

#[tokio::test]
async fn a_merge_that_cannot_be_leaves_everything_as_it_was() {
    let scene = Scene::new(Tar::Gnu);
    write(scene.here.path().join("z/full"), b"here", 0o644);
    write(scene.here.path().join("a"), b"here", 0o644);
    write(scene.there.path().join("a"), b"there", 0o644);
    write(scene.there.path().join("z"), b"there", 0o644);
    let before = look(scene.here.path());
    let outcome = scene
        .download(&Selection::everything(), ".", &Limits::default())
        .await;
    assert!(
        matches!(&outcome, Err(Error::Transfer { entry, .. }) if entry == "z"),
        "{outcome:?}"
    );
    assert_same(&before, &look(scene.here.path()), "after the refusal");
}

#[tokio::test]
async fn limits_stop_both_ways_and_leave_nothing_behind() {
    let scene = Scene::new(Tar::Gnu);
    for root in [scene.here.path(), scene.there.path()] {
        for name in ["one", "two", "three"] {
            write(root.join(name), &[1; 1000], 0o644);
        }
    }
    let cases = [
        (
            Limits {
                bytes: 2999,
                ..Limits::default()
            },
            "bytes",
        ),
        (
            Limits {
                entries: 2,
                ..Limits::default()
            },
            "entries",
        ),
        (
            Limits {
                path_bytes: 4,
                ..Limits::default()
            },
            "bytes in a path",
        ),
    ];
    for (limits, expected) in cases {
        let down = scene
            .download(&Selection::everything(), "out", &limits)
            .await;
        assert!(
            matches!(&down, Err(Error::LimitExceeded { limit, .. }) if *limit == expected),
            "{down:?}"
        );
        let up = scene.upload(&Selection::everything(), &limits).await;
        assert!(
            matches!(&up, Err(Error::LimitExceeded { limit, .. }) if *limit == expected),
            "{up:?}"
        );
    }
    assert_eq!(names(scene.here.path()), ["one", "three", "two"]);
    let exact = Limits {
        bytes: 3000,
        entries: 3,
        path_bytes: 5,
    };
    scene
        .download(&Selection::everything(), "out", &exact)
        .await
        .unwrap();
}

#[tokio::test]
async fn files_with_holes_arrive_whole() {
    for tar in TARS {
        let scene = Scene::new(tar);
        let path = scene.there.path().join("sparse");
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(5_000_000).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"end", 4_000_000).unwrap();
        scene
            .download(&Selection::everything(), "out", &Limits::default())
            .await
            .unwrap();
        assert!(
            std::fs::read(scene.here.path().join("out/sparse")).unwrap()
                == std::fs::read(&path).unwrap(),
            "{tar:?}"
        );
    }
}

#[tokio::test]
async fn what_is_no_file_is_left_out() {
    for tar in TARS {
        let scene = Scene::new(tar);
        for root in [scene.here.path(), scene.there.path()] {
            write(root.join("file"), b"x", 0o644);
            let made = std::process::Command::new("mkfifo")
                .arg(root.join("pipe"))
                .status()
                .unwrap();
            assert!(made.success());
        }
        symlink("/etc/passwd", scene.there.path().join("absolute")).unwrap();
        symlink("../../etc/passwd", scene.there.path().join("escape")).unwrap();
        let down = scene
            .download(&Selection::everything(), "out", &Limits::default())
            .await
            .unwrap();
        assert_eq!(names(&scene.here.path().join("out")), ["file"], "{tar:?}");
        let mut skipped: Vec<_> = down
            .skipped
            .iter()
            .map(|skipped| skipped.path.to_str().unwrap())
            .collect();
        skipped.sort_unstable();
        assert_eq!(skipped, ["absolute", "escape"], "{tar:?}");

        std::fs::remove_file(scene.there.path().join("pipe")).unwrap();
        let up = scene
            .upload(
                &Selection::parse(&["pipe"], &[""; 0]).unwrap(),
                &Limits::default(),
            )
            .await
            .unwrap();
        assert_eq!(up.skipped[0].path, Path::new("pipe"));
    }
}

#[tokio::test]
async fn an_upload_whose_tar_dies_ends_with_its_words() {
    for tar in TARS {
        let scene = Scene::new(tar);
        // Far more than every buffer on the way holds, into a place where a file is in the way.
        write(scene.here.path().join("a/big"), &vec![7; 30_000_000], 0o644);
        write(scene.there.path().join("dir"), b"", 0o644);
        let connection = scene.server.connect().await;
        let target = remote(&scene.there.path().join("dir"));
        let (from, what, limits) = (
            open(scene.here.path()),
            Selection::everything(),
            Limits::default(),
        );
        let upload = connection.upload(&from, &what, &target, &limits, |_| ());
        let outcome = tokio::time::timeout(Duration::from_secs(30), upload)
            .await
            .unwrap();
        assert!(
            matches!(&outcome, Err(Error::RemoteFailed { stderr, .. }) if stderr.contains("dir")),
            "{tar:?} {outcome:?}"
        );
    }
}

#[tokio::test]
async fn a_vm_without_tar_is_told_apart() {
    let bin = tempfile::tempdir().unwrap();
    for tool in ["sh", "mkdir", "find", "printf"] {
        symlink(Path::new("/usr/bin").join(tool), bin.path().join(tool)).unwrap();
    }
    let server = Sshd::with_path(&bin.path().display().to_string());
    let connection = server.connect().await;
    let here = tempfile::tempdir().unwrap();
    write(here.path().join("x"), b"", 0o644);
    let (dir, everything, limits) = (
        open(here.path()),
        Selection::everything(),
        Limits::default(),
    );
    let up = connection
        .upload(&dir, &everything, &remote(here.path()), &limits, |_| ())
        .await;
    assert!(
        matches!(up, Err(Error::RemoteToolMissing { tool: "tar" })),
        "{up:?}"
    );
    let down = connection
        .download(
            &remote(here.path()),
            &everything,
            &dir,
            Path::new("out"),
            &limits,
            |_| (),
        )
        .await;
    assert!(
        matches!(down, Err(Error::RemoteToolMissing { tool: "tar" })),
        "{down:?}"
    );
}

#[tokio::test]
async fn a_transfer_given_up_leaves_nothing_here() {
    let scene = Scene::new(Tar::Gnu);
    write(scene.there.path().join("big"), &vec![1; 60_000_000], 0o644);
    let connection = scene.server.connect().await;
    let into = open(scene.here.path());
    let (what, from, limits) = (
        Selection::everything(),
        remote(scene.there.path()),
        Limits::default(),
    );
    let seen = Mutex::new(None);
    let (started, mut moving) = tokio::sync::mpsc::unbounded_channel();
    let download =
        connection.download(&from, &what, &into, Path::new("out"), &limits, |progress| {
            seen.lock().unwrap().replace(*progress);
            let _ = started.send(());
        });
    tokio::select! {
        outcome = download => { outcome.unwrap(); }
        _ = moving.recv() => {}
    }
    assert!(seen.lock().unwrap().is_some());
    drop(connection);
    // The thread that writes notices on its next read; then all it wrote is removed.
    let gone = async {
        while names(scene.here.path())
            .iter()
            .any(|name| name.starts_with(".orka"))
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone)
        .await
        .unwrap();
}

#[tokio::test]
async fn ten_thousand_files_go_both_ways() {
    let scene = Scene::new(Tar::Gnu);
    for n in 0..10_000 {
        let path = scene.here.path().join(format!("d{}/f{n}", n % 100));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, n.to_string().repeat(50)).unwrap();
    }
    let up = scene
        .upload(&Selection::everything(), &Limits::default())
        .await
        .unwrap();
    let excluding = Selection::parse(&[""; 0], &[".orka-step"]).unwrap();
    let down = scene
        .download(&excluding, "back", &Limits::default())
        .await
        .unwrap();
    assert_eq!((up.files, down.files), (10_000, 10_000));
    assert_eq!(up.digest, down.digest);
}

#[tokio::test]
async fn a_log_that_grows_meanwhile_does_not_spoil_a_download() {
    let scene = Scene::new(Tar::Gnu);
    write(
        scene.there.path().join("build.log"),
        &vec![1; 8_000_000],
        0o644,
    );
    let log = std::fs::OpenOptions::new()
        .append(true)
        .open(scene.there.path().join("build.log"))
        .unwrap();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let growing = std::thread::spawn(move || {
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            std::io::Write::write_all(&mut &log, b"one more line\n").unwrap();
        }
    });
    let summary = scene
        .download(&Selection::everything(), "out", &Limits::default())
        .await;
    drop(stop);
    growing.join().unwrap();
    let summary = summary.unwrap();
    assert_eq!(
        summary.digest_hex(),
        digest_by_sha256sum(&scene.here.path().join("out"))
    );
    assert!(summary.bytes >= 8_000_000);
}
