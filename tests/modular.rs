//! `init`, `deploy` and `teardown` as separate Tasks of one pipeline run.

use std::path::Path;
use std::time::Duration;

use end_to_end::{Cluster, Ended, Step, Stream, hash};
use orka_sim::{FaultAction, FaultRule};
use rustix::process::Signal;

/// Says that it runs, then takes longer than any test waits.
const LONG: &str = "#!/bin/sh\necho running\nsleep 300\n";

/// One Task of a pipeline run, in a pod of its own.
fn task(cluster: &Cluster, plugin: &str, run: &str, pod: &str) -> Step {
    cluster
        .run()
        .flag("--plugin", plugin)
        .flag("--run-uid", run)
        .flag("--task-uid", format!("{run}-{pod}"))
        .flag("--pod-uid", format!("{run}-{pod}-pod"))
}

/// As an old Task runs `init` and `teardown`: without a workspace and without SSH.
fn bare(cluster: &Cluster, plugin: &str, run: &str, pod: &str) -> Step {
    task(cluster, plugin, run, pod)
        .without("--workspace")
        .without("--ssh-credentials")
}

async fn init(cluster: &Cluster, run: &str) -> String {
    let ended = bare(cluster, "init", run, "init")
        .param("base-image", "Sonoma.orkasi")
        .ended()
        .await;
    ended.assert(0, "succeeded");
    ended.result("vm-config").to_owned()
}

async fn teardown(cluster: &Cluster, run: &str) -> Ended {
    let ended = bare(cluster, "teardown", run, "finally").ended().await;
    ended.assert(0, "succeeded");
    ended
}

