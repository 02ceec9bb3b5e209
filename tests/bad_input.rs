//! Wrong command lines, files and credentials: told before anything is deployed.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use end_to_end::{Cluster, Ended, Step};

const TRUE: &str = "#!/bin/sh\ntrue\n";

/// Exit code 211, outcome `infra-failed`, each of `texts` said, and not one request sent.
#[track_caller]
fn assert_refused(cluster: &Cluster, ended: &Ended, texts: &[&str]) {
    assert_eq!(ended.code, Some(211), "{ended}");
    if !ended.results.is_empty() {
        assert_eq!(ended.result("outcome"), "infra-failed", "{ended}");
    }
    ended.assert_says(texts);
    cluster.assert_untouched();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_orka_password_is_a_matter_of_configuration() {
    let cluster = Cluster::start().await;
    cluster.write_orka("password", "not-the-password");
    let ended = cluster.build(TRUE).ended().await;
    ended.assert(211, "infra-failed");
    ended.assert_says(&[
        "Orka refused the login",
        "hint: check e-mail address and password",
    ]);
    // What is left to read where the log is gone.
    let reason = ended.result("reason");
    assert!(reason.starts_with("Orka refused the login: "), "{reason}");
    assert!(!ended.stderr.contains("not-the-password"), "{ended}");
    assert!(cluster.sim.state().deletions.is_empty());
    cluster.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_of_orka_3_is_a_matter_of_configuration() {
    let cluster = Cluster::with(Cluster::orka3()).await;
    cluster.write_orka("token", "not-a-token-of-this-cluster");
    let ended = cluster.build(TRUE).ended().await;
    ended.assert(211, "infra-failed");
    ended.assert_says(&["token", "hint: "]);
    cluster.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_problem_is_told_at_once() {
    let cluster = Cluster::start().await;
    std::fs::remove_file(cluster.orka_credentials().join("password")).unwrap();
    std::fs::remove_file(cluster.ssh_credentials().join("username")).unwrap();
    let ended = cluster
        .build(TRUE)
        .flag("--workspace", "/nowhere/at/all")
        .flag("--vm-prefix", "Not A Name")
        .flag("--limit", "memory=1")
        .flag("--orka-api", "not a URL")
        .ended()
        .await;
    assert_refused(
        &cluster,
        &ended,
        &[
            "e-mail address but no password",
            "no SSH user name",
            "`/nowhere/at/all`",
            "`--vm-prefix Not A Name` (`ORKA_VM_PREFIX`)",
            "`--limit` knows no `memory`",
            "`--orka-api` is not an endpoint",
        ],
    );
    assert_eq!(ended.result("outcome"), "infra-failed");
    assert_eq!(
        ended.report["failures"].as_array().map(Vec::len),
        Some(6),
        "{:#}",
        ended.report
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_credentials_both_kinds_are_asked_for() {
    let cluster = Cluster::start().await;
    let step = cluster
        .build(TRUE)
        .without("--orka-credentials")
        .without("--ssh-credentials");
    let ended = step.without("--orka-api").ended().await;
    let asked = [
        "no Orka endpoint",
        "no Orka credentials",
        "no SSH user name",
        "`ORKA_API`",
        "`ORKA_EMAIL`",
        "`SSH_USERNAME`",
    ];
    assert_refused(&cluster, &ended, &asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_no_url_is_refused() {
    for url in [
        "",
        "ftp://orka",
        "http://",
        "10.221.188.20",
        "http://host:99999",
    ] {
        let cluster = Cluster::start().await;
        let ended = cluster.build(TRUE).flag("--orka-api", url).ended().await;
        assert_refused(&cluster, &ended, &["--orka-api", "hint: "]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_that_is_missing_or_no_directory_is_refused() {
    let cluster = Cluster::start().await;
    let step = cluster.build(TRUE);
    let file = step.scratch_file("a-file", b"");
    for path in ["/nowhere/at/all", &file] {
        let ended = cluster.build(TRUE).flag("--workspace", path).ended().await;
        assert_refused(
            &cluster,
            &ended,
            &["cannot open the workspace", path, "hint: "],
        );
    }
}

/// A file where the host's own folder should be stops every user from writing there, the superuser included.
#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_that_cannot_be_written_is_refused() {
    let cluster = Cluster::start().await;
    let ended = cluster
        .build(TRUE)
        .file(".orka-step", "in the way")
        .ended()
        .await;
    assert_refused(
        &cluster,
        &ended,
        &[
            "cannot write into the workspace",
            "hint: give the step's user write access",
        ],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_cannot_be_read_are_refused() {
    let cluster = Cluster::start().await;
    let ended = cluster
        .build(TRUE)
        .flag("--orka-credentials", "/nowhere")
        .ended()
        .await;
    assert_refused(
        &cluster,
        &ended,
        &[
            "cannot read the directory `/nowhere`",
            "`--orka-credentials`",
        ],
    );
    // A directory in the place of a file: unreadable for every user.
    let password = cluster.orka_credentials().join("password");
    std::fs::remove_file(&password).unwrap();
    std::fs::create_dir(&password).unwrap();
    let ended = cluster.build(TRUE).ended().await;
    assert_refused(
        &cluster,
        &ended,
        &["password` (from `--orka-credentials`) is a directory"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_without_permission_are_refused() {
    let cluster = Cluster::start().await;
    for path in [
        cluster.orka_credentials().join("password"),
        cluster.ssh_credentials(),
    ] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
    }
    let ended = cluster.build(TRUE).ended().await;
    if is_superuser() {
        // No permission stops this user: the run has to work.
        ended.assert(0, "succeeded");
        cluster.assert_purged();
    } else {
        assert_refused(
            &cluster,
            &ended,
            &[
                "password` (from `--orka-credentials`) cannot be read",
                "--ssh-credentials",
            ],
        );
    }
}

fn is_superuser() -> bool {
    rustix::process::geteuid().is_root()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_key_that_is_none_is_refused() {
    let cluster = Cluster::start().await;
    cluster.write_ssh(
        "id_rsa",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHtGQZ5J7Jw6b1yoN0LFkYqBRM2cfZgYs1f6YJr1T2pQ me",
    );
    let ended = cluster.build(TRUE).ended().await;
    assert_refused(
        &cluster,
        &ended,
        &[
            "private key `id_rsa` cannot be used",
            "public key",
            "hint: ",
        ],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_parameter_is_answered_with_the_nearest() {
    let cluster = Cluster::start().await;
    let ended = cluster.build(TRUE).param("base-imgae", "x").ended().await;
    ended.assert(211, "infra-failed");
    assert_refused(
        &cluster,
        &ended,
        &["no parameter `base-imgae`", "did you mean `base-image`?"],
    );
    let ended = cluster
        .build(TRUE)
        .environment("ORKA_PARAM_CPU_COUTN", "3")
        .ended()
        .await;
    assert_refused(
        &cluster,
        &ended,
        &[
            "no parameter `ORKA_PARAM_CPU_COUTN`; did you mean `ORKA_PARAM_CPU_COUNT`?",
            "plugin inspect build",
        ],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_are_checked_all_at_once_before_anything_is_sent() {
    let cluster = Cluster::start().await;
    let ended = cluster
        .run()
        .param("cpu-count", "many")
        .param("vcpu-count", "0")
        .param("vnc-console", "perhaps")
        .param("scheduler", "most-alocated")
        .param("memory", "8GB")
        .param("script", TRUE)
        .ended()
        .await;
    ended.assert(211, "infra-failed");
    assert_refused(
        &cluster,
        &ended,
        &[
            "parameter `base-image` is required",
            "parameter `cpu-count` has to be an integer, not `many`",
            "parameter `vcpu-count` has to be at least 1",
            "parameter `vnc-console` has to be `true` or `false`",
            "did you mean `most-allocated`?",
            "parameter `memory` cannot be `8GB`: Memory in GiB, such as `8` or `7.5`",
        ],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_policy_refuses_is_told_before_anything_is_sent() {
    let wrong = [
        ("vm-metadata", "[{ key: name }]"),
        ("env", "no equals sign"),
        ("script-file", "ci/build.sh"),
    ];
    for (name, value) in wrong {
        let cluster = Cluster::start().await;
        let ended = cluster.build(TRUE).param(name, value).ended().await;
        ended.assert(211, "infra-failed");
        assert_refused(&cluster, &ended, &["parameter `"]);
    }
}

/// What a manifest can say of a value, a run and a look ahead say alike.
#[tokio::test(flavor = "multi_thread")]
async fn a_value_of_the_wrong_form_is_told_before_the_plugin_is_started() {
    let wrong = [
        ("vm-metadata", "key: value"),
        ("reserved-ports", "80"),
        ("vm-options", "net-boost"),
        ("keep-for", "3"),
        ("artifacts", "dist/[z-a]"),
        ("artifacts", "dist/[a"),
        ("artifacts", "../elsewhere"),
        ("artifacts", "/Users/admin/dist"),
        ("artifacts", "~/dist"),
        ("exclude", "**a[**"),
    ];
    let cluster = Cluster::start().await;
    let looked_at = Cluster::start().await;
    for (name, value) in wrong {
        let said = format!("parameter `{name}` ");
        let ended = cluster.build(TRUE).param(name, value).ended().await;
        ended.assert(211, "infra-failed");
        assert_refused(&cluster, &ended, &[&said]);
        assert!(
            !ended.stderr.contains("plugin `build` 0."),
            "{}",
            ended.stderr
        );
        let ahead = looked_at.doctor().param(name, value).ended().await;
        assert_eq!(ahead.code, Some(211), "{ahead}");
        assert!(ahead.stdout.contains(&said), "{ahead}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_that_is_nowhere_is_told_before_anything_is_sent() {
    let cluster = Cluster::start().await;
    let step = || cluster.run().param("base-image", "Sonoma.orkasi");
    let ended = step().ended().await;
    assert_refused(&cluster, &ended, &["parameter `script` is missing"]);
    let ended = step().argument("/nowhere/script").ended().await;
    assert_refused(
        &cluster,
        &ended,
        &["cannot read the script `/nowhere/script`"],
    );
    let ended = step().param("script-file", "nowhere.sh").ended().await;
    assert_refused(&cluster, &ended, &["script-file", "nowhere.sh"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_the_cluster_has_not_leaves_nothing() {
    let cluster = Cluster::start().await;
    let ended = cluster
        .run()
        .param("base-image", "Sonomo.orkasi")
        .param("script", TRUE)
        .ended()
        .await;
    ended.assert(211, "infra-failed");
    assert_eq!(ended.result("outcome"), "infra-failed");
    ended.assert_says(&[
        "image 'Sonomo.orkasi' not found",
        "did you mean `Sonoma.orkasi`?",
    ]);
    cluster.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn results_and_report_that_have_no_place_are_refused() {
    let cluster = Cluster::start().await;
    let ended = cluster
        .build(TRUE)
        .flag("--results", "/nowhere/results")
        .ended()
        .await;
    assert_refused(&cluster, &ended, &["`--results`", "/nowhere/results"]);
    let ended = cluster
        .build(TRUE)
        .flag("--report", "/nowhere/report.json")
        .ended()
        .await;
    assert_refused(&cluster, &ended, &["`--report`", "/nowhere/report.json"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grants_file_with_a_mistake_is_refused() {
    for (text, said) in [
        (
            "[[grant]]\nplugin = \"x\"\ncapabilities = [\"cluster.deplyo\"]\n",
            "did you mean `cluster.deploy`?",
        ),
        ("[[grnat]]\nplugin = \"x\"\n", "grnat"),
        ("not toml", "the grants file"),
    ] {
        let cluster = Cluster::start().await;
        let ended = cluster.build(TRUE).granted(text).ended().await;
        assert_refused(&cluster, &ended, &["the grants file", said]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_line_that_is_wrong_starts_nothing() {
    let cluster = Cluster::start().await;
    for step in [
        cluster.build(TRUE).argument("--no-such-flag"),
        cluster
            .build(TRUE)
            .argument("-p")
            .argument("no-equals-sign"),
        cluster.build(TRUE).flag("--timeout", "soon"),
        cluster.build(TRUE).flag("--timeout", "0s"),
        Step::new(&["no-such-command"]),
        Step::new(&[]),
    ] {
        let ended = step.ended().await;
        assert_eq!(ended.code, Some(2), "{ended}");
        assert!(ended.stdout.is_empty(), "{ended}");
        // Which of the two depends on what is wrong.
        let helps = ["Usage: ", "'--help'"]
            .iter()
            .any(|text| ended.stderr.contains(text));
        assert!(helps, "{ended}");
        assert!(ended.results.is_empty(), "{ended}");
        assert!(
            !Path::new(ended.scratch())
                .join("workspace/.orka-step")
                .exists()
        );
    }
    cluster.assert_untouched();
}
