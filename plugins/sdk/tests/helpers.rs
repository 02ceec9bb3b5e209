//! The helpers under the production host code, called by the guest `helpers` on a virtual clock.

#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::LazyLock;
use std::time::Duration;

use plugin_testkit::{
    Class, ExecReply, Failure, Kind, Outcome, PluginUnderTest, Report, Scenario, StopSignal,
    target_directory,
};

static HELPERS: LazyLock<PluginUnderTest> =
    LazyLock::new(|| PluginUnderTest::load(&target_directory().join("guests/helpers.wasm")));

fn using(helper: &str) -> Scenario {
    Scenario::new()
        .images(&["Sonoma.orkasi"])
        .param("helper", helper)
}

fn failure(kind: Kind, is_retryable: bool) -> Failure {
    Failure::new(kind, Class::Orka, "orka.test", "the API is out of order").retryable(is_retryable)
}

fn calls(report: &Report, name: &str) -> usize {
    report.calls.iter().filter(|call| *call == name).count()
}

#[test]
fn retries_what_may_pass_with_growing_pauses_of_the_hosts_clock() {
    let passing = failure(Kind::Unavailable, true);
    let report = HELPERS.run(
        using("retry")
            .fails("sign-in", 1, passing.clone())
            .fails("sign-in", 2, passing),
    );
    assert_eq!(report.outcome, Outcome::Succeeded, "{}", report.log_text());
    assert_eq!(calls(&report, "sign-in"), 3);
    // The upper halves of 10 s and of 15 s, which is less than twice 10 s.
    let seconds = report.elapsed.as_secs_f64();
    assert!((12.5..=25.1).contains(&seconds), "{seconds}");
    let told = "warning: signing in: the API is out of order; attempt 3 of 4 in ";
    assert!(report.log_text().contains(told), "{}", report.log_text());
}

#[test]
fn gives_up_with_the_last_error_after_the_last_attempt() {
    let report = HELPERS.run(using("retry").fails("sign-in", 0, failure(Kind::Unavailable, true)));
    assert_eq!((report.exit_code, report.code()), (214, "orka.test"));
    assert_eq!(calls(&report, "sign-in"), 4);
}

#[test]
fn tries_again_only_after_the_errors_that_are_worth_it() {
    let lasting = failure(Kind::Unavailable, false);
    let report = HELPERS.run(using("retry").fails("sign-in", 1, lasting));
    assert_eq!((report.exit_code, calls(&report, "sign-in")), (214, 1));

    let full = failure(Kind::NoCapacity, false);
    let report = HELPERS.run(using("retry-when-full").fails("deploy", 1, full));
    assert_eq!(report.outcome, Outcome::Succeeded, "{}", report.log_text());
    let passing = failure(Kind::Unavailable, true);
    let report = HELPERS.run(using("retry-when-full").fails("deploy", 1, passing));
    assert_eq!((report.exit_code, calls(&report, "deploy")), (214, 1));
}

#[test]
fn a_stopped_run_ends_the_pause_and_a_pause_beyond_the_deadline_is_not_begun() {
    let passing = failure(Kind::Unavailable, true);
    let report = HELPERS.run(
        using("retry")
            .fails("sign-in", 0, passing.clone())
            .stopped_after(Duration::from_secs(2), StopSignal::Terminate),
    );
    assert_eq!(
        (report.outcome, calls(&report, "sign-in")),
        (Outcome::Cancelled, 1)
    );
    let report = HELPERS.run(
        using("retry")
            .fails("sign-in", 0, passing)
            .timeout(Duration::from_secs(4)),
    );
    assert_eq!((report.exit_code, calls(&report, "sign-in")), (214, 1));
    assert!(
        report.elapsed < Duration::from_secs(1),
        "{:?}",
        report.elapsed
    );
}

#[test]
fn a_vm_lasts_as_long_as_the_work_in_it() {
    for (status, exit_code) in [(0, 0), (65, 65)] {
        let report = HELPERS.run(using("with-vm").on_exec("make", ExecReply::exit(status)));
        assert_eq!(report.exit_code, exit_code, "{}", report.log_text());
        let expected = [
            "sign-in",
            "create-config",
            "deploy",
            "connect",
            "exec make",
            "purge",
        ];
        assert_eq!(report.calls[..6], expected);
        assert!(report.left_on_the_cluster.is_empty());
    }
}

#[test]
fn the_vm_is_purged_also_after_an_error_and_both_are_told() {
    let failing = || using("with-vm").param("work", "fail");
    let report = HELPERS.run(failing());
    assert_eq!((report.exit_code, report.code()), (213, "helpers.told-to"));
    assert_eq!(calls(&report, "purge"), 1);

    let broken = failure(Kind::Unavailable, true);
    let report = HELPERS.run(failing().fails("purge", 0, broken));
    assert_eq!((report.exit_code, report.code()), (213, "helpers.told-to"));
    let log = report.log_text();
    let warning = log.lines().find(|line| line.starts_with("warning: "));
    assert!(
        warning.is_some_and(|line| line.contains("out of order")),
        "{log}"
    );
    assert_eq!(report.left_on_the_cluster.len(), 1);
}

#[test]
fn a_purge_that_fails_alone_does_not_hide_how_the_work_ended() {
    let broken = failure(Kind::Unavailable, true);
    let report = HELPERS.run(
        using("with-vm")
            .on_exec("make", ExecReply::exit(65))
            .fails("purge", 0, broken),
    );
    assert_eq!(
        (report.outcome, report.exit_code),
        (Outcome::BuildFailed, 65),
        "{}",
        report.log_text()
    );
    assert_eq!(report.left_on_the_cluster.len(), 1);
}

#[test]
fn a_vm_that_does_not_come_up_is_purged_and_one_that_is_kept_stays() {
    let slow = failure(Kind::TimedOut, false);
    let report = HELPERS.run(using("with-vm").fails("connect", 1, slow));
    assert_eq!((report.exit_code, calls(&report, "purge")), (214, 1));
    assert!(report.left_on_the_cluster.is_empty());

    let report = HELPERS.run(
        using("with-vm")
            .param("work", "keep")
            .on_exec("make", ExecReply::exit(0)),
    );
    assert_eq!(report.exit_code, 0, "{}", report.log_text());
    assert_eq!(report.left_on_the_cluster.len(), 1);
}

#[test]
fn in_a_stopped_run_the_deletion_is_the_hosts() {
    let report = HELPERS.run(
        using("with-vm")
            .on_exec("make", ExecReply::never_ends())
            .stopped_after(Duration::from_secs(60), StopSignal::Terminate),
    );
    assert_eq!(report.outcome, Outcome::Cancelled, "{}", report.log_text());
    assert!(
        !report.phases.iter().any(|phase| phase.title == "purge VM"),
        "{:?}",
        report.phases
    );
    assert!(report.left_on_the_cluster.is_empty());
}
