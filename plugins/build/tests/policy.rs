//! The policy under the production host code, with a scripted cluster and a virtual clock.

#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::LazyLock;
use std::time::Duration;

use plugin_testkit::{
    Class, ExecReply, Failure, Kind, Limits, Outcome, PluginUnderTest, Report, Scenario, StopSignal,
};

static BUILD: LazyLock<PluginUnderTest> = LazyLock::new(|| PluginUnderTest::bundled("build"));

const SCRIPT: &str = "../build-script";

fn scenario() -> Scenario {
    Scenario::new()
        .param("base-image", "sonoma.orkasi")
        .param("script", "make ipa\n")
}

fn run(scenario: Scenario) -> Report {
    let report = BUILD.run(scenario);
    assert!(
        report.left_on_the_cluster.is_empty(),
        "left: {:?}",
        report.left_on_the_cluster
    );
    report
}

fn unavailable(code: &'static str) -> Failure {
    Failure::new(
        Kind::Unavailable,
        Class::Orka,
        code,
        "the API is out of order",
    )
}

#[test]
fn does_the_whole_job_in_order() {
    let report = run(scenario().file("main.c", "int main(void) {}").on_exec(
        SCRIPT,
        ExecReply::exit(0)
            .stdout("built\n")
            .writes("workspace/orka/app.ipa", "ipa"),
    ));
    assert_eq!(
        (report.outcome, report.exit_code),
        (Outcome::Succeeded, 0),
        "{}",
        report.log_text()
    );
    assert_eq!(
        report.calls,
        [
            "sign-in",
            "create-config",
            "deploy",
            "connect",
            "upload workspace/orka",
            "write-file workspace/build-script",
            "exec ../build-script",
            "download workspace/orka",
            "purge",
            "look",
            "sign-out",
        ]
    );
    assert_eq!(
        report.vm_files["workspace/build-script"],
        b"#!/bin/sh\nset -ex\nmake ipa\n"
    );
    assert_eq!(
        report.vm_files["workspace/orka/main.c"],
        b"int main(void) {}"
    );
    assert_eq!(report.workspace["app.ipa"], b"ipa");
    assert_eq!(
        report.results["vm-name"],
        report
            .log_text()
            .split('`')
            .find(|word| word.starts_with("tekton-"))
            .unwrap()
    );
    assert_eq!(report.results["exit-status"], "0");
    assert!(report.log.contains(&"built".to_owned()));
}

#[test]
fn the_same_file_works_on_orka_3() {
    let report = run(scenario().on_orka3().on_exec(SCRIPT, ExecReply::exit(0)));
    assert_eq!(report.exit_code, 0, "{}", report.log_text());
    assert!(
        report.log_text().contains("Orka 3 has no revocation"),
        "{}",
        report.log_text()
    );
}

#[test]
fn a_failing_script_is_the_builds_failure_and_its_status_passes_through() {
    let report = run(scenario().on_exec(SCRIPT, ExecReply::exit(65).stderr("no such scheme\n")));
    assert_eq!(
        (report.outcome, report.exit_code),
        (Outcome::BuildFailed, 65)
    );
    assert_eq!(report.results["exit-status"], "65");
    assert!(
        !report.calls.iter().any(|call| call.starts_with("download")),
        "{:?}",
        report.calls
    );
}

#[test]
fn a_killed_script_gives_128_plus_the_signal() {
    assert_eq!(
        run(scenario().on_exec(SCRIPT, ExecReply::signal("KILL"))).exit_code,
        137
    );
}

#[test]
fn evidence_comes_back_when_asked_for() {
    let script = ExecReply::exit(1)
        .writes("workspace/orka/out/log.txt", "why")
        .writes("workspace/orka/other", "x");
    for (when, comes) in [("always", true), ("failure", true), ("success", false)] {
        let report = run(scenario()
            .param("artifacts", "out/**")
            .param("artifacts-when", when)
            .on_exec(SCRIPT, script.clone()));
        assert_eq!(report.exit_code, 1);
        assert_eq!(
            report.workspace.contains_key("out/log.txt"),
            comes,
            "{when}"
        );
        assert!(!report.workspace.contains_key("other"));
    }
}

