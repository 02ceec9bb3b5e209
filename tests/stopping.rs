//! Signals and deadlines: the run ends, its VMs with it.

use std::time::{Duration, Instant};

use end_to_end::{Cluster, Ended, Running, Stream};
use orka_sim::{FaultAction, FaultRule};
use rustix::process::Signal;

/// Says that it runs, then takes longer than any test waits.
const LONG: &str = "#!/bin/sh\necho running\nsleep 300\n";

/// What Kubernetes allows after SIGTERM is 30 s; a healthy cluster needs much less.
const PROMPT: Duration = Duration::from_secs(10);

async fn stopped_by(running: Running, signal: Signal) -> Ended {
    let sent = Instant::now();
    running.signal(signal);
    let ended = running.ended().await;
    assert!(
        sent.elapsed() < PROMPT,
        "took {:?}: {ended}",
        sent.elapsed()
    );
    ended
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_during_the_script_deletes_the_vm_and_says_cancelled() {
    for cluster in [
        Cluster::start().await,
        Cluster::with_openssh().await,
        Cluster::with(Cluster::orka3()).await,
    ] {
        let mut running = cluster.build(LONG).start();
        running.says(Stream::Stdout, "running\n").await;
        let ended = stopped_by(running, Signal::TERM).await;
        ended.assert(143, "cancelled");
        ended.assert_says(&["SIGTERM stopped the run"]);
        assert!(!ended.results.contains_key("exit-status"), "{ended}");
        cluster.assert_purged();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigint_during_the_script_deletes_the_vm_and_says_cancelled() {
    let cluster = Cluster::start().await;
    let mut running = cluster.build(LONG).start();
    running.says(Stream::Stdout, "running\n").await;
    let ended = stopped_by(running, Signal::INT).await;
    ended.assert(130, "cancelled");
    ended.assert_says(&["SIGINT stopped the run"]);
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_while_the_vm_is_being_deployed_leaves_nothing() {
    let cluster = Cluster::start().await;
    // Orka finishes the deploy also when nobody waits for the answer.
    let slow = FaultAction::DelayReply { ms: 3_000 };
    cluster
        .sim
        .add_fault(FaultRule::new("POST", "/resources/vm/deploy", slow));
    let mut running = cluster.build(LONG).start();
    running.says(Stream::Stderr, "deploying VM").await;
    while cluster.sim.state().vms.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let ended = stopped_by(running, Signal::TERM).await;
    ended.assert(143, "cancelled");
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_while_ssh_is_awaited_leaves_nothing() {
    let cluster = Cluster::with(orka_sim::SimConfig {
        boot_delay: Duration::from_secs(300),
        ..Cluster::orka2()
    })
    .await;
    let mut running = cluster.build(LONG).start();
    running.says(Stream::Stderr, "==> wait for SSH").await;
    let ended = stopped_by(running, Signal::TERM).await;
    ended.assert(143, "cancelled");
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_sigterm_shortens_the_clean_up_and_what_is_left_is_named() {
    let cluster = Cluster::start().await;
    cluster.sim.add_fault(FaultRule::new(
        "DELETE",
        "/resources/vm/purge",
        FaultAction::Hang,
    ));
    let mut running = cluster.build(LONG).start();
    running.says(Stream::Stdout, "running\n").await;
    running.signal(Signal::TERM);
    running.says(Stream::Stderr, "SIGTERM: stopping").await;
    while cluster
        .sim
        .state()
        .requests_to("DELETE", "/resources/vm/purge")
        .is_empty()
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let ended = stopped_by(running, Signal::TERM).await;
    ended.assert(143, "cancelled");
    let vm = cluster.only_vm();
    ended.assert_says(&[&format!("`{}` may still exist", vm.name), "orka vm purge"]);
    assert_eq!(ended.report["leftovers"][0]["name"], vm.name.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn other_signals_that_tekton_passes_on_change_nothing() {
    let cluster = Cluster::start().await;
    let script = "#!/bin/sh\necho running\nwhile [ ! -e ~/go-on ]; do sleep 0.02; done\n";
    let mut running = cluster.build(script).start();
    running.says(Stream::Stdout, "running\n").await;
    for signal in [Signal::URG, Signal::CHILD, Signal::WINCH, Signal::CONT] {
        running.signal(signal);
    }
    std::fs::write(cluster.only_vm().home.join("go-on"), "").unwrap();
    running.ended().await.assert(0, "succeeded");
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_that_outlasts_the_runs_deadline_is_timed_out() {
    let cluster = Cluster::start().await;
    let ended = cluster.build(LONG).flag("--timeout", "3s").ended().await;
    ended.assert(218, "timed-out");
    ended.assert_says(&[
        "the run's own deadline has passed",
        "hint: raise `--timeout`",
    ]);
    assert!(!ended.results.contains_key("exit-status"), "{ended}");
    assert!(ended.took < Duration::from_secs(3) + PROMPT, "{ended}");
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_ignores_the_deadline_is_dropped() {
    for guest in ["ignore-stop", "spin", "liar"] {
        let cluster = Cluster::start().await;
        let ended = cluster.guest(guest).flag("--timeout", "3s").ended().await;
        ended.assert(218, "timed-out");
        assert!(ended.took < Duration::from_secs(3) + PROMPT, "{ended}");
        cluster.assert_purged();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_ignores_sigterm_is_dropped() {
    for guest in ["ignore-stop", "spin"] {
        let cluster = Cluster::start().await;
        let mut running = cluster.guest(guest).start();
        running.says(Stream::Stderr, " at 127.0.0.1:").await;
        let ended = stopped_by(running, Signal::TERM).await;
        ended.assert(143, "cancelled");
        cluster.assert_purged();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_calls_a_stopped_run_a_success_is_not_believed() {
    let cluster = Cluster::start().await;
    let mut running = cluster.guest("liar").start();
    running.says(Stream::Stderr, " at 127.0.0.1:").await;
    let ended = stopped_by(running, Signal::TERM).await;
    ended.assert(143, "cancelled");
    cluster.assert_purged();
}

/// Told that the run is over, a guest may do anything: what stopped it was still the signal.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_breaks_a_limit_after_sigterm_is_still_cancelled() {
    let cluster = Cluster::start().await;
    let step = cluster
        .guest("ignore-stop")
        .argument("--limit")
        .argument("host-calls=50");
    let mut running = step.start();
    running.says(Stream::Stderr, " at 127.0.0.1:").await;
    let ended = stopped_by(running, Signal::TERM).await;
    ended.assert(143, "cancelled");
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_breaks_a_limit_after_the_deadline_is_still_timed_out() {
    let cluster = Cluster::start().await;
    let step = cluster
        .guest("ignore-stop")
        .argument("--limit")
        .argument("host-calls=50");
    let ended = step.flag("--timeout", "3s").ended().await;
    ended.assert(218, "timed-out");
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_sigkill_the_ledger_names_what_was_left() {
    let cluster = Cluster::start().await;
    let step = cluster.build(LONG);
    let folder = step.workspace().join(".orka-step");
    let mut running = step.start();
    running.says(Stream::Stdout, "running\n").await;
    let name = cluster.only_vm().name;
    // Beside one directory a run there is a `.gitignore`.
    let run = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.is_dir())
        .unwrap();
    let ledger = std::fs::read_dir(run)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    running.signal(Signal::KILL);
    let ended = running.ended().await;
    assert_eq!(ended.code, None, "{ended}");
    assert_eq!(ended.result("vm-name"), name, "known before the end");
    let entries = std::fs::read_to_string(ledger).unwrap();
    assert!(
        entries.contains(&name) && !entries.contains("released"),
        "{entries}"
    );
}
