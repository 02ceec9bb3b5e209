//! What an author of plugins does: make a project, build it, test it, record a run and play it again.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use end_to_end::{
    Cluster, Ended, Step, Stream, bundled, guest, repository, target_directory, without,
};
use rustix::process::Signal;

/// Builds of other languages' tools, and a first build of the SDK.
const LONG: Duration = Duration::from_secs(280);

const SCENARIO: &str = "scenarios:
  - name: it builds
    params: { base-image: sonoma.orkasi, script: make ipa }
    programs: [{ run: ../build-script, after: 12m }]
";

/// `plugin test` of the bundled policy with this scenario file.
fn test_with(scenarios: &str) -> Step {
    let step = Step::new(&["plugin", "test"]);
    let file = step.scratch_file("scenarios.yaml", scenarios.as_bytes());
    step.flag("--plugin", bundled("build").to_str().unwrap())
        .argument(file)
}

fn said(ended: &Ended, code: i32, texts: &[&str]) {
    assert_eq!(ended.code, Some(code), "{ended}");
    let all = format!("{}{}", ended.stdout, ended.stderr);
    for text in texts {
        assert!(all.contains(text), "`{text}` is not said: {ended}");
    }
}

#[tokio::test]
async fn a_scenario_that_passes_exits_0_and_says_how_many() {
    let ended = test_with(SCENARIO).ended().await;
    said(
        &ended,
        0,
        &["ok   it builds", "1 passed, 0 failed (1 runs in "],
    );
}

#[tokio::test]
async fn scenarios_take_a_plugins_code_from_the_cache_as_runs_do() {
    let place = tempfile::tempdir().unwrap();
    let cache = place.path().join("cache");
    std::fs::create_dir(&cache).unwrap();
    let key = place.path().join("key");
    std::fs::write(&key, [7; 32]).unwrap();
    let with_cache = || {
        let step = test_with(SCENARIO).argument("-vv");
        step.flag("--plugin-cache", cache.to_str().unwrap())
            .flag("--plugin-cache-key", key.to_str().unwrap())
    };
    let compiled = "the plugin was compiled in ";
    said(&with_cache().ended().await, 0, &["1 passed", compiled]);
    let ended = with_cache().argument("--sweep").ended().await;
    said(&ended, 0, &["1 passed", "the plugin's code is from `"]);
    assert!(!ended.stderr.contains(compiled), "{ended}");
    // The key is what vouches for it.
    std::fs::write(&key, [8; 32]).unwrap();
    let ended = with_cache().ended().await;
    said(&ended, 0, &["1 passed", "is not used: ", compiled]);
    let keyless = test_with(SCENARIO).flag("--plugin-cache", cache.to_str().unwrap());
    let ended = keyless.ended().await;
    said(&ended, 211, &["`--plugin-cache` is given without its key"]);
}

#[tokio::test]
async fn a_sweep_ends_the_run_at_every_host_call_in_every_way() {
    let ended = test_with(SCENARIO).argument("--sweep").ended().await;
    said(&ended, 0, &["1 passed, 0 failed"]);
    let runs = ended.stdout.split("failed (").nth(1).unwrap();
    let runs: usize = runs.split(' ').next().unwrap().parse().unwrap();
    assert!(runs > 40, "{ended}");
}

#[tokio::test]
async fn a_program_that_nobody_expects_fails_the_test_with_a_difference() {
    let scenarios = SCENARIO.replace(
        "run: ../build-script",
        "run: ../build-script, arguments: [--fast]",
    );
    let step = test_with(&scenarios);
    let junit = step.scratch_file("junit.xml", b"");
    let ended = step.flag("--junit", junit.as_str()).ended().await;
    said(
        &ended,
        1,
        &[
            "FAIL it builds",
            "other programs ran than the scenario expects",
            "- ../build-script --fast",
            "+ ../build-script",
            "0 passed, 1 failed",
        ],
    );
    let xml = String::from_utf8(std::fs::read(junit).unwrap()).unwrap();
    assert!(
        xml.contains("tests=\"1\" failures=\"1\"") && xml.contains("name=\"it builds\""),
        "{xml}"
    );
}

#[tokio::test]
async fn another_end_and_other_calls_are_shown_as_differences() {
    let scenarios = format!(
        "{SCENARIO}    expect:\n      outcome: build-failed\n      exit-code: 65\n      calls: [sign-in, create-config, deploy]\n"
    );
    let ended = test_with(&scenarios).ended().await;
    said(
        &ended,
        1,
        &[
            "- outcome: build-failed",
            "+ outcome: succeeded",
            "- exit code: 65",
            "+ connect",
            "log:",
            "==> sign in",
        ],
    );
}

#[tokio::test]
async fn a_failure_that_no_call_comes_to_fails_the_test() {
    let scenarios = format!(
        "{SCENARIO}    failures: [{{ call: connect, number: 5, kind: timed-out }}, {{ call: images, kind: other }}]\n    cluster: {{ lost-deploys: [{{ number: 2, appears-after: 1s }}] }}\n"
    );
    let ended = test_with(&scenarios).ended().await;
    said(
        &ended,
        1,
        &[
            "failures of the scenario were not reached",
            "- `connect` number 5: there were no more than 1",
            "- `images`: there was no such call",
            "- lost `deploy` number 2: there were no more than 1",
        ],
    );
    let refused = SCENARIO
        .replace("sonoma.orkasi", "nosuch.orkasi")
        .replace("after: 12m", "times: any")
        + "    cluster: { lost-deploys: [{ number: 1, appears-after: 1s }] }
    expect: { outcome: infra-failed, exit-code: 211 }
";
    let ended = test_with(&refused).ended().await;
    said(&ended, 1, &["- lost `deploy` number 1: it was refused"]);
}