#[test]
fn missing_evidence_of_a_failed_script_does_not_hide_its_status() {
    let report = run(scenario()
        .param("artifacts", "*.xcresult")
        .param("artifacts-when", "always")
        .on_exec(SCRIPT, ExecReply::exit(65)));
    assert_eq!(
        (report.outcome, report.exit_code),
        (Outcome::BuildFailed, 65)
    );
    assert!(
        report.log_text().contains("nothing was copied back"),
        "{}",
        report.log_text()
    );
}

#[test]
fn a_missing_artifact_of_a_good_script_fails_the_step() {
    let report = run(scenario()
        .param("artifacts", "*.ipa")
        .on_exec(SCRIPT, ExecReply::exit(0)));
    assert_eq!(
        (report.outcome, report.exit_code),
        (Outcome::InfraFailed, 217)
    );
    assert_eq!(report.code(), "files.nothing-matched");
}

#[test]
fn the_scripts_status_is_known_also_when_what_follows_fails() {
    let lost = Failure::new(
        Kind::Unavailable,
        Class::Ssh,
        "ssh.lost",
        "the connection was lost",
    );
    let report = run(scenario()
        .fails("download", 0, lost)
        .on_exec(SCRIPT, ExecReply::exit(0)));
    assert_eq!(
        (report.outcome, report.exit_code),
        (Outcome::InfraFailed, 216)
    );
    assert_eq!(report.results["exit-status"], "0");
}

#[test]
fn a_verbose_run_says_what_it_asks_for_and_runs() {
    let log = |verbose: &str| {
        run(scenario()
            .param("verbose", verbose)
            .on_exec(SCRIPT, ExecReply::exit(0)))
        .log_text()
    };
    for expected in ["VmSpec", "`#!/bin/sh`", "copying back"] {
        assert!(
            log("true").contains(expected),
            "{expected}: {}",
            log("true")
        );
        assert!(
            !log("false").contains(expected),
            "{expected}: {}",
            log("false")
        );
    }
}

#[test]
fn copy_build_off_copies_one_way_only() {
    let script = ExecReply::exit(0).writes("workspace/orka/app.ipa", "ipa");
    let report = run(scenario()
        .param("copy-build", "false")
        .on_exec(SCRIPT, script));
    assert!(!report.workspace.contains_key("app.ipa"));
    assert_eq!(report.exit_code, 0);
}

#[test]
fn excluded_files_go_neither_way() {
    let report = run(scenario()
        .param("exclude", ".git\n*.o")
        .file(".git/config", "x")
        .file("a.o", "x")
        .file("a.c", "x")
        .on_exec(SCRIPT, ExecReply::exit(0).writes("workspace/orka/b.o", "x")));
    assert!(report.vm_files.contains_key("workspace/orka/a.c"));
    assert!(!report.vm_files.contains_key("workspace/orka/a.o"));
    assert!(!report.vm_files.contains_key("workspace/orka/.git/config"));
    assert!(!report.workspace.contains_key("b.o"));
}

#[test]
fn the_script_comes_from_a_file_or_as_a_file_of_its_own() {
    let base = || {
        Scenario::new()
            .param("base-image", "sonoma.orkasi")
            .on_exec(SCRIPT, ExecReply::exit(0))
    };
    let from_file = run(base()
        .param("script-file", "ci/build.rb")
        .file("ci/build.rb", "#!/usr/bin/env ruby\n"));
    assert_eq!(
        from_file.vm_files["workspace/build-script"],
        b"#!/usr/bin/env ruby\n"
    );
    let own = run(base().script("echo $$ $(HOME)\ncat <<EOF\nEOF\n"));
    assert_eq!(
        own.vm_files["workspace/build-script"],
        b"#!/bin/sh\nset -ex\necho $$ $(HOME)\ncat <<EOF\nEOF\n"
    );
}

