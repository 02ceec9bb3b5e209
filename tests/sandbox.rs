//! The sandbox as a table: imports, limits, capabilities and handles, each with what becomes of a guest that goes too far.

use std::collections::BTreeMap;
use std::time::Duration;

use end_to_end::{Cluster, Ended, Step, guest};
use orka_sim::{PortNumbers, SimConfig, Switches};
use wasm_encoder::{
    ComponentSection as _, CustomSection, InstanceSection, MemorySection, MemoryType, Module,
    ModuleArg, ModuleSection, Section as _,
};
use wasmparser::Payload;

use crate::plugins::component;

/// Every capability, and the calls of the guest `powers` that are denied without it.
const POWERS: [(&str, &[&str]); 12] = [
    ("cluster.read", &["cluster.sign-in"]),
    ("cluster.deploy", &["cluster.create-config"]),
    ("cluster.keep", &["cluster.keep-max", "cluster.keep"]),
    ("cluster.hand-over", &["cluster.hand-over"]),
    ("cluster.adopt", &["cluster.adopt-config"]),
    ("cluster.purge-run", &["cluster.purge-run"]),
    ("ssh.exec", &["ssh.exec", "ssh.exec-file"]),
    (
        "ssh.transfer",
        &["ssh.write-file", "ssh.upload", "ssh.download"],
    ),
    (
        "workspace.read",
        &[
            "workspace.read",
            "workspace.list",
            "workspace.glob",
            "workspace.hash",
            "ssh.exec-file",
            "ssh.upload",
        ],
    ),
    ("workspace.write", &["workspace.write", "ssh.download"]),
    ("handoff.read", &["handoff.get"]),
    ("handoff.write", &["handoff.put"]),
];

