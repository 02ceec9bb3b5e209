//! Trees both ways through OpenSSH's server, with GNU tar and with bsdtar in the VM.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use guest_ssh::{Error, Limits, Selection, check_ignore_files};
use support::sshd::{TARS, Tar};
use support::trees::{Scene, assert_same, digest_by_sha256sum, look, names, odd_tree, write};

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

/// A link is none.
fn is_file(path: &Path) -> bool {
    std::fs::symlink_metadata(path).unwrap().is_file()
}

#[tokio::test]
async fn ignore_files_leave_out_as_gitignore_does() {
    let scene = Scene::new(Tar::Gnu);
    let here = scene.here.path();
    let top = "\u{feff}# comment\r\n*.log\r\n!kept.log\nbuild/\n/only-top\n.git\nUPPER\n";
    write(here.join(".orkaignore"), top.as_bytes(), 0o644);
    write(here.join("sub/.orkaignore"), b"!back.log\nlocal\n", 0o644);
    for path in [
        "a.log",
        "kept.log",
        "build/kept.log",
        "only-top",
        "sub/only-top",
        "sub/back.log",
        "sub/other.log",
        "sub/local",
        "local",
        ".git/config",
        "upper",
        "deep/down/x.log",
        "deep/down/x",
    ] {
        write(here.join(path), b"x", 0o644);
    }
    // Another's link is no ignore file.
    std::fs::create_dir(here.join("linked")).unwrap();
    symlink("../.orkaignore", here.join("linked/.orkaignore")).unwrap();
    let exclude = Selection::parse(&[""; 0], &["deep/down/x"]).unwrap();
    let summary = scene.upload(&exclude, &Limits::default()).await.unwrap();
    assert_eq!(summary.files, 7);
    let there = look(scene.there.path());
    let mut sent: Vec<_> = (there.keys())
        .filter(|path| is_file(&scene.there.path().join(path)))
        .map(|path| path.to_str().unwrap())
        .collect();
    sent.sort_unstable();
    assert_eq!(
        sent,
        [
            ".orkaignore",
            "kept.log",
            "local",
            "sub/.orkaignore",
            "sub/back.log",
            "sub/only-top",
            "upper"
        ]
    );
    // It is about what is sent: what is asked back comes back.
    write(scene.there.path().join("build/App.ipa"), b"x", 0o644);
    let artifacts = Selection::parse(&["build/*.ipa"], &[""; 0]).unwrap();
    let back = scene
        .download(&artifacts, ".", &Limits::default())
        .await
        .unwrap();
    assert_eq!(back.files, 1);
}

#[test]
fn ignore_files_are_checked_where_an_upload_would_read_them() {
    let tree = tempfile::tempdir().unwrap();
    let at = |path: &str| tree.path().join(path);
    write(at("a/odd/.orkaignore"), b"[z-a]\n", 0o644);
    write(at("left-out/.orkaignore"), b"\xff\n", 0o644);
    write(at("ignored/.orkaignore"), b"\xff\n", 0o644);
    write(at(".orkaignore"), b"ignored/\n", 0o644);
    symlink("left-out", at("linked")).unwrap();
    let dir = Dir::open_ambient_dir(tree.path(), ambient_authority()).unwrap();
    let later = Instant::now() + Duration::from_secs(3600);
    let without = Selection::parse(&[""; 0], &["left-out"]).unwrap();
    let told = check_ignore_files(&dir, &without, later).unwrap();
    assert!(
        told.len() == 1 && told[0].contains("`a/odd/.orkaignore`: line 1"),
        "{told:?}"
    );
    let check = |until| check_ignore_files(&dir, &Selection::everything(), until);
    let problem = check(later).unwrap_err().to_string();
    assert!(problem.contains("`left-out/.orkaignore`"), "{problem}");
    assert!(check(Instant::now()).unwrap().is_empty());
    write(
        at("a/odd/deep/.orkaignore"),
        &vec![b'#'; (1 << 20) + 1],
        0o644,
    );
    let problem = check_ignore_files(&dir, &without, later).unwrap_err();
    assert!(
        problem.to_string().contains("`a/odd/deep/.orkaignore`"),
        "{problem}"
    );
}

/// As git takes it: it matches nothing, and the rest holds.
#[tokio::test]
async fn a_line_that_is_no_pattern_leaves_nothing_out_and_is_told() {
    let scene = Scene::new(Tar::Gnu);
    let here = scene.here.path();
    write(here.join("d/.orkaignore"), b"[z-a]\nold[1\nlocal\n", 0o644);
    for path in ["d/local", "d/old[1", "d/a"] {
        write(here.join(path), b"x", 0o644);
    }
    let everything = Selection::everything();
    let summary = scene.upload(&everything, &Limits::default()).await.unwrap();
    assert_eq!(summary.files, 3);
    let [first, second] = &summary.warnings[..] else {
        panic!("{:?}", summary.warnings)
    };
    for (told, line) in [(first, "line 1 is"), (second, "line 2 is")] {
        assert!(
            told.contains("`d/.orkaignore`: ") && told.contains(line),
            "{told}"
        );
    }
    write(here.join("d/.orkaignore"), b"\xff\n", 0o644);
    let outcome = scene.upload(&everything, &Limits::default()).await;
    let told = outcome.unwrap_err().to_string();
    assert!(
        told.contains("`d/.orkaignore`") && told.contains("line 1 is not UTF-8"),
        "{told}"
    );
}
