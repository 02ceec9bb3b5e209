//! The policy under the production host code, with a scripted cluster and a virtual clock.

#![allow(missing_docs, clippy::unwrap_used)]

use plugin_testkit::{Failure, Outcome, PluginUnderTest, Report, Scenario};

fn run(scenario: Scenario) -> Report {
    PluginUnderTest::bundled("init").run(scenario.param("base-image", "sonoma.orkasi"))
}

#[test]
fn leaves_a_vm_config_and_says_so_in_both_ways() {
    let report = run(Scenario::new());
    assert_eq!(report.outcome, Outcome::Succeeded, "{}", report.log_text());
    assert_eq!(
        report.calls,
        ["sign-in", "stored-configs", "store-config", "sign-out"]
    );
    let [config] = &report.left_on_the_cluster[..] else {
        panic!("{:?}", report.left_on_the_cluster);
    };
    let text = &report.results["vm-config"];
    assert!(text.contains(config), "{text}");
    let handoff = report
        .workspace
        .iter()
        .find(|(path, _)| path.ends_with("handoff-vm-config"));
    assert_eq!(handoff.unwrap().1, text.as_bytes());
}

#[test]
fn needs_no_workspace() {
    let report = run(Scenario::new().without_workspace());
    assert_eq!(report.outcome, Outcome::Succeeded, "{}", report.log_text());
    assert!(report.results.contains_key("vm-config"));
}

#[test]
fn stores_a_vm_config_on_orka_3_too_and_hands_the_shape_over() {
    let report = run(Scenario::new().on_orka3().param("cpu-count", "4"));
    assert_eq!(report.outcome, Outcome::Succeeded, "{}", report.log_text());
    assert_eq!(report.left_on_the_cluster.len(), 1);
    let text = &report.results["vm-config"];
    for part in ["\"orka\":3", "\"image\":\"sonoma.orkasi\"", "\"cpu\":4"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn an_account_without_rights_to_vm_configs_is_told_what_other_tasks_need() {
    let failure = Failure::denied("orka.forbidden", "vmconfigs is forbidden");
    for call in ["stored-configs", "store-config"] {
        let report = run(Scenario::new().on_orka3().fails(call, 0, failure.clone()));
        assert_eq!(report.outcome, Outcome::Succeeded, "{}", report.log_text());
        assert!(report.left_on_the_cluster.is_empty());
        assert!(report.results.contains_key("vm-config"));
        assert!(
            report.log_text().contains("need the result `vm-config`"),
            "{}",
            report.log_text()
        );
    }
}
