//! Scripts that outlive their connection, and scripts that say nothing any more.

use std::time::Duration;

use end_to_end::{Cluster, Ended, Step, Stream};
use rustix::process::Signal;

/// Counts its own starts, and prints numbered lines on both streams for some seconds.
const COUNTING: &str = "#!/bin/sh\necho run >>count.txt\nn=0\nwhile [ $n -lt 60 ]; do\nn=$((n + 1))\necho \"out $n\"\necho \"err $n\" >&2\nsleep 0.05\ndone\nexit 7\n";

fn counting(cluster: &Cluster) -> Step {
    cluster
        .build(COUNTING)
        .param("detach", "true")
        .param("artifacts", "count.txt")
        .param("artifacts-when", "always")
}

/// All lines, each once and in order, the script's own status, and one start.
fn assert_counted(ended: &Ended) {
    ended.assert(7, "build-failed");
    assert_eq!(ended.result("reason"), "the script exited with status 7");
    for stream in ["out", "err"] {
        let lines: Vec<&str> = ended
            .stdout
            .lines()
            .filter(|line| line.starts_with(stream))
            .collect();
        let expected: Vec<String> = (1..=60)
            .map(|number| format!("{stream} {number}"))
            .collect();
        assert_eq!(lines, expected, "{ended}");
    }
    assert_eq!(ended.stdout.lines().count(), 120, "{ended}");
    assert_eq!(ended.result("exit-status"), "7");
    assert_eq!(ended.file("count.txt").unwrap(), b"run\n", "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_cut_under_a_detached_script_changes_nothing() {
    let cluster = Cluster::start().await;
    let mut running = counting(&cluster).start();
    for line in ["out 5\n", "out 20\n", "err 40\n"] {
        running.says(Stream::Stdout, line).await;
        assert_eq!(cluster.sim.cut_ssh(), 1);
    }
    let ended = running.ended().await;
    assert_counted(&ended);
    ended.assert_says(&[
        "the connection to the VM was lost",
        "the connection to the VM is back",
    ]);
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_dies_without_a_word_under_a_detached_script_changes_nothing() {
    let cluster = Cluster::start().await;
    let mut running = counting(&cluster).flag("--ssh-keepalive", "2s").start();
    running.says(Stream::Stdout, "out 10\n").await;
    assert_eq!(cluster.sim.stall_ssh(), 1);
    let ended = running.ended().await;
    assert_counted(&ended);
    ended.assert_says(&["the connection to the VM was lost"]);
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_sshd_that_is_restarted_under_a_detached_script_changes_nothing() {
    let cluster = Cluster::with_openssh().await;
    let mut running = counting(&cluster).start();
    for line in ["out 10\n", "out 30\n"] {
        running.says(Stream::Stdout, line).await;
        assert_eq!(cluster.sim.restart_ssh(), 1);
    }
    let ended = running.ended().await;
    assert_counted(&ended);
    cluster.assert_purged();
}

/// Directories that detached commands keep in a VM's home directory.
fn directories(home: &std::path::Path) -> usize {
    let entries = std::fs::read_dir(home).into_iter().flatten().flatten();
    entries
        .filter(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .starts_with(".orka-step.")
        })
        .count()
}

/// Processes whose home directory is this VM's.
fn processes(home: &std::path::Path) -> usize {
    let variable = format!("HOME={}", home.display());
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter(|entry| {
            let environ = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            environ
                .split(|&byte| byte == 0)
                .any(|it| it == variable.as_bytes())
        })
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_reaches_a_detached_script_its_evidence_comes_back_and_no_process_stays() {
    for cluster in [Cluster::start().await, Cluster::with_openssh().await] {
        let script = "#!/bin/sh\ntrap 'echo late >>log.txt; exit 3' TERM\necho early >log.txt\necho running\nsleep 300 &\nwait\n";
        let mut running = cluster
            .build(script)
            .param("detach", "true")
            .param("artifacts", "log.txt")
            .param("artifacts-when", "always")
            .start();
        running.says(Stream::Stdout, "running\n").await;
        let home = cluster.only_vm().home;
        assert_eq!(directories(&home), 1);
        running.signal(Signal::TERM);
        let ended = running.ended().await;
        ended.assert(143, "cancelled");
        let log = ended.file("log.txt").unwrap_or_default();
        assert_eq!(String::from_utf8_lossy(&log), "early\nlate\n", "{ended}");
        assert_eq!(processes(&home), 0, "{ended}");
        cluster.assert_purged();
    }
}

/// While the VM is still there nothing of a command that has ended is in it.
#[tokio::test(flavor = "multi_thread")]
async fn a_detached_script_that_has_ended_leaves_nothing_in_a_vm_that_is_kept() {
    let cluster = Cluster::start().await;
    let step = cluster
        .build("#!/bin/sh\nsleep 300 &\necho done\n")
        .param("detach", "true")
        .param("keep", "always")
        .param("keep-for", "1h")
        .granted("[[grant]]\nplugin = \"build\"\ncapabilities = [\"*\"]\n[grant.ceilings]\nkeep-max = \"2h\"\n");
    let ended = step.ended().await;
    ended.assert(0, "succeeded");
    assert_eq!(ended.stdout, "done\n", "{ended}");
    let home = cluster.only_vm().home;
    assert_eq!(directories(&home), 0);
    assert_eq!(processes(&home), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_script_is_stopped_with_a_code_of_its_own() {
    for detach in ["false", "true"] {
        let cluster = Cluster::start().await;
        let script =
            "#!/bin/sh\ntrap 'echo asked to stop; exit 3' TERM\necho running\nsleep 300 &\nwait\n";
        let ended = cluster
            .build(script)
            .param("detach", detach)
            .param("silence-timeout", "2s")
            .ended()
            .await;
        ended.assert(218, "timed-out");
        assert_eq!(ended.stdout, "running\nasked to stop\n", "{ended}");
        ended.assert_says(&[
            "printed nothing for 2.00 s",
            "hint: raise `silence-timeout`",
        ]);
        assert!(!ended.results.contains_key("exit-status"), "{ended}");
        assert!(ended.took < Duration::from_secs(30), "{ended}");
        cluster.assert_purged();
    }
}
