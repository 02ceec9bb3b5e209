//! The policy under the production host code, with a scripted cluster and a virtual clock.

#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::LazyLock;
use std::time::Duration;

use plugin_testkit::{
    Class, ExecReply, Failure, Kind, Outcome, PluginUnderTest, Report, Scenario, StopSignal,
};

static PLUGIN: LazyLock<PluginUnderTest> =
    LazyLock::new(|| PluginUnderTest::bundled("retry-elsewhere"));

const SCRIPT: &str = "../build-script";

fn scenario() -> Scenario {
    Scenario::new()
        .images(&["sonoma.orkasi", "ventura.orkasi"])
        .param("base-image", "sonoma.orkasi")
        .param("script", "make ipa\n")
        .param(
            "alternatives",
            "node=mini-2\nbase-image=ventura.orkasi,tag=m2,node=\ncpu-count=6",
        )
}

fn run(scenario: Scenario) -> Report {
    let report = PLUGIN.run(scenario);
    assert!(
        report.left_on_the_cluster.is_empty(),
        "left: {:?}",
        report.left_on_the_cluster
    );
    report
}

fn failing(kind: Kind) -> Failure {
    let (class, code, message) = match kind {
        Kind::NoCapacity => (Class::NoCapacity, "orka.no-capacity", "no node has room"),
        Kind::NotFound => (Class::Orka, "orka.not-found", "there is no such image"),
        Kind::Invalid => (Class::Config, "orka.invalid", "the node refused"),
        Kind::TimedOut => (Class::Ssh, "ssh.refused", "not ready for SSH in time"),
        Kind::Unauthenticated => (Class::Ssh, "ssh.authentication-declined", "declined"),
        Kind::Denied => (Class::Denied, "grant.images", "the image is not granted"),
        _ => (Class::Orka, "orka.server-error", "the API is out of order"),
    };
    Failure::new(kind, class, code, message)
}

fn count(report: &Report, call: &str) -> usize {
    report.calls.iter().filter(|seen| *seen == call).count()
}

#[test]
fn builds_at_the_first_place_where_a_vm_comes_up() {
    let report = run(scenario().on_exec(SCRIPT, ExecReply::exit(0)));
    assert_eq!(
        (report.outcome, report.exit_code),
        (Outcome::Succeeded, 0),
        "{}",
        report.log_text()
    );
    assert_eq!(report.nodes, [None]);
    assert_eq!(report.results["built-on"], "sonoma.orkasi, 3 cores");
}

#[test]
fn goes_to_the_next_place_in_order_for_whatever_keeps_a_vm_from_coming_up_and_says_why() {
    for (call, kind) in [
        ("create-config", Kind::Invalid),
        ("create-config", Kind::Unavailable),
        ("deploy", Kind::NoCapacity),
        ("deploy", Kind::NotFound),
        ("deploy", Kind::Invalid),
        ("deploy", Kind::Unavailable),
        ("connect", Kind::TimedOut),
    ] {
        let failure = failing(kind);
        let reason = failure.message.clone();
        let report = run(scenario()
            .fails(call, 1, failure.clone())
            .fails(call, 2, failure)
            .on_exec(SCRIPT, ExecReply::exit(0)));
        let log = report.log_text();
        assert_eq!(report.exit_code, 0, "{call} {kind:?}: {log}");
        assert_eq!(
            report.results["built-on"], "ventura.orkasi, 3 cores, tag m2",
            "{log}"
        );
        for told in [
            format!(
                "warning: no VM on `sonoma.orkasi, 3 cores`: {reason}; going to `sonoma.orkasi, 3 cores, node mini-2`"
            ),
            format!(
                "warning: no VM on `sonoma.orkasi, 3 cores, node mini-2`: {reason}; going to `ventura.orkasi, 3 cores, tag m2`"
            ),
        ] {
            assert!(log.contains(&told), "{told}\n{log}");
        }
    }
}

#[test]
fn asks_for_what_each_alternative_says() {
    let full = failing(Kind::NoCapacity);
    let report = run(scenario()
        .fails("deploy", 1, full.clone())
        .fails("deploy", 2, full.clone())
        .fails("deploy", 3, full)
        .on_exec(SCRIPT, ExecReply::exit(0)));
    assert_eq!(
        report.results["built-on"], "sonoma.orkasi, 6 cores",
        "an alternative differs from the parameters, not from the one before it"
    );
    assert_eq!(count(&report, "create-config"), 4);
    assert_eq!(count(&report, "purge"), 4);
}

