//! Detached commands that lost more than their connection: the VM was started anew, its disk is full, who watched them was
//! killed, what is said to them does not arrive.
#![allow(clippy::unwrap_used, missing_docs)]

pub mod support;

use std::os::unix::process::CommandExt as _;
use std::process::Child;
use std::time::Duration;

use guest_ssh::{Command, Detach, Error, Event, ExecRequest, Exit, Signal, Stream};
use support::detached::{directories, nothing_is_left, processes, sh, through};
use support::proxy::{Proxy, Weather};
use support::run_out;
use support::sshd::Sshd;
use support::userland::Macos;
use tokio::time::timeout;

/// A process of the login user's that no command of ours started.
struct Stranger(Child);

impl Stranger {
    fn start() -> Self {
        let mut sleep = std::process::Command::new("sleep");
        Self(sleep.arg("600").process_group(0).spawn().unwrap())
    }

    fn lives(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The VM starts anew: every process of ours is gone, its files are not, and `stranger` has the number of one of them.
fn boot(server: &mut Sshd, stranger: &Stranger, mode: &str) {
    let number = stranger.0.id();
    let pids = directories(server).remove(0).join("pids");
    std::fs::write(pids, format!("{number} {number} {mode} {number}\n")).unwrap();
    for process in processes(server) {
        let pid = process.split(' ').next().unwrap();
        // One may have ended with another.
        let _ = std::process::Command::new("kill")
            .args(["-KILL", pid])
            .status();
    }
    server.restart();
}

async fn printing(server: &Sshd, script: &str) -> (guest_ssh::Connection, Command) {
    let connection = server.connect().await;
    let mut command = connection.exec(sh(script)).await.unwrap();
    command.next_output().await.unwrap();
    (connection, command)
}

#[tokio::test]
async fn after_a_reboot_the_command_is_given_up_and_who_has_its_numbers_is_spared() {
    for mode in ["exact", "plain"] {
        let mut server = Sshd::start();
        let (_connection, mut command) = printing(&server, "echo on; exec sleep 600").await;
        let mut stranger = Stranger::start();
        boot(&mut server, &stranger, mode);
        command.signal(Signal::Usr1).await.unwrap();
        let ended = timeout(Duration::from_secs(30), command.wait()).await;
        assert!(
            matches!(&ended, Ok(Err(Error::Detached { reason, .. })) if reason.contains("nobody watches it")),
            "{mode}: {ended:?}"
        );
        nothing_is_left(&server).await;
        assert!(stranger.lives(), "{mode}");
    }
}

#[tokio::test]
async fn clearing_up_after_a_reboot_spares_who_has_the_numbers() {
    for mode in ["exact", "plain"] {
        let mut server = Sshd::start();
        let (_connection, command) = printing(&server, "echo on; exec sleep 600").await;
        let mut stranger = Stranger::start();
        boot(&mut server, &stranger, mode);
        drop(command);
        nothing_is_left(&server).await;
        assert!(stranger.lives(), "{mode}");
    }
}

/// Without `ps`, processes are told apart by Linux's `/proc`.
#[tokio::test]
async fn without_ps_a_program_is_followed_signalled_and_ended_all_the_same() {
    let server = Sshd::with_macos(Macos::whole().without("ps"), "");
    let (connection, mut command) = printing(&server, "echo on; sleep 0.2; exit 3").await;
    assert_eq!(command.wait().await.unwrap(), Exit::Status(3));
    let stubborn = "trap '' TERM HUP; echo on; while :; do sleep 1; done";
    let mut command = connection.exec(sh(stubborn)).await.unwrap();
    command.next_output().await.unwrap();
    server.kill_sessions();
    while !matches!(command.next_event().await, Some(Event::Resumed)) {}
    drop(command);
    nothing_is_left(&server).await;
}

/// Whatever ended the watcher, the program does not outlive the directory.
#[tokio::test]
async fn a_program_whose_watcher_was_killed_is_given_up_and_ended() {
    for (mode, server) in both_modes() {
        let (_connection, mut command) = printing(&server, "echo on; exec sleep 600").await;
        kill_watcher(&server, mode);
        let ended = timeout(Duration::from_secs(30), command.wait()).await;
        assert!(
            matches!(ended, Ok(Err(Error::Detached { .. }))),
            "{mode}: {ended:?}"
        );
        nothing_is_left(&server).await;
    }
}

/// Nor where this side is gone as well, and only the guard is left.
#[tokio::test]
async fn an_abandoned_program_whose_watcher_was_killed_is_ended_by_the_vm() {
    for (mode, mut server) in both_modes() {
        let connection = server.connect().await;
        let request = ExecRequest {
            detach: Some(Detach {
                abandoned_after: Duration::from_secs(4),
            }),
            ..sh("echo on; exec sleep 600")
        };
        let mut command = connection.exec(request).await.unwrap();
        command.next_output().await.unwrap();
        server.kill_sessions();
        server.stop();
        kill_watcher(&server, mode);
        nothing_is_left(&server).await;
        drop(command);
    }
}

/// Without `ps` nothing in the command line of what leads the program's group tells whose it is.
fn both_modes() -> [(&'static str, Sshd); 2] {
    let plain = Sshd::with_macos(Macos::whole().without("ps"), "");
    [("exact", Sshd::start()), ("plain", plain)]
}

fn kill_watcher(server: &Sshd, mode: &str) {
    let pids = std::fs::read_to_string(directories(server)[0].join("pids")).unwrap();
    let pids: Vec<&str> = pids.split_whitespace().collect();
    assert_eq!(pids[2], mode);
    let killed = std::process::Command::new("kill")
        .args(["-KILL", pids[1]])
        .status();
    assert!(killed.unwrap().success());
}

/// No file grows beyond 1 KiB: of single bytes the index is full first.
#[tokio::test]
async fn output_that_the_disk_has_no_room_to_index_is_a_fault_and_not_silence() {
    let server = Sshd::with(
        "ForceCommand trap '' XFSZ; ulimit -f 1; exec /bin/sh -c \"$SSH_ORIGINAL_COMMAND\"\n",
    );
    let script = "n=0; while [ $n -lt 600 ]; do n=$((n + 1)); printf x; sleep 0.01; done";
    let connection = server.connect().await;
    let mut command = connection.exec(sh(script)).await.unwrap();
    let mut bytes = 0;
    while let Some(chunk) = command.next_output().await {
        assert!(chunk.data.iter().all(|&byte| byte == b'x'));
        bytes += chunk.data.len();
    }
    let ended = command.wait().await;
    assert!(
        matches!(&ended, Err(Error::Detached { reason, .. }) if reason.contains("could not be written to the VM's disk")),
        "{ended:?}"
    );
    assert!((100..600).contains(&bytes), "{bytes}");
    nothing_is_left(&server).await;
}

#[tokio::test]
async fn a_signal_on_a_connection_that_is_dead_unnoticed_is_sent_on_the_next() {
    let server = Sshd::start();
    let proxy = Proxy::start(server.port, Weather::default()).await;
    let connection = through(&proxy, &server).await;
    let mut command = connection
        .exec(sh("echo on; sleep 15; exit 4"))
        .await
        .unwrap();
    command.next_output().await.unwrap();
    proxy.freeze();
    command.signal(Signal::Term).await.unwrap();
    let exit = command.wait().await.unwrap();
    assert!(
        matches!(&exit, Exit::Signal { name, .. } if name == "TERM"),
        "{exit:?}"
    );
    nothing_is_left(&server).await;
}

#[tokio::test]
async fn a_signal_too_many_is_refused_and_sigkill_never_is() {
    let server = Sshd::start();
    let proxy = Proxy::start(server.port, Weather::default()).await;
    let connection = through(&proxy, &server).await;
    let script =
        "trap : USR1; echo on; n=0; while [ $n -lt 300 ]; do sleep 0.1; n=$((n + 1)); done; exit 4";
    let mut command = connection.exec(sh(script)).await.unwrap();
    command.next_output().await.unwrap();
    proxy.freeze();
    let mut refused = 0;
    for _ in 0..200 {
        match command.signal(Signal::Usr1).await {
            Ok(()) => {}
            Err(Error::Lost { .. }) => refused += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!((100..200).contains(&refused), "{refused}");
    for _ in 0..200 {
        command.signal(Signal::Kill).await.unwrap();
    }
    let exit = command.wait().await.unwrap();
    assert!(
        matches!(&exit, Exit::Signal { name, .. } if name == "KILL"),
        "{exit:?}"
    );
    nothing_is_left(&server).await;
    command.signal(Signal::Usr1).await.unwrap();
}

/// Whether it was heard before the connection broke or not.
#[tokio::test]
async fn a_signal_is_delivered_once_however_often_the_connection_breaks() {
    let server = Sshd::start();
    let proxy = Proxy::start(server.port, Weather::default()).await;
    let connection = through(&proxy, &server).await;
    let script = "n=0; trap 'n=$((n + 1)); echo $n; [ $n -lt 8 ] || late=0' USR1; echo on; late=-1; \
                  while [ $late -lt 10 ]; do sleep 0.1; [ $late -lt 0 ] || late=$((late + 1)); done";
    let mut command = connection.exec(sh(script)).await.unwrap();
    command.next_output().await.unwrap();
    let mut told = String::new();
    for number in 1..=8 {
        command.signal(Signal::Usr1).await.unwrap();
        if number % 2 == 0 {
            proxy.cut();
        }
        while !told.ends_with(&format!("{number}\n")) {
            let chunk = timeout(Duration::from_secs(20), command.next_output());
            let chunk = chunk.await.expect("each signal arrives").unwrap();
            // The shell speaks of each `sleep` that the signal ended.
            if chunk.stream == Stream::Stdout {
                told += std::str::from_utf8(&chunk.data).unwrap();
            }
        }
        proxy.cut();
    }
    let ran = run_out(command).await;
    assert_eq!(
        (told.as_str(), ran.stdout.as_slice()),
        ("1\n2\n3\n4\n5\n6\n7\n8\n", &b""[..])
    );
    assert_eq!(ran.exit, Exit::Status(0));
    nothing_is_left(&server).await;
}

#[tokio::test]
async fn a_sign_of_life_comes_from_a_silent_program_and_never_over_a_dead_connection() {
    let server = Sshd::start();
    for is_detached in [true, false] {
        let proxy = Proxy::start(server.port, Weather::default()).await;
        let connection = through(&proxy, &server).await;
        let mut request = sh("echo on; exec sleep 20");
        if !is_detached {
            request.detach = None;
        }
        let mut command = connection.exec(request).await.unwrap();
        command.next_output().await.unwrap();
        command.ask_for_sign();
        let heard = timeout(Duration::from_secs(10), command.next_event()).await;
        assert!(matches!(heard, Ok(Some(Event::Heard))), "{heard:?}");
        proxy.freeze();
        command.ask_for_sign();
        let broken = timeout(Duration::from_secs(10), command.next_event()).await;
        match broken.unwrap() {
            Some(Event::Interrupted { .. }) => assert!(is_detached),
            None => assert!(!is_detached),
            other => panic!("{other:?}"),
        }
    }
}
