//! The page for platform teams: its five commands do what it says. And what belongs to it: what was used, what is granted.

use std::process::Output;

use end_to_end::{Cluster, Schemas, Step, bundled, guest, program};
use tokio::process::Command;

const PAGE: &str = include_str!("../plugins/README.md");

/// The commands of the page's first block for a shell.
fn commands() -> Vec<&'static str> {
    let block = PAGE.split("```sh\n").nth(1).unwrap();
    let commands: Vec<&str> = block.split("\n```").next().unwrap().lines().collect();
    assert_eq!(commands.len(), 5, "the page promises five commands");
    commands
}

async fn shell(cluster: &Cluster, directory: &std::path::Path, command: &str) -> Output {
    let programs = program().parent().unwrap().to_str().unwrap().to_owned();
    Command::new("sh")
        .args(["-c", command])
        .current_dir(directory)
        .env_clear()
        .env("PATH", format!("{programs}:/usr/local/bin:/usr/bin:/bin"))
        .env("HOME", directory)
        .env("ORKA_API", cluster.sim.url())
        .env("ORKA_CREDENTIALS", cluster.orka_credentials())
        .env("ORKA_SSH_CREDENTIALS", cluster.ssh_credentials())
        .output()
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_five_commands_of_the_page_enforce_what_it_promises() {
    let cluster = Cluster::start().await;
    let directory = tempfile::tempdir().unwrap();
    let mut said = Vec::new();
    for (position, command) in commands().into_iter().enumerate() {
        let output = shell(&cluster, directory.path(), command).await;
        let stderr = String::from_utf8(output.stderr).unwrap();
        let expected = if position == 4 { 212 } else { 0 };
        assert_eq!(
            output.status.code(),
            Some(expected),
            "`{command}`: {stderr}"
        );
        said.push(stderr);
    }
    // What the page shows is what is said.
    let shown = |start: &str| {
        let line = PAGE.lines().find(|line| line.starts_with(start));
        line.unwrap_or_else(|| panic!("the page shows no `{start}`"))
    };
    let changed = shown("guard `allowed-vms` changed");
    assert!(said[2].contains(changed), "{}", said[2]);
    let denied = shown("error: guard `allowed-vms` denied");
    assert!(said[4].contains(denied), "{}", said[4]);
    let grants = std::fs::read_to_string(directory.path().join("grants.toml")).unwrap();
    assert!(grants.contains("cpu-cores = 8"), "{grants}");
    assert!(
        said[3].contains("wrote into `grants.toml`") && !said[3].contains("warning"),
        "{}",
        said[3]
    );
    // Builds of the same kind pass with these grants: the same one, and one that wants fewer cores than memory was told for.
    for more in ["", " -p cpu-count=4"] {
        let run = commands()[2].replace("--report run.json", "--grants grants.toml");
        let run = run.replace(" -p cpu-count=12", more);
        let output = shell(&cluster, directory.path(), &run).await;
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "`{run}`: {stderr}");
    }
    cluster.assert_nothing_left();
}

#[test]
fn the_guard_of_the_page_is_what_plugin_new_makes() {
    let example = include_str!("../plugins/examples/guard/src/lib.rs");
    let (_, code) = example.split_once("\n\n").unwrap();
    assert!(PAGE.contains(&format!("```rust\n{code}```\n")), "{code}");
}

/// What a program's own schema says against a file.
async fn problems(name: &str, file: &serde_json::Value) -> Vec<String> {
    let schema = Step::new(&["schema", name]).ended().await;
    let schema = serde_json::from_str(&schema.stdout).unwrap();
    Schemas::read().problems_by(&schema, file)
}

