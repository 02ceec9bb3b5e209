//! Transfers at their limits: too much, too odd, cut short, or with a VM that lacks something.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use guest_ssh::{Error, Limits, Selection};
use support::sshd::{Sshd, TARS, Tar};
use support::trees::{Scene, digest_by_sha256sum, names, open, remote, write};

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
    let few = Limits {
        bytes: 2999,
        ..Limits::default()
    };
    let deep = scene
        .download(&Selection::everything(), "new/deep/out", &few)
        .await;
    assert!(matches!(deep, Err(Error::LimitExceeded { .. })), "{deep:?}");
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
    assert_eq!(up.bytes, down.bytes);
    assert_eq!(down.digest_hex(), digest_by_sha256sum(scene.there.path()));
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
