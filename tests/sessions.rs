//! Recorded sessions: runs that were stopped and ends of logins play again as they were.

use std::time::Duration;

use end_to_end::{Cluster, Ended, Step, Stream, bundled, without};
use orka_sim::{FaultAction, FaultRule};
use rustix::process::Signal;

/// Says that it runs, then takes longer than any test waits.
const LONG: &str = "#!/bin/sh\necho running\nsleep 300\n";

/// Dies a moment after it is asked to, as programs of some size do.
const SLOW_TO_DIE: &str =
    "#!/bin/sh\ntrap 'sleep 0.3; exit 3' TERM\necho running\nsleep 300 & wait\n";

/// What stops a run.
#[derive(Clone, Copy)]
enum By {
    Signal(Signal),
    Deadline,
}

/// Records a run that is stopped once this is in the log, and plays it again.
async fn stopped_and_played_again(step: Step, by: By, when: (Stream, &str)) -> Ended {
    let file = step.scratch_file("session.yaml", b"");
    let step = step.flag("--record", file.as_str());
    let ended = match by {
        By::Signal(signal) => {
            let mut running = step.start();
            running.says(when.0, when.1).await;
            running.signal(signal);
            running.ended().await
        }
        By::Deadline => step.flag("--timeout", "3s").ended().await,
    };
    let (code, outcome) = match by {
        By::Signal(Signal::INT) => (130, "cancelled"),
        By::Signal(_) => (143, "cancelled"),
        By::Deadline => (218, "timed-out"),
    };
    ended.assert(code, outcome);
    let session = std::fs::read_to_string(&file).unwrap();
    let played = played(&session).await;
    assert_eq!(played.code, Some(0), "{played}\n{session}\n{ended}");
    ended
}

/// Plays a session of `build`.
async fn played(session: &str) -> Ended {
    let step = Step::new(&["plugin", "test"]);
    let file = step.scratch_file("session.yaml", session.as_bytes());
    let step = step.flag("--plugin", bundled("build").to_str().unwrap());
    step.flag("--replay", file).ended().await
}

const RUNNING: (Stream, &str) = (Stream::Stdout, "running\n");
const STOPS: [By; 3] = [
    By::Signal(Signal::TERM),
    By::Signal(Signal::INT),
    By::Deadline,
];

#[tokio::test(flavor = "multi_thread")]
async fn a_run_stopped_while_its_script_runs_plays_again() {
    for script in [LONG, SLOW_TO_DIE] {
        for by in STOPS {
            let cluster = Cluster::start().await;
            stopped_and_played_again(cluster.build(script), by, RUNNING).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_stopped_while_its_vm_is_deployed_plays_again() {
    for by in STOPS {
        let cluster = Cluster::start().await;
        let slow = FaultAction::DelayReply { ms: 4_000 };
        cluster
            .sim
            .add_fault(FaultRule::new("POST", "/resources/vm/deploy", slow));
        let deploys = (Stream::Stderr, "deploying VM");
        stopped_and_played_again(cluster.build(LONG), by, deploys).await;
    }
}

/// Without the deadline, at which the VM has not become ready: that is no stop but Orka's failure.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_stopped_while_ssh_is_awaited_plays_again() {
    for signal in [Signal::TERM, Signal::INT] {
        let cluster = Cluster::with(orka_sim::SimConfig {
            boot_delay: Duration::from_secs(300),
            ..Cluster::orka2()
        })
        .await;
        let waits = (Stream::Stderr, "==> wait for SSH");
        stopped_and_played_again(cluster.build(LONG), By::Signal(signal), waits).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_stopped_while_artifacts_come_back_plays_again() {
    for by in STOPS {
        let cluster = Cluster::start().await;
        let step = cluster
            .build("#!/bin/sh\ntruncate -s 20G large\n")
            .param("artifacts", "large");
        let comes_back = (Stream::Stderr, "==> copy back");
        stopped_and_played_again(step, by, comes_back).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_stopped_whose_evidence_comes_back_plays_again() {
    const EVIDENCE: &str = "#!/bin/sh\ntrap 'echo late >>log.txt; exit 3' TERM\necho early >log.txt\necho running\nsleep 300 & wait\n";
    for by in STOPS {
        let cluster = Cluster::start().await;
        let step = cluster
            .build(EVIDENCE)
            .param("artifacts", "log.txt")
            .param("artifacts-when", "always");
        let ended = stopped_and_played_again(step, by, RUNNING).await;
        assert!(ended.file("log.txt").is_some(), "{ended}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_became_of_the_token_is_said_again() {
    for (config, told, recorded) in [
        (Cluster::orka2(), "token revoked", "sign-out: revoked"),
        (
            orka_sim::SimConfig {
                api_version: "2.4.0".to_owned(),
                ..Cluster::orka2()
            },
            "token kept: since Orka 2.1.1",
            "sign-out: \"kept: since Orka 2.1.1",
        ),
        (
            Cluster::orka3(),
            "token dropped from memory",
            "sign-out: not-applicable",
        ),
    ] {
        let cluster = Cluster::with(config).await;
        let step = cluster.build("#!/bin/sh\nexit 7\n");
        let file = step.scratch_file("session.yaml", b"");
        let ended = step.flag("--record", file.as_str()).ended().await;
        ended.assert_says(&[told]);
        let session = std::fs::read_to_string(&file).unwrap();
        assert!(session.contains(recorded), "{session}");
        // The log is shown where something differs.
        let otherwise = session.replace("exit-code: 7", "exit-code: 8");
        let played = played(&otherwise).await;
        assert_eq!(played.code, Some(1), "{played}");
        assert!(played.stdout.contains(told), "{played}");
    }
}

/// One that the run had not come to waits for the stop instead, which is for runs that a stop met between two calls.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_not_in_the_session_of_a_run_that_timed_out_is_an_extra() {
    // A program that is silent for too long ends a run as its deadline does, and long before it.
    for (timeout, silence) in [("5m", "2s"), ("3s", "1m")] {
        let cluster = Cluster::start().await;
        let step = cluster
            .build(LONG)
            .flag("--timeout", timeout)
            .param("silence-timeout", silence);
        let file = step.scratch_file("session.yaml", b"");
        let ended = step.flag("--record", file.as_str()).ended().await;
        ended.assert(218, "timed-out");
        let session = std::fs::read_to_string(&file).unwrap();
        let (changed, removed) = without(&session, "exec");
        assert!(removed > 0, "{session}");
        let played = played(&changed).await;
        assert_eq!(played.code, Some(1), "{played}\n{session}");
        assert!(played.stdout.contains("+ exec "), "{played}");
    }
}
