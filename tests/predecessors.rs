//! What a pod that was killed left behind, and the next one of its TaskRun.

use std::path::Path;

use end_to_end::{Cluster, Step, Stream};
use rustix::process::Signal;

/// Says that it runs, then takes longer than any test waits.
const LONG: &str = "#!/bin/sh\necho running\nsleep 300\n";
const SHORT: &str = "#!/bin/sh\ntrue\n";

fn pod(cluster: &Cluster, script: &str, workspace: &Path, task: &str, pod: &str) -> Step {
    cluster
        .build(script)
        .flag("--workspace", workspace.to_str().unwrap())
        .flag("--run-uid", "run")
        .flag("--task-uid", task)
        .flag("--pod-uid", pod)
}

async fn killed(cluster: &Cluster, workspace: &Path) {
    let mut running = pod(cluster, LONG, workspace, "task", "pod-1").start();
    running.says(Stream::Stdout, "running\n").await;
    running.signal(Signal::KILL);
    running.ended().await;
    assert_eq!(cluster.sim.state().vms.len(), 1);
}

fn ledgers(workspace: &Path) -> Vec<std::path::PathBuf> {
    let runs = std::fs::read_dir(workspace.join(".orka-step"))
        .unwrap()
        .map(Result::unwrap);
    runs.filter(|run| run.path().is_dir())
        .flat_map(|run| std::fs::read_dir(run.path()).unwrap())
        .map(|file| file.unwrap().path())
        .filter(|file| file.extension().is_some_and(|it| it == "jsonl"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_tried_again_deletes_what_the_one_before_left() {
    for config in [Cluster::orka2(), Cluster::orka3()] {
        let cluster = Cluster::with(config).await;
        let workspace = tempfile::tempdir().unwrap();
        killed(&cluster, workspace.path()).await;
        let ended = pod(&cluster, SHORT, workspace.path(), "task", "pod-2")
            .ended()
            .await;
        ended.assert(0, "succeeded");
        ended.assert_says(&["was left by an earlier pod of this TaskRun"]);
        assert!(cluster.sim.state().is_clean(), "{ended}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_pod_again_does_not_meet_its_own_leftover() {
    for config in [Cluster::orka2(), Cluster::orka3()] {
        let cluster = Cluster::with(config).await;
        let workspace = tempfile::tempdir().unwrap();
        killed(&cluster, workspace.path()).await;
        let ended = pod(&cluster, SHORT, workspace.path(), "task", "pod-1")
            .ended()
            .await;
        ended.assert(0, "succeeded");
        assert!(cluster.sim.state().is_clean(), "{ended}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_last_line_keeps_nobody_from_cleaning_up() {
    let cluster = Cluster::start().await;
    let workspace = tempfile::tempdir().unwrap();
    killed(&cluster, workspace.path()).await;
    for ledger in ledgers(workspace.path()) {
        let mut text = std::fs::read_to_string(&ledger).unwrap();
        text.push_str("{\"at\":\"2026-01-02T03:04:05Z\",\"na");
        std::fs::write(&ledger, text).unwrap();
    }
    let ended = pod(&cluster, SHORT, workspace.path(), "task", "pod-2")
        .ended()
        .await;
    ended.assert(0, "succeeded");
    assert!(cluster.sim.state().is_clean(), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parallel_task_of_the_same_run_is_never_touched() {
    for config in [Cluster::orka2(), Cluster::orka3()] {
        let cluster = Cluster::with(config).await;
        let workspace = tempfile::tempdir().unwrap();
        let mut running = pod(&cluster, LONG, workspace.path(), "task-a", "pod-a").start();
        running.says(Stream::Stdout, "running\n").await;
        let other = pod(&cluster, SHORT, workspace.path(), "task-b", "pod-b")
            .ended()
            .await;
        other.assert(0, "succeeded");
        assert_eq!(cluster.sim.state().vms.len(), 1, "{other}");
        running.signal(Signal::TERM);
        running.ended().await.assert(143, "cancelled");
        assert!(cluster.sim.state().is_clean());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_proves_that_a_pod_has_ended_it_is_left_alone_with_a_sentence() {
    let cluster = Cluster::start().await;
    let workspace = tempfile::tempdir().unwrap();
    killed(&cluster, workspace.path()).await;
    let ended = pod(&cluster, SHORT, workspace.path(), "", "pod-2")
        .ended()
        .await;
    ended.assert(0, "succeeded");
    ended.assert_says(&["nothing proves that it has ended"]);
    assert_eq!(cluster.sim.state().vms.len(), 1, "{ended}");
}
