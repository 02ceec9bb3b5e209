//! Fetching a tree that changes under the VM's own programs, or whose programs are killed: all that is there comes, and a
//! part never passes for the whole.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::path::Path;

use guest_ssh::{Error, Limits, Selection, TransferSummary};
use support::sshd::{Sshd, Tar};
use support::trees::{Scene, names, write};
use support::userland;

/// A scene whose VM has programs of its own in front of others. In their text `@tar@` and `@find@` are the real ones and
/// `@dir@` is the tree.
fn scene(tar: Tar, programs: &[(&str, &str)]) -> Scene {
    let there = tempfile::tempdir().unwrap();
    let bin = there.path().join("bin");
    let real = match tar {
        Tar::Gnu => userland::find("tar").unwrap(),
        Tar::Bsd => userland::bsdtar(),
    };
    let find = userland::find("find").unwrap();
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
    Scene {
        server: Sshd::with_path(&format!("{}:/usr/bin:/bin", bin.display())),
        here: tempfile::tempdir().unwrap(),
        there,
    }
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
async fn a_listing_that_was_killed_is_no_listing() {
    let programs = [(
        "find",
        "case $* in '/ -prune'*) exec @find@ \"$@\" ;; esac\n@find@ \"$@\" | head -c 40\nkill -KILL $$",
    )];
    let scene = scene(Tar::Gnu, &programs);
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
