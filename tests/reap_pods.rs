//! `orka-step reap --live-pods`: what has no live pod goes, once it is old enough, and nothing else ever does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use end_to_end::{Cluster, Kubernetes, Refusal, Step, hash, name, uid};
use orka_sim::{Generation, Seed, SeedKind, SimConfig, Switches};
use serde_json::{Value, json};

const HOUR: Duration = Duration::from_secs(3600);

/// Names that look almost like ours.
const NEAR_MISSES: [&str; 14] = [
    "tekton-0a1b2c3d",
    "tekton-ci-0a1b2c3d-4e5f6071-1",
    "tekton-deadbeef-0a1b2c3d-4e5f6071-1",
    "jenkins-0a1b2c3d-4e5f6071-1",
    "tekto-0a1b2c3d-4e5f6071-1",
    "tektonn-0a1b2c3d-4e5f6071-1",
    "tekton-0a1b2c3-4e5f6071-1",
    "tekton-0a1b2c3d4-4e5f6071-1",
    "tekton-0a1b2c3d-4e5f607-1",
    "tekton-0a1b2c3d-4e5f607g-1",
    "tekton-0a1b2c3d-4e5f6071",
    "tekton-0a1b2c3d-4e5f6071-01",
    "tekton-0a1b2c3d-4e5f6071-0",
    "tekton-0a1b2c3d-4e5f6071-1-abcde",
];

/// The reaper with this API for live pods.
fn reap(cluster: &Cluster, kubernetes: &Kubernetes) -> Step {
    cluster
        .reap()
        .flag("--live-pods", "kubernetes")
        .flag("--kubernetes-api", kubernetes.url())
        .flag(
            "--kubernetes-credentials",
            kubernetes.credentials().to_str().unwrap(),
        )
}

/// An orphan of this number, of a run of its own.
fn orphan(number: usize) -> String {
    orphan_of("tekton", number)
}

fn orphan_of(prefix: &str, number: usize) -> String {
    name(
        prefix,
        &uid(&format!("run-{number}")),
        &uid(&format!("pod-{number}")),
        1,
    )
}

fn reason<'a>(summary: &'a Value, name: &str) -> &'a str {
    let entries = summary["entries"].as_array().unwrap();
    let entry = entries.iter().find(|entry| entry["name"] == name);
    entry.unwrap_or_else(|| panic!("no `{name}`: {summary:#}"))["reason"]
        .as_str()
        .unwrap()
}

/// So many orphans' pods have not been pruned.
const ENDED: usize = 150;