#[test]
fn gives_up_as_the_last_place_failed_with_all_places_and_their_reasons() {
    let report = run(scenario()
        .fails("deploy", 1, failing(Kind::NoCapacity))
        .fails("deploy", 2, failing(Kind::Invalid))
        .fails("deploy", 3, failing(Kind::NotFound))
        .fails("deploy", 4, failing(Kind::Unavailable)));
    assert_eq!(
        (report.outcome, report.exit_code, report.code()),
        (Outcome::InfraFailed, 214, "orka.server-error"),
        "{}",
        report.log_text()
    );
    assert_eq!(
        report.message(),
        "no VM came up; `sonoma.orkasi, 3 cores`: no node has room; \
         `sonoma.orkasi, 3 cores, node mini-2`: the node refused; \
         `ventura.orkasi, 3 cores, tag m2`: there is no such image; \
         `sonoma.orkasi, 6 cores`: the API is out of order"
    );
    assert!(!report.results.contains_key("built-on"));
}

#[test]
fn wrong_rights_and_credentials_are_wrong_everywhere() {
    for (call, kind) in [
        ("deploy", Kind::Denied),
        ("deploy", Kind::Unauthenticated),
        ("connect", Kind::Unauthenticated),
    ] {
        let report = run(scenario().fails(call, 1, failing(kind)));
        assert_ne!(report.exit_code, 0);
        assert_eq!(
            report.nodes.len().max(count(&report, "deploy")),
            1,
            "{call} {kind:?}"
        );
        assert_eq!(report.message(), failing(kind).message);
    }
    let report = run(scenario()
        .fails("deploy", 1, failing(Kind::NoCapacity))
        .fails("connect", 1, failing(Kind::Unauthenticated)));
    assert_eq!(report.code(), "ssh.authentication-declined");
    assert!(
        report.message().contains("no node has room"),
        "what came before is told too: {}",
        report.message()
    );
}

#[test]
fn a_script_that_has_begun_is_never_run_again() {
    for (reply, exit_code) in [
        (ExecReply::lost(), 216),
        (ExecReply::exit(1), 1),
        (ExecReply::signal("KILL"), 137),
    ] {
        let report = run(scenario().on_exec(SCRIPT, reply));
        assert_eq!(report.exit_code, exit_code, "{}", report.log_text());
        assert_eq!(count(&report, "deploy"), 1);
        assert_eq!(count(&report, "exec ../build-script"), 1);
    }
    // Nor is what comes before it a reason: the VM is up then.
    let report = run(scenario().fails("upload", 1, failing(Kind::Unavailable)));
    assert_eq!(count(&report, "deploy"), 1);
}

#[test]
fn waits_for_room_and_tries_so_many_vms_at_each_place() {
    let report =
        run(scenario()
            .param("capacity-wait", "10m")
            .fails("deploy", 0, failing(Kind::NoCapacity)));
    assert_eq!(report.exit_code, 215, "{}", report.log_text());
    let minutes = report.elapsed.as_secs() / 60;
    assert!((36..44).contains(&minutes), "{minutes} min");

    let report =
        run(scenario()
            .param("deploy-attempts", "2")
            .fails("connect", 0, failing(Kind::TimedOut)));
    assert_eq!((report.exit_code, count(&report, "deploy")), (216, 8));
}

#[test]
fn a_purge_that_fails_in_between_does_not_end_the_build() {
    let report = PLUGIN.run(
        scenario()
            .fails("deploy", 1, failing(Kind::NoCapacity))
            .fails("purge", 0, failing(Kind::Unavailable))
            .on_exec(SCRIPT, ExecReply::exit(0)),
    );
    assert_eq!(report.results["exit-status"], "0", "{}", report.log_text());
    // The host could not delete them either, and names them.
    assert_eq!(
        (report.exit_code, report.left_on_the_cluster.len()),
        (219, 2)
    );
}

#[test]
fn a_cancelled_run_goes_nowhere() {
    let report = run(scenario()
        .boot_time(Duration::from_secs(3000))
        .stopped_after(Duration::from_secs(60), StopSignal::Terminate));
    assert_eq!(
        (report.outcome, report.exit_code, count(&report, "deploy")),
        (Outcome::Cancelled, 143, 1),
        "{}",
        report.log_text()
    );
}

#[test]
fn wrong_alternatives_are_told_before_anything_is_sent() {
    for (alternatives, problem) in [
        ("", "alternatives"),
        (
            "ventura.orkasi",
            "parameter `alternatives` needs NAME=VALUE",
        ),
        ("tag=m2\nimage=x", "parameter `alternatives` has `image`"),
        ("cpu-count=0", "parameter `alternatives` has a `cpu-count`"),
    ] {
        let report = run(scenario().param("alternatives", alternatives));
        assert_eq!(
            report.exit_code,
            211,
            "{alternatives}: {}",
            report.log_text()
        );
        assert!(
            report.log_text().contains(problem),
            "{problem}: {}",
            report.log_text()
        );
        assert!(report.calls.is_empty(), "{:?}", report.calls);
    }
}

#[test]
fn every_scenario_file_passes_and_leaves_nothing_wherever_it_is_ended() {
    let scenarios =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/retry-elsewhere.yaml");
    let runs = PLUGIN.passes(&scenarios);
    assert!(runs > 100, "only {runs} runs");
}
