//! Fetching a tree that changes under the VM's own programs, or whose programs are killed: all that is there comes, and a
//! part never passes for the whole.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::path::Path;

use guest_ssh::{Error, Limits, Selection, TransferSummary};
use support::sshd::{Sshd, TARS, Tar};
use support::trees::{Scene, names, write};
use support::userland::{self, Macos};

/// A scene whose VM has programs of its own in front of others. In their text `@tar@` and `@find@` are the real ones and
/// `@dir@` is the tree.
fn scene(tar: Tar, programs: &[(&str, &str)]) -> (Scene, Option<Macos>) {
    scene_in("", tar, programs)
}

/// The same, with further variables in the VM's environment.
fn scene_in(variables: &str, tar: Tar, programs: &[(&str, &str)]) -> (Scene, Option<Macos>) {
    let there = tempfile::tempdir().unwrap();
    let macos = userland::MACOS.then(Macos::whole);
    let bin = there.path().join("bin");
    let real = match tar {
        Tar::Gnu => userland::find("tar").unwrap(),
        Tar::Bsd => userland::bsdtar(),
    };
    let find = match &macos {
        Some(macos) => macos.path().join("find"),
        None => userland::find("find").unwrap(),
    };
    let others = match &macos {
        Some(macos) => macos.path().display().to_string(),
        None => "/usr/bin:/bin".to_owned(),
    };
    let tree = there.path().join("tree");
    let fill = |text: &str| {
        text.replace("@tar@", &real.display().to_string())
            .replace("@find@", &find.display().to_string())
            .replace("@dir@", &tree.display().to_string())
    };
    let plain = ("tar", "exec @tar@ \"$@\"");
    for (name, text) in [&[plain], programs].concat() {
        let text = format!("#!/bin/sh\n{}\n", fill(text));
        write(bin.join(name), text.as_bytes(), 0o755);
    }
    for name in ["a", "b", "dir/c"] {
        write(tree.join(name), name.as_bytes(), 0o644);
    }
    let scene = Scene {
        server: Sshd::with_path_in(&format!("{}:{others}", bin.display()), variables),
        here: tempfile::tempdir().unwrap(),
        there,
    };
    (scene, macos)
}

async fn fetch(scene: &Scene) -> Result<TransferSummary, Error> {
    let connection = scene.server.connect().await;
    let there = support::trees::remote(&scene.there.path().join("tree"));
    let here = support::trees::open(scene.here.path());
    let everything = Selection::everything();
    let (target, limits) = (Path::new("out"), Limits::default());
    connection
        .download(&there, &everything, &here, target, limits, |_| ())
        .await
}

#[tokio::test]
async fn a_file_renamed_after_it_was_listed_comes_under_its_new_name() {
    for tar in TARS {
        let script =
            "[ \"$1\" != --version ] && mv @dir@/new.tmp @dir@/new 2>/dev/null\nexec @tar@ \"$@\"";
        let (scene, _userland) = scene(tar, &[("tar", script)]);
        write(scene.there.path().join("tree/new.tmp"), b"new", 0o644);
        let summary = fetch(&scene).await.unwrap();
        assert_eq!(summary.warnings, [""; 0], "{tar:?}");
        assert_eq!(
            names(&scene.here.path().join("out")),
            ["a", "b", "dir", "new"],
            "{tar:?}"
        );
    }
}

#[tokio::test]
async fn what_is_gone_each_time_is_left_out_with_a_warning() {
    for tar in TARS {
        let programs = [
            ("find", "touch @dir@/lock\nexec @find@ \"$@\""),
            (
                "tar",
                "[ \"$1\" != --version ] && rm -f @dir@/lock\nexec @tar@ \"$@\"",
            ),
        ];
        let (scene, _userland) = scene(tar, &programs);
        let summary = fetch(&scene).await.unwrap();
        assert_eq!(
            summary.warnings,
            ["left out `lock`: it went away in the VM while files were fetched"],
            "{tar:?}"
        );
        assert_eq!(
            names(&scene.here.path().join("out")),
            ["a", "b", "dir"],
            "{tar:?}"
        );
        assert_eq!(summary.files, 3);
    }
}

#[tokio::test]
async fn a_listing_that_was_killed_is_no_listing() {
    let programs = [(
        "find",
        "case $* in '/ -prune'*) exec @find@ \"$@\" ;; esac\n@find@ \"$@\" | head -c 40\nkill -KILL $$",
    )];
    let (scene, _userland) = scene(TARS[0], &programs);
    let problem = fetch(&scene).await.unwrap_err();
    assert!(
        matches!(
            &problem,
            Error::RemoteFailed {
                what: "listing files",
                ..
            }
        ),
        "{problem:?}"
    );
    assert_eq!(names(scene.here.path()), [""; 0]);
}

