//! `orka-step reap`: what of a run that was killed goes, and what stays.

use std::collections::BTreeSet;
use std::time::Duration;

use end_to_end::{Cluster, Ended, Stream, hash, name, uid};
use orka_sim::{FaultAction, FaultRule, Occurrence, Seed, SeedKind, SimConfig, Switches};
use rustix::process::Signal;

const HOUR: Duration = Duration::from_secs(3600);

async fn both() -> [Cluster; 2] {
    [
        Cluster::start().await,
        Cluster::with(Cluster::orka3()).await,
    ]
}

/// Three VMs of a run, of two pods: one that runs, one that is still being deployed, one that failed.
fn three_of(run: &str) -> Vec<Seed> {
    vec![
        Seed::vm(name("tekton", run, "pod-a", 1), Duration::ZERO),
        Seed::vm(name("tekton", run, "pod-a", 2), HOUR).of_kind(SeedKind::Pending),
        Seed::vm(name("tekton", run, "pod-b", 1), 9 * HOUR).of_kind(SeedKind::Failed),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_run_goes_whole_and_no_other_run_is_touched() {
    for cluster in both().await {
        let (run, other) = (uid("run"), uid("other"));
        cluster.sim.seed(three_of(&run));
        cluster.sim.seed(three_of(&other));
        cluster.sim.seed([
            Seed::vm(name("tekton-ci", &run, "pod-a", 1), HOUR),
            Seed::vm("somebody-elses", HOUR),
        ]);
        let before = cluster.names();
        let ended = cluster
            .reap()
            .environment("ORKA_RUN_UID", &run)
            .argument("--json")
            .ended()
            .await;
        assert_eq!(ended.code, Some(0), "{ended}");
        let mine: BTreeSet<String> = three_of(&run).into_iter().map(|seed| seed.name).collect();
        assert_eq!(&before - &cluster.names(), mine, "{ended}");
        let summary = ended.summary();
        assert_eq!(summary["counts"]["deleted"], 3);
        assert_eq!(summary["counts"]["remaining"], 0);
        assert_eq!(summary["counts"]["otherRuns"], 3);
        assert_eq!(summary["counts"]["foreign"], 2);
        assert_eq!(summary["runs"][0]["hash"], hash(&run));
        assert_eq!(cluster.sim.state().live_tokens(), 0, "signed out");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_without_a_vm_goes_with_its_run() {
    let cluster = Cluster::with(SimConfig {
        switches: Switches {
            list_hides_failed: true,
            ..Switches::default()
        },
        ..Cluster::orka2()
    })
    .await;
    let run = uid("run");
    cluster.sim.seed([
        Seed::vm(name("tekton", &run, "pod", 1), HOUR).of_kind(SeedKind::ConfigOnly),
        // Its deployment failed, so that the list of VMs does not show it.
        Seed::vm(name("tekton", &run, "pod", 2), HOUR).of_kind(SeedKind::Failed),
    ]);
    let ended = cluster.reap().flag("--run", &run).ended().await;
    assert_eq!(ended.code, Some(0), "{ended}");
    cluster.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_left_nothing_is_no_failure() {
    for cluster in both().await {
        let ended = cluster.reap().flag("--run", uid("run")).ended().await;
        assert_eq!(ended.code, Some(0), "{ended}");
        assert!(
            ended.stdout.contains("0 deleted, 0 may still exist"),
            "{ended}"
        );
    }
}

/// A run that was told no UID has a hash that follows from none, and says it while there is time.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_without_a_uid_says_at_its_start_what_deletes_it_after_sigkill() {
    for cluster in both().await {
        let other = name("tekton", &uid("other"), "pod", 1);
        cluster.sim.seed([Seed::vm(&other, HOUR)]);
        let mut running = cluster
            .build("#!/bin/sh\necho running\nsleep 300\n")
            .start();
        running.says(Stream::Stdout, "running\n").await;
        running.signal(Signal::KILL);
        let killed = running.ended().await;
        let made: BTreeSet<String> = &cluster.names() - &BTreeSet::from([other.clone()]);
        assert!(!made.is_empty(), "{killed}");
        let (_, rest) = killed.stderr.split_once("`orka-step reap ").unwrap();
        let (arguments, _) = rest.split_once('`').unwrap();
        assert_eq!(killed.stderr.matches("was told no UID").count(), 1);
        let ended = arguments
            .split(' ')
            .fold(cluster.reap(), |reap, argument| reap.argument(argument))
            .argument("--json")
            // Of the step that it is typed in.
            .environment("ORKA_RUN_UID", &uid("other"))
            .ended()
            .await;
        assert_eq!(ended.code, Some(0), "{ended}");
        assert_eq!(cluster.names(), BTreeSet::from([other]), "{ended}");
        assert!(ended.summary()["runs"][0].get("uid").is_none(), "{ended}");
        ended.assert_says(&["`ORKA_RUN_UID` is not looked at"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hash_is_no_uid_and_a_uid_no_hash_and_nothing_goes_by_the_wrong_one() {
    let cluster = Cluster::start().await;
    let run = uid("run");
    let made = name("tekton", &run, "pod", 1);
    // A UID that looks like the hash of the other.
    let odd = hash(&run);
    let of_odd = name("tekton", &odd, "pod", 1);
    cluster
        .sim
        .seed([Seed::vm(&made, HOUR), Seed::vm(&of_odd, HOUR)]);
    let left = |names: &[&String]| {
        names
            .iter()
            .map(|it| (*it).clone())
            .collect::<BTreeSet<_>>()
    };
    let reap = |flag: &str, value: &str| cluster.reap().flag(flag, value).ended();
    let ended = reap("--run", &odd).await;
    assert_eq!(ended.code, Some(0), "{ended}");
    assert!(!ended.stderr.contains("looks like"), "{ended}");
    assert_eq!(cluster.names(), left(&[&made]), "{ended}");
    for (given, looks_like) in [
        (&odd, "looks like the hash of a run"),
        (&made, "looks like a name"),
    ] {
        let ended = reap("--run", given).await;
        assert_eq!(ended.code, Some(0), "{ended}");
        ended.assert_says(&[looks_like, &format!("`--run-hash {odd}`")]);
        assert_eq!(cluster.names(), left(&[&made]), "{ended}");
    }
    for wrong in [run.as_str(), &made, "", "0A1B2C3D", "0a1b2c3"] {
        let ended = reap("--run-hash", wrong).await;
        assert_eq!(ended.code, Some(211), "{ended}");
        ended.assert_says(&["which is no hash of a run"]);
    }
    let ended = reap("--run-hash", &odd).await;
    assert_eq!(ended.code, Some(0), "{ended}");
    cluster.assert_nothing_left();
    let both = cluster
        .reap()
        .flag("--run-hash", &odd)
        .flag("--live-pods", "-");
    assert_eq!(both.ended().await.code, Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_on_purpose_stays_until_it_expires_or_is_asked_for() {
    let cluster = Cluster::with(Cluster::orka3()).await;
    let run = uid("run");
    let kept = name("tekton", &run, "pod", 1);
    let expired = name("tekton", &run, "pod", 2);
    let key = "orka-step-kept-until";
    cluster.sim.seed([
        Seed::vm(&kept, HOUR).with(key, "2999-01-01T00:00:00Z"),
        Seed::vm(&expired, HOUR).with(key, "2026-01-01T00:00:00Z"),
    ]);
    let ended = cluster.reap().flag("--run", &run).ended().await;
    assert_eq!(ended.code, Some(0), "{ended}");
    assert_eq!(cluster.names(), BTreeSet::from([kept.clone()]));
    let line = format!("left         {kept}");
    assert!(ended.stdout.contains(&line), "{ended}");
    assert!(
        ended.stdout.contains("kept on purpose until 2999-01-01"),
        "{ended}"
    );
    let ended = cluster
        .reap()
        .flag("--run", &run)
        .argument("--include-kept")
        .ended()
        .await;
    assert_eq!(ended.code, Some(0), "{ended}");
    cluster.assert_nothing_left();
}

/// On Orka 2 no list tells of it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_ledger_says_is_kept_stays_until_it_expires() {
    for cluster in both().await {
        let run = uid("run");
        let (kept, expired) = (
            name("tekton", &run, "pod", 1),
            name("tekton", &run, "pod", 2),
        );
        cluster
            .sim
            .seed([Seed::vm(&kept, HOUR), Seed::vm(&expired, HOUR)]);
        let step = cluster.reap().flag("--run", &run);
        let line = |name: &str, expires: &str| {
            let at = "2026-01-01T00:00:00Z";
            let kept = serde_json::json!({"expires": expires, "reason": "to look at it", "address": "10.0.0.1",
                "ssh-port": 8822, "login": "ssh"});
            let created = serde_json::json!({"at": at, "name": name, "thing": "vm", "state": "created", "instance": name});
            let held = serde_json::json!({"at": at, "name": name, "thing": "vm", "state": "kept", "instance": name,
                "kept": kept});
            format!("{created}\n{held}\n")
        };
        let ledger = line(&kept, "2999-01-01T00:00:00Z") + &line(&expired, "2026-01-02T00:00:00Z");
        let step = step.file(
            &format!(".orka-step/{}/ledger-0a1b2c3d.jsonl", hash(&run)),
            ledger,
        );
        let workspace = step.workspace();
        let ended = step
            .flag("--ledger", workspace.to_str().unwrap())
            .ended()
            .await;
        assert_eq!(ended.code, Some(0), "{ended}");
        assert_eq!(cluster.names(), BTreeSet::from([kept.clone()]), "{ended}");
        let said = format!("left         {kept}");
        assert!(ended.stdout.contains(&said), "{ended}");
    }
    let cluster = Cluster::start().await;
    let missing = cluster
        .reap()
        .flag("--run", uid("run"))
        .flag("--ledger", "/no/such");
    assert_eq!(missing.ended().await.code, Some(211));
    cluster.assert_untouched();
}

/// What is kept may be on the line that nobody can read.
#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_cannot_be_read_keeps_everything_of_its_run() {
    let (run, other) = (uid("run"), uid("other"));
    let damaged = [
        "{\"at\":\"2026-01-01T00:00:00Z\",\"na\n\n{\"at\":\"2026-01-01T00:00:00Z\",\"name\":\"a\",\"thing\":\"vm\",\"state\":\"intent\"}\n",
        "{\"at\":\"2026-01-01T00:00:00Z\",\"head\":{\"version\":2,\"program\":\"later\",\"prefix\":\"tekton\",\"run\":\"r\",\"pod\":\"p\"}}\n",
    ];
    for cluster in both().await {
        for text in damaged {
            cluster
                .sim
                .seed([Seed::vm(name("tekton", &run, "pod", 1), HOUR)]);
            let before = cluster.names();
            let reap = |of: &str| {
                let path = format!(".orka-step/{}/ledger-0a1b2c3d.jsonl", hash(of));
                let step = cluster.reap().flag("--run", &run).file(&path, text);
                let workspace = step.workspace();
                step.flag("--ledger", workspace.to_str().unwrap())
            };
            let ended = reap(&run).ended().await;
            assert_eq!(ended.code, Some(211), "{text}: {ended}");
            ended.assert_says(&["ledger-0a1b2c3d.jsonl", "nothing was deleted"]);
            assert_eq!(cluster.names(), before, "{text}: {ended}");
            // Another run's says nothing of this one.
            let ended = reap(&other).ended().await;
            assert_eq!(ended.code, Some(0), "{text}: {ended}");
            assert!(cluster.sim.state().is_clean(), "{text}: {ended}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_changes_nothing_and_gives_the_reason_for_each() {
    for cluster in both().await {
        let run = uid("run");
        cluster.sim.seed(three_of(&run));
        cluster.sim.seed([Seed::vm("somebody-elses", HOUR)]);
        let before = cluster.names();
        let ended = cluster
            .reap()
            .flag("--run", &run)
            .argument("--dry-run")
            .argument("-v")
            .ended()
            .await;
        assert_eq!(ended.code, Some(0), "{ended}");
        assert_eq!(cluster.names(), before);
        assert!(
            cluster
                .sim
                .state()
                .requests_to("DELETE", "*/vm*")
                .is_empty(),
            "{ended}"
        );
        for seed in three_of(&run) {
            let line = format!("would delete {}", seed.name);
            assert!(ended.stdout.contains(&line), "{ended}");
        }
        assert!(ended.stdout.contains("its run was named"), "{ended}");
        assert!(
            ended.stdout.contains("foreign      somebody-elses"),
            "{ended}"
        );
        assert!(ended.stdout.contains("3 would be deleted"), "{ended}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_orka_fails_at_for_a_while_is_deleted_in_the_end() {
    let mut all = tokio::task::JoinSet::new();
    for action in [
        FaultAction::Error {
            status: 500,
            message: "etcdserver: request timed out".to_owned(),
        },
        FaultAction::HtmlPage { status: 503 },
        FaultAction::ResetBefore,
        FaultAction::CloseAfter,
        FaultAction::ResetAfter,
        FaultAction::RateLimit {
            retry_after: Some(1),
        },
        FaultAction::Garbage,
    ] {
        for cluster in both().await {
            let action = action.clone();
            all.spawn(async move {
                let run = uid("run");
                cluster.sim.seed(three_of(&run));
                let rule = FaultRule::new("DELETE", "*", action.clone()).on(Occurrence::Every(2));
                cluster.sim.add_fault(rule.times(6));
                let ended = cluster.reap().flag("--run", &run).ended().await;
                assert_eq!(ended.code, Some(0), "{action:?}: {ended}");
                assert!(cluster.sim.state().is_clean(), "{action:?}: {ended}");
            });
        }
    }
    while let Some(one) = all.join_next().await {
        one.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_cannot_be_deleted_is_named_and_holds_up_no_other() {
    let cluster = Cluster::with(Cluster::orka3()).await;
    let run = uid("run");
    let seeds = three_of(&run);
    let stuck = seeds[0].name.clone();
    cluster.sim.seed(seeds);
    let path = format!("/api/v1/namespaces/orka-default/vms/{stuck}");
    let refused = FaultAction::Error {
        status: 500,
        message: "the operator is down".to_owned(),
    };
    cluster
        .sim
        .add_fault(FaultRule::new("DELETE", &path, refused));
    // One slot: the one that fails gives it to the others.
    let ended = cluster
        .reap()
        .flag("--run", &run)
        .flag("--timeout", "20s")
        .flag("--parallel", "1")
        .argument("--json")
        .ended()
        .await;
    assert_eq!(ended.code, Some(219), "{ended}");
    assert_eq!(cluster.names(), BTreeSet::from([stuck.clone()]));
    let summary = ended.summary();
    let entries = summary["entries"].as_array().unwrap();
    let entry = entries
        .iter()
        .find(|it| it["name"] == stuck.as_str())
        .unwrap();
    assert_eq!(entry["result"], "remains");
    assert_eq!(entry["removalCommand"], format!("orka3 vm delete {stuck}"));
    let message = entry["failure"]["message"].as_str().unwrap();
    assert!(!message.is_empty(), "{ended}");
    assert_eq!(summary["counts"]["deleted"], 2);
    assert_eq!(summary["exitCode"], 219);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orka_that_cannot_be_listed_is_told_and_nothing_is_deleted() {
    for (cluster, path) in [
        (Cluster::start().await, "/resources/vm/configs"),
        (
            Cluster::with(Cluster::orka3()).await,
            "/api/v1/namespaces/orka-default/vms",
        ),
    ] {
        let run = uid("run");
        cluster.sim.seed(three_of(&run));
        let before = cluster.names();
        cluster.sim.add_fault(FaultRule::new(
            "GET",
            path,
            FaultAction::HtmlPage { status: 503 },
        ));
        let ended = cluster
            .reap()
            .flag("--run", &run)
            .flag("--timeout", "4s")
            .ended()
            .await;
        assert_eq!(ended.code, Some(214), "{ended}");
        assert_eq!(cluster.names(), before, "{ended}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_was_under_way_is_caught_when_it_appears() {
    for cluster in both().await {
        let run = uid("run");
        let late = name("tekton", &run, "pod", 1);
        let mut running = cluster.reap().flag("--run", &run).argument("-v").start();
        running.says(Stream::Stderr, "nothing of it so far").await;
        cluster.sim.seed([Seed::vm(&late, Duration::ZERO)]);
        let ended = running.ended().await;
        assert_eq!(ended.code, Some(0), "{ended}");
        assert!(
            ended.stdout.contains(&format!("deleted      {late}")),
            "{ended}"
        );
        assert!(cluster.sim.state().is_clean(), "{ended}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_reapers_at_once_both_succeed() {
    for cluster in both().await {
        let run = uid("run");
        let seeds = (1..=60).map(|number| Seed::vm(name("tekton", &run, "pod", number), HOUR));
        cluster.sim.seed(seeds);
        let one = cluster
            .reap()
            .flag("--run", &run)
            .argument("--json")
            .start();
        let other = cluster
            .reap()
            .flag("--run", &run)
            .argument("--json")
            .start();
        let (one, other) = tokio::join!(one.ended(), other.ended());
        let gone = |ended: &Ended| {
            let counts = &ended.summary()["counts"];
            counts["deleted"].as_u64().unwrap() + counts["alreadyGone"].as_u64().unwrap()
        };
        assert_eq!((one.code, other.code), (Some(0), Some(0)), "{one}{other}");
        assert!(gone(&one).max(gone(&other)) == 60, "{one}{other}");
        assert!(cluster.sim.state().is_clean());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_it_cleanly_and_what_is_left_is_named() {
    for cluster in both().await {
        let run = uid("run");
        let seeds = (1..=40).map(|number| Seed::vm(name("tekton", &run, "pod", number), HOUR));
        cluster.sim.seed(seeds);
        cluster.sim.add_fault(FaultRule::new(
            "DELETE",
            "*/vm*",
            FaultAction::Delay { ms: 400 },
        ));
        let mut running = cluster
            .reap()
            .flag("--run", &run)
            .flag("--parallel", "2")
            .argument("--json")
            .start();
        running.says(Stream::Stderr, "deleted `tekton-").await;
        running.signal(Signal::TERM);
        let ended = running.ended().await;
        assert_eq!(ended.code, Some(143), "{ended}");
        assert!(ended.took < Duration::from_secs(12), "{ended}");
        let summary = ended.summary();
        let remaining: BTreeSet<String> = summary["entries"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|entry| entry["result"] == "remains")
            .map(|entry| entry["name"].as_str().unwrap().to_owned())
            .collect();
        assert!(!remaining.is_empty(), "{ended}");
        assert_eq!(remaining, cluster.names(), "{ended}");
        assert_eq!(cluster.sim.state().live_tokens(), 0, "signed out");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_timeout_bounds_the_whole_pass() {
    let cluster = Cluster::start().await;
    let run = uid("run");
    cluster.sim.seed(three_of(&run));
    cluster.sim.add_fault(FaultRule::new(
        "DELETE",
        "/resources/vm/purge",
        FaultAction::Hang,
    ));
    let ended = cluster
        .reap()
        .flag("--run", &run)
        .flag("--timeout", "3s")
        .ended()
        .await;
    assert_eq!(ended.code, Some(219), "{ended}");
    assert!(ended.took < Duration::from_secs(9), "{ended}");
    for seed in three_of(&run) {
        let line = format!("may remain   {}", seed.name);
        assert!(ended.stdout.contains(&line), "{ended}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_run_is_refused_before_anything_is_asked() {
    let cluster = Cluster::start().await;
    for wrong in ["", "  ", "$(context.pipelineRun.uid)", "two words"] {
        let ended = cluster.reap().flag("--run", wrong).ended().await;
        assert_eq!(ended.code, Some(211), "{wrong:?}: {ended}");
        ended.assert_says(&[
            "`--run`",
            "hint: give what the run was given as `--run-uid`",
        ]);
    }
    let ended = cluster.reap().ended().await;
    assert_eq!(ended.code, Some(2), "{ended}");
    let both = cluster
        .reap()
        .flag("--run", uid("run"))
        .flag("--live-pods", "-");
    assert_eq!(both.ended().await.code, Some(2));
    let neither_typed = cluster
        .reap()
        .environment("ORKA_RUN_UID", "a")
        .environment("ORKA_LIVE_PODS", "-");
    let neither_typed = neither_typed.ended().await;
    assert_eq!(neither_typed.code, Some(2));
    neither_typed.assert_says(&["are both given", "Usage: orka-step reap "]);
    cluster.assert_untouched();
}

/// A variable may be set for other commands of the same pod.
#[tokio::test(flavor = "multi_thread")]
async fn a_variable_gives_way_to_a_flag_that_means_something_else() {
    let cluster = Cluster::start().await;
    let runs = cluster
        .reap()
        .flag("--run", uid("run"))
        .environment("ORKA_LIVE_PODS", "/nowhere");
    let runs = runs.ended().await;
    assert_eq!(runs.code, Some(0), "{runs}");
    runs.assert_says(&["`ORKA_LIVE_PODS` is not looked at"]);
    // One that is empty says nothing.
    let runs = cluster
        .reap()
        .flag("--run", uid("run"))
        .environment("ORKA_LIVE_PODS", "");
    let runs = runs.ended().await;
    assert_eq!(runs.code, Some(0), "{runs}");
    assert!(!runs.stderr.contains("is not looked at"), "{runs}");
    let pods = cluster
        .reap()
        .flag("--live-pods", "/nowhere")
        .environment("ORKA_RUN_UID", &uid("run"));
    let pods = pods.ended().await;
    assert_eq!(pods.code, Some(211), "{pods}");
    pods.assert_says(&[
        "`ORKA_RUN_UID` is not looked at",
        "cannot read live pods from `/nowhere`",
    ]);
    let pods = cluster
        .reap()
        .flag("--live-pods", "/nowhere")
        .environment("ORKA_RUN_UID", "");
    let pods = pods.ended().await;
    assert_eq!(pods.code, Some(211), "{pods}");
    assert!(!pods.stderr.contains("is not looked at"), "{pods}");
}

#[tokio::test(flavor = "multi_thread")]
async fn declined_credentials_are_wrong_settings() {
    let cluster = Cluster::with(Cluster::orka3()).await;
    cluster.write_orka("token", "wrong");
    let ended = cluster.reap().flag("--run", uid("run")).ended().await;
    assert_eq!(ended.code, Some(211), "{ended}");
}

/// Whoever may deploy could otherwise keep a VM from every reaper, granted or not.
#[tokio::test(flavor = "multi_thread")]
async fn a_policy_cannot_write_what_the_reaper_goes_by() {
    let cluster = Cluster::with(Cluster::orka3()).await;
    let ended = cluster
        .build("#!/bin/sh\n")
        .param(
            "vm-metadata",
            "[{key: orka-step-kept-until, value: '2999-01-01'}]",
        )
        .ended()
        .await;
    ended.assert(211, "infra-failed");
    ended.assert_says(&["`orka-step-kept-until` is reserved for the host"]);
    cluster.assert_nothing_left();
}
