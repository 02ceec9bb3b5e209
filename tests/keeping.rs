//! VMs that are kept on purpose.

use std::collections::BTreeMap;

use end_to_end::{Cluster, Kubernetes, uid};

const GRANT: &str =
    "[[grant]]\nplugin = \"build\"\ncapabilities = [\"*\"]\n[grant.ceilings]\nkeep-max = \"2h\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_of_a_failed_build_is_kept_named_and_spared_by_the_purge_of_its_run() {
    for config in [Cluster::orka2(), Cluster::orka3()] {
        let cluster = Cluster::with(config).await;
        let ended = cluster
            .build("#!/bin/sh\nexit 65\n")
            .granted(GRANT)
            .param("keep", "failure")
            .flag("--run-uid", "run")
            .ended()
            .await;
        ended.assert(65, "build-failed");
        let vm = cluster.only_vm();
        assert_eq!(ended.result("kept-vm"), vm.name, "{ended}");
        ended.assert_says(&["is kept until", "ssh -p"]);
        assert_eq!(ended.report["kept"][0]["name"], vm.name.as_str(), "{ended}");
        let purge = |workspace: Option<&str>| {
            let step = cluster
                .run()
                .flag("--plugin", "teardown")
                .flag("--run-uid", "run");
            match workspace {
                Some(workspace) => step.flag("--workspace", workspace),
                None => step.without("--workspace"),
            }
        };
        let spared = purge(ended.workspace().to_str()).ended().await;
        spared.assert(0, "succeeded");
        spared.assert_says(&["kept on purpose"]);
        assert_eq!(cluster.sim.state().vms.len(), 1);
        // Who is not shown the ledger knows of nothing that is kept.
        purge(None).ended().await.assert(0, "succeeded");
        assert!(cluster.sim.state().is_clean());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_step_of_the_same_pod_passes_over_the_name_that_an_earlier_one_keeps() {
    for config in [Cluster::orka2(), Cluster::orka3()] {
        let cluster = Cluster::with(config).await;
        let step = |keep: &str| {
            let step = cluster.build("true").granted(GRANT).param("keep", keep);
            let step = step.flag("--run-uid", "run").flag("--pod-uid", "pod");
            // Without a workspace nobody tells the second step of the first.
            step.without("--workspace")
        };
        step("always").ended().await.assert(0, "succeeded");
        let vm = cluster.only_vm();
        let second = step("never").ended().await;
        second.assert(0, "succeeded");
        second.assert_says(&[&vm.name, "left by an earlier step of this pod"]);
        assert_eq!(cluster.only_vm().name, vm.name);
    }
}

/// Neither generation lets metadata change after a deployment, so the pod itself says it.
#[tokio::test(flavor = "multi_thread")]
async fn a_reaper_that_reads_pods_knows_what_they_keep_and_until_when() {
    for config in [Cluster::orka2(), Cluster::orka3()] {
        let cluster = Cluster::with(config).await;
        let (run, pod) = (uid("run"), uid("pod"));
        let build = cluster.build("#!/bin/sh\nexit 65\n").granted(GRANT);
        let build = build.param("keep", "failure").param("keep-for", "1h");
        let build = build.flag("--run-uid", &run).flag("--pod-uid", &pod);
        let ended = build.ended().await;
        ended.assert(65, "build-failed");
        let vm = cluster.only_vm();
        let mut results = ended.results.clone();
        assert!(!results["kept-until"].is_empty(), "{ended}");
        let reaped = |results: BTreeMap<String, String>| {
            let (cluster, run, pod) = (&cluster, &run, &pod);
            async move {
                let kubernetes = Kubernetes::start().await;
                kubernetes.add_ended_pod(pod, run, &results);
                let step = cluster.reap().flag("--live-pods", "kubernetes");
                let step = step.flag("--kubernetes-api", kubernetes.url());
                let credentials = kubernetes.credentials();
                let step = step.flag("--kubernetes-credentials", credentials.to_str().unwrap());
                let ended = step.flag("--grace", "0s").argument("--json").ended().await;
                assert_eq!(ended.code, Some(0), "{ended}");
                ended.summary()["entries"][0].clone()
            }
        };
        let left = reaped(results.clone()).await;
        assert_eq!(
            (&left["name"], &left["reason"]),
            (&vm.name.into(), &"kept".into())
        );
        assert_eq!(left["keptUntil"], results["kept-until"], "{left}");
        results.insert("kept-until".to_owned(), "2026-01-02T00:00:00Z".to_owned());
        let gone = reaped(results).await;
        assert_eq!(
            (&gone["result"], &gone["reason"]),
            (&"deleted".into(), &"keep-expired".into())
        );
        assert!(cluster.sim.state().is_clean());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_succeeds_keeps_nothing_where_only_failures_are_kept() {
    let cluster = Cluster::start().await;
    let ended = cluster
        .build("#!/bin/sh\ntrue\n")
        .granted(GRANT)
        .param("keep", "failure")
        .ended()
        .await;
    ended.assert(0, "succeeded");
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn keeping_without_the_grant_is_denied_before_anything_is_deployed() {
    let cluster = Cluster::start().await;
    let ended = cluster.build("true").param("keep", "always").ended().await;
    ended.assert(212, "denied");
    ended.assert_says(&["`keep=always` needs `cluster.keep`"]);
    cluster.assert_untouched();
    // What the log shows is a grants file that allows it.
    let lines = ended.stderr.lines().skip_while(|line| *line != "[[grant]]");
    let shown: Vec<&str> = lines
        .take_while(|line| line.contains(" = ") || line.starts_with('['))
        .collect();
    let kept = cluster
        .build("true")
        .param("keep", "always")
        .granted(&shown.join("\n"))
        .ended()
        .await;
    kept.assert(0, "succeeded");
    assert_eq!(kept.result("kept-vm"), cluster.only_vm().name, "{kept}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keeping_longer_than_granted_is_denied_before_anything_is_sent() {
    let cluster = Cluster::start().await;
    let ended = cluster
        .build("true")
        .granted(GRANT)
        .param("keep", "always")
        .param("keep-for", "3h")
        .ended()
        .await;
    ended.assert(212, "denied");
    ended.assert_says(&[
        "`keep-for=3h`",
        "above the 2h granted",
        "raise `keep-max` under `[grant.ceilings]` at ",
        "grants.toml:5",
    ]);
    cluster.assert_untouched();
    // One that is not kept needs no ceiling.
    let ended = cluster
        .build("true")
        .granted(GRANT)
        .param("keep-for", "3h")
        .ended()
        .await;
    ended.assert(0, "succeeded");
    cluster.assert_nothing_left();
}
