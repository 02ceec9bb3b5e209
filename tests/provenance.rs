//! What came back, in a form that others can check.

use std::path::Path;
use std::process::Command;

use end_to_end::{Cluster, Ended, hash};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

const RUN: &str = "b1946ac9-2492-4d23-8c6d-1f1b7c2a4b6f";
const POD: &str = "591785b7-94a6-4b43-9f4b-0c2a1f5e6d7c";

/// Two artifacts, one of a name that needs care.
const SCRIPT: &str =
    "#!/bin/sh\nset -e\nmkdir dist\nprintf app >dist/App.ipa\nprintf x >'dist/a\\b'\n";

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// What `sha256sum` says in the workspace.
fn sha256sum(workspace: &Path, arguments: &[&str]) -> String {
    let output = Command::new("sha256sum")
        .args(arguments)
        .current_dir(workspace)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

async fn built(cluster: &Cluster, script: &str) -> Ended {
    cluster
        .build(script)
        .flag("--run-uid", RUN)
        .flag("--pod-uid", POD)
        .param("artifacts", "dist/**")
        .param("artifacts-when", "always")
        .ended()
        .await
}

/// The manifest that the result names, and the list of sums beside it.
fn manifest(ended: &Ended) -> (Value, String) {
    let path = ended.result("artifacts-manifest");
    let manifest: Value = serde_json::from_slice(&ended.file(path).unwrap()).unwrap();
    let sums = Path::new(path).with_file_name(manifest["sums"].as_str().unwrap());
    (manifest, sums.to_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_third_party_checks_every_artifact_and_the_digest_with_sha256sum() {
    let cluster = Cluster::start().await;
    let ended = built(&cluster, SCRIPT).await;
    ended.assert(0, "succeeded");
    let digest = ended.result("artifacts-digest").to_owned();
    let (manifest, sums) = manifest(&ended);
    let workspace = ended.workspace();
    sha256sum(&workspace, &["--check", "--strict", "--quiet", &sums]);
    let said = sha256sum(&workspace, &[&sums]);
    assert_eq!(format!("sha256:{}", &said[..64]), digest, "{ended}");
    // As documented, from the files alone.
    let pipeline = Command::new("sh")
        .args([
            "-c",
            "find dist -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum -- | sha256sum",
        ])
        .current_dir(&workspace)
        .output()
        .unwrap();
    assert_eq!(pipeline.stdout[..64], said.as_bytes()[..64], "{ended}");

    assert_eq!(manifest["schema"], 1);
    assert_eq!(manifest["digest"], digest.as_str());
    let files: Vec<_> = manifest["files"].as_array().unwrap().iter().collect();
    let expected = [("dist/App.ipa", "app"), ("dist/a\\b", "x")];
    assert_eq!(files.len(), expected.len(), "{manifest}");
    for (file, (path, contents)) in files.iter().zip(expected) {
        assert_eq!(file["path"], path);
        assert_eq!(file["size"], contents.len());
        assert_eq!(file["sha256"], sha256(contents.as_bytes()));
    }
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn chains_gets_an_object_with_the_digest_of_the_list() {
    let cluster = Cluster::start().await;
    let ended = built(&cluster, SCRIPT).await;
    ended.assert(0, "succeeded");
    let outputs: Value = serde_json::from_str(ended.result("ARTIFACT_OUTPUTS")).unwrap();
    let (run, pod) = (hash(RUN), hash(POD));
    assert_eq!(
        outputs,
        serde_json::json!({
            "uri": format!("pkg:generic/orka-step/artifacts.sha256@{run}-{pod}"),
            "digest": ended.result("artifacts-digest"),
            "isBuildArtifact": "true",
        })
    );
    assert_eq!(
        ended.result("artifacts-manifest"),
        format!(".orka-step/{run}/artifacts-{pod}.json")
    );
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failed_script_left_is_listed_and_never_called_a_build() {
    let cluster = Cluster::start().await;
    let ended = built(&cluster, &format!("{SCRIPT}exit 7\n")).await;
    ended.assert(7, "build-failed");
    assert_eq!(manifest(&ended).0["files"].as_array().unwrap().len(), 2);
    assert!(!ended.results.contains_key("ARTIFACT_OUTPUTS"), "{ended}");
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_cannot_be_written_is_told_and_fails_nothing() {
    let cluster = Cluster::start().await;
    let step = cluster
        .build("#!/bin/sh\necho made >made\n")
        .flag("--run-uid", RUN)
        .flag("--pod-uid", POD);
    let (run, pod) = (hash(RUN), hash(POD));
    // A directory cannot be replaced by a file.
    let place = format!(".orka-step/{run}/artifacts-{pod}.json/in-the-way");
    let ended = step.file(&place, "").ended().await;
    ended.assert(0, "succeeded");
    ended.assert_says(&["warning: the manifest of what came back cannot be written"]);
    assert!(
        ended.result("artifacts-digest").starts_with("sha256:"),
        "{ended}"
    );
    assert!(!ended.results.contains_key("artifacts-manifest"), "{ended}");
    cluster.assert_purged();
}