#[tokio::test]
async fn a_plugin_is_stopped_after_the_steps_that_a_scenario_allows_it() {
    let spins = "scenarios:
  - name: it spins
    cluster: { images: [Sonoma.orkasi] }
    limits: { fuel: 3000000 }
    expect:
      outcome: plugin-failed
      exit-code: 213
      failure: { code: plugin.limit, message: \"it computed more than 3000000 steps\" }
      log: { includes: [\"`fuel: 6000000` under `limits` of the scenario\", \"cluster.deploy\"] }
";
    let step = Step::new(&["plugin", "test"]);
    let file = step.scratch_file("scenarios.yaml", spins.as_bytes());
    let ended = step
        .flag("--plugin", guest("spin").to_str().unwrap())
        .argument(file)
        .ended()
        .await;
    said(&ended, 0, &["1 passed"]);
    // The same number ends it each time, and code that counts stands beside code that does not.
    let mut scenarios = SCENARIO.to_owned();
    for fuel in (1..=20).map(|thousands| thousands * 10_000) {
        let limited = SCENARIO.replace("it builds", &format!("it has {fuel}"));
        scenarios.push_str(limited.trim_start_matches("scenarios:\n"));
        scenarios.push_str(&format!("    limits: {{ fuel: {fuel} }}\n"));
    }
    let verdicts = async || {
        let ended = test_with(&scenarios).ended().await;
        let names = ended
            .stdout
            .lines()
            .filter_map(|line| line.split_once(" ("));
        let told = |line: &&str| line.starts_with("ok ") || line.starts_with("FAIL ");
        let names: Vec<String> = names
            .map(|it| it.0)
            .filter(told)
            .map(str::to_owned)
            .collect();
        names
    };
    let first = verdicts().await;
    assert_eq!(first.len(), 21, "{first:?}");
    assert_eq!(first[0], "ok   it builds");
    let failed = first.iter().filter(|line| line.starts_with("FAIL")).count();
    let (too_few, enough) = first[1..].split_at(failed);
    assert!(!too_few.is_empty() && !enough.is_empty(), "{first:?}");
    assert!(
        enough.iter().all(|line| line.starts_with("ok ")),
        "{first:?}"
    );
    assert_eq!(verdicts().await, first);
}

#[tokio::test]
async fn a_limit_of_a_scenario_is_raised_in_the_scenario() {
    let limited = format!("{SCENARIO}    limits: {{ memory-mib: 1 }}\n");
    let ended = test_with(&limited).ended().await;
    said(
        &ended,
        1,
        &[
            "raise it with `memory-mib: ",
            "` under `limits` of the scenario",
        ],
    );
    assert!(!ended.stdout.contains("--limit"), "{ended}");
}

#[tokio::test]
async fn what_a_scenario_grants_it_grants_to_the_plugin_that_it_tests() {
    let with_secrets = |granted: &str| {
        let members = "params: { base-image: sonoma.orkasi, script: make ipa, secret-env: [TOK] }";
        let base = SCENARIO.replace(
            "params: { base-image: sonoma.orkasi, script: make ipa }",
            members,
        );
        format!("{base}    secrets: {{ TOK: hunter22 }}\n    grants: {granted}\n")
    };
    let by_name = with_secrets("{ capabilities: ['*'], secrets: [TOK] }");
    said(&test_with(&by_name).ended().await, 0, &["1 passed"]);
    let without = with_secrets("{ capabilities: ['*'] }");
    let ended = test_with(&without).ended().await;
    said(
        &ended,
        1,
        &[
            "`secret-env` names the secret `TOK`, which this run was not granted",
            "secrets: [\"TOK\"]",
        ],
    );
    // The plugin that is tested is meant by its name too, though it did not come with the program.
    let named = with_secrets("{ plugin: build, capabilities: ['*'], secrets: [TOK] }");
    said(&test_with(&named).ended().await, 0, &["1 passed"]);
    let another = with_secrets("{ plugin: matrix, capabilities: ['*'], secrets: [TOK] }");
    let ended = test_with(&another).ended().await;
    said(&ended, 1, &["asks for what it was not granted"]);
    // What is said of all plugins grants no secret that only a script names, and what is in no file has no line.
    let to_all = with_secrets("{ plugin: '*', capabilities: ['*'], secrets: [TOK] }");
    let ended = test_with(&to_all).ended().await;
    said(
        &ended,
        1,
        &["put this before the entry for `*` in the grants file:"],
    );
}

#[tokio::test]
async fn a_wrong_file_is_told_from_a_failed_test() {
    let step = test_with(&SCENARIO.replace("params", "parms"));
    let junit = step.scratch_file("junit.xml", b"what was there before");
    let ended = step.flag("--junit", junit.as_str()).ended().await;
    said(
        &ended,
        211,
        &[
            "scenario `it builds`, line 3: unknown field `parms`",
            "; did you mean `params`?",
            "hint: `orka-step schema scenarios`",
        ],
    );
    let xml = String::from_utf8(std::fs::read(junit).unwrap()).unwrap();
    assert!(
        xml.contains("tests=\"1\" failures=\"0\" errors=\"1\"")
            && xml.contains("<error message=\"the scenario file `")
            && xml.contains("unknown field `parms`"),
        "{xml}"
    );
    // A session that is none is told before anything is played, whose result would not be in the file.
    let step = test_with(SCENARIO);
    let session = step.scratch_file("session.yaml", b"session: [");
    let ended = step.flag("--replay", session).ended().await;
    said(&ended, 211, &["is no recorded session"]);
    assert_eq!(ended.stdout, "");
    let ended = test_with(SCENARIO)
        .flag("--plugin", "./none.wasm")
        .ended()
        .await;
    said(&ended, 212, &["none.wasm"]);
    let ended = Step::new(&["plugin", "test"]).ended().await;
    assert!(matches!(ended.code, Some(211)), "{ended}");
}

#[tokio::test]
async fn the_same_scenario_runs_on_the_simulated_cluster() {
    let scenarios = "scenarios:
  - name: a real build
    backend: simulator
    cluster: { boot-time: 50ms, deploy-time: 10ms }
    params: { base-image: Sonoma.orkasi, script: 'mkdir out; cp in out/made', artifacts: [out/**] }
    workspace: { in: x }
    expect: { workspace: { out/made: x }, results: { exit-status: '0' } }
";
    let ended = test_with(scenarios).ended().await;
    said(&ended, 0, &["ok   a real build"]);
}

/// What the scripted cluster says of an image is what the simulated one says, and so what a run says.
#[tokio::test]
async fn an_image_that_is_not_there_is_refused_as_orka_does() {
    for (generation, expected) in [
        (2, "was answered 404: image 'Sonomo.orkasi' not found"),
        (
            3,
            "was answered 404: images.orka.macstadium.com \"Sonomo.orkasi\" not found",
        ),
    ] {
        let mut all = Vec::new();
        for backend in ["scripted", "simulator"] {
            let scenarios = format!(
                "scenarios:
  - name: an image that is not there
    backend: {backend}
    cluster: {{ orka: {generation}, images: [Sonoma.orkasi] }}
    params: {{ base-image: Sonomo.orkasi, script: make ipa }}
    expect: {{ outcome: succeeded }}
"
            );
            let ended = test_with(&scenarios).ended().await;
            let hint =
                "hint: the cluster has no image `Sonomo.orkasi`; did you mean `Sonoma.orkasi`?";
            said(
                &ended,
                1,
                &[expected, hint, "infra-failed (", "exit code 211)"],
            );
            let error = ended
                .stdout
                .lines()
                .find(|line| line.contains("error: Orka"));
            all.push(error.unwrap().to_owned());
        }
        assert_eq!(all[0], all[1]);
    }
    let pulled = "scenarios:
  - name: an image in a registry is in no list
    cluster: { orka: 3 }
    params: { base-image: 'ghcr.io/acme/ios-17:latest', script: make ipa }
    programs: [{ run: ../build-script }]
";
    let ended = test_with(pulled).ended().await;
    said(&ended, 0, &["1 passed, 0 failed"]);
}

/// Three scenarios, of which two fit a filter.
const THREE: &str = "defaults:
  params: { base-image: sonoma.orkasi, script: make ipa }
  programs: [{ run: ../build-script }]
scenarios:
  - name: one that passes
  - name: another that passes
  - name: one that fails
    expect: { outcome: build-failed }
";

#[tokio::test]
async fn a_filter_plays_what_its_text_is_in_the_name_of_and_nothing_else() {
    let ended = test_with(THREE)
        .flag("--filter", "that passes")
        .ended()
        .await;
    said(
        &ended,
        0,
        &[
            "ok   one that passes",
            "ok   another that passes",
            "2 passed, 0 failed (2 runs in ",
        ],
    );
    assert!(!ended.stdout.contains("that fails"), "{ended}");
    let ended = test_with(THREE).flag("--filter", "one").ended().await;
    said(&ended, 1, &["FAIL one that fails", "1 passed, 1 failed"]);
    let ended = test_with(THREE).flag("--filter", "One").ended().await;
    said(
        &ended,
        211,
        &["no scenario has such a name", "`--list` shows the names"],
    );
    assert_eq!(ended.stdout, "");
}

#[tokio::test]
async fn a_list_names_scenarios_with_their_files_and_plays_none() {
    let step = test_with(THREE);
    let file = step.scratch_file("scenarios.yaml", THREE.as_bytes());
    let ended = step.argument("--list").ended().await;
    let lines = |names: &[&str]| -> String {
        let line = |name: &&str| format!("{file}: {name}\n");
        names.iter().map(line).collect()
    };
    assert_eq!(ended.code, Some(0), "{ended}");
    let all = ["one that passes", "another that passes", "one that fails"];
    assert_eq!(ended.stdout, lines(&all));
    let step = test_with(THREE).argument("--list");
    let file = step.scratch_file("scenarios.yaml", THREE.as_bytes());
    let ended = step.flag("--filter", "another").ended().await;
    assert_eq!(ended.code, Some(0), "{ended}");
    assert_eq!(ended.stdout, format!("{file}: another that passes\n"));
}

/// A run of the bundled policy whose session is recorded to the returned path.
async fn recorded(script: &str) -> (Ended, String, String) {
    let cluster = Cluster::start().await;
    let step = cluster.build(script).file("main.c", "int main(void) {}");
    let secret = step.scratch_file("secrets/signing", b"hunter22-is-secret");
    let file = step.scratch_file("session.yaml", b"");
    let ended = step
        .flag(
            "--secrets",
            Path::new(&secret).parent().unwrap().to_str().unwrap(),
        )
        .flag("--record", file.as_str())
        .ended()
        .await;
    let session = std::fs::read_to_string(&file).unwrap();
    (ended, file, session)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_run_has_no_secret_and_plays_again() {
    let script = "#!/bin/sh\necho hunter22-is-secret; echo plain; exit 7\n";
    let (ended, file, session) = recorded(script).await;
    assert_eq!(ended.code, Some(7), "{ended}");
    for text in [
        "call: deploy",
        "call: exec",
        "call: purge",
        "call: sign-out",
        "plain",
        "***",
        "exit-code: 7",
        "size: 17",
    ] {
        assert!(session.contains(text), "`{text}`: {session}");
    }
    assert!(!session.contains("hunter22"), "{session}");
    assert!(!session.contains("tekton-"), "names are numbers: {session}");
    let plugin = bundled("build");
    let replay = || Step::new(&["plugin", "test"]).flag("--plugin", plugin.to_str().unwrap());
    let played = replay().flag("--replay", file.as_str()).ended().await;
    said(&played, 0, &["1 passed, 0 failed"]);

    // The same plugin asked for another VM then.
    let step = replay();
    let changed = session.replace("cpu-cores: 3", "cpu-cores: 12");
    assert_ne!(changed, session);
    let changed = step.scratch_file("changed.yaml", changed.as_bytes());
    let played = step.flag("--replay", changed).ended().await;
    said(
        &played,
        1,
        &[
            "recorded calls were not made, 1 others were",
            "- create-config",
            "+ create-config",
            "it ended otherwise",
        ],
    );

    let step = replay();
    let newer = step.scratch_file(
        "newer.yaml",
        session.replace("session: 4", "session: 5").as_bytes(),
    );
    said(
        &step.flag("--replay", newer).ended().await,
        211,
        &["has form 5; this program knows 4"],
    );
}

#[tokio::test]
async fn a_scenario_file_alone_is_played_against_the_plugin_of_its_project() {
    let step = Step::new(&["plugin", "test"]);
    let manifest = std::fs::read(end_to_end::repository().join("plugins/build/plugin.toml"));
    let manifest = step.scratch_file("project/plugin.toml", &manifest.unwrap());
    let plugin = std::fs::read(bundled("build")).unwrap();
    step.scratch_file("project/dist/build.wasm", &plugin);
    let scenario = step.scratch_file("project/scenarios/it.yaml", SCENARIO.as_bytes());
    let elsewhere = step.scratch_file("elsewhere.yaml", SCENARIO.as_bytes());
    let project = Path::new(&manifest).parent().unwrap().to_owned();
    let ended = step.argument(scenario.as_str()).ended().await;
    said(&ended, 0, &["ok   it builds", "1 passed, 0 failed"]);
    // From within the project, also one that lies elsewhere; from nowhere, none.
    let program = end_to_end::program();
    for (directory, code) in [(project.as_path(), 0), (Path::new("/"), 211)] {
        let output = std::process::Command::new(&program)
            .args(["plugin", "test", &elsewhere])
            .current_dir(directory)
            .env_clear()
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(code), "{output:?}");
    }
}

#[tokio::test]
async fn a_watched_scenario_is_played_again_when_it_changes() {
    let step = Step::new(&["plugin", "test", "--watch"]);
    let file = step.scratch_file("scenarios.yaml", SCENARIO.as_bytes());
    let step = step.flag("--plugin", bundled("build").to_str().unwrap());
    let mut running = step.argument(file.as_str()).start();
    running.says(Stream::Stdout, "1 passed, 0 failed").await;
    let wrong = format!("{SCENARIO}    expect: {{ outcome: build-failed }}\n");
    std::fs::write(&file, wrong).unwrap();
    running.says(Stream::Stdout, "0 passed, 1 failed").await;
    running.signal(Signal::INT);
    // The signal itself is what ends it.
    assert_eq!(running.ended().await.code, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_tidies_up_less_or_more_than_its_session_differs_from_it() {
    let (ended, _, session) = recorded("#!/bin/sh\ntrue\n").await;
    assert_eq!(ended.code, Some(0), "{ended}");
    let plugin = bundled("build");
    let replay = async |session: &str| {
        let step = Step::new(&["plugin", "test"]).flag("--plugin", plugin.to_str().unwrap());
        let file = step.scratch_file("session.yaml", session.as_bytes());
        step.flag("--replay", file).ended().await
    };
    let (without_purge, purges) = without(&session, "purge");
    assert_eq!(purges, 1, "{session}");
    // A purge that is refused is no reason to sign out.
    let said_less = [
        "1 recorded calls were not made, 1 others were",
        "+ purge {\"name\":\"vm-1\"}",
    ];
    said(&replay(&without_purge).await, 1, &said_less);

    // As if the plugin had purged twice then, and does no more.
    let purge = "- call: purge\n  asked:\n    name: vm-1\n  took-ms: 1\nended:";
    let twice = session.replacen("ended:", purge, 1);
    let said_more = [
        "1 recorded calls were not made, 0 others were",
        "- purge {\"name\":\"vm-1\"}",
    ];
    said(&replay(&twice).await, 1, &said_more);

    // Sessions of the first form have none of it, and play all the same.
    let (old, sign_outs) = without(&without_purge, "sign-out");
    assert_eq!(sign_outs, 1, "{session}");
    let old = old.replace("session: 4", "session: 1");
    said(&replay(&old).await, 0, &["1 passed, 0 failed"]);
}

/// The program with the environment in which the tools of a language are found.
fn author(command: &[&str], tools: &Path) -> Step {
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", tools.display());
    let mut step = Step::new(command).environment("PATH", &path).patience(LONG);
    for name in ["HOME", "CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN"] {
        if let Ok(value) = std::env::var(name) {
            step = step.environment(name, &value);
        }
    }
    step.environment(
        "CARGO_TARGET_DIR",
        target_directory().join("tools/rust").to_str().unwrap(),
    )
}

/// What an author changes: in a file of the project, before a line of it.
struct Edit {
    file: &'static str,
    line: &'static str,
    /// Lines that print in the language's own way.
    printing: &'static str,
    /// Lines that make mistakes, by the parameter `script`.
    mistaken: &'static str,
    /// What is said of where an exception was raised.
    place: &'static str,
}

impl Edit {
    fn make(&self, project: &Path, lines: &str) {
        let file = project.join(self.file);
        let source = std::fs::read_to_string(&file).unwrap();
        assert_eq!(source.matches(self.line).count(), 1);
        let source = source.replace(self.line, &format!("{lines}{}", self.line));
        std::fs::write(file, source).unwrap();
    }
}

/// What is said of a parameter that is read as another type than it has.
const OTHER_TYPE: &str = "parameter `cpu-count` is of type `integer` in `plugin.toml`, and the plugin reads it as `string`";

/// Makes a project in `place` and takes it through everything that its README says, with no edit; then with one that prints and
/// makes mistakes.
async fn takes_a_new_project_all_the_way(
    language: &str,
    place: PathBuf,
    tools: &Path,
    edit: Option<Edit>,
) {
    let project = place.join(format!("it-{}", std::process::id()));
    let directory = project.to_str().unwrap();
    let made = author(&["plugin", "new", "ios-build"], tools)
        .flag("--lang", language)
        .flag("--dir", directory)
        .ended()
        .await;
    said(&made, 0, &["orka-step plugin build"]);
    let built = author(&["plugin", "build"], tools)
        .argument(directory)
        .ended()
        .await;
    said(&built, 0, &["ios-build.wasm", "sha256:"]);
    let tested = author(&["plugin", "test"], tools)
        .argument(directory)
        .argument("--sweep")
        .ended()
        .await;
    said(&tested, 0, &["11 passed, 0 failed"]);
    let plugin = project.join("dist/ios-build.wasm");
    let shown = demo(&plugin, tools).await;
    said(
        &shown,
        0,
        &[
            "hello from a build VM",
            "left on the cluster: 0 VMs, 0 VM configs",
            "dist/hello.tar (sha256 ",
        ],
    );
    if language == "rust" {
        first_plugin_of_the_readme(&project, tools).await;
    }
    if let Some(edit) = edit {
        edit.make(&project, &format!("{}{}", edit.printing, edit.mistaken));
        let built = author(&["plugin", "build"], tools)
            .argument(directory)
            .ended()
            .await;
        said(&built, 0, &["ios-build.wasm"]);
        let scenarios = format!(
            "scenarios:
  - name: what it prints is in the log
    params: {{ base-image: sonoma.orkasi, script: make }}
    programs: [{{ run: ../build-script }}]
    expect: {{ log: {{ includes: ['one 1', 'half a line and its rest', 'a warning'] }} }}
  - name: an exception is told with its place
    params: {{ base-image: sonoma.orkasi, script: raise }}
    expect:
      outcome: plugin-failed
      failure: {{ code: plugin.exception }}
      log: {{ includes: ['{}'], lacks: ['orka.py'] }}
  - name: a parameter is of another type
    params: {{ base-image: sonoma.orkasi, script: type }}
    expect:
      outcome: infra-failed
      failure: {{ code: params.invalid, message: '{OTHER_TYPE}' }}
      log: {{ includes: ['hint: change `type` of `[parameters.cpu-count]`'] }}
  - name: a parameter is in no manifest
    params: {{ base-image: sonoma.orkasi, script: name }}
    programs: [{{ run: ../build-script }}]
    expect:
      log:
        includes:
          - 'warning: the plugin asks for parameter `base_image`, which its `plugin.toml` does not declare; did you mean `base-image`?'
",
            edit.place
        );
        let file = project.join("printing.yaml");
        std::fs::write(&file, scenarios).unwrap();
        let tested = author(&["plugin", "test"], tools)
            .flag("--plugin", plugin.to_str().unwrap())
            .argument(file.to_str().unwrap())
            .ended()
            .await;
        said(&tested, 0, &["4 passed, 0 failed"]);
    }
    std::fs::remove_dir_all(&project).unwrap();
}

async fn demo(plugin: &Path, tools: &Path) -> Ended {
    let step = author(&["demo"], tools).flag("--plugin", plugin.to_str().unwrap());
    step.flag("--boot-delay", "100ms").ended().await
}

/// Builds and runs what the README shows as a first policy, in a new project as it is.
async fn first_plugin_of_the_readme(project: &Path, tools: &Path) {
    let readme = include_str!("../README.md");
    let shown = readme.split("```rust\n").nth(1).unwrap();
    let shown = shown.split("```").next().unwrap();
    assert!(shown.starts_with("// src/lib.rs\n"), "{shown}");
    std::fs::write(project.join("src/lib.rs"), shown).unwrap();
    let built = author(&["plugin", "build"], tools)
        .argument(project.to_str().unwrap())
        .ended()
        .await;
    said(&built, 0, &["ios-build.wasm"]);
    let plugin = project.join("dist/ios-build.wasm");
    let ended = demo(&plugin, tools).await;
    said(&ended, 0, &["left on the cluster: 0 VMs, 0 VM configs"]);
}

#[tokio::test]
#[ignore = "takes the Wasm target in the active toolchain: `cargo xtask setup`"]
async fn rust_goes_all_the_way_from_nothing() {
    let place = target_directory().join("tools");
    std::fs::create_dir_all(&place).unwrap();
    takes_a_new_project_all_the_way("rust", place.clone(), &place, None).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes the Wasm target in the active toolchain: `cargo xtask setup`"]
async fn a_guard_goes_all_the_way_from_nothing() {
    let tools = target_directory().join("tools");
    let project = tools.join(format!("guard-{}", std::process::id()));
    std::fs::create_dir_all(&tools).unwrap();
    let directory = project.to_str().unwrap();
    let made = author(&["plugin", "new", "--guard", "ours"], &tools)
        .flag("--dir", directory)
        .ended()
        .await;
    said(&made, 0, &["orka-step run --guard dist/ours.wasm"]);
    let built = author(&["plugin", "build"], &tools)
        .argument(directory)
        .ended()
        .await;
    said(&built, 0, &["ours.wasm", "sha256:"]);
    let tested = author(&["plugin", "test", "--plugin", "build"], &tools)
        .argument(project.join("scenarios").to_str().unwrap())
        .ended()
        .await;
    said(&tested, 0, &["4 passed, 0 failed"]);
    let guard = project.join("dist/ours.wasm");
    let guard = guard.to_str().unwrap();
    let checked = Step::new(&["plugin", "check", guard]).ended().await;
    said(&checked, 0, &["guard `ours` 0.1.0", "fits      yes"]);
    let cluster = Cluster::start().await;
    let step = cluster.run().param("script", "true").flag("--guard", guard);
    let denied = step
        .param("base-image", "ghcr.io/acme/ios:latest")
        .ended()
        .await;
    denied.assert(212, "denied");
    denied.assert_says(&["guard `ours` denied image `ghcr.io/acme/ios:latest`: `latest` moves"]);
    cluster.assert_nothing_left();
    // One that is built elsewhere than in its project, in this repository.
    let output = project.join("allowed-vms.wasm");
    let ours = repository().join("plugins/allowed-vms");
    let built = author(&["plugin", "build", ours.to_str().unwrap()], &tools)
        .flag("--output", output.to_str().unwrap())
        .ended()
        .await;
    said(&built, 0, &["allowed-vms.wasm", "sha256:"]);
    std::fs::remove_dir_all(&project).unwrap();
}

#[tokio::test]
async fn a_guard_is_made_in_rust_and_needs_no_language() {
    let made = async |arguments: &[&str]| {
        let step = Step::new(&["plugin", "new", "x"]);
        let project = Path::new(&step.scratch_file("marker", b"")).with_file_name("x");
        let step = step.flag("--dir", project.to_str().unwrap());
        let step = arguments.iter().fold(step, |step, it| step.argument(*it));
        step.ended().await
    };
    said(
        &made(&["--guard"]).await,
        0,
        &["plugin test --plugin build scenarios"],
    );
    said(&made(&["--guard", "--lang", "rust"]).await, 0, &["made `"]);
    let python = made(&["--guard", "--lang", "python"]).await;
    said(&python, 211, &["makes guards in Rust", "wit/guard.wit"]);
    said(&made(&[]).await, 2, &["--lang"]);
}

#[tokio::test]
#[ignore = "takes the tools of TypeScript from npm: `cargo xtask setup`"]
async fn typescript_goes_all_the_way_from_nothing() {
    // Below the tools, where `node_modules` is found.
    let place = target_directory().join("tools/typescript");
    let edit = Edit {
        file: "src/plugin.ts",
        line: "  const session = phase(",
        printing: "  console.log(\"one\", 1);\n  console.info(\"half a line and its rest\");\n  console.warn(\"a warning\");\n",
        mistaken: "  if (text(\"script\") === \"raise\") phase(\"x\", () => JSON.parse(\"null\").x);\n\
                   \x20 if (text(\"script\") === \"type\") text(\"cpu-count\");\n\
                   \x20 if (text(\"script\") === \"name\") text(\"base_image\");\n",
        place: "dist/.build/plugin.js:",
    };
    takes_a_new_project_all_the_way("typescript", place.clone(), &place, Some(edit)).await;
}

#[tokio::test]
#[ignore = "takes componentize-py from PyPI: `cargo xtask setup`"]
async fn python_goes_all_the_way_from_nothing() {
    let place = target_directory().join("tools/python");
    let edit = Edit {
        file: "src/plugin.py",
        line: "    session = phase(",
        printing: "    import sys\n    print('one', 1)\n    print('a warning', file=sys.stderr)\n    print('half a line', end='')\n    \
         print(' and its rest', end='')\n",
        mistaken: "    if text('script') == 'raise':\n        phase('x', lambda: texts('base-image'))\n    if text('script') == 'type':\n\
                   \x20       text('cpu-count')\n    if text('script') == 'name':\n        text('base_image')\n",
        place: "plugin.py\", line 38, in build",
    };
    takes_a_new_project_all_the_way("python", place.clone(), &place.join("bin"), Some(edit)).await;
}

#[tokio::test]
async fn a_missing_tool_is_named_with_the_command_that_installs_it() {
    for (language, texts) in [
        (
            "python",
            &["`componentize-py` is missing", "hint: run `python3 -m venv"][..],
        ),
        ("typescript", &["is missing", "hint: run `"]),
        ("rust", &["`cargo` is missing", "hint: run `rustup"]),
    ] {
        let step = Step::new(&["plugin", "new", "x"]).flag("--lang", language);
        let project = Path::new(&step.scratch_file("marker", b"")).with_file_name("x");
        let made = step.flag("--dir", project.to_str().unwrap()).ended().await;
        assert_eq!(made.code, Some(0), "{made}");
        let unbuilt = project.join("dist/x.wasm");
        let inspected = Step::new(&["plugin", "inspect", unbuilt.to_str().unwrap()]);
        let build = format!("hint: `orka-step plugin build {}`", project.display());
        said(&inspected.ended().await, 212, &[&build]);
        let built = Step::new(&["plugin", "build"])
            .argument(project.to_str().unwrap())
            .environment("PATH", "/nowhere")
            .ended()
            .await;
        said(&built, 211, texts);
    }
}

/// `plugin build` of a new project in Python, with this in its manifest, by a stand-in for componentize-py that copies what
/// it is given: what is looked at is what comes after the tool.
async fn built_by_a_stand_in(manifest: &str, component: &Path) -> (Step, Ended) {
    let step = Step::new(&["plugin", "new", "x"]).flag("--lang", "python");
    let tool = step.scratch_file(
        "bin/componentize-py",
        format!(
            "#!/bin/sh\nfor output; do :; done\ncp '{}' \"$output\"\n",
            component.display()
        )
        .as_bytes(),
    );
    std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).unwrap();
    let tools = Path::new(&tool).parent().unwrap();
    let directory = tools.with_file_name("x").to_str().unwrap().to_owned();
    let made = step.flag("--dir", directory.as_str()).ended().await;
    assert_eq!(made.code, Some(0), "{made}");
    let file = Path::new(&directory).join("plugin.toml");
    let text = std::fs::read_to_string(&file).unwrap() + manifest;
    std::fs::write(&file, text).unwrap();
    // Relative to where the command is typed, which is not where the tool runs.
    let build = Step::new(&["plugin", "build"]);
    let place = std::fs::canonicalize(build.workspace()).unwrap();
    let up = "../".repeat(place.components().count());
    let path = format!("{up}{}:/usr/bin:/bin", tools.display());
    let built = build.environment("PATH", &path);
    let built = built.argument(&directory).ended().await;
    let check = Step::new(&["plugin", "check"]);
    let plugin = std::fs::read(Path::new(&directory).join("dist/x.wasm")).unwrap();
    let plugin = check.scratch_file("x.wasm", &plugin);
    (check.argument(plugin), built)
}

#[tokio::test]
async fn a_contract_that_this_program_does_not_have_is_told_before_any_tool_runs() {
    let step = Step::new(&["plugin", "new", "x"]).flag("--lang", "python");
    let marker = step.scratch_file("marker", b"");
    let project = Path::new(&marker).with_file_name("x");
    let made = step.flag("--dir", project.to_str().unwrap()).ended().await;
    assert_eq!(made.code, Some(0), "{made}");
    let file = project.join("plugin.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(
        &file,
        text.replace("contract = \"0.1\"", "contract = \"0.9\""),
    )
    .unwrap();
    // There is none, which would be told first.
    let build = Step::new(&["plugin", "build"]).environment("PATH", "/nowhere");
    let built = build.argument(project.to_str().unwrap()).ended().await;
    let texts = [
        "plugin.toml` is for contract 0.9; this program provides 0.1",
        "hint: set `contract = \"0.1\"` in `plugin.toml`",
    ];
    said(&built, 212, &texts);
    assert!(!built.stderr.contains("is missing"), "{built}");
}

#[tokio::test]
async fn what_a_tool_says_of_the_source_is_not_buried_under_its_own_stack() {
    let step = Step::new(&["plugin", "new", "x"]).flag("--lang", "python");
    let tool = step.scratch_file(
        "bin/componentize-py",
        b"#!/bin/sh\necho 'SyntaxError: invalid syntax' >&2\n[ -z \"$RUST_BACKTRACE$RUST_LIB_BACKTRACE\" ] || echo 'Stack backtrace:' >&2\nexit 1\n",
    );
    std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).unwrap();
    let tools = Path::new(&tool).parent().unwrap();
    let project = tools.with_file_name("x").to_str().unwrap().to_owned();
    let made = step.flag("--dir", project.as_str()).ended().await;
    assert_eq!(made.code, Some(0), "{made}");
    let build = Step::new(&["plugin", "build"])
        .environment("PATH", &format!("{}:/usr/bin:/bin", tools.display()))
        .environment("RUST_BACKTRACE", "1")
        .environment("RUST_LIB_BACKTRACE", "1");
    let built = build.argument(project.as_str()).ended().await;
    said(&built, 211, &["SyntaxError: invalid syntax"]);
    assert!(!built.stderr.contains("backtrace"), "{built}");
}

#[tokio::test]
async fn what_is_probably_meant_otherwise_is_warned_of_when_a_plugin_is_built() {
    let pattern = |pattern: &str| {
        format!(
            "\n[parameters.size]\ntype = \"string\"\npattern = '{pattern}'\ndescription = \"x\"\n"
        )
    };
    let warning = "the pattern `[0-9]+` of parameter `size` is looked for anywhere in the value; put `^…$` around it";
    let (check, built) = built_by_a_stand_in(&pattern("[0-9]+"), &bundled("build")).await;
    said(&built, 0, &["x.wasm  ", "sha256:"]);
    built.assert_says(&["warning: ", warning]);
    assert_eq!(built.stdout.lines().count(), 1, "{built}");
    // So is whoever looks at what was built.
    let checked = check.ended().await;
    said(&checked, 0, &[warning]);
    let (_, built) = built_by_a_stand_in(&pattern("^[0-9]+$"), &bundled("build")).await;
    said(&built, 0, &["x.wasm  ", "sha256:"]);
    assert!(!built.stderr.contains("warning"), "{built}");
    // What does not fit is no matter of a warning.
    let (_, guard) = built_by_a_stand_in("", &bundled("allowed-vms")).await;
    said(
        &guard,
        212,
        &[
            "its manifest asks for capabilities",
            "out of its `plugin.toml`",
        ],
    );
}

#[tokio::test]
async fn a_new_project_is_told_with_what_this_machine_lacks_for_it() {
    for (language, install) in [
        (
            "rust",
            "rustup toolchain install stable --target wasm32-unknown-unknown",
        ),
        ("typescript", "apt-get install nodejs npm"),
        ("python", "apt-get install python3 python3-venv"),
    ] {
        let step = Step::new(&["plugin", "new", "x"]).flag("--lang", language);
        let project = Path::new(&step.scratch_file("marker", b"")).with_file_name("x");
        let step = step.flag("--dir", project.to_str().unwrap());
        let made = step.environment("PATH", "/nowhere").ended().await;
        said(
            &made,
            0,
            &["is missing: ", install, "orka-step plugin build"],
        );
        let first = made.stdout.lines().next().unwrap_or_default().trim();
        assert_eq!(first, install, "{made}");
    }
}

#[tokio::test]
async fn a_rustup_without_a_toolchain_is_told_in_one_line_and_without_its_stack() {
    let step = Step::new(&["plugin", "new", "x", "--lang", "rust"]);
    let step = step.environment("RUST_BACKTRACE", "1");
    let project = Path::new(&step.scratch_file("marker", b"")).with_file_name("x");
    let mut step = step.flag("--dir", project.to_str().unwrap());
    // As rustup's own `rustc` says it.
    let rustc = step.scratch_file("bin/rustc", b"#!/bin/sh\n[ -z \"$RUST_BACKTRACE\" ] || echo 'Stack backtrace:' >&2\necho 'error: rustup could not choose a version of rustc to run, because one wasn'\\''t specified explicitly, and no default is configured.' >&2\nexit 1\n");
    let cargo = step.scratch_file("bin/cargo", b"");
    for program in [&rustc, &cargo] {
        std::fs::set_permissions(program, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let bin = Path::new(&rustc)
        .parent()
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned();
    step = step.environment("PATH", &format!("{bin}:/usr/bin:/bin"));
    let made = step.ended().await;
    let install = "rustup default stable && rustup target add wasm32-unknown-unknown";
    said(
        &made,
        0,
        &[
            "`rustc` is missing: rustup has no default toolchain",
            install,
        ],
    );
    assert!(!made.stderr.contains("could not choose"), "{made}");
    assert!(!made.stderr.contains("backtrace"), "{made}");
}

#[tokio::test]
async fn a_directory_that_is_no_project_is_told() {
    let ended = Step::new(&["plugin", "build", "/"]).ended().await;
    said(
        &ended,
        211,
        &[
            "is no plugin project: it has no `plugin.toml`",
            "orka-step plugin new",
        ],
    );
}
