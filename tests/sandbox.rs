//! The sandbox as a table: imports, limits, capabilities and handles, each with what becomes of a guest that goes too far.

use std::collections::BTreeMap;

use end_to_end::{Cluster, Ended, Step};
use wasm_encoder::{CustomSection, Section as _};
use wit_component::{ComponentEncoder, StringEncoding, dummy_module, embed_component_metadata};
use wit_parser::{ManglingAndAbi, Resolve};

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
    for how in ["forged", "dropped", "of-another-kind"] {
        let ended = forger(how, |step| step).await;
        ended.assert(213, "plugin-failed");
        ended.assert_says(&["plugin `forger` trapped: ", "handle", "purged `tekton-"]);
        assert!(!ended.stderr.contains("got "), "{ended}");
    }
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
        (
            "memory-mib=1",
            "MiB of memory and may have 1",
            "`--limit memory-mib=",
        ),
    ] {
        let cluster = Cluster::start().await;
        let ended = cluster
            .guest("powers")
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

/// A component of this world, with a manifest that asks for nothing.
fn component(wit: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let package = resolve.push_str("plugin.wit", wit).unwrap();
    let world = resolve.select_world(&[package], Some("plugin")).unwrap();
    let mut module = dummy_module(&resolve, world, ManglingAndAbi::Standard32);
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8, false).unwrap();
    let mut encoder = ComponentEncoder::default();
    encoder.validate(true);
    let mut bytes = encoder.module(&module).unwrap().encode().unwrap();
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
    let file = step.scratch_file("odd.wasm", &component(wit));
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
            "orka:plugin/clock.warp: the plugin wants `func(years: u32)`, this host has nothing of the kind",
        ),
        (
            "now-ms: func(zone: string) -> u64;",
            "orka:plugin/clock.now-ms: the plugin wants `func(zone: string) -> u64`, this host has `func() -> u64`",
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
    refused(&network, &["orka:plugin/network: the plugin wants `the interface`, this host has nothing of the kind"]).await;
}