fn deploy(cluster: &Cluster, run: &str, pod: &str, config: &str) -> Step {
    task(cluster, "deploy", run, pod).param("vm-config", config)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_runs_in_one_namespace_at_once_never_touch_each_other() {
    for config in [Cluster::orka2(), Cluster::orka3()] {
        let cluster = Cluster::with(config).await;
        let stored = 1;
        let (a, b) = tokio::join!(init(&cluster, "run-a"), init(&cluster, "run-b"));
        assert_eq!(cluster.sim.state().configs.len(), 2 * stored);
        let mut long = deploy(&cluster, "run-a", "one", &a)
            .param("script", LONG)
            .start();
        long.says(Stream::Stdout, "running\n").await;
        // The other run goes from its deploys to its teardown meanwhile.
        let script = "#!/bin/sh\necho built > built\n";
        let (one, two) = tokio::join!(
            deploy(&cluster, "run-b", "one", &b)
                .param("script", script)
                .ended(),
            deploy(&cluster, "run-b", "two", &b)
                .param("script", script)
                .param("delete-vm", "false")
                .ended(),
        );
        for ended in [&one, &two] {
            ended.assert(0, "succeeded");
            assert_eq!(ended.file("built").unwrap(), b"built\n");
        }
        let state = cluster.sim.state();
        assert_eq!(
            state.vms.len(),
            2,
            "each deploy deletes its own VM only: {:?}",
            state.vms
        );
        assert_eq!(state.configs.len(), 2 * stored);
        teardown(&cluster, "run-b").await;
        let state = cluster.sim.state();
        assert_eq!(
            (state.vms.len(), state.configs.len()),
            (1, stored),
            "{:?}",
            state.vms
        );
        long.signal(Signal::TERM);
        long.ended().await.assert(143, "cancelled");
        assert!(cluster.sim.state().vms.is_empty());
        teardown(&cluster, "run-a").await;
        cluster.assert_nothing_left();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_config_goes_through_the_workspace_as_well() {
    for config in [Cluster::orka2(), Cluster::orka3()] {
        let cluster = Cluster::with(config).await;
        let made = task(&cluster, "init", "run", "init")
            .param("base-image", "Sonoma.orkasi")
            .ended()
            .await;
        made.assert(0, "succeeded");
        let shared = made.workspace().to_str().unwrap().to_owned();
        let built = task(&cluster, "deploy", "run", "one")
            .flag("--workspace", shared)
            .param("script", "#!/bin/sh\ntrue\n")
            .ended()
            .await;
        built.assert(0, "succeeded");
        teardown(&cluster, "run").await;
        cluster.assert_nothing_left();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_runs_vm_config_is_refused() {
    let cluster = Cluster::start().await;
    let text = init(&cluster, "run-a").await;
    let ended = deploy(&cluster, "run-b", "one", &text)
        .param("script", "true")
        .ended()
        .await;
    assert_ne!(ended.code, Some(0), "{ended}");
    ended.assert_says(&["is not of this pipeline run"]);
    assert!(cluster.sim.state().vms.is_empty());
    assert_eq!(cluster.sim.state().configs.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn teardown_succeeds_where_init_never_ran() {
    for config in [Cluster::orka2(), Cluster::orka3()] {
        let cluster = Cluster::with(config).await;
        let ended = teardown(&cluster, "run").await;
        ended.assert_says(&["nothing of this run was left"]);
        cluster.assert_nothing_left();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_vm_of_a_deploy_that_was_killed_is_purged_by_teardown() {
    for config in [Cluster::orka2(), Cluster::orka3()] {
        let cluster = Cluster::with(config).await;
        let text = init(&cluster, "run").await;
        let mut killed = deploy(&cluster, "run", "one", &text)
            .param("script", LONG)
            .start();
        killed.says(Stream::Stdout, "running\n").await;
        killed.signal(Signal::KILL);
        killed.ended().await;
        assert_eq!(cluster.sim.state().vms.len(), 1);
        teardown(&cluster, "run").await;
        assert!(cluster.sim.state().is_clean());
    }
}

/// Where Orka 2 makes a VM config.
const CREATE: &str = "/resources/vm/create";

/// `init` in this pod of its one TaskRun.
fn init_in(cluster: &Cluster, pod: &str, workspace: &Path) -> Step {
    task(cluster, "init", "run", "init")
        .flag("--pod-uid", pod)
        .flag("--workspace", workspace.to_str().unwrap())
        .param("base-image", "Sonoma.orkasi")
}

/// Waits until Orka was asked to make a VM config.
async fn asked_to_create(cluster: &Cluster) {
    let asked = async {
        while cluster.sim.state().requests_to("POST", CREATE).is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(40), asked)
        .await
        .unwrap();
}

/// On Orka 2 a purge by name takes every VM of a config, whosever it is.
#[tokio::test(flavor = "multi_thread")]
async fn the_vm_of_a_deploy_outlives_an_init_whose_reply_was_lost() {
    for signal in [Signal::TERM, Signal::KILL] {
        let cluster = Cluster::start().await;
        let late = FaultAction::DelayReply { ms: 300_000 };
        cluster
            .sim
            .add_fault(FaultRule::new("POST", CREATE, late).times(1));
        let workspace = tempfile::tempdir().unwrap();
        let init = init_in(&cluster, "pod-1", workspace.path()).start();
        // It takes the VM config up as soon as it is there.
        let mut deploy = task(&cluster, "deploy", "run", "one")
            .param("init-wait-seconds", "60")
            .param("script", LONG)
            .start();
        deploy.says(Stream::Stdout, "running\n").await;
        init.signal(signal);
        let ended = init.ended().await;
        assert_eq!(cluster.sim.state().vms.len(), 1, "{signal:?}: {ended}");
        let again = init_in(&cluster, "pod-2", workspace.path()).ended().await;
        again.assert(0, "succeeded");
        assert_eq!(cluster.sim.state().vms.len(), 1, "{signal:?}: {again}");
        if signal == Signal::TERM {
            ended.assert(143, "cancelled");
            ended.assert_says(&["left to the purge of the run"]);
        }
        deploy.signal(Signal::TERM);
        deploy.ended().await.assert(143, "cancelled");
        assert!(cluster.sim.state().vms.is_empty(), "{signal:?}");
        teardown(&cluster, "run").await;
        assert!(cluster.sim.state().is_clean(), "{signal:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_init_that_is_tried_again_does_not_fail_of_what_may_still_come() {
    let cluster = Cluster::start().await;
    cluster
        .sim
        .add_fault(FaultRule::new("POST", CREATE, FaultAction::Hang).times(1));
    let workspace = tempfile::tempdir().unwrap();
    let init = init_in(&cluster, "pod-1", workspace.path()).start();
    asked_to_create(&cluster).await;
    init.signal(Signal::KILL);
    init.ended().await;
    let again = init_in(&cluster, "pod-2", workspace.path()).ended().await;
    again.assert(0, "succeeded");
    again.assert_says(&["was left by an earlier pod of this TaskRun"]);
    teardown(&cluster, "run").await;
    assert!(cluster.sim.state().is_clean());
}

/// Whether something is kept may be on the line that nobody can read.
#[tokio::test(flavor = "multi_thread")]
async fn teardown_deletes_nothing_while_a_ledger_of_its_run_cannot_be_read() {
    let cluster = Cluster::start().await;
    let text = init(&cluster, "run").await;
    deploy(&cluster, "run", "one", &text)
        .param("script", "#!/bin/sh\ntrue\n")
        .param("delete-vm", "false")
        .ended()
        .await
        .assert(0, "succeeded");
    let torn = "{\"at\":\"2026-01-01T00:00:00Z\",\"na\n{\"at\":\"2026-01-01T00:00:00Z\",\"name\":\"a\",\"thing\":\"vm\",\"state\":\"intent\"}\n";
    let ended = task(&cluster, "teardown", "run", "finally")
        .file(
            &format!(".orka-step/{}/ledger-0a1b2c3d.jsonl", hash("run")),
            torn,
        )
        .ended()
        .await;
    assert_ne!(ended.code, Some(0), "{ended}");
    ended.assert_says(&["ledger-0a1b2c3d.jsonl", "orka-step reap --run"]);
    assert_eq!(cluster.sim.state().vms.len(), 1, "{ended}");
}

/// What is shared under a name that nobody else can know is found by nobody.
#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_share_need_a_run_to_share_it_in() {
    let cluster = Cluster::start().await;
    let teardown = || cluster.run().flag("--plugin", "teardown");
    let deploy = || {
        cluster
            .run()
            .flag("--plugin", "deploy")
            .param("script", "true")
    };
    for step in [
        teardown(),
        deploy(),
        deploy().param("vm-config", "{}"),
        // A Task that stands alone has no such label.
        teardown().flag("--run-uid", ""),
    ] {
        let ended = step.ended().await;
        ended.assert(211, "infra-failed");
        ended.assert_says(&[
            "`--run-uid` does not say which run",
            "tekton.dev/pipelineRunUID",
        ]);
    }
    let doctor = cluster.doctor().flag("--plugin", "teardown").ended().await;
    assert_eq!(doctor.code, Some(211), "{doctor}");
    assert!(
        doctor.stdout.contains("`--run-uid` does not say which run"),
        "{doctor}"
    );
    let uid = "$(context.pipelineRun.uid)";
    let ended = teardown().flag("--run-uid", uid).ended().await;
    assert_eq!(ended.code, Some(211), "{ended}");
    ended.assert_says(&["which nobody has replaced"]);
    // The lone TaskRun's UID stands in.
    let ended = teardown().flag("--task-uid", "lone").ended().await;
    ended.assert(0, "succeeded");
    cluster.assert_nothing_left();
}