/// 200 that nobody owns any more, 200 that somebody does, 200 of others.
#[tokio::test(flavor = "multi_thread")]
async fn deletes_200_orphans_among_200_live_and_200_foreign_vms_and_nothing_else() {
    for config in [Cluster::orka2(), Cluster::orka3()] {
        let is_orka2 = config.generation == Generation::Two;
        let cluster = Cluster::with(config).await;
        let kubernetes = Kubernetes::start().await;
        let kinds = [SeedKind::Running, SeedKind::Pending, SeedKind::Failed];
        let orphans: BTreeSet<String> = (0..200).map(orphan).collect();
        for (number, name) in (0..200).map(orphan).enumerate() {
            let kind = match number % 10 {
                9 if is_orka2 && number < ENDED => SeedKind::ConfigOnly,
                place => kinds[place % 3],
            };
            cluster.sim.seed([Seed::vm(name, 2 * HOUR).of_kind(kind)]);
        }
        for number in 0..200 {
            let (run, pod) = (
                uid(&format!("live-run-{number}")),
                uid(&format!("live-{number}")),
            );
            // Of a live pod; of an ended pod whose run lives in another one; too young to be judged.
            let (owner, age) = match number % 3 {
                0 => (pod.clone(), 50 * HOUR),
                1 => (uid(&format!("ended-{number}")), 50 * HOUR),
                _ => (uid(&format!("young-{number}")), HOUR / 60),
            };
            let kind = kinds[number % 2];
            cluster
                .sim
                .seed([Seed::vm(name("tekton", &run, &owner, 1), age).of_kind(kind)]);
            if number % 3 < 2 {
                kubernetes.add_pod("ci", &pod, &run, "Running");
            }
        }
        for number in 0..200 {
            let name = match NEAR_MISSES.get(number) {
                Some(near) => (*near).to_owned(),
                None => format!("vm-{number:05}"),
            };
            cluster.sim.seed([Seed::vm(name, 90 * HOUR)]);
        }
        // Pods that have ended, as Tekton keeps them, vouch for nothing.
        for number in 0..ENDED {
            let (pod, run) = (format!("pod-{number}"), format!("run-{number}"));
            kubernetes.add_ended_pod(&uid(&pod), &uid(&run), &BTreeMap::new());
        }
        let before = cluster.names();
        assert_eq!(before.len(), 600);
        let ended = reap(&cluster, &kubernetes)
            .flag("--parallel", "16")
            .argument("--json")
            .ended()
            .await;
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert_eq!(&before - &cluster.names(), orphans);
        let counts = &ended.summary()["counts"];
        assert_eq!(
            (&counts["deleted"], &counts["left"], &counts["foreign"]),
            (&200.into(), &200.into(), &200.into())
        );
        assert_eq!(kubernetes.requests().len(), 3, "284 pods in pages of 100");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_starts_between_the_two_lists_is_not_touched() {
    for config in [Cluster::orka2(), Cluster::orka3()] {
        let cluster = Arc::new(Cluster::with(config).await);
        let kubernetes = Kubernetes::start().await;
        let (gone, new_pod, new_run) = (orphan(1), uid("new"), uid("new-run"));
        let new = name("tekton", &new_run, &new_pod, 1);
        cluster.sim.seed([Seed::vm(&gone, HOUR)]);
        kubernetes.add_pod("ci", &uid("other"), &uid("other-run"), "Running");
        // The pod starts and deploys while the list of pods is asked for, and is missing from that list.
        let (seeding, vm) = (Arc::clone(&cluster), new.clone());
        kubernetes.before_next(move || seeding.sim.seed([Seed::vm(vm, Duration::ZERO)]));
        let ended = reap(&cluster, &kubernetes)
            .flag("--grace", "0s")
            .ended()
            .await;
        assert_eq!(ended.code, Some(0), "{ended}");
        assert_eq!(cluster.names(), BTreeSet::from([new]), "{ended}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_cannot_be_known_for_certain_delete_nothing() {
    let cluster = Cluster::with(Cluster::orka3()).await;
    cluster
        .sim
        .seed((0..3).map(|number| Seed::vm(orphan(number), HOUR)));
    let before = cluster.names();
    for (refusal, said) in [
        (Refusal::Status(401), "Unauthorized"),
        (Refusal::Status(403), "cannot list resource \"pods\""),
        (Refusal::Status(404), "404"),
        (Refusal::Status(500), "500"),
        (Refusal::Status(429), "429"),
        (Refusal::Close, "did not answer"),
        (Refusal::Half, "did not answer"),
        (Refusal::NoToken, "there is more, but not where"),
    ] {
        let kubernetes = Kubernetes::start().await;
        kubernetes.add_pod("ci", &uid("other"), &uid("other-run"), "Running");
        kubernetes.always(refusal);
        let ended = reap(&cluster, &kubernetes).ended().await;
        assert_eq!(ended.code, Some(211), "{refusal:?}: {ended}");
        ended.assert_says(&["nothing was deleted", said]);
        assert_eq!(cluster.names(), before, "{refusal:?}: {ended}");
    }
    // A page in the middle that cannot be had makes the whole useless.
    let kubernetes = Kubernetes::start().await;
    for number in 0..250 {
        kubernetes.add_pod(
            "ci",
            &uid(&format!("other-{number}")),
            &uid("other-run"),
            "Running",
        );
    }
    kubernetes.script([None, Some(Refusal::Status(403))]);
    let ended = reap(&cluster, &kubernetes).ended().await;
    assert_eq!(ended.code, Some(211), "{ended}");
    // So does a list that expires again and again before its last page.
    kubernetes.script([None, Some(Refusal::Status(410))].repeat(4));
    let ended = reap(&cluster, &kubernetes).ended().await;
    assert_eq!(ended.code, Some(211), "{ended}");
    ended.assert_says(&["expired 4 times"]);
    assert_eq!(cluster.names(), before, "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_fails_for_a_moment_is_asked_again_and_an_expired_list_anew() {
    let cluster = Cluster::with(Cluster::orka3()).await;
    let kubernetes = Kubernetes::start().await;
    for number in 0..250 {
        kubernetes.add_pod(
            "ci",
            &uid(&format!("other-{number}")),
            &uid("other-run"),
            "Running",
        );
    }
    // The live one is on the last page.
    let live = orphan(1);
    kubernetes.add_pod("ci", &uid("pod-1"), &uid("run-1"), "Running");
    cluster
        .sim
        .seed([Seed::vm(&live, HOUR), Seed::vm(orphan(2), HOUR)]);
    kubernetes.script([
        Some(Refusal::Status(500)),
        Some(Refusal::Close),
        None,
        Some(Refusal::Half),
        None,
        Some(Refusal::Status(410)),
    ]);
    let ended = reap(&cluster, &kubernetes).ended().await;
    assert_eq!(ended.code, Some(0), "{ended}");
    assert_eq!(cluster.names(), BTreeSet::from([live]), "{ended}");
    let asked = kubernetes.requests();
    assert_eq!(asked.len(), 9, "{asked:#?}");
    assert_eq!(asked[6], "/api/v1/pods?limit=500", "anew from the start");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_is_asked_by_tls_with_its_own_authority_and_no_other() {
    let cluster = Cluster::with(Cluster::orka3()).await;
    cluster.sim.seed([Seed::vm(orphan(1), HOUR)]);
    let kubernetes = Kubernetes::with_tls().await;
    kubernetes.add_pod("ci", &uid("other"), &uid("other-run"), "Running");
    let stranger = Kubernetes::with_tls().await;
    let ended = reap(&cluster, &kubernetes)
        .flag(
            "--kubernetes-credentials",
            stranger.credentials().to_str().unwrap(),
        )
        .ended()
        .await;
    assert_eq!(ended.code, Some(211), "{ended}");
    assert_eq!(cluster.names().len(), 1, "{ended}");
    let ended = reap(&cluster, &kubernetes).ended().await;
    assert_eq!(ended.code, Some(0), "{ended}");
    assert!(cluster.names().is_empty(), "{ended}");
    let clear = reap(&cluster, &kubernetes).flag("--kubernetes-api", "http://10.0.0.1:8001");
    let ended = clear.ended().await;
    assert_eq!(ended.code, Some(211), "{ended}");
    ended.assert_says(&["would send the token in the clear"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_named_namespaces_are_asked_and_runs_that_go_on_without_a_pod_stay() {
    let cluster = Cluster::with(Cluster::orka3()).await;
    let kubernetes = Kubernetes::start().await;
    kubernetes.add_pod("ci", &uid("pod-1"), &uid("run-1"), "Running");
    kubernetes.add_pod("ios", &uid("pod-2"), &uid("run-2"), "Pending");
    kubernetes.add_pod("elsewhere", &uid("pod-3"), &uid("run-3"), "Running");
    kubernetes.add_pipeline_run(&uid("run-4"));
    let own = |number| orphan_of("ci", number);
    cluster
        .sim
        .seed((1..=5).map(|number| Seed::vm(own(number), HOUR)));
    let ended = reap(&cluster, &kubernetes)
        .flag("--pod-namespace", "ci,ios")
        .flag("--vm-prefix", "ci")
        .argument("--tekton-runs")
        .argument("--json")
        .ended()
        .await;
    assert_eq!(ended.code, Some(0), "{ended}");
    let summary = ended.summary();
    for (number, expected) in [
        (1, "pod-live"),
        (2, "pod-live"),
        (3, "pod-gone"),
        (4, "run-live"),
        (5, "pod-gone"),
    ] {
        assert_eq!(reason(&summary, &own(number)), expected, "{ended}");
    }
    assert_eq!(cluster.names(), BTreeSet::from([own(1), own(2), own(4)]));
    let asked = kubernetes.requests();
    let paths: Vec<&str> = asked
        .iter()
        .map(|asked| asked.split('?').next().unwrap())
        .collect();
    assert_eq!(
        paths,
        [
            "/api/v1/namespaces/ci/pods",
            "/api/v1/namespaces/ios/pods",
            "/apis/tekton.dev/v1/namespaces/ci/pipelineruns",
            "/apis/tekton.dev/v1/namespaces/ios/pipelineruns",
            "/apis/tekton.dev/v1/namespaces/ci/taskruns",
            "/apis/tekton.dev/v1/namespaces/ios/taskruns",
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_without_any_pod_is_not_believed_unless_that_is_said() {
    for config in [Cluster::orka2(), Cluster::orka3()] {
        let cluster = Cluster::with(config).await;
        cluster.sim.seed([Seed::vm(orphan(1), HOUR)]);
        let kubernetes = Kubernetes::start().await;
        let empty = reap(&cluster, &kubernetes).ended().await;
        let step = cluster.reap();
        let file = step.scratch_file("pods", b"");
        let empty_file = step.flag("--live-pods", file).ended().await;
        for ended in [&empty, &empty_file] {
            assert_eq!(ended.code, Some(211), "{ended}");
            ended.assert_says(&[
                "tells of no pod at all",
                "nothing was deleted",
                "--allow-no-pods",
            ]);
        }
        assert_eq!(cluster.names().len(), 1);
        let ended = reap(&cluster, &kubernetes)
            .argument("--allow-no-pods")
            .ended()
            .await;
        assert_eq!(ended.code, Some(0), "{ended}");
        assert!(cluster.sim.state().is_clean(), "{ended}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_come_from_a_file_of_uids_or_of_kubectls_json() {
    let json = list_of(&[
        json!({"metadata": {"uid": uid("pod-1"), "namespace": "ci", "labels": {"tekton.dev/taskRunUID": uid("run-2")}},
            "status": {"phase": "Running"}}),
        json!({"metadata": {"uid": uid("pod-3"), "namespace": "ios"}, "status": {"phase": "Succeeded"}}),
    ]);
    let lines = format!("ci {}\nios   {}\n", uid("pod-1"), uid("pod-2"));
    for text in [json, lines] {
        for config in [Cluster::orka2(), Cluster::orka3()] {
            let cluster = Cluster::with(config).await;
            cluster
                .sim
                .seed((1..=3).map(|number| Seed::vm(orphan(number), HOUR)));
            let step = cluster.reap();
            let file = step.scratch_file("pods", text.as_bytes());
            let ended = step.flag("--live-pods", file).ended().await;
            assert_eq!(ended.code, Some(0), "{ended}");
            assert_eq!(
                cluster.names(),
                BTreeSet::from([orphan(1), orphan(2)]),
                "{ended}"
            );
        }
    }
}

/// What `kubectl get pods -o json` gives.
fn list_of(pods: &[Value]) -> String {
    let pods: Vec<Value> = pods
        .iter()
        .map(|pod| {
            let mut pod = pod.clone();
            pod["kind"] = json!("Pod");
            pod
        })
        .collect();
    json!({"kind": "List", "apiVersion": "v1", "items": pods}).to_string()
}

/// `kubectl get pods -o json` without `--all-namespaces`: every build of another namespace is missing from it.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_one_namespace_is_not_taken_for_one_of_all() {
    let pod = |number: usize, namespace: &str| {
        json!({"metadata": {"uid": uid(&format!("pod-{number}")), "namespace": namespace},
            "status": {"phase": "Running"}})
    };
    let (ci, ios) = (
        list_of(&[pod(1, "ci")]),
        list_of(&[pod(1, "ci"), pod(2, "ios")]),
    );
    let uids = format!("{}\n{}\n", uid("pod-1"), uid("pod-2"));
    let pairs = format!("ci {}\nci {}\n", uid("pod-1"), uid("pod-2"));
    for (text, named, refusal) in [
        (&ci, None, Some("pods of the namespace `ci` alone")),
        (&pairs, None, Some("pods of the namespace `ci` alone")),
        (
            &uids,
            None,
            Some("does not say of which namespaces it tells"),
        ),
        (&ci, Some("ci,ios"), Some("no pod of the namespace `ios`")),
        (&ci, Some("ci"), None),
        (&uids, Some("ci"), None),
        (&ios, None, None),
    ] {
        let cluster = Cluster::with(Cluster::orka3()).await;
        let prefix = named.map_or("tekton", |_| "ios");
        cluster.sim.seed([Seed::vm(orphan_of(prefix, 3), HOUR)]);
        let step = cluster.reap().flag("--vm-prefix", prefix);
        let file = step.scratch_file("pods", text.as_bytes());
        let step = step.flag("--live-pods", file);
        let ended = match named {
            Some(named) => step.flag("--pod-namespace", named),
            None => step,
        }
        .ended()
        .await;
        let Some(refusal) = refusal else {
            assert_eq!(ended.code, Some(0), "{text}: {ended}");
            assert!(cluster.sim.state().is_clean(), "{text}: {ended}");
            continue;
        };
        assert_eq!(ended.code, Some(211), "{text}: {ended}");
        ended.assert_says(&[refusal, "nothing was deleted", "--pod-namespace"]);
        assert_eq!(cluster.names().len(), 1, "{text}: {ended}");
    }
}

/// Builds of every namespace that says nothing have the same prefix, so that those of the others would look dead.
#[tokio::test(flavor = "multi_thread")]
async fn one_namespace_without_a_prefix_of_its_own_deletes_nothing() {
    let cluster = Cluster::with(Cluster::orka3()).await;
    let kubernetes = Kubernetes::start().await;
    kubernetes.add_pod("ci", &uid("pod-1"), &uid("run-1"), "Running");
    // Alive, and in a namespace that nobody asks for.
    kubernetes.add_pod("elsewhere", &uid("pod-3"), &uid("run-3"), "Running");
    cluster.sim.seed([Seed::vm(orphan(3), HOUR)]);
    let of_list = cluster.reap();
    let pods = format!("ci {}\n", uid("pod-1"));
    let file = of_list.scratch_file("pods", pods.as_bytes());
    for step in [
        reap(&cluster, &kubernetes),
        of_list.flag("--live-pods", file),
        // As in a namespace of this name.
        reap(&cluster, &kubernetes).flag("--vm-prefix", "tekton"),
        reap(&cluster, &kubernetes).environment("ORKA_VM_PREFIX", "tekton"),
    ] {
        let ended = step.flag("--pod-namespace", "ci").ended().await;
        assert_eq!(ended.code, Some(211), "{ended}");
        ended.assert_says(&[
            "`--pod-namespace` needs another `--vm-prefix` than `tekton`",
            "nothing was deleted",
            "choose another prefix",
            "`ORKA_VM_PREFIX`",
        ]);
        assert_eq!(cluster.names(), BTreeSet::from([orphan(3)]));
    }
    cluster.assert_untouched();
    assert_eq!(kubernetes.requests(), [] as [String; 0]);
}

/// A config has no age, so that of its run's last pod stands for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_vm_config_without_a_vm_stays_until_its_run_has_ended_for_the_grace() {
    let cluster = Cluster::start().await;
    let config = |number| Seed::vm(orphan(number), HOUR).of_kind(SeedKind::ConfigOnly);
    cluster.sim.seed([config(1), config(2)]);
    let kubernetes = Kubernetes::start().await;
    kubernetes.add_ended_pod(&uid("pod-1"), &uid("run-1"), &BTreeMap::new());
    let ended = reap(&cluster, &kubernetes).argument("--json").ended().await;
    assert_eq!(ended.code, Some(0), "{ended}");
    let summary = ended.summary();
    assert_eq!(reason(&summary, &orphan(1)), "pod-gone", "{ended}");
    assert_eq!(reason(&summary, &orphan(2)), "age-unknown", "{ended}");
    assert_eq!(cluster.names(), BTreeSet::from([orphan(2)]), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_is_deployed_from_a_config_after_the_listing_is_not_taken_with_it() {
    let cluster = Arc::new(Cluster::start().await);
    cluster
        .sim
        .seed([Seed::vm(orphan(1), HOUR).of_kind(SeedKind::ConfigOnly)]);
    let kubernetes = Kubernetes::start().await;
    kubernetes.add_ended_pod(&uid("pod-1"), &uid("run-1"), &BTreeMap::new());
    let seeding = Arc::clone(&cluster);
    kubernetes.before_next(move || seeding.sim.seed([Seed::vm(orphan(1), Duration::ZERO)]));
    let ended = reap(&cluster, &kubernetes).argument("--json").ended().await;
    assert_eq!(ended.code, Some(0), "{ended}");
    assert_eq!(reason(&ended.summary(), &orphan(1)), "in-use", "{ended}");
    assert_eq!(cluster.sim.state().vms.len(), 1, "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_cut_off_odd_missing_or_stale_deletes_nothing() {
    let cluster = Cluster::with(Cluster::orka3()).await;
    cluster.sim.seed([Seed::vm(orphan(1), HOUR)]);
    let whole = format!(
        "{{\"kind\": \"List\", \"items\": [{{\"kind\": \"Pod\", \"metadata\": {{\"uid\": \"{}\"}}}}]}}",
        uid("other")
    );
    for text in [
        &whole[..whole.len() - 1],
        "pod/build-1\n",
        "error: Unauthorized\n",
    ] {
        let step = cluster.reap();
        let file = step.scratch_file("pods", text.as_bytes());
        let ended = step.flag("--live-pods", file).ended().await;
        assert_eq!(ended.code, Some(211), "{text}: {ended}");
        ended.assert_says(&[
            "nothing was deleted",
            "hint: give the output of `kubectl get pods",
        ]);
    }
    let ended = cluster
        .reap()
        .flag("--live-pods", "no-such-file")
        .ended()
        .await;
    assert_eq!(ended.code, Some(211), "{ended}");
    assert!(!ended.stderr.contains("did you mean"), "{ended}");
    let misspelt = cluster.reap().flag("--live-pods", "kubernets");
    let misspelt = misspelt.ended().await;
    assert_eq!(misspelt.code, Some(211), "{misspelt}");
    misspelt.assert_says(&["hint: did you mean `kubernetes`"]);
    let step = cluster.reap();
    let path = step.scratch_file("pods", whole.as_bytes());
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(SystemTime::now() - 2 * HOUR).unwrap();
    let ended = step.flag("--live-pods", path).ended().await;
    assert_eq!(ended.code, Some(211), "{ended}");
    ended.assert_says(&["longer than `--grace`"]);
    assert_eq!(cluster.names().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_age_stays_until_it_has_been_seen_for_the_grace() {
    for config in [Cluster::orka2(), Cluster::orka3()] {
        let cluster = Cluster::with(SimConfig {
            switches: Switches {
                hide_timestamps: true,
                ..Switches::default()
            },
            ..config
        })
        .await;
        cluster.sim.seed([Seed::vm(orphan(1), HOUR)]);
        let kubernetes = Kubernetes::start().await;
        kubernetes.add_pod("ci", &uid("other"), &uid("other-run"), "Running");
        let ended = reap(&cluster, &kubernetes).argument("--json").ended().await;
        assert_eq!(ended.code, Some(0), "{ended}");
        assert_eq!(reason(&ended.summary(), &orphan(1)), "age-unknown");
        let state = tempfile::tempdir().unwrap();
        let file = state.path().join("state.json");
        let pass = || {
            reap(&cluster, &kubernetes)
                .flag("--state", file.to_str().unwrap())
                .argument("--json")
        };
        let ended = pass().ended().await;
        assert_eq!(reason(&ended.summary(), &orphan(1)), "young", "{ended}");
        assert!(!cluster.sim.state().is_clean());
        let ended = pass().flag("--grace", "0s").ended().await;
        assert_eq!(ended.code, Some(0), "{ended}");
        assert!(cluster.sim.state().is_clean(), "{ended}");
    }
}

/// A full volume, say, which fails as late as this does.
#[tokio::test(flavor = "multi_thread")]
async fn first_sights_that_cannot_be_written_down_keep_nothing_from_being_deleted() {
    let cluster = Cluster::with(Cluster::orka3()).await;
    cluster.sim.seed([Seed::vm(orphan(1), HOUR)]);
    let kubernetes = Kubernetes::start().await;
    kubernetes.add_pod("ci", &uid("other"), &uid("other-run"), "Running");
    let ended = reap(&cluster, &kubernetes)
        .flag("--state", "/no/such/folder/state.json")
        .ended()
        .await;
    assert_eq!(ended.code, Some(0), "{ended}");
    ended.assert_says(&["cannot write `/no/such/folder/state.json`"]);
    assert!(cluster.sim.state().is_clean(), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_and_podless_vms_stay_and_expired_ones_go() {
    let cluster = Cluster::with(Cluster::orka3()).await;
    let key = "orka-step-kept-until";
    // A run without a pod UID: its names say so by two zeros.
    let podless = format!("tekton-{}-00c0ffee-1", hash(&uid("run-9")));
    cluster.sim.seed([
        Seed::vm(orphan(1), 9 * HOUR).with(key, "2999-01-01T00:00:00Z"),
        Seed::vm(orphan(2), HOUR / 60).with(key, "2026-01-01T00:00:00Z"),
        Seed::vm(&podless, 900 * HOUR),
    ]);
    let kubernetes = Kubernetes::start().await;
    kubernetes.add_pod("ci", &uid("other"), &uid("other-run"), "Running");
    let ended = reap(&cluster, &kubernetes).argument("--json").ended().await;
    assert_eq!(ended.code, Some(0), "{ended}");
    let summary = ended.summary();
    assert_eq!(reason(&summary, &orphan(1)), "kept");
    assert_eq!(reason(&summary, &orphan(2)), "keep-expired");
    assert_eq!(reason(&summary, &podless), "podless");
    assert_eq!(cluster.names(), BTreeSet::from([orphan(1), podless]));
}

#[tokio::test(flavor = "multi_thread")]
async fn vms_of_other_users_and_namespaces_are_out_of_reach() {
    let cluster = Cluster::start().await;
    cluster
        .sim
        .seed([Seed::vm(orphan(1), HOUR).of("other@example.com")]);
    let kubernetes = Kubernetes::start().await;
    kubernetes.add_pod("ci", &uid("other"), &uid("other-run"), "Running");
    let ended = reap(&cluster, &kubernetes).ended().await;
    assert_eq!(ended.code, Some(0), "{ended}");
    assert_eq!(cluster.names().len(), 1, "{ended}");
}

/// Tekton deletes the pods of a run that is cancelled: the config that its killed step left has no age, and no pod tells of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_config_whose_pods_are_gone_goes_when_its_run_has_ended() {
    let cluster = Cluster::start().await;
    let kubernetes = Kubernetes::start().await;
    kubernetes.add_pod("ci", &uid("another"), &uid("another run"), "Running");
    kubernetes.add_pod("kube-system", &uid("system"), "", "Running");
    let config = |run: &str| name("tekton", &uid(run), &uid(&format!("pod of {run}")), 1);
    for run in ["over", "just over", "on", "unknown"] {
        let seed = Seed::vm(config(run), 2 * HOUR).of_kind(SeedKind::ConfigOnly);
        cluster.sim.seed([seed]);
    }
    let ago =
        |minutes| (jiff::Timestamp::now() - jiff::SignedDuration::from_mins(minutes)).to_string();
    kubernetes.add_ended_pipeline_run(&uid("over"), &ago(120));
    kubernetes.add_ended_pipeline_run(&uid("just over"), &ago(1));
    kubernetes.add_pipeline_run(&uid("on"));
    let ended = reap(&cluster, &kubernetes)
        .argument("--tekton-runs")
        .argument("--json")
        .ended()
        .await;
    assert_eq!(ended.code, Some(0), "{ended}");
    let summary = ended.summary();
    for (run, expected) in [
        ("over", "pod-gone"),
        ("just over", "run-recent"),
        ("on", "run-live"),
        ("unknown", "age-unknown"),
    ] {
        assert_eq!(reason(&summary, &config(run)), expected, "{run}");
    }
    let left: Vec<String> = cluster
        .sim
        .state()
        .configs
        .into_iter()
        .map(|it| it.name)
        .collect();
    assert_eq!(left.len(), 3, "{left:?}");
    assert!(!left.contains(&config("over")));
}
