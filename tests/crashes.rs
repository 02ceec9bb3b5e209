//! The process of a run crashes: what it had made goes all the same, without a reaper.

use std::os::unix::fs::PermissionsExt as _;
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
async fn what_a_clean_up_that_crashes_too_leaves_is_named_with_the_command_that_deletes_it() {
    for uid in [Some("a-run"), None] {
        let cluster = Cluster::start().await;
        let slow = FaultAction::DelayReply { ms: 60_000 };
        (cluster.sim).add_fault(FaultRule::new("DELETE", "/resources/vm/purge", slow));
        let step = cluster.build(LONG).flag("--vm-prefix", "ci");
        let step = match uid {
            Some(uid) => step.flag("--run-uid", uid),
            None => step,
        };
        let mut running = step.start();
        running.says(Stream::Stdout, "running\n").await;
        running.crash(Signal::SEGV).await;
        running.says(Stream::Stderr, "cleaning up after it").await;
        running.crash(Signal::SEGV).await;
        let ended = running.ended().await;
        ended.assert(INTERNAL, "infra-failed");
        let left = ended.result("leftovers");
        let hash = left.split('-').nth(1).unwrap();
        let command = format!("orka-step reap --vm-prefix ci --run-hash {hash}");
        ended.assert_says(&["may still exist", &command]);
    }
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
async fn sigterm_in_any_moment_after_a_crash_keeps_nothing_from_being_deleted() {
    for delay in 0..12 {
        let cluster = Cluster::start().await;
        let mut running = cluster.build(LONG).start();
        running.says(Stream::Stdout, "running\n").await;
        running.crash(Signal::ABORT).await;
        tokio::time::sleep(Duration::from_millis(delay * 2)).await;
        running.signal(Signal::TERM);
        let ended = running.ended().await;
        ended.assert(INTERNAL, "infra-failed");
        cluster.assert_purged();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_in_any_moment_of_the_start_is_a_cancellation() {
    for delay in 0..25 {
        let cluster = Cluster::start().await;
        let running = cluster.build(LONG).start();
        tokio::time::sleep(Duration::from_millis(1 + delay * 2)).await;
        running.signal(Signal::TERM);
        let ended = running.ended().await;
        // In the first moments nobody listens yet, and it ends as any program does.
        if ended.code.is_some() {
            ended.assert(143, "cancelled");
        }
        assert!(!ended.stderr.contains("crashed"), "{ended}");
        cluster.assert_nothing_left();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_gone_away_since_the_start_keeps_nothing_from_being_deleted() {
    let cluster = Cluster::start().await;
    let step = cluster.build(LONG);
    let copy = step.scratch_file("orka-step", &std::fs::read(end_to_end::program()).unwrap());
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).unwrap();
    let workspace = step.workspace();
    let plugin = end_to_end::bundled("build");
    let step = step.flag("--plugin-dir", plugin.parent().unwrap().to_str().unwrap());
    let step = step.granted("[[grant]]\nplugin = \"*\"\ncapabilities = [\"*\"]\n");
    let mut running = step.program(&copy).start();
    running.says(Stream::Stdout, "running\n").await;
    std::fs::remove_file(&copy).unwrap();
    std::fs::remove_dir_all(cluster.ssh_credentials()).unwrap();
    std::fs::remove_dir_all(workspace).unwrap();
    running.crash(Signal::ABORT).await;
    running.ended().await.assert(INTERNAL, "infra-failed");
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_endpoint_has_gone_away_what_may_be_left_is_named() {
    let cluster = Cluster::start().await;
    let mut running = cluster.build(LONG).start();
    running.says(Stream::Stdout, "running\n").await;
    std::fs::remove_dir_all(cluster.orka_credentials()).unwrap();
    running.crash(Signal::ABORT).await;
    let ended = running.ended().await;
    ended.assert(INTERNAL, "infra-failed");
    assert!(ended.result("leftovers").contains("tekton-"), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_the_process_that_crashed_take_no_time_beyond_that_of_the_signal() {
    let cluster = Cluster::start().await;
    for path in ["/resources/vm/purge", "/token"] {
        let slow = FaultAction::DelayReply { ms: 60_000 };
        cluster.sim.add_fault(FaultRule::new("DELETE", path, slow));
    }
    let mut running = cluster.build(LONG).start();
    running.says(Stream::Stdout, "running\n").await;
    let sent = Instant::now();
    running.signal(Signal::TERM);
    running.says(Stream::Stderr, "SIGTERM: stopping").await;
    running.crash(Signal::ABORT).await;
    let ended = running.ended().await;
    assert!(sent.elapsed() < Duration::from_secs(25), "{ended}");
    ended.assert_says(&["may still exist"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_ignores_sigchld_changes_nothing() {
    let cluster = Cluster::start().await;
    let step = cluster.build("#!/bin/sh\nexit 0\n");
    let program = end_to_end::program();
    let wrapper = format!(
        "#!/bin/sh\ntrap '' CHLD\nexec '{}' \"$@\"\n",
        program.display()
    );
    let wrapper = step.scratch_file("wrapper", wrapper.as_bytes());
    std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755)).unwrap();
    step.program(wrapper).ended().await.assert(0, "succeeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_a_purge_of_the_run_says_what_finishes_it() {
    let cluster = Cluster::start().await;
    let slow = FaultAction::DelayReply { ms: 60_000 };
    (cluster.sim).add_fault(FaultRule::new("GET", "/resources/vm/list*", slow));
    let step = cluster.run().flag("--plugin", "teardown");
    let running = step.flag("--run-uid", "a-run").start();
    while !cluster
        .sim
        .state()
        .requests
        .iter()
        .any(|it| it.path.starts_with("/resources/vm/list"))
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    running.crash(Signal::ABORT).await;
    let ended = running.ended().await;
    ended.assert(INTERNAL, "infra-failed");
    ended.assert_says(&["orka-step reap --run UID"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_cannot_reach_its_supervisor_runs_alone_and_says_so() {
    let cluster = Cluster::start().await;
    let step = cluster.build("#!/bin/sh\nexit 0\n");
    let told = format!("{}:9999", std::process::id());
    let ended = step.environment("ORKA_STEP_WORKER", &told).ended().await;
    ended.assert(0, "succeeded");
    ended.assert_says(&["its supervisor cannot be reached"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_up_that_cannot_learn_what_is_left_builds_nothing() {
    let cluster = Cluster::start().await;
    let step = cluster.build("#!/bin/sh\nexit 0\n");
    let told = format!("{}:9999:6", std::process::id());
    let ended = step.environment("ORKA_STEP_WORKER", &told).ended().await;
    ended.assert(INTERNAL, "infra-failed");
    cluster.assert_untouched();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sets_the_variable_by_hand_is_no_worker() {
    let cluster = Cluster::start().await;
    let step = cluster.build("#!/bin/sh\nexit 0\n");
    let ended = step.environment("ORKA_STEP_WORKER", "1:0:11").ended().await;
    ended.assert(0, "succeeded");
}