/// The page's example of a grants file.
fn example() -> &'static str {
    let blocks = PAGE.split("```yaml\n").skip(1);
    let mut texts = blocks.map(|block| block.split("```").next().unwrap());
    texts.find(|text| text.starts_with("grants:\n")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_grants_file_of_the_page_is_one_and_lets_build_run() {
    let file: serde_json::Value = serde_saphyr::from_str(example()).unwrap();
    assert_eq!(problems("grants", &file).await, [""; 0]);
    let as_grant = serde_json::json!({"grant": file["grants"]});
    assert_eq!(problems("grants", &as_grant).await, [""; 0]);
    let both = serde_json::json!({"grant": [], "grants": []});
    assert!(!problems("grants", &both).await.is_empty());
    let cluster = Cluster::start().await;
    let run = |plugin: &str| {
        let step = cluster
            .build("#!/bin/sh\nset -e\nmkdir -p out\necho x > out/a\n")
            .param("artifacts", "out/**")
            .flag("--plugin", plugin);
        let file = step.scratch_file("grants.yaml", example().as_bytes());
        step.flag("--grants", file)
    };
    let ended = run("build").ended().await;
    ended.assert(0, "succeeded");
    assert_eq!(ended.file("out/a").as_deref(), Some(&b"x\n"[..]));
    let by = ended.report["grants"]["granted"]["by"].as_str().unwrap();
    assert!(by.contains("grants.yaml:"), "{by}");
    // Whatever else comes with the program is bound by the last entry, as the page says.
    let other = run("retry-elsewhere")
        .param("alternatives", "tag=m2")
        .ended()
        .await;
    other.assert(212, "denied");
    other.assert_says(&["grants.yaml:"]);
    cluster.assert_nothing_left();
}

/// An editor that knows the schema and the program agree on what is wrong.
#[tokio::test(flavor = "multi_thread")]
async fn a_grants_file_is_read_where_it_fits_the_schema_and_refused_where_not() {
    let entry = |member: &str, value: serde_json::Value| {
        let mut entry = serde_json::json!({"plugin": "build"});
        entry[member] = value;
        serde_json::json!({"grants": [entry]})
    };
    let ceiling =
        |name: &str, value: serde_json::Value| entry("ceilings", serde_json::json!({name: value}));
    let digits = "aB".repeat(32);
    let mut files = vec![
        (serde_json::json!({"grants": []}), true),
        (serde_json::json!({"grant": [], "grants": []}), false),
        (serde_json::json!({"grnats": []}), false),
        (
            serde_json::json!({"grants": [{"capabilities": ["*"]}]}),
            false,
        ),
        (entry("colour", "red".into()), false),
        (entry("digest", format!("sha256:{digits}").into()), true),
        (entry("digest", format!("sha256:{digits}0").into()), false),
        (entry("digest", digits.as_str().into()), false),
        (ceiling("cpu-core", 3.into()), false),
        (ceiling("cpu-cores", "three".into()), false),
        (ceiling("cpu-cores", (-1).into()), false),
        (ceiling("cpu-cores", 0.into()), true),
        (ceiling("workspace", "read".into()), true),
        (ceiling("workspace", "all".into()), false),
    ];
    for (name, fits) in [
        ("ssh.exec", true),
        ("*", true),
        ("ssh.*", true),
        ("handoff.*", true),
        ("ssh.exce", false),
        ("ss*", false),
        ("ssh*", false),
        ("network.*", false),
        ("", false),
    ] {
        files.push((entry("capabilities", serde_json::json!([name])), fits));
    }
    for (span, fits) in [
        ("0", true),
        ("90s", true),
        ("1h 30m", true),
        ("1h30min", true),
        ("1.5h", true),
        ("2days", true),
        ("2M", true),
        ("4 µs", true),
        ("", false),
        ("4", false),
        ("long", false),
        ("-1h", false),
        ("1h,2m", false),
        ("1H", false),
        ("PT1H", false),
    ] {
        files.push((ceiling("lifetime", span.into()), fits));
        files.push((ceiling("keep-max", span.into()), fits));
    }
    for (size, fits) in [
        ("0", true),
        ("512B", true),
        ("2Gi", true),
        ("2GiB", true),
        ("1.5Gi", false),
        ("2G", false),
        ("2 Gi", false),
        ("", false),
    ] {
        files.push((ceiling("artifacts-max-size", size.into()), fits));
    }
    for (file, fits) in files {
        let step = Step::new(&["plugin", "inspect", "build"]);
        // JSON is YAML.
        let path = step.scratch_file("grants.yaml", file.to_string().as_bytes());
        let read = step.flag("--grants", path).ended().await;
        let code = if fits { 0 } else { 211 };
        assert_eq!(read.code, Some(code), "{file}: {read}");
        let problems = problems("grants", &file).await;
        assert_eq!(problems.is_empty(), fits, "{file}: {problems:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_are_of_the_form_that_the_schema_says() {
    let cluster = Cluster::start().await;
    let narrow = "[[grant]]\nplugin = \"build\"\n";
    let builds = "#!/bin/sh\nmkdir -p out\necho x > out/a\n";
    for (step, code) in [
        (cluster.build(builds).param("artifacts", "out/**"), 0),
        (cluster.build("#!/bin/sh\nexit 7\n"), 7),
        (cluster.build("#!/bin/sh\nkill -TERM $$\n"), 143),
        (cluster.build(builds).granted(narrow), 212),
        (cluster.build(builds).param("cpu-count", "many"), 211),
        (
            cluster
                .build(builds)
                .flag("--guard", "allowed-vms=/dev/null"),
            212,
        ),
    ] {
        let ended = step.ended().await;
        assert_eq!(ended.code, Some(code), "{ended}");
        assert!(ended.report.is_object(), "{ended}");
        let problems = problems("report", &ended.report).await;
        assert_eq!(problems, [""; 0], "{:#}", ended.report);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_sessions_are_of_the_form_that_the_schema_says_and_no_other_is_read() {
    let cluster = Cluster::start().await;
    let builds = "#!/bin/sh\nmkdir -p out\nprintf 'x\\377' | tee out/a\n";
    let mut last = None;
    for (step, code) in [
        (cluster.build(builds).param("artifacts", "out/**"), 0),
        (cluster.build("#!/bin/sh\nexit 7\n"), 7),
        (cluster.build("#!/bin/sh\nkill -TERM $$\n"), 143),
        (
            cluster
                .build("#!/bin/sh\nsleep 60\n")
                .flag("--timeout", "3s"),
            218,
        ),
        (cluster.guest("several"), 0),
        (cluster.guest("forger").param("how", "after-sign-out"), 0),
    ] {
        let file = step.scratch_file("session.yaml", b"");
        let ended = step
            .file("in", "x")
            .flag("--record", file.as_str())
            .ended()
            .await;
        assert_eq!(ended.code, Some(code), "{ended}");
        let text = std::fs::read_to_string(&file).unwrap();
        let session: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(problems("session", &session).await, [""; 0], "{text}");
        last = Some((ended, session));
    }
    // What the schema refuses is refused where a session is read.
    let (ended, session) = last.unwrap();
    let replay = async |session: &serde_json::Value| {
        let step = Step::new(&["plugin", "test"]);
        let file = step.scratch_file("session.yaml", session.to_string().as_bytes());
        let plugin = guest("forger").to_str().unwrap().to_owned();
        step.flag("--plugin", plugin)
            .flag("--replay", file)
            .ended()
            .await
    };
    assert_eq!(replay(&session).await.code, Some(0), "{ended}");
    for (at, member, value) in [
        ("", "session", serde_json::json!(5)),
        ("", "session", serde_json::json!("4")),
        ("", "calls", serde_json::json!({})),
        ("", "more", serde_json::json!(1)),
        ("/plugin", "digest", serde_json::json!([])),
        ("/given", "timeout-ms", serde_json::json!(-1)),
        ("/given", "parms", serde_json::json!({})),
        ("/calls/0", "took-ms", serde_json::json!("1 s")),
        ("/ended", "exit-code", serde_json::json!(256)),
    ] {
        let mut wrong = session.clone();
        wrong.pointer_mut(at).unwrap()[member] = value;
        assert!(
            !problems("session", &wrong).await.is_empty(),
            "{at}/{member}"
        );
        assert_eq!(replay(&wrong).await.code, Some(211), "{at}/{member}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_guards_is_read_where_its_lines_fit_the_schema_and_refused_where_not() {
    let cluster = Cluster::start().await;
    let digits = "ab".repeat(32);
    for (list, fits) in [
        ("allowed-vms=rules.txt", true),
        (
            "# ours\n\nallowed-vms=rules.txt\n  allowed-vms=a=b.txt\n",
            true,
        ),
        (&format!("./own.wasm@sha256:{digits}=rules.txt"), true),
        (
            &format!("allowed-vms@sha256:{}", digits.to_uppercase()),
            true,
        ),
        ("", false),
        ("# none\n", false),
        ("=rules.txt", false),
        ("allowed-vms=", false),
        (&format!("@sha256:{digits}"), false),
        ("allowed-vms@sha256:12", false),
        (&format!("allowed-vms@sha256:{digits}0=rules.txt"), false),
        ("https://example.com/guard.wasm", false),
        ("allowed-vms=rules.txt\noci://example.com/guard", false),
    ] {
        let step = cluster.build("#!/bin/sh\ntrue\n");
        let file = step.scratch_file("list/guards", list.as_bytes());
        for rules in ["rules.txt", "a=b.txt"] {
            step.scratch_file(&format!("list/{rules}"), b"image *\ncores * 9\n");
        }
        let directory = file.trim_end_matches("/guards").to_owned();
        let ended = step.flag("--guards", directory).ended().await;
        // A guard that is not there, or is another, is a denial: its line was read.
        let refused = ended.code == Some(211);
        assert_eq!(refused, !fits, "`{list}`: {ended}");
        let lines = list.lines().map(str::trim);
        let named: Vec<&str> = lines
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .collect();
        let problems = problems("guards", &serde_json::json!(named)).await;
        assert_eq!(problems.is_empty(), fits, "`{list}`: {problems:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_run_used_is_granted_and_nothing_more() {
    let cluster = Cluster::with(Cluster::orka3()).await;
    let build = || {
        cluster
            .build("#!/bin/sh\nset -e\nmkdir -p out\necho x > out/a\n")
            .param("artifacts", "out/**")
    };
    let first = build().ended().await;
    first.assert(0, "succeeded");
    let used = &first.report["grants"]["used"];
    for (member, value) in [
        ("images", serde_json::json!(["Sonoma.orkasi"])),
        ("cpuCores", serde_json::json!(3)),
        ("vmsAtOnce", serde_json::json!(1)),
        ("namespaces", serde_json::json!(["orka-default"])),
        ("artifactBytes", serde_json::json!(2)),
        // Nobody asked for these: Orka has chosen the memory, and told it.
        ("memoryMib", serde_json::json!(4915)),
        ("artifactCount", serde_json::json!(1)),
    ] {
        assert_eq!(used[member], value, "{used:#}");
    }
    assert!(
        used["programs"].to_string().contains("build-script"),
        "{used:#}"
    );
    let report = first
        .scratch()
        .join("report/run.json")
        .to_str()
        .unwrap()
        .to_owned();
    let made = Step::new(&["grant", "--from-run", &report]).ended().await;
    assert_eq!(made.code, Some(0), "{made}");
    let again = build().granted(&made.stdout).ended().await;
    again.assert(0, "succeeded");
    let granted = again.report["grants"]["granted"]["by"].as_str().unwrap();
    assert!(granted.contains("grants.toml:"), "{granted}");
    let bare = || cluster.run().granted(&made.stdout).param("script", "true");
    let build = |script: &str| {
        let step = cluster.build(script).granted(&made.stdout);
        step.param("artifacts", "out/**")
    };
    let true_script = "#!/bin/sh\ntrue\n";
    for (step, said) in [
        (
            build(true_script).param("cpu-count", "4"),
            "4 CPU cores are above the 3 granted",
        ),
        (
            build(true_script).param("memory", "4.9"),
            "5018 MiB of memory are above the 4915 granted",
        ),
        (
            build(true_script).flag("--orka-namespace", "orka-other"),
            "namespace `orka-other` is none of",
        ),
        (
            build(true_script).flag("--timeout", "54m"),
            "(`--timeout`) is above",
        ),
        (
            bare().param("base-image", "Ventura.orkasi"),
            "image `Ventura.orkasi` is none of",
        ),
    ] {
        let more = step.ended().await;
        more.assert(212, "denied");
        more.assert_says(&[said, "grants.toml:"]);
    }
    let more = build("#!/bin/sh\nset -e\nmkdir -p out\necho x > out/a\necho y > out/b\n");
    let more = more.ended().await;
    assert_ne!(more.code, Some(0), "{more}");
    more.assert_says(&["artifacts-max-count"]);
    let inspected = Step::new(&["plugin", "inspect", "build", "--report", &report])
        .ended()
        .await;
    for text in ["  used      ", "3 CPU cores", "namespaces orka-default"] {
        assert!(inspected.stdout.contains(text), "no `{text}`: {inspected}");
    }
    cluster.assert_nothing_left();
}

/// One VM more than the run had, of a run that fetched nothing and was given no time.
#[tokio::test(flavor = "multi_thread")]
async fn the_narrowest_file_of_a_matrix_holds_it_to_its_vms() {
    let cluster = Cluster::with(Cluster::orka3()).await;
    let matrix = |cells: &str| {
        let step = cluster
            .run()
            .flag("--plugin", "matrix")
            .without("--timeout");
        step.param("script", "true").param("cells", cells)
    };
    let first = matrix("one=Sonoma.orkasi").ended().await;
    first.assert(0, "succeeded");
    let report = first.scratch().join("report/run.json");
    let made = Step::new(&["grant", "--from-run", report.to_str().unwrap()]);
    let made = made.ended().await;
    for line in [
        "vms-at-once = 1\n",
        "vms-total = 1\n",
        "lifetime = \"5m\"\n",
        "artifacts-max-count = 0\n",
    ] {
        assert!(made.stdout.contains(line), "no `{line}`: {made}");
    }
    // What that means for later runs is said.
    for told in ["brought no files back", "s, so `lifetime` is 5m: "] {
        assert!(made.stderr.contains(told), "no `{told}`: {made}");
    }
    let granted = |cells| matrix(cells).granted(&made.stdout);
    granted("one=Sonoma.orkasi")
        .ended()
        .await
        .assert(0, "succeeded");
    let more = granted("one=Sonoma.orkasi\ntwo=Sonoma.orkasi")
        .ended()
        .await;
    more.assert(212, "denied");
    more.assert_says(&["`vms-", "grants.toml:"]);
    cluster.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn ceilings_that_are_new_hold_and_name_their_line() {
    let script = "#!/bin/sh\nset -e\nmkdir -p out\nhead -c 3000000 /dev/zero > out/big\n";
    for (ceiling, said) in [
        (
            "namespaces = [\"team-*\"]",
            "namespace `orka-default` is none of",
        ),
        (
            "programs = [\"/usr/bin/true\"]",
            "is none of [\"/usr/bin/true\"]",
        ),
        ("workspace = \"read\"", "\"workspace.write\""),
        (
            "lifetime = \"10s\"",
            "(`--timeout`) is above the 10s granted",
        ),
    ] {
        let cluster = Cluster::with(Cluster::orka3()).await;
        let grant = format!(
            "[[grant]]\nplugin = \"build\"\ncapabilities = [\"*\"]\n[grant.ceilings]\n{ceiling}\n"
        );
        let step = cluster.build(script).param("artifacts", "out/**");
        let ended = step.flag("--timeout", "50s").granted(&grant).ended().await;
        ended.assert(212, "denied");
        ended.assert_says(&[said, "grants.toml:"]);
        assert!(ended.file("out/big").is_none());
        cluster.assert_nothing_left();
        if !ceiling.starts_with("programs") {
            cluster.assert_untouched();
        }
    }
}

#[tokio::test]
async fn a_plugin_is_checked_without_being_run() {
    let fits = Step::new(&["plugin", "check", "build", "--json"])
        .ended()
        .await;
    assert_eq!(fits.code, Some(0), "{fits}");
    let found: serde_json::Value = serde_json::from_str(&fits.stdout).unwrap();
    assert_eq!(
        (&found["fits"], &found["kind"]),
        (&true.into(), &"plugin".into())
    );
    let guard = Step::new(&["plugin", "check", "allowed-vms"]).ended().await;
    assert_eq!(guard.code, Some(0), "{guard}");
    assert!(
        guard.stdout.starts_with("guard `allowed-vms` 0.1.0\n"),
        "{guard}"
    );
    // How its rules are written.
    for rule in [
        "`image PATTERN`",
        "`cores NAMESPACE MOST`",
        "`-` stands for Orka 2",
    ] {
        assert!(guard.stdout.contains(rule), "{rule}: {guard}");
    }
    let odd = guest("grabby");
    let ungranted = Step::new(&["plugin", "check", odd.to_str().unwrap()]);
    let grants = ungranted.scratch_file("grants.yaml", b"grants: []\n");
    let ended = ungranted.flag("--grants", grants).ended().await;
    assert_eq!(ended.code, Some(212), "{ended}");
    for line in ["  fits      yes\n", "  granted   no: not enough to start\n"] {
        assert!(ended.stdout.contains(line), "no `{line}`: {ended}");
    }
    ended.assert_says(&["asks for what it was not granted"]);
    let pinned = Step::new(&["plugin", "check", "build", "--digest", "sha256:00"])
        .ended()
        .await;
    assert_eq!(pinned.code, Some(212), "{pinned}");
    for line in ["  fits      yes\n", "  digest    other than sha256:00\n"] {
        assert!(pinned.stdout.contains(line), "no `{line}`: {pinned}");
    }
    let none = Step::new(&["plugin", "check", "/etc/passwd"]).ended().await;
    assert_eq!(none.code, Some(212), "{none}");
    assert!(bundled("allowed-vms").is_file());
}

#[tokio::test]
async fn a_task_a_schema_and_the_limits_are_printed() {
    let task = Step::new(&[
        "plugin",
        "task",
        "build",
        "--image",
        "example.com/orka-step:1",
    ])
    .ended()
    .await;
    assert_eq!(task.code, Some(0), "{task}");
    for text in [
        "kind: Task",
        "- name: base-image",
        "#!/usr/local/bin/orka-step task",
        "\"--plugin=build\"",
    ] {
        assert!(task.stdout.contains(text), "no `{text}`: {task}");
    }
    let foreign = guest("grabby");
    let nowhere = Step::new(&["plugin", "task", foreign.to_str().unwrap(), "--image", "x"])
        .ended()
        .await;
    assert_eq!(nowhere.code, Some(211), "{nowhere}");
    nowhere.assert_says(&["--plugin-path"]);
    for name in [
        "grants",
        "guards",
        "plugin",
        "report",
        "scenarios",
        "session",
    ] {
        let schema = Step::new(&["schema", name]).ended().await.summary();
        assert!(schema["$schema"].is_string() && schema["title"].is_string());
        assert!(schema["properties"].is_object() || schema["items"].is_object());
    }
    let limits = Step::new(&["limits"]).ended().await;
    assert!(limits.stdout.contains("guard-cpu-seconds"), "{limits}");
}

#[tokio::test]
async fn the_stock_guard_passes_the_scenarios_that_the_page_plays() {
    let scenarios = end_to_end::repository().join("plugins/allowed-vms/scenarios");
    let ended = Step::new(&["plugin", "test", "--plugin", "build"])
        .argument(scenarios.to_str().unwrap())
        .ended()
        .await;
    assert_eq!(ended.code, Some(0), "{ended}");
    assert!(ended.stdout.contains("4 passed"), "{ended}");
}