#[test]
fn a_script_file_that_cannot_be_used_is_a_wrong_parameter() {
    let large = "#".repeat(1024 * 1024 + 1);
    for (path, problem) in [
        (".orka-step/ledger", "belongs to the host"),
        ("/etc/passwd", "is absolute"),
        ("../build.sh", "leads out of the workspace"),
        ("ci", "is not a regular file"),
        ("ci/large", "is larger than"),
        (
            "ci/none",
            "names `ci/none`, which the workspace does not have",
        ),
    ] {
        let report = run(Scenario::new()
            .param("base-image", "sonoma.orkasi")
            .param("script-file", path)
            .file("ci/large", large.as_str()));
        assert_eq!(
            (report.outcome, report.exit_code),
            (Outcome::InfraFailed, 211),
            "{path}: {}",
            report.log_text()
        );
        assert_eq!(report.code(), "params.invalid");
        for text in ["`script-file`", problem] {
            assert!(report.message().contains(text), "{}", report.message());
        }
        assert!(
            !report.calls.contains(&"create-config".to_owned()),
            "{path}"
        );
    }
}

#[test]
fn works_without_a_workspace() {
    let report = run(scenario()
        .without_workspace()
        .on_exec("mkdir", ExecReply::exit(0))
        .on_exec(SCRIPT, ExecReply::exit(0)));
    assert_eq!(report.exit_code, 0, "{}", report.log_text());
    assert!(
        report
            .calls
            .contains(&"exec mkdir -p workspace/orka".to_owned()),
        "{:?}",
        report.calls
    );
}

#[test]
fn what_prepares_a_vm_without_a_workspace_is_not_taken_for_the_script() {
    let report = run(scenario()
        .without_workspace()
        .on_exec("mkdir", ExecReply::exit(0))
        .on_exec(SCRIPT, ExecReply::lost()));
    assert_eq!(report.exit_code, 216, "{}", report.log_text());
    assert!(report.exit.is_none() && !report.results.contains_key("exit-status"));
}

#[test]
fn artifacts_that_have_no_place_to_come_to_are_a_wrong_parameter() {
    let report = run(scenario().without_workspace().param("artifacts", "out/**"));
    assert_eq!(report.exit_code, 211, "{}", report.log_text());
    assert!(
        report.message().contains("workspace"),
        "{}",
        report.message()
    );
}

#[test]
fn wrong_parameters_are_told_before_anything_is_sent() {
    let with = |name: &str, value: &str| scenario().param(name, value);
    for (scenario, expected) in [
        (Scenario::new().param("script", "x"), "base-image"),
        (
            Scenario::new().param("base-image", "x"),
            "`script` is missing",
        ),
        (with("script-file", "x"), "given in more than one way"),
        (with("vm-metadata", "[{key: a}]"), "vm-metadata"),
        (with("env", "no equals sign"), "`env`"),
        (with("secret-env", "no-name"), "`secret-env`"),
        (with("artifacts", "out/[z-a]"), "`artifacts` has a pattern"),
        (with("exclude", "../x"), "`exclude` has a pattern"),
        (with("vm-options", "no equals sign"), "`vm-options`"),
        (with("memory", "lots"), "memory"),
        (with("capacity-wait", "soon"), "capacity-wait"),
        (with("scheduler", "cheapest"), "scheduler"),
        (with("cpu-count", "many"), "cpu-count"),
        (with("base-imagee", "x"), "base-image"),
    ] {
        let report = run(scenario);
        assert_eq!(report.exit_code, 211, "{expected}: {}", report.log_text());
        assert!(
            report.log_text().contains(expected),
            "{expected}: {}",
            report.log_text()
        );
        assert!(
            !report.calls.contains(&"create-config".to_owned()),
            "{expected}"
        );
    }
}

#[test]
fn a_failed_deploy_leaves_no_config() {
    let report = run(scenario().fails("deploy", 0, unavailable("orka.server-error")));
    assert_eq!(
        (report.outcome, report.exit_code),
        (Outcome::InfraFailed, 214)
    );
    assert!(report.message().contains("out of order"));
}

