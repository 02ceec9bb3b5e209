//! The policy under the production host code, with a scripted cluster and a virtual clock.

#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::LazyLock;
use std::time::Duration;

use plugin_testkit::{
    Class, ExecReply, Failure, Kind, Limits, Outcome, PluginUnderTest, Report, Scenario, StopSignal,
};

static PLUGIN: LazyLock<PluginUnderTest> = LazyLock::new(|| PluginUnderTest::bundled("matrix"));

const SCRIPT: &str = "../build-script";

/// From the deployment until SSH answers.
const COMES_UP: u64 = 5 + 20;

/// Those of the tests.
const IMAGES: [&str; 4] = ["sonoma.orkasi", "ventura.orkasi", "x", "y"];

fn with(cells: &str) -> Scenario {
    Scenario::new()
        .images(&IMAGES)
        .param("script", "make test\n")
        .param("cells", cells)
}

fn three() -> Scenario {
    with("a=sonoma.orkasi\nb=ventura.orkasi\nc=sonoma.orkasi,cpu-count=12,tag=m2")
}

fn run(scenario: Scenario) -> Report {
    let report = PLUGIN.run(scenario);
    assert!(
        report.left_on_the_cluster.is_empty(),
        "left: {:?}\n{}",
        report.left_on_the_cluster,
        report.log_text()
    );
    report
}

fn minutes(count: u64) -> Duration {
    Duration::from_secs(60 * count)
}

fn full() -> Failure {
    Failure::new(
        Kind::NoCapacity,
        Class::NoCapacity,
        "orka.no-capacity",
        "no node has room",
    )
}

fn not_up() -> Failure {
    Failure::new(
        Kind::TimedOut,
        Class::Ssh,
        "ssh.refused",
        "not ready for SSH in time",
    )
}

fn count(report: &Report, call: &str) -> usize {
    report.calls.iter().filter(|seen| *seen == call).count()
}

/// The rows of the table, without the blanks in between.
fn table(report: &Report) -> Vec<String> {
    let mut lines = report
        .log
        .iter()
        .skip_while(|line| !line.ends_with("cells succeeded"));
    let heading = lines.next().unwrap().clone();
    let rows = lines.take_while(|line| line.starts_with("  "));
    let squeezed = rows.map(|row| row.split_whitespace().collect::<Vec<_>>().join(" "));
    std::iter::once(heading).chain(squeezed).collect()
}

