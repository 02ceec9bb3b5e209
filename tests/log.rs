//! A log that nobody reads.

use std::time::Duration;

use end_to_end::Cluster;
use orka_sim::{FaultAction, FaultRule};
use rustix::process::Signal;

/// Writes as much as it may, for ever.
const FLOOD: &str = "#!/bin/sh\nexec yes 'a line of a build that never ends'\n";

/// A stopped step has ended by then; Kubernetes kills at 30 s.
const BUDGET: Duration = Duration::from_secs(25);

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_deletes_the_vm_and_ends_the_step_also_while_nobody_reads_a_flooded_log() {
    for one_pipe in [false, true] {
        let cluster = Cluster::start().await;
        let running = cluster.build(FLOOD).start_unread(one_pipe);
        running.is_full().await;
        running.signal(Signal::TERM);
        let ended = running.ended().await;
        ended.assert(143, "cancelled");
        assert!(ended.took < BUDGET, "{:?}", ended.took);
        cluster.assert_purged();
        if !one_pipe {
            // Our own stream is a pipe of its own, and had room.
            ended.assert_says(&["SIGTERM: stopping; VMs are deleted first", "purged `"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_deletes_the_vm_also_while_nobody_reads_a_flooded_log() {
    let cluster = Cluster::start().await;
    let step = cluster.build(FLOOD).flag("--timeout", "4s");
    let ended = step.start_unread(true).ended().await;
    ended.assert(218, "timed-out");
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_that_is_read_arrives_whole() {
    let cluster = Cluster::start().await;
    let ended = cluster.build("#!/bin/sh\nseq 1 200000\n").ended().await;
    ended.assert(0, "succeeded");
    let expected: String = (1..=200_000).map(|number| format!("{number}\n")).collect();
    assert!(ended.stdout == expected, "{} bytes", ended.stdout.len());
    assert!(!ended.stderr.contains("left out"), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_command_says_of_a_signal_what_is_true_for_it() {
    let cluster = Cluster::start().await;
    // Long enough for a signal; a login under way is waited for, so that its token can be given back.
    let slow = FaultAction::DelayReply { ms: 2_000 };
    (cluster.sim).add_fault(FaultRule::new("POST", "/token", slow));
    let reap = cluster.reap().argument("--run").argument("run");
    let doctor = cluster.doctor();
    for (step, told, untold) in [
        (reap, "no other begins", "VMs are deleted"),
        (doctor, "nothing was deployed", "VMs are deleted"),
    ] {
        let asked = || cluster.sim.state().requests_to("POST", "/token").len();
        let before = asked();
        let running = step.start();
        while asked() == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        running.signal(Signal::TERM);
        let ended = running.ended().await;
        assert_eq!(ended.code, Some(143), "{ended}");
        ended.assert_says(&["SIGTERM: stopping; ", told]);
        assert!(!ended.stderr.contains(untold), "{ended}");
    }
}