#[test]
fn a_vm_whose_deploy_got_no_answer_is_found_and_deleted_when_it_turns_up() {
    for orka3 in [false, true] {
        for appears_after in [0, 10, 40] {
            let scenario = scenario().deploy_reply_lost(1, Duration::from_secs(appears_after));
            let report = run(if orka3 { scenario.on_orka3() } else { scenario });
            assert_eq!(
                (report.outcome, report.exit_code),
                (Outcome::InfraFailed, 214),
                "{appears_after} s"
            );
            // On Orka 2 a late one finds its VM config gone, which nobody can know: it is watched for in vain.
            let until = if orka3 { appears_after + 5 } else { 60 };
            assert!(
                report.elapsed <= Duration::from_secs(until),
                "orka3: {orka3}, {appears_after} s: {:?}\n{}",
                report.elapsed,
                report.log_text()
            );
        }
    }
}

#[test]
fn a_vm_in_doubt_is_not_forgotten_when_another_one_does_the_job() {
    for appears_after in [1, 20] {
        let report = run(scenario()
            .on_orka3()
            .param("deploy-attempts", "2")
            .deploy_reply_lost(1, Duration::from_secs(appears_after))
            .on_exec(SCRIPT, ExecReply::exit(0)));
        assert_eq!(report.exit_code, 0, "{}", report.log_text());
    }
}

#[test]
fn a_vm_that_may_still_appear_after_the_budget_is_named() {
    let report = BUILD.run(
        scenario()
            .on_orka3()
            .param("deploy-attempts", "2")
            .deploy_reply_lost(1, Duration::from_secs(3000))
            .on_exec(SCRIPT, ExecReply::exit(0)),
    );
    assert_eq!(
        (report.outcome, report.exit_code),
        (Outcome::InfraFailed, 219)
    );
    assert!(
        report.log_text().contains("a VM may still appear"),
        "{}",
        report.log_text()
    );
    assert!(
        report.log_text().contains("orka vm purge -v tekton-"),
        "{}",
        report.log_text()
    );
}

#[test]
fn a_cancel_in_the_middle_of_a_deploy_leaves_nothing() {
    let report = run(scenario().stopped_after(Duration::from_secs(2), StopSignal::Terminate));
    assert_eq!(
        (report.outcome, report.exit_code),
        (Outcome::Cancelled, 143)
    );
    assert!(
        report.elapsed < Duration::from_secs(27),
        "{:?}",
        report.elapsed
    );
}

#[test]
fn a_full_cluster_is_told_at_once_or_waited_for() {
    let full = Failure::new(
        Kind::NoCapacity,
        Class::NoCapacity,
        "orka.no-capacity",
        "no node has room",
    );
    let at_once = run(scenario().fails("deploy", 0, full.clone()));
    assert_eq!(
        (at_once.outcome, at_once.exit_code),
        (Outcome::NoCapacity, 215)
    );
    let waited = run(scenario()
        .param("capacity-wait", "10m")
        .fails("deploy", 1, full.clone())
        .on_exec(SCRIPT, ExecReply::exit(0)));
    assert_eq!(waited.exit_code, 0, "{}", waited.log_text());
    assert!(waited.log_text().contains("waiting for room"));
    let in_vain = run(scenario()
        .param("capacity-wait", "10m")
        .fails("deploy", 0, full));
    assert_eq!(in_vain.exit_code, 215);
    assert!(
        in_vain.elapsed < Duration::from_secs(660),
        "{:?}",
        in_vain.elapsed
    );
}

#[test]
fn ssh_that_never_comes_up_is_given_up_with_the_last_state() {
    let report = run(scenario().boot_time(Duration::from_secs(3000)));
    assert_eq!(
        (report.outcome, report.exit_code),
        (Outcome::InfraFailed, 216)
    );
    assert_eq!(report.code(), "ssh.refused");
}

#[test]
fn a_vm_that_does_not_come_up_is_given_up_for_one_on_another_node() {
    let slow = Failure::new(
        Kind::TimedOut,
        Class::Ssh,
        "ssh.refused",
        "not ready in time",
    );
    let script = || scenario().on_exec(SCRIPT, ExecReply::exit(0));
    assert_eq!(
        run(script().fails("connect", 1, slow.clone())).exit_code,
        216,
        "one attempt is the default"
    );
    let report = run(script()
        .param("deploy-attempts", "2")
        .fails("connect", 1, slow));
    assert_eq!(report.exit_code, 0, "{}", report.log_text());
    assert_eq!(
        report.nodes,
        [None, Some("mini-2".to_owned())],
        "the node that failed is avoided"
    );
    assert_eq!(
        report.calls.iter().filter(|call| *call == "purge").count(),
        2
    );
}

