//! Help, versions and inspection: what needs neither network nor credentials.

use end_to_end::{Ended, Step, bundled, guest};
use sha2::{Digest as _, Sha256};

async fn said(command: &[&str]) -> Ended {
    let ended = Step::new(command).ended().await;
    assert_eq!(ended.code, Some(0), "{ended}");
    assert_eq!(ended.stderr, "", "{ended}");
    ended
}

/// Flags of `run` and the environment variables that stand for them.
const FLAGS: [(&str, &str); 18] = [
    ("--plugin <REF>", "ORKA_PLUGIN"),
    ("--orka-api <URL>", "ORKA_API"),
    ("--orka-version <VERSION>", "ORKA_VERSION"),
    ("--orka-namespace <NS>", "ORKA_NAMESPACE"),
    ("--orka-credentials <DIR>", "ORKA_CREDENTIALS"),
    ("--ssh-credentials <DIR>", "ORKA_SSH_CREDENTIALS"),
    ("--ssh-host-key <KEY>", "ORKA_SSH_HOST_KEY"),
    ("--ssh-keepalive <DURATION>", "ORKA_SSH_KEEPALIVE"),
    ("--ssh-jump <[USER@]HOST[:PORT]>", "ORKA_SSH_JUMP"),
    ("--ssh-jump-credentials <DIR>", "ORKA_SSH_JUMP_CREDENTIALS"),
    ("--workspace <DIR>", "ORKA_WORKSPACE"),
    ("--results <DIR>", "ORKA_RESULTS"),
    ("--timeout <DURATION>", "ORKA_TIMEOUT"),
    ("--grants <FILE>", "ORKA_GRANTS"),
    ("--run-uid <UID>", "ORKA_RUN_UID"),
    ("--pod-uid <UID>", "ORKA_POD_UID"),
    ("--vm-prefix <PREFIX>", "ORKA_VM_PREFIX"),
    ("--report <FILE>", "ORKA_REPORT"),
];

/// Exit codes with their names.
const CODES: [&str; 12] = [
    "2 usage",
    "130/143 SIGINT/SIGTERM",
    "210 internal",
    "211 config",
    "212 plugin-rejected",
    "213 plugin-failed",
    "214 orka",
    "215 no-capacity",
    "216 ssh",
    "217 files",
    "218 timed-out",
    "219 leftovers",
];

#[tokio::test]
async fn the_help_of_run_names_every_flag_with_its_variable() {
    let ended = said(&["run", "--help"]).await;
    for (flag, variable) in FLAGS {
        // From the flag to the next one.
        let (_, rest) = ended
            .stdout
            .split_once(&format!("  {flag}"))
            .unwrap_or_else(|| panic!("no {flag}: {ended}"));
        let own = rest.split("\n      --").next().unwrap();
        assert!(own.contains(&format!("[env: {variable}")), "{flag}: {own}");
    }
    for more in [
        "ORKA_PARAM_<NAME>",
        "ORKA_EMAIL",
        "ORKA_PASSWORD",
        "ORKA_LICENSE_KEY",
        "ORKA_TOKEN",
        "SSH_USERNAME",
        "SSH_PASSWORD",
    ] {
        assert!(ended.stdout.contains(more), "no {more}: {ended}");
    }
}

#[tokio::test]
async fn help_does_not_show_the_values_of_variables() {
    let ended = Step::new(&["run", "--help"])
        .environment("ORKA_API", "http://user:hunter2@orka")
        .ended()
        .await;
    assert_eq!(ended.code, Some(0), "{ended}");
    assert!(!ended.stdout.contains("hunter2"), "{ended}");
}

#[tokio::test]
async fn the_help_names_every_command_and_exit_code() {
    let ended = said(&["--help"]).await;
    for command in ["run", "plugin", "demo"] {
        assert!(
            ended.stdout.contains(&format!("\n  {command} ")),
            "no `{command}`: {ended}"
        );
    }
    for code in CODES {
        assert!(
            ended.stdout.contains(code),
            "no `{code}` on one line: {ended}"
        );
    }
    for command in [
        &["plugin", "--help"][..],
        &["plugin", "inspect", "--help"],
        &["demo", "--help"],
    ] {
        assert!(said(command).await.stdout.contains("Usage: orka-step "));
    }
    assert!(
        said(&["plugin", "inspect", "--help"])
            .await
            .stdout
            .contains("[env: ORKA_PLUGIN_DIR")
    );
}

