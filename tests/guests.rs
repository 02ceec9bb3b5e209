//! Plugins that misbehave: stopped, explained, and cleaned up after.

use std::time::Duration;

use end_to_end::{Cluster, Ended, Step};

/// Runs an odd guest to exit code 213, and expects its VM gone and each of `texts` said.
async fn assert_fails(name: &str, prepare: impl FnOnce(Step) -> Step, texts: &[&str]) -> Ended {
    let cluster = Cluster::start().await;
    let ended = prepare(cluster.guest(name)).ended().await;
    ended.assert(213, "plugin-failed");
    ended.assert_says(texts);
    ended.assert_says(&["hint: "]);
    assert!(!ended.results.contains_key("exit-status"), "{ended}");
    cluster.assert_purged();
    ended
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_computes_for_ever_is_stopped_at_its_limit() {
    let limited = |step: Step| step.argument("--limit").argument("cpu-seconds=2");
    let ended = assert_fails(
        "spin",
        limited,
        &[
            "plugin `spin` was stopped: it computed for 2 s without an end",
            "`--limit cpu-seconds=4`",
        ],
    )
    .await;
    assert!(ended.took < Duration::from_secs(20), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_allocates_for_ever_is_stopped_at_its_limit() {
    let limited = |step: Step| step.argument("--limit").argument("memory-mib=32");
    let texts = [
        "plugin `allocate` was stopped: it wanted ",
        "MiB of memory and may have 32",
        "`--limit memory-mib=",
    ];
    assert_fails("allocate", limited, &texts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_allocates_for_ever_is_stopped_without_a_limit_given() {
    assert_fails("allocate", |step| step, &["may have 256"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_panics_has_its_words_shown() {
    assert_fails(
        "panic",
        |step| step,
        &[
            "plugin `panic` panicked: ",
            "no target called `ipa` on port",
            "src/lib.rs",
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_traps_without_a_word_is_told_by_place_and_last_calls() {
    let texts = [
        "plugin `trap` trapped: it gave up without saying why",
        "in:\n",
        "guest_trap::give_up",
        "its last host calls",
        "cluster.deploy",
        "cleaned up: purged `tekton-",
    ];
    assert_fails("trap", |step| step, &texts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_calls_itself_for_ever_is_told_by_its_stack() {
    // Rust keeps a stack of its own in the guest's memory, which is the first to end here.
    let texts = ["plugin `recurse` trapped: ", "a stack that is too deep"];
    assert_fails("recurse", |step| step, &texts).await;
    let limited = |step: Step| step.argument("--limit").argument("stack-kib=64");
    let texts = [
        "plugin `recurse` was stopped: its stack grew beyond 64 KiB",
        "look for endless recursion",
        "`--limit stack-kib=128`",
    ];
    assert_fails("recurse", limited, &texts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_the_plugins_own_is_shown_with_its_hint() {
    let texts = [
        "error: the licence server said no",
        "hint: ask the licence team for a seat",
    ];
    let ended = assert_fails("error", |step| step, &texts).await;
    assert_eq!(ended.report["failures"][0]["code"], "licence.no-seat");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_that_the_host_never_gave_stays_the_plugins_own() {
    for code in [
        "orka.no-capacity",
        "run.cancelled",
        "run.deadline",
        "ssh.lost",
        "internal",
        "params.invalid",
    ] {
        assert_fails(
            "error",
            |step| step.param("code", code),
            &["the licence server said no"],
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_keeps_resources_without_end_is_stopped_at_its_limit() {
    for kind in ["sessions", "groups", "timers"] {
        let limited = |step: Step| {
            step.param("kind", kind)
                .argument("--limit")
                .argument("handles=100")
        };
        let texts = [
            "plugin `handles` was stopped: it kept more than 100 resources",
            "`--limit handles=200`",
        ];
        assert_fails("handles", limited, &texts).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_calls_the_host_for_ever_is_stopped_at_its_limit() {
    let limited = |step: Step| step.argument("--limit").argument("host-calls=500");
    let texts = [
        "plugin `calls` was stopped: it made more than 500 host calls",
        "`--limit host-calls=1000`",
    ];
    assert_fails("calls", limited, &texts).await;
    let few = |step: Step| step.argument("--limit").argument("host-calls=6");
    let refused = ["more than 6 host calls", "clock.sleep (refused)\n"];
    assert_fails("calls", few, &refused).await;
    // Lines of the log count, and do not push out the calls that tell what the plugin was about.
    let talks = |step: Step| limited(step).param("talk", "true");
    let texts = [texts[0], texts[1], "cluster.deploy"];
    assert_fails("calls", talks, &texts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_whose_output_nobody_takes_can_be_signalled_and_dropped_and_are_limited() {
    let cluster = Cluster::start().await;
    let ended = cluster.guest("flood").ended().await;
    ended.assert(0, "succeeded");
    ended.assert_says(&["signalled", "dropped"]);
    // The one that was dropped before may not have ended yet.
    let counts = [
        "after 64: run.too-many-commands",
        "after 63: run.too-many-commands",
    ];
    assert!(
        counts.iter().any(|count| ended.stderr.contains(count)),
        "{ended}"
    );
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn several_vms_are_deployed_side_by_side_used_and_all_purged() {
    for cluster in [
        Cluster::start().await,
        Cluster::with(Cluster::orka3()).await,
    ] {
        let ended = cluster.guest("several").ended().await;
        ended.assert(0, "succeeded");
        let mut ports: Vec<&str> = ended.stdout.lines().collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 3, "{ended}");
        for line in ports {
            let (label, port) = line.split_once(" hello from port ").unwrap();
            assert_eq!(label, format!("[{port}]"), "{ended}");
        }
        // Two of three programs failed, and no end but that of the one that was waited for is the run's.
        assert_eq!(ended.result("exit-status"), "0", "{ended}");
        assert_eq!(ended.report["vmsDeployed"], 3);
        let gone = cluster
            .sim
            .state()
            .deletions
            .iter()
            .filter(|it| it.kind == "vm")
            .count();
        assert_eq!(gone, 3);
        cluster.assert_purged();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_traps_has_what_it_said_on_standard_error_shown() {
    let texts = [
        "plugin `wasi` did not catch an exception: KeyError: 'ipa'\n",
        "the plugin's output:\n",
        "Traceback (most recent call last):\n",
        "KeyError: 'ipa'\n",
        "guest_wasi::give_up",
        "cleaned up: purged `tekton-",
    ];
    let ended = assert_fails("wasi", |step| step, &texts).await;
    let details = &ended.report["failures"][0]["details"];
    let output = details["the plugin's output"].as_str().unwrap();
    assert!(output.ends_with("an unexpected exception"), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_the_plugins_own_is_told_with_its_last_words() {
    let words = "Traceback:\n  File \"plugin.py\", line 3, in build\nthe licence server said no\n";
    let texts = [
        "error: the licence server said no\n",
        "its last words:\n",
        "  File \"plugin.py\", line 3, in build\n",
        "hint: ask the licence team for a seat\n",
    ];
    let ended = assert_fails("error", |step| step.param("last-words", words), &texts).await;
    let details = &ended.report["failures"][0]["details"];
    // What the message has already is not said twice.
    assert_eq!(
        details["its last words"], "Traceback:\n  File \"plugin.py\", line 3, in build",
        "{ended}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_leaves_through_wasi_is_told_by_its_status_and_last_words() {
    let texts = [
        "plugin `wasi` left through WASI's exit with status 1 instead of giving a verdict",
        "KeyError: 'ipa'\n",
        "its last host calls",
        "hint: return a verdict or an error from `policy.run`",
        "cleaned up: purged `tekton-",
    ];
    assert_fails("wasi", |step| step.param("exit", "true"), &texts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_returns_early_leaves_nothing() {
    for at in ["connect", "upload", "exec", "wait", "purge"] {
        let cluster = Cluster::start().await;
        let step = cluster.guest("steps").param("act", "return");
        let ended = step.param("at", at).ended().await;
        ended.assert(0, "succeeded");
        ended.assert_says(&["purged `tekton-", "token revoked"]);
        cluster.assert_purged();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_never_signs_out_does_not_keep_the_token() {
    for at in ["create-config", "sign-out"] {
        let cluster = Cluster::start().await;
        let step = cluster.guest("steps").param("act", "return");
        let ended = step.param("at", at).ended().await;
        ended.assert(0, "succeeded");
        ended.assert_says(&["token revoked"]);
        cluster.assert_nothing_left();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_deploys_without_end_is_stopped_at_its_ceiling() {
    for beside in ["false", "true"] {
        let cluster = Cluster::start().await;
        let step = cluster.guest("deploys").param("beside", beside);
        let ended = step.ended().await;
        ended.assert(212, "denied");
        ended.assert_says(&[
            "as many as it may have at once",
            "the operator can raise `vms-at-once`",
        ]);
        // A deployment that was under way when the guest gave up may never be heard of again.
        let said = [
            ended.stderr.contains("purged `tekton-"),
            ended.stderr.contains("may still appear"),
        ];
        assert!(said.contains(&true), "{ended}");
        cluster.assert_purged();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_waits_for_ever_in_a_host_call_ends_with_the_deadline() {
    for call in ["wait", "read-output", "wait-any", "sleep"] {
        let cluster = Cluster::start().await;
        let step = cluster.guest("blocks").param("in", call);
        let ended = step.flag("--timeout", "4s").ended().await;
        ended.assert(218, "timed-out");
        ended.assert_says(&["the run's own deadline has passed", "purged `tekton-"]);
        assert!(ended.took < Duration::from_secs(12), "{ended}");
        cluster.assert_purged();
    }
}

/// A guest that nobody runs proves nothing.
#[test]
fn every_guest_is_run_by_a_test() {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources: String = [here.to_owned(), here.join("../plugins/sdk/tests")]
        .iter()
        .flat_map(|folder| std::fs::read_dir(folder).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    let guests = std::fs::read_dir(here.join("guests"))
        .unwrap()
        .map(|entry| entry.unwrap());
    for guest in guests.filter(|entry| entry.path().join("plugin.toml").is_file()) {
        let name = guest.file_name().into_string().unwrap();
        assert!(
            sources.contains(&format!("\"{name}\""))
                || sources.contains(&format!("/{name}.wasm\"")),
            "no test runs the guest `{name}`"
        );
    }
}
