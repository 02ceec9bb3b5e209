//! The guard before the bundled plugin, under the production host code, with a scripted cluster and a virtual clock.

#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::LazyLock;

use plugin_testkit::{ExecReply, Outcome, PluginUnderTest, Report, Scenario};

static BUILD: LazyLock<PluginUnderTest> = LazyLock::new(|| PluginUnderTest::bundled("build"));

const RULES: &str = "# Our iOS builds.\nimage sonoma.orkasi\nimage ghcr.io/acme/ios-*\n\ncores orka-* 8\ncores - 6\n";

/// The guard as `cargo xtask plugins` built it.
fn guard() -> std::path::PathBuf {
    plugin_testkit::target_directory().join("plugins/allowed-vms.wasm")
}

fn run(image: &str, cores: &str, change: impl FnOnce(Scenario) -> Scenario) -> Report {
    let scenario = Scenario::new()
        .param("base-image", image)
        .param("cpu-count", cores)
        .param("script", "true\n")
        .on_exec("../build-script", ExecReply::exit(0));
    let report = BUILD.run(change(scenario));
    assert!(report.left_on_the_cluster.is_empty());
    report
}

fn guarded(scenario: Scenario) -> Scenario {
    scenario.guard(&guard(), RULES)
}

#[test]
fn an_image_on_the_list_passes_and_another_is_denied_by_name_before_anything_is_made() {
    let allowed = run("sonoma.orkasi", "6", guarded);
    assert_eq!(
        allowed.outcome,
        Outcome::Succeeded,
        "{}",
        allowed.log_text()
    );
    // The VM is asked about twice, the programs once each.
    assert!(allowed.guards[0].allowed >= 3);
    assert!(allowed.guards[0].decisions.is_empty());
    let denied = run("monterey.img", "6", guarded);
    assert_eq!((denied.outcome, denied.exit_code), (Outcome::Denied, 212));
    assert_eq!(denied.code(), "guard.denied");
    assert!(
        denied.message().contains(
            "guard `allowed-vms` denied image `monterey.img`: image `monterey.img` is not on the list: sonoma.orkasi, ghcr.io/acme/ios-*"
        ),
        "{}",
        denied.message()
    );
    assert!(
        !denied.calls.iter().any(|call| call == "create-config"),
        "{:?}",
        denied.calls
    );
}

#[test]
fn a_pattern_ends_in_a_star_and_means_no_more_than_that() {
    let oci = |image| run(image, "3", |it| guarded(it.on_orka3())).outcome;
    assert_eq!(oci("ghcr.io/acme/ios-17:latest"), Outcome::Succeeded);
    assert_eq!(oci("ghcr.io/acme/android"), Outcome::Denied);
    assert_eq!(oci("sonoma.orkasi-not-ours"), Outcome::Denied);
}

#[test]
fn cores_above_the_ceiling_of_the_namespace_are_lowered_to_it_and_told() {
    let report = run("sonoma.orkasi", "12", |it| guarded(it.on_orka3()));
    assert_eq!(report.outcome, Outcome::Succeeded, "{}", report.log_text());
    assert!(
        report
            .log_text()
            .contains("guard `allowed-vms` changed image `sonoma.orkasi`: cpu-cores from 12 to 8"),
        "{}",
        report.log_text()
    );
    assert!(
        report
            .log_text()
            .contains("; the rule `cores orka-* 8` allows no more")
    );
    let decision = &report.guards[0].decisions[0];
    assert!(
        decision
            .changes
            .contains(&"cpu-cores from 12 to 8".to_owned())
    );
    // Orka 2 has no namespaces, and virtual CPUs that follow the cores.
    let report = run("sonoma.orkasi", "12", guarded);
    let log = report.log_text();
    assert!(log.contains("cpu-cores from 12 to 6"), "{log}");
}

#[test]
fn a_namespace_without_a_rule_has_no_ceiling() {
    let report = run("sonoma.orkasi", "12", |it| {
        it.on_orka3().guard(&guard(), "image *\ncores team-* 8\n")
    });
    assert_eq!(report.outcome, Outcome::Succeeded);
    assert!(report.guards[0].decisions.is_empty());
}

#[test]
fn a_guard_without_rules_and_rules_that_fit_nothing_are_told() {
    let bare = run("sonoma.orkasi", "3", |it| it.guard(&guard(), ""));
    assert_eq!((bare.outcome, bare.exit_code), (Outcome::Denied, 212));
    assert!(
        bare.message()
            .contains("no line `image PATTERN` of its rules"),
        "{}",
        bare.message()
    );
    // Orka 2 has no namespaces.
    let rules = "image *\ncores orka-default 8\n";
    let report = run("sonoma.orkasi", "12", |it| it.guard(&guard(), rules));
    assert_eq!(report.outcome, Outcome::Succeeded);
    let told = "guard `allowed-vms`: no `cores` rule fits namespace `-`";
    assert_eq!(
        report.log_text().matches(told).count(),
        1,
        "{}",
        report.log_text()
    );
}

/// The page says so: it is meant to be copied.
#[test]
fn it_is_a_guard_of_no_more_than_forty_lines() {
    let code = include_str!("../src/lib.rs").lines().map(str::trim);
    let lines = code.filter(|line| !line.is_empty() && !line.starts_with("//"));
    assert!(lines.count() <= 40);
}

#[test]
fn a_configuration_that_is_wrong_ends_the_run_before_it_begins() {
    for (rules, said) in [
        (
            "imgae sonoma.orkasi",
            "line 1: `imgae sonoma.orkasi`; a rule is `image PATTERN` or",
        ),
        (
            "image *\n\ncores team many",
            "line 3: `cores team many`; a rule is",
        ),
    ] {
        let report = run("sonoma.orkasi", "3", |it| it.guard(&guard(), rules));
        assert_eq!((report.outcome, report.exit_code), (Outcome::Denied, 212));
        assert!(
            report.message().contains("refuses its configuration")
                && report.message().contains(said),
            "{}",
            report.message()
        );
        assert!(report.calls.is_empty(), "{:?}", report.calls);
    }
}
