use super::*;

fn read(text: &str) -> Result<Vec<Case>, String> {
    parse(text, Path::new("scenarios"))
}

fn one(members: &str) -> Result<Case, String> {
    let indented: String = members
        .lines()
        .map(|line| format!("    {line}\n"))
        .collect();
    read(&format!("scenarios:\n  - name: it\n{indented}")).map(|mut cases| cases.remove(0))
}

fn problem(members: &str) -> String {
    one(members).expect_err(members)
}

#[test]
fn every_member_arrives() {
    let case = one(
        "params: { script: make, verbose: true, cpu-count: 4, artifacts: [a, b] }
script: 'echo hi'
workspace: { a.txt: text, b.bin: { base64: AAE= } }
secrets: { key: hunter22 }
grants: { capabilities: ['*'], ceilings: { cpu-cores: 4 } }
guards: [{ guard: allowed-vms, config: image x }, { guard: ./own.wasm }]
limits: { memory-mib: 8, fuel: 6000000000 }
timeout: 10m
stop: { after: 30s, signal: INT }
seed: 7
began: 2026-11-27T08:00:00Z
cluster:
  orka: 3
  deploy-time: 1s
  boot-time: 2s
  images: [one]
  nodes: [{ name: n, ready: false, cpu-available: 0 }]
  lost-deploys: [{ number: 2, appears-after: 40s }]
programs:
  - { run: make, arguments: ['-j*'], signal: SIGKILL, stdout: out, after: 3s, writes: { f: x } }
  - { run: '*', times: any, ends: lost }
failures:
  - { call: deploy, number: 1, kind: no-capacity }
  - { call: download, kind: unavailable, code: files.x, message: m, hint: h, retryable: true }",
    )
    .unwrap();
    let scenario = &case.scenario;
    assert_eq!(scenario.params["verbose"], "true");
    assert_eq!(scenario.params["cpu-count"], "4");
    assert_eq!(scenario.params["artifacts"], "a\nb");
    let files = scenario.workspace.as_ref().unwrap();
    assert_eq!(
        (&files["a.txt"][..], &files["b.bin"][..]),
        (&b"text"[..], &b"\0\x01"[..])
    );
    assert_eq!(
        scenario.stop,
        Some((Duration::from_secs(30), StopSignal::Interrupt))
    );
    let [first, second] = &scenario.guards[..] else {
        panic!("two are asked");
    };
    assert_eq!((first.config_text(), second.config_text()), ("image x", ""));
    assert_eq!(scenario.limits.memory_bytes, 8 << 20);
    assert_eq!(scenario.limits.fuel, Some(6_000_000_000));
    assert!(scenario.orka3 && !scenario.nodes[0].ready);
    assert_eq!(scenario.nodes[0].cpu_available, Some(0));
    assert_eq!(scenario.lost_deploys[&2], Duration::from_secs(40));
    assert_eq!(scenario.execs[0].times, Times::Exactly(1));
    assert_eq!(scenario.execs[1].times, Times::Any);
    let (call, number, failure) = &scenario.failures[0];
    assert_eq!(
        (call.as_str(), *number, failure.class),
        ("deploy", 1, Class::NoCapacity)
    );
    assert_eq!(
        (scenario.failures[1].1, scenario.failures[1].2.code.as_ref()),
        (0, "files.x")
    );
    assert_eq!(scenario.began.to_string(), "2026-11-27T08:00:00Z");
}

#[test]
fn defaults_are_laid_under_member_by_member() {
    let cases = read(
        "defaults:
  params: { a: x, b: y }
  programs: [{ run: one }]
scenarios:
  - { name: first, params: { b: z } }
  - { name: second, programs: [], workspace: false }",
    )
    .unwrap();
    assert_eq!(cases[0].scenario.params["a"], "x");
    assert_eq!(cases[0].scenario.params["b"], "z");
    assert_eq!(cases[0].scenario.execs.len(), 1);
    assert!(cases[1].scenario.execs.is_empty() && cases[1].scenario.workspace.is_none());
}

#[test]
fn what_is_wrong_is_named_with_its_scenario() {
    for (members, said) in [
        ("parms: {}", "unknown field `parms`"),
        ("timeout: soon", "not a duration"),
        ("cluster: { orka: 4 }", "`cluster.orka` is 4"),
        (
            "programs: [{ run: a, exit: 1, signal: KILL }]",
            "give one of",
        ),
        (
            "failures: [{ call: deplyo, kind: other }]",
            "did you mean `deploy`?",
        ),
        ("limits: { memory: 3 }", "knows no `memory`"),
        (
            "limits: { feul: 44 }",
            "`limits` knows no `feul`; did you mean `fuel`? it knows `memory-mib`,",
        ),
        ("limits: { memroy-mib: 4 }", "did you mean `memory-mib`?"),
        ("limits: { fuel: 0 }", "`limits.fuel` is 0"),
        ("limits: { memory-mib: 5000000000 }", "from 1 to 4096"),
        ("workspace: { a: { base64: '!' } }", "not base64"),
        ("expect: { outcome: fine }", "expected one of succeeded"),
        ("expect: { left: 1, kept: 2 }", "`expect.kept` is more"),
        (
            "backend: simulator\nprograms: [{ run: a }]",
            "for scripted backends",
        ),
        ("grants: { capabilites: [] }", "unknown field `capabilites`"),
    ] {
        let problem = problem(members);
        assert!(
            problem.contains(said) && problem.contains("`it`"),
            "{members}: {problem}"
        );
    }
    assert!(
        read("scenrios: []")
            .unwrap_err()
            .contains("did you mean `scenarios`?")
    );
    assert!(read("scenarios: []").unwrap_err().contains("no scenarios"));
    let twice = "scenarios: [{ name: a }, { name: a }]";
    assert!(read(twice).unwrap_err().contains("two scenarios named `a`"));
    assert!(
        read("scenarios:\n  - name: a\n   x: y")
            .unwrap_err()
            .contains("line 3")
    );
}

#[test]
fn a_misspelt_member_is_told_with_its_line_and_the_nearest() {
    for (members, line, said) in [
        (
            "    expekt: { outcome: succeeded }",
            5,
            "unknown field `expekt`, expected one of",
        ),
        (
            "    cluster:\n      orka: 2\n      imagse: []",
            7,
            "unknown field `imagse`",
        ),
        ("    backend: simulater", 5, "unknown variant `simulater`"),
    ] {
        let text = format!(
            "defaults: {{ timeout: 1m }}\nscenarios:\n  - name: first\n  - name: it\n{members}\n"
        );
        let problem = read(&text).unwrap_err();
        let begin = format!("scenario `it`, line {line}: ");
        assert!(
            problem.starts_with(&begin) && problem.contains(said),
            "{problem}"
        );
        let meant = ["expect", "images", "simulator"];
        let end = meant.map(|name| format!("; did you mean `{name}`?"));
        assert!(end.iter().any(|end| problem.ends_with(end)), "{problem}");
    }
    // What the defaults have wrong is each scenario's, and no line of it has it.
    let problem = read("defaults: { expekt: {} }\nscenarios: [{ name: it }]").unwrap_err();
    assert!(
        problem.starts_with("scenario `it`: unknown field `expekt`"),
        "{problem}"
    );
}
