//! The job itself: deploy, copy in, run, copy back, purge, sign out.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use end_to_end::{Cluster, Ended, Stream};
use orka_sim::SimConfig;
use sha2::{Digest as _, Sha256};

const SOURCE: &str =
    "#include <stdio.h>\nint main(void) { puts(\"hello from the VM\"); return 0; }\n";

/// Compiles and packs a program, and tells the digest of what it made.
const SCRIPT: &str = "#!/bin/sh\nset -e\ncc -o hello src/hello.c\nmkdir -p dist\ntar -cf dist/hello.tar hello\n\
                      sha256sum dist/hello.tar\n";

async fn compiled(cluster: &Cluster) -> Ended {
    cluster
        .build(SCRIPT)
        .file("src/hello.c", SOURCE)
        .ended()
        .await
}

/// What `sha256sum` printed in the VM is what the file in the workspace has.
fn assert_same_artifact(ended: &Ended) {
    let artifact = ended
        .file("dist/hello.tar")
        .expect("the artifact came back");
    let line = format!("{}  dist/hello.tar", hex::encode(Sha256::digest(&artifact)));
    assert!(
        ended.stdout.lines().any(|said| said == line),
        "{line}\n{ended}"
    );
}

/// The compiled program came back as a program: it starts here as well.
fn assert_runs(ended: &Ended) {
    let program = ended.workspace().join("hello");
    assert_ne!(
        program.metadata().unwrap().permissions().mode() & 0o111,
        0,
        "not executable"
    );
    let said = Command::new(program).output().unwrap().stdout;
    assert_eq!(said, b"hello from the VM\n");
}

fn assert_results(ended: &Ended) {
    let names: Vec<&str> = ended.results.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "ARTIFACT_OUTPUTS",
            "artifacts-digest",
            "artifacts-manifest",
            "duration-seconds",
            "exit-status",
            "outcome",
            "vm-name"
        ]
    );
    assert!(ended.result("vm-name").starts_with("tekton-"), "{ended}");
    assert_eq!(ended.result("exit-status"), "0");
    assert!(
        ended.result("duration-seconds").parse::<u64>().is_ok(),
        "{ended}"
    );
    let digest = ended
        .result("artifacts-digest")
        .strip_prefix("sha256:")
        .expect("a digest");
    assert_eq!(digest.len(), 64);
    let results = ended.results.iter();
    let bytes: usize = results.map(|(name, value)| name.len() + value.len()).sum();
    assert!(bytes < 1024, "{bytes} bytes of results");
}

#[tokio::test(flavor = "multi_thread")]
async fn compiles_in_a_vm_and_brings_back_the_same_bytes() {
    let cluster = Cluster::start().await;
    let ended = compiled(&cluster).await;
    ended.assert(0, "succeeded");
    assert_same_artifact(&ended);
    assert_runs(&ended);
    assert_results(&ended);
    assert!(ended.stderr.contains("token revoked"), "{ended}");
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn compiles_in_a_vm_with_a_real_openssh_server_and_a_key() {
    let cluster = Cluster::with_openssh().await;
    let ended = compiled(&cluster).await;
    ended.assert(0, "succeeded");
    assert_same_artifact(&ended);
    assert_runs(&ended);
    assert_results(&ended);
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn does_the_same_on_orka_3_and_claims_no_revocation() {
    let cluster = Cluster::with(Cluster::orka3()).await;
    let ended = compiled(&cluster).await;
    ended.assert(0, "succeeded");
    assert_same_artifact(&ended);
    assert_results(&ended);
    assert!(!ended.stderr.contains("token revoked"), "{ended}");
    assert_eq!(ended.report["signOut"], "not-applicable");
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_a_token_that_other_builds_share_and_says_so() {
    let cluster = Cluster::with(SimConfig {
        api_version: "2.4.0".to_owned(),
        ..Cluster::orka2()
    })
    .await;
    let ended = compiled(&cluster).await;
    ended.assert(0, "succeeded");
    ended.assert_says(&["token kept"]);
    let state = cluster.sim.state();
    assert_eq!(state.live_tokens(), 1, "other builds still need it");
    assert!(state.requests_to("DELETE", "/token").is_empty());
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn shows_each_line_of_the_script_when_it_is_written() {
    let cluster = Cluster::start().await;
    let script =
        "#!/bin/sh\necho first line\nwhile [ ! -e ~/go-on ]; do sleep 0.02; done\necho last line\n";
    let mut step = cluster.build(script).start();
    step.says(Stream::Stdout, "first line\n").await;
    std::fs::write(cluster.only_vm().home.join("go-on"), "").unwrap();
    let ended = step.ended().await;
    ended.assert(0, "succeeded");
    assert_eq!(ended.stdout, "first line\nlast line\n");
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn tells_the_vm_name_while_the_script_still_runs() {
    let cluster = Cluster::start().await;
    let script = "#!/bin/sh\necho up\nwhile [ ! -e ~/go-on ]; do sleep 0.02; done\n";
    let step = cluster.build(script);
    let result = step.workspace().with_file_name("results").join("vm-name");
    let mut step = step.start();
    step.says(Stream::Stdout, "up\n").await;
    let vm = cluster.only_vm();
    assert_eq!(std::fs::read_to_string(result).unwrap(), vm.name);
    std::fs::write(vm.home.join("go-on"), "").unwrap();
    step.ended().await.assert(0, "succeeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_follow_from_the_run_and_pod_that_are_given() {
    let cluster = Cluster::start().await;
    let run = || {
        let step = cluster.build("#!/bin/sh\ntrue\n");
        step.flag("--run-uid", "run-1")
            .flag("--pod-uid", "pod-1")
            .flag("--vm-prefix", "ios")
    };
    let (first, second) = (run().ended().await, run().ended().await);
    first.assert(0, "succeeded");
    second.assert(0, "succeeded");
    assert!(first.result("vm-name").starts_with("ios-"), "{first}");
    assert_eq!(first.result("vm-name"), second.result("vm-name"));
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn takes_everything_from_the_environment_as_well() {
    let cluster = Cluster::start().await;
    let step = cluster.run();
    let workspace = step.workspace();
    let directory = |name: &str| workspace.with_file_name(name).to_str().unwrap().to_owned();
    let mut step = step;
    for flag in [
        "--orka-api",
        "--orka-credentials",
        "--ssh-credentials",
        "--workspace",
        "--results",
        "--report",
    ] {
        step = step.without(flag);
    }
    let config = cluster.sim.config();
    let ended = step
        .environment("ORKA_API", &cluster.sim.url())
        .environment("ORKA_EMAIL", &config.users[0].email)
        .environment("ORKA_PASSWORD", &config.users[0].password)
        .environment("SSH_USERNAME", &config.guest_user)
        .environment("SSH_PASSWORD", &config.guest_password)
        .environment("ORKA_WORKSPACE", &directory("workspace"))
        .environment("ORKA_RESULTS", &directory("results"))
        .environment("ORKA_REPORT", &directory("report/run.json"))
        .environment("ORKA_PARAM_BASE_IMAGE", "Sonoma.orkasi")
        .environment("ORKA_PARAM_SCRIPT", "#!/bin/sh\necho made >made\n")
        .ended()
        .await;
    ended.assert(0, "succeeded");
    assert_eq!(ended.file("made").unwrap(), b"made\n");
    cluster.assert_purged();
}
