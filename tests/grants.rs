//! Two keys: what a plugin asks for, and what the operator grants.

use end_to_end::{Cluster, Ended, guest};

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
