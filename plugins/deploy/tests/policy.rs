//! The policy under the production host code, with a scripted cluster and a virtual clock.

#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::LazyLock;

use plugin_testkit::{ExecReply, Outcome, PluginUnderTest, Report, Scenario};

static DEPLOY: LazyLock<PluginUnderTest> = LazyLock::new(|| PluginUnderTest::bundled("deploy"));

const SCRIPT: &str = "../build-script";

/// What `init` hands over on Orka 3, where the text is all there is.
fn vm_config() -> String {
    let scenario = Scenario::new()
        .on_orka3()
        .param("base-image", "sonoma.orkasi");
    let report = PluginUnderTest::bundled("init").run(scenario);
    report.results["vm-config"].clone()
}

fn run(scenario: Scenario) -> Report {
    DEPLOY.run(
        scenario
            .on_orka3()
            .param("vm-config", &vm_config())
            .param("script", "make ipa\n"),
    )
}

#[test]
fn does_its_part_and_deletes_its_vm() {
    let report = run(Scenario::new().on_exec(
        SCRIPT,
        ExecReply::exit(0).writes("workspace/orka/app.ipa", "ipa"),
    ));
    assert_eq!(
        (report.outcome, report.exit_code),
        (Outcome::Succeeded, 0),
        "{}",
        report.log_text()
    );
    assert!(
        report.left_on_the_cluster.is_empty(),
        "{:?}",
        report.left_on_the_cluster
    );
    assert_eq!(report.workspace["app.ipa"], b"ipa");
}

#[test]
fn the_scripts_status_passes_through_and_its_vm_goes_all_the_same() {
    let report = run(Scenario::new().on_exec(SCRIPT, ExecReply::exit(65)));
    assert_eq!(
        (report.outcome, report.exit_code),
        (Outcome::BuildFailed, 65),
        "{}",
        report.log_text()
    );
    assert!(report.left_on_the_cluster.is_empty());
}

#[test]
fn delete_vm_false_leaves_the_vm_to_teardown_also_when_the_script_fails() {
    for status in [0, 1] {
        let scenario = Scenario::new().param("delete-vm", "false");
        let report = run(scenario.on_exec(SCRIPT, ExecReply::exit(status)));
        assert_eq!(u32::from(report.exit_code), status, "{}", report.log_text());
        assert_eq!(report.left_on_the_cluster.len(), 1);
        assert!(
            !report.log_text().contains("may still exist"),
            "{}",
            report.log_text()
        );
    }
}

#[test]
fn without_a_vm_config_says_where_to_get_one_and_deploys_nothing() {
    let report = DEPLOY.run(Scenario::new().param("script", "true"));
    assert_ne!(report.outcome, Outcome::Succeeded);
    assert!(report.message().contains("`init`"), "{}", report.message());
    assert!(!report.calls.iter().any(|call| call == "deploy"));
}

#[test]
fn a_vm_config_of_another_run_is_refused() {
    let foreign = vm_config().replacen("tekton-", "tekton-0", 1);
    let report = DEPLOY.run(
        Scenario::new()
            .on_orka3()
            .param("script", "true")
            .param("vm-config", &foreign),
    );
    assert_eq!(report.code(), "handoff.vm-config", "{}", report.log_text());
    assert!(!report.calls.iter().any(|call| call == "deploy"));
}

#[test]
fn a_detached_script_outlives_its_connection_and_a_silent_one_is_stopped() {
    use std::time::Duration;
    let reply = ExecReply::exit(0).loses_connection_for(Duration::from_secs(30));
    let report = run(Scenario::new()
        .param("detach", "true")
        .on_exec(SCRIPT, reply));
    assert_eq!(report.exit_code, 0, "{}", report.log_text());
    let reply = ExecReply::never_ends();
    let report = run(Scenario::new()
        .param("silence-timeout", "5m")
        .on_exec(SCRIPT, reply));
    assert_eq!(
        (report.outcome, report.code()),
        (Outcome::TimedOut, "command.silent"),
        "{}",
        report.log_text()
    );
    assert!(report.left_on_the_cluster.is_empty());
}
