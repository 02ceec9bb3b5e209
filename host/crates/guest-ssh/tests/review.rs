//! A look at the files of a download, after all of them are here and before any takes its place.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::path::Path;
use std::sync::{Arc, Mutex};

use guest_ssh::{Error, FileDigest, Review, Selection, TransferOptions, TransferSummary};
use support::sshd::{Sshd, Tar};
use support::trees::{Scene, digest_by_sha256sum, names, open, remote, write};

const SFTP_ONLY: &str = "Subsystem sftp internal-sftp\nForceCommand internal-sftp\n";

/// A scene for either way of fetching, with three files in its VM.
fn scenes() -> [(Scene, &'static str); 2] {
    let scenes = [
        (Scene::new(Tar::Gnu), "tar"),
        (
            Scene {
                server: Sshd::with(SFTP_ONLY),
                here: tempfile::tempdir().unwrap(),
                there: tempfile::tempdir().unwrap(),
            },
            "SFTP",
        ),
    ];
    for (scene, _) in &scenes {
        for name in ["app.ipa", "app.log", "deep/other.log"] {
            write(scene.there.path().join(name), name.as_bytes(), 0o644);
        }
    }
    scenes
}

async fn download(scene: &Scene, review: Review) -> Result<TransferSummary, Error> {
    let connection = scene.server.connect().await;
    let options = TransferOptions {
        review: Some(review),
        ..TransferOptions::default()
    };
    connection
        .download(
            &remote(scene.there.path()),
            &Selection::everything(),
            &open(scene.here.path()),
            Path::new("dist"),
            &options,
            |_| (),
        )
        .await
}

#[tokio::test]
async fn what_is_left_out_never_takes_its_place_and_is_in_no_list() {
    for (scene, way) in scenes() {
        let seen: Arc<Mutex<Vec<FileDigest>>> = Arc::default();
        let (kept, root) = (Arc::clone(&seen), scene.here.path().to_owned());
        let review = Review::new(move |files| {
            assert!(!root.join("dist").exists(), "it is asked before");
            kept.lock().unwrap().extend_from_slice(files);
            let logs = files.iter().enumerate();
            let logs = logs.filter(|(_, file)| file.path.extension().is_some_and(|it| it == "log"));
            Ok(logs.map(|(at, _)| at).collect())
        });
        let summary = download(&scene, review).await.unwrap();
        assert_eq!((summary.files, summary.left_out), (1, 2), "{way}");
        assert_eq!(summary.bytes, 7, "{way}: of what came");
        let paths: Vec<_> = summary.entries.iter().map(|it| it.path.clone()).collect();
        assert_eq!(paths, [Path::new("app.ipa")], "{way}");
        let dist = scene.here.path().join("dist");
        assert_eq!(
            summary.digest_hex(),
            digest_by_sha256sum(&dist),
            "{way}: of what is there"
        );
        assert!(!dist.join("app.log").exists() && !dist.join("deep/other.log").exists());
        let mut seen: Vec<_> = std::mem::take(&mut *seen.lock().unwrap());
        seen.sort_by(|one, other| one.path.cmp(&other.path));
        assert_eq!(seen.len(), 3, "{way}: each is shown once");
        assert_eq!(seen[0].sha256_hex(), summary.entries[0].sha256_hex());
    }
}

#[tokio::test]
async fn a_refusal_fails_the_download_whole_with_its_reason_and_is_not_repeated() {
    for (scene, way) in scenes() {
        let asked = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&asked);
        let review = Review::new(move |_| {
            *counted.lock().unwrap() += 1;
            Err("no logs on Fridays".to_owned())
        });
        let problem = download(&scene, review).await.unwrap_err();
        assert!(
            problem.to_string().contains("no logs on Fridays"),
            "{way}: {problem}"
        );
        assert!(names(scene.here.path()).is_empty(), "{way}");
        assert_eq!(*asked.lock().unwrap(), 1, "{way}");
    }
}