#[tokio::test]
async fn a_file_that_shrank_is_told_however_much_was_said_after_it() {
    let after = "for n in 1 2 3 4 5 6 7 8 9; do for m in 1 2 3 4 5 6 7 8 9 0; do \
                 echo \"tar: ./$(printf %060d $n$m): file changed as we read it\" >&2; done; done; exit 1";
    let script = format!(
        "[ \"$1\" = --version ] && exec @tar@ \"$@\"\n@tar@ \"$@\"\n\
         echo 'tar: ./dir/c: File shrank by 5 bytes; padding with zeros' >&2\n{after}"
    );
    let (scene, _userland) = scene(TARS[0], &[("tar", &script)]);
    let problem = fetch(&scene).await.unwrap_err();
    assert!(
        matches!(&problem, Error::RemoteFailed { stderr, .. } if stderr.contains("./dir/c: File shrank")),
        "{problem:?}"
    );
    assert_eq!(names(scene.here.path()), [""; 0]);
}

/// More than fits into all that lies between `tar` and the host.
const LARGE: usize = 16 << 20;

/// bsdtar fills a file that shrinks with zeros, says nothing, and ends well.
const SHRINK: &str = "[ \"$1\" = --version ] && exec @tar@ \"$@\"\n\
     @tar@ \"$@\" | { head -c 1000000; echo short >@dir@/large; cat; }";

#[tokio::test]
async fn a_file_that_bsdtar_filled_with_zeros_is_fetched_again() {
    let (scene, _userland) = scene(Tar::Bsd, &[("tar", SHRINK)]);
    let large = scene.there.path().join("tree/large");
    write(large, &vec![b'x'; LARGE], 0o644);
    let summary = fetch(&scene).await.unwrap();
    assert_eq!(summary.warnings, [""; 0]);
    let got = std::fs::read(scene.here.path().join("out/large")).unwrap();
    assert_eq!(String::from_utf8_lossy(&got), "short\n");
}

#[tokio::test]
async fn a_file_that_bsdtar_fills_with_zeros_each_time_fails_the_transfer() {
    let again = SHRINK.replacen("\n", "\ncat @dir@/../master >@dir@/large\n", 1);
    let (scene, _userland) = scene(Tar::Bsd, &[("tar", &again)]);
    for name in ["master", "tree/large"] {
        write(scene.there.path().join(name), &vec![b'x'; LARGE], 0o644);
    }
    let problem = fetch(&scene).await.unwrap_err();
    assert!(
        matches!(&problem, Error::Transfer { entry, .. } if entry == "large"),
        "{problem:?}"
    );
    assert_eq!(names(scene.here.path()), [""; 0]);
}

#[tokio::test]
async fn a_file_that_was_emptied_after_it_was_sent_whole_is_no_part() {
    for tar in TARS {
        let script = "[ \"$1\" = --version ] && exec @tar@ \"$@\"\n@tar@ \"$@\" && : >@dir@/a";
        let (scene, _userland) = scene(tar, &[("tar", script)]);
        let summary = fetch(&scene).await.unwrap();
        assert_eq!(summary.warnings, [""; 0], "{tar:?}");
        let got = std::fs::read(scene.here.path().join("out/a")).unwrap();
        assert_eq!(got, b"a", "{tar:?}");
    }
}

#[tokio::test]
async fn files_that_end_in_zeros_and_stay_as_they_are_come() {
    for tar in TARS {
        let (scene, _userland) = scene(tar, &[]);
        for name in ["tree/new\nline", "tree/-n", "tree/dir/zeros"] {
            write(scene.there.path().join(name), &[0; 5000], 0o644);
        }
        let summary = fetch(&scene).await.unwrap();
        assert_eq!((summary.files, summary.warnings.len()), (6, 0), "{tar:?}");
    }
}

/// Whoever sets `LC_ALL` would be told in their language what went away, and it would not be known for that.
#[tokio::test]
async fn messages_are_in_english_whatever_the_vm_speaks_and_names_stay_in_its_charset() {
    for tar in TARS {
        let script = "[ \"$1\" = --version ] && exec @tar@ \"$@\"\nrm -f @dir@/lock\n\
                      [ \"${LC_ALL+set}$LC_CTYPE $LC_MESSAGES\" = 'C.UTF-8 C' ] && exec @tar@ \"$@\"\n\
                      echo 'tar: ./lock: Datei oder Verzeichnis nicht gefunden' >&2; exit 1";
        let find = "touch @dir@/lock\nexec @find@ \"$@\"";
        let programs = [("tar", script), ("find", find)];
        let (scene, _userland) = scene_in("LC_ALL=C.UTF-8", tar, &programs);
        let summary = fetch(&scene).await.unwrap();
        assert_eq!((summary.files, summary.warnings.len()), (3, 1), "{tar:?}");
    }
}
