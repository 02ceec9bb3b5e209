//! The policy under the production host code, with a scripted cluster and a virtual clock.

#![allow(missing_docs, clippy::unwrap_used)]

use plugin_testkit::{Class, Failure, Kind, Outcome, PluginUnderTest, Scenario};

#[test]
fn succeeds_where_there_is_nothing_after_looking_for_what_comes_late() {
    for scenario in [
        Scenario::new(),
        Scenario::new().on_orka3().without_workspace(),
    ] {
        let report = PluginUnderTest::bundled("teardown").run(scenario);
        assert_eq!(report.outcome, Outcome::Succeeded, "{}", report.log_text());
        let looks = report.calls.iter().filter(|call| *call == "list").count();
        assert!(looks > 1, "{:?}", report.calls);
        assert!(report.log_text().contains("nothing of this run was left"));
    }
}

#[test]
fn a_cluster_that_cannot_be_listed_is_a_failure_of_orka() {
    let failure = Failure::new(
        Kind::Unavailable,
        Class::Orka,
        "orka.server-error",
        "out of order",
    );
    let report =
        PluginUnderTest::bundled("teardown").run(Scenario::new().fails("list", 1, failure));
    assert_eq!(
        (report.outcome, report.exit_code),
        (Outcome::InfraFailed, 214),
        "{}",
        report.log_text()
    );
}