#[tokio::test]
async fn the_version_is_a_version() {
    let ended = said(&["--version"]).await;
    let version = ended.stdout.trim().strip_prefix("orka-step ").unwrap();
    assert_eq!(version.split('.').count(), 3, "{ended}");
}

#[tokio::test]
async fn inspecting_the_bundled_plugin_shows_what_it_takes_and_asks_for() {
    let ended = said(&["plugin", "inspect", "build"]).await;
    let digest = hex::encode(Sha256::digest(std::fs::read(bundled("build")).unwrap()));
    for text in [
        "build 0.1.0: ",
        &format!("sha256:{digest}"),
        "cluster.read, cluster.deploy, ssh.exec, ssh.transfer, workspace.read, workspace.write",
        "it came with this program",
        "orka:plugin/ssh@0.1.0",
        "-p base-image=…  (string, required)",
        "-p cpu-count=…  (integer of at least 1, default 3)",
        "-p capacity-wait=…  (string matching `^([0-9]+(s|m|h))?$`, default \"\")",
        "may use   any secret that is granted to it by name",
        "-p scheduler=…  (one of default, most-allocated, default \"default\")",
    ] {
        assert!(ended.stdout.contains(text), "no `{text}`: {ended}");
    }
    assert!(!ended.stdout.contains("wasi:"), "{ended}");
}

#[tokio::test]
async fn inspecting_as_json_is_for_programs() {
    let ended = said(&["plugin", "inspect", "build", "--json"]).await;
    let value: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(value["bundled"], true);
    assert_eq!(value["manifest"]["plugin"]["name"], "build");
    assert_eq!(
        value["manifest"]["parameters"]["base-image"]["required"],
        true
    );
    let path = value["path"].as_str().unwrap();
    assert_eq!(value["bytes"], std::fs::metadata(path).unwrap().len());
    assert_eq!(
        value["digest"],
        format!(
            "sha256:{}",
            hex::encode(Sha256::digest(std::fs::read(path).unwrap()))
        )
    );
    let imports = value["imports"].as_array().unwrap();
    assert!(
        imports
            .iter()
            .all(|name| name.as_str().unwrap().starts_with("orka:plugin/")),
        "{imports:?}"
    );
}

#[tokio::test]
async fn inspecting_a_foreign_plugin_shows_its_secrets_and_that_it_is_granted_nothing() {
    let path = guest("secret-probe");
    let ended = said(&["plugin", "inspect", path.to_str().unwrap()]).await;
    for text in [
        "secrets   TOKEN_X",
        "nothing without `--grants`",
        "result seen",
    ] {
        assert!(ended.stdout.contains(text), "no `{text}`: {ended}");
    }
}

#[tokio::test]
async fn checking_a_plugin_shows_also_the_secrets_that_it_can_do_without() {
    let ended = said(&["plugin", "check", "build"]).await;
    let line = "  may use   any secret that is granted to it by name\n";
    assert!(ended.stdout.contains(line), "{ended}");
}

#[tokio::test]
async fn inspecting_what_is_no_plugin_fails_as_a_run_would() {
    let ended = Step::new(&["plugin", "inspect", "/etc/passwd"])
        .ended()
        .await;
    assert_eq!(ended.code, Some(212), "{ended}");
    ended.assert_says(&["it is not WebAssembly", "hint: "]);
    assert_eq!(ended.stdout, "");
}

#[tokio::test]
async fn a_schema_without_a_name_lists_the_names() {
    let ended = Step::new(&["schema"]).ended().await;
    assert_eq!(ended.code, Some(2), "{ended}");
    for name in [
        "grants",
        "guards",
        "plugin",
        "report",
        "scenarios",
        "session",
    ] {
        assert!(ended.stderr.contains(name), "{name}: {ended}");
    }
}