/// Runs the guest with these capabilities and gives what each call said.
async fn said_with(capabilities: &[&str]) -> BTreeMap<String, String> {
    let cluster = Cluster::start().await;
    let list: Vec<String> = capabilities
        .iter()
        .map(|name| format!("\"{name}\""))
        .collect();
    let grant = format!(
        "[[grant]]\nplugin = \"powers\"\ncapabilities = [{}]\n",
        list.join(", ")
    );
    let ended = cluster.guest("powers").granted(&grant).ended().await;
    ended.assert(0, "succeeded");
    let told = ended.stderr.lines().filter_map(|line| {
        let (_, line) = line.split_once(' ')?;
        let (call, code) = line.split_once(": ")?;
        let is_call = call.contains('.') && !call.contains(' ');
        is_call.then(|| (call.to_owned(), code.to_owned()))
    });
    told.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_capability_exactly_its_calls_are_denied() {
    let all: Vec<&str> = POWERS.iter().map(|(capability, _)| *capability).collect();
    let everything = said_with(&all).await;
    assert_eq!(everything["secrets.open"], "run.not-granted");
    assert_eq!(everything["cluster.adopt-config"], "handoff.vm-config");
    for (capability, denied) in POWERS {
        let others: Vec<&str> = all.iter().copied().filter(|it| *it != capability).collect();
        let said = said_with(&others).await;
        for call in denied {
            assert_eq!(
                said.get(*call).map(String::as_str),
                Some("run.not-granted"),
                "{call} without {capability}: {said:#?}"
            );
        }
        for (call, code) in &said {
            let expected = denied.contains(&call.as_str()) || *call == "secrets.open";
            assert_eq!(
                code == "run.not-granted",
                expected,
                "{call} without {capability}: {code}"
            );
        }
    }
    let nothing = said_with(&[]).await;
    assert!(nothing.len() >= 9, "{nothing:#?}");
    assert!(
        nothing.values().all(|code| code == "run.not-granted"),
        "{nothing:#?}"
    );
}

async fn forger(how: &str, prepare: impl FnOnce(Step) -> Step) -> Ended {
    let cluster = Cluster::start().await;
    let ended = prepare(cluster.guest("forger").param("how", how))
        .ended()
        .await;
    cluster.assert_purged();
    ended
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handle_that_is_not_the_guests_ends_the_guest() {
    for how in ["forged", "dropped", "reused", "of-another-kind"] {
        let ended = forger(how, |step| step).await;
        ended.assert(213, "plugin-failed");
        ended.assert_says(&["plugin `forger` trapped: ", "handle", "purged `tekton-"]);
        assert!(!ended.stderr.contains("got "), "{ended}");
    }
}

/// What the guest `forger` tells of its calls.
fn told(ended: &Ended) -> BTreeMap<&str, &str> {
    let lines = ended.stderr.lines();
    let calls = lines.filter_map(|line| line.split_once(' ')?.1.split_once(": "));
    calls.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handle_of_another_run_is_none() {
    let cluster = Cluster::start().await;
    let first = cluster.guest("forger").param("how", "leak").ended().await;
    first.assert(0, "succeeded");
    let (_, rest) = first.stderr.split_once("got handle ").unwrap();
    let handle: String = rest.chars().take_while(char::is_ascii_digit).collect();
    let other = Cluster::start().await;
    let step = other.guest("forger").param("how", "of-another-run");
    let ended = step.param("handle", &handle).ended().await;
    ended.assert(213, "plugin-failed");
    ended.assert_says(&["plugin `forger` trapped: ", "handle"]);
    assert!(!ended.stderr.contains("got "), "{ended}");
    other.assert_untouched();
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn handles_of_what_is_gone_reach_nothing() {
    // As a cluster does it, an address that is free is given to the next VM; and none is up when it has one.
    let cluster = Cluster::with(SimConfig {
        switches: Switches {
            port_numbers: PortNumbers::Cluster,
            ..Switches::default()
        },
        boot_delay: Duration::from_secs(1),
        ..Cluster::orka2()
    })
    .await;
    let ended = cluster
        .guest("forger")
        .param("how", "after-purge")
        .ended()
        .await;
    ended.assert(0, "succeeded");
    for (call, code) in [
        ("connecting", "ssh.vm-deleted"),
        ("wait", "ssh.lost"),
        ("detached", "ssh.lost"),
        ("exec", "ssh.vm-deleted"),
        ("connect", "ssh.vm-deleted"),
        ("upload", "ssh.vm-deleted"),
        ("download", "ssh.vm-deleted"),
        ("write", "ssh.vm-deleted"),
        // Gone is what was asked for.
        ("delete", "done"),
        ("deploy", "run.config-purged"),
    ] {
        assert_eq!(told(&ended)[call], code, "{ended}");
    }
    assert!(!ended.stderr.contains("was not removed"), "{ended}");
    cluster.assert_purged();
    let cluster = Cluster::start().await;
    let step = cluster.guest("forger").param("how", "after-sign-out");
    let ended = step.ended().await;
    ended.assert(0, "succeeded");
    for call in ["images", "sign-in", "create-config", "deploy"] {
        assert_eq!(told(&ended)[call], "run.signed-out", "{ended}");
    }
    cluster.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn wasi_gives_no_variable_no_file_and_no_network() {
    let cluster = Cluster::start().await;
    let url = cluster.sim.url().to_string();
    let (_, port) = url.trim_end_matches('/').rsplit_once(':').unwrap();
    let step = cluster.guest("wasi-powers").param("how", "look");
    let ended = step
        .param("port", port)
        .environment("OF_THE_HOST", "seen")
        .ended()
        .await;
    ended.assert(0, "succeeded");
    let said = told(&ended);
    for (what, found) in [
        ("variables", "0"),
        ("arguments", "0"),
        ("directory", "None"),
        ("directories", "0"),
        ("input", "none"),
    ] {
        assert_eq!(said[what], found, "{ended}");
    }
    for (what, code) in [
        ("name", "permanent-resolver-failure"),
        ("connection", "access-denied"),
        ("listening", "access-denied"),
    ] {
        assert!(said[what].contains(code), "{ended}");
    }
    cluster.assert_untouched();
}

#[tokio::test(flavor = "multi_thread")]
async fn wasi_is_held_to_the_limits_of_the_contract() {
    let cluster = Cluster::start().await;
    let powers = |how: &str| cluster.guest("wasi-powers").param("how", how);
    let waits = powers("wait").flag("--timeout", "2s").ended().await;
    waits.assert(218, "timed-out");
    assert!(waits.took < Duration::from_secs(12), "{waits}");
    let limited = powers("hoard").argument("--limit").argument("handles=100");
    let hoards = limited.ended().await;
    hoards.assert(213, "plugin-failed");
    hoards.assert_says(&["it kept more than 100 resources", "`--limit handles=200`"]);
    let much = powers("much").ended().await;
    much.assert(213, "plugin-failed");
    much.assert_says(&[
        "it asked the host for 1099511627776 KiB in one call and may have 8192",
        "`--limit host-call-kib=16384`",
    ]);
    cluster.assert_untouched();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_structural_limit_is_told_with_its_number_and_its_flag() {
    for (limit, said, flag) in [
        ("instances=1", "it is made of ", "`--limit instances="),
        (
            "table-elements=1",
            "it wanted tables of ",
            "`--limit table-elements=",
        ),
        ("tables=1", "it is made of ", "`--limit tables="),
        (
            "memories=1",
            "it is made of 2 memories and may have 1",
            "`--limit memories=2`",
        ),
        (
            "memory-mib=1",
            "MiB of memory and may have 1",
            "`--limit memory-mib=",
        ),
    ] {
        let cluster = Cluster::start().await;
        let step = cluster.guest("powers");
        let powers = std::fs::read(guest("powers")).unwrap();
        let file = step.scratch_file("powers.wasm", &with_another_memory(powers));
        let ended = step
            .flag("--plugin", file)
            .argument("--limit")
            .argument(limit)
            .ended()
            .await;
        ended.assert(213, "plugin-failed");
        ended.assert_says(&["plugin `powers` was stopped: ", said, flag]);
        cluster.assert_untouched();
    }
    let limited = |limit: &'static str| move |step: Step| step.argument("--limit").argument(limit);
    let shouted = forger("shout", limited("host-call-kib=1024")).await;
    shouted.assert(213, "plugin-failed");
    shouted.assert_says(&[
        "it handed more than 1024 KiB to the host in one call",
        "`--limit host-call-kib=2048`",
    ]);
    let fits = forger("shout", |step| step).await;
    fits.assert(0, "succeeded");
    let connected = forger("connect", limited("connections=3")).await;
    connected.assert(0, "succeeded");
    connected.assert_says(&["got 3 connections, then run.too-many-connections"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_at_once_are_limited_to_what_is_given() {
    let cluster = Cluster::start().await;
    let step = cluster
        .guest("flood")
        .environment("ORKA_LIMITS", "commands=5,connections=9");
    let ended = step.ended().await;
    // The one that was dropped before may not have ended yet.
    let counts = [
        "after 5: run.too-many-commands",
        "after 4: run.too-many-commands",
    ];
    assert!(
        counts.iter().any(|count| ended.stderr.contains(count)),
        "{ended}"
    );
    cluster.assert_purged();
}

/// The component with one core instance more, which has a memory.
fn with_another_memory(mut component: Vec<u8>) -> Vec<u8> {
    let mut depth = 0;
    let mut modules = 0;
    for payload in wasmparser::Parser::new(0).parse_all(&component) {
        match payload.unwrap() {
            Payload::ModuleSection { .. } => {
                modules += u32::from(depth == 0);
                depth += 1;
            }
            Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) if depth > 0 => depth -= 1,
            _ => {}
        }
    }
    let mut memories = MemorySection::new();
    memories.memory(MemoryType {
        minimum: 1,
        maximum: None,
        memory64: false,
        shared: false,
        page_size_log2: None,
    });
    let mut module = Module::new();
    module.section(&memories);
    ModuleSection(&module).append_to_component(&mut component);
    let mut instances = InstanceSection::new();
    let nothing: [(&str, ModuleArg); 0] = [];
    instances.instantiate(modules, nothing);
    instances.append_to_component(&mut component);
    component
}

/// A component of this world, with a manifest that asks for nothing.
fn odd(wit: &str) -> Vec<u8> {
    let mut bytes = component(wit);
    let manifest = br#"{"schema":1,"plugin":{"name":"odd","version":"1.0.0","contract":"0.1","description":"x"}}"#;
    let section = CustomSection {
        name: "orka:plugin-manifest".into(),
        data: manifest.as_slice().into(),
    };
    section.append_to(&mut bytes);
    bytes
}

async fn refused(wit: &str, texts: &[&str]) {
    let cluster = Cluster::start().await;
    let step = cluster.run();
    let file = step.scratch_file("odd.wasm", &odd(wit));
    let ended = step.flag("--plugin", file.clone()).ended().await;
    ended.assert(212, "plugin-failed");
    ended.assert_says(texts);
    cluster.assert_untouched();
    let checked = Step::new(&["plugin", "check", &file]).ended().await;
    assert_eq!(checked.code, Some(212), "{checked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_outside_the_world_is_refused_and_one_that_differs_is_told_item_by_item() {
    let policy = "interface types { record error-info { code: string, message: string, hint: option<string>, retryable: bool, \
        retry-after-ms: option<u64>, request-id: option<string>, details: list<tuple<string, string>> } \
        variant error { invalid(error-info), denied(error-info), not-found(error-info), conflict(error-info), \
        no-capacity(error-info), unauthenticated(error-info), unavailable(error-info), timed-out(error-info), \
        cancelled(error-info), other(error-info) } record exit-signal { name: string, core-dumped: bool } \
        variant exit { status(u32), signal(exit-signal) } } \
        interface policy { use types.{error, exit}; variant verdict { succeeded, build-failed(exit) } \
        run: func() -> result<verdict, error>; }";
    let world = |imports: &str| {
        format!("package orka:plugin@0.1.0; {policy} world plugin {{ {imports} export policy; }}")
    };
    for (imports, said) in [
        (
            "import net: interface { connect: func(); }",
            "imports `net`",
        ),
        (
            "import getenv: func(name: string) -> string;",
            "imports `getenv`",
        ),
    ] {
        refused(&world(imports), &[said, "is not part of the contract"]).await;
    }
    let clock = |body: &str| {
        format!(
            "package orka:plugin@0.1.0; {policy} interface clock {{ {body} }} world plugin {{ import clock; export policy; }}"
        )
    };
    for (body, said) in [
        (
            "warp: func(years: u32);",
            "orka:plugin/clock.warp: it wants `func(years: u32)`, this host has nothing of the kind",
        ),
        (
            "now-ms: func(zone: string) -> u64;",
            "orka:plugin/clock.now-ms: it wants `func(zone: string) -> u64`, this host has `func() -> u64`",
        ),
    ] {
        refused(
            &clock(body),
            &["does not fit this host", "what differs", said],
        )
        .await;
    }
    let network = format!(
        "package orka:plugin@0.1.0; {policy} interface network {{ connect: func(); }} world plugin {{ import network; export policy; }}"
    );
    refused(&network, &["odd.wasm` does not fit this host: orka:plugin/network: it wants the interface, this host has nothing of the kind"]).await;
}

/// Of WASI, and of the guards' side of the contract: a rebuild would be no help.
#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_no_plugin_is_lent_is_told_with_what_there_is() {
    let with = |package: &str, interface: &str, body: &str| {
        let (name, version) = package.split_once('@').unwrap();
        let nested = format!("package {name}@{version} {{ interface {interface} {{ {body} }} }}");
        odd(&format!(
            "package orka:plugin@0.1.0; interface policy {{ run: func(); }} \
             world plugin {{ import {name}/{interface}@{version}; export policy; }} {nested}"
        ))
    };
    for (package, interface, body, said) in [
        (
            "wasi:http@0.2.0",
            "types",
            "get: func(url: string);",
            "imports `wasi:http/types@0.2.0`; this host has no such interface",
        ),
        (
            "wasi:cli@0.3.0",
            "environment",
            "get-arguments: func() -> list<string>;",
            "imports `wasi:cli/environment@0.3.0`; this host has no such interface",
        ),
        (
            "wasi:sockets@0.2.0",
            "tcp",
            "dial: func(host: string);",
            "does not fit this host: what it imports of `wasi:sockets/tcp@0.2.0` is not what this host has",
        ),
    ] {
        let cluster = Cluster::start().await;
        let step = cluster.run();
        let file = step.scratch_file("odd.wasm", &with(package, interface, body));
        let ended = step.flag("--plugin", file).ended().await;
        ended.assert(212, "plugin-failed");
        ended.assert_says(&[said, "hint: of WASI this host lends 0.2 alone"]);
        assert!(!ended.stderr.contains("rebuild it"), "{ended}");
        cluster.assert_untouched();
    }
    let guard_log = "package orka:plugin@0.1.0; interface policy { run: func(); } \
        interface guard-log { log: func(message: string); } world plugin { import guard-log; export policy; }";
    refused(
        guard_log,
        &[
            "imports `orka:plugin/guard-log@0.1.0`, which is for guards",
            "orka:plugin/console",
        ],
    )
    .await;
}
