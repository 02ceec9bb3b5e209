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
    for signal in [
        Signal::URG,
        Signal::CHILD,
        Signal::WINCH,
        Signal::CONT,
        Signal::PIPE,
    ] {
        running.signal(signal);
    }
    // These would end a program that says nothing of them.
    for (signal, name) in [
        (Signal::HUP, "SIGHUP"),
        (Signal::QUIT, "SIGQUIT"),
        (Signal::ALARM, "SIGALRM"),
        (Signal::USR1, "SIGUSR1"),
        (Signal::USR2, "SIGUSR2"),
        (Signal::IO, "SIGIO"),
    ] {
        running.signal(signal);
        let told = format!("{name} stops nothing here");
        running.says(Stream::Stderr, &told).await;
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

/// What the cluster saw of the end of a run: the first deletion asked for and the last confirmation read, each counted
/// from a moment on its clock.
fn deletions_after(cluster: &Cluster, from: Duration) -> (Duration, Duration) {
    let state = cluster.sim.state();
    let at = |request: &orka_sim::RequestRecord| Duration::from_millis(request.at_ms);
    let deletes = [
        "/resources/vm/purge",
        "/api/v1/namespaces/orka-default/vms/*",
    ];
    let looks = [
        "/resources/vm/status/*",
        "/resources/vm/configs/*",
        "/api/v1/namespaces/orka-default/vms/*",
    ];
    let since = |requests: Vec<&orka_sim::RequestRecord>| -> Vec<Duration> {
        let later = requests.into_iter().map(at).filter(|at| *at >= from);
        later.map(|at| at - from).collect()
    };
    let first = deletes
        .iter()
        .flat_map(|path| since(state.requests_to("DELETE", path)))
        .min();
    let last = looks
        .iter()
        .flat_map(|path| since(state.requests_to("GET", path)))
        .max();
    (first.unwrap(), last.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_healthy_api_the_last_deletion_is_confirmed_within_5_s_of_sigterm() {
    for config in [Cluster::orka2(), Cluster::orka3()] {
        for guest in [None, Some("ignore-stop"), Some("spin")] {
            let cluster = Cluster::with(config.clone()).await;
            let step = guest.map_or_else(|| cluster.build(LONG), |guest| cluster.guest(guest));
            let mut running = step.start();
            if guest.is_none() {
                running.says(Stream::Stdout, "running\n").await;
            } else {
                running.says(Stream::Stderr, " at 127.0.0.1:").await;
            }
            let sent = cluster.sim.elapsed();
            let ended = stopped_by(running, Signal::TERM).await;
            ended.assert(143, "cancelled");
            cluster.assert_purged();
            let (_, confirmed) = deletions_after(&cluster, sent);
            assert!(confirmed < Duration::from_secs(5), "{confirmed:?}: {ended}");
        }
    }
}

/// A run under way whose API falls ill and which is then told to stop. Its end must not be later than promised, and must
/// name what may be left; gives how it ended.
async fn stopped_with_a_sick_api(config: orka_sim::SimConfig, illness: FaultAction) {
    let cluster = Cluster::with(config).await;
    let mut running = cluster.build(LONG).start();
    running.says(Stream::Stdout, "running\n").await;
    let name = cluster.only_vm().name;
    cluster
        .sim
        .add_fault(FaultRule::new("*", "*", illness.clone()));
    let sent = Instant::now();
    running.signal(Signal::TERM);
    let ended = running.ended().await;
    let took = sent.elapsed();
    assert!(
        took < Duration::from_secs(25),
        "{illness:?}: took {took:?}: {ended}"
    );
    ended.assert(143, "cancelled");
    ended.assert_says(&[&format!("`{name}` may still exist"), "hint: delete it with"]);
    assert_eq!(ended.result("leftovers"), name, "{ended}");
    let left = &ended.report["leftovers"][0];
    assert_eq!(left["name"], name.as_str(), "{ended}");
    assert!(left["command"].as_str().unwrap().contains(&name), "{ended}");
    // A server that answers is told by its answer.
    let reason = left["reason"].as_str().unwrap();
    match illness {
        FaultAction::Error { .. } => assert!(reason.contains("answered 500"), "{ended}"),
        _ => assert!(reason.contains("did not answer"), "{ended}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_sick_api_the_end_comes_within_25_s_of_sigterm_and_names_what_may_be_left() {
    let illnesses = [
        FaultAction::Hang,
        FaultAction::Error {
            status: 500,
            message: "Internal Server Error".to_owned(),
        },
        FaultAction::DelayReply { ms: 13_000 },
    ];
    let mut stopping = tokio::task::JoinSet::new();
    for config in [Cluster::orka2(), Cluster::orka3()] {
        for illness in &illnesses {
            stopping.spawn(stopped_with_a_sick_api(config.clone(), illness.clone()));
        }
    }
    stopping.join_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_in_the_vm_are_asked_to_stop_before_their_connection_goes() {
    // Not with `sshd` guests: theirs is a forced command, for which OpenSSH refuses to pass signals on.
    let cluster = Cluster::start().await;
    for call in ["wait", "wait-any", "sleep"] {
        let mut running = cluster.guest("blocks").param("in", call).start();
        running.says(Stream::Stdout, "running\n").await;
        let ended = stopped_by(running, Signal::TERM).await;
        ended.assert(143, "cancelled");
        assert!(ended.stdout.contains("asked to stop\n"), "{call}: {ended}");
        assert!(!ended.results.contains_key("exit-status"), "{ended}");
        cluster.assert_purged();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_will_not_stop_delays_nothing() {
    let cluster = Cluster::start().await;
    let stubborn = "trap '' TERM; echo running; while :; do sleep 1; done";
    let step = cluster.guest("blocks").param("script", stubborn);
    let mut running = step.start();
    running.says(Stream::Stdout, "running\n").await;
    let sent = cluster.sim.elapsed();
    let ended = stopped_by(running, Signal::TERM).await;
    ended.assert(143, "cancelled");
    let (_, confirmed) = deletions_after(&cluster, sent);
    assert!(confirmed < Duration::from_secs(5), "{confirmed:?}: {ended}");
    cluster.assert_purged();
}

/// Writes a line before it is stopped and another one because it is.
const WITH_EVIDENCE: &str = "#!/bin/sh\ntrap 'echo late >>log.txt; exit 3' TERM\necho early >log.txt\necho running\nsleep 300 &\nwait\n";

#[tokio::test(flavor = "multi_thread")]
async fn what_the_script_has_written_comes_back_when_the_run_is_stopped_if_it_was_asked_for_always()
{
    for stopped_by_signal in [true, false] {
        let cluster = Cluster::start().await;
        let step = cluster
            .build(WITH_EVIDENCE)
            .param("artifacts", "log.txt")
            .param("artifacts-when", "always");
        let ended = if stopped_by_signal {
            let mut running = step.start();
            running.says(Stream::Stdout, "running\n").await;
            stopped_by(running, Signal::TERM).await
        } else {
            step.flag("--timeout", "4s").ended().await
        };
        let (code, outcome) = if stopped_by_signal {
            (143, "cancelled")
        } else {
            (218, "timed-out")
        };
        ended.assert(code, outcome);
        let log = ended.file("log.txt").unwrap_or_default();
        assert_eq!(String::from_utf8_lossy(&log), "early\nlate\n", "{ended}");
        assert!(
            ended.result("artifacts-digest").starts_with("sha256:"),
            "{ended}"
        );
        assert!(!ended.results.contains_key("exit-status"), "{ended}");
        cluster.assert_purged();
    }
}

/// Evidence that does not arrive: the connection has frozen under the policy that fetches it.
async fn first_deletion_under_endless_evidence(signal: bool) -> Duration {
    let cluster = Cluster::start().await;
    let script = "echo x >evidence.txt; echo running; sleep 300 & wait";
    let mut running = cluster
        .guest("blocks")
        .param("in", "evidence")
        .param("script", script)
        .flag("--timeout", if signal { "60s" } else { "5s" })
        .start();
    let started = cluster.sim.elapsed();
    running.says(Stream::Stdout, "running\n").await;
    cluster.sim.freeze_ssh();
    let over = if signal {
        let sent = cluster.sim.elapsed();
        running.signal(Signal::TERM);
        sent
    } else {
        started + Duration::from_secs(5)
    };
    let ended = running.ended().await;
    let (code, outcome) = if signal {
        (143, "cancelled")
    } else {
        (218, "timed-out")
    };
    ended.assert(code, outcome);
    cluster.assert_purged();
    deletions_after(&cluster, over).0
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_never_delays_a_deletion_past_its_slot() {
    let (signal, deadline) = tokio::join!(
        first_deletion_under_endless_evidence(true),
        first_deletion_under_endless_evidence(false),
    );
    // 2 s of grace after a signal and 15 s after the deadline, and a moment for a busy machine.
    assert!(signal < Duration::from_millis(3_500), "{signal:?}");
    assert!(deadline < Duration::from_millis(18_000), "{deadline:?}");
    assert!(
        deadline > Duration::from_secs(4),
        "{deadline:?}: evidence had its time"
    );
}
