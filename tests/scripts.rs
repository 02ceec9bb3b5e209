//! The script: how it reaches the VM, where it runs, and how it ends.

use std::os::unix::fs::PermissionsExt as _;

use end_to_end::{Cluster, program};
use tokio::process::Command;

/// Everything that a shell, Tekton or YAML could want to change on the way.
const AWKWARD: &str = "#!/bin/sh\n# $$ $(HOME) $(params.x) `id` 'single' \"double\" \\ \\n %s %% ${PATH} !! * ? é 🍎 \u{a0}\n\
                       cat <<'EOF'\n$(HOME) inside `a` here document\nEOF\n\ttab \t\r\nEOF\n\
                       cat \"$0\" >script-as-it-came\nexit 0\n";

#[tokio::test(flavor = "multi_thread")]
async fn the_status_of_a_failed_script_passes_through() {
    let cluster = Cluster::start().await;
    let ended = cluster
        .build("#!/bin/sh\necho broken >&2\nexit 65\n")
        .ended()
        .await;
    ended.assert(65, "build-failed");
    assert_eq!(ended.result("exit-status"), "65");
    assert_eq!(ended.report["exitStatus"], 65);
    ended.assert_says(&["the script exited with status 65"]);
    assert_eq!(ended.stdout, "broken\n");
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn statuses_that_are_also_codes_of_the_program_pass_through_with_another_outcome() {
    for status in [1, 2, 143, 211, 219, 255] {
        let cluster = Cluster::start().await;
        let ended = cluster
            .build(&format!("#!/bin/sh\nexit {status}\n"))
            .ended()
            .await;
        ended.assert(status, "build-failed");
        assert_eq!(ended.result("exit-status"), status.to_string());
        cluster.assert_purged();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_ended_by_a_signal_counts_from_128() {
    for cluster in [Cluster::start().await, Cluster::with_openssh().await] {
        let ended = cluster.build("#!/bin/sh\nkill -KILL $$\n").ended().await;
        ended.assert(137, "build-failed");
        assert_eq!(ended.result("exit-status"), "137");
        ended.assert_says(&["SIGKILL"]);
        cluster.assert_purged();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_byte_of_an_awkward_script_reaches_the_vm() {
    let cluster = Cluster::start().await;
    // As Tekton splices it: the two lines around `EOF` make the script leave a here document early.
    let script = AWKWARD.replace("\ttab \t\r\nEOF\n", "");
    let ended = cluster.build(&script).ended().await;
    ended.assert(0, "succeeded");
    assert_eq!(ended.file("script-as-it-came").unwrap(), script.as_bytes());
    assert_eq!(ended.stdout, "$(HOME) inside `a` here document\n");
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_file_may_hold_any_bytes() {
    let cluster = Cluster::start().await;
    let mut script = AWKWARD.replace("\ttab \t\r\nEOF\n", "").into_bytes();
    script.extend_from_slice(b"\xff\xfe\0\x80 never read\n");
    let step = cluster.run().param("base-image", "Sonoma.orkasi");
    let file = step.scratch_file("script", &script);
    let ended = step.argument(file).ended().await;
    ended.assert(0, "succeeded");
    assert_eq!(ended.file("script-as-it-came").unwrap(), script);
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_line_that_names_this_program_is_dropped() {
    let cluster = Cluster::start().await;
    let step = cluster.run().param("base-image", "Sonoma.orkasi");
    let file = step.scratch_file(
        "script-0",
        b"#!/x/orka-step run\n#!/bin/sh\ncat \"$0\" >came\n",
    );
    let ended = step.argument(file).ended().await;
    ended.assert(0, "succeeded");
    assert_eq!(
        ended.file("came").unwrap(),
        b"#!/bin/sh\ncat \"$0\" >came\n"
    );
    cluster.assert_purged();
}

/// As a Tekton step has it: `script: #!/orka-step run`, everything else from the environment.
#[tokio::test(flavor = "multi_thread")]
async fn the_program_is_an_interpreter_of_scripts() {
    let cluster = Cluster::start().await;
    let step = cluster.run();
    let text = format!(
        "#!{} run\necho \"built in ${{PWD##*/}}\"\nexit 4\n",
        program().display()
    );
    let script = step.scratch_file("script-0", text.as_bytes());
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let output = Command::new(script)
        .env_clear()
        .env("ORKA_API", cluster.sim.url())
        .env("ORKA_CREDENTIALS", cluster.orka_credentials())
        .env("ORKA_SSH_CREDENTIALS", cluster.ssh_credentials())
        .env("ORKA_WORKSPACE", step.workspace())
        .env("ORKA_PARAM_BASE_IMAGE", "Sonoma.orkasi")
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(std::time::Duration::from_secs(60), output)
        .await
        .unwrap()
        .unwrap();
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(output.status.code(), Some(4), "{stderr}");
    // Traced, since the script names no interpreter of its own.
    assert!(stdout.contains("built in orka\n"), "{stdout}{stderr}");
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_of_the_workspace_is_found_there() {
    let cluster = Cluster::start().await;
    let step = cluster
        .run()
        .param("base-image", "Sonoma.orkasi")
        .param("script-file", "ci/build.sh");
    let ended = step
        .file("ci/build.sh", "#!/bin/sh\necho from the workspace\n")
        .ended()
        .await;
    ended.assert(0, "succeeded");
    assert_eq!(ended.stdout, "from the workspace\n");
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn b1_a_script_without_an_interpreter_is_traced_and_ends_at_the_first_failure() {
    let cluster = Cluster::start().await;
    let ended = cluster
        .build("cat \"$0\" >came\nfalse\necho not reached\n")
        .param("artifacts-when", "always")
        .ended()
        .await;
    ended.assert(1, "build-failed");
    let came = ended.file("came").unwrap();
    assert_eq!(
        came,
        b"#!/bin/sh\nset -ex\ncat \"$0\" >came\nfalse\necho not reached\n"
    );
    assert!(ended.stdout.contains("+ false"), "{ended}");
    assert!(!ended.stdout.contains("not reached\n+"), "{ended}");
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn b2_the_script_runs_where_the_workspace_is() {
    let cluster = Cluster::start().await;
    let script = "#!/bin/sh\necho \"${PWD#$HOME/}\"\nls\nls -d ../build-script\n";
    let ended = cluster.build(script).file("README", "x").ended().await;
    ended.assert(0, "succeeded");
    assert_eq!(ended.stdout, "workspace/orka\nREADME\n../build-script\n");
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_workspace_the_script_runs_in_the_same_place() {
    let cluster = Cluster::start().await;
    let script = "#!/bin/sh\necho \"${PWD#$HOME/}\"\n";
    let ended = cluster.build(script).without("--workspace").ended().await;
    ended.assert(0, "succeeded");
    assert_eq!(ended.stdout, "workspace/orka\n");
    assert!(!ended.results.contains_key("artifacts-digest"), "{ended}");
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn environment_and_login_shell_reach_the_script() {
    let cluster = Cluster::start().await;
    let script = "#!/bin/sh\nprintf '%s|' \"$ONE\" \"$TWO\"\n";
    let ended = cluster
        .build(script)
        .param("env", "ONE=a 'b' $(c) \"d\"\nTWO=é=x")
        .param("shell", "login")
        .ended()
        .await;
    ended.assert(0, "succeeded");
    assert_eq!(ended.stdout, "a 'b' $(c) \"d\"|é=x|\n");
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_script_leaves_in_the_background_does_not_hold_up_the_step() {
    let cluster = Cluster::start().await;
    let script = "#!/bin/sh\nsleep 50 >/dev/null 2>&1 </dev/null &\necho done\n";
    let ended = cluster.build(script).ended().await;
    ended.assert(0, "succeeded");
    assert!(ended.took.as_secs() < 30, "{ended}");
    cluster.assert_purged();
}