#[test]
fn all_cells_work_side_by_side_and_the_table_tells_of_each() {
    let report = run(three()
        .on_exec(SCRIPT, ExecReply::exit(0).after(minutes(10)))
        .on_exec(SCRIPT, ExecReply::exit(0).after(minutes(12)))
        .on_exec(SCRIPT, ExecReply::exit(0).after(minutes(11))));
    let log = report.log_text();
    assert_eq!(
        (report.outcome, report.exit_code),
        (Outcome::Succeeded, 0),
        "{log}"
    );
    // As long as the longest, not as all of them.
    assert_eq!(report.elapsed.as_secs(), COMES_UP + 12 * 60, "{log}");
    assert_eq!(
        table(&report),
        [
            "3 of 3 cells succeeded",
            "a 10 min 25 s sonoma.orkasi, 3 cores succeeded",
            "b 12 min 25 s ventura.orkasi, 3 cores succeeded",
            "c 11 min 25 s sonoma.orkasi, 12 cores, tag m2 succeeded",
        ],
        "{log}"
    );
    assert_eq!(report.results["matrix"], r#"{"a":0,"b":0,"c":0}"#);
    assert_eq!(report.results["exit-status"], "0");
    assert_eq!(count(&report, "purge"), 3);
    assert_eq!(report.calls.last().unwrap(), "sign-out");
}

#[test]
fn the_first_cell_of_the_list_that_failed_gives_the_status_whenever_the_others_ended() {
    let report = run(three()
        .on_exec(SCRIPT, ExecReply::exit(0).after(minutes(3)))
        .on_exec(SCRIPT, ExecReply::exit(65).after(minutes(2)))
        .on_exec(SCRIPT, ExecReply::exit(1).after(minutes(1))));
    assert_eq!(
        (report.outcome, report.exit_code),
        (Outcome::BuildFailed, 65),
        "{}",
        report.log_text()
    );
    assert_eq!(report.results["matrix"], r#"{"a":0,"b":65,"c":1}"#);
    assert_eq!(report.results["exit-status"], "65");
    assert!(
        table(&report)[2].ends_with("failed: the script exited with status 65"),
        "{:?}",
        table(&report)
    );
}

#[test]
fn a_cell_whose_vm_does_not_come_up_fails_alone_and_leaves_no_status_of_another() {
    let report = run(three()
        .fails("connect", 1, not_up())
        .on_exec(SCRIPT, ExecReply::exit(0)));
    assert_eq!(
        (report.outcome, report.exit_code, report.code()),
        (Outcome::InfraFailed, 216, "ssh.refused"),
        "{}",
        report.log_text()
    );
    assert_eq!(report.message(), "cell `a`: not ready for SSH in time");
    assert_eq!(
        report.results["matrix"],
        r#"{"a":"ssh.refused","b":0,"c":0}"#
    );
    assert!(
        !report.results.contains_key("exit-status"),
        "no status is that of the run: {:?}",
        report.results
    );
}

#[test]
fn every_line_of_a_script_and_every_phase_says_which_cell_it_is_of() {
    let report = run(with("a=x\nlonger=y")
        .on_exec(
            SCRIPT,
            ExecReply::exit(0).stdout("one\ntwo\n").stderr("half"),
        )
        .on_exec(SCRIPT, ExecReply::exit(0).stdout("other\n")));
    for line in ["[a] one", "[a] two", "[a] half", "[longer] other"] {
        assert!(
            report.log.iter().any(|seen| seen == line),
            "{line}\n{}",
            report.log_text()
        );
    }
    let mut of_a: Vec<_> = (report.phases.iter())
        .filter_map(|phase| phase.title.strip_prefix("[a] "))
        .collect();
    of_a.dedup();
    assert_eq!(
        of_a,
        [
            "deploy VM",
            "wait for SSH",
            "copy in",
            "run script",
            "purge VM"
        ]
    );
}

#[test]
fn artifacts_of_each_cell_come_into_a_directory_of_its_own() {
    let report = run(with("a=x\nb=y")
        .param("artifacts", "out/*.xml")
        .param("artifacts-when", "always")
        .file("main.c", "int main(void) {}")
        .on_exec(
            SCRIPT,
            ExecReply::exit(0).writes("workspace/orka/out/report.xml", "<a/>"),
        )
        .on_exec(SCRIPT, ExecReply::exit(1)));
    assert_eq!(report.exit_code, 1, "{}", report.log_text());
    // The scripted VMs share their files; what matters is where they come to.
    let files = report.workspace.keys().map(String::as_str);
    let files: Vec<_> = files
        .filter(|file| !file.starts_with(".orka-step"))
        .collect();
    assert_eq!(files, ["a/out/report.xml", "b/out/report.xml", "main.c"]);
    assert!(report.vm_files.contains_key("workspace/orka/main.c"));
}

#[test]
fn missing_artifacts_fail_a_good_cell_and_are_a_warning_of_a_failed_one() {
    let report = run(with("a=x")
        .param("artifacts", "*.xml")
        .on_exec(SCRIPT, ExecReply::exit(0)));
    assert_eq!(
        (report.exit_code, report.code()),
        (217, "files.nothing-matched"),
        "{}",
        report.log_text()
    );
    let report = run(with("a=x")
        .param("artifacts", "*.xml")
        .param("artifacts-when", "always")
        .on_exec(SCRIPT, ExecReply::exit(65)));
    assert_eq!(report.exit_code, 65, "{}", report.log_text());
}

#[test]
fn so_many_have_a_vm_at_once_and_no_more() {
    let report = run(three()
        .param("max-parallel", "2")
        .on_exec(SCRIPT, ExecReply::exit(0).after(minutes(10))));
    assert_eq!(
        report.elapsed.as_secs(),
        2 * (COMES_UP + 600),
        "{}",
        report.log_text()
    );
    let report = run(three()
        .param("max-parallel", "1")
        .on_exec(SCRIPT, ExecReply::exit(0).after(minutes(10))));
    assert_eq!(report.elapsed.as_secs(), 3 * (COMES_UP + 600));
}

#[test]
fn a_cell_without_room_waits_for_that_of_another_and_none_is_lost() {
    let report = run(three()
        .fails("deploy", 2, full())
        .fails("deploy", 3, full())
        .on_exec(SCRIPT, ExecReply::exit(0).after(minutes(10))));
    let log = report.log_text();
    assert_eq!(report.exit_code, 0, "{log}");
    assert_eq!(report.results["matrix"], r#"{"a":0,"b":0,"c":0}"#);
    assert!(
        log.contains("no node has room; waiting for the room of another cell"),
        "{log}"
    );
    assert_eq!(report.elapsed.as_secs(), 2 * (COMES_UP + 600), "{log}");
}

#[test]
fn without_a_vm_of_its_own_it_waits_only_as_long_as_it_is_told() {
    let report = run(three().fails("deploy", 0, full()));
    assert_eq!(
        (report.outcome, report.exit_code),
        (Outcome::NoCapacity, 215),
        "{}",
        report.log_text()
    );
    assert!(report.elapsed < minutes(1), "{:?}", report.elapsed);
    let report = run(with("a=x")
        .param("capacity-wait", "10m")
        .fails("deploy", 1, full())
        .on_exec(SCRIPT, ExecReply::exit(0)));
    assert_eq!(report.exit_code, 0, "{}", report.log_text());
}

#[test]
fn fail_fast_ends_the_others_and_their_vms() {
    let report = run(three()
        .param("fail-fast", "true")
        .param("max-parallel", "2")
        .on_exec(SCRIPT, ExecReply::exit(0).after(minutes(30)))
        .on_exec(SCRIPT, ExecReply::exit(65).after(minutes(5))));
    let log = report.log_text();
    assert_eq!(
        (report.outcome, report.exit_code),
        (Outcome::BuildFailed, 65),
        "{log}"
    );
    assert_eq!(
        report.results["matrix"],
        r#"{"a":"cancelled","b":65,"c":"cancelled"}"#
    );
    assert!(
        report.elapsed.as_secs().abs_diff(COMES_UP + 300) <= 2,
        "{log}"
    );
    // Once by the policy; the host asks as well at the end, since scripted programs heed nothing.
    assert!(count(&report, "signal TERM") >= 1, "{log}");
    assert_eq!(count(&report, "deploy"), 2, "the third never began");
    assert!(
        log.contains("[b] failed; the other cells are cancelled"),
        "{log}"
    );
}

#[test]
fn fail_fast_leaves_nothing_of_a_deployment_under_way() {
    // While the second and third are deployed the first is refused.
    let refused = Failure::new(
        Kind::Invalid,
        Class::Config,
        "orka.invalid",
        "no such image",
    );
    for orka3 in [false, true] {
        let scenario = three()
            .param("fail-fast", "true")
            .fails("deploy", 1, refused.clone());
        let report = run(if orka3 { scenario.on_orka3() } else { scenario });
        assert_eq!(report.code(), "orka.invalid", "{}", report.log_text());
        assert!(report.elapsed < minutes(1), "{:?}", report.elapsed);
    }
}

#[test]
fn the_result_fits_however_many_cells_there_are() {
    let cells: Vec<String> = (0..16)
        .map(|number| format!("a-rather-long-name-of-a-cell-{number}=x"))
        .collect();
    let all = || with(&cells.join("\n"));
    let report = run(all()
        .on_exec(SCRIPT, ExecReply::exit(7))
        .on_exec(SCRIPT, ExecReply::exit(0)));
    assert_eq!(report.exit_code, 7, "{}", report.log_text());
    assert_eq!(
        report.results["matrix"],
        r#"{"succeeded":15,"cancelled":0,"failed":{"a-rather-long-name-of-a-cell-0":7}}"#
    );
    let report = run(all().on_exec(SCRIPT, ExecReply::exit(7)));
    assert_eq!(
        report.results["matrix"],
        r#"{"succeeded":0,"cancelled":0,"failed":16}"#
    );
    assert_eq!(table(&report).len(), 17);
}

#[test]
fn images_and_configurations_are_combined() {
    let report = run(Scenario::new()
        .images(&IMAGES)
        .param("script", "make test\n")
        .param("images", "sonoma.orkasi\nventura.orkasi")
        .param("cpu-counts", "4\n8")
        .on_exec(SCRIPT, ExecReply::exit(0)));
    assert_eq!(
        report.results["matrix"],
        r#"{"sonoma-4cpu":0,"sonoma-8cpu":0,"ventura-4cpu":0,"ventura-8cpu":0}"#,
        "{}",
        report.log_text()
    );
}

#[test]
fn a_stopped_run_copies_back_what_there_is_of_every_cell() {
    let report = run(with("a=x\nb=y")
        .param("artifacts", "*.log")
        .param("artifacts-when", "always")
        .file("a.log", "why")
        .on_exec(SCRIPT, ExecReply::never_ends())
        .stopped_after(Duration::from_secs(60), StopSignal::Terminate));
    let log = report.log_text();
    assert_eq!(
        (report.outcome, report.exit_code),
        (Outcome::Cancelled, 143),
        "{log}"
    );
    assert!(
        report.elapsed < Duration::from_secs(85),
        "{:?}",
        report.elapsed
    );
    for file in ["a/a.log", "b/a.log"] {
        assert!(report.workspace.contains_key(file), "{file}\n{log}");
    }
}

#[test]
fn wrong_parameters_are_told_before_anything_is_sent() {
    for (scenario, problem) in [
        (with(""), "parameter `cells` is empty"),
        (
            with("a"),
            "parameter `cells` needs lines of the form NAME=IMAGE",
        ),
        (with("a=x\na=y"), "parameter `cells` has two cells `a`"),
        (with("a/b=x"), "parameter `cells` has a cell `a/b`"),
        (with("a=x,cores=2"), "parameter `cells` `a` has `cores`"),
        (with("a=x").param("images", "x"), "is given beside `images`"),
        (
            with("").param("cpu-counts", "4"),
            "parameter `images` is empty",
        ),
        (with("a=x").param("max-parallel", "0"), "max-parallel"),
        (Scenario::new().param("cells", "a=x"), "`script` is missing"),
    ] {
        let report = run(scenario);
        assert_eq!(report.exit_code, 211, "{problem}: {}", report.log_text());
        assert!(
            report.log_text().contains(problem),
            "{problem}: {}",
            report.log_text()
        );
        assert!(report.calls.is_empty(), "{:?}", report.calls);
    }
}

#[test]
fn an_image_that_is_not_there_is_told_before_there_is_a_vm_of_another() {
    let report = run(with("a=x\nb=nope\nc=ghcr.io/org/sonoma:14"));
    let log = report.log_text();
    assert_eq!(report.exit_code, 211, "{log}");
    let problem = "parameter `cells` names what is no image of the cluster: `nope`";
    assert!(log.contains(problem), "{log}");
    assert!(log.contains("the cluster has `sonoma.orkasi`, "), "{log}");
    assert!(
        !report.calls.contains(&"create-config".to_owned()),
        "{:?}",
        report.calls
    );
}

#[test]
fn a_list_without_an_image_tells_nothing() {
    let report = run(three().images(&[]).on_exec(SCRIPT, ExecReply::exit(0)));
    let log = report.log_text();
    assert!(
        log.contains("could not be checked: the list is empty"),
        "{log}"
    );
    assert!(!log.contains("names what is no image"), "{log}");
}

#[test]
fn of_many_images_the_nearest_is_named_or_some() {
    let many: Vec<String> = (0..20).map(|number| format!("image-{number}")).collect();
    let mut many: Vec<&str> = many.iter().map(String::as_str).collect();
    many.push("sonoma.orkasi");
    for (cells, hint) in [
        (
            "a=sonoma.orkasi\nb=sonma.orkasi",
            "did you mean `sonoma.orkasi`?",
        ),
        ("a=sonoma.orkasi\nb=elsewhere", "`image-7` and 13 more"),
    ] {
        let report = run(with(cells).images(&many));
        let log = report.log_text();
        assert!(log.contains(hint), "{log}");
    }
}

/// An account may have no right to the list.
#[test]
fn a_list_of_images_that_cannot_be_had_keeps_nobody_from_building() {
    let denied = Failure::new(
        Kind::Denied,
        Class::Orka,
        "orka.forbidden",
        "no right to list",
    );
    let report = run(three()
        .fails("images", 0, denied)
        .on_exec(SCRIPT, ExecReply::exit(0)));
    assert_eq!(report.exit_code, 0, "{}", report.log_text());
    assert!(
        report
            .log_text()
            .contains("could not be checked: no right to list")
    );
}

#[test]
fn fits_into_a_small_sandbox() {
    let limits = Limits {
        memory_bytes: 4 * 1024 * 1024,
        host_calls: 500,
        ..Limits::default()
    };
    let report = run(three().limits(limits).on_exec(SCRIPT, ExecReply::exit(0)));
    assert_eq!(report.exit_code, 0, "{}", report.log_text());
}

#[test]
fn every_scenario_file_passes_and_leaves_nothing_wherever_it_is_ended() {
    let scenarios = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/matrix.yaml");
    let runs = PLUGIN.passes(&scenarios);
    assert!(runs > 200, "only {runs} runs");
}