#[test]
fn declined_credentials_are_not_tried_on_another_vm() {
    let declined = Failure::new(
        Kind::Unauthenticated,
        Class::Ssh,
        "ssh.authentication-declined",
        "declined",
    );
    let report = run(scenario()
        .param("deploy-attempts", "3")
        .fails("connect", 0, declined));
    assert_eq!(report.exit_code, 216);
    assert_eq!(report.nodes.len(), 1);
}

#[test]
fn a_lost_connection_is_not_a_failed_build() {
    let report = run(scenario().on_exec(SCRIPT, ExecReply::lost()));
    assert_eq!(
        (report.outcome, report.exit_code),
        (Outcome::InfraFailed, 216)
    );
    assert!(!report.results.contains_key("exit-status"));
}

#[test]
fn a_purge_that_fails_is_tried_again_by_the_host() {
    let report = run(scenario().on_exec(SCRIPT, ExecReply::exit(0)).fails(
        "purge",
        1,
        unavailable("orka.server-error"),
    ));
    assert_eq!(report.exit_code, 0, "{}", report.log_text());
    assert!(report.calls.iter().filter(|call| *call == "purge").count() >= 2);
}

#[test]
fn a_purge_that_never_works_is_told_with_the_name_and_the_command() {
    let report = BUILD.run(scenario().on_exec(SCRIPT, ExecReply::exit(0)).fails(
        "purge",
        0,
        unavailable("orka.server-error"),
    ));
    assert_eq!(
        (report.outcome, report.exit_code),
        (Outcome::InfraFailed, 219)
    );
    assert_eq!(report.left_on_the_cluster.len(), 1);
    let expected = format!("orka vm purge -v {}", report.left_on_the_cluster[0]);
    assert!(
        report.log_text().contains(&expected),
        "{}",
        report.log_text()
    );
}

#[test]
fn the_runs_deadline_ends_a_script_that_hangs() {
    let report = run(scenario()
        .timeout(Duration::from_secs(120))
        .on_exec(SCRIPT, ExecReply::never_ends()));
    assert_eq!((report.outcome, report.exit_code), (Outcome::TimedOut, 218));
}

#[test]
fn a_cancelled_run_says_so_and_cleans_up() {
    let report = run(scenario()
        .stopped_after(Duration::from_secs(60), StopSignal::Terminate)
        .on_exec(SCRIPT, ExecReply::never_ends()));
    assert_eq!(
        (report.outcome, report.exit_code),
        (Outcome::Cancelled, 143)
    );
    assert!(
        report.elapsed < Duration::from_secs(85),
        "{:?}",
        report.elapsed
    );
}

#[test]
fn fits_into_a_small_sandbox() {
    let limits = Limits {
        memory_bytes: 4 * 1024 * 1024,
        host_calls: 100,
        ..Limits::default()
    };
    assert_eq!(
        run(scenario()
            .limits(limits)
            .on_exec(SCRIPT, ExecReply::exit(0)))
        .exit_code,
        0
    );
}

#[test]
fn a_vm_that_is_kept_stays_and_the_outcome_is_the_scripts() {
    let scenario = scenario().param("keep", "failure").param("keep-for", "30m");
    let report = BUILD.run(scenario.on_exec(SCRIPT, ExecReply::exit(65)));
    assert_eq!(
        (report.outcome, report.exit_code),
        (Outcome::BuildFailed, 65),
        "{}",
        report.log_text()
    );
    assert_eq!(report.left_on_the_cluster.len(), 1);
    assert_eq!(report.results["kept-vm"], report.left_on_the_cluster[0]);
    assert!(
        report.log_text().contains("is kept until"),
        "{}",
        report.log_text()
    );
}

