//! Two keys: what a plugin asks for, and what the operator grants.

use end_to_end::{Cluster, Ended, Step, guest};
use sha2::{Digest as _, Sha256};

/// The lines of the hint that belong into a grants file: as they stand in the log, without its time stamps.
fn pasted(ended: &Ended) -> String {
    let lines = ended.stderr.lines();
    let from_grant = lines.skip_while(|line| *line != "[[grant]]");
    let is_toml = |line: &&str| line.contains(" = ") || line.starts_with('[');
    from_grant
        .take_while(is_toml)
        .map(|line| format!("{line}\n"))
        .collect()
}

fn grabby(cluster: &Cluster) -> end_to_end::Step {
    let step = cluster
        .run()
        .flag("--plugin", guest("grabby").to_str().unwrap());
    let key = step.scratch_file("secrets/SIGNING_KEY", b"a-key-of-no-use");
    let directory = key.trim_end_matches("/SIGNING_KEY").to_owned();
    step.flag("--secrets", directory)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_plugin_has_nothing_and_the_hint_is_what_allows_it() {
    let cluster = Cluster::start().await;
    let denied = grabby(&cluster).ended().await;
    denied.assert(212, "denied");
    denied.assert_says(&[
        "plugin `grabby` asks for what it was not granted",
        "\"cluster.deploy\"",
        "\"SIGNING_KEY\"",
    ]);
    cluster.assert_untouched();
    let allowed = grabby(&cluster).granted(&pasted(&denied)).ended().await;
    allowed.assert(0, "succeeded");
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hint_for_one_plugin_allows_no_other() {
    let cluster = Cluster::start().await;
    let denied = grabby(&cluster).ended().await;
    let other = cluster
        .guest("liar")
        .granted(&pasted(&denied))
        .ended()
        .await;
    other.assert(212, "denied");
    cluster.assert_untouched();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_is_narrower_than_the_request_names_what_is_missing() {
    let cluster = Cluster::start().await;
    let narrow = "[[grant]]\nplugin = \"grabby\"\ncapabilities = [\"cluster.*\", \"workspace.read\"]\nsecrets = [\"SIGNING_KEY\"]\n";
    let ended = grabby(&cluster).granted(narrow).ended().await;
    ended.assert(212, "denied");
    ended.assert_says(&["\"ssh.exec\", \"ssh.transfer\", \"workspace.write\"\n"]);
    cluster.assert_untouched();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bundled_plugin_needs_no_grants_and_can_be_given_less() {
    let cluster = Cluster::start().await;
    let narrow = "[[grant]]\nplugin = \"build\"\ncapabilities = [\"cluster.*\", \"ssh.exec\"]\n";
    let ended = cluster
        .build("#!/bin/sh\ntrue\n")
        .granted(narrow)
        .ended()
        .await;
    ended.assert(212, "denied");
    ended.assert_says(&["\"ssh.transfer\", \"workspace.read\", \"workspace.write\""]);
    cluster.assert_untouched();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_only_has_the_name_of_a_bundled_one_has_no_stock_grant() {
    let cluster = Cluster::start().await;
    let step = cluster.build("#!/bin/sh\ntrue\n");
    let copy = step.scratch_file(
        "elsewhere/build.wasm",
        &std::fs::read(end_to_end::bundled("build")).unwrap(),
    );
    let directory = copy.trim_end_matches("/build.wasm").to_owned();
    let ended = step.flag("--plugin-dir", directory).ended().await;
    ended.assert(212, "denied");
    cluster.assert_untouched();
}

#[tokio::test(flavor = "multi_thread")]
async fn ceilings_hold_before_anything_is_deployed() {
    for (ceiling, said) in [
        ("images = [\"Ventura.*\"]", "image `Sonoma.orkasi`"),
        ("cpu-cores = 2", "3 CPU cores are above the 2 granted"),
        ("vms-total = 0", "as many as it may in all"),
        ("vms-at-once = 0", "as many as it may have at once"),
    ] {
        let cluster = Cluster::start().await;
        let grant = format!(
            "[[grant]]\nplugin = \"build\"\ncapabilities = [\"*\"]\n[grant.ceilings]\n{ceiling}\n"
        );
        let ended = cluster
            .build("#!/bin/sh\ntrue\n")
            .granted(&grant)
            .ended()
            .await;
        ended.assert(212, "denied");
        ended.assert_says(&[said, "[grant.ceilings]"]);
        assert!(
            cluster
                .sim
                .state()
                .requests_to("POST", "/resources/vm/deploy")
                .is_empty()
        );
        cluster.assert_nothing_left();
    }
}

/// Whatever lies above a ceiling: one exit code, one outcome, and the line of the file that would have to change.
#[tokio::test(flavor = "multi_thread")]
async fn every_ceiling_denies_what_lies_above_it_and_names_its_line() {
    /// Makes more than a mebibyte in two files.
    const LARGE: &str = "#!/bin/sh\nfor name in a b; do head -c 600000 /dev/zero >$name; done\n";
    type Above = fn(&Cluster) -> Step;
    let build: Above = |cluster| cluster.build("true");
    let artifacts: Above = |cluster| cluster.build(LARGE).param("artifacts", "*");
    let deploys: Above = |cluster| cluster.guest("deploys");
    let cases: [(&str, Above); 12] = [
        ("images = [\"Ventura*\"]", build),
        ("cpu-cores = 2", build),
        ("memory-mib = 1024", |cluster| {
            cluster.build("true").param("memory", "2")
        }),
        ("vms-at-once = 1", deploys),
        ("vms-total = 1", deploys),
        ("lifetime = \"1m\"", |cluster| {
            cluster.build("true").flag("--timeout", "2m")
        }),
        ("keep-max = \"30m\"", |cluster| {
            cluster.build("true").param("keep", "always")
        }),
        ("namespaces = [\"team-*\"]", build),
        ("programs = [\"mkdir\"]", build),
        ("workspace = \"read\"", build),
        ("artifacts-max-size = \"1Mi\"", artifacts),
        ("artifacts-max-count = 1", artifacts),
    ];
    for (ceiling, above) in cases {
        let cluster = Cluster::with(Cluster::orka3()).await;
        let name = ceiling.split(' ').next().unwrap();
        let grants = format!(
            "[[grant]]\nplugin = \"PLUGIN\"\ncapabilities = [\"*\"]\n[grant.ceilings]\n{ceiling}\n"
        );
        let plugin = if name.starts_with("vms-") {
            "deploys"
        } else {
            "build"
        };
        let ended = above(&cluster)
            .without("--grants")
            .granted(&grants.replace("PLUGIN", plugin))
            .ended()
            .await;
        ended.assert(212, "denied");
        let said = [format!("`{name}`"), "grants.toml:5".to_owned()];
        for text in said {
            assert!(ended.stderr.contains(&text), "{ceiling}: {text}: {ended}");
        }
        cluster.assert_nothing_left();
    }
}
fn pinned_to(digest: &str) -> String {
    format!("[[grant]]\nplugin = \"build\"\ndigest = \"{digest}\"\ncapabilities = [\"*\"]\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundled_plugin_that_is_pinned_to_another_file_is_denied() {
    let cluster = Cluster::start().await;
    let other = format!("sha256:{}", "0".repeat(64));
    let build = |text: &str| cluster.build("#!/bin/sh\ntrue\n").granted(text);
    let denied = build(&pinned_to(&other)).ended().await;
    denied.assert(212, "denied");
    let own = end_to_end::bundled("build");
    let own = hex::encode(Sha256::digest(std::fs::read(own).unwrap()));
    denied.assert_says(&[
        "plugin `build`, which came with this program, is not the file that its grants are for",
        &own,
        &format!("{other} at "),
        "grants.toml:3",
        "leave `digest` out",
    ]);
    cluster.assert_untouched();
    // One that fits, and what a run makes of itself, which has none.
    let first = build(&pinned_to(&format!("sha256:{own}"))).ended().await;
    first.assert(0, "succeeded");
    let report = first.scratch().join("report/run.json");
    let made = Step::new(&["grant", "--from-run", report.to_str().unwrap()])
        .ended()
        .await;
    assert!(
        made.stdout.contains("# Without a digest: `build`") && !made.stdout.contains("digest ="),
        "{made}"
    );
    build(&made.stdout).ended().await.assert(0, "succeeded");
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grants_file_without_a_word_of_a_bundled_plugin_is_warned_of() {
    let cluster = Cluster::start().await;
    for (text, told) in [
        (
            "",
            vec!["has no entry", "has all that it needs, with no ceiling"],
        ),
        (
            "[[grant]]\nplugin = \"biuld\"\n",
            vec!["is about it", "is `biuld` at ", "grants.toml:2 meant?"],
        ),
    ] {
        let ended = cluster
            .build("#!/bin/sh\ntrue\n")
            .granted(text)
            .ended()
            .await;
        ended.assert(0, "succeeded");
        ended.assert_says(&told);
        let file = ended.scratch().join("grants.toml");
        let file = file.to_str().unwrap();
        for command in ["inspect", "check"] {
            let shown = Step::new(&["plugin", command, "build", "--grants", file]);
            let shown = shown.ended().await;
            assert_eq!(shown.code, Some(0), "{shown}");
            let both = format!("{}{}", shown.stdout, shown.stderr);
            told.iter()
                .for_each(|told| assert!(both.contains(told), "{shown}"));
        }
        let doctor = cluster.doctor().flag("--grants", file).ended().await;
        let both = format!("{}{}", doctor.stdout, doctor.stderr);
        told.iter()
            .for_each(|told| assert!(both.contains(told), "{doctor}"));
    }
}

/// A shell's variable that is not set must not lift the rules; Tekton's empty parameters stay no more than that.
#[tokio::test(flavor = "multi_thread")]
async fn rules_that_are_typed_as_nothing_are_refused() {
    let cluster = Cluster::start().await;
    for (flag, value) in [
        ("--guard", ""),
        ("--guard", "allowed-vms,"),
        ("--guards", ""),
        ("--grants", ""),
    ] {
        let ended = cluster
            .build("#!/bin/sh\ntrue\n")
            .flag(flag, value)
            .ended()
            .await;
        assert_eq!(ended.code, Some(2), "{ended}");
        ended.assert_says(&[&format!("`{flag}` is empty"), "may not be set"]);
    }
    cluster.assert_untouched();
    let mut step = cluster.build("#!/bin/sh\ntrue\n");
    for variable in ["ORKA_GUARD", "ORKA_GUARDS", "ORKA_GRANTS"] {
        step = step.environment(variable, "");
    }
    step.ended().await.assert(0, "succeeded");
}

/// Orka 3 counts memory in tenths of a GiB, and must not be sent more of them than the ceiling has.
#[tokio::test(flavor = "multi_thread")]
async fn memory_is_not_rounded_beyond_its_ceiling() {
    let grant = "[[grant]]\nplugin = \"build\"\ncapabilities = [\"*\"]\n[grant.ceilings]\nmemory-mib = 10000\n";
    let cluster = Cluster::with(Cluster::orka3()).await;
    let build = |memory: &str| {
        let step = cluster.build("#!/bin/sh\ntrue\n").granted(grant);
        step.param("memory", memory)
    };
    for memory in ["9.76", "0"] {
        build(memory).ended().await.assert(0, "succeeded");
    }
    build("9.8").ended().await.assert(212, "denied");
    let requests = cluster.sim.state().requests;
    let bodies = requests
        .iter()
        .filter_map(|it| serde_json::from_str::<serde_json::Value>(&it.body).ok());
    let sent: Vec<_> = bodies
        .filter_map(|body| body.get("memory")?.as_f64())
        .collect();
    assert_eq!(sent, [9.7, 9.7]);
    cluster.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_ends_at_its_grants_lifetime_is_told_the_line() {
    let cluster = Cluster::start().await;
    let grant = "[[grant]]\nplugin = \"build\"\ncapabilities = [\"*\"]\n[grant.ceilings]\nlifetime = \"3s\"\n";
    let step = cluster.build("#!/bin/sh\nsleep 60\n").granted(grant);
    let ended = step.without("--timeout").ended().await;
    ended.assert(218, "timed-out");
    ended.assert_says(&["the operator can raise `lifetime`", "grants.toml:5"]);
    assert!(!ended.stderr.contains("raise `--timeout`"), "{ended}");
    cluster.assert_purged();
}
