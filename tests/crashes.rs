//! The process of a run crashes: what it had made goes all the same, without a reaper.

use std::time::{Duration, Instant};

use end_to_end::{Cluster, Stream};
use orka_sim::{FaultAction, FaultRule};
use rustix::process::Signal;

/// Says that it runs, then takes longer than any test waits.
const LONG: &str = "#!/bin/sh\necho running\nsleep 300\n";

/// The exit code for what is no fault of the build's.
const INTERNAL: i32 = 210;

#[tokio::test(flavor = "multi_thread")]
async fn whatever_ends_the_worker_its_vm_is_deleted_and_its_token_revoked() {
    for (signal, name) in [
        (Signal::SEGV, "SIGSEGV"),
        (Signal::ABORT, "SIGABRT"),
        (Signal::KILL, "SIGKILL"),
    ] {
        for cluster in [
            Cluster::start().await,
            Cluster::with(Cluster::orka3()).await,
        ] {
            let mut running = cluster.build(LONG).start();
            running.says(Stream::Stdout, "running\n").await;
            running.crash(signal).await;
            let ended = running.ended().await;
            ended.assert(INTERNAL, "infra-failed");
            ended.assert_says(&[
                &format!("the process of the run crashed ({name})"),
                "purged `",
            ]);
            let report = &ended.report;
            assert_eq!(report["plugin"]["name"], "build", "{ended}");
            assert_eq!(report["removed"].as_array().unwrap().len(), 1, "{ended}");
            cluster.assert_purged();
            cluster.assert_nothing_left();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_workspace_and_without_uids_it_is_the_same() {
    let cluster = Cluster::start().await;
    let step = cluster.build(LONG).without("--workspace");
    let step = step.without("--run-uid").without("--pod-uid");
    let mut running = step.start();
    running.says(Stream::Stdout, "running\n").await;
    running.crash(Signal::SEGV).await;
    running.ended().await.assert(INTERNAL, "infra-failed");
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_while_the_vm_is_being_deployed_leaves_nothing() {
    for (cluster, deploy) in [
        (Cluster::start().await, "/resources/vm/deploy"),
        (
            Cluster::with(Cluster::orka3()).await,
            "/api/v1/namespaces/orka-default/vms",
        ),
    ] {
        // Orka finishes the deploy also when nobody waits for the answer.
        let slow = FaultAction::DelayReply { ms: 60_000 };
        cluster.sim.add_fault(FaultRule::new("POST", deploy, slow));
        let running = cluster.build(LONG).start();
        while cluster.sim.state().vms.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        running.crash(Signal::SEGV).await;
        running.ended().await.assert(INTERNAL, "infra-failed");
        cluster.assert_purged();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_before_anything_was_made_is_told_and_asks_nothing_of_orka() {
    let cluster = Cluster::start().await;
    let slow = FaultAction::DelayReply { ms: 60_000 };
    (cluster.sim).add_fault(FaultRule::new("POST", "/token", slow));
    let running = cluster.build(LONG).start();
    while cluster.sim.state().requests_to("POST", "/token").is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    running.crash(Signal::SEGV).await;
    let ended = running.ended().await;
    ended.assert(INTERNAL, "infra-failed");
    ended.assert_says(&["the process of the run crashed (SIGSEGV)"]);
    assert_eq!(cluster.sim.state().requests_to("POST", "/token").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_after_sigterm_is_cleaned_up_in_the_time_of_the_signal() {
    let cluster = Cluster::start().await;
    // The first clean-up hangs in its deletion.
    let slow = FaultAction::DelayReply { ms: 60_000 };
    (cluster.sim).add_fault(FaultRule::new("DELETE", "/resources/vm/purge", slow));
    let mut running = cluster.build(LONG).start();
    running.says(Stream::Stdout, "running\n").await;
    let sent = Instant::now();
    running.signal(Signal::TERM);
    running.says(Stream::Stderr, "SIGTERM: stopping").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    running.crash(Signal::SEGV).await;
    let ended = running.ended().await;
    assert!(sent.elapsed() < Duration::from_secs(25), "{ended}");
    assert_eq!(ended.code, Some(INTERNAL), "{ended}");
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_after_a_crash_stops_the_clean_up_in_time() {
    let cluster = Cluster::start().await;
    let sick = FaultAction::Error {
        status: 500,
        message: "sick".to_owned(),
    };
    (cluster.sim).add_fault(FaultRule::new("DELETE", "/resources/vm/purge", sick).times(u32::MAX));
    let mut running = cluster.build(LONG).start();
    running.says(Stream::Stdout, "running\n").await;
    running.crash(Signal::SEGV).await;
    running.says(Stream::Stderr, "cleaning up after it").await;
    let sent = Instant::now();
    running.signal(Signal::TERM);
    let ended = running.ended().await;
    assert!(sent.elapsed() < Duration::from_secs(25), "{ended}");
    ended.assert_says(&["may still exist"]);
    assert!(ended.result("leftovers").contains("tekton-"), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worker_does_not_outlive_its_supervisor() {
    let cluster = Cluster::start().await;
    let mut running = cluster.build(LONG).start();
    running.says(Stream::Stdout, "running\n").await;
    let worker = running.worker();
    running.signal(Signal::KILL);
    // Its output ends with the last process that holds it.
    running.ended().await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", worker.as_raw_pid()));
    // Nobody may have waited for it yet.
    assert!(status.is_err() || status.is_ok_and(|status| status.contains("(zombie)")));
    assert!(!cluster.sim.state().vms.is_empty(), "a reaper's work");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sets_the_variable_by_hand_is_no_worker() {
    let cluster = Cluster::start().await;
    let step = cluster.build("#!/bin/sh\nexit 0\n");
    let ended = step.environment("ORKA_STEP_WORKER", "1:0:11").ended().await;
    ended.assert(0, "succeeded");
}