#[test]
fn a_lost_connection_ends_a_script_unless_it_is_detached() {
    let reply = || {
        ExecReply::exit(0)
            .stdout("first half\n")
            .loses_connection_for(Duration::from_secs(90))
            .stdout("second half\n")
    };
    let report = run(scenario().on_exec(SCRIPT, reply()));
    assert_eq!(
        (report.code(), report.exit_code),
        ("ssh.lost", 216),
        "{}",
        report.log_text()
    );

    // The link is down for longer than the script may be silent, which says nothing about the script.
    let detached = scenario()
        .param("detach", "true")
        .param("silence-timeout", "60s")
        .on_exec(SCRIPT, reply());
    let report = run(detached);
    assert_eq!(
        (report.outcome, report.exit_code),
        (Outcome::Succeeded, 0),
        "{}",
        report.log_text()
    );
    assert!(
        report.calls.contains(&format!("exec-detached {SCRIPT}")),
        "{:?}",
        report.calls
    );
    let place = |text: &str| {
        report
            .log
            .iter()
            .position(|line| line.contains(text))
            .unwrap()
    };
    assert!(place("first half") < place("was lost"));
    assert!(place("was lost") < place("is back"));
    assert!(place("is back") < place("second half"));
}

#[test]
fn a_script_that_prints_nothing_for_too_long_is_stopped_politely_and_told_apart() {
    for detach in ["false", "true"] {
        let hung = scenario()
            .param("detach", detach)
            .param("silence-timeout", "10m")
            .param("artifacts", "*.log")
            .param("artifacts-when", "always")
            .on_exec(
                SCRIPT,
                ExecReply::never_ends()
                    .stdout("one\n")
                    .silent_for(Duration::from_secs(599))
                    .stdout("two\n"),
            );
        let report = run(hung);
        let log = report.log_text();
        assert_eq!(
            (report.outcome, report.exit_code),
            (Outcome::TimedOut, 218),
            "{log}"
        );
        assert_eq!(report.code(), "command.silent", "{log}");
        assert!(
            report.message().contains("10 min 00 s")
                && report.message().contains("`silence-timeout`"),
            "{}",
            report.message()
        );
        let signals: Vec<_> = report
            .calls
            .iter()
            .filter(|call| call.starts_with("signal"))
            .collect();
        assert_eq!(signals, ["signal TERM", "signal KILL"]);
        // What it left is evidence.
        assert!(
            report.calls.contains(&"download workspace/orka".to_owned()),
            "{:?}",
            report.calls
        );
        assert!(report.exit.is_none() && !report.results.contains_key("exit-status"));
        // Deploy, boot, the last line, the limit, and the time to stop.
        let expected = 5 + 20 + 599 + 600 + 10 + 3;
        assert_eq!(
            report.elapsed.as_secs().abs_diff(expected),
            0,
            "{:?}",
            report.elapsed
        );
    }
}

#[test]
fn a_script_that_prints_in_time_is_never_stopped() {
    let mut reply = ExecReply::exit(0);
    for _ in 0..50 {
        reply = reply
            .stdout("working\n")
            .silent_for(Duration::from_secs(59));
    }
    let report = run(scenario()
        .param("silence-timeout", "1m")
        .on_exec(SCRIPT, reply));
    assert_eq!(report.exit_code, 0, "{}", report.log_text());
    let quiet = ExecReply::exit(0).silent_for(Duration::from_secs(3000));
    let report = run(scenario()
        .param("silence-timeout", "0s")
        .on_exec(SCRIPT, quiet));
    assert_eq!(report.exit_code, 0, "{}", report.log_text());
}

#[test]
fn every_scenario_file_passes_and_leaves_nothing_wherever_it_is_ended() {
    let scenarios = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/build.yaml");
    let runs = BUILD.passes(&scenarios);
    assert!(runs > 200, "only {runs} runs");
}

#[test]
fn the_examples_of_the_page_about_tests_pass() {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../TESTING.md");
    let page = std::fs::read_to_string(page).unwrap();
    let examples: Vec<&str> = page
        .split("```yaml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert!(examples.len() >= 2);
    let scratch = tempfile::tempdir().unwrap();
    for example in examples {
        let file = scratch.path().join("example.yaml");
        std::fs::write(&file, example).unwrap();
        BUILD.passes(&file);
    }
}
